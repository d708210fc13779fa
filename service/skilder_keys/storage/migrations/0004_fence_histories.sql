-- The fence on a database that was restored or failed over, in every session, and for very many changes at once.

-- Changes are kept out while their triggers are replaced; in this order, as a change locks its own table first.
LOCK TABLE key, workspace IN SHARE ROW EXCLUSIVE MODE;

-- A state has an epoch and a random tag, made by the transaction that changed it. The same epoch with another tag is a
-- state of another history: one that a restore or a failover has undone. A tag of 0 is one from before there were tags.
ALTER TABLE fence
    ADD COLUMN tag           bigint           NOT NULL DEFAULT ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint,
    -- The server, database and table, when no reader can hold a lease that has no row in `reader`. Where another one
    -- answers, the database was restored, or failed over, or just started again.
    ADD COLUMN server        text             NOT NULL DEFAULT '',
    -- The longest lease that a reader may hold, in seconds: of those that have no row any more, too.
    ADD COLUMN longest_lease double precision NOT NULL DEFAULT 0;
ALTER TABLE fence ALTER COLUMN tag DROP DEFAULT;
-- The tag of the state before makes the rows a chain: whoever is at that state knows that this change comes next.
ALTER TABLE change
    ADD COLUMN previous_tag bigint NOT NULL DEFAULT 0,
    ADD COLUMN tag          bigint NOT NULL DEFAULT 0;
-- Seconds that a call of the reader's process may take, and so a change wait; null where the process does not say.
ALTER TABLE reader ADD COLUMN call_timeout double precision CHECK (call_timeout > 0);

-- What a transaction that is under way has changed. Its own commit moves the rows to `change`, so none is ever seen by
-- anybody else, and none has to outlive a crash.
CREATE UNLOGGED TABLE pending_change (
    transaction  xid8    NOT NULL DEFAULT pg_current_xact_id(),
    number       bigint  GENERATED ALWAYS AS IDENTITY,
    key_id       uuid,   -- null: the workspace with all its keys
    workspace_id text    NOT NULL,
    first        boolean NOT NULL,  -- of its transaction: whose trigger moves all of them
    PRIMARY KEY (transaction, number)
);
-- Its sequence came unlogged too, and such a one cannot be used on a standby that took over: no change could be made.
ALTER SEQUENCE pending_change_number_seq SET LOGGED;

-- On a database that is new there has never been a reader. On any other, who holds a lease is found out.
UPDATE fence SET longest_lease = coalesce((SELECT max(lease_seconds) FROM reader), 0);
UPDATE fence SET server = concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
                                    (SELECT oid FROM pg_database WHERE datname = current_database()), fence.tableoid)
WHERE NOT EXISTS (SELECT FROM workspace);

-- The functions of triggers run with the rights of their owner, so that a change needs no right to the fence itself.
CREATE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    is_first boolean := NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id());
BEGIN
    IF TG_TABLE_NAME = 'key' THEN
        INSERT INTO pending_change (key_id, workspace_id, first) VALUES (OLD.id, OLD.workspace_id, is_first);
    ELSE
        INSERT INTO pending_change (workspace_id, first) VALUES (OLD.id, is_first);
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION record_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    reached bigint;
    current_tag bigint;
    new_tag bigint := ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint;
    recorded bigint;
BEGIN
    -- All of a transaction at once, so that the fence's row is locked and written once, however many there are.
    SELECT epoch, tag INTO STRICT reached, current_tag FROM fence FOR UPDATE;
    WITH noted AS (
        DELETE FROM pending_change WHERE transaction = NEW.transaction RETURNING number, key_id, workspace_id
    ), whole AS (
        -- More than a thousand keys are recorded as their workspace, which readers drop as quickly as one key.
        SELECT workspace_id, min(number) AS number FROM noted GROUP BY workspace_id
        HAVING count(*) > count(key_id) OR count(DISTINCT key_id) > 1000
    ), numbered AS (
        SELECT row_number() OVER (ORDER BY number) AS place, key_id, workspace_id FROM (
            SELECT min(number) AS number, key_id, NULL AS workspace_id FROM noted
            WHERE workspace_id NOT IN (SELECT workspace_id FROM whole) GROUP BY key_id
            UNION ALL
            SELECT number, NULL, workspace_id FROM whole
        ) AS each
    )
    INSERT INTO change (epoch, key_id, workspace_id, previous_tag, tag)
    SELECT reached + place, key_id, workspace_id, CASE place WHEN 1 THEN current_tag ELSE new_tag END, new_tag
    FROM numbered;
    GET DIAGNOSTICS recorded = ROW_COUNT;
    UPDATE fence SET epoch = reached + recorded, tag = new_tag;
    PERFORM pg_notify('skilder_keys_change', '');
    RETURN NULL;
END $$;

DROP TRIGGER key_change ON key;
DROP TRIGGER workspace_change ON workspace;
DROP FUNCTION record_change();
-- For each row: triggers with transition tables take no WHEN on columns, so every last use would be looked at, and they
-- do not fire for changes that arrive by logical replication.
CREATE TRIGGER key_change AFTER UPDATE ON key FOR EACH ROW
    -- Another hash of the same secret changes nothing. The service says so, of that one hash, when it writes it.
    WHEN (OLD.revoked_at IS DISTINCT FROM NEW.revoked_at
          OR (OLD.secret_hash <> NEW.secret_hash
              AND NEW.secret_hash IS DISTINCT FROM current_setting('skilder_keys.renewed_hash', true)))
    EXECUTE FUNCTION note_change();
CREATE TRIGGER key_gone AFTER DELETE ON key FOR EACH ROW EXECUTE FUNCTION note_change();
CREATE TRIGGER workspace_change AFTER UPDATE ON workspace FOR EACH ROW
    WHEN (OLD.version <> NEW.version OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at)
    EXECUTE FUNCTION note_change();
CREATE TRIGGER workspace_gone AFTER DELETE ON workspace FOR EACH ROW EXECUTE FUNCTION note_change();
-- Deferred, so that the one lock all changes share is taken last and held for no longer than the commit takes.
CREATE CONSTRAINT TRIGGER pending_change_record AFTER INSERT ON pending_change
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.first) EXECUTE FUNCTION record_changes();

-- In every session: also where session_replication_role is `replica`.
ALTER TABLE key ENABLE ALWAYS TRIGGER key_change;
ALTER TABLE key ENABLE ALWAYS TRIGGER key_gone;
ALTER TABLE key ENABLE ALWAYS TRIGGER key_refuse_change;
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_change;
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_gone;
ALTER TABLE pending_change ENABLE ALWAYS TRIGGER pending_change_record;
ALTER TABLE audit_event ENABLE ALWAYS TRIGGER audit_event_refuse_change;

-- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['note_change', 'record_changes'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
