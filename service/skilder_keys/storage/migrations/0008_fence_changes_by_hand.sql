-- Every change of what a key may do passes the fence, also one made by hand to a part of a workspace, or to a key's limit.

-- A part that is changed by other means than an apply makes a new version of its workspace, as tool sets in memory are
-- found by that, and the workspace's own trigger notes the change.
CREATE FUNCTION advance_workspace() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    changed_ids text[];
BEGIN
    IF TG_OP = 'TRUNCATE' THEN
        changed_ids := ARRAY(SELECT id FROM workspace);
    ELSIF TG_OP = 'UPDATE' THEN
        changed_ids := ARRAY(SELECT workspace_id FROM before UNION SELECT workspace_id FROM changed);
    ELSE
        changed_ids := ARRAY(SELECT DISTINCT workspace_id FROM changed);
    END IF;
    UPDATE workspace SET version = version + 1, updated_at = now()
    WHERE id = ANY(changed_ids) AND deleted_at IS NULL
      -- Not again where this transaction has written the workspace already, as an apply and a deletion do first.
      AND xmin <> pg_current_xact_id()::xid;
    RETURN NULL;
END $$;

-- Of a key that is new in this transaction nobody can hold anything in memory.
CREATE FUNCTION note_limit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    INSERT INTO pending_change (key_id, workspace_id, first)
    SELECT key.id, key.workspace_id,
           NOT EXISTS (SELECT FROM pending_change WHERE transaction = pg_current_xact_id())
           AND row_number() OVER () = 1
    FROM key WHERE key.id IN (OLD.key_id, NEW.key_id) AND key.xmin <> pg_current_xact_id()::xid;
    RETURN NULL;
END $$;
CREATE TRIGGER key_hat_change AFTER INSERT OR UPDATE OR DELETE ON key_hat
    FOR EACH ROW EXECUTE FUNCTION note_limit();
CREATE TRIGGER key_hat_emptied AFTER TRUNCATE ON key_hat FOR EACH STATEMENT EXECUTE FUNCTION advance_workspace();
ALTER TABLE key_hat ENABLE ALWAYS TRIGGER key_hat_change;
ALTER TABLE key_hat ENABLE ALWAYS TRIGGER key_hat_emptied;

DO $$
DECLARE
    part text;
    name text;
BEGIN
    FOREACH part IN ARRAY
        ARRAY['member', 'team', 'team_member', 'hat', 'hat_team', 'hat_skill', 'skill', 'skill_tool', 'tool']
    LOOP
        EXECUTE format(
            'CREATE TRIGGER %1$s_added AFTER INSERT ON %1$I REFERENCING NEW TABLE AS changed
                 FOR EACH STATEMENT EXECUTE FUNCTION advance_workspace();
             CREATE TRIGGER %1$s_updated AFTER UPDATE ON %1$I REFERENCING OLD TABLE AS before NEW TABLE AS changed
                 FOR EACH STATEMENT EXECUTE FUNCTION advance_workspace();
             CREATE TRIGGER %1$s_removed AFTER DELETE ON %1$I REFERENCING OLD TABLE AS changed
                 FOR EACH STATEMENT EXECUTE FUNCTION advance_workspace();
             CREATE TRIGGER %1$s_emptied AFTER TRUNCATE ON %1$I
                 FOR EACH STATEMENT EXECUTE FUNCTION advance_workspace();', part);
        FOREACH name IN ARRAY ARRAY['added', 'updated', 'removed', 'emptied'] LOOP
            EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', part, part || '_' || name);
        END LOOP;
    END LOOP;
    -- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name.
    FOREACH name IN ARRAY ARRAY['advance_workspace', 'note_limit'] LOOP
        EXECUTE format('ALTER FUNCTION %I() SET search_path = %I, pg_temp', name, current_schema());
    END LOOP;
END $$;

-- A grant holds the key's description too.
DROP TRIGGER key_change ON key;
CREATE TRIGGER key_change AFTER UPDATE ON key FOR EACH ROW
    WHEN (OLD.revoked_at IS DISTINCT FROM NEW.revoked_at
          OR OLD.description <> NEW.description
          OR (OLD.secret_hash <> NEW.secret_hash
              AND NEW.secret_hash IS DISTINCT FROM current_setting('skilder_keys.renewed_hash', true)))
    EXECUTE FUNCTION note_change();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_change;
