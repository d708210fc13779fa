// A guard for servers that are built with Connect.
import { Code, ConnectError, type ContextKey, type Interceptor, createContextKey } from "@connectrpc/connect";
import type { Client } from "./client.js";
import type { Granted } from "./decision.js";
import { type GuardOptions, type Refusal, checkGuard, decide } from "./guard.js";
import type { AnyRequest } from "./policy.js";

export type { GuardOptions } from "./guard.js";

/** The decision about a call, in its context values: `context.values.get(grantKey)`. */
export const grantKey: ContextKey<Granted | undefined> = createContextKey<Granted | undefined>(undefined, {
  description: "the grant of Skilder Keys",
});

const CODES: Readonly<Record<Refusal["status"], Code>> = {
  401: Code.Unauthenticated,
  403: Code.PermissionDenied,
  500: Code.Internal,
  503: Code.Unavailable,
};

/**
 * Return an interceptor for a server that lets a call through only if its API key reaches what the options ask about.
 * The agent's address is not known here: give `sourceIp` for keys with a network limit.
 */
export function guard(client: Pick<Client, "authorize">, options: GuardOptions<AnyRequest> = {}): Interceptor {
  checkGuard(options);
  return (next) => async (request) => {
    const values = (header: string): string[] => {
      const value = request.header.get(header);
      return value === null ? [] : [value];
    };
    const outcome = await decide(client, options, request, values, undefined);
    if ("refusal" in outcome) {
      const { status, headers, body } = outcome.refusal;
      throw new ConnectError(body.message, CODES[status], { ...headers });
    }
    request.contextValues.set(grantKey, outcome.granted);
    return next(request);
  };
}
