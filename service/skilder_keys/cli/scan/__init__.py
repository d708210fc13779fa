"""skilder-keys scan: find tokens where they should not be, without the service."""
