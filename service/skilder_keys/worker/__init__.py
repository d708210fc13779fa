"""One worker: a process that serves calls. Its parent starts it and sends it messages."""
