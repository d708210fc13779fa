-- A key may be limited to networks. Older workers do not look at them, so its hash is guarded.

DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE key IN ACCESS EXCLUSIVE MODE;
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
    ADD COLUMN networks cidr[],
    ADD CONSTRAINT key_networks_check
        CHECK (cardinality(networks) BETWEEN 1 AND 32 AND array_position(networks, NULL) IS NULL) NOT VALID,
    DROP CONSTRAINT key_guard_check,
    ADD CONSTRAINT key_guard_check
        CHECK ((guarded_hash IS NOT NULL) = (num_nonnulls(expires_at, suspended_at, networks) > 0)) NOT VALID;

CREATE OR REPLACE FUNCTION guard_key() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    hash text := coalesce(NEW.guarded_hash, NEW.secret_hash);
    guarded boolean := num_nonnulls(NEW.expires_at, NEW.suspended_at, NEW.networks) > 0;
BEGIN
    -- The hash is what was written, in whichever column.
    IF TG_OP = 'UPDATE' AND NEW.secret_hash IS DISTINCT FROM OLD.secret_hash THEN
        hash := coalesce(NEW.secret_hash, NEW.guarded_hash);
    END IF;
    NEW.secret_hash := CASE WHEN NOT guarded THEN hash END;
    NEW.guarded_hash := CASE WHEN guarded THEN hash END;
    RETURN NEW;
END $$;
DROP TRIGGER key_guard ON key;
CREATE TRIGGER key_guard
    BEFORE INSERT OR UPDATE OF secret_hash, guarded_hash, expires_at, suspended_at, networks
    ON key FOR EACH ROW EXECUTE FUNCTION guard_key();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_guard;

DROP TRIGGER key_refuse_change ON key;
CREATE OR REPLACE FUNCTION refuse_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL
       AND (NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason,
            NEW.secret_hash, NEW.guarded_hash, NEW.limited_to_hats, NEW.expires_at, NEW.networks,
            NEW.suspended_at, NEW.suspended_by_kind, NEW.suspended_by_id, NEW.suspend_reason)
           IS DISTINCT FROM
           (OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason,
            OLD.secret_hash, OLD.guarded_hash, OLD.limited_to_hats, OLD.expires_at, OLD.networks,
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
                     secret_hash, guarded_hash, limited_to_hats, expires_at, networks,
                     revoked_at, revoked_by_kind, revoked_by_id, revoke_reason,
                     suspended_at, suspended_by_kind, suspended_by_id, suspend_reason
    ON key FOR EACH ROW EXECUTE FUNCTION refuse_key_change();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_refuse_change;

-- Each UPDATE that changes what people see counts once, also one of an older worker or by hand. Whoever changes only the
-- hats of a limit, which are rows of `key_hat`, sets the version to another number.
CREATE OR REPLACE FUNCTION count_key_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version <> OLD.version
       OR (NEW.description, NEW.labels, NEW.limited_to_hats, NEW.expires_at, NEW.networks,
           NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason,
           NEW.suspended_at, NEW.suspended_by_kind, NEW.suspended_by_id, NEW.suspend_reason)
          IS DISTINCT FROM
          (OLD.description, OLD.labels, OLD.limited_to_hats, OLD.expires_at, OLD.networks,
           OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason,
           OLD.suspended_at, OLD.suspended_by_kind, OLD.suspended_by_id, OLD.suspend_reason) THEN
        NEW.version := OLD.version + 1;
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END $$;
DROP TRIGGER key_version ON key;
CREATE TRIGGER key_version
    BEFORE UPDATE OF version, description, labels, limited_to_hats, expires_at, networks,
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
          OR OLD.networks IS DISTINCT FROM NEW.networks
          OR OLD.suspended_at IS DISTINCT FROM NEW.suspended_at
          OR (coalesce(OLD.secret_hash, OLD.guarded_hash) <> coalesce(NEW.secret_hash, NEW.guarded_hash)
              AND coalesce(NEW.secret_hash, NEW.guarded_hash)
                  IS DISTINCT FROM current_setting('skilder_keys.renewed_hash', true)))
    EXECUTE FUNCTION note_change();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_change;
