"""The rules: tokens, records, permissions and errors. No I/O, no event loop, no gRPC."""
