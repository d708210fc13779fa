"""The database: the only room with SQL and asyncpg. One module a table family."""
