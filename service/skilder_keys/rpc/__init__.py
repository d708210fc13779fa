"""The use cases as gRPC methods: protobuf <-> domain, and no business rules."""
