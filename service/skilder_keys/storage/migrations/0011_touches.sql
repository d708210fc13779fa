-- A change says what it touches: keys, or parts of workspaces. A transaction is one change, with a row for each of them.
-- No trigger is dropped, since that would make every reader of its table wait.

-- Changes are kept out while the functions of their triggers are replaced. Whoever waits here uses the new ones.
LOCK TABLE workspace, member, team, team_member, hat, hat_team, hat_skill, skill, skill_tool, tool, key, key_hat
    IN SHARE ROW EXCLUSIVE MODE;

-- Without a key and a part, a row touches all keys of its workspace; without a workspace, everything. Rows of a
-- workspace from before this migration touch everything in it, and only older workers read those.
ALTER TABLE change
    ADD COLUMN sequence integer NOT NULL DEFAULT 1,
    ADD COLUMN part     text    CHECK (part IN ('workspace', 'member', 'team', 'hat', 'skill', 'tool')),
    ADD COLUMN part_id  text,  -- null: all of the kind
    ADD COLUMN next_tag bigint  NOT NULL DEFAULT 0,
    -- For older workers, which take a row for a whole change: null where it is not. No heartbeat of theirs acknowledges
    -- that, so they register again. They take a row with a part for one of the whole workspace.
    ALTER COLUMN tag DROP NOT NULL,
    ALTER COLUMN tag DROP DEFAULT,
    DROP CONSTRAINT change_check,
    ADD CONSTRAINT change_check CHECK (num_nonnulls(key_id, workspace_id) <= 1),
    ADD CONSTRAINT change_part_of_workspace_check CHECK (part IS NULL OR workspace_id IS NOT NULL),
    ADD CONSTRAINT change_part_id_check CHECK (part_id IS NULL OR (part IS NOT NULL AND part <> 'workspace')),
    DROP CONSTRAINT change_pkey,
    ADD CONSTRAINT change_pkey PRIMARY KEY (epoch, sequence);
UPDATE change SET next_tag = tag;

-- Two parts are never recorded. `new`: the transaction made the workspace, so nobody has anything of it in memory.
-- `version`: the transaction has given it a new version.
ALTER TABLE pending_change
    ADD COLUMN part    text,
    ADD COLUMN part_id text;
CREATE INDEX pending_change_whole ON pending_change (transaction, workspace_id)
    WHERE key_id IS NULL AND part_id IS NULL;

CREATE OR REPLACE FUNCTION note_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    is_first boolean := NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id());
BEGIN
    IF TG_TABLE_NAME = 'key' THEN
        INSERT INTO pending_change (key_id, workspace_id, first) VALUES (OLD.id, OLD.workspace_id, is_first);
    ELSIF TG_OP = 'INSERT' THEN
        INSERT INTO pending_change (workspace_id, part, first) VALUES (NEW.id, 'new', is_first);
    ELSE
        IF TG_OP = 'DELETE' OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at OR NEW.version < OLD.version
            -- Changes of parts that arrive by logical replication fire no trigger of the parts, only this one.
            OR current_setting('session_replication_role') = 'replica' THEN
            INSERT INTO pending_change (workspace_id, part, first) VALUES (OLD.id, 'workspace', is_first);
            is_first := false;
        END IF;
        IF NEW.version > OLD.version THEN
            INSERT INTO pending_change (workspace_id, part, first) VALUES (OLD.id, 'version', is_first);
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER workspace_added AFTER INSERT ON workspace FOR EACH ROW EXECUTE FUNCTION note_change();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_added;

-- Notes the parts that a statement has touched, and gives their workspaces a new version.
ALTER FUNCTION advance_workspace() RENAME TO note_parts;
CREATE OR REPLACE FUNCTION note_parts() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    noted_part text;  -- null: keys
    id_column text;
    -- Those that decide. Descriptions and instructions do not, nor does the name of a team.
    deciding text;
    changed_ids text[];
    touched text;
BEGIN
    -- A link is of the part that holds it.
    SELECT part, id, columns INTO STRICT noted_part, id_column, deciding FROM (VALUES
        ('member', 'member', 'user_id', 'role'),
        ('team', 'team', 'id', 'parent_id'),
        ('team_member', 'member', 'user_id', 'team_id'),
        ('hat', 'hat', 'id', 'name, audience'),
        ('hat_team', 'hat', 'hat_id', 'team_id'),
        ('hat_skill', 'hat', 'hat_id', 'skill_id'),
        ('skill', 'skill', 'id', 'name'),
        ('skill_tool', 'skill', 'skill_id', 'tool_id'),
        ('tool', 'tool', 'id', 'name, mcp_server, disabled'),
        ('key_hat', NULL, 'key_id', 'hat_id')
    ) AS known (name, part, id, columns) WHERE name = TG_TABLE_NAME;
    IF TG_OP = 'TRUNCATE' THEN
        changed_ids := ARRAY(SELECT id FROM workspace WHERE deleted_at IS NULL);
        touched := 'SELECT unnest($2) AS workspace_id, NULL AS part_id';
    ELSIF TG_OP = 'UPDATE' THEN
        changed_ids := ARRAY(SELECT workspace_id FROM before UNION SELECT workspace_id FROM changed);
        -- What only one of the two has, so nothing of a row that was written as it was.
        touched := format(
            'SELECT workspace_id, %1$I AS part_id FROM (
                 (SELECT workspace_id, %1$I, %2$s FROM before EXCEPT SELECT workspace_id, %1$I, %2$s FROM changed)
                 UNION ALL
                 (SELECT workspace_id, %1$I, %2$s FROM changed EXCEPT SELECT workspace_id, %1$I, %2$s FROM before)
             ) AS differing', id_column, deciding);
    ELSE
        changed_ids := ARRAY(SELECT DISTINCT workspace_id FROM changed);
        touched := format('SELECT workspace_id, %I AS part_id FROM changed', id_column);
    END IF;
    -- Once a transaction: an apply gives a new version before it writes parts.
    UPDATE workspace SET version = version + 1, updated_at = now()
    WHERE id = ANY(changed_ids) AND deleted_at IS NULL AND NOT EXISTS (
        SELECT FROM pending_change
        WHERE transaction = pg_current_xact_id() AND workspace_id = workspace.id AND key_id IS NULL AND part_id IS NULL
          AND part IN ('new', 'version')
    );
    changed_ids := ARRAY(
        SELECT id FROM unnest(changed_ids) AS id
        WHERE NOT EXISTS (
            SELECT FROM pending_change
            WHERE transaction = pg_current_xact_id() AND workspace_id = id AND key_id IS NULL AND part_id IS NULL
              AND (part = 'new' OR part IS NOT DISTINCT FROM noted_part OR part = 'workspace' AND noted_part IS NOT NULL)
        )
    );
    IF cardinality(changed_ids) > 0 THEN
        EXECUTE format(
            'INSERT INTO pending_change (workspace_id, part, part_id, first)
             SELECT workspace_id, $1, part_id,
                    NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id())
                    AND row_number() OVER () = 1
             FROM (
                 -- More than a hundred are noted as all of their kind, so that a large change costs little.
                 SELECT workspace_id,
                        unnest(CASE WHEN count(*) > 100 THEN ARRAY[NULL] ELSE array_agg(part_id) END) AS part_id
                 FROM (SELECT DISTINCT workspace_id, part_id FROM (%s) AS touched) AS once
                 WHERE workspace_id = ANY($2) GROUP BY workspace_id
             ) AS noted', touched)
        USING noted_part, changed_ids;
    END IF;
    RETURN NULL;
END $$;

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
        touched_workspaces := '{NULL}';
        touched_parts := '{NULL}';
        touched_ids := '{NULL}';
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

-- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['note_change', 'note_parts', 'record_changes'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;
