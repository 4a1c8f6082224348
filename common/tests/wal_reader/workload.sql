-- What leaves every kind of record that is read: subtransactions, prepared transactions with and without much to say,
-- restore points, records of several pages and of several segments, transactions that drop, truncate and rewrite tables or
-- are rolled back, databases and tablespaces, page images, a segment switch in the middle.

CREATE TABLE t (n int PRIMARY KEY, s text);
INSERT INTO t SELECT n, md5(n::text) FROM generate_series(1, 20000) n;
DO $$ BEGIN FOR i IN 1..300 LOOP
    BEGIN UPDATE t SET s = s || 'x' WHERE t.n = i; IF i % 7 = 0 THEN RAISE 'no'; END IF;
    EXCEPTION WHEN raise_exception THEN NULL; END;
END LOOP; END $$;
BEGIN; DELETE FROM t WHERE n < 10; ROLLBACK;
BEGIN; INSERT INTO t VALUES (-1, 'a'); SAVEPOINT a; INSERT INTO t VALUES (-2, 'b'); ROLLBACK TO a; COMMIT;
SELECT pg_create_restore_point('twice');
BEGIN; INSERT INTO t VALUES (-3, 'c'); PREPARE TRANSACTION 'small';
BEGIN; INSERT INTO t VALUES (-4, 'd'); SAVEPOINT a; CREATE TABLE never (n int); PREPARE TRANSACTION 'given up';
DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE format('CREATE TABLE many_%s (n int PRIMARY KEY, s text)', n); END LOOP; END $$;
CREATE TABLE kept (n int PRIMARY KEY);
COMMIT PREPARED 'small';
BEGIN; SAVEPOINT a; DROP TABLE kept; CREATE TABLE more (n int, s text); RELEASE a; PREPARE TRANSACTION 'large';
SELECT pg_switch_wal();
INSERT INTO t VALUES (-6, 'e');
COMMIT PREPARED 'large';
ROLLBACK PREPARED 'given up';
SELECT pg_logical_emit_message(true, 'large', repeat('many bytes ', 300000));

-- The tablespace is gone at the end, so that recoveries can make it again, one after the other.
CREATE TABLESPACE fast LOCATION :'folder';
CREATE TABLE far (n int PRIMARY KEY, id serial) TABLESPACE fast;
INSERT INTO far SELECT generate_series(1, 5000);
CREATE UNLOGGED TABLE unlogged (n int);
BEGIN; CREATE TABLE undone (n int); ROLLBACK;
BEGIN; SAVEPOINT a; DROP TABLE unlogged; ROLLBACK TO a; CREATE TABLE stays (n int); COMMIT;
DELETE FROM far WHERE n > 100;
VACUUM (TRUNCATE) far;
VACUUM FULL far;
CLUSTER far USING far_pkey;
ALTER TABLE far ALTER n TYPE bigint;
VACUUM FULL pg_class;
VACUUM FULL pg_database;
TRUNCATE far;
TRUNCATE far, stays, unlogged RESTART IDENTITY CASCADE;
BEGIN; SAVEPOINT a; DROP TABLE far; RELEASE a; PREPARE TRANSACTION 'drop';
COMMIT PREPARED 'drop';
CREATE DATABASE spread TABLESPACE fast;
\connect spread
CREATE TABLE elsewhere TABLESPACE pg_default AS SELECT 1 AS n;
\connect postgres
DROP DATABASE spread;
SELECT current_setting('server_version_num')::int >= 150000 AS has_strategies \gset
\if :has_strategies
CREATE DATABASE copied STRATEGY file_copy;
DROP DATABASE copied;
\endif
DROP TABLESPACE fast;

DO $$ BEGIN FOR n IN 1..150 LOOP EXECUTE format('DROP TABLE many_%s', n); END LOOP; END $$;
CHECKPOINT;
UPDATE t SET s = s || 'y' WHERE n % 3 = 0;
SELECT pg_create_restore_point('once');
INSERT INTO t VALUES (-7, 'f');
SELECT pg_create_restore_point('twice');
INSERT INTO t VALUES (-8, 'g');
BEGIN; INSERT INTO t VALUES (-9, 'h'); ROLLBACK;
INSERT INTO t VALUES (-10, 'i');
