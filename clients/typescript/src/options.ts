// How a client reaches the service.
import { isIP } from "node:net";
import type { SecureClientSessionOptions } from "node:http2";
import type { Interceptor } from "@connectrpc/connect";

/** Certificates, as PEM. */
export interface TlsOptions {
  /** The certificates that the service's own may come from; by default those of Node.js. */
  readonly ca?: string | Buffer;
  /** The client certificate, for mTLS. */
  readonly cert?: string | Buffer;
  /** The key of the client certificate. */
  readonly key?: string | Buffer;
  /** The name that the service's certificate has, if it is not the host of the target. */
  readonly serverName?: string;
}

/** Options of a client. */
export interface ClientOptions {
  /** The token of the caller: yours, not that of an agent. */
  readonly token?: string;
  /** A file with the token of the caller. It is read again when it changes. */
  readonly tokenFile?: string;
  /** Certificates. */
  readonly tls?: TlsOptions;
  /** Use no TLS. Without this, TLS is used. */
  readonly plaintext?: boolean;
  /** The time of a call, in milliseconds, where it names none; by default as docs/service-config.json says for the method. */
  readonly timeoutMs?: number;
  /** Interceptors of Connect, for tracing and metrics. They see a call once, however often it is sent. */
  readonly interceptors?: readonly Interceptor[];
}

const KNOWN: ReadonlySet<string> = new Set(["token", "tokenFile", "tls", "plaintext", "timeoutMs", "interceptors"]);

/** Throw a TypeError if the options contradict each other, or one is misspelled. */
export function checkOptions(options: ClientOptions): void {
  for (const name of Object.keys(options)) {
    if (!KNOWN.has(name)) {
      throw new TypeError(`there is no option ${name}`);
    }
  }
  const { token, tokenFile, tls, plaintext, timeoutMs } = options;
  if (token !== undefined && tokenFile !== undefined) {
    throw new TypeError("give token or tokenFile, not both");
  }
  if (plaintext && tls) {
    throw new TypeError("give tls or plaintext, not both");
  }
  if ((tls?.cert === undefined) !== (tls?.key === undefined)) {
    throw new TypeError("a client certificate needs tls.cert and tls.key");
  }
  if (timeoutMs !== undefined) {
    checkTimeout(timeoutMs);
  }
}

/** Throw a TypeError if a time is not one that a call may take. */
export function checkTimeout(timeoutMs: number): void {
  if (!(timeoutMs > 0 && timeoutMs <= 0x7fffffff)) {
    throw new TypeError(`timeoutMs must be more than 0 and at most ${0x7fffffff}, not ${timeoutMs}`);
  }
}

/** Return the URL for a target, HOST:PORT. */
export function urlOf(target: string, plaintext: boolean): string {
  const [, host, port] = /^(\[[0-9a-fA-F:.%]+\]|[^\s:/?#@[\]]+):(\d{1,5})$/.exec(target) ?? [];
  if (host === undefined || Number(port) > 65_535) {
    throw new TypeError(`a target is HOST:PORT, such as keys.example.com:443, not ${JSON.stringify(target)}`);
  }
  return `${plaintext ? "http" : "https"}://${host}:${port}`;
}

/** Return the options of Node.js for a session. */
export function sessionOptions({ tls }: ClientOptions, url: string): SecureClientSessionOptions {
  const name = tls?.serverName ?? new URL(url).hostname.replace(/^\[|\]$/g, "");
  return {
    ...(tls?.ca === undefined ? {} : { ca: tls.ca }),
    ...(tls?.cert === undefined ? {} : { cert: tls.cert }),
    ...(tls?.key === undefined ? {} : { key: tls.key }),
    // An address must not be sent as a server name. Node.js checks the certificate by the host of the URL then.
    ...(isIP(name) ? {} : { servername: name }),
  };
}
