-- What people change by hand in SQL: the hats of a limit count the version of their key, and so does who issued it; another
-- expiry replaces the one from before a rotation. Nothing reads or writes the rows of `key` here. No trigger is dropped,
-- since that would make every reader of its table wait.

-- Changes are kept out while the triggers are made, and the locks are given back when somebody holds one of them for long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE key, key_hat IN SHARE ROW EXCLUSIVE MODE;
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

-- Whoever rotates a key gives it another expiry, and keeps when it was to end before. That is said by writing both columns,
-- also with the value that is there. A trigger for a column fires if the column is written, so the first of the two
-- tells the second, for the same row. They fire in order of name. Whoever writes the expiry alone means it to count.
CREATE FUNCTION forget_unrotated_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_NAME = 'key_end_kept' THEN
        PERFORM set_config('skilder_keys.end_kept', NEW.id::text, true);
    ELSIF current_setting('skilder_keys.end_kept', true) = NEW.id::text THEN
        PERFORM set_config('skilder_keys.end_kept', '', true);
    ELSE
        NEW.unrotated_expires_at := NULL;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER key_end_kept BEFORE UPDATE OF unrotated_expires_at ON key FOR EACH ROW
    WHEN (NEW.unrotated_expires_at = OLD.unrotated_expires_at AND OLD.expires_at IS DISTINCT FROM NEW.expires_at)
    EXECUTE FUNCTION forget_unrotated_expiry();
CREATE TRIGGER key_end_set BEFORE UPDATE OF expires_at ON key FOR EACH ROW
    WHEN (NEW.unrotated_expires_at = OLD.unrotated_expires_at AND OLD.expires_at IS DISTINCT FROM NEW.expires_at)
    EXECUTE FUNCTION forget_unrotated_expiry();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_end_kept;
ALTER TABLE key ENABLE ALWAYS TRIGGER key_end_set;

CREATE OR REPLACE FUNCTION count_key_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version <> OLD.version
       OR (NEW.description, NEW.labels, NEW.limited_to_hats, NEW.expires_at, NEW.networks,
           NEW.created_by_kind, NEW.created_by_id,
           NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason,
           NEW.suspended_at, NEW.suspended_by_kind, NEW.suspended_by_id, NEW.suspend_reason)
          IS DISTINCT FROM
          (OLD.description, OLD.labels, OLD.limited_to_hats, OLD.expires_at, OLD.networks,
           OLD.created_by_kind, OLD.created_by_id,
           OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason,
           OLD.suspended_at, OLD.suspended_by_kind, OLD.suspended_by_id, OLD.suspend_reason) THEN
        NEW.version := OLD.version + 1;
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER key_version
    BEFORE UPDATE OF version, description, labels, limited_to_hats, expires_at, networks, created_by_kind, created_by_id,
                     revoked_at, revoked_by_kind, revoked_by_id, revoke_reason,
                     suspended_at, suspended_by_kind, suspended_by_id, suspend_reason
    ON key FOR EACH ROW EXECUTE FUNCTION count_key_version();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_version;

-- The hats of a limit are rows of their own. They count once in a transaction, and not where the key is new in it or its
-- version was counted already, as it is by UpdateKey. What arrives by logical replication was counted where it was made.
CREATE OR REPLACE FUNCTION note_limit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO pending_change (key_id, workspace_id, first)
    SELECT key.id, key.workspace_id,
           NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id())
           AND row_number() OVER () = 1
    FROM key WHERE key.id IN (OLD.key_id, NEW.key_id)
      AND concat(pg_current_xact_id(), ' ', key.id) IS DISTINCT FROM current_setting('skilder_keys.new_key', true);
    UPDATE key SET version = version + 1
    WHERE id IN (OLD.key_id, NEW.key_id) AND limited_to_hats AND updated_at IS DISTINCT FROM now()
      AND current_setting('session_replication_role') <> 'replica'
      AND concat(pg_current_xact_id(), ' ', id) IS DISTINCT FROM current_setting('skilder_keys.new_key', true);
    RETURN NULL;
END $$;
-- When all of them are gone, nobody can say which keys had any.
CREATE FUNCTION count_emptied_limits() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE key SET version = version + 1 WHERE limited_to_hats AND updated_at IS DISTINCT FROM now();
    RETURN NULL;
END $$;
CREATE TRIGGER key_hat_emptied_version AFTER TRUNCATE ON key_hat
    FOR EACH STATEMENT EXECUTE FUNCTION count_emptied_limits();
ALTER TABLE key_hat ENABLE ALWAYS TRIGGER key_hat_emptied_version;

-- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name. A plan by
-- index, as in 0015_every_change_by_hand.sql.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['count_emptied_limits', 'note_limit'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('ALTER FUNCTION %I() SET jit = off', name);
    END LOOP;
END $$;
ALTER FUNCTION note_limit() SET enable_seqscan = off;
