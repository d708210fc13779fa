"""Skilder Keys: the service that owns Skilder's API keys."""

import os

# The version has only this place. The wheel takes it from here, and a source tree without metadata has it too.
__version__ = "0.1.0"

# No process uses gRPC after a fork. With this setting, gRPC does not install its fork handlers, which print warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
