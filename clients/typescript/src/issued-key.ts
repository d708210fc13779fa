// A new key and its token.
import type { Key } from "./gen/skilder/keys/v1/key_pb.js";

/** A key that was just issued, with its token, which can be read here and never again. Printed, it does not show the token. */
export class IssuedKey {
  /** The key. */
  readonly key: Key;
  /** The key that it follows, if it was rotated. */
  readonly predecessor: Key | undefined;
  readonly #token: string;

  constructor(key: Key, token: string, predecessor?: Key) {
    this.key = key;
    this.#token = token;
    this.predecessor = predecessor;
  }

  /** The token. Give it to its holder, and do not keep it. */
  get token(): string {
    return this.#token;
  }
}
