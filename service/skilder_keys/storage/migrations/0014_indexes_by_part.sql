-- No second index of these tables begins with the workspace. While a table is small, Postgres takes any index that can
-- find the rows of a workspace for the check of a foreign key. The connection keeps that plan while the table grows,
-- and each check reads the whole workspace.

-- Changes wait while the indexes are made; reads go on.
LOCK TABLE team, team_member, hat_team, hat_skill, skill_tool, tool, key IN SHARE MODE;

CREATE INDEX team_parent_first ON team (parent_id, workspace_id);
CREATE INDEX team_member_team_first ON team_member (team_id, workspace_id);
CREATE INDEX hat_team_team_first ON hat_team (team_id, workspace_id);
CREATE INDEX hat_skill_skill_first ON hat_skill (skill_id, workspace_id);
CREATE INDEX skill_tool_tool_first ON skill_tool (tool_id, workspace_id);
CREATE UNIQUE INDEX tool_name_first ON tool (name, mcp_server, workspace_id);
CREATE INDEX key_type_first ON key (type, workspace_id, id);

-- From here reads wait too, for a moment.
DROP INDEX team_parent, team_member_team, hat_team_team, hat_skill_skill, skill_tool_tool, key_type_newest;
ALTER TABLE tool
    DROP CONSTRAINT tool_name_key,
    ADD CONSTRAINT tool_name_key UNIQUE USING INDEX tool_name_first DEFERRABLE INITIALLY DEFERRED;
ALTER INDEX team_parent_first RENAME TO team_parent;
ALTER INDEX team_member_team_first RENAME TO team_member_team;
ALTER INDEX hat_team_team_first RENAME TO hat_team_team;
ALTER INDEX hat_skill_skill_first RENAME TO hat_skill_skill;
ALTER INDEX skill_tool_tool_first RENAME TO skill_tool_tool;
ALTER INDEX key_type_first RENAME TO key_type_newest;
