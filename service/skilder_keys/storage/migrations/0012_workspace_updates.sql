-- What the service noted of the contents of a workspace, so that a small change need not read all of them. It holds for
-- one version: whatever changes a part makes another version, and what was noted for an older one is not used.
CREATE TABLE workspace_content (
    workspace_id text    PRIMARY KEY REFERENCES workspace ON DELETE CASCADE,
    version      bigint  NOT NULL,
    members      integer NOT NULL,
    teams        integer NOT NULL,
    hats         integer NOT NULL,
    skills       integer NOT NULL,
    tools        integer NOT NULL,
    links        integer NOT NULL,
    tool_paths   integer NOT NULL,
    bytes        integer NOT NULL,
    -- Of the members, teams, hats, skills and tools that an apply sent, if they are what there is; else empty.
    digests      bytea[] NOT NULL
) WITH (fillfactor = 50); -- room to change in place

-- NOT VALID: nobody waits while all events are read, and those that met the narrower rule meet this one too.
ALTER TABLE audit_event
    DROP CONSTRAINT audit_event_action_check,
    ADD CONSTRAINT audit_event_action_check
        CHECK (action IN ('key.issued', 'key.renewed', 'key.revoked',
                          'workspace.applied', 'workspace.updated', 'workspace.deleted')) NOT VALID;
