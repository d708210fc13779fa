-- Reads all keys and events while everybody goes on changing them. The indexes come last, as no key can be changed while
-- they are made: for about a second with a million keys.
ALTER TABLE key
    VALIDATE CONSTRAINT key_hash_check,
    VALIDATE CONSTRAINT key_guarded_hash_check,
    VALIDATE CONSTRAINT key_guard_check,
    VALIDATE CONSTRAINT key_suspension_check,
    VALIDATE CONSTRAINT key_suspended_by_kind_check,
    VALIDATE CONSTRAINT key_suspend_reason_check,
    VALIDATE CONSTRAINT key_expiry_check,
    VALIDATE CONSTRAINT key_version_check,
    VALIDATE CONSTRAINT key_family_check,
    VALIDATE CONSTRAINT key_family_fkey,
    VALIDATE CONSTRAINT key_predecessor_fkey;
ALTER TABLE audit_event VALIDATE CONSTRAINT audit_event_action_check;

CREATE INDEX key_family ON key (family_id, id) WHERE family_id IS NOT NULL;
CREATE INDEX key_successor ON key (predecessor_id, id) WHERE predecessor_id IS NOT NULL;
