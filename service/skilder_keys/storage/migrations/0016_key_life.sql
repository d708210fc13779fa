-- The life of a key: when it expires, whether it is suspended, which keys it follows, and how often it was changed.
-- Nothing reads or writes the rows of `key` here, however many there are: what has to be checked in them is checked by
-- the next migration.

-- Both are locked for a moment only, and given back when somebody holds one of them for long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE key, audit_event IN ACCESS EXCLUSIVE MODE;
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

ALTER TABLE key
    ADD COLUMN expires_at        timestamptz,
    ADD COLUMN suspended_at      timestamptz,
    ADD COLUMN suspended_by_kind text,
    ADD COLUMN suspended_by_id   text,
    ADD COLUMN suspend_reason    text,
    -- The hash of a key with anything that older workers do not know, and would not keep to: its `secret_hash` is null.
    -- So they cannot verify its token, and fail for this key alone.
    ADD COLUMN guarded_hash      text,
    -- The first key of those that follow each other by rotation; null for that key itself.
    ADD COLUMN family_id         uuid,
    ADD COLUMN predecessor_id    uuid,
    -- Counts the changes that people see. Null: not changed since there are versions.
    ADD COLUMN version           bigint NOT NULL DEFAULT 1,
    ADD COLUMN updated_at        timestamptz,
    ALTER COLUMN secret_hash DROP NOT NULL,
    ADD CONSTRAINT key_hash_check CHECK (num_nonnulls(secret_hash, guarded_hash) = 1) NOT VALID,
    ADD CONSTRAINT key_guarded_hash_check CHECK (guarded_hash LIKE '$argon2id$%') NOT VALID,
    ADD CONSTRAINT key_guard_check CHECK ((guarded_hash IS NOT NULL) = (num_nonnulls(expires_at, suspended_at) > 0))
        NOT VALID,
    ADD CONSTRAINT key_suspension_check
        CHECK (num_nulls(suspended_at, suspended_by_kind, suspended_by_id, suspend_reason) IN (0, 4)) NOT VALID,
    ADD CONSTRAINT key_suspended_by_kind_check CHECK (suspended_by_kind IN ('user', 'caller')) NOT VALID,
    ADD CONSTRAINT key_suspend_reason_check CHECK (char_length(suspend_reason) <= 500) NOT VALID,
    ADD CONSTRAINT key_expiry_check CHECK (expires_at > created_at) NOT VALID,
    ADD CONSTRAINT key_version_check CHECK (version >= 1) NOT VALID,
    ADD CONSTRAINT key_family_check
        CHECK (family_id <> id AND predecessor_id <> id AND (predecessor_id IS NULL OR family_id IS NOT NULL)) NOT VALID,
    ADD CONSTRAINT key_family_fkey FOREIGN KEY (workspace_id, family_id) REFERENCES key (workspace_id, id) NOT VALID,
    ADD CONSTRAINT key_predecessor_fkey
        FOREIGN KEY (workspace_id, predecessor_id) REFERENCES key (workspace_id, id) NOT VALID;

-- Puts the hash into the column where it belongs, so that whoever writes a row need not know which one that is.
CREATE FUNCTION guard_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hash text := coalesce(NEW.guarded_hash, NEW.secret_hash);
    guarded boolean := num_nonnulls(NEW.expires_at, NEW.suspended_at) > 0;
BEGIN
    -- The hash is what was written, in whichever column.
    IF TG_OP = 'UPDATE' AND NEW.secret_hash IS DISTINCT FROM OLD.secret_hash THEN
        hash := coalesce(NEW.secret_hash, NEW.guarded_hash);
    END IF;
    NEW.secret_hash := CASE WHEN NOT guarded THEN hash END;
    NEW.guarded_hash := CASE WHEN guarded THEN hash END;
    RETURN NEW;
END $$;
-- Not for last_used_at, the one column that changes all the time; so with the triggers below. They fire in order of name.
CREATE TRIGGER key_guard
    BEFORE INSERT OR UPDATE OF secret_hash, guarded_hash, expires_at, suspended_at
    ON key FOR EACH ROW EXECUTE FUNCTION guard_key();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_guard;

DROP TRIGGER key_refuse_change ON key;
CREATE OR REPLACE FUNCTION refuse_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL
       AND (NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason,
            NEW.secret_hash, NEW.guarded_hash, NEW.limited_to_hats, NEW.expires_at,
            NEW.suspended_at, NEW.suspended_by_kind, NEW.suspended_by_id, NEW.suspend_reason)
           IS DISTINCT FROM
           (OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason,
            OLD.secret_hash, OLD.guarded_hash, OLD.limited_to_hats, OLD.expires_at,
            OLD.suspended_at, OLD.suspended_by_kind, OLD.suspended_by_id, OLD.suspend_reason) THEN
        RAISE EXCEPTION 'key % is revoked, which cannot be undone', OLD.id;
    END IF;
    IF (NEW.id, NEW.type, NEW.workspace_id, NEW.user_id, NEW.runtime_id, NEW.created_at, NEW.family_id, NEW.predecessor_id)
       IS DISTINCT FROM
       (OLD.id, OLD.type, OLD.workspace_id, OLD.user_id, OLD.runtime_id, OLD.created_at, OLD.family_id, OLD.predecessor_id)
    THEN
        RAISE EXCEPTION 'what key % is for cannot change', OLD.id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER key_refuse_change
    BEFORE UPDATE OF id, type, workspace_id, user_id, runtime_id, created_at, family_id, predecessor_id,
                     secret_hash, guarded_hash, limited_to_hats, expires_at,
                     revoked_at, revoked_by_kind, revoked_by_id, revoke_reason,
                     suspended_at, suspended_by_kind, suspended_by_id, suspend_reason
    ON key FOR EACH ROW EXECUTE FUNCTION refuse_key_change();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_refuse_change;

-- Each UPDATE that changes what people see counts once, also one of an older worker or by hand. Whoever changes only the
-- hats of a limit, which are rows of `key_hat`, sets the version to another number.
CREATE FUNCTION count_key_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version <> OLD.version
       OR (NEW.description, NEW.limited_to_hats, NEW.expires_at,
           NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason,
           NEW.suspended_at, NEW.suspended_by_kind, NEW.suspended_by_id, NEW.suspend_reason)
          IS DISTINCT FROM
          (OLD.description, OLD.limited_to_hats, OLD.expires_at,
           OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason,
           OLD.suspended_at, OLD.suspended_by_kind, OLD.suspended_by_id, OLD.suspend_reason) THEN
        NEW.version := OLD.version + 1;
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER key_version
    BEFORE UPDATE OF version, description, limited_to_hats, expires_at,
                     revoked_at, revoked_by_kind, revoked_by_id, revoke_reason,
                     suspended_at, suspended_by_kind, suspended_by_id, suspend_reason
    ON key FOR EACH ROW EXECUTE FUNCTION count_key_version();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_version;

-- A hash that only moves to the other column is the same.
DROP TRIGGER key_change ON key;
CREATE TRIGGER key_change AFTER UPDATE ON key FOR EACH ROW
    WHEN (OLD.revoked_at IS DISTINCT FROM NEW.revoked_at
          OR OLD.description <> NEW.description
          OR OLD.limited_to_hats <> NEW.limited_to_hats
          OR OLD.expires_at IS DISTINCT FROM NEW.expires_at
          OR OLD.suspended_at IS DISTINCT FROM NEW.suspended_at
          OR (coalesce(OLD.secret_hash, OLD.guarded_hash) <> coalesce(NEW.secret_hash, NEW.guarded_hash)
              AND coalesce(NEW.secret_hash, NEW.guarded_hash)
                  IS DISTINCT FROM current_setting('skilder_keys.renewed_hash', true)))
    EXECUTE FUNCTION note_change();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_change;

ALTER TABLE audit_event
    DROP CONSTRAINT audit_event_action_check,
    ADD CONSTRAINT audit_event_action_check
        CHECK (action IN ('key.issued', 'key.renewed', 'key.rotated', 'key.updated', 'key.suspended', 'key.resumed',
                          'key.revoked', 'workspace.applied', 'workspace.updated', 'workspace.deleted')) NOT VALID;
