"""Measures what the service promises about its speed and memory: `make bench`."""
