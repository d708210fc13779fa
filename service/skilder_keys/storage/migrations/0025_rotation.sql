-- When a rotated key was to expire before its rotation; infinity for never. Null for a key that was not rotated.
ALTER TABLE key ADD COLUMN unrotated_expires_at timestamptz;
