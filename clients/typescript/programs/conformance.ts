// The driver of the conformance cases: reads a call as JSON from each line of the input, and prints its result.
import { createInterface } from "node:readline";
import { fromJson, type JsonObject } from "@bufbuild/protobuf";
import { Client, type Decision, type Query, ServiceError, type TokenQuery, ToolSetView } from "../src/index.js";
import {
  ApplyWorkspaceRequestSchema,
  CountKeysRequestSchema,
  GetKeyRequestSchema,
  GetWorkspaceRequestSchema,
  IssueKeyRequestSchema,
  ListKeysRequestSchema,
  RevokeKeyRequestSchema,
  RotateKeyRequestSchema,
  UpdateKeyRequestSchema,
} from "../src/v1.js";

interface Request {
  readonly id: string;
  readonly target: string;
  readonly caller_token: string | null;
  readonly timeout_ms: number | null;
  readonly method: string;
  readonly args: JsonObject;
}

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line) as Request;
  console.log(JSON.stringify({ id: request.id, ...(await result(request)) }));
}

async function result({ target, caller_token, timeout_ms, method, args }: Request): Promise<object> {
  const client = new Client(target, {
    plaintext: true,
    ...(caller_token === null ? {} : { token: caller_token }),
    ...(timeout_ms === null ? {} : { timeoutMs: timeout_ms }),
  });
  try {
    return await call(client, method, args);
  } catch (error) {
    if (!(error instanceof ServiceError)) {
      throw error;
    }
    const { code, reason, isOutage, retryAfterMs } = error;
    return { error: { code, reason, outage: isOutage, retryAfterMs: retryAfterMs ?? null } };
  } finally {
    client.close();
  }
}

async function call(client: Client, method: string, args: JsonObject): Promise<object> {
  switch (method) {
    case "authorize":
      return shown(await client.authorize(args["token"] as string, queryOf(args)));
    case "batch_authorize": {
      const queries = (args["queries"] ?? args["requests"]) as JsonObject[];
      const decisions = await client.batchAuthorize(queries.map((each): TokenQuery => ({ token: each["token"] as string, ...queryOf(each) })));
      return { value: { decisions: decisions.map(shown) } };
    }
    case "read_tool_set": {
      const read = await client.readToolSet(args["token"] as string, queryOf(args));
      return read.kind === "denied" ? shown(read) : { value: toolsOf(read.toolSet) };
    }
    case "list_keys": {
      const keyIds: string[] = [];
      for await (const { id } of client.listKeys(plain(fromJson(ListKeysRequestSchema, args)))) {
        keyIds.push(id);
      }
      return { value: { keyIds } };
    }
    case "issue_key": {
      const { key, token } = await client.issueKey(plain(fromJson(IssueKeyRequestSchema, args)));
      return { value: { keyId: key.id, tokenLength: token.length } };
    }
    case "rotate_key": {
      const { key, token } = await client.rotateKey(plain(fromJson(RotateKeyRequestSchema, args)));
      return { value: { keyId: key.id, tokenLength: token.length } };
    }
    case "get_key":
      return { value: { keyId: (await client.getKey(plain(fromJson(GetKeyRequestSchema, args)))).id } };
    case "update_key":
      return { value: { keyId: (await client.updateKey(plain(fromJson(UpdateKeyRequestSchema, args)))).id } };
    case "revoke_key":
      return { value: { keyId: (await client.revokeKey(plain(fromJson(RevokeKeyRequestSchema, args)))).key?.id } };
    case "count_keys":
      return { value: { counts: (await client.countKeys(plain(fromJson(CountKeysRequestSchema, args)))).counts.length } };
    case "apply_workspace":
      return { value: { version: (await client.applyWorkspace(plain(fromJson(ApplyWorkspaceRequestSchema, args)))).version } };
    case "get_workspace":
      return { value: { version: (await client.getWorkspace(plain(fromJson(GetWorkspaceRequestSchema, args)))).version } };
    default:
      throw new Error(`there is no method ${method}`);
  }
}

function queryOf({ toolId, tool, toolName, mcpServer, sourceIp, toolSetVersion, view }: JsonObject): Query {
  const name = (toolName ?? tool) as { mcpServer?: string; server?: string; name: string } | undefined;
  return {
    ...(toolId === undefined ? {} : { toolId: toolId as string }),
    ...(name === undefined ? {} : { tool: { mcpServer: name.mcpServer ?? name.server ?? "", name: name.name } }),
    ...(mcpServer === undefined ? {} : { mcpServer: mcpServer as string }),
    ...(sourceIp === undefined ? {} : { sourceIp: sourceIp as string }),
    ...(toolSetVersion === undefined ? {} : { toolSetVersion: toolSetVersion as string }),
    ...(view === undefined ? {} : { view: ToolSetView[String(view).replace("TOOL_SET_VIEW_", "") as keyof typeof ToolSetView] }),
  };
}

/** Return a message as the plain object that the client takes. */
function plain<T extends { $typeName: string }>({ $typeName, ...fields }: T): Omit<T, "$typeName"> {
  return fields;
}

function shown(decision: Decision): object {
  if (decision.kind === "denied") {
    const { reason, number, message, keyId } = decision;
    return { denied: { reason, number, message, keyId } };
  }
  const { key, tool, toolSet, toolSetVersion } = decision;
  return {
    granted: {
      keyId: key.id,
      workspaceId: key.workspaceId,
      userId: key.userId,
      description: key.description,
      ...(tool?.tool === undefined ? {} : { toolId: tool.tool.id }),
      ...(toolSet === undefined ? {} : { toolIds: toolSet.tools.map(({ id }) => id).sort() }),
      toolSetVersion,
    },
  };
}

function toolsOf({ version, tools }: { version: string; tools: { id: string }[] }): object {
  return { toolSetVersion: version, toolIds: tools.map(({ id }) => id).sort() };
}

