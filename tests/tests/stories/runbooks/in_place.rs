//! A cluster goes to a moment where it is: looked at before, undone, killed half-way, with one thing or the other asked for.

use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::faults::Rehearsal;
use e2e::{StopMode, wait};

use super::book::{Book, has_orders, order};

/// How the commands of several chapters begin.
const RUN: &str = "recover run -D /var/lib/postgresql/15/main";

pub(super) fn moment(book: &mut Book) -> Result<()> {
    let cluster = book.production()?;
    cluster.backup(&[])?;
    order(&cluster, 100)?;
    book.says_now("2026-11-20 03:15:00", &cluster)?;
    order(&cluster, 10)?;
    book.says_now("2026-11-20 03:20:00", &cluster)?;
    order(&cluster, 1)?;
    book.run("recover check")?;
    book.run("recover check")?;
    has_orders(&cluster, 1111)?;

    book.run("recover run")?;
    ensure!(book.run("psql")?.stdout.contains("1100"), "it does not wait at the first moment");
    ensure!(cluster.sql("select pg_is_in_recovery()")? == "t", "it takes writes");
    book.run("recover continue")?;
    has_orders(&cluster, 1110)?;
    book.run("recover promote")?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1110)?;
    order(&cluster, 5)?;

    book.run("recover rollback")?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1111)?;
    let place = book.sandbox.path().to_owned();
    let undone = || {
        let names = fs::read_dir(&place)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<Result<Vec<String>>>()?;
        Ok::<_, anyhow::Error>(names.into_iter().filter(|name| name.contains("undone")).count())
    };
    ensure!(undone()? == 1, "what was undone is not there");
    book.run("recover status")?.prints(&["undone"])?;
    book.run("recover cleanup")?;
    ensure!(undone()? == 0, "what was undone is still there");
    cluster.stop(StopMode::Immediate)
}

pub(super) fn odd(book: &mut Book) -> Result<()> {
    let cluster = book.production()?;
    cluster.backup(&[])?;
    order(&cluster, 100)?;
    cluster.switch_wal()?;

    let config = book.sandbox.path().join("holdfast.toml");
    let config = config.to_str().context("a path of a test is text")?;
    let args = ["run", "--config", config, "-D", cluster.pgdata_arg()?, "-U", "postgres", "--yes"];
    Rehearsal::new(&book.sandbox, "recover", &args)
        .killed_at(5, "rename to *journal.json")?
        .context("it was killed")?;
    ensure!(!cluster.is_running(), "it was killed too early");
    book.run("recover status")?.prints(&["--resume"])?;
    book.run("recover run --resume")?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1100)?;

    cluster.set("work_mem", "8MB")?;
    book.run(&format!("{RUN} --config-from"))?;
    cluster.wait_promoted()?;
    ensure!(cluster.sql("show work_mem")? == "8MB", "the configuration is not the one that was in use");

    // What starts the production server is a unit, and there is no systemd here: a script notes what it is asked for.
    let (calls, log) = (book.sandbox.path().join("calls"), book.sandbox.path().join("unit.log"));
    book.fake(
        "systemctl",
        &format!(
            "echo \"$*\" >> {}\ncase \"$*\" in\n*start*) pg_ctl start -s -W -l {};;\n*) pg_ctl stop -s -m fast;;\nesac",
            calls.display(),
            log.display()
        ),
    )?;
    let unit = book.take("[recovery]")?;
    book.configure(&unit)?;
    book.run("recover row-counts")?;
    book.run(&format!("{RUN} --target-latest --row-counts"))?;
    let calls = fs::read_to_string(calls)?;
    ensure!(calls == "stop postgresql@15-main\n--no-block start postgresql@15-main\n", "{calls}");
    let report = fs::read_to_string(book.sandbox.path().join("backups/recovery.json"))?;
    ensure!(report.contains("\"tables\": 1"), "{report}");
    cluster.wait_promoted()?;

    order(&cluster, 7)?;
    book.says_now("2026-11-20 03:15:00", &cluster)?;
    order(&cluster, 1)?;
    book.run(&format!("{RUN} --delta"))?;
    cluster.wait_promoted()?;
    has_orders(&cluster, 1107)?;

    // Somebody else starts it.
    book.run(&format!("{RUN} --target-latest --no-start"))?;
    ensure!(!cluster.is_running(), "it was started");
    book.run("pg_ctl -D")?;
    cluster.wait_promoted()?;
    book.run("recover finish")?;
    has_orders(&cluster, 1107)?;

    // Rows that are missing hold the end back, until they are accepted.
    let counts = book.sandbox.path().join("backups/counts");
    book.sandbox.write(&counts, b"shop public.orders 5000\n")?;
    cluster.try_recover(&["--row-counts", counts.to_str().context("text")?])?.expect_code(3)?;
    book.run("recover finish")?;
    wait::until("it archives again", || Ok(cluster.sql("show archive_mode")? == "on"))?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Immediate)
}
