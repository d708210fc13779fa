// Retry throttling of gRPC (proposal A6): a client whose calls fail stops sending them again, until calls succeed.

/** Says whether a call may be sent again. */
export class Throttle {
  readonly #most: number;
  readonly #ratio: number;
  #tokens: number;

  constructor({ maxTokens, tokenRatio }: { readonly maxTokens: number; readonly tokenRatio: number }) {
    this.#most = maxTokens;
    this.#ratio = tokenRatio;
    this.#tokens = maxTokens;
  }

  /** Count a call that succeeded. */
  succeeded(): void {
    this.#tokens = Math.min(this.#most, this.#tokens + this.#ratio);
  }

  /** Count an attempt that failed, and return whether it may be repeated. */
  failed(): boolean {
    this.#tokens = Math.max(0, this.#tokens - 1);
    return this.#tokens > this.#most / 2;
  }
}
