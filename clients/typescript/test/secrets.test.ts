// Tokens are in calls, and nowhere else.
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { inspect } from "node:util";
import { Client, IssuedKey, ServiceError } from "../src/index.js";
import { AuthorizeResponseSchema, IssueKeyResponseSchema } from "../src/v1.js";
import { message, scripted, status } from "./scripted.js";

const AGENT = "WSK_agentsecret";
const CALLER = "callersecret";

function shown(value: unknown): string {
  const options = { depth: Number.POSITIVE_INFINITY, showHidden: true, getters: false };
  const error = value instanceof Error ? [value.stack, value.message] : [];
  return [inspect(value, options), inspect(value), String(value), JSON.stringify(value), ...error].join("\n");
}

test("a client, an issued key and errors do not show tokens", async () => {
  const denied = message(AuthorizeResponseSchema, { verdict: { case: "denied", value: { reason: 3, message: "Revoked." } } });
  const issued = message(IssueKeyResponseSchema, { key: { id: "k" }, token: AGENT });
  await using service = await scripted([status(16, "no"), denied, issued], CALLER);
  const error = await service.client.authorize(AGENT).catch((thrown: unknown) => thrown);
  assert.ok(error instanceof ServiceError);
  const decision = await service.client.authorize(AGENT);
  const key = await service.client.issueKey({ workspaceId: "acme" });
  assert.ok(key instanceof IssuedKey);
  assert.equal(key.token, AGENT);
  for (const value of [service.client, error, decision, key, { key }]) {
    assert.doesNotMatch(shown(value), /agentsecret|callersecret/);
  }
});

test("a token that cannot be sent is not in the error", () => {
  for (const token of [`${CALLER} `, "", `${CALLER}\n`, "sécretsecret"]) {
    assert.throws(() => new Client("127.0.0.1:1", { plaintext: true, token }), (error: Error) => !/callersecret|sécretsecret/.test(shown(error)));
  }
});

test("a token file is read again when it changes, and the last token stays while it is away", async (context) => {
  const folder = mkdtempSync(join(tmpdir(), "keys-"));
  const tokenFile = join(folder, "token");
  context.after(() => rmSync(folder, { recursive: true }));
  writeFileSync(tokenFile, "first\n");
  let now = 0;
  context.mock.method(performance, "now", () => now);
  const { bearer } = await import("../src/credentials.js");
  const interceptor = bearer({ tokenFile });
  const sent = async (): Promise<string | null> => {
    now += 1000;
    const request = { header: new Headers() };
    await interceptor((async () => undefined) as never)(request as never);
    return request.header.get("authorization");
  };
  assert.equal(await sent(), "Bearer first");
  writeFileSync(tokenFile, "second one, not a token");
  assert.equal(await sent(), "Bearer first");
  writeFileSync(tokenFile, "second");
  assert.equal(await sent(), "Bearer second");
  rmSync(tokenFile);
  assert.equal(await sent(), "Bearer second");
  assert.throws(() => bearer({ tokenFile }), /ENOENT/);
});
