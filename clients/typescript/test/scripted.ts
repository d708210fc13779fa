// A service of gRPC whose answers a test writes: a function for each attempt, the last one for all further ones.
import { once } from "node:events";
import * as http2 from "node:http2";
import type { AddressInfo } from "node:net";
import { type DescMessage, type MessageInitShape, create, toBinary } from "@bufbuild/protobuf";
import { Client } from "../src/index.js";

/** What a test does with a call. */
export type Answer = (stream: http2.ServerHttp2Stream, session: http2.ServerHttp2Session) => void;

const HEADERS = { ":status": 200, "content-type": "application/grpc+proto" };

/** Send a message and OK. */
export function message<S extends DescMessage>(schema: S, init: MessageInitShape<S>): Answer {
  return (stream) => {
    const body = toBinary(schema, create(schema, init));
    const prefix = Buffer.alloc(5);
    prefix.writeUInt32BE(body.length, 1);
    stream.respond(HEADERS, { waitForTrailers: true });
    stream.on("wantTrailers", () => stream.sendTrailers({ "grpc-status": "0" }));
    stream.end(Buffer.concat([prefix, body]));
  };
}

/** Send a status alone. */
export function status(code: number, text = "", more: http2.OutgoingHttpHeaders = {}): Answer {
  return (stream) => stream.respond({ ...HEADERS, "grpc-status": String(code), "grpc-message": text, ...more }, { endStream: true });
}

/** What a test has: the client, and what the service saw of each attempt. */
export interface Scripted extends AsyncDisposable {
  readonly client: Client;
  readonly target: string;
  readonly attempts: http2.IncomingHttpHeaders[];
  readonly sessions: () => number;
}

/** Start a service, and make a client of it. */
export async function scripted(answers: readonly Answer[], token = "caller"): Promise<Scripted> {
  const server = http2.createServer();
  const attempts: http2.IncomingHttpHeaders[] = [];
  const open = new Set<http2.ServerHttp2Session>();
  let sessions = 0;
  server.on("session", (session) => {
    sessions++;
    open.add(session);
    session.on("error", () => {});
    session.on("close", () => open.delete(session));
  });
  server.on("stream", (stream, headers) => {
    stream.on("error", () => {});
    attempts.push(headers);
    stream.resume().once("end", () => {
      const session = stream.session as http2.ServerHttp2Session | undefined;
      if (session !== undefined) {
        answers[Math.min(attempts.length, answers.length) - 1]!(stream, session);
      }
    });
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const target = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  const client = new Client(target, { plaintext: true, token });
  return {
    client,
    target,
    attempts,
    sessions: () => sessions,
    async [Symbol.asyncDispose]() {
      client.close();
      open.forEach((session) => session.destroy());
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
