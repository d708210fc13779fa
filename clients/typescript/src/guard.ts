// What the guards of all frameworks share: where the agent's token is, and what each outcome means in HTTP.
import type { Client } from "./client.js";
import type { Decision, Denied, Granted, Query } from "./decision.js";
import { ServiceError } from "./errors.js";
import { ToolSetView } from "./gen/skilder/keys/v1/authorization_service_pb.js";

/** What a guard asks about a request. Each part is a value, or a function of the request. */
export interface GuardOptions<Request> {
  /** The id of the tool that the request uses. */
  readonly toolId?: string | ((request: Request) => string);
  /** The tool that the request uses, by its name on its MCP server. */
  readonly tool?: ToolName | ((request: Request) => ToolName);
  /** The MCP server whose tools the request may use. */
  readonly mcpServer?: string | ((request: Request) => string);
  /** How much of the tool set to ask for, if not about a tool. Without an MCP server too, it is the key alone by default. */
  readonly view?: Query["view"];
  /** The address of the agent; by default the one that the framework has for the request. */
  readonly sourceIp?: (request: Request) => string | undefined;
  /** The time that the decision may take, in milliseconds. */
  readonly timeoutMs?: number;
}

const KNOWN: ReadonlySet<string> = new Set(["toolId", "tool", "mcpServer", "view", "sourceIp", "timeoutMs"]);

/** Throw a TypeError for options that would let more through than they say: a misspelled one, or one without a value. */
export function checkGuard(options: object): void {
  for (const [name, value] of Object.entries(options)) {
    if (!KNOWN.has(name)) {
      throw new TypeError(`there is no option ${name}`);
    }
    if (value === undefined || value === null || value === "") {
      throw new TypeError(`${name} has no value`);
    }
  }
}

type ToolName = NonNullable<Query["tool"]>;

/** Why a request does not go on. */
export interface Refusal {
  readonly status: 401 | 403 | 500 | 503;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: { readonly error: string; readonly reason: string; readonly message: string };
}

/** What becomes of a request. */
export type Outcome = { readonly granted: Granted } | { readonly refusal: Refusal };

/** Decide about a request: with a header's values, and the query of the guard. */
export async function decide<Request>(
  client: Pick<Client, "authorize">,
  options: GuardOptions<Request>,
  request: Request,
  values: (header: string) => readonly string[],
  peer: string | undefined,
): Promise<Outcome> {
  const token = presented(values);
  if (token === undefined) {
    return { refusal: noToken() };
  }
  let decision: Decision;
  try {
    decision = await client.authorize(token, queryOf(options, request, peer));
  } catch (error) {
    return { refusal: failed(error) };
  }
  return decision.kind === "granted" ? { granted: decision } : { refusal: denied(decision) };
}

/** Return the values of a header, given all headers as Node.js keeps them: names and values in turn. */
export function rawValues(rawHeaders: readonly string[]): (header: string) => string[] {
  return (header) => rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]?.toLowerCase() === header);
}

/** Return the token if it is in exactly one place, and there once. Another reader may take another one of two. */
function presented(values: (header: string) => readonly string[]): string | undefined {
  const authorization = values("authorization");
  const apiKey = values("x-api-key");
  if (authorization.length + apiKey.length !== 1) {
    return undefined;
  }
  const [value = ""] = apiKey.length === 1 ? apiKey : authorization.map((each) => /^bearer +(.*)$/i.exec(each)?.[1] ?? "");
  // Several values may have been joined with a comma, which no token has.
  return /^[^\s,]+$/.test(value.trim()) ? value.trim() : undefined;
}

function queryOf<Request>(options: GuardOptions<Request>, request: Request, peer: string | undefined): Query & { timeoutMs?: number } {
  const { toolId, tool, mcpServer, timeoutMs } = options;
  const scoped = "toolId" in options || "tool" in options || "mcpServer" in options;
  // A guard that asks about nothing in particular needs no tool set, only the key.
  const view = options.view ?? (scoped ? undefined : ToolSetView.NONE);
  const sourceIp = (options.sourceIp === undefined ? peer : options.sourceIp(request))?.replace(/%.*$/, "");
  return {
    ...("toolId" in options ? { toolId: typeof toolId === "function" ? toolId(request) : toolId! } : {}),
    ...("tool" in options ? { tool: typeof tool === "function" ? tool(request) : tool! } : {}),
    ...("mcpServer" in options ? { mcpServer: typeof mcpServer === "function" ? mcpServer(request) : mcpServer! } : {}),
    ...(view === undefined ? {} : { view }),
    ...(sourceIp === undefined ? {} : { sourceIp }),
    ...(timeoutMs === undefined ? {} : { timeoutMs }),
  };
}

/** Whether the key is good, but not for this. */
export function isForbidden({ reason }: Denied): boolean {
  return reason === "TOOL_NOT_ALLOWED" || reason === "SOURCE_NOT_ALLOWED";
}

function noToken(): Refusal {
  const message = "Send one API key, as `Authorization: Bearer KEY` or as `x-api-key`.";
  return { status: 401, headers: { "www-authenticate": "Bearer" }, body: { error: "invalid_token", reason: "", message } };
}

function denied(denial: Denied): Refusal {
  const forbidden = isForbidden(denial);
  const error = forbidden ? "insufficient_scope" : "invalid_token";
  return {
    status: forbidden ? 403 : 401,
    headers: { "www-authenticate": `Bearer error="${error}"` },
    body: { error, reason: denial.reason, message: denial.message },
  };
}

/** An error is never a denial: the agent's key may be good. What went wrong is not the agent's business. */
function failed(thrown: unknown): Refusal {
  const error = thrown instanceof ServiceError ? thrown : undefined;
  if (error?.isOutage || error?.code === "CANCELLED") {
    const seconds = Math.max(1, Math.ceil((error.retryAfterMs ?? 1000) / 1000));
    const body = { error: "unavailable", reason: error.reason, message: "API keys cannot be checked now. Try again." };
    return { status: 503, headers: { "retry-after": String(seconds) }, body };
  }
  const body = { error: "internal", reason: error?.reason ?? "", message: "API keys cannot be checked here." };
  return { status: 500, headers: {}, body };
}

const grants = new WeakMap<object, Granted>();

/** Keep the grant of a request for its handlers. */
export function keepGrant(request: object, granted: Granted): void {
  grants.set(request, granted);
}

/** Return the grant of a request that a guard let through. Throw if there is none: no guard has run. */
export function grantOf(request: object): Granted {
  const granted = grants.get(request);
  if (granted === undefined) {
    throw new Error("no guard has let this request through");
  }
  return granted;
}
