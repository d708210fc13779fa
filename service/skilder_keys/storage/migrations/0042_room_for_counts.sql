-- The facts of a minute change a few times while it lasts. With room in each page, they change in place: no entry of the
-- index is added, and what is old goes away without a vacuum.

-- Make the partition of a table that has `wanted`, unless it is there.
CREATE OR REPLACE FUNCTION make_activity_partition(parent text, wanted integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    moment timestamp;
    begins timestamp;
    ends   timestamp;
    unit   integer := CASE parent WHEN 'activity_hour' THEN 3600 WHEN 'activity_day' THEN 86400 ELSE 60 END;
    period text := CASE parent WHEN 'activity_hour' THEN 'month' WHEN 'activity_day' THEN 'year' ELSE 'day' END;
    name   text;
BEGIN
    IF NOT has_table_privilege(session_user, 'activity_journal', 'DELETE') THEN
        RAISE insufficient_privilege USING MESSAGE = format('the role %s may not fold activity', session_user);
    END IF;
    IF parent NOT IN ('activity_minute', 'activity_hour', 'activity_day', 'activity_unproven') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s has no partitions', parent);
    END IF;
    moment := to_timestamp(wanted::bigint * unit) AT TIME ZONE 'UTC';
    begins := date_trunc(period, moment);
    ends := begins + format('1 %s', period)::interval;
    name := to_char(begins, CASE period WHEN 'day' THEN 'YYYYMMDD' WHEN 'month' THEN 'YYYYMM' ELSE 'YYYY' END);
    name := format('%s_%s', parent, name);
    IF EXISTS (SELECT FROM pg_class WHERE relname = name AND relnamespace = current_schema()::regnamespace) THEN
        RETURN;
    END IF;
    -- Attached afterwards, which stops nobody from reading and writing other partitions.
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', name, parent);
    IF parent = 'activity_minute' THEN
        EXECUTE format('ALTER TABLE %I SET (fillfactor = 50)', name);
    END IF;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, name,
                   (extract(epoch FROM begins) / unit)::integer, (extract(epoch FROM ends) / unit)::integer);
END $$;
DO $$
DECLARE
    name text;
BEGIN
    -- As in migration 32: whatever the session's search_path.
    EXECUTE format('ALTER FUNCTION make_activity_partition(text, integer) SET search_path = %I, pg_temp',
                   current_schema());
    -- This locks out neither readers nor writers.
    FOR name IN SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = 'activity_minute'::regclass LOOP
        EXECUTE format('ALTER TABLE %s SET (fillfactor = 50)', name);
    END LOOP;
END $$;

-- The minute before which the facts of an hour are summed up, although the hour is not over; NULL: none are.
ALTER TABLE activity_stale ADD COLUMN summed_until integer;
-- Whether a writer's version sets `summed_until` to NULL when it adds to an earlier minute. While one does not, it stays
-- NULL.
ALTER TABLE activity_writer ADD COLUMN knows_parts boolean NOT NULL DEFAULT false;
