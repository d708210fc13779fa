-- Records first uses in one round trip. A plan that is made while there are few keys reads all of them, and each
-- connection keeps its plans while the table grows: so plans use indexes here, which a function can set for itself.
-- The arguments are the ids of keys, in order, and the hash with which the secret of each was verified.
CREATE FUNCTION claim_first_uses(uuid[], text[]) RETURNS TABLE (key_id uuid, verified_hash text)
LANGUAGE plpgsql SET enable_seqscan = off AS $$
BEGIN
    RETURN QUERY
    WITH used AS MATERIALIZED (
        SELECT key.id, verified.hash
        FROM unnest($1::uuid[], $2::text[]) AS verified (id, hash) JOIN key ON key.id = verified.id
        WHERE coalesce(key.secret_hash, key.guarded_hash) = verified.hash
          AND key.revoked_at IS NULL AND key.suspended_at IS NULL
          AND (key.expires_at > clock_timestamp()) IS NOT false
        ORDER BY key.id
        FOR NO KEY UPDATE OF key
    )
    UPDATE key SET last_used_at = coalesce(key.last_used_at, now()) FROM used WHERE key.id = used.id
    RETURNING used.id, used.hash;
END $$;
-- It runs with the privileges of its caller. Where an owner has taken the default away, the service could not call it.
GRANT EXECUTE ON FUNCTION claim_first_uses(uuid[], text[]) TO PUBLIC;
