// The guards, in servers of Express, Fastify and Connect.
import assert from "node:assert/strict";
import * as http from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { createClient, createRouterTransport } from "@connectrpc/connect";
import express from "express";
import fastify from "fastify";
import { guard as connectGuard, grantKey } from "../src/connect.js";
import { type Decision, type Query, ServiceError } from "../src/index.js";
import { guard as expressGuard, grantOf as expressGrant } from "../src/express.js";
import { guard as fastifyGuard, grantOf as fastifyGrant } from "../src/fastify.js";
import { type GuardOptions, checkGuard } from "../src/guard.js";
import { KeyService } from "../src/v1.js";

const GRANTED = { kind: "granted", key: { id: "k" }, toolSetVersion: "v" } as Decision;
const OUTCOMES: Record<string, () => Decision> = {
  good: () => GRANTED,
  revoked: () => ({ kind: "denied", reason: "REVOKED", number: 3, message: "The key was revoked.", keyId: "k" }),
  strange: () => ({ kind: "denied", reason: "", number: 77, message: "New.", keyId: "k" }),
  narrow: () => ({ kind: "denied", reason: "TOOL_NOT_ALLOWED", number: 6, message: "Not this tool.", keyId: "k" }),
  elsewhere: () => ({ kind: "denied", reason: "SOURCE_NOT_ALLOWED", number: 9, message: "Not from there.", keyId: "k" }),
  outage: () => {
    throw new ServiceError("UNAVAILABLE", "away", { reason: "BUSY", retryAfterMs: 2500 });
  },
  caller: () => {
    throw new ServiceError("UNAUTHENTICATED", "unknown caller");
  },
  bug: () => {
    throw new Error("bug");
  },
};

class FakeClient {
  queries: Query[] = [];
  async authorize(token: string, query: Query = {}): Promise<Decision> {
    this.queries.push(query);
    return OUTCOMES[token]!();
  }
}

type Headers = [string, string][];
const bearer = (token: string): Headers => [["Authorization", `Bearer ${token}`]];

/** The headers of a request, and the status, error and WWW-Authenticate of its response. */
const CASES: [Headers, number, string?, (string | undefined)?][] = [
  [bearer("good"), 200],
  [[["authorization", "bearer  good"]], 200],
  [[["X-Api-Key", "good"]], 200],
  [[], 401, "invalid_token", "Bearer"],
  [[["Authorization", "Basic good"]], 401, "invalid_token", "Bearer"],
  [[["Authorization", "good"]], 401, "invalid_token", "Bearer"],
  [[["X-Api-Key", ""]], 401, "invalid_token", "Bearer"],
  [[...bearer("good"), ...bearer("good")], 401, "invalid_token", "Bearer"],
  [[...bearer("good"), ["X-Api-Key", "good"]], 401, "invalid_token", "Bearer"],
  [[["X-Api-Key", "good"], ["X-Api-Key", "revoked"]], 401, "invalid_token", "Bearer"],
  [[["X-Api-Key", "good, revoked"]], 401, "invalid_token", "Bearer"],
  [bearer("revoked"), 401, "invalid_token", 'Bearer error="invalid_token"'],
  [bearer("strange"), 401, "invalid_token", 'Bearer error="invalid_token"'],
  [bearer("narrow"), 403, "insufficient_scope", 'Bearer error="insufficient_scope"'],
  [bearer("elsewhere"), 403, "insufficient_scope", 'Bearer error="insufficient_scope"'],
  [bearer("outage"), 503, "unavailable", undefined],
  [bearer("caller"), 500, "internal", undefined],
  [bearer("bug"), 500, "internal", undefined],
];

async function get(port: number, headers: Headers): Promise<http.IncomingMessage & { text: string }> {
  const request = http.get({ port, path: "/tools/slack.post?key=good", headers: ["Host", "localhost", ...headers.flat()], agent: false });
  const response = await new Promise<http.IncomingMessage>((resolve, reject) => request.on("response", resolve).on("error", reject));
  const chunks: Buffer[] = [];
  for await (const chunk of response) {
    chunks.push(chunk as Buffer);
  }
  return Object.assign(response, { text: Buffer.concat(chunks).toString() });
}

async function check(port: number, client: FakeClient): Promise<void> {
  for (const [headers, status, error, challenge] of CASES) {
    const response = await get(port, headers);
    const what = JSON.stringify(headers);
    assert.equal(response.statusCode, status, what);
    assert.equal(response.headers["www-authenticate"], challenge, what);
    const body = JSON.parse(response.text) as Record<string, string>;
    assert.equal(body["error"], error, what);
    assert.equal(body["key"], status === 200 ? "k" : undefined, what);
    assert.equal(response.headers["retry-after"], status === 503 ? "3" : undefined, what);
  }
  assert.deepEqual(client.queries[0], { toolId: "slack.post", sourceIp: "127.0.0.1" });
}

test("Express", async (context) => {
  const client = new FakeClient();
  const app = express();
  app.get("/tools/:tool", expressGuard(client, { toolId: (request: express.Request<{ tool: string }>) => request.params.tool }), (request, response) => {
    response.json({ key: expressGrant(request).key.id });
  });
  const server = app.listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  context.after(() => server.close());
  await check((server.address() as AddressInfo).port, client);
});

test("Fastify", async (context) => {
  const client = new FakeClient();
  const app = fastify();
  app.get<{ Params: { tool: string } }>(
    "/tools/:tool",
    { onRequest: fastifyGuard(client, { toolId: (request: fastify.FastifyRequest) => (request.params as { tool: string }).tool }) },
    async (request) => ({ key: fastifyGrant(request).key.id }),
  );
  context.after(() => app.close());
  await app.listen({ port: 0, host: "127.0.0.1" });
  await check((app.server.address() as AddressInfo).port, client);
  const injected = await app.inject({ url: "/tools/slack.post", headers: { "x-api-key": "good" } });
  assert.equal(injected.statusCode, 200);
});

test("Connect", async () => {
  const client = new FakeClient();
  const codes: [string, string][] = [
    ["good", ""],
    ["revoked", "unauthenticated"],
    ["narrow", "permission_denied"],
    ["outage", "unavailable"],
    ["caller", "internal"],
  ];
  const transport = createRouterTransport(
    ({ service }) => service(KeyService, { getKey: (_, context) => ({ key: { id: context.values.get(grantKey)?.key.id ?? "" } }) }),
    { router: { interceptors: [connectGuard(client, { toolId: "slack.post" })] } },
  );
  const keys = createClient(KeyService, transport);
  for (const [token, code] of codes) {
    const call = keys.getKey({}, { headers: { authorization: `Bearer ${token}` } });
    const result = await call.then(({ key }) => key?.id, (error: Error) => /^\[(\w+)\]/.exec(error.message)?.[1]);
    assert.equal(result, code || "k");
  }
  await assert.rejects(keys.getKey({}), /unauthenticated/);
  await assert.rejects(keys.getKey({}, { headers: [["x-api-key", "good"], ["x-api-key", "good"]] }), /unauthenticated/);
});

test("a guard that asks about nothing in particular asks for the key alone, and one that asks wrongly is refused", async () => {
  const client = new FakeClient();
  const app = fastify();
  app.get("/", { onRequest: fastifyGuard(client) }, async () => ({}));
  app.get("/tool", { preHandler: fastifyGuard(client, { toolId: "slack.post" }) }, async () => ({}));
  express().use(expressGuard(client), expressGuard(client, { mcpServer: "slack" }));
  assert.equal((await app.inject({ url: "/", headers: { "x-api-key": "good" } })).statusCode, 200);
  assert.deepEqual(client.queries, [{ view: 1, sourceIp: "127.0.0.1" }]);
  for (const options of [{ toolID: "a" }, { toolId: "" }, { toolId: undefined }, { mcpServer: undefined }]) {
    assert.throws(() => checkGuard(options as GuardOptions<unknown>), TypeError);
  }
  assert.throws(() => expressGrant({}), /no guard/);
});
