// Retries by the service config, which gRPC's own clients have built in and Connect has not.
import { setTimeout as pause } from "node:timers/promises";
import { Code, ConnectError, type Interceptor } from "@connectrpc/connect";
import { ATTEMPT_HEADER, type Attempt, type Connection } from "./connection.js";
import type { AnyRequest, Policies, RetryPolicy } from "./policy.js";
import type { Throttle } from "./throttle.js";

const PUSHBACK = "grpc-retry-pushback-ms";
const TIMEOUT = "grpc-timeout";

/**
 * Return an interceptor that sends calls again as gRPC's clients do (proposal A6): if the policy of the method allows the
 * status, the service has not begun its response, and the deadline leaves time. A call that the service refused to look
 * at is sent again once whatever the policy says, since it changed nothing.
 */
export function retries(policies: Policies, throttle: Throttle, connection: Connection): Interceptor {
  return (next) => async (request) => {
    const policy = policies.of(request.method)?.retry;
    const again = await repeatable(request);
    const deadline = deadlineOf(request);
    let refusals = 0;
    for (let tries = 1; ; tries++) {
      const { attempt, id, close } = connection.attempt();
      try {
        const response = await next(again({ attempt: id, deadline }));
        throttle.succeeded();
        return response.stream ? { ...response, message: watched(response.message, attempt, request.signal) } : response;
      } catch (thrown) {
        const error = statusOf(thrown, attempt, request.signal);
        if (request.signal.aborted) {
          throw error;
        }
        if (attempt.refused && refusals++ === 0) {
          tries--;
          continue;
        }
        const delay = delayOf(error, tries, policy, attempt, throttle);
        // With no time left for another try, this error says more than that the deadline has passed.
        if (delay === undefined || performance.now() + delay >= deadline) {
          throw error;
        }
        await pause(delay, undefined, { signal: request.signal }).catch(() => {
          throw ConnectError.from(request.signal.reason, Code.Canceled);
        });
      } finally {
        close();
      }
    }
  };
}

/** Return how long to wait before the next try, or undefined if there is none. */
function delayOf(error: ConnectError, tries: number, policy: RetryPolicy | undefined, attempt: Attempt, throttle: Throttle): number | undefined {
  if (policy === undefined || !policy.codes.has(error.code)) {
    return undefined;
  }
  const allowed = throttle.failed();
  if (!allowed || attempt.answered || tries >= policy.maxAttempts) {
    return undefined;
  }
  const pushback = error.metadata.get(PUSHBACK);
  if (pushback !== null) {
    return /^\d{1,9}$/.test(pushback) ? Number(pushback) : undefined;
  }
  const backoff = Math.min(policy.initialBackoffMs * policy.backoffMultiplier ** (tries - 1), policy.maxBackoffMs);
  return backoff * (0.8 + 0.4 * Math.random());
}

/**
 * Return the error with the status that gRPC gives it. Connect takes a lost connection for a cancelled, an aborted or a
 * failed call, by the way in which Node.js reports it.
 */
function statusOf(thrown: unknown, attempt: Attempt, signal: AbortSignal): ConnectError {
  const error = ConnectError.from(thrown);
  const sentByService = error.metadata.has("grpc-status");
  const lost = attempt.refused || attempt.disconnected || error.code === Code.Canceled;
  if (signal.aborted || sentByService || !lost) {
    return error;
  }
  return new ConnectError(`The connection failed: ${error.rawMessage}`, Code.Unavailable, error.metadata, undefined, error);
}

/** Return a function that makes the request anew for each attempt: a stream of messages can be read only once. */
async function repeatable(request: AnyRequest): Promise<(next: { attempt: string; deadline: number }) => AnyRequest> {
  const messages = request.stream ? await collected(request.message) : [];
  return ({ attempt, deadline }) => {
    const header = new Headers(request.header);
    header.set(ATTEMPT_HEADER, attempt);
    if (Number.isFinite(deadline)) {
      header.set(TIMEOUT, `${Math.max(1, Math.ceil(deadline - performance.now()))}m`);
    }
    return request.stream ? { ...request, header, message: replay(messages) } : { ...request, header };
  };
}

/** Give the messages of a response, and the error that ends them the status that gRPC gives it. */
async function* watched<T>(messages: AsyncIterable<T>, attempt: Attempt, signal: AbortSignal): AsyncGenerator<T> {
  try {
    yield* messages;
  } catch (thrown) {
    throw statusOf(thrown, attempt, signal);
  }
}

async function collected<T>(messages: AsyncIterable<T>): Promise<T[]> {
  const all: T[] = [];
  for await (const message of messages) {
    all.push(message);
  }
  return all;
}

async function* replay<T>(messages: readonly T[]): AsyncGenerator<T> {
  yield* messages;
}

/** Return when the time of a call is over, by the clock of `performance.now()`. */
function deadlineOf(request: AnyRequest): number {
  const timeout = /^(\d+)m$/.exec(request.header.get(TIMEOUT) ?? "")?.[1];
  return timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + Number(timeout);
}
