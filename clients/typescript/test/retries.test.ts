// Retries, deadlines and lost connections.
import assert from "node:assert/strict";
import * as http2 from "node:http2";
import { test } from "node:test";
import { create, toBinary } from "@bufbuild/protobuf";
import { AnySchema } from "@bufbuild/protobuf/wkt";
import { Client, ServiceError } from "../src/index.js";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { serviceConfig } from "../src/service-config.js";
import { Throttle } from "../src/throttle.js";
import { ApplyWorkspaceResponseSchema, AuthorizeResponseSchema, IssueKeyResponseSchema } from "../src/v1.js";
import { type Answer, message, scripted, status } from "./scripted.js";

const UNAVAILABLE = 14;
const GRANTED = message(AuthorizeResponseSchema, { verdict: { case: "granted", value: { key: { id: "k" } } } });
const ISSUED = message(IssueKeyResponseSchema, { key: { id: "k" }, token: "WSK_new" });
const APPLIED = message(ApplyWorkspaceResponseSchema, { version: "1" });
const REFUSED: Answer = (stream) => stream.close(http2.constants.NGHTTP2_REFUSED_STREAM);
const DROPPED: Answer = (_, session) => session.destroy();
const NONE = { view: 1 } as const;

async function failure(call: Promise<unknown>): Promise<ServiceError> {
  return call.then(
    () => assert.fail("the call did not fail"),
    (error: unknown) => (error instanceof ServiceError ? error : assert.fail(String(error))),
  );
}

test("an outage that ends is not seen by the caller", async () => {
  await using service = await scripted([status(UNAVAILABLE), status(UNAVAILABLE), GRANTED]);
  assert.equal((await service.client.authorize("t", NONE)).kind, "granted");
  assert.equal(service.attempts.length, 3);
});

test("an outage that lasts is an error after as many attempts as the service config allows", async () => {
  await using service = await scripted([status(UNAVAILABLE, "The%20service%20is%20away.")]);
  const error = await failure(service.client.authorize("t", NONE));
  assert.deepEqual([error.code, error.isOutage, error.message], ["UNAVAILABLE", true, "The service is away."]);
  assert.equal(service.attempts.length, serviceConfig.methodConfig[0]!.retryPolicy!.maxAttempts);
});

test("other statuses are not retried", async () => {
  for (const code of [3, 4, 8, 13, 16]) {
    await using service = await scripted([status(code), GRANTED]);
    await failure(service.client.authorize("t", NONE));
    assert.equal(service.attempts.length, 1, `code ${code}`);
  }
});

test("each attempt has less time than the one before, and the header of the client stays inside", async () => {
  await using service = await scripted([status(UNAVAILABLE), status(UNAVAILABLE), GRANTED]);
  await service.client.authorize("t", NONE);
  const times = service.attempts.map((each) => Number(/^(\d+)m$/.exec(String(each["grpc-timeout"]))?.[1]));
  assert.ok(times[0]! <= 2000 && times[0]! > 1500 && times[1]! < times[0]! && times[2]! < times[1]!, String(times));
  assert.ok(service.attempts.every((each) => each["x-skilder-attempt"] === undefined));
  assert.ok(service.attempts.every((each) => each.authorization === "Bearer caller"));
});

test("a pushback of the service is obeyed", async () => {
  await using service = await scripted([status(UNAVAILABLE, "", { "grpc-retry-pushback-ms": "-1" }), GRANTED]);
  await failure(service.client.authorize("t", NONE));
  assert.equal(service.attempts.length, 1);
});

test("a change that may have been made is not made again", async () => {
  await using changes = await scripted([status(UNAVAILABLE), APPLIED]);
  await failure(changes.client.applyWorkspace({ workspace: { id: "acme" } }));
  assert.equal(changes.attempts.length, 1);
  await using keys = await scripted([status(UNAVAILABLE), ISSUED]);
  await failure(keys.client.issueKey({ workspaceId: "acme" }));
  assert.equal(keys.attempts.length, 1);
});

test("a stream that the service refused is sent again, also for a change, but once only", async () => {
  await using service = await scripted([REFUSED, APPLIED]);
  assert.equal((await service.client.applyWorkspace({ workspace: { id: "acme" } })).version, "1");
  await using always = await scripted([REFUSED]);
  assert.equal((await failure(always.client.applyWorkspace({ workspace: { id: "acme" } }))).code, "UNAVAILABLE");
  assert.equal(always.attempts.length, 2);
});

test("GOAWAY ends no call, and the next one has a connection of its own", async () => {
  const leave: Answer = (stream, session) => {
    session.goaway();
    setImmediate(() => GRANTED(stream, session));
  };
  await using service = await scripted([leave, GRANTED]);
  assert.equal((await service.client.authorize("t", NONE)).kind, "granted");
  assert.equal((await service.client.authorize("t", NONE)).kind, "granted");
  assert.equal(service.sessions(), 2);
});

test("a call that GOAWAY leaves out is sent again on another connection", async () => {
  // Node.js cannot name the stream 0, so the first call is one that the connection does not leave out.
  const leftOut: Answer = (_, session) => session.goaway(http2.constants.NGHTTP2_NO_ERROR, 1);
  await using service = await scripted([GRANTED, leftOut, APPLIED]);
  await service.client.authorize("t", NONE);
  assert.equal((await service.client.applyWorkspace({ workspace: { id: "acme" } })).version, "1");
  assert.equal(service.sessions(), 2);
});

test("a lost connection is an outage, whatever Node.js calls it, and is retried where that is safe", async () => {
  await using service = await scripted([DROPPED, GRANTED]);
  assert.equal((await service.client.authorize("t", NONE)).kind, "granted");
  await using change = await scripted([DROPPED, APPLIED]);
  const error = await failure(change.client.applyWorkspace({ workspace: { id: "acme" } }));
  assert.deepEqual([error.code, change.attempts.length], ["UNAVAILABLE", 1]);
});

test("a response that breaks off is not asked for again", async () => {
  const half: Answer = (stream, session) => {
    stream.respond({ ":status": 200, "content-type": "application/grpc+proto" });
    stream.write(Buffer.from([0, 0, 0, 0, 9, 10]), () => session.destroy());
  };
  await using service = await scripted([half, GRANTED]);
  const error = await failure(service.client.authorize("t", NONE));
  assert.deepEqual([error.code, service.attempts.length], ["UNAVAILABLE", 1]);
});

test("nothing listens", async () => {
  const client = new Client("127.0.0.1:1", { plaintext: true });
  const error = await failure(client.authorize("t"));
  assert.deepEqual([error.code, error.isOutage, error.reason], ["UNAVAILABLE", true, ""]);
});

test("a deadline is an outage, and ends the call", async () => {
  const silent: Answer = () => {};
  await using service = await scripted([silent]);
  const error = await failure(service.client.authorize("t", { ...NONE, timeoutMs: 50 }));
  assert.deepEqual([error.code, error.isOutage], ["DEADLINE_EXCEEDED", true]);
});

test("an abort ends the call", async () => {
  const stop = new AbortController();
  const silent: Answer = () => stop.abort();
  await using service = await scripted([silent]);
  assert.equal((await failure(service.client.authorize("t", { ...NONE, signal: stop.signal }))).code, "CANCELLED");
  assert.equal(service.attempts.length, 1);
});

test("a client whose calls fail stops retrying, until calls succeed", () => {
  const throttle = new Throttle({ maxTokens: 4, tokenRatio: 0.5 });
  assert.deepEqual([throttle.failed(), throttle.failed(), throttle.failed()], [true, false, false]);
  for (let calls = 0; calls < 5; calls++) {
    throttle.succeeded();
  }
  assert.equal(throttle.failed(), true);
});

test("the reason, the wait and the fields of an error are read", async () => {
  const details = statusDetails([
    ["google.rpc.ErrorInfo", toBinary(ErrorInfoSchema, create(ErrorInfoSchema, { reason: "BUSY", domain: "keys.skilder", metadata: { a: "b" } }))],
    ["google.rpc.RetryInfo", toBinary(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: 1n, nanos: 500_000_000 } }))],
    ["google.rpc.BadRequest", toBinary(BadRequestSchema, create(BadRequestSchema, { fieldViolations: [{ field: "token", description: "long" }] }))],
  ]);
  await using service = await scripted([status(8, "Busy", { "grpc-status-details-bin": details })]);
  const error = await failure(service.client.authorize("t", NONE));
  assert.deepEqual(
    [error.code, error.reason, error.metadata, error.retryAfterMs, error.violations],
    ["RESOURCE_EXHAUSTED", "BUSY", { a: "b" }, 1500, [{ field: "token", description: "long" }]],
  );
});

test("a wait that no service asks for is none", async () => {
  for (const seconds of [-1n, 0n, 3601n, 315_576_000_000n]) {
    const details = statusDetails([["google.rpc.RetryInfo", toBinary(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds } }))]]);
    await using service = await scripted([status(8, "Busy", { "grpc-status-details-bin": details })]);
    assert.equal((await failure(service.client.authorize("t", NONE))).retryAfterMs, undefined, String(seconds));
  }
});

/** Return google.rpc.Status with details, as the trailer has it. Written by hand: the package has no such message. */
function statusDetails(all: [string, Uint8Array][]): string {
  const parts = all.map(([name, value]) => {
    const any = toBinary(AnySchema, create(AnySchema, { typeUrl: `type.googleapis.com/${name}`, value }));
    return Buffer.concat([Buffer.from([0x1a, any.length]), any]);
  });
  return Buffer.concat([Buffer.from([0x08, 8]), ...parts]).toString("base64");
}
