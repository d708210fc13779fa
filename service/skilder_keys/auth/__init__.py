"""The callers of the service: how they authenticate, and what they may do."""
