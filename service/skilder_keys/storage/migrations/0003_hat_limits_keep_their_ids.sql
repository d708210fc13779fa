-- A limit to named hats keeps their ids when a hat goes, so that the same hat applied again is reached again.
-- Older workers run on: an id whose hat is not there grants nothing, and key.limited_to_hats keeps the limit as before.
-- A limit that lost ids before this migration stays as narrow as it is: an upgrade widens no key.
ALTER TABLE key_hat DROP CONSTRAINT key_hat_workspace_id_hat_id_fkey;
-- The index was for the cascade alone.
DROP INDEX key_hat_hat;
-- The bound came with the reference to hat.
ALTER TABLE key_hat ADD CONSTRAINT key_hat_hat_id_check CHECK (char_length(hat_id) BETWEEN 1 AND 64);
