-- Changes by hand and by logical replication that passed the fence unseen, and the version of a workspace, which must
-- never stand for two states. No trigger is dropped, since that would make every reader of its table wait.

-- Changes are kept out while the triggers are made. The service locks a workspace before its parts, and a change by hand
-- a part before its workspace. So no order is safe, and the locks are given back when one of them takes long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE workspace, member, team, team_member, hat, hat_team, hat_skill, skill, skill_tool, tool, key
                IN SHARE ROW EXCLUSIVE MODE;
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

-- The version of a workspace names one state of it, since a process without a lease uses what it has read of that
-- version. So the version never goes back. It moves on if the workspace is deleted or restored, and with every change
-- that comes by logical replication: the other database gives versions of its own.
CREATE FUNCTION keep_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    NEW.version := OLD.version;
    -- Once a transaction.
    IF OLD.id <> NEW.id OR NOT EXISTS (
        SELECT FROM pending_change
        WHERE transaction = pg_current_xact_id() AND workspace_id = OLD.id AND key_id IS NULL AND part_id IS NULL
          AND part IN ('new', 'version')
    ) THEN
        NEW.version := OLD.version + 1;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER workspace_keep_version BEFORE UPDATE ON workspace FOR EACH ROW
    WHEN (NEW.version <= OLD.version
          AND (NEW.version < OLD.version OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at OR OLD.id <> NEW.id
               OR current_setting('session_replication_role') = 'replica'))
    EXECUTE FUNCTION keep_version();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_keep_version;

CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    is_first boolean := NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id());
BEGIN
    IF TG_TABLE_NAME = 'key' THEN
        INSERT INTO pending_change (key_id, workspace_id, first) VALUES (OLD.id, OLD.workspace_id, is_first);
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO pending_change (workspace_id, part, first) VALUES (NEW.id, 'new', is_first);
        -- A key without its workspace exists where foreign keys are not checked. Who has seen such a key has noted in
        -- memory that there is no workspace.
        IF EXISTS (SELECT FROM key WHERE workspace_id = NEW.id) THEN
            INSERT INTO pending_change (workspace_id, part, first) VALUES (NEW.id, 'workspace', false);
        END IF;
    ELSE
        IF TG_OP = 'DELETE' OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at OR OLD.id <> NEW.id
            -- Changes of parts that arrive by logical replication fire no trigger for statements.
            OR current_setting('session_replication_role') = 'replica' THEN
            INSERT INTO pending_change (workspace_id, part, first) VALUES (OLD.id, 'workspace', is_first);
            is_first := false;
        END IF;
        IF NEW.version > OLD.version THEN
            INSERT INTO pending_change (workspace_id, part, first) VALUES (OLD.id, 'version', is_first);
        END IF;
        IF OLD.id <> NEW.id THEN
            INSERT INTO pending_change (workspace_id, part, first) VALUES (NEW.id, 'workspace', false);
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- A part that arrives by logical replication touches its whole workspace, whether or not the workspace's row comes with
-- it: the new version that it makes fires `workspace_change`. In other sessions these triggers cost nothing.
CREATE FUNCTION note_replicated_part() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    UPDATE workspace SET version = version + 1, updated_at = now()
    WHERE id IN (OLD.workspace_id, NEW.workspace_id) AND deleted_at IS NULL AND NOT EXISTS (
        SELECT FROM pending_change
        WHERE transaction = pg_current_xact_id() AND workspace_id = workspace.id AND key_id IS NULL AND part_id IS NULL
          AND part IN ('new', 'version')
    );
    RETURN NULL;
END $$;
DO $$
DECLARE
    part text;
BEGIN
    FOREACH part IN ARRAY
        ARRAY['member', 'team', 'team_member', 'hat', 'hat_team', 'hat_skill', 'skill', 'skill_tool', 'tool']
    LOOP
        EXECUTE format(
            'CREATE TRIGGER %1$s_replicated AFTER INSERT OR UPDATE OR DELETE ON %1$I
                 FOR EACH ROW EXECUTE FUNCTION note_replicated_part();
             ALTER TABLE %1$I ENABLE REPLICA TRIGGER %1$s_replicated;', part);
    END LOOP;
END $$;

-- Nobody has the key in memory that this transaction has made, so its limit needs no note. The name of that key is kept
-- in a setting, which a rollback takes back. (That this transaction has written the row of a key does not make it new.)
CREATE FUNCTION mark_new_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('skilder_keys.new_key', concat(pg_current_xact_id(), ' ', NEW.id), true);
    RETURN NULL;
END $$;
-- After the row is there: an INSERT may find the key there already and do nothing.
CREATE TRIGGER key_added AFTER INSERT ON key FOR EACH ROW WHEN (NEW.limited_to_hats) EXECUTE FUNCTION mark_new_key();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_added;
CREATE OR REPLACE FUNCTION note_limit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO pending_change (key_id, workspace_id, first)
    SELECT key.id, key.workspace_id,
           NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id())
           AND row_number() OVER () = 1
    FROM key WHERE key.id IN (OLD.key_id, NEW.key_id)
      AND concat(pg_current_xact_id(), ' ', key.id) IS DISTINCT FROM current_setting('skilder_keys.new_key', true);
    RETURN NULL;
END $$;

-- A change of everything has two rows. Older workers count the rows, and take each for a change: as one row it looked
-- like a change that touches nothing.
INSERT INTO change (epoch, sequence, previous_tag, next_tag)
SELECT epoch, sequence + 1, previous_tag, next_tag FROM change WHERE key_id IS NULL AND workspace_id IS NULL;
-- Makes one change of all that a transaction has touched.
CREATE OR REPLACE FUNCTION record_changes() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    touched_workspaces text[];
    touched_parts text[];
    touched_ids text[];  -- of keys, where there is no part
    current_epoch bigint;
    current_tag bigint;
    new_tag bigint := ('x' || right(replace(gen_random_uuid()::text, '-', ''), 16))::bit(64)::bigint;
BEGIN
    WITH noted AS (
        DELETE FROM pending_change WHERE transaction = NEW.transaction RETURNING workspace_id, key_id, part, part_id
    ), changed AS (
        SELECT workspace_id, coalesce(bool_or(part = 'workspace'), false) AS is_whole FROM noted GROUP BY workspace_id
        HAVING bool_or(part = 'workspace') OR bool_or(part = 'new') IS NOT TRUE
    ), grouped AS (
        SELECT workspace_id, part, array_agg(DISTINCT coalesce(key_id::text, part_id)) AS ids
        FROM noted JOIN changed USING (workspace_id)
        WHERE part IS NULL OR part = 'workspace' OR (part NOT IN ('new', 'version') AND NOT is_whole)
        GROUP BY workspace_id, part
    ), touched AS (
        SELECT workspace_id, part, unnest(
            CASE WHEN array_position(ids, NULL) IS NOT NULL
                      OR cardinality(ids) > CASE WHEN part IS NULL THEN 1000 ELSE 100 END
                 THEN ARRAY[NULL] ELSE ids END) AS id
        FROM grouped
    )
    SELECT array_agg(workspace_id), array_agg(part), array_agg(id)
    INTO touched_workspaces, touched_parts, touched_ids FROM touched;
    IF touched_workspaces IS NULL THEN
        RETURN NULL;
    ELSIF cardinality(touched_workspaces) > 2000 THEN
        -- Everything, so that no change is too large to be applied at once.
        touched_workspaces := '{NULL,NULL}';
        touched_parts := '{NULL,NULL}';
        touched_ids := '{NULL,NULL}';
    END IF;
    -- The lock that all changes share is taken last.
    SELECT epoch, tag INTO STRICT current_epoch, current_tag FROM fence FOR UPDATE;
    INSERT INTO change (epoch, sequence, key_id, workspace_id, part, part_id, previous_tag, next_tag, tag)
    SELECT current_epoch + 1, sequence,
           CASE WHEN part IS NULL THEN id::uuid END,
           CASE WHEN part IS NOT NULL OR id IS NULL THEN workspace_id END,
           part,
           CASE WHEN part IS NOT NULL THEN id END,
           current_tag, new_tag,
           CASE WHEN cardinality(touched_workspaces) = 1 AND workspace_id IS NOT NULL THEN new_tag END
    FROM unnest(touched_workspaces, touched_parts, touched_ids) WITH ORDINALITY AS touched (workspace_id, part, id, sequence);
    UPDATE fence SET epoch = current_epoch + 1, tag = new_tag;
    PERFORM pg_notify('skilder_keys_change', '');
    RETURN NULL;
END $$;

-- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name. Plans use
-- indexes, as a session keeps a plan that reads all of a small table while the table grows. `fence` has no index that
-- helps. That makes the plan look so costly that Postgres would compile it, for longer than the whole change takes.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY
        ARRAY['keep_version', 'mark_new_key', 'note_change', 'note_limit', 'note_parts', 'note_replicated_part',
              'record_changes']
    LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
        EXECUTE format('ALTER FUNCTION %I() SET enable_seqscan = off', name);
        EXECUTE format('ALTER FUNCTION %I() SET jit = off', name);
    END LOOP;
END $$;
