-- For descriptions that must be unique. One expression, so that no other index can find the same keys: see 0014.
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_description
    ON {schema}.key (md5(workspace_id || E'\n' || lower(description)), id) WHERE revoked_at IS NULL;
