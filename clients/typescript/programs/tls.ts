// Calls over TLS, right and wrong ones, for a test: HOST:PORT, and files with PEM: an authority, a certificate, its key.
import { readFileSync } from "node:fs";
import { Client, ServiceError, type TlsOptions } from "../src/index.js";

const [target, ...files] = process.argv.slice(2) as [string, string, string, string];
const [ca, cert, key] = files.map((path) => readFileSync(path)) as [Buffer, Buffer, Buffer];

console.log("certificate", await result({ ca, cert, key }));
console.log("no certificate", await result({ ca }));
console.log("unknown authority", await result({ cert, key }));
console.log("another name", await result({ ca, cert, key, serverName: "elsewhere.example" }));
console.log("plaintext", await result(undefined));

async function result(tls: TlsOptions | undefined): Promise<string> {
  const client = new Client(target, tls === undefined ? { plaintext: true } : { tls });
  try {
    const decision = await client.authorize("not-a-token");
    return decision.kind === "denied" ? `denied ${decision.reason}` : decision.kind;
  } catch (error) {
    return error instanceof ServiceError ? error.code : String(error);
  } finally {
    client.close();
  }
}
