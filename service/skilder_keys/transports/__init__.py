"""The transports: bytes in, bytes out, and no business rules. They are grpcio's server, and Envoy in front of it."""
