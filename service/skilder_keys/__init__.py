"""Skilder Keys: the service that owns Skilder's API keys."""

import os

# The only place of the version: the wheel takes it from here, and a source tree without metadata has it too.
__version__ = "0.1.0"

# No process here goes on with gRPC after a fork; told so, gRPC does without its fork handlers and their warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
