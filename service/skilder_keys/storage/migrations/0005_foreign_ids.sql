-- Ids that others made, of users, runtime instances, tools and MCP servers, have up to 255 characters of any kind.
-- NOT VALID: readers of these tables wait for this migration, and rows that met the narrower rule meet this one too.
-- All fit into an index: three of the longest have 2,104 bytes, and an entry may have 2,704.
ALTER TABLE member
    DROP CONSTRAINT member_user_id_check,
    ADD CONSTRAINT member_user_id_check CHECK (char_length(user_id) BETWEEN 1 AND 255) NOT VALID;
ALTER TABLE tool
    DROP CONSTRAINT tool_id_check,
    DROP CONSTRAINT tool_name_check,
    DROP CONSTRAINT tool_mcp_server_check,
    ADD CONSTRAINT tool_id_check CHECK (char_length(id) BETWEEN 1 AND 255) NOT VALID,
    ADD CONSTRAINT tool_name_check CHECK (char_length(name) BETWEEN 1 AND 255) NOT VALID,
    ADD CONSTRAINT tool_mcp_server_check CHECK (char_length(mcp_server) BETWEEN 1 AND 255) NOT VALID;
ALTER TABLE key
    DROP CONSTRAINT key_user_id_check,
    DROP CONSTRAINT key_runtime_id_check,
    ADD CONSTRAINT key_user_id_check CHECK (char_length(user_id) BETWEEN 1 AND 255) NOT VALID,
    ADD CONSTRAINT key_runtime_id_check CHECK (char_length(runtime_id) BETWEEN 1 AND 255) NOT VALID;
