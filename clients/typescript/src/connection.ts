// The connection, and what becomes of each attempt on it, which Connect's errors do not say.
import type { ClientHttp2Stream, OutgoingHttpHeaders } from "node:http2";
import { constants } from "node:http2";
import type { Http2SessionManager } from "@connectrpc/connect-node";

/** The header that tells the connection which attempt a request is. It is never sent. */
export const ATTEMPT_HEADER = "x-skilder-attempt";

/** What Connect's transport needs of a connection. */
type SessionManager = Pick<Http2SessionManager, "authority" | "request" | "notifyResponseByteRead">;
type Session = NonNullable<ClientHttp2Stream["session"]>;

const END_STREAM = constants.NGHTTP2_FLAG_END_STREAM;

/** One sending of a request. */
export class Attempt {
  /** Whether the service began a response that has more than a status. Then the call is not sent again. */
  answered = false;
  #stream: ClientHttp2Stream | undefined;
  #session: Session | undefined;

  /** Whether the service said that it has not looked at the request, as it does when it ends a connection. */
  get refused(): boolean {
    return this.#stream?.rstCode === constants.NGHTTP2_REFUSED_STREAM;
  }

  /** Whether there was no connection, or it broke. */
  get disconnected(): boolean {
    return this.#session === undefined || this.#session.destroyed;
  }

  /** Watch the stream of this attempt. */
  watch(stream: ClientHttp2Stream): void {
    this.#stream = stream;
    // A stream forgets its session when it closes.
    this.#session = stream.session;
    stream.once("response", (_headers, flags) => {
      this.answered = (flags & END_STREAM) === 0;
    });
  }
}

/**
 * One connection at a time. A new one is made when a call needs it: after the service sent GOAWAY, while the calls under
 * way end on the old one, and after an error.
 */
export class Connection implements SessionManager {
  readonly authority: string;
  readonly #manager: Http2SessionManager;
  readonly #attempts = new Map<string, Attempt>();
  #last = 0;

  constructor(manager: Http2SessionManager) {
    this.#manager = manager;
    this.authority = manager.authority;
  }

  /** Return a new attempt and the value for its header. Close it when it is over. */
  attempt(): { attempt: Attempt; id: string; close: () => void } {
    const attempt = new Attempt();
    const id = String(++this.#last);
    this.#attempts.set(id, attempt);
    return { attempt, id, close: () => this.#attempts.delete(id) };
  }

  /** Send a request, for Connect's transport. */
  async request(
    method: string,
    path: string,
    headers: OutgoingHttpHeaders,
    options: Parameters<SessionManager["request"]>[3],
  ): Promise<ClientHttp2Stream> {
    const { [ATTEMPT_HEADER]: id, ...sent } = headers;
    const stream = await this.#manager.request(method, path, sent, options);
    this.#attempts.get(String(id))?.watch(stream);
    return stream;
  }

  notifyResponseByteRead(stream: ClientHttp2Stream): void {
    this.#manager.notifyResponseByteRead(stream);
  }

  /** Close the connection and end the calls on it. */
  close(): void {
    this.#manager.abort();
  }
}
