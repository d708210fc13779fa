"""skilder-keys top: a live view of a service."""
