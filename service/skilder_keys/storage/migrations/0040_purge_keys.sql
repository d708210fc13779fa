-- Keys that ended long ago can be purged: the key goes, and what is personal in its audit events. Their chain verifies
-- still, since their hashes cover a digest of that part. The audit trail keeps the id of the key.

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
ALTER TABLE audit_event DROP CONSTRAINT audit_event_key_id_fkey;

-- The audit trail is only ever added to, but for what `audit prune` and a purge of keys say of their own transaction.
CREATE OR REPLACE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (TG_OP = 'DELETE' AND current_setting('skilder_keys.pruning', true) = pg_current_xact_id()::text)
       OR (TG_OP = 'UPDATE' AND current_setting('skilder_keys.erasing', true) = pg_current_xact_id()::text) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION 'the audit trail is only ever added to';
END $$;

-- Purges keys that were revoked or expired longer ago than an age, and returns them. Generations of a key go together,
-- once the last one has ended. It runs as the owner, since the service may delete neither keys nor audit events.
CREATE FUNCTION purge_keys(age interval, most integer) RETURNS TABLE (purged_id uuid, purged_workspace_id text)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    families uuid[];
    ids uuid[];
    workspaces text[];
BEGIN
    IF NOT has_table_privilege(session_user, 'audit_event', 'INSERT') THEN
        RAISE insufficient_privilege USING MESSAGE = 'only a role that may write audit events may purge keys';
    ELSIF age < interval '1 day' THEN
        RAISE EXCEPTION 'a key that has ended is kept for a day at least';
    END IF;
    families := ARRAY(
        SELECT coalesce(key.family_id, key.id) FROM key WHERE least(key.revoked_at, key.expires_at) < now() - age
        AND NOT EXISTS (SELECT FROM key AS later WHERE later.family_id = coalesce(key.family_id, key.id)
                        AND (least(later.revoked_at, later.expires_at) < now() - age) IS NOT true)
        ORDER BY least(key.revoked_at, key.expires_at) LIMIT most
    );
    ids := ARRAY(SELECT id FROM key WHERE id = ANY(families) UNION SELECT id FROM key WHERE family_id = ANY(families));
    -- In order of id, as everybody locks several keys. Until then one of them may have been given another expiry.
    PERFORM FROM key WHERE id = ANY(ids) ORDER BY id FOR UPDATE;
    families := ARRAY(
        SELECT coalesce(family_id, id) FROM key WHERE id = ANY(ids) GROUP BY 1
        HAVING bool_and((least(revoked_at, expires_at) < now() - age) IS true)
    );
    SELECT array_agg(id ORDER BY id), array_agg(workspace_id ORDER BY id) INTO ids, workspaces
    FROM key WHERE id = ANY(ids) AND coalesce(family_id, id) = ANY(families);
    IF ids IS NULL THEN
        RETURN;
    END IF;
    DELETE FROM key_hat WHERE key_id = ANY(ids);
    DELETE FROM key_use WHERE key_id = ANY(ids);
    DELETE FROM activity_key WHERE key_id = ANY(ids);
    DELETE FROM key WHERE id = ANY(ids);
    PERFORM set_config('skilder_keys.erasing', pg_current_xact_id()::text, true);
    UPDATE audit_event
    SET private_digest = sha256(coalesce(salt, '') || convert_to(
            concat('{"actor":', coalesce(to_json(actor)::text, 'null'), ',"peer":', to_json(peer),
                   ',"details":', details::text, '}'), 'UTF8')),
        actor = NULL, peer = '', details = '{}', salt = NULL
    WHERE key_id = ANY(ids) AND private_digest IS NULL;
    PERFORM set_config('skilder_keys.erasing', '', true);
    INSERT INTO audit_event (action, workspace_id, key_id, caller, peer, details)
    SELECT 'key.purged', workspace_id, id, 'policy:purge_keys_after_days', '', '{}'
    FROM unnest(workspaces, ids) AS purged (workspace_id, id);
    RETURN QUERY SELECT * FROM unnest(ids, workspaces);
END $$;
DO $$
BEGIN
    EXECUTE format('ALTER FUNCTION purge_keys(interval, integer) SET search_path = %I, pg_temp', current_schema());
    ALTER FUNCTION purge_keys(interval, integer) SET enable_seqscan = off;
    ALTER FUNCTION purge_keys(interval, integer) SET jit = off;
END $$;
-- It looks itself at who calls. Where an owner has taken the default away, the service could not call it.
GRANT EXECUTE ON FUNCTION purge_keys(interval, integer) TO PUBLIC;
