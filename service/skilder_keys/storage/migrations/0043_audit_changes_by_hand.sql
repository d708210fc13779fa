-- A change of a key or of a workspace by hand, in SQL, leaves an audit event in the chain: what it was and what it
-- became. The service writes its events itself, in the transaction of the change. So a change is one by hand if its
-- transaction has no such event. That is known at the commit only, since some events are written after the change.

-- All are locked for a moment only, and given back when somebody holds one of them for long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE workspace, key, key_hat, pending_audit_event, pending_change IN ACCESS EXCLUSIVE MODE;
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

-- No transaction that is under way has a row in it. A row with `by_hand` is an event only if the transaction writes
-- none of its own about the key or the workspace.
ALTER TABLE pending_audit_event ADD COLUMN by_hand boolean NOT NULL DEFAULT false;
CREATE INDEX pending_audit_event_key ON pending_audit_event (transaction, key_id) WHERE key_id IS NOT NULL;
CREATE INDEX pending_audit_event_by_hand ON pending_audit_event (transaction) WHERE by_hand;

ALTER FUNCTION audit_bounded(jsonb, integer) STRICT;
-- Returns an object without what is null, and each long value of it replaced by its SHA-256; other values as they are.
CREATE FUNCTION audit_whole(value jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE STRICT AS $$
    SELECT CASE jsonb_typeof(value) WHEN 'object'
           THEN (SELECT jsonb_object_agg(name, audit_bounded(member, 1024))
                 FROM jsonb_each(jsonb_strip_nulls(value)) AS each (name, member))
           ELSE audit_bounded(value, 1024) END
$$;

-- Returns the entries `[path, before, after]` of a diff: one of each field that differs, or one of the whole if it is
-- new or gone. A long value is replaced by its SHA-256.
CREATE FUNCTION audit_diff(path text, was jsonb, became jsonb) RETURNS jsonb LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE WHEN was IS NULL OR became IS NULL
                THEN jsonb_build_array(jsonb_build_array(path, audit_whole(was), audit_whole(became)))
                ELSE (SELECT coalesce(jsonb_agg(jsonb_build_array(
                                 concat(path, CASE WHEN path <> '' THEN '.' END, name),
                                 audit_bounded(nullif(was -> name, 'null'), 1024),
                                 audit_bounded(nullif(became -> name, 'null'), 1024)) ORDER BY name), '[]')
                      FROM jsonb_object_keys(was || became) AS name
                      WHERE nullif(was -> name, 'null') IS DISTINCT FROM nullif(became -> name, 'null')) END
$$;

-- Notes a change that is an event if it was made by hand.
CREATE FUNCTION note_by_hand(changed_workspace text, changed_key uuid, noted jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
    INSERT INTO pending_audit_event (first, at, action, workspace_id, key_id, caller, peer, details, by_hand)
    VALUES (NOT EXISTS (SELECT FROM pending_audit_event WHERE transaction = pg_current_xact_id()),
            now(), CASE WHEN changed_key IS NULL THEN 'workspace.changed' ELSE 'key.changed' END,
            changed_workspace, changed_key, concat('database:', session_user),
            CASE family(inet_client_addr())
                WHEN 4 THEN concat('ipv4:', host(inet_client_addr()), ':', inet_client_port())
                WHEN 6 THEN concat('ipv6:[', host(inet_client_addr()), ']:', inet_client_port())
                ELSE 'unix:' END,
            noted, true)
$$;
REVOKE EXECUTE ON FUNCTION note_by_hand(text, uuid, jsonb) FROM PUBLIC;

-- At the commit, when the transaction has written its events. Nothing has to be kept until then: Postgres brings what
-- the row was.
CREATE FUNCTION note_key_by_hand() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    diff jsonb;
    -- What nobody may read, and what changes with each use and each change.
    others text[] := '{secret_hash,guarded_hash,request_digest,version,updated_at,last_used_at,used_on}';
BEGIN
    IF EXISTS (SELECT FROM pending_audit_event
               WHERE transaction = pg_current_xact_id() AND key_id = coalesce(NEW.id, OLD.id) AND NOT by_hand) THEN
        RETURN NULL;
    -- The event of a rotation is one of the predecessor.
    ELSIF TG_OP = 'INSERT' AND EXISTS (SELECT FROM pending_audit_event
                                       WHERE transaction = pg_current_xact_id() AND key_id = NEW.predecessor_id
                                         AND details ->> 'successor_id' = NEW.id::text AND NOT by_hand) THEN
        RETURN NULL;
    ELSIF TG_OP = 'UPDATE' AND TG_ARGV[0] = 'secret' THEN
        diff := '[["secret", null, "replaced"]]';
    ELSIF TG_OP = 'UPDATE' THEN
        diff := audit_diff('', to_jsonb(OLD) - others, to_jsonb(NEW) - others);
    ELSE
        diff := audit_diff('key', CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) - others END,
                                  CASE TG_OP WHEN 'INSERT' THEN to_jsonb(NEW) - others || jsonb_build_object(
                                      'hat_ids', (SELECT jsonb_agg(hat_id ORDER BY hat_id) FROM key_hat
                                                  WHERE key_id = NEW.id)) END);
    END IF;
    PERFORM note_by_hand(
        coalesce(NEW.workspace_id, OLD.workspace_id), coalesce(NEW.id, OLD.id),
        jsonb_build_object('user_id', coalesce(NEW.user_id, OLD.user_id),
                           'runtime_id', coalesce(NEW.runtime_id, OLD.runtime_id), 'diff', diff));
    RETURN NULL;
END $$;

-- These fire in ordinary sessions only: what arrives by logical replication has its event from where it comes.
CREATE CONSTRAINT TRIGGER key_by_hand_added AFTER INSERT ON key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_key_by_hand();
CREATE CONSTRAINT TRIGGER key_by_hand_removed AFTER DELETE ON key
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_key_by_hand();
-- All columns but the hashes, and those that change when a key is used.
CREATE CONSTRAINT TRIGGER key_by_hand_updated AFTER UPDATE OF
    id, type, workspace_id, user_id, runtime_id, description, limited_to_hats, request_caller, request_id, created_at,
    created_by_id, revoked_at, revoked_by_id, revoke_reason, created_by_kind, revoked_by_kind, expires_at, suspended_at,
    suspended_by_kind, suspended_by_id, suspend_reason, family_id, predecessor_id, labels, unrotated_expires_at,
    networks
    ON key DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.* IS DISTINCT FROM NEW.*) EXECUTE FUNCTION note_key_by_hand();
-- A hash that the service renews for the same secret is no change: see `key_change`.
CREATE CONSTRAINT TRIGGER key_by_hand_secret AFTER UPDATE OF secret_hash, guarded_hash, request_digest
    ON key DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.request_digest IS DISTINCT FROM NEW.request_digest
          OR coalesce(OLD.secret_hash, OLD.guarded_hash) <> coalesce(NEW.secret_hash, NEW.guarded_hash)
          AND coalesce(NEW.secret_hash, NEW.guarded_hash)
              IS DISTINCT FROM current_setting('skilder_keys.renewed_hash', true))
    EXECUTE FUNCTION note_key_by_hand('secret');

CREATE FUNCTION note_limit_by_hand(changed_workspace text, changed_key uuid, removed jsonb, added jsonb) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
    SELECT note_by_hand(changed_workspace, changed_key, jsonb_build_object(
        'user_id', (SELECT user_id FROM key WHERE id = changed_key),
        'runtime_id', (SELECT runtime_id FROM key WHERE id = changed_key),
        'diff', CASE WHEN removed IS NULL THEN '[]' ELSE audit_diff('hat_ids.removed', removed, NULL) END
                || CASE WHEN added IS NULL THEN '[]' ELSE audit_diff('hat_ids.added', NULL, added) END))
$$;
REVOKE EXECUTE ON FUNCTION note_limit_by_hand(text, uuid, jsonb, jsonb) FROM PUBLIC;

CREATE FUNCTION note_hats_by_hand() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- Those of a key that the transaction has made are in the entry of the key.
        PERFORM note_limit_by_hand(workspace_id, key_id, NULL, jsonb_agg(hat_id ORDER BY hat_id)) FROM changed
        WHERE NOT EXISTS (SELECT FROM key WHERE id = key_id AND created_at = now())
        GROUP BY workspace_id, key_id;
    ELSIF TG_OP = 'DELETE' THEN
        PERFORM note_limit_by_hand(workspace_id, key_id, jsonb_agg(hat_id ORDER BY hat_id), NULL) FROM before
        GROUP BY workspace_id, key_id;
    ELSE
        PERFORM note_limit_by_hand(workspace_id, key_id,
                                   jsonb_agg(hat_id ORDER BY hat_id) FILTER (WHERE is_removed),
                                   jsonb_agg(hat_id ORDER BY hat_id) FILTER (WHERE NOT is_removed))
        FROM (SELECT true AS is_removed, removed.* FROM (TABLE before EXCEPT TABLE changed) AS removed
              UNION ALL SELECT false, added.* FROM (TABLE changed EXCEPT TABLE before) AS added) AS differing
        GROUP BY workspace_id, key_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER key_hat_by_hand_added AFTER INSERT ON key_hat
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hats_by_hand();
CREATE TRIGGER key_hat_by_hand_removed AFTER DELETE ON key_hat
    REFERENCING OLD TABLE AS before FOR EACH STATEMENT EXECUTE FUNCTION note_hats_by_hand();
CREATE TRIGGER key_hat_by_hand_updated AFTER UPDATE ON key_hat
    REFERENCING OLD TABLE AS before NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION note_hats_by_hand();

-- A workspace itself: its name, its key policy, its end.
CREATE FUNCTION note_workspace_by_hand() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    others text[] := '{version,created_at,updated_at,unused_rule_since}';
BEGIN
    IF EXISTS (SELECT FROM pending_audit_event
               WHERE transaction = pg_current_xact_id() AND workspace_id = NEW.id AND key_id IS NULL AND NOT by_hand
                 AND action LIKE 'workspace.%') THEN
        RETURN NULL;
    END IF;
    PERFORM note_by_hand(NEW.id, NULL, jsonb_build_object('diff', audit_diff(
        'workspace', CASE TG_OP WHEN 'UPDATE' THEN to_jsonb(OLD) - others END, to_jsonb(NEW) - others)));
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER workspace_by_hand_added AFTER INSERT ON workspace
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note_workspace_by_hand();
CREATE CONSTRAINT TRIGGER workspace_by_hand_updated AFTER UPDATE OF
    id, name, deleted_at, max_lifetime, max_active_keys_per_user, require_hat_limit, unique_descriptions,
    revoke_unused_after
    ON workspace DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN ((OLD.id, OLD.name, OLD.deleted_at, OLD.max_lifetime, OLD.max_active_keys_per_user, OLD.require_hat_limit,
           OLD.unique_descriptions, OLD.revoke_unused_after)
          IS DISTINCT FROM
          (NEW.id, NEW.name, NEW.deleted_at, NEW.max_lifetime, NEW.max_active_keys_per_user, NEW.require_hat_limit,
           NEW.unique_descriptions, NEW.revoke_unused_after))
    EXECUTE FUNCTION note_workspace_by_hand();

-- The parts of a workspace, of one statement at a time; at most a thousand of a workspace, and 96 KiB. The service
-- writes its event before them, so nothing is looked at twice.
CREATE FUNCTION differing_parts(tablename text, operation text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE
        WHEN operation = 'INSERT' THEN format(
            'SELECT workspace_id, %1$I AS part_id, NULL::jsonb AS was, to_jsonb(changed) AS became FROM changed', id)
        WHEN operation = 'DELETE' THEN format(
            'SELECT workspace_id, %1$I AS part_id, to_jsonb(changed) AS was, NULL::jsonb AS became FROM changed', id)
        -- A link has no fields: one that is another one is gone, and the other one new.
        WHEN is_link THEN format(
            'SELECT workspace_id, %1$I AS part_id, to_jsonb(gone) AS was, NULL::jsonb AS became
             FROM (TABLE before EXCEPT TABLE changed) AS gone
             UNION ALL SELECT workspace_id, %1$I, NULL, to_jsonb(new)
             FROM (TABLE changed EXCEPT TABLE before) AS new', id)
        ELSE format(
            'SELECT workspace_id, %1$I AS part_id, to_jsonb(gone) AS was, to_jsonb(new) AS became
             FROM (TABLE before EXCEPT TABLE changed) AS gone
             FULL JOIN (TABLE changed EXCEPT TABLE before) AS new USING (workspace_id, %1$I)', id)
    END
    FROM (SELECT CASE WHEN tablename IN ('member', 'team_member') THEN 'user_id'
                      WHEN tablename IN ('hat_team', 'hat_skill') THEN 'hat_id'
                      WHEN tablename = 'skill_tool' THEN 'skill_id' ELSE 'id' END AS id,
                 tablename LIKE '%\_%' AS is_link) AS known
$$;

DO $$
DECLARE
    change record;
    definition text;
BEGIN
    FOR change IN SELECT * FROM (VALUES
        ('note_parts()', E'    changed_ids text[];\n', E'    changed_ids text[];\n    noted_ids text[];\n'),
        ('note_parts()', E'    -- Once a transaction: an apply gives a new version before it writes parts.\n',
         $code$    IF current_setting('session_replication_role') <> 'replica' THEN
        noted_ids := ARRAY(
            SELECT id FROM unnest(changed_ids) AS id WHERE NOT EXISTS (
                SELECT FROM pending_audit_event WHERE transaction = pg_current_xact_id() AND workspace_id = id
                  AND key_id IS NULL AND NOT by_hand AND action LIKE 'workspace.%'
            )
        );
        IF TG_OP = 'TRUNCATE' THEN
            PERFORM note_by_hand(id, NULL, jsonb_build_object('diff', audit_diff(TG_TABLE_NAME, '"all"', NULL)))
            FROM unnest(noted_ids) AS id;
        ELSIF cardinality(noted_ids) > 0 THEN
            EXECUTE format(
                'SELECT note_by_hand(workspace_id, NULL, jsonb_build_object(''diff'', jsonb_agg(entry ORDER BY place))
                                     || CASE WHEN total > max(place)
                                             THEN jsonb_build_object(''diff_left_out'', total - max(place))
                                             ELSE ''{}'' END)
                 FROM (SELECT *, sum(octet_length(entries::text))
                                     OVER (PARTITION BY workspace_id ORDER BY place) AS size
                       FROM (SELECT workspace_id, place, total,
                                    audit_diff($2 || ''.'' || part_id, was - $3, became - $3) AS entries
                             FROM (SELECT *, row_number() OVER (PARTITION BY workspace_id ORDER BY part_id) AS place,
                                          count(*) OVER (PARTITION BY workspace_id) AS total
                                   FROM (%s) AS differing) AS counted
                             WHERE place <= 1000 AND workspace_id = ANY($1)) AS noted) AS sized
                 CROSS JOIN LATERAL jsonb_array_elements(entries) AS entry
                 WHERE size <= 96 * 1024 OR place = 1 GROUP BY workspace_id, total',
                differing_parts(TG_TABLE_NAME, TG_OP))
            USING noted_ids, TG_TABLE_NAME, ARRAY['workspace_id', id_column];
        END IF;
    END IF;
    -- Once a transaction: an apply gives a new version before it writes parts.
$code$),
        -- The fence and the chain of events come after all else that happens at the commit, so that each change by hand
        -- is noted, and the locks that all share are taken last and in order.
        ('record_changes()', E'BEGIN\n    PERFORM chain_audit_events(NEW.transaction);\n', $code$BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE pending_change SET first = true WHERE transaction = NEW.transaction AND number = NEW.number;
        RETURN NULL;
    END IF;
    PERFORM chain_audit_events(NEW.transaction);
$code$),
        ('record_audit_events()', E'BEGIN\n    PERFORM chain_audit_events(NEW.transaction);\n', $code$BEGIN
    IF TG_OP = 'INSERT' THEN
        UPDATE pending_audit_event SET first = true WHERE transaction = NEW.transaction AND sequence = NEW.sequence;
        RETURN NULL;
    END IF;
    PERFORM chain_audit_events(NEW.transaction);
$code$),
        ('chain_audit_events(xid8)', E'BEGIN\n    PERFORM set_config(', $code$BEGIN
    IF EXISTS (SELECT FROM pending_audit_event WHERE transaction = of_transaction AND by_hand) THEN
        -- No change by hand is what the transaction has an event of its own about.
        DELETE FROM pending_audit_event AS noted
        WHERE transaction = of_transaction AND by_hand AND (
            NOT EXISTS (SELECT FROM workspace WHERE id = noted.workspace_id)
            OR EXISTS (SELECT FROM pending_audit_event AS own
                       WHERE own.transaction = of_transaction AND NOT own.by_hand AND noted.key_id IS NULL
                         AND own.key_id IS NULL AND own.workspace_id = noted.workspace_id
                         AND own.action LIKE 'workspace.%')
            OR EXISTS (SELECT FROM pending_audit_event AS own
                       WHERE own.transaction = of_transaction AND NOT own.by_hand AND own.key_id = noted.key_id)
            OR EXISTS (SELECT FROM key JOIN pending_audit_event AS own ON own.key_id = key.predecessor_id
                       WHERE key.id = noted.key_id AND own.transaction = of_transaction AND NOT own.by_hand
                         AND own.details ->> 'successor_id' = noted.key_id::text)
        );
    END IF;
    PERFORM set_config($code$)
    ) AS changes (name, place, code)
    LOOP
        definition := pg_get_functiondef(change.name::regprocedure);
        IF strpos(definition, change.place) = 0 THEN
            RAISE EXCEPTION '% is not as it was', change.name;
        END IF;
        EXECUTE replace(definition, change.place, change.code);
    END LOOP;
END $$;
CREATE CONSTRAINT TRIGGER pending_change_record_last AFTER UPDATE ON pending_change
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION record_changes();
ALTER TABLE pending_change ENABLE ALWAYS TRIGGER pending_change_record_last;
CREATE CONSTRAINT TRIGGER pending_audit_event_record_last AFTER UPDATE ON pending_audit_event
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION record_audit_events();
ALTER TABLE pending_audit_event ENABLE ALWAYS TRIGGER pending_audit_event_record_last;

-- Whatever the session's search_path and its plans: see 0015.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY
        ARRAY['audit_whole(jsonb)', 'audit_diff(text, jsonb, jsonb)', 'note_by_hand(text, uuid, jsonb)',
              'note_key_by_hand()', 'note_limit_by_hand(text, uuid, jsonb, jsonb)', 'note_hats_by_hand()',
              'note_workspace_by_hand()']
    LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('ALTER FUNCTION %s SET enable_seqscan = off', name);
        EXECUTE format('ALTER FUNCTION %s SET jit = off', name);
    END LOOP;
END $$;
