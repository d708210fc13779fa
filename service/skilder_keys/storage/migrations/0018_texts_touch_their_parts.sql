-- A tool set may have the texts of hats and skills, so a change of a text touches its part.

-- Changes are kept out while the function of their triggers is replaced. As in 0015, the locks are given back when one of
-- them takes long.
DO $$
DECLARE
    patience text := current_setting('lock_timeout');
    tries integer := 0;
BEGIN
    PERFORM set_config('lock_timeout', '100ms', true);
    LOOP
        BEGIN
            LOCK TABLE workspace, hat, skill IN SHARE ROW EXCLUSIVE MODE;
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

-- The function stays as it is, except for the columns that decide.
DO $$
DECLARE
    definition text := pg_get_functiondef('note_parts()'::regprocedure);
    change text[];
BEGIN
    FOREACH change SLICE 1 IN ARRAY ARRAY[
        ['-- Those that decide. Descriptions and instructions do not, nor does the name of a team.',
         '-- Those that an answer may have. The name of a team is not among them.'],
        [$q$('hat', 'hat', 'id', 'name, audience')$q$,
         $q$('hat', 'hat', 'id', 'name, audience, description, instructions')$q$],
        [$q$('skill', 'skill', 'id', 'name')$q$, $q$('skill', 'skill', 'id', 'name, description')$q$]
    ] LOOP
        IF strpos(definition, change[1]) = 0 THEN
            RAISE EXCEPTION 'note_parts() does not have %', change[1];
        END IF;
        definition := replace(definition, change[1], change[2]);
    END LOOP;
    EXECUTE definition;
END $$;
