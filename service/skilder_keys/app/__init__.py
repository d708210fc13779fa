"""The use cases: issue, list, revoke and authorize keys; apply workspaces. Knows nothing of gRPC."""
