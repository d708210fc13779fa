// What the service decides about a token, and how its response is read: what was not clearly granted is denied.
import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  type AuthorizeRequest,
  AuthorizeRequestSchema,
  type AuthorizeResponse,
  type Denied as DeniedMessage,
  DenialReason,
  type Granted as GrantedMessage,
  type KeyIdentity,
  type ToolGrant,
  type ToolSet,
  ToolSetView,
} from "./gen/skilder/keys/v1/authorization_service_pb.js";

/** The longest request, in bytes. A longer token cannot be one, and is not sent. */
const LONGEST_TOKEN = 64 * 1024;

/** What to ask about a token. At most one of `toolId`, `tool` and `mcpServer`; none for everything that the key reaches. */
export interface Query {
  /** One tool, by its id. */
  readonly toolId?: string;
  /** One tool, by its name on its MCP server. */
  readonly tool?: { readonly mcpServer: string; readonly name: string };
  /** The tools of one MCP server. */
  readonly mcpServer?: string;
  /** The version of the tool set that you hold, from a query with the same `mcpServer` and `view`. */
  readonly toolSetVersion?: string;
  /** How much of the tool set to send; `ToolSetView.NONE` for the key alone. */
  readonly view?: ToolSetView;
  /** The address from which the token was presented to you. A key with a network limit is denied without it. */
  readonly sourceIp?: string;
}

/** A valid token that reaches what was asked. */
export interface Granted {
  readonly kind: "granted";
  /** The key of the token. */
  readonly key: KeyIdentity;
  /** The tool that was asked about, and how the key reaches it. */
  readonly tool?: ToolGrant;
  /** What the key reaches. Unset if you hold it already, by `toolSetVersion`, or it has no room: then use `readToolSet`. */
  readonly toolSet?: ToolSet;
  /** The version of the tool set that the key reaches. Empty if the query asked for the key alone. */
  readonly toolSetVersion: string;
}

/** The name of a reason why a token is denied. */
export type DenialReasonName = Exclude<keyof typeof DenialReason, "UNSPECIFIED">;

/** A token that is not valid, or does not reach what was asked. */
export interface Denied {
  readonly kind: "denied";
  /** Why. Empty for a reason that this client does not know, and if the response was not clear. It is a denial all the same. */
  readonly reason: DenialReasonName | "";
  /** The number of the reason, which a newer client knows; 0 if the response was not clear. */
  readonly number: number;
  /** Why, as a sentence for people. */
  readonly message: string;
  /** The key's id. Empty if the token proved no key. */
  readonly keyId: string;
}

/** A decision about a token. */
export type Decision = Granted | Denied;

/** Return the request for a query. */
export function requestOf(token: string, query: Query): AuthorizeRequest {
  const scopes = (["toolId", "tool", "mcpServer"] as const).filter((each) => each in query);
  if (scopes.length > 1) {
    throw new TypeError(`ask about one of ${scopes.join(", ")}`);
  }
  const [scope] = scopes;
  // A lookup that found nothing must not become a question about everything.
  if (scope !== undefined && (query[scope] === undefined || query[scope] === null)) {
    throw new TypeError(`${scope} is ${query[scope]}: leave it out to ask about everything that the key reaches`);
  }
  const { toolId, tool, mcpServer, toolSetVersion, view, sourceIp } = query;
  const init: MessageInitShape<typeof AuthorizeRequestSchema> = { token };
  if (toolId !== undefined) {
    init.scope = { case: "toolId", value: toolId };
  } else if (tool !== undefined) {
    init.scope = { case: "toolName", value: { mcpServer: tool.mcpServer, name: tool.name } };
  } else if (mcpServer !== undefined) {
    init.scope = { case: "mcpServer", value: mcpServer };
  }
  return create(AuthorizeRequestSchema, {
    ...init,
    ...(toolSetVersion === undefined ? {} : { toolSetVersion }),
    ...(view === undefined ? {} : { view }),
    ...(sourceIp === undefined ? {} : { sourceIp }),
  });
}

/** Return the denial of a token that cannot be put in a message, or undefined for one that can. */
export function unsendable(token: string): Denied | undefined {
  if (typeof token !== "string") {
    throw new TypeError("a token is a string");
  }
  // A string with half a surrogate pair is not UTF-8 that could be sent.
  if (Buffer.byteLength(token) <= LONGEST_TOKEN && !/\p{Surrogate}/u.test(token)) {
    return undefined;
  }
  const message = "This is not a token: its length, characters, prefix or checksum are wrong.";
  return { kind: "denied", reason: "MALFORMED", number: DenialReason.MALFORMED, message, keyId: "" };
}

/** Return the decision that a response has for a request. */
export function decisionOf(request: AuthorizeRequest, response: AuthorizeResponse): Decision {
  const { verdict } = response;
  switch (verdict.case) {
    case "granted":
      return grantedOf(request, verdict.value);
    case "denied":
      return deniedOf(verdict.value);
    default:
      return unclear();
  }
}

/** Return the denial that a message has. */
export function deniedOf({ reason, message, keyId }: DeniedMessage): Denied {
  const name = DenialReason[reason] as keyof typeof DenialReason | undefined;
  return { kind: "denied", reason: name === undefined || name === "UNSPECIFIED" ? "" : name, number: reason, message, keyId };
}

/** Return the denial for a response that does not clearly grant what was asked. */
export function unclear(): Denied {
  return { kind: "denied", reason: "", number: 0, message: "The response does not grant what was asked.", keyId: "" };
}

function grantedOf({ scope, view }: AuthorizeRequest, { key, reach }: GrantedMessage): Decision {
  if (key === undefined) {
    return unclear();
  }
  if (scope.case === "toolId" || scope.case === "toolName") {
    const tool = reach.case === "tool" ? reach.value.tool : undefined;
    const same =
      scope.case === "toolId"
        ? tool?.id === scope.value
        : tool?.name === scope.value.name && tool.mcpServer === scope.value.mcpServer;
    return reach.case === "tool" && same
      ? { kind: "granted", key, tool: reach.value, toolSetVersion: reach.value.toolSetVersion }
      : unclear();
  }
  if (view === ToolSetView.NONE) {
    return reach.case === undefined ? { kind: "granted", key, toolSetVersion: "" } : unclear();
  }
  switch (reach.case) {
    case "toolSet":
      return { kind: "granted", key, toolSet: reach.value, toolSetVersion: reach.value.version };
    case "toolSetVersion":
      return reach.value === "" ? unclear() : { kind: "granted", key, toolSetVersion: reach.value };
    default:
      return unclear();
  }
}
