"""The transports: bytes in, bytes out, and no rule of the business. grpcio's server, and Envoy in front of it."""
