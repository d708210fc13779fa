// The messages, enums and services of the contract, for calls that Client has no method for.
export * from "./gen/skilder/keys/v1/activity_service_pb.js";
export * from "./gen/skilder/keys/v1/audit_service_pb.js";
export * from "./gen/skilder/keys/v1/authorization_service_pb.js";
export * from "./gen/skilder/keys/v1/catalog_service_pb.js";
export * from "./gen/skilder/keys/v1/common_pb.js";
export * from "./gen/skilder/keys/v1/errors_pb.js";
export * from "./gen/skilder/keys/v1/key_pb.js";
export * from "./gen/skilder/keys/v1/key_service_pb.js";
export * from "./gen/skilder/keys/v1/runtime_service_pb.js";
export * from "./gen/skilder/keys/v1/workspace_pb.js";
