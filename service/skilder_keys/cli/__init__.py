"""The `skilder-keys` command: runs the service, and talks to it as one more gRPC client."""
