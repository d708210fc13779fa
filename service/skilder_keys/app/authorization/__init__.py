"""Authorize: from memory if the fence allows it, else from the database."""
