"""Authorize: from memory where the fence allows it, else by the database."""
