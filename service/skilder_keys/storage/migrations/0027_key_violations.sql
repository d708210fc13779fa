-- The rules of the key policy, as it is now, that a key does not keep, in order. A key that is revoked or expired breaks
-- none. Times are on record to the microsecond, and a lifetime may have been rounded. Rules that compare a key with others
-- look at these only where they hold. A plan that is made while there are few keys would read all of them for each key.
CREATE FUNCTION key_violations(key) RETURNS text[] LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
DECLARE
    policy workspace;
    broken text[] := '{}';
BEGIN
    IF $1.revoked_at IS NOT NULL OR $1.expires_at <= statement_timestamp() THEN
        RETURN broken;
    END IF;
    SELECT * INTO policy FROM workspace WHERE id = $1.workspace_id AND deleted_at IS NULL;
    IF $1.created_at + policy.max_lifetime + interval '1 millisecond' < coalesce($1.expires_at, 'infinity') THEN
        broken := broken || 'max_lifetime'::text;
    END IF;
    IF coalesce($1.last_used_at, $1.created_at) + policy.revoke_unused_after < statement_timestamp() THEN
        broken := broken || 'revoke_unused_after'::text;
    END IF;
    IF $1.type = 'user' AND policy.max_active_keys_per_user < (
        SELECT count(DISTINCT coalesce(family_id, id)) FROM key
        WHERE workspace_id = $1.workspace_id AND user_id = $1.user_id AND revoked_at IS NULL
          AND (expires_at > statement_timestamp()) IS NOT false
    ) THEN
        broken := broken || 'max_active_keys_per_user'::text;
    END IF;
    IF policy.require_hat_limit AND $1.type = 'workspace' AND NOT $1.limited_to_hats THEN
        broken := broken || 'require_hat_limit'::text;
    END IF;
    IF policy.unique_descriptions AND EXISTS (
        SELECT FROM key
        WHERE md5(workspace_id || E'\n' || lower(description)) = md5($1.workspace_id || E'\n' || lower($1.description))
          AND revoked_at IS NULL AND (expires_at > statement_timestamp()) IS NOT false
          AND coalesce(family_id, id) <> coalesce($1.family_id, $1.id)
    ) THEN
        broken := broken || 'unique_descriptions'::text;
    END IF;
    RETURN broken;
END $$;
-- It runs with the privileges of its caller. Where an owner has taken the default away, the service could not call it.
GRANT EXECUTE ON FUNCTION key_violations(key) TO PUBLIC;
