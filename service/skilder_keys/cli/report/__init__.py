"""skilder-keys report: a review of the keys of a workspace, made with the public API alone."""
