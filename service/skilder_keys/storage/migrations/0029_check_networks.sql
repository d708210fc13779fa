-- Reads all keys while everybody goes on changing them.
ALTER TABLE key
    VALIDATE CONSTRAINT key_networks_check,
    VALIDATE CONSTRAINT key_guard_check;
