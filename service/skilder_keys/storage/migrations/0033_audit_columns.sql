-- Columns for a chain of audit events: each event has a number, and a hash over the one before and over its content. Rows
-- that are there keep what they have: nothing is written, however many there are.

-- It is locked for a moment only, and given back when somebody holds it for long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            tries := tries + 1;
            IF tries >= 50 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.1 * random());
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END $$;

ALTER TABLE audit_event
    ADD COLUMN number         bigint,  -- null: from before the chain
    ADD COLUMN hash           bytea,
    -- Random bytes of the digest that stands in the content for actor, peer and details. So those can be erased.
    ADD COLUMN salt           bytea,
    ADD COLUMN private_digest bytea,   -- that digest, where actor, peer and details were erased
    -- Which transaction wrote the event, so that a reader can tell what it has not seen.
    ADD COLUMN transaction    xid8,
    ADD CONSTRAINT audit_event_chain_check CHECK (
        (number IS NULL) = (hash IS NULL) AND (number IS NULL OR num_nonnulls(salt, private_digest) = 1)
        AND octet_length(hash) = 32 AND octet_length(salt) = 16 AND octet_length(private_digest) = 32
    ) NOT VALID,
    DROP CONSTRAINT audit_event_action_check,
    ADD CONSTRAINT audit_event_action_check
        CHECK (action IN ('key.issued', 'key.renewed', 'key.rotated', 'key.updated', 'key.suspended', 'key.resumed',
                          'key.revoked', 'key.purged', 'key.changed',
                          'workspace.applied', 'workspace.updated', 'workspace.deleted', 'workspace.changed',
                          'audit.anchored', 'audit.pruned')) NOT VALID;
