// A guard for Express.
import type { Client } from "./client.js";
import { type GuardOptions, checkGuard, decide, keepGrant, rawValues } from "./guard.js";

export { type GuardOptions, grantOf } from "./guard.js";

/** What the guard uses of a request of Express. */
export interface ExpressRequest {
  readonly rawHeaders: readonly string[];
  readonly ip?: string | undefined;
}

/** What the guard uses of a response of Express. */
export interface ExpressResponse {
  status(code: number): this;
  set(headers: Record<string, string>): this;
  json(body: unknown): unknown;
}

/** A middleware of Express. */
export type ExpressGuard<Request> = (request: Request, response: ExpressResponse, next: (error?: unknown) => void) => Promise<void>;

/**
 * Return a middleware that lets a request through only if its API key reaches what the options ask about.
 * A handler gets the decision with `grantOf(request)`.
 *
 * Behind a proxy, set Express's `trust proxy`: the address of the agent is `request.ip`.
 */
export function guard(client: Pick<Client, "authorize">, options?: GuardOptions<ExpressRequest>): ExpressGuard<ExpressRequest>;
export function guard<Request extends ExpressRequest>(client: Pick<Client, "authorize">, options: GuardOptions<Request>): ExpressGuard<Request>;
export function guard<Request extends ExpressRequest>(client: Pick<Client, "authorize">, options: GuardOptions<Request> = {}): ExpressGuard<Request> {
  checkGuard(options);
  return async (request, response, next) => {
    const outcome = await decide(client, options, request, rawValues(request.rawHeaders), request.ip);
    if ("granted" in outcome) {
      keepGrant(request, outcome.granted);
      next();
      return;
    }
    const { status, headers, body } = outcome.refusal;
    response.status(status).set({ ...headers, "cache-control": "no-store" }).json(body);
  };
}
