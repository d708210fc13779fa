-- What the keys of a workspace must keep to. An interval, not a number, so that people read what they write by hand.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE workspace IN ACCESS EXCLUSIVE MODE;
            EXIT;
        EXCEPTION WHEN lock_not_available THEN
            tries := tries + 1;
            IF tries >= 50 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.1 * random());
        END;
    END LOOP;
    PERFORM set_config('lock_timeout', patience, true);
END $$;

ALTER TABLE workspace
    ADD COLUMN max_lifetime             interval CHECK (max_lifetime > '0'),
    ADD COLUMN max_active_keys_per_user integer CHECK (max_active_keys_per_user >= 0),
    ADD COLUMN require_hat_limit        boolean NOT NULL DEFAULT false,
    ADD COLUMN unique_descriptions      boolean NOT NULL DEFAULT false;

-- A policy that is changed by hand makes another version of the workspace, too.
CREATE TRIGGER workspace_policy_version BEFORE UPDATE ON workspace FOR EACH ROW
    WHEN (NEW.version = OLD.version
          AND (OLD.max_lifetime, OLD.max_active_keys_per_user, OLD.require_hat_limit, OLD.unique_descriptions)
              IS DISTINCT FROM
              (NEW.max_lifetime, NEW.max_active_keys_per_user, NEW.require_hat_limit, NEW.unique_descriptions))
    EXECUTE FUNCTION keep_version();
ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_policy_version;
