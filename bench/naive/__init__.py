"""What many would write first: FastAPI and asyncpg, keys found by the SHA-256 of their token, nothing in memory."""
