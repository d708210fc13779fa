"""The database: the only room with SQL and asyncpg. Each module has the queries of a few related tables."""
