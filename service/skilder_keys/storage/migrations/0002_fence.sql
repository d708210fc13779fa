-- The fence: no process may answer from memory by a state that has been changed.

-- One row. Its lock puts the changes in order: the order of commits is the order of epochs.
CREATE TABLE fence (
    singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
    epoch     bigint  NOT NULL CHECK (epoch >= 0)
);
INSERT INTO fence (epoch) VALUES (0);

-- What changed at each epoch: a key, or a workspace with all its keys. Kept until every reader has applied it.
CREATE TABLE change (
    epoch        bigint PRIMARY KEY,
    key_id       uuid,
    workspace_id text,
    CHECK (num_nonnulls(key_id, workspace_id) = 1)
);

-- The processes that answer from memory, and the epoch each has applied. Not unlogged: a crash of Postgres must not
-- forget a reader whose lease still runs.
CREATE TABLE reader (
    id            uuid             PRIMARY KEY,
    epoch         bigint           NOT NULL,
    lease_seconds double precision NOT NULL CHECK (lease_seconds > 0)
) WITH (fillfactor = 50); -- room for the epoch to change in place

CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    reached bigint;
BEGIN
    UPDATE fence SET epoch = epoch + 1 RETURNING epoch INTO reached;
    IF TG_TABLE_NAME = 'key' THEN
        INSERT INTO change (epoch, key_id) VALUES (reached, NEW.id);
    ELSE
        INSERT INTO change (epoch, workspace_id) VALUES (reached, NEW.id);
    END IF;
    PERFORM pg_notify('skilder_keys_change', '');
    RETURN NULL;
END $$;

-- Deferred, so that the one lock all changes share is taken last and held for no longer than the commit takes.
-- A trigger, so that a change made by hand passes the fence too.
CREATE CONSTRAINT TRIGGER key_change
    AFTER UPDATE OF revoked_at, secret_hash ON key DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    -- The hash of a key that was used is replaced only by another hash of the same secret, which changes nothing.
    WHEN (OLD.revoked_at IS DISTINCT FROM NEW.revoked_at
          OR (OLD.secret_hash <> NEW.secret_hash AND NEW.last_used_at IS NULL))
    EXECUTE FUNCTION record_change();
CREATE CONSTRAINT TRIGGER workspace_change
    AFTER UPDATE OF version, deleted_at ON workspace DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (OLD.version <> NEW.version OR OLD.deleted_at IS DISTINCT FROM NEW.deleted_at)
    EXECUTE FUNCTION record_change();
