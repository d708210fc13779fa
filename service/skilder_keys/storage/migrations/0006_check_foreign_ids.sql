-- Reads all rows while everybody goes on reading and writing them.
ALTER TABLE member VALIDATE CONSTRAINT member_user_id_check;
ALTER TABLE tool
    VALIDATE CONSTRAINT tool_id_check,
    VALIDATE CONSTRAINT tool_name_check,
    VALIDATE CONSTRAINT tool_mcp_server_check;
ALTER TABLE key
    VALIDATE CONSTRAINT key_user_id_check,
    VALIDATE CONSTRAINT key_runtime_id_check;
