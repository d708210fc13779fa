"""The use cases: issue, list, revoke and authorize keys; apply, list and delete workspaces. Independent of gRPC."""
