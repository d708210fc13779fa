-- The events about the keys of a user, those that a user has done, and those that a program has done.
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_event_user ON {schema}.audit_event (workspace_id, (details ->> 'user_id'), id) WHERE details ->> 'user_id' IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_event_actor ON {schema}.audit_event (workspace_id, actor, id) WHERE actor IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_event_caller ON {schema}.audit_event (workspace_id, caller, id) WHERE actor IS NULL;
