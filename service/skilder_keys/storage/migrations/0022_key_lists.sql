-- Labels of keys, and what lists of keys are found and ordered by.

-- Whoever holds a key for a moment makes this wait, and all calls would queue behind it. So the lock is given back when
-- it takes long.
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
    ADD COLUMN labels jsonb NOT NULL DEFAULT '{}',
    -- The day, in UTC, of the last use or, without one, of the issue. An index of the time itself would have to be written
    -- with each use of a key. Keys from before this migration have no day until they are used again, so this is a lower
    -- bound.
    ADD COLUMN used_on date NOT NULL DEFAULT '-infinity',
    ADD CONSTRAINT key_labels_check CHECK (jsonb_typeof(labels) = 'object' AND octet_length(labels::text) <= 16384) NOT VALID;
ALTER TABLE key ALTER COLUMN used_on SET DEFAULT (now() AT TIME ZONE 'UTC')::date;

CREATE FUNCTION set_used_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.used_on := (coalesce(NEW.last_used_at, NEW.created_at) AT TIME ZONE 'UTC')::date;
    RETURN NEW;
END $$;
CREATE TRIGGER key_used_on BEFORE INSERT OR UPDATE OF last_used_at, used_on ON key FOR EACH ROW
    WHEN (NEW.used_on <> (coalesce(NEW.last_used_at, NEW.created_at) AT TIME ZONE 'UTC')::date)
    EXECUTE FUNCTION set_used_on();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_used_on;

-- Labels are a change that people see, so they count the version up.
CREATE OR REPLACE FUNCTION count_key_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version <> OLD.version
       OR (NEW.description, NEW.labels, NEW.limited_to_hats, NEW.expires_at,
           NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason,
           NEW.suspended_at, NEW.suspended_by_kind, NEW.suspended_by_id, NEW.suspend_reason)
          IS DISTINCT FROM
          (OLD.description, OLD.labels, OLD.limited_to_hats, OLD.expires_at,
           OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason,
           OLD.suspended_at, OLD.suspended_by_kind, OLD.suspended_by_id, OLD.suspend_reason) THEN
        NEW.version := OLD.version + 1;
        NEW.updated_at := now();
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER key_version
    BEFORE UPDATE OF version, description, labels, limited_to_hats, expires_at,
                     revoked_at, revoked_by_kind, revoked_by_id, revoke_reason,
                     suspended_at, suspended_by_kind, suspended_by_id, suspend_reason
    ON key FOR EACH ROW EXECUTE FUNCTION count_key_version();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_version;

-- The words of a description, and the labels, each as a term that begins with the workspace: so a search finds no keys of
-- others. Words are parted by white space and punctuation. A label has two terms: of its key alone, and with its value.
CREATE FUNCTION key_terms(workspace_id text, description text, labels jsonb) RETURNS text[]
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 1000 AS $$
    SELECT array_agg(concat(workspace_id, ' ', term)) FROM (
        SELECT unnest(tsvector_to_array(to_tsvector(
            'pg_catalog.simple', translate(description, $p$!"#$%&'()*+,-./:;<=>?@[\]^_`{|}~–—‘’“”„…«»·•$p$, repeat(' ', 44))
        ))) AS term
        UNION ALL SELECT concat('=', name) FROM jsonb_object_keys(labels) AS name
        UNION ALL SELECT concat('=', name, '=', value) FROM jsonb_each_text(labels) AS label (name, value)
    ) AS terms
$$;

-- The last ten characters of a key's hint, as a number: the id modulo 62^10.
CREATE FUNCTION key_hint(id uuid) RETURNS bigint LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE COST 100 AS $$
    SELECT ((
        ('x' || substr(hex, 1, 8))::bit(32)::bigint * 79228162514264337593543950336::numeric
        + ('x' || substr(hex, 9, 8))::bit(32)::bigint * 18446744073709551616::numeric
        + ('x' || substr(hex, 17, 8))::bit(32)::bigint * 4294967296::numeric
        + ('x' || substr(hex, 25, 8))::bit(32)::bigint
    ) % 839299365868340224)::bigint FROM (SELECT encode(uuid_send(id), 'hex') AS hex) AS spelled
$$;
