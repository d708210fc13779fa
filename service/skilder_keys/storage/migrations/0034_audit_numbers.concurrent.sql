-- No event has a number yet, so both are empty when they are made; all events are read for it while others write.
CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS audit_event_number ON {schema}.audit_event (workspace_id, number) WHERE number IS NOT NULL;
CREATE INDEX CONCURRENTLY IF NOT EXISTS audit_event_transaction ON {schema}.audit_event (transaction) WHERE transaction IS NOT NULL;
