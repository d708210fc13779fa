-- The chain of audit events, written by triggers, so that events of older workers and of people are in it too.

-- Reads all events while everybody goes on adding to them.
ALTER TABLE audit_event
    VALIDATE CONSTRAINT audit_event_chain_check,
    VALIDATE CONSTRAINT audit_event_action_check;

-- The last event of each workspace. Its row is locked from when the events of a transaction are numbered to the end of
-- the transaction, so the order of numbers is the order of commits.
CREATE TABLE audit_head (
    workspace_id  text   PRIMARY KEY REFERENCES workspace,
    number        bigint NOT NULL DEFAULT 0 CHECK (number >= 0),
    hash          bytea  NOT NULL DEFAULT decode(repeat('00', 32), 'hex') CHECK (octet_length(hash) = 32),
    -- The last event that was pruned, by its number and its id; 0 if none was.
    pruned_number bigint NOT NULL DEFAULT 0 CHECK (pruned_number BETWEEN 0 AND number),
    pruned_id     bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50); -- room to change in place

-- The events of transactions that are under way. Each commit moves its own, so nobody else ever sees a row, and none has
-- to outlive a crash.
CREATE UNLOGGED TABLE pending_audit_event (
    transaction  xid8    NOT NULL DEFAULT pg_current_xact_id(),
    sequence     bigint  GENERATED ALWAYS AS IDENTITY,
    first        boolean NOT NULL,  -- of its transaction: whose trigger moves all of them
    at           timestamptz,
    action       text,
    workspace_id text,
    key_id       uuid,
    caller       text,
    actor        text,
    peer         text,
    details      jsonb,
    PRIMARY KEY (transaction, sequence)
);
-- Its sequence came unlogged too, and such a one cannot be used on a standby that took over.
ALTER SEQUENCE pending_audit_event_sequence_seq SET LOGGED;

-- Returns a value of at most so many bytes of JSON: whatever is too long in it is replaced by its SHA-256 and its length.
CREATE FUNCTION audit_bounded(value jsonb, most integer) RETURNS jsonb LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    length integer := octet_length(value::text);
    names integer := CASE jsonb_typeof(value) WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys(value)) ELSE 0 END;
    bounded jsonb;
BEGIN
    IF length <= most THEN
        RETURN value;
    END IF;
    -- With many members, little of each would be left.
    IF names BETWEEN 1 AND 64 AND most > 256 * names THEN
        SELECT jsonb_object_agg(name, audit_bounded(member, (most - 4) / names - octet_length(to_json(name)::text) - 4))
        INTO bounded FROM jsonb_each(value) AS each (name, member);
        IF octet_length(bounded::text) <= most THEN
            RETURN bounded;
        END IF;
    END IF;
    RETURN jsonb_build_object('sha256', encode(sha256(convert_to(value::text, 'UTF8')), 'hex'), 'bytes', length)
           || CASE WHEN jsonb_typeof(value) = 'array'
                   THEN jsonb_build_object('count', jsonb_array_length(value)) ELSE '{}' END;
END $$;

CREATE FUNCTION divert_audit_event() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF current_setting('skilder_keys.chaining', true) = pg_current_xact_id()::text THEN
        RETURN NEW;  -- from `chain_audit_events`
    END IF;
    -- With its place in the chain: the owner of the table puts rows back, or they arrive by logical replication. The
    -- transaction that wrote them is one of another database.
    IF NEW.hash IS NOT NULL
       AND pg_has_role(session_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'MEMBER') THEN
        NEW.transaction := NULL;
        RETURN NEW;
    END IF;
    INSERT INTO pending_audit_event (first, at, action, workspace_id, key_id, caller, actor, peer, details)
    VALUES (NOT EXISTS (SELECT FROM pending_audit_event WHERE transaction = pg_current_xact_id()),
            NEW.at, NEW.action, NEW.workspace_id, NEW.key_id, NEW.caller, NEW.actor, NEW.peer, NEW.details);
    RETURN NULL;
END $$;

-- Numbers the events of a transaction, and writes them. `domain/audit_chain.py` describes the content of an event.
CREATE FUNCTION chain_audit_events(of_transaction xid8) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    head audit_head;
    event pending_audit_event;
    chained_workspace text;
    salt bytea;
    private text;
    content text;
BEGIN
    PERFORM set_config('skilder_keys.chaining', of_transaction::text, true);
    -- Each in the same order, so that two transactions do not wait for each other.
    FOR chained_workspace IN
        SELECT DISTINCT workspace_id FROM pending_audit_event WHERE transaction = of_transaction ORDER BY workspace_id
    LOOP
        SELECT * INTO head FROM audit_head WHERE workspace_id = chained_workspace FOR UPDATE;
        IF NOT FOUND THEN
            INSERT INTO audit_head (workspace_id) VALUES (chained_workspace) ON CONFLICT DO NOTHING;
            SELECT * INTO STRICT head FROM audit_head WHERE workspace_id = chained_workspace FOR UPDATE;
        END IF;
        FOR event IN
            SELECT * FROM pending_audit_event
            WHERE transaction = of_transaction AND workspace_id = chained_workspace ORDER BY sequence
        LOOP
            event.details := audit_bounded(event.details, 240 * 1024);
            salt := uuid_send(gen_random_uuid());
            private := concat(
                '{"actor":', coalesce(to_json(event.actor)::text, 'null'), ',"peer":', to_json(event.peer),
                ',"details":', event.details::text, '}');
            head.number := head.number + 1;
            content := concat(
                '{"workspace_id":', to_json(chained_workspace), ',"number":', head.number,
                ',"at":"', to_char(event.at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                '","action":', to_json(event.action), ',"key_id":', coalesce(to_json(event.key_id)::text, 'null'),
                ',"caller":', to_json(event.caller),
                ',"private":"', encode(sha256(salt || convert_to(private, 'UTF8')), 'hex'), '"}');
            IF octet_length(content) + octet_length(private) > 256 * 1024 THEN
                RAISE EXCEPTION 'an audit event has at most 256 KiB';
            END IF;
            head.hash := sha256(head.hash || convert_to(content, 'UTF8'));
            INSERT INTO audit_event (at, action, workspace_id, key_id, caller, actor, peer, details,
                                     number, hash, salt, transaction)
            VALUES (event.at, event.action, chained_workspace, event.key_id, event.caller, event.actor, event.peer,
                    event.details, head.number, head.hash, salt, of_transaction);
        END LOOP;
        UPDATE audit_head SET number = head.number, hash = head.hash WHERE workspace_id = chained_workspace;
        -- Workers log the head of each change. Other sessions hear nothing.
        IF current_setting('skilder_keys.report_heads', true) = 'on' THEN
            RAISE NOTICE USING ERRCODE = 'SKH01',
                MESSAGE = concat(chained_workspace, ':', head.number, ':', encode(head.hash, 'hex'));
        END IF;
    END LOOP;
    DELETE FROM pending_audit_event WHERE transaction = of_transaction;
    PERFORM set_config('skilder_keys.chaining', '', true);
END $$;

CREATE FUNCTION record_audit_events() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM chain_audit_events(NEW.transaction);
    RETURN NULL;
END $$;
-- Deferred, so that the lock that all changes of a workspace share is held for no longer than the commit takes.
CREATE CONSTRAINT TRIGGER pending_audit_event_record AFTER INSERT ON pending_audit_event
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW WHEN (NEW.first) EXECUTE FUNCTION record_audit_events();
ALTER TABLE pending_audit_event ENABLE ALWAYS TRIGGER pending_audit_event_record;

-- The fence's lock, which all changes of all workspaces share, stays the last one.
DO $$
DECLARE
    definition text := pg_get_functiondef('record_changes()'::regprocedure);
    place text := E'BEGIN\n    WITH noted AS (';
BEGIN
    IF strpos(definition, place) = 0 THEN
        RAISE EXCEPTION 'record_changes() does not begin as it did';
    END IF;
    EXECUTE replace(definition, place, E'BEGIN\n    PERFORM chain_audit_events(NEW.transaction);\n    WITH noted AS (');
END $$;

-- Whatever the session's search_path and its plans: see 0015.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY
        ARRAY['audit_bounded(jsonb, integer)', 'divert_audit_event()', 'chain_audit_events(xid8)', 'record_audit_events()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('ALTER FUNCTION %s SET enable_seqscan = off', name);
        EXECUTE format('ALTER FUNCTION %s SET jit = off', name);
    END LOOP;
END $$;

-- Last, as nobody can add events from here to the end of this migration.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE audit_event IN SHARE ROW EXCLUSIVE MODE;
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
CREATE TRIGGER audit_event_divert BEFORE INSERT ON audit_event
    FOR EACH ROW EXECUTE FUNCTION divert_audit_event();
ALTER TABLE audit_event ENABLE ALWAYS TRIGGER audit_event_divert;
