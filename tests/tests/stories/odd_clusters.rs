//! Clusters that are not like the others come back as they were: PostgreSQL's own tools find no difference and no fault.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Repo, Sandbox, process, stock};
use rstest::rstest;

const DATABASE: &str = "Kölner Läden – 東京";
const ROLE: &str = "Łukasz d'Été";
const EMPTY: &str = "leer/und leer";

/// A cluster with a bit of everything, a backup of it, and changes after that; its tablespaces' folders.
struct Oddities {
    cluster: Cluster,
    spaces: [PathBuf; 2],
}

impl Oddities {
    fn new(sandbox: &Sandbox, segment_mb: u32) -> Result<Self> {
        let repo = Repo::new(sandbox, "repo")?;
        let recipe = Recipe::new("pg").segment_mb(segment_mb).archived_to(&repo).set("max_prepared_transactions", "5");
        let cluster = recipe.start(sandbox)?;
        let spaces = [sandbox.folder("space_fast")?, sandbox.folder("Speicher für später")?];
        let odd = Self { cluster, spaces };
        odd.fill()?;
        odd.take_backup()?;
        odd.change()?;
        Ok(odd)
    }

    fn fill(&self) -> Result<()> {
        let [fast, late] = self.spaces.each_ref().map(|space| space.display());
        self.cluster.sql(&format!(
            r#"create role "{ROLE}" superuser login;
            create database "{DATABASE}" owner "{ROLE}";
            create tablespace fast location '{fast}';
            create tablespace "später" owner "{ROLE}" location '{late}';
            create table here as select n, md5(n::text) as text from generate_series(1, 2000) n;
            create table there (n int primary key using index tablespace "später", text text) tablespace fast;
            insert into there select * from here;
            create unlogged table scratch as select * from here;
            create index on scratch (n);
            select lo_from_bytea(4711, decode(repeat('00ff5c0a', 5000), 'hex'));
            begin;
            insert into there values (-1, 'prepared before the backup');
            prepare transaction 'before';
            \connect "{DATABASE}"
            create table "Ärger" (n serial primary key, "größe" text collate "C") tablespace fast;
            alter table "Ärger" owner to "{ROLE}";
            insert into "Ärger" ("größe") select repeat('ß', n) from generate_series(1, 500) n"#
        ))?;
        let empty = self.cluster.pgdata().join(EMPTY);
        fs::create_dir_all(&empty)?;
        for dir in [empty.parent().context("a folder")?, &empty] {
            fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
            self.cluster.sandbox().account().own(dir)?;
        }
        Ok(())
    }

    /// By the role and through the database that are not ASCII.
    fn take_backup(&self) -> Result<()> {
        let cluster = &self.cluster;
        let (socket, port) = (cluster.socket_dir()?, cluster.port()?.to_string());
        let server = ["-D", cluster.pgdata_arg()?, "-h", &socket, "-p", &port, "-U", ROLE, "-d", DATABASE];
        let options = ["--repo", cluster.repo()?.arg()?, "-c", "fast", "-l", ROLE];
        cluster.sandbox().run("basebackup", &[server.as_slice(), &options].concat())?.success().map(drop)
    }

    fn change(&self) -> Result<()> {
        self.cluster.sql(&format!(
            r#"update there set text = upper(text) where n % 3 = 0;
            insert into scratch select * from here;
            select lo_put(4711, 10000, '\xc3a9');
            begin;
            insert into there values (-2, 'prepared after the backup');
            prepare transaction 'after';
            \connect "{DATABASE}"
            create table "neu" tablespace "später" as select * from "Ärger""#
        ))?;
        self.cluster.switch_wal().map(drop)
    }
}

/// Fails unless `found` is what the odd cluster was when `before` was dumped; stops it.
fn came_back_as(found: &Cluster, before: &str) -> Result<()> {
    stock::same_dump(&stock::dump(found)?, before)?;
    ensure!(found.sql("select count(*) from scratch")? == "0", "an unlogged table is empty after a recovery");
    let object = found.sql("select length(lo), encode(substr(lo, 9997, 8), 'hex') from lo_get(4711) lo")?;
    ensure!(object == "20000|00ff5c0ac3a95c0a", "the large object is {object}");
    ensure!(fs::read_dir(found.pgdata().join(EMPTY))?.next().is_none());
    ensure!(found.sql("select string_agg(gid, ' ' order by gid) from pg_prepared_xacts")? == "after before");
    found.sql("commit prepared 'before'; commit prepared 'after'")?;
    ensure!(found.sql("select array_agg(n order by n) from there where n < 0")? == "{-2,-1}");
    stock::check_and_stop(found)
}

#[rstest]
#[case::small_segments(1)]
#[case::large_segments(64)]
fn a_bit_of_everything_in_a_copy(#[case] segment_mb: u32) -> Result<()> {
    let sandbox = Sandbox::new()?;
    let odd = Oddities::new(&sandbox, segment_mb)?;
    let copy = Cluster::at(&sandbox, &sandbox.path().join("copy"), Some(odd.cluster.repo()?));
    let (mut before, mut mappings) = (stock::dump(&odd.cluster)?, Vec::new());
    for (number, space) in odd.spaces.iter().enumerate() {
        let (old, new) = (space.display().to_string(), sandbox.path().join(format!("copied {number}")));
        let new = new.display().to_string();
        before = before.replace(&old, &new);
        mappings.push(format!("{old}={new}"));
    }
    let port = sandbox.new_port().to_string();
    let mut args = vec!["--as", "copy", "--port", &port, "--target-latest", "--no-start"];
    args.extend(mappings.iter().flat_map(|mapping| ["-T", mapping]));
    copy.try_recover(&args)?.success()?;
    stock::verify_tree(&sandbox, copy.pgdata(), None)?;
    copy.start()?;
    copy.wait_promoted()?;
    came_back_as(&copy, &before)
}

#[test]
fn a_bit_of_everything_in_place() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let odd = Oddities::new(&sandbox, 1)?;
    let before = stock::dump(&odd.cluster)?;
    odd.cluster.recover(&["--target-latest"])?;
    came_back_as(&odd.cluster, &before)
}

/// Backs up, makes a copy of this moment, and compares: what every cluster goes through, whatever is odd in it.
fn there_and_back(cluster: &Cluster, change: &str) -> Result<()> {
    cluster.backup(&[])?;
    cluster.sql(change)?;
    cluster.switch_wal()?;
    let (sandbox, before) = (cluster.sandbox(), stock::dump(cluster)?);
    let copy = Cluster::at(sandbox, &sandbox.path().join("copy"), Some(cluster.repo()?));
    let port = sandbox.new_port().to_string();
    copy.try_recover(&["--as", "copy", "--port", &port, "--target-latest", "--no-start"])?.success()?;
    stock::verify_tree(sandbox, copy.pgdata(), None)?;
    copy.start()?;
    copy.wait_promoted()?;
    stock::same_dump(&stock::dump(&copy)?, &before)?;
    stock::check_and_stop(&copy)
}

#[test]
fn three_thousand_tables() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let recipe = Recipe::new("pg").archived_to(&repo).set("max_locks_per_transaction", "256");
    let cluster = recipe.start(&sandbox)?;
    cluster.sql(
        "do $$ begin for i in 1..3000 loop
            execute format('create table t%s as select %s as n', i, i);
            if i % 500 = 0 then commit; end if;
        end loop; end $$",
    )?;
    there_and_back(&cluster, "update t1 set n = -n; drop table t2; create table t3001 as select 3001 as n")
}

/// More than 1 GiB is more than one file. A row a page, so that the pages are many and the bytes to dump few.
/// What is known of each file must not fill the memory. (A server leaves such files behind when it dies within a `CREATE TABLE`.)
#[test]
fn two_hundred_thousand_files_in_little_memory() -> Result<()> {
    const MEGABYTES: u64 = 64;
    let sandbox = Sandbox::in_memory()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
    let folder = cluster.pgdata().join("base/1");
    let make = "seq 20000001 20200000 | xargs touch";
    process::run(sandbox.command("sh")?.args(["-c", make]).current_dir(folder), "")?.success()?;
    let place = ["--repo", repo.arg()?, "-D", cluster.pgdata_arg()?, "-j", "2"];
    let within = |program: &str, args: &[&str]| sandbox.run_within(MEGABYTES, program, &[args, &place[..]].concat());
    sandbox.run("basebackup", &[&place[..], &["-c", "fast", "-U", "postgres"]].concat())?.success()?;
    within("verify", &["backup", "--all"])?.success()?;
    within("recover", &["check", "--deep", "--target-immediate", "-U", "postgres", "--as", "production"])?.success()?;
    Ok(())
}

#[test]
fn a_table_of_several_files() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let lines = |pairs: [(&str, &str); 3]| pairs.map(|(name, value)| (name.to_owned(), value.to_owned()));
    // Archived from a later day on: without WAL the table is made in no time.
    let recipe = Recipe::new("pg").archived_to(&repo).set("wal_level", "minimal");
    let cluster = recipe.set("archive_mode", "off").set("max_wal_senders", "0").start(&sandbox)?;
    cluster.sql(
        "create table big with (fillfactor = 10) as select n, lpad(n::text, 420, '.') as text from generate_series(1, 134000) n;
        create index on big (n)",
    )?;
    cluster.configure(&lines([("wal_level", "replica"), ("archive_mode", "on"), ("max_wal_senders", "3")]))?;
    cluster.restart()?;
    let path: String = cluster.sql("select pg_relation_filepath('big')")?;
    let files = [format!("{path}.1"), format!("{path}.2")].map(|path| cluster.pgdata().join(path).exists());
    ensure!(files == [true, false], "the table is not a little more than 1 GiB");
    there_and_back(&cluster, "update big set text = 'changed' where n % 1000 = 0; delete from big where n > 133900")
}

/// A name is stored in the encoding of the database that it was made from, and is not text in any other one.
#[test]
fn a_database_whose_name_is_of_another_encoding() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "repo")?;
    let cluster = Recipe::new("pg").archived_to(&repo).start(&sandbox)?;
    cluster.sql(
        r#"create database latin template template0 encoding 'LATIN1' locale 'C';
        \connect latin
        set client_encoding = 'UTF8';
        create database "Käse" template template0 encoding 'LATIN1' locale 'C'"#,
    )?;
    cluster.backup(&[])?;
    cluster.sql("create table t as select generate_series(1, 1000) as n")?;
    let recovered = cluster.try_recover(&["--target-latest"])?.success()?;
    ensure!(recovered.stdout.contains("1 not asked"), "{recovered}");
    ensure!(cluster.sql("select count(*) from t")? == "1000");
    ensure!(
        cluster.sql("select encode(namesend(datname), 'hex') from pg_database where datname::text like 'K%'")?
            == "4be47365"
    );
    stock::check_and_stop(&cluster)
}
