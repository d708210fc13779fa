"""The gRPC face of the use cases: protobuf <-> domain, and nothing that is a rule of the business."""
