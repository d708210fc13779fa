// Use the API as a program in TypeScript does, and print what it sees: calls HOST:PORT CALLER-TOKEN-FILE
import { readFileSync } from "node:fs";
import { create, fromBinary, toJsonString } from "@bufbuild/protobuf";
import { Code, ConnectError, createClient, type Client, type Interceptor } from "@connectrpc/connect";
import { createGrpcTransport } from "@connectrpc/connect-node";
import { ErrorInfoSchema } from "./gen/google/rpc/error_details_pb.js";
import {
  AuthorizationService,
  AuthorizeRequestSchema,
  DenialReason,
  DeniedSchema,
  type AuthorizeRequest,
} from "./gen/skilder/keys/v1/authorization_service_pb.js";
import { AuditService, type FollowEventsRequest } from "./gen/skilder/keys/v1/audit_service_pb.js";
import { CatalogService } from "./gen/skilder/keys/v1/catalog_service_pb.js";
import { ErrorReason } from "./gen/skilder/keys/v1/errors_pb.js";
import { KeyState, KeyType } from "./gen/skilder/keys/v1/key_pb.js";
import { IssueKeyResponseSchema, KeyService } from "./gen/skilder/keys/v1/key_service_pb.js";
import { HatAudience } from "./gen/skilder/keys/v1/workspace_pb.js";

const [address, tokenFile] = process.argv.slice(2) as [string, string];
const caller = readFileSync(tokenFile, "utf8").trim();
const authenticate: Interceptor = (next) => (request) => {
  request.header.set("authorization", `Bearer ${caller}`);
  return next(request);
};
const transport = createGrpcTransport({
  baseUrl: `http://${address}`,
  interceptors: [authenticate],
  defaultTimeoutMs: 60_000,
});
const catalog = createClient(CatalogService, transport);
const keys = createClient(KeyService, transport);
const audit = createClient(AuditService, transport);
const authorization = createClient(AuthorizationService, transport);

const applied = await catalog.applyWorkspace({
  workspace: {
    id: "acme",
    name: "Acme",
    hats: [{ id: "support", name: "Support", skillIds: ["slack"], audience: HatAudience.WORKSPACE }],
    skills: [{ id: "slack", name: "Slack", toolIds: ["slack.history", "slack.post"] }],
    tools: [
      { id: "slack.history", name: "history", mcpServer: "slack" },
      { id: "slack.post", name: "post", mcpServer: "slack" },
      { id: "git.push", name: "push", mcpServer: "git" },
    ],
  },
  expectedVersion: "0",
});
// The compiler checks that a number of 64 bits is a string here, which JSON can hold.
const version: string = applied.version;
print("applied", version, applied.changes.length);
JSON.stringify(applied);

const issued = await keys.issueKey({
  type: KeyType.WORKSPACE,
  workspaceId: "acme",
  description: "Slack Support Bot",
  hatLimit: { hatIds: ["support"] },
});
print("issued", KeyType[issued.key?.type ?? 0], issued.token.length);

const page = await keys.listKeys({ workspaceId: "acme", filter: { states: [KeyState.ACTIVE] } });
print("listed", page.keys.length, KeyState[page.keys[0]?.state ?? 0]);

const token = issued.token;
print(await ask(authorization, create(AuthorizeRequestSchema, { token })));
for (const toolId of ["slack.post", "git.push", ""]) {
  const scope = { case: "toolId" as const, value: toolId };
  print(await ask(authorization, create(AuthorizeRequestSchema, { token, scope })));
}

let tools = 0;
for await (const part of authorization.readToolSet({ request: { token } })) {
  tools += part.part.case === "toolSet" ? part.part.value.tools.length : 0;
}
print("read", tools);

// Each response has the cursor with which another call goes on.
const first = await follow({ case: "afterNumber", value: "0" });
await keys.suspendKey({ keyId: issued.key?.id ?? "" });
await follow({ case: "cursor", value: first });

// A newer server may send a value that this program does not know.
const newer = fromBinary(DeniedSchema, Uint8Array.of(8, 77));
print("unknown", newer.reason, DenialReason[newer.reason]);
print("printed", toJsonString(IssueKeyResponseSchema, issued));

/** Return the decision, or why there is none. */
async function ask(service: Client<typeof AuthorizationService>, request: AuthorizeRequest): Promise<string> {
  try {
    const { verdict } = await service.authorize(request);
    if (verdict.case === "denied") {
      return `denied ${DenialReason[verdict.value.reason]}`;
    }
    const reach = verdict.value?.reach;
    switch (reach?.case) {
      case "toolSet":
        return `granted tool_set ${reach.value.tools.length}`;
      case "tool":
        return `granted tool ${reach.value.tool?.name}`;
      default:
        return "not granted";
    }
  } catch (error) {
    return `refused ${ErrorReason[reason(error)]}`;
  }
}

/** Follow events until the first response, print how many it has, and return its cursor. */
async function follow(start: FollowEventsRequest["start"]): Promise<string> {
  const stop = new AbortController();
  let cursor = "";
  try {
    // A call that follows has no time limit. It ends when the loop has seen the abort: after `break` it would go on.
    const options = { signal: stop.signal, timeoutMs: 0 };
    for await (const response of audit.followEvents({ workspaceId: "acme", start }, options)) {
      print("followed", response.events.length);
      cursor = response.cursor;
      stop.abort();
    }
  } catch (error) {
    if (ConnectError.from(error).code !== Code.Canceled) {
      throw error;
    }
  }
  return cursor;
}

/** Return the constant for the reason of a failed call. */
function reason(error: unknown): ErrorReason {
  const [info] = ConnectError.from(error).findDetails(ErrorInfoSchema);
  return ErrorReason[info?.reason as keyof typeof ErrorReason] ?? ErrorReason.UNSPECIFIED;
}

function print(...words: unknown[]): void {
  console.log(words.join(" "));
}
