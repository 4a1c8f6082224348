//! While the server runs.

use std::os::unix::fs::PermissionsExt as _;

use e2e::StopMode;

use super::*;

/// Targets that are not in the WAL, and those that nobody can tell apart.
#[test]
fn a_target_that_cannot_be_reached() -> Result<()> {
    let scene = Scene::new(|recipe| recipe)?;
    let last = scene
        .cluster
        .sql("select to_char((pg_last_committed_xact()).timestamp at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS.US')")?;
    // The last commit is told, and what goes there: to its own time PostgreSQL would not come, without a later one.
    let words = ["cannot be reached", &last, "recovers to the last commit", "--target-latest to the end of the WAL"];
    scene.refused_here(&["--target-time", "2099-01-01 00:00:00+00"], &words)?;
    scene.refused_here(&["--target-time", &format!("{last}+00")], &words)?;
    let refused = scene.check(&["--target-time", &format!("{last}+00")])?;
    scene.check(&["--target-lsn", told_lsn(&refused)?])?.success()?;
    scene.check(&["--target-latest"])?.success()?;
    scene.refused_here(&["--target-time", "2001-01-01 00:00:00+00"], &["no backup is complete before"])?;
    scene.refused_here(&["--target-lsn", "FF/0"], &["cannot be reached", "is in no repository"])?;
    scene.refused_here(&["--target-lsn", "0/28"], &["no backup is complete before"])?;
    scene.refused_here(&["--target-xid", "4000000"], &["cannot be reached"])?;
    scene.refused_here(&["--target-name", "nowhere"], &["cannot be reached"])?;
    scene.refused_here(&["--target-timeline", "7"], &["timeline 7 is in no repository"])?;
    // What can be reached is proved, with the last commit before and the first after.
    let ran =
        scene.check(&["--target-time", &format!("{last}+00"), "--target-exclusive", "--json"])?.success()?.json()?;
    let arrival = ran.pointer("/plan/arrival").context("the target was found")?;
    ensure!(arrival["first_after"]["time"].as_str().is_some_and(|time| time.starts_with(&last.replace(' ', "T"))));
    ensure!(arrival["last_before"]["xid"].is_u64() || arrival["last_before"].is_null(), "{arrival}");
    // What has the pg_wal of a living server counts, though nothing was archived since.
    scene.cluster.sql("select pg_create_restore_point('late'); insert into t values (0); delete from t where n = 0")?;
    scene.check(&["--target-name", "late"])?.success().map(drop)
}

/// A backup that is not whole, WAL that is missing, damage that only a look at every byte finds.
#[test]
fn an_archive_that_does_not_hold_what_is_needed() -> Result<()> {
    let scene = Scene::new(|recipe| recipe)?;
    let part = scene.repo.objects().into_iter().find(|path| path.ends_with("part-00001.tar.zst")).context("a part")?;
    let sound = std::fs::read(&part)?;
    scene.repo.truncate(&part, sound.len() - 1)?;
    scene.refused_here(&[], &["is damaged", "part-00001"])?;
    scene.repo.replace(&part, &sound)?;
    scene.repo.flip(&part, sound.len() / 2)?;
    scene.check(&[])?.success()?;
    let before = scene.state(false)?;
    scene.check(&["--deep"])?.expect_code(20)?.says(&["part-00001"])?;
    unchanged(&before.files, &scene.state(false)?.files)?;
    scene.repo.replace(&part, &sound)?;
    let deep = scene.check(&["--deep", "--json"])?.success()?.json()?;
    ensure!(deep["deep"] == true && deep["proved"].as_array().is_some_and(|it| it.len() == 2), "{deep}");

    // A segment that the server itself has not any more.
    let segment =
        scene.repo.segments().into_iter().find(|name| !scene.cluster.pgdata().join("pg_wal").join(name).exists());
    let needed = std::fs::read_to_string(scene.repo.path().join(format!("main/backup/{}/backup.json", scene.backup)))?;
    ensure!(needed.contains("start_lsn"));
    let segment = segment.context("the server has recycled a segment")?;
    let object = scene.repo.wal(&segment)?;
    let sound = std::fs::read(&object)?;
    if scene.repo.segments().first() != Some(&segment) {
        scene.repo.remove(&object)?;
        scene.refused_here(&[], &[&segment])?;
        scene.repo.replace(&object, &sound)?;
    }
    scene.check(&[])?.success().map(drop)
}

/// The place, its owner, its neighbours.
#[test]
fn a_place_that_cannot_be_used() -> Result<()> {
    let scene = Scene::new(|recipe| recipe)?;
    let here = scene.cluster.pgdata_arg()?;
    scene.refused_here(&["--as", "copy"], &["holds a cluster already"])?;
    let path = |name: &str| scene.sandbox.path().join(name).display().to_string();
    scene.refused(&path("home"), &["--as", "production"], 20, &["neither empty nor a data directory"])?;
    scene.refused(&format!("{here}/inside"), &[], 20, &["lies in the original's data directory"])?;
    scene.refused(&path(&"x".repeat(90)), &["--as", "copy"], 20, &["too long for a copy"])?;
    scene.refused(&path("other"), &["--as", "production"], 20, &["own server runs on", here])?;
    let foreign = ["/srv", "/mnt", "/media", "/opt"]
        .into_iter()
        .find(|dir| std::fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_none()));
    if let Some(foreign) = foreign {
        scene.refused(foreign, &["--as", "copy"], 20, &["belongs to root"])?;
    }
    let elsewhere = scene.sandbox.path().join("home/no-server.toml");
    scene.sandbox.write(&elsewhere, b"[postgresql]\nbin-directory = \"/nowhere\"\n")?;
    scene.refused(here, &["--config", &elsewhere.display().to_string()], 2, &["programs of PostgreSQL", "/nowhere"])?;

    let place = scene.sandbox.path().join("place");
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o500))?;
    let refused = scene.refused_here(&[], &["nothing can be written into"]);
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o700))?;
    refused
}

/// H25: who looks after the server would start it in the middle of a rename.
#[test]
fn hazard_25_a_supervisor_that_is_not_paused() -> Result<()> {
    let scene = Scene::new(|recipe| recipe)?;
    let here = scene.cluster.pgdata_arg()?;
    // Patroni's own file is there, and somebody has started the server.
    let file = scene.cluster.pgdata().join("patroni.dynamic.json");
    scene.sandbox.write(&file, br#"{"ttl": 30, "loop_wait": 10}"#)?;
    scene.refused_here(&[], &["Patroni looks after", "patronictl pause"])?;
    let ran = scene.check(&["--ignore-supervisor"])?.success()?;
    ensure!(ran.stdout.contains("which is ignored"), "{ran}");
    scene.sandbox.write(&file, br#"{"ttl": 30, "pause": true}"#)?;
    let ran = scene.check(&[])?.success()?;
    ensure!(ran.stdout.contains("Patroni is paused"), "{ran}");
    std::fs::remove_file(&file)?;

    // A process that says for which directory it works: only there it is in the way.
    let repmgrd = scene.sandbox.path().join("home/repmgrd");
    std::os::unix::fs::symlink("/usr/bin/tail", &repmgrd)?;
    for (directory, counts) in [(here, true), ("/somewhere/else", false)] {
        let config = scene.sandbox.path().join("home/repmgr.conf");
        scene.sandbox.write(&config, format!("node_id=1\ndata_directory='{directory}'\n").as_bytes())?;
        let mut process = scene.sandbox.command(&repmgrd)?;
        let mut process = process.arg("-f").arg(&config).stdout(std::process::Stdio::null()).spawn()?;
        e2e::wait::until("it runs", || {
            let line = std::fs::read(format!("/proc/{}/cmdline", process.id()))?;
            Ok(line.starts_with(repmgrd.as_os_str().as_encoded_bytes()))
        })?;
        let told = if counts {
            scene.refused_here(&[], &["repmgrd looks after", "--ignore-supervisor"])
        } else {
            scene.check(&[]).and_then(Ran::success).map(drop)
        };
        process.kill()?;
        process.wait()?;
        told?;
    }
    Ok(())
}

/// A server that lives and whose process is not seen; and what a recovery would leave behind.
#[test]
fn who_else_has_to_do_with_the_cluster() -> Result<()> {
    let scene = Scene::new(|recipe| recipe)?;
    let pid_file = scene.cluster.pgdata().join("postmaster.pid");
    let whole = std::fs::read_to_string(&pid_file)?;
    let (_, rest) = whole.split_once('\n').context("a number")?;
    // As seen from another container: a number that is nobody's here. The server looks at its file once a minute.
    scene.sandbox.write(&pid_file, format!("4194303\n{rest}").as_bytes())?;
    let before = scene.state(false)?;
    let ran = scene.check(&[]);
    let after = scene.state(false);
    scene.sandbox.write(&pid_file, whole.as_bytes())?;
    ran?.expect_code(20)?.says(&["work in", here(&scene)?])?;
    unchanged(&before.files, &after?.files)?;
    ensure!(scene.cluster.sql("select count(*) from t")? == "2000");

    scene.cluster.sql("select pg_create_physical_replication_slot('east')")?;
    scene.cluster.sql("create subscription far connection 'host=/nowhere' publication p with (connect = false)")?;
    let standby = scene.cluster.standby("standby", true)?;
    e2e::wait::until("the standby streams", || {
        Ok(scene.cluster.sql("select count(*) from pg_stat_replication where state = 'streaming'")? == "1")
    })?;
    let plan = scene.check(&["--json"])?.success()?.json()?;
    let divergence = plan.pointer("/plan/divergence").context("the plan says who is left behind")?;
    ensure!(divergence["slots"] == serde_json::json!(["east (physical)"]), "{divergence}");
    ensure!(divergence["subscriptions"] == serde_json::json!(["far in postgres"]), "{divergence}");
    ensure!(divergence["standbys"].as_array().is_some_and(|it| it.len() == 1), "{divergence}");
    let said = scene.check(&[])?.success()?;
    ensure!(["east", "far", "rebuild it"].iter().all(|word| said.stdout.contains(word)), "{said}");
    standby.stop(StopMode::Immediate)?;
    scene.cluster.stop(StopMode::Fast)?;
    let plan = scene.check(&["--json"])?.success()?.json()?;
    ensure!(plan.pointer("/plan/divergence/slots") == Some(&serde_json::json!(["east"])), "{plan}");
    Ok(())
}

fn here(scene: &Scene) -> Result<&str> {
    scene.cluster.pgdata_arg()
}
