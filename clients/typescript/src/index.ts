// The client of Skilder Keys.
export { type CallOptions, Client, type TokenQuery } from "./client.js";
export type { Decision, DenialReasonName, Denied, Granted, Query } from "./decision.js";
export { type FieldViolation, ServiceError, type StatusCode } from "./errors.js";
export { type KeyIdentity, type ToolGrant, type ToolSet, ToolSetView } from "./gen/skilder/keys/v1/authorization_service_pb.js";
export { ErrorReason } from "./gen/skilder/keys/v1/errors_pb.js";
export { type Key, KeyState, KeyType } from "./gen/skilder/keys/v1/key_pb.js";
export { IssuedKey } from "./issued-key.js";
export type { ClientOptions, TlsOptions } from "./options.js";
export type { ReadToolSet } from "./tool-sets.js";
