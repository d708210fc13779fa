// Print messages as proto JSON: each line of the input is the name of a message and its bytes in base64.
import { createInterface } from "node:readline";
import { createRegistry, fromBinary, toJsonString } from "@bufbuild/protobuf";
import { file_skilder_keys_v1_activity_service } from "./gen/skilder/keys/v1/activity_service_pb.js";
import { file_skilder_keys_v1_audit_service } from "./gen/skilder/keys/v1/audit_service_pb.js";
import { file_skilder_keys_v1_authorization_service } from "./gen/skilder/keys/v1/authorization_service_pb.js";
import { file_skilder_keys_v1_catalog_service } from "./gen/skilder/keys/v1/catalog_service_pb.js";
import { file_skilder_keys_v1_key_service } from "./gen/skilder/keys/v1/key_service_pb.js";
import { file_skilder_keys_v1_runtime_service } from "./gen/skilder/keys/v1/runtime_service_pb.js";

const messages = createRegistry(
  file_skilder_keys_v1_activity_service,
  file_skilder_keys_v1_audit_service,
  file_skilder_keys_v1_authorization_service,
  file_skilder_keys_v1_catalog_service,
  file_skilder_keys_v1_key_service,
  file_skilder_keys_v1_runtime_service,
);
for await (const line of createInterface({ input: process.stdin })) {
  const [name, body] = line.split(" ") as [string, string];
  const schema = messages.getMessage(name);
  if (schema === undefined) {
    throw new Error(`there is no message ${name}`);
  }
  console.log(toJsonString(schema, fromBinary(schema, Buffer.from(body, "base64"))));
}
