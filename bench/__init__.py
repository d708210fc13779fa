"""What the service promises of its speed and its memory, measured: `make bench`."""
