-- Workspaces, keys and the audit trail.
-- Constraints and triggers hold the model even where the code errs.

CREATE TABLE workspace (
    id          text        PRIMARY KEY CHECK (char_length(id) BETWEEN 1 AND 64),
    name        text        NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    version     bigint      NOT NULL CHECK (version >= 1),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    -- A deleted workspace stays as a row, so that its keys say so and its id is never used again.
    deleted_at  timestamptz
);

CREATE TABLE member (
    workspace_id text NOT NULL REFERENCES workspace,
    user_id      text NOT NULL CHECK (char_length(user_id) BETWEEN 1 AND 128),
    role         text NOT NULL CHECK (role IN ('admin', 'editor', 'viewer')),
    PRIMARY KEY (workspace_id, user_id)
);

CREATE TABLE team (
    workspace_id text NOT NULL REFERENCES workspace,
    id           text NOT NULL CHECK (char_length(id) BETWEEN 1 AND 64),
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    parent_id    text CHECK (parent_id <> id),
    PRIMARY KEY (workspace_id, id),
    -- Deferred, so that one statement may write teams in any order.
    FOREIGN KEY (workspace_id, parent_id) REFERENCES team DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE team_member (
    workspace_id text NOT NULL,
    team_id      text NOT NULL,
    user_id      text NOT NULL,
    PRIMARY KEY (workspace_id, user_id, team_id),
    FOREIGN KEY (workspace_id, team_id) REFERENCES team ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, user_id) REFERENCES member ON DELETE CASCADE
);

CREATE TABLE hat (
    workspace_id text NOT NULL REFERENCES workspace,
    id           text NOT NULL CHECK (char_length(id) BETWEEN 1 AND 64),
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    description  text NOT NULL CHECK (char_length(description) <= 500),
    instructions text NOT NULL CHECK (char_length(instructions) <= 10000),
    PRIMARY KEY (workspace_id, id)
);

CREATE TABLE hat_team (
    workspace_id text NOT NULL,
    hat_id       text NOT NULL,
    team_id      text NOT NULL,
    PRIMARY KEY (workspace_id, hat_id, team_id),
    FOREIGN KEY (workspace_id, hat_id) REFERENCES hat ON DELETE CASCADE,
    -- No cascade: a hat that lost its last team this way would serve the whole workspace.
    FOREIGN KEY (workspace_id, team_id) REFERENCES team DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE skill (
    workspace_id text NOT NULL REFERENCES workspace,
    id           text NOT NULL CHECK (char_length(id) BETWEEN 1 AND 64),
    name         text NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    description  text NOT NULL CHECK (char_length(description) <= 500),
    PRIMARY KEY (workspace_id, id)
);

CREATE TABLE hat_skill (
    workspace_id text NOT NULL,
    hat_id       text NOT NULL,
    skill_id     text NOT NULL,
    PRIMARY KEY (workspace_id, hat_id, skill_id),
    FOREIGN KEY (workspace_id, hat_id) REFERENCES hat ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, skill_id) REFERENCES skill ON DELETE CASCADE
);

CREATE TABLE tool (
    workspace_id text    NOT NULL REFERENCES workspace,
    id           text    NOT NULL CHECK (char_length(id) BETWEEN 1 AND 64),
    name         text    NOT NULL CHECK (char_length(name) BETWEEN 1 AND 128),
    mcp_server   text    NOT NULL CHECK (char_length(mcp_server) BETWEEN 1 AND 128),
    active       boolean NOT NULL,
    PRIMARY KEY (workspace_id, id),
    -- Deferred, so that two tools may swap their names.
    CONSTRAINT tool_name_key UNIQUE (workspace_id, mcp_server, name) DEFERRABLE INITIALLY DEFERRED
);

CREATE TABLE skill_tool (
    workspace_id text NOT NULL,
    skill_id     text NOT NULL,
    tool_id      text NOT NULL,
    PRIMARY KEY (workspace_id, skill_id, tool_id),
    FOREIGN KEY (workspace_id, skill_id) REFERENCES skill ON DELETE CASCADE,
    FOREIGN KEY (workspace_id, tool_id) REFERENCES tool ON DELETE CASCADE
);

-- Deleting from the far side of a link must find its rows without reading them all.
CREATE INDEX team_member_team ON team_member (workspace_id, team_id);
CREATE INDEX team_parent ON team (workspace_id, parent_id);
CREATE INDEX hat_team_team ON hat_team (workspace_id, team_id);
CREATE INDEX hat_skill_skill ON hat_skill (workspace_id, skill_id);
CREATE INDEX skill_tool_tool ON skill_tool (workspace_id, tool_id);

CREATE TABLE key (
    id              uuid        PRIMARY KEY,
    type            text        NOT NULL CHECK (type IN ('workspace', 'user', 'runtime')),
    workspace_id    text        NOT NULL REFERENCES workspace,
    user_id         text        CHECK (char_length(user_id) BETWEEN 1 AND 128),
    runtime_id      text        CHECK (char_length(runtime_id) BETWEEN 1 AND 128),
    description     text        NOT NULL CHECK (char_length(description) BETWEEN 1 AND 200),
    -- Of the secret alone, as a PHC string. The token is stored nowhere.
    secret_hash     text        NOT NULL CHECK (secret_hash LIKE '$argon2id$%'),
    limited_to_hats boolean     NOT NULL,
    request_caller  text,
    request_id      text        CHECK (char_length(request_id) BETWEEN 1 AND 64),
    -- Of all arguments, so that a retry can be told from another request even after a hat it named is gone.
    request_digest  bytea       CHECK (octet_length(request_digest) = 32),
    created_at      timestamptz NOT NULL DEFAULT now(),
    created_by      text        NOT NULL,
    last_used_at    timestamptz,
    revoked_at      timestamptz,
    revoked_by      text,
    revoke_reason   text        CHECK (char_length(revoke_reason) <= 500),
    UNIQUE (workspace_id, id),
    CONSTRAINT key_request UNIQUE (request_caller, request_id),
    CHECK ((type = 'user') = (user_id IS NOT NULL)),
    CHECK ((type = 'runtime') = (runtime_id IS NOT NULL)),
    CHECK (type <> 'runtime' OR NOT limited_to_hats),
    CHECK (num_nulls(request_caller, request_id, request_digest) IN (0, 3)),
    CHECK (num_nulls(revoked_at, revoked_by, revoke_reason) IN (0, 3))
) WITH (fillfactor = 90); -- room for last_used_at to change in place

-- A listing reads backwards through one of these or through the unique index on (workspace_id, id).
CREATE INDEX key_type_newest ON key (workspace_id, type, id);
CREATE INDEX key_user_newest ON key (workspace_id, user_id, id) WHERE user_id IS NOT NULL;
CREATE INDEX key_active_newest ON key (workspace_id, id) WHERE revoked_at IS NULL;
CREATE INDEX key_revoked_newest ON key (workspace_id, id) WHERE revoked_at IS NOT NULL;

CREATE TABLE key_hat (
    workspace_id text NOT NULL,
    key_id       uuid NOT NULL,
    hat_id       text NOT NULL,
    PRIMARY KEY (key_id, hat_id),
    FOREIGN KEY (workspace_id, key_id) REFERENCES key (workspace_id, id),
    -- A hat that goes takes itself from the keys limited to it; key.limited_to_hats keeps them limited.
    FOREIGN KEY (workspace_id, hat_id) REFERENCES hat ON DELETE CASCADE
);
CREATE INDEX key_hat_hat ON key_hat (workspace_id, hat_id);

CREATE FUNCTION refuse_key_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL
       AND (NEW.revoked_at, NEW.revoked_by, NEW.revoke_reason, NEW.secret_hash)
           IS DISTINCT FROM (OLD.revoked_at, OLD.revoked_by, OLD.revoke_reason, OLD.secret_hash) THEN
        RAISE EXCEPTION 'key % is revoked, which cannot be undone', OLD.id;
    END IF;
    IF (NEW.id, NEW.type, NEW.workspace_id, NEW.user_id, NEW.runtime_id, NEW.limited_to_hats, NEW.created_at)
       IS DISTINCT FROM
       (OLD.id, OLD.type, OLD.workspace_id, OLD.user_id, OLD.runtime_id, OLD.limited_to_hats, OLD.created_at) THEN
        RAISE EXCEPTION 'what key % is for cannot change', OLD.id;
    END IF;
    RETURN NEW;
END $$;
-- Not for last_used_at, the one column that changes all the time.
CREATE TRIGGER key_refuse_change
    BEFORE UPDATE OF id, type, workspace_id, user_id, runtime_id, limited_to_hats, created_at,
                     secret_hash, revoked_at, revoked_by, revoke_reason
    ON key FOR EACH ROW EXECUTE FUNCTION refuse_key_change();

CREATE TABLE audit_event (
    id           bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at           timestamptz NOT NULL DEFAULT now(),
    action       text        NOT NULL CHECK (action IN ('key.issued', 'key.renewed', 'key.revoked',
                                                        'workspace.applied', 'workspace.deleted')),
    workspace_id text        NOT NULL REFERENCES workspace,
    key_id       uuid        REFERENCES key,
    -- Who called, on whose behalf, and from where.
    caller       text        NOT NULL,
    actor        text,
    peer         text        NOT NULL,
    details      jsonb       NOT NULL
);
CREATE INDEX audit_event_workspace ON audit_event (workspace_id, id);
CREATE INDEX audit_event_key ON audit_event (key_id, id) WHERE key_id IS NOT NULL;

CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is only ever added to';
END $$;
CREATE TRIGGER audit_event_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_event
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change();

-- Random keys that every process of the fleet shares, made here once. Two random UUIDs hold 244 random bits.
CREATE TABLE signing_key (
    name  text  PRIMARY KEY,
    value bytea NOT NULL CHECK (octet_length(value) = 32)
);
INSERT INTO signing_key (name, value)
VALUES ('page_token', decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex'));
