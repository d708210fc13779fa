"""Skilder Keys: the service that owns Skilder's API keys."""

import os

# No process here goes on with gRPC after a fork; told so, gRPC does without its fork handlers and their warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
