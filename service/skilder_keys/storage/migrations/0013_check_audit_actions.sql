-- Reads all events while everybody goes on adding to them.
ALTER TABLE audit_event VALIDATE CONSTRAINT audit_event_action_check;
