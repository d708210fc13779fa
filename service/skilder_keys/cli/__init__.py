"""The `skilder-keys` command: it runs the service, and calls a service as any gRPC client does."""
