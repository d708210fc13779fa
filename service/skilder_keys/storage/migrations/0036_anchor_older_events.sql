-- Events from before the chain get no numbers: to write a million rows anew would take minutes and twice the room, and
-- their order of commits is not known. In place of that, an event in the chain of each workspace has their count and a
-- hash over all of them, so that `audit verify` finds a change of them too. Nobody waits: they are only read, and none is
-- added any more.
DO $$
DECLARE
    old record;
    event record;
    total bigint;
    reached bytea;
BEGIN
    FOR old IN SELECT DISTINCT workspace_id FROM audit_event WHERE number IS NULL ORDER BY workspace_id LOOP
        total := 0;
        reached := decode(repeat('00', 32), 'hex');
        FOR event IN
            SELECT concat('{"workspace_id":', to_json(workspace_id), ',"id":', id,
                          ',"at":"', to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
                          '","action":', to_json(action), ',"key_id":', coalesce(to_json(key_id)::text, 'null'),
                          ',"caller":', to_json(caller), ',"private":"',
                          encode(sha256(convert_to(
                              concat('{"actor":', coalesce(to_json(actor)::text, 'null'), ',"peer":', to_json(peer),
                                     ',"details":', details::text, '}'), 'UTF8')), 'hex'), '"}') AS content
            FROM audit_event WHERE workspace_id = old.workspace_id AND number IS NULL ORDER BY workspace_id, id
        LOOP
            total := total + 1;
            reached := sha256(reached || convert_to(event.content, 'UTF8'));
        END LOOP;
        INSERT INTO audit_event (action, workspace_id, caller, peer, details)
        VALUES ('audit.anchored', old.workspace_id, concat('database:', session_user), '',
                jsonb_build_object('events', total, 'hash', encode(reached, 'hex')));
    END LOOP;
END $$;
