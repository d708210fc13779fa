// A call that failed. It says nothing about the token: a denial is a decision, never an error.
import { Code, ConnectError } from "@connectrpc/connect";
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from "./gen/google/rpc/error_details_pb.js";

const DOMAIN = "keys.skilder";
/** No service asks for a longer wait, so one is taken for a mistake. */
const LONGEST_WAIT_MS = 3_600_000;

/** The name of a gRPC status code. */
export type StatusCode =
  | "CANCELLED"
  | "UNKNOWN"
  | "INVALID_ARGUMENT"
  | "DEADLINE_EXCEEDED"
  | "NOT_FOUND"
  | "ALREADY_EXISTS"
  | "PERMISSION_DENIED"
  | "RESOURCE_EXHAUSTED"
  | "FAILED_PRECONDITION"
  | "ABORTED"
  | "OUT_OF_RANGE"
  | "UNIMPLEMENTED"
  | "INTERNAL"
  | "UNAVAILABLE"
  | "DATA_LOSS"
  | "UNAUTHENTICATED";

const NAMES: Readonly<Record<Code, StatusCode>> = {
  [Code.Canceled]: "CANCELLED",
  [Code.Unknown]: "UNKNOWN",
  [Code.InvalidArgument]: "INVALID_ARGUMENT",
  [Code.DeadlineExceeded]: "DEADLINE_EXCEEDED",
  [Code.NotFound]: "NOT_FOUND",
  [Code.AlreadyExists]: "ALREADY_EXISTS",
  [Code.PermissionDenied]: "PERMISSION_DENIED",
  [Code.ResourceExhausted]: "RESOURCE_EXHAUSTED",
  [Code.FailedPrecondition]: "FAILED_PRECONDITION",
  [Code.Aborted]: "ABORTED",
  [Code.OutOfRange]: "OUT_OF_RANGE",
  [Code.Unimplemented]: "UNIMPLEMENTED",
  [Code.Internal]: "INTERNAL",
  [Code.Unavailable]: "UNAVAILABLE",
  [Code.DataLoss]: "DATA_LOSS",
  [Code.Unauthenticated]: "UNAUTHENTICATED",
};

/** The caller's own fault, or its own wish. Every other code means that the service could not decide. */
const OWN_FAULTS: ReadonlySet<StatusCode> = new Set<StatusCode>([
  "CANCELLED",
  "INVALID_ARGUMENT",
  "NOT_FOUND",
  "ALREADY_EXISTS",
  "PERMISSION_DENIED",
  "FAILED_PRECONDITION",
  "ABORTED",
  "OUT_OF_RANGE",
  "UNAUTHENTICATED",
]);

/** A field of the request that the service rejected. */
export interface FieldViolation {
  readonly field: string;
  readonly description: string;
}

/** A call that failed. */
export class ServiceError extends Error {
  override readonly name = "ServiceError";
  /** The gRPC status code. */
  readonly code: StatusCode;
  /** The name of an ErrorReason, such as BUSY. Empty if the service did not send the error. Newer services have more. */
  readonly reason: string;
  /** What the reason says more, such as `key_id`. */
  readonly metadata: Readonly<Record<string, string>>;
  /** How long to wait before another try, if the service said so. */
  readonly retryAfterMs: number | undefined;
  /** The fields at fault, with the reason INVALID_REQUEST. */
  readonly violations: readonly FieldViolation[];

  constructor(code: StatusCode, message: string, details: Partial<Pick<ServiceError, "reason" | "metadata" | "retryAfterMs" | "violations" | "cause">> = {}) {
    super(message, "cause" in details ? { cause: details.cause } : undefined);
    this.code = code;
    this.reason = details.reason ?? "";
    this.metadata = details.metadata ?? {};
    this.retryAfterMs = details.retryAfterMs;
    this.violations = details.violations ?? [];
  }

  /** Whether the service could not do its work. If so, a token is neither good nor bad: do not say that it is bad. */
  get isOutage(): boolean {
    return !OWN_FAULTS.has(this.code);
  }

  /** Return the error for what a stub of Connect threw. */
  static from(thrown: unknown): ServiceError {
    if (thrown instanceof ServiceError) {
      return thrown;
    }
    const error = ConnectError.from(thrown);
    const info = error.findDetails(ErrorInfoSchema).find(({ domain }) => domain === DOMAIN);
    const delay = error.findDetails(RetryInfoSchema)[0]?.retryDelay;
    const wait = delay === undefined ? 0 : Math.ceil(Number(delay.seconds) * 1000 + delay.nanos / 1e6);
    // A status has a number that a newer library may not know.
    return new ServiceError(NAMES[error.code] ?? "UNKNOWN", error.rawMessage, {
      reason: info?.reason ?? "",
      metadata: { ...info?.metadata },
      retryAfterMs: wait > 0 && wait <= LONGEST_WAIT_MS ? wait : undefined,
      violations: error.findDetails(BadRequestSchema).flatMap(({ fieldViolations }) =>
        fieldViolations.map(({ field, description }) => ({ field, description })),
      ),
      cause: error,
    });
  }
}
