-- A hat says whether it serves its teams or the whole workspace, and a tool says that it is switched off.
-- Older workers fail from here on: they ask for `tool.active`, and would take a hat without a team for one of everybody.

-- Changes are kept out first, in the order in which they and the readers of a catalog lock.
LOCK TABLE workspace IN EXCLUSIVE MODE;
LOCK TABLE hat, hat_team, tool IN ACCESS EXCLUSIVE MODE;

-- A hat without a team served the whole workspace, and goes on doing so. Those workspaces get a new version, so that a
-- change based on a state from before the migration, which knows no audience, is refused.
ALTER TABLE hat ADD COLUMN audience text NOT NULL DEFAULT 'teams' CHECK (audience IN ('teams', 'workspace'));
UPDATE hat SET audience = 'workspace'
WHERE NOT EXISTS (SELECT FROM hat_team WHERE hat_team.workspace_id = hat.workspace_id AND hat_team.hat_id = hat.id);
-- Whoever adds a hat says whom it serves.
ALTER TABLE hat
    ALTER COLUMN audience DROP DEFAULT,
    ADD CONSTRAINT hat_audience_key UNIQUE (workspace_id, id, audience);

-- A hat that serves the whole workspace has no teams: its rows here would refer to a hat with the audience `teams`.
-- The reference to a team still has no cascade: a team that is deleted by hand must not take a hat from people, and
-- from workspace keys, without a word.
ALTER TABLE hat_team
    ADD COLUMN audience text NOT NULL DEFAULT 'teams' CHECK (audience = 'teams'),
    DROP CONSTRAINT hat_team_workspace_id_hat_id_fkey,
    ADD CONSTRAINT hat_team_hat_fkey
        FOREIGN KEY (workspace_id, hat_id, audience) REFERENCES hat (workspace_id, id, audience) ON DELETE CASCADE;

ALTER TABLE tool ADD COLUMN disabled boolean NOT NULL DEFAULT false;
UPDATE tool SET disabled = true WHERE NOT active;
ALTER TABLE tool ALTER COLUMN disabled DROP DEFAULT, DROP COLUMN active;

-- For the list of the workspaces that a person is a member of.
CREATE INDEX member_user ON member (user_id, workspace_id);
