-- Who issued and who revoked a key is a kind and an id, so that user ids may begin with anything. `caller:NAME` was a
-- caller. The old columns are gone: a worker of an earlier version fails, rather than write a key without a kind.

-- Its trigger names a column that gets another type.
DROP TRIGGER key_refuse_change ON key;
ALTER TABLE key RENAME COLUMN created_by TO created_by_id;
ALTER TABLE key RENAME COLUMN revoked_by TO revoked_by_id;
ALTER TABLE key
    DROP CONSTRAINT key_check4,
    ADD COLUMN created_by_kind text,
    ADD COLUMN revoked_by_kind text;
-- All in one statement, which writes each row once: an UPDATE would take several times as long, and leave the table
-- twice as large. Each USING sees the row as it was.
ALTER TABLE key
    ALTER COLUMN created_by_kind TYPE text
        USING CASE WHEN starts_with(created_by_id, 'caller:') THEN 'caller' ELSE 'user' END,
    ALTER COLUMN created_by_id TYPE text
        USING CASE WHEN starts_with(created_by_id, 'caller:') THEN substr(created_by_id, 8) ELSE created_by_id END,
    ALTER COLUMN revoked_by_kind TYPE text
        USING CASE WHEN starts_with(revoked_by_id, 'caller:') THEN 'caller'
                   WHEN revoked_by_id IS NOT NULL THEN 'user' END,
    ALTER COLUMN revoked_by_id TYPE text
        USING CASE WHEN starts_with(revoked_by_id, 'caller:') THEN substr(revoked_by_id, 8) ELSE revoked_by_id END,
    ALTER COLUMN created_by_kind SET NOT NULL,
    ADD CONSTRAINT key_created_by_kind_check CHECK (created_by_kind IN ('user', 'caller')),
    ADD CONSTRAINT key_revoked_by_kind_check CHECK (revoked_by_kind IN ('user', 'caller')),
    ADD CONSTRAINT key_revocation_check
        CHECK (num_nulls(revoked_at, revoked_by_kind, revoked_by_id, revoke_reason) IN (0, 4));

CREATE OR REPLACE FUNCTION refuse_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL
       AND (NEW.revoked_at, NEW.revoked_by_kind, NEW.revoked_by_id, NEW.revoke_reason, NEW.secret_hash)
           IS DISTINCT FROM
           (OLD.revoked_at, OLD.revoked_by_kind, OLD.revoked_by_id, OLD.revoke_reason, OLD.secret_hash) THEN
        RAISE EXCEPTION 'key % is revoked, which cannot be undone', OLD.id;
    END IF;
    IF (NEW.id, NEW.type, NEW.workspace_id, NEW.user_id, NEW.runtime_id, NEW.limited_to_hats, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.type, OLD.workspace_id, OLD.user_id, OLD.runtime_id, OLD.limited_to_hats, OLD.created_at) THEN
        RAISE EXCEPTION 'what key % is for cannot change', OLD.id;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER key_refuse_change
    BEFORE UPDATE OF id, type, workspace_id, user_id, runtime_id, limited_to_hats, created_at,
                     secret_hash, revoked_at, revoked_by_kind, revoked_by_id, revoke_reason
    ON key FOR EACH ROW EXECUTE FUNCTION refuse_key_change();
ALTER TABLE key ENABLE ALWAYS TRIGGER key_refuse_change;
