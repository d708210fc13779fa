// The token of the caller. It leaves this file in a header of a call, and in no other way.
import { readFileSync, statSync } from "node:fs";
import type { Interceptor } from "@connectrpc/connect";

const CHECK_EVERY_MS = 1000;

/** A token, or a file that has it and is read again when it changes. */
export type TokenSource = { readonly token: string } | { readonly tokenFile: string };

/** Return an interceptor that sends the caller's token with each call. */
export function bearer(source: TokenSource): Interceptor {
  const read = "token" in source ? constant(source.token) : watched(source.tokenFile);
  return (next) => (request) => {
    request.header.set("authorization", `Bearer ${read()}`);
    return next(request);
  };
}

function constant(token: string): () => string {
  const value = checked(token, "token");
  return () => value;
}

function watched(path: string): () => string {
  let stamp = stampOf(path);
  let token = checked(readFileSync(path, "utf8").trim(), "the content of tokenFile");
  let checkedAt = performance.now();
  return () => {
    if (performance.now() - checkedAt >= CHECK_EVERY_MS) {
      checkedAt = performance.now();
      try {
        const current = stampOf(path);
        if (current !== stamp) {
          token = checked(readFileSync(path, "utf8").trim(), "the content of tokenFile");
          stamp = current;
        }
      } catch {
        // The file is being replaced, or is gone. The service decides whether the last token is still good.
      }
    }
    return token;
  };
}

function stampOf(path: string): string {
  const { mtimeMs, size, ino } = statSync(path);
  return `${mtimeMs} ${size} ${ino}`;
}

function checked(token: string, what: string): string {
  // The message must not show the value.
  if (!/^[\x21-\x7e]{1,4096}$/.test(token)) {
    throw new TypeError(`${what} is not a bearer token: it must have 1 to 4,096 visible ASCII characters`);
  }
  return token;
}
