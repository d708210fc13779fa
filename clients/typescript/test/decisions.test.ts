// How queries are made and responses are read: what was not clearly granted is denied.
import assert from "node:assert/strict";
import { test } from "node:test";
import { type MessageInitShape, create } from "@bufbuild/protobuf";
import { type Query, Client, ToolSetView } from "../src/index.js";
import { decisionOf, requestOf, unsendable } from "../src/decision.js";
import { joined } from "../src/tool-sets.js";
import { AuthorizeResponseSchema, type DenialReason, type GrantedSchema, ReadToolSetResponseSchema, ToolSetSchema } from "../src/v1.js";

const KEY = { id: "k" };

function kindOf(query: Query, value: MessageInitShape<typeof GrantedSchema>): string {
  const response = create(AuthorizeResponseSchema, { verdict: { case: "granted", value } });
  return decisionOf(requestOf("t", query), response).kind;
}

const TOOL = { case: "tool", value: { tool: { id: "slack.post", name: "post", mcpServer: "slack" } } } as const;
const SET = { case: "toolSet", value: { version: "v" } } as const;
const VERSION = { case: "toolSetVersion", value: "v" } as const;

test("only what was asked for is granted", () => {
  const cases: [Query, MessageInitShape<typeof GrantedSchema>["reach"], string][] = [
    [{ toolId: "slack.post" }, TOOL, "granted"],
    [{ toolId: "slack.read" }, TOOL, "denied"],
    [{ toolId: "slack.post" }, SET, "denied"],
    [{ toolId: "slack.post" }, VERSION, "denied"],
    [{ toolId: "slack.post" }, undefined, "denied"],
    [{ toolId: "slack.post" }, { case: "tool", value: {} }, "denied"],
    [{ tool: { mcpServer: "slack", name: "post" } }, TOOL, "granted"],
    [{ tool: { mcpServer: "git", name: "post" } }, TOOL, "denied"],
    [{ tool: { mcpServer: "slack", name: "read" } }, TOOL, "denied"],
    [{ tool: { mcpServer: "slack", name: "post" } }, { case: "tool", value: {} }, "denied"],
    [{}, SET, "granted"],
    [{}, VERSION, "granted"],
    [{}, { case: "toolSetVersion", value: "" }, "denied"],
    [{}, TOOL, "denied"],
    [{}, undefined, "denied"],
    [{ mcpServer: "slack" }, SET, "granted"],
    [{ mcpServer: "slack" }, TOOL, "denied"],
    [{ view: ToolSetView.NONE }, undefined, "granted"],
    [{ view: ToolSetView.NONE }, SET, "denied"],
  ];
  for (const [query, reach, kind] of cases) {
    assert.equal(kindOf(query, { key: KEY, ...(reach && { reach }) }), kind, JSON.stringify([query, reach]));
  }
  assert.equal(kindOf({ toolId: "slack.post" }, { reach: TOOL }), "denied", "without a key");
  assert.equal(decisionOf(requestOf("t", {}), create(AuthorizeResponseSchema)).kind, "denied", "without a verdict");
});

test("a lookup that found nothing does not become a question about everything", () => {
  for (const query of [{ toolId: undefined }, { toolId: null }, { mcpServer: undefined }, { tool: undefined }]) {
    assert.throws(() => requestOf("t", query as unknown as Query), TypeError);
  }
  assert.throws(() => requestOf("t", { toolId: "a", mcpServer: "b" }), TypeError);
  assert.deepEqual(requestOf("t", { toolId: "" }).scope, { case: "toolId", value: "" });
});

test("an unknown reason is a denial that keeps its number", () => {
  const response = create(AuthorizeResponseSchema, { verdict: { case: "denied", value: { reason: 77 as DenialReason, message: "New." } } });
  assert.deepEqual(decisionOf(requestOf("t", {}), response), { kind: "denied", reason: "", number: 77, message: "New.", keyId: "" });
});

test("what cannot be sent is denied as malformed, and nothing else is", () => {
  for (const token of ["x".repeat(64 * 1024 + 1), "\ud800", "a\udc00b"]) {
    assert.equal(unsendable(token)?.reason, "MALFORMED");
  }
  for (const token of ["", "x".repeat(64 * 1024), "😀", "é"]) {
    assert.equal(unsendable(token), undefined);
  }
  assert.throws(() => unsendable(undefined as unknown as string), TypeError);
});

test("the parts of a tool set are joined", async () => {
  async function* parts(...all: MessageInitShape<typeof ReadToolSetResponseSchema>["part"][]) {
    for (const part of all) {
      yield create(ReadToolSetResponseSchema, part === undefined ? {} : { part });
    }
  }
  const part = (version: string, id: string) => ({ case: "toolSet", value: create(ToolSetSchema, { version, tools: [{ id }] }) }) as const;
  const read = await joined(parts(part("v", "a"), part("v", "b")));
  assert.deepEqual(read.kind === "granted" && read.toolSet.tools.map(({ id }) => id), ["a", "b"]);
  await assert.rejects(joined(parts(part("v", "a"), part("w", "b"))), { code: "INTERNAL" });
  assert.equal((await joined(parts())).kind, "denied");
  assert.equal((await joined(parts(undefined))).kind, "denied");
  assert.equal((await joined(parts(part("v", "a"), { case: "denied", value: { reason: 3 } }))).kind, "denied");
});

test("options that contradict each other are refused", () => {
  const wrong: [string, object][] = [
    ["keys.example.com", {}],
    ["https://keys.example.com:443", {}],
    ["keys.example.com:99999", {}],
    ["user@keys.example.com:443", {}],
    ["keys.example.com:443", { token: "a", tokenFile: "b" }],
    ["keys.example.com:443", { plaintext: true, tls: {} }],
    ["keys.example.com:443", { tls: { cert: "a" } }],
    ["keys.example.com:443", { timeoutMs: 0 }],
    ["keys.example.com:443", { plaintxt: true }],
  ];
  for (const [target, options] of wrong) {
    assert.throws(() => new Client(target, options), TypeError, `${target} ${JSON.stringify(options)}`);
  }
  for (const target of ["keys.example.com:443", "127.0.0.1:50051", "[::1]:50051"]) {
    new Client(target).close();
  }
});
