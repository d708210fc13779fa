// What all calls of a client share: the connection, the caller's credentials, deadlines and retries.
import type { Interceptor, Transport } from "@connectrpc/connect";
import { Http2SessionManager, createGrpcTransport } from "@connectrpc/connect-node";
import { Connection } from "./connection.js";
import { bearer } from "./credentials.js";
import { type ClientOptions, checkOptions, checkTimeout, sessionOptions, urlOf } from "./options.js";
import { Policies } from "./policy.js";
import { retries } from "./retry.js";
import { serviceConfig } from "./service-config.js";
import { Throttle } from "./throttle.js";

/** The largest response: a whole workspace. */
const READ_MAX_BYTES = 16 * 2 ** 20;
/** A ping this often finds a dead connection while a call waits. The service disconnects clients that ping every 10 s. */
const PING_INTERVAL_MS = 30_000;
const PING_TIMEOUT_MS = 10_000;
/** The service ends an idle connection after a minute. Ending it a little earlier keeps a call from meeting its end. */
const IDLE_CONNECTION_TIMEOUT_MS = 55_000;

/** A transport and how to close it. */
export interface Channel {
  readonly transport: Transport;
  close(): void;
}

/** Open a channel. It connects with its first call. */
export function openChannel(target: string, options: ClientOptions): Channel {
  checkOptions(options);
  const { token, tokenFile, plaintext = false, timeoutMs, interceptors = [] } = options;
  const baseUrl = urlOf(target, plaintext);
  const manager = new Http2SessionManager(
    baseUrl,
    { pingIntervalMs: PING_INTERVAL_MS, pingTimeoutMs: PING_TIMEOUT_MS, idleConnectionTimeoutMs: IDLE_CONNECTION_TIMEOUT_MS },
    plaintext ? undefined : sessionOptions(options, baseUrl),
  );
  const connection = new Connection(manager);
  const policies = new Policies(serviceConfig);
  const credentials: Interceptor[] = [];
  if (token !== undefined) {
    credentials.push(bearer({ token }));
  } else if (tokenFile !== undefined) {
    credentials.push(bearer({ tokenFile }));
  }
  const inner = createGrpcTransport({
    baseUrl,
    sessionManager: connection,
    readMaxBytes: READ_MAX_BYTES,
    // The credentials come after the retries, so that each try reads them, and after the user's, which do not see them.
    interceptors: [...interceptors, retries(policies, new Throttle(serviceConfig.retryThrottling), connection), ...credentials],
  });
  return { transport: withDeadlines(inner, policies, timeoutMs), close: () => connection.close() };
}

/** Give each call that names no time the one of the client or, without it, of its method. 0 is none, for streams that last. */
function withDeadlines(inner: Transport, policies: Policies, clientsMs: number | undefined): Transport {
  const timeOf = (method: Parameters<Policies["of"]>[0], timeoutMs: number | undefined): number | undefined => {
    if (timeoutMs !== undefined && timeoutMs !== 0) {
      checkTimeout(timeoutMs);
    }
    const time = timeoutMs ?? clientsMs ?? policies.of(method)?.timeoutMs;
    // The header has whole milliseconds.
    return time === undefined ? undefined : Math.ceil(time);
  };
  return {
    unary: (method, signal, timeoutMs, ...rest) => inner.unary(method, signal, timeOf(method, timeoutMs), ...rest),
    stream: (method, signal, timeoutMs, ...rest) => inner.stream(method, signal, timeOf(method, timeoutMs), ...rest),
  };
}
