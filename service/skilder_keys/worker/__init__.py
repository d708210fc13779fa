"""One worker: a process that serves calls, started and told what to do by its parent."""
