-- Keys by when they ended, to find those that are to be purged.
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_ended ON {schema}.key ((least(revoked_at, expires_at))) WHERE least(revoked_at, expires_at) IS NOT NULL;
