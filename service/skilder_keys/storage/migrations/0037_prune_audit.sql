-- The audit trail is only ever added to, but for what `audit prune` says of its own transaction. It takes the privilege
-- to delete, too, which the service's role does not have.
CREATE OR REPLACE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' AND current_setting('skilder_keys.pruning', true) = pg_current_xact_id()::text THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the audit trail is only ever added to';
END $$;
