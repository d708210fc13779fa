"""Skilder Keys: the service that owns Skilder's API keys."""
