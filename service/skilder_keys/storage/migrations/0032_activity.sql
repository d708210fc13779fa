-- What keys are used for: exact counts by minute, hour and day. docs/design/activity.md explains the tables.

-- The processes that count. A row of the journal that is sent again has a number that is not above `seq`: so it counts
-- once.
CREATE TABLE activity_writer (
    id            uuid             PRIMARY KEY,
    seq           bigint           NOT NULL,
    counted_until timestamptz      NOT NULL, -- all calls before this are in the journal or in the facts
    idle          boolean          NOT NULL, -- whether it has counted nothing since
    interval      double precision NOT NULL, -- the most seconds between a call and its row in the journal
    seen_at       timestamptz      NOT NULL
) WITH (fillfactor = 50); -- room to change in place

-- What was counted and is not folded into the facts yet: a row has arrays with an element for each cell.
CREATE TABLE activity_journal (
    id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at timestamptz NOT NULL, -- all that it counts was later
    minute   integer     NOT NULL, -- since 1970-01-01 UTC
    keys     uuid[]      NOT NULL, -- NULL where a token proves no key
    tools    text[]      NOT NULL, -- empty: none; NULL: not known
    callers  text[]      NOT NULL,
    outcomes smallint[]  NOT NULL,
    counts   bigint[]    NOT NULL,
    firsts   integer[]   NOT NULL, -- milliseconds of the minute
    lasts    integer[]   NOT NULL,
    sources  text[]      NOT NULL, -- valid addresses, or empty
    hints    text[]      NOT NULL  -- of tokens that prove no key, or empty
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 500,
        autovacuum_vacuum_insert_threshold = -1, autovacuum_analyze_threshold = 2147483647,
        toast.autovacuum_vacuum_scale_factor = 0, toast.autovacuum_vacuum_threshold = 5000);

-- Numbers for what the facts name, since a number is shorter. No number is used twice.
CREATE TABLE activity_workspace (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id     text    NOT NULL UNIQUE
);
CREATE TABLE activity_key (
    number    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id    uuid    NOT NULL UNIQUE,
    workspace integer NOT NULL
);
CREATE TABLE activity_tool (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id     text    NOT NULL UNIQUE
);
CREATE TABLE activity_caller (
    number integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name   text    NOT NULL UNIQUE
);

-- The facts. `at` is a number of minutes, hours or days since 1970-01-01 UTC; `first_ms` and `last_ms` count from its
-- begin. `tool` is 0 for no tool, and -1 for one that is not recorded. `outcome` is 0 for a grant, else the number of the
-- reason in the API. There is no default partition, so that another one is attached without looking into it.
CREATE TABLE activity_minute (
    count     bigint   NOT NULL,
    at        integer  NOT NULL,
    workspace integer  NOT NULL,
    key       integer  NOT NULL,
    tool      integer  NOT NULL,
    caller    integer  NOT NULL,
    first_ms  integer  NOT NULL,
    last_ms   integer  NOT NULL,
    outcome   smallint NOT NULL,
    source_ip inet,
    PRIMARY KEY (at, workspace, key, tool, caller, outcome)
) PARTITION BY RANGE (at);
CREATE TABLE activity_hour (LIKE activity_minute INCLUDING ALL) PARTITION BY RANGE (at);
CREATE TABLE activity_day (LIKE activity_minute INCLUDING ALL) PARTITION BY RANGE (at);

-- Denials of tokens that prove no key, by minute.
CREATE TABLE activity_unproven (
    count     bigint   NOT NULL,
    at        integer  NOT NULL,
    caller    integer  NOT NULL,
    first_ms  integer  NOT NULL,
    last_ms   integer  NOT NULL,
    outcome   smallint NOT NULL,
    hint      text     NOT NULL,
    source_ip inet,
    PRIMARY KEY (at, caller, outcome, hint)
) PARTITION BY RANGE (at);

-- The hours (step 1) and days (step 2) whose rows in activity_hour or activity_day are missing or old.
CREATE TABLE activity_stale (
    step smallint NOT NULL CHECK (step IN (1, 2)),
    at   integer  NOT NULL,
    PRIMARY KEY (step, at)
);

-- The last grant of each key. Not in the row of the key, so that no revocation waits for it.
CREATE TABLE key_use (
    key_id        uuid    PRIMARY KEY,
    last_minute   integer NOT NULL, -- since 1970-01-01 UTC
    source_minute integer,          -- the last grant with a source
    source_ip     inet
) WITH (fillfactor = 70); -- room to change in place

-- Both functions below run as the owner of the tables, since only an owner may make or remove a partition. They are for
-- roles that may fold the journal.

-- Make the partition of a table that has `wanted`, unless it is there.
CREATE FUNCTION make_activity_partition(parent text, wanted integer) RETURNS void
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
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)', parent, name,
                   (extract(epoch FROM begins) / unit)::integer, (extract(epoch FROM ends) / unit)::integer);
END $$;

-- Remove the partitions of a table that have only what is before `oldest`, and return how many these were.
CREATE FUNCTION drop_activity_partitions(parent text, oldest integer) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET lock_timeout = '200ms' AS $$
DECLARE
    name    text;
    dropped integer := 0;
BEGIN
    IF NOT has_table_privilege(session_user, 'activity_journal', 'DELETE') THEN
        RAISE insufficient_privilege USING MESSAGE = format('the role %s may not fold activity', session_user);
    END IF;
    IF parent NOT IN ('activity_minute', 'activity_hour', 'activity_day', 'activity_unproven') THEN
        RAISE invalid_parameter_value USING MESSAGE = format('%s has no partitions', parent);
    END IF;
    FOR name IN
        SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = parent::regclass
          AND (regexp_match(pg_get_expr(relpartbound, pg_class.oid), 'TO \(''?(\d+)''?\)'))[1]::integer <= oldest
        ORDER BY relname
    LOOP
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', parent, name);
        EXECUTE format('DROP TABLE %I', name);
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END $$;

DO $$
DECLARE
    place text := format('%I, pg_temp', current_schema());
BEGIN
    -- Whatever the session's search_path: a table of another schema, or a temporary one, may have the same name.
    EXECUTE 'ALTER FUNCTION make_activity_partition(text, integer) SET search_path = ' || place;
    EXECUTE 'ALTER FUNCTION drop_activity_partitions(text, integer) SET search_path = ' || place;
END $$;
GRANT EXECUTE ON FUNCTION make_activity_partition(text, integer), drop_activity_partitions(text, integer) TO PUBLIC;
