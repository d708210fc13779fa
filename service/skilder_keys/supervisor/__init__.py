"""The parent process: signals, the address, the workers, and the embedded Postgres."""
