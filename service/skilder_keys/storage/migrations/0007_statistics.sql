-- Statistics of the tables that hold something and were never analysed, as where autovacuum is off.
-- Not of small ones: Postgres takes a table that was never analysed for one of ten pages, for which it uses an index. From
-- an analysed one it learns that to read it from end to end is cheapest, and goes by that plan while the table grows.
DO $$
DECLARE
    found regclass;
BEGIN
    FOR found IN
        SELECT pg_class.oid FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE nspname = current_schema() AND relkind = 'r' AND pg_get_userbyid(relowner) = current_user
          AND reltuples <= 0 AND pg_relation_size(pg_class.oid) >= 10 * current_setting('block_size')::integer
    LOOP
        EXECUTE format('ANALYZE %s', found);
    END LOOP;
END $$;
