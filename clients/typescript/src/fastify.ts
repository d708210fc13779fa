// A guard for Fastify.
import type { Client } from "./client.js";
import { type GuardOptions, checkGuard, decide, keepGrant, rawValues } from "./guard.js";

export { type GuardOptions, grantOf } from "./guard.js";

/** What the guard uses of a request of Fastify. */
export interface FastifyRequestLike {
  readonly raw: { readonly rawHeaders: readonly string[] };
  readonly ip: string;
}

/** What the guard uses of a reply of Fastify. */
export interface FastifyReplyLike {
  code(status: number): unknown;
  headers(values: Record<string, string>): unknown;
  send(body: unknown): unknown;
}

/** A hook of Fastify. */
export type FastifyGuard<Request> = (request: Request, reply: FastifyReplyLike) => Promise<unknown>;

/**
 * Return a hook, for `onRequest` or `preHandler`, that lets a request through only if its API key reaches what the
 * options ask about. A handler gets the decision with `grantOf(request)`.
 *
 * Behind a proxy, set Fastify's `trustProxy`: the address of the agent is `request.ip`.
 */
export function guard(client: Pick<Client, "authorize">, options?: GuardOptions<FastifyRequestLike>): FastifyGuard<FastifyRequestLike>;
export function guard<Request extends FastifyRequestLike>(client: Pick<Client, "authorize">, options: GuardOptions<Request>): FastifyGuard<Request>;
export function guard<Request extends FastifyRequestLike>(client: Pick<Client, "authorize">, options: GuardOptions<Request> = {}): FastifyGuard<Request> {
  checkGuard(options);
  return async (request, reply) => {
    const outcome = await decide(client, options, request, rawValues(request.raw.rawHeaders), request.ip);
    if ("granted" in outcome) {
      keepGrant(request, outcome.granted);
      return undefined;
    }
    const { status, headers, body } = outcome.refusal;
    reply.code(status);
    reply.headers({ ...headers, "cache-control": "no-store" });
    reply.send(body);
    return reply;
  };
}
