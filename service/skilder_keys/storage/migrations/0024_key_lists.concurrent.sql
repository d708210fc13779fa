-- For lists of keys. No index but a partial one begins with the workspace: see 0014_indexes_by_part.sql.
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_runtime_newest ON {schema}.key (workspace_id, runtime_id, id)
    WHERE runtime_id IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_creator_newest
    ON {schema}.key (created_by_id, created_by_kind, workspace_id, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_least_used ON {schema}.key (type, workspace_id, used_on, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_expires_next
    ON {schema}.key (type, workspace_id, (coalesce(expires_at, 'infinity')), id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_by_hint ON {schema}.key ({schema}.key_hint(id));
-- Without a list of pending entries: every search would read it, and some change would have to clear it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS key_by_terms
    ON {schema}.key USING gin ({schema}.key_terms(workspace_id, description, labels)) WITH (fastupdate = off);
