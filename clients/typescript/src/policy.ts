// What a gRPC service config says about a method: its deadline, and how it is sent again.
import { Code, type Interceptor } from "@connectrpc/connect";

/** A request as an interceptor sees it. */
export type AnyRequest = Parameters<ReturnType<Interceptor>>[0];

/** A gRPC service config, as far as this client uses it. Durations are as in proto JSON: "0.05s". */
export interface ServiceConfig {
  readonly methodConfig: readonly {
    readonly name: readonly { readonly service: string; readonly method: string }[];
    readonly timeout: string;
    readonly retryPolicy?: {
      readonly maxAttempts: number;
      readonly initialBackoff: string;
      readonly maxBackoff: string;
      readonly backoffMultiplier: number;
      readonly retryableStatusCodes: readonly string[];
    };
  }[];
  readonly retryThrottling: { readonly maxTokens: number; readonly tokenRatio: number };
}

/** How a method is sent again. Times are in milliseconds. */
export interface RetryPolicy {
  readonly maxAttempts: number;
  readonly initialBackoffMs: number;
  readonly maxBackoffMs: number;
  readonly backoffMultiplier: number;
  readonly codes: ReadonlySet<Code>;
}

/** What holds for a method. */
export interface MethodPolicy {
  readonly timeoutMs: number;
  readonly retry: RetryPolicy | undefined;
}

/** The policies of all methods. */
export class Policies {
  readonly #methods = new Map<string, MethodPolicy>();

  constructor(config: ServiceConfig) {
    for (const { name, timeout, retryPolicy } of config.methodConfig) {
      const retry = retryPolicy && {
        maxAttempts: retryPolicy.maxAttempts,
        initialBackoffMs: milliseconds(retryPolicy.initialBackoff),
        maxBackoffMs: milliseconds(retryPolicy.maxBackoff),
        backoffMultiplier: retryPolicy.backoffMultiplier,
        codes: new Set(retryPolicy.retryableStatusCodes.map(code)),
      };
      for (const { service, method } of name) {
        this.#methods.set(`${service}/${method}`, { timeoutMs: milliseconds(timeout), retry });
      }
    }
  }

  /** Return the policy of a method, or undefined if the config does not name it. */
  of(method: { readonly parent: { readonly typeName: string }; readonly name: string }): MethodPolicy | undefined {
    return this.#methods.get(`${method.parent.typeName}/${method.name}`);
  }
}

function milliseconds(duration: string): number {
  return Math.round(Number(duration.replace(/s$/, "")) * 1000);
}

/** Return the code with a name like DEADLINE_EXCEEDED. */
function code(name: string): Code {
  const words = name.split("_").map((word) => word.slice(0, 1) + word.slice(1).toLowerCase());
  const found = Code[words.join("") as keyof typeof Code];
  if (found === undefined) {
    throw new Error(`there is no status code ${name}`);
  }
  return found;
}
