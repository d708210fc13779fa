-- Keys that the service revokes by itself, because nobody has used them for long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE workspace IN ACCESS EXCLUSIVE MODE;
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

ALTER TABLE workspace
    ADD COLUMN revoke_unused_after interval CHECK (revoke_unused_after > '0'),
    -- When that was set or changed last. For some time after that no key is revoked: see docs/design/keys.md.
    ADD COLUMN unused_rule_since   timestamptz;
CREATE INDEX workspace_unused_rule ON workspace (unused_rule_since) WHERE unused_rule_since IS NOT NULL;

CREATE FUNCTION note_unused_rule_since() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.revoke_unused_after IS NULL THEN
        NEW.unused_rule_since := NULL;
    ELSIF TG_OP = 'INSERT' OR OLD.revoke_unused_after IS DISTINCT FROM NEW.revoke_unused_after THEN
        NEW.unused_rule_since := now();
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER workspace_unused_rule_since BEFORE INSERT OR UPDATE OF revoke_unused_after ON workspace
    FOR EACH ROW EXECUTE FUNCTION note_unused_rule_since();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_unused_rule_since;

CREATE TRIGGER workspace_unused_rule_version BEFORE UPDATE ON workspace FOR EACH ROW
    WHEN (NEW.version = OLD.version AND OLD.revoke_unused_after IS DISTINCT FROM NEW.revoke_unused_after)
    EXECUTE FUNCTION keep_version();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_unused_rule_version;

-- Every process forgets the keys of the workspace, and reads them again with the rule.
CREATE FUNCTION note_unused_rule() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO pending_change (workspace_id, first)
    VALUES (NEW.id, NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id()));
    RETURN NULL;
END $$;
DO $$
BEGIN
    -- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name.
    EXECUTE format('ALTER FUNCTION note_unused_rule() SET search_path = %I, pg_temp', current_schema());
END $$;
CREATE TRIGGER workspace_unused_rule AFTER UPDATE ON workspace FOR EACH ROW
    WHEN (OLD.revoke_unused_after IS DISTINCT FROM NEW.revoke_unused_after)
    EXECUTE FUNCTION note_unused_rule();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_unused_rule;

-- Records also a use that comes long after the last one.
CREATE OR REPLACE FUNCTION claim_first_uses(uuid[], text[]) RETURNS TABLE (key_id uuid, verified_hash text)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    WITH used AS MATERIALIZED (
        SELECT key.id, verified.hash
        FROM unnest($1::uuid[], $2::text[]) AS verified (id, hash) JOIN key ON key.id = verified.id
        WHERE coalesce(key.secret_hash, key.guarded_hash) = verified.hash
          AND key.revoked_at IS NULL AND key.suspended_at IS NULL
          AND (key.expires_at > clock_timestamp()) IS NOT false
        ORDER BY key.id
        FOR NO KEY UPDATE OF key
    )
    UPDATE key SET last_used_at = now() FROM used WHERE key.id = used.id
    RETURNING used.id, used.hash;
END $$;
