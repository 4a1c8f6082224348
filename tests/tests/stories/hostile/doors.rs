//! Closed doors: a repository that is read-only, somebody else's, or gone, also in the middle of the work.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use e2e::{Disk, disk, process, settings, wait};

use super::*;

/// What the programs do that write into a repository: each must fail with its code, say these words and a hint, and
/// leave the repository and the server as they were.
fn writers_fail(scene: &Scene, words: &[&str]) -> Result<()> {
    let before = fingerprint(scene.sandbox.path())?;
    let archived = scene.cluster.archive_wal(&format!("pg_wal/{}", scene.unarchived))?;
    let retention = scene.run("retention", &["--keep-last", "1"])?;
    for ran in [archived, retention] {
        orderly(ran)?.expect_code(1)?.says(words)?;
    }
    unchanged(&before, &fingerprint(scene.sandbox.path())?)
}

/// A backup of the server: its WAL does not arrive, and nothing begins. The server goes on.
fn backup_fails(scene: &Scene) -> Result<()> {
    let before = scene.repo.fingerprint()?;
    scene.cluster.start()?;
    let ran = orderly(scene.cluster.try_backup(&["--archive-timeout", "2s"])?)?;
    ran.expect_code(20)?.says(&["did not arrive", "the archiver failed"])?;
    ensure!(scene.cluster.sql("select count(*) from t")? == "3000");
    scene.cluster.stop(StopMode::Immediate)?;
    unchanged(&before, &scene.repo.fingerprint()?)
}

/// The cause is gone: what failed before succeeds.
fn writers_succeed(scene: &Scene) -> Result<()> {
    scene.cluster.archive_wal(&format!("pg_wal/{}", scene.unarchived))?.success()?;
    scene.run("retention", &["--keep-last", "1"])?.success()?;
    ensure!(scene.repo.backups() == std::slice::from_ref(&scene.newer));
    scene.fetch()?.success()?;
    Ok(())
}

#[test]
fn a_read_only_repository_can_be_read() -> Result<()> {
    if !settings::has_root("a_read_only_repository_can_be_read") {
        return Ok(());
    }
    disk::in_private(|| {
        let scene = Scene::new()?;
        let mount = Disk::read_only(scene.repo.path())?;
        writers_fail(&scene, &["read-only"])?;
        backup_fails(&scene)?;
        scene.expect([1, 0, 0, 0, 0, 0, 0, 0], &["read-only"])?;
        drop(mount);
        writers_succeed(&scene)
    })
}

/// The same for an ordinary user, who has lost the right to write.
#[test]
fn a_repository_without_the_right_to_write_can_be_read() -> Result<()> {
    let scene = Scene::new()?;
    let folders = folders(scene.repo.path())?;
    let chmod = |mode: u32| folders.iter().try_for_each(|path| set_permissions(path, Permissions::from_mode(mode)));
    chmod(0o500)?;
    writers_fail(&scene, &["permission denied"])?;
    backup_fails(&scene)?;
    scene.expect([1, 0, 0, 0, 0, 0, 0, 0], &["permission denied"])?;
    chmod(0o700)?;
    writers_succeed(&scene)
}

/// What cannot be looked at is never "not there".
#[test]
fn a_closed_folder_is_not_an_empty_one() -> Result<()> {
    let scene = Scene::new()?;
    let record = scene.repo.backup_object(&scene.newer, "backup.json")?;
    let wal = scene.repo.wal(&scene.segment)?;
    let up = |path: &Path, count: usize| path.ancestors().nth(count).map(Path::to_owned).context("a folder");
    let cases: [(PathBuf, Codes); 7] = [
        (scene.repo.path().to_owned(), [1, 201, 1, 1, 1, 1, 1, 1]),
        (scene.repo.path().join("holdfast.json"), [1, 201, 1, 1, 1, 1, 1, 1]),
        (up(&record, 2)?, [0, 0, 1, 1, 1, 1, 1, 1]),
        (up(&record, 1)?, [0, 0, 1, 1, 1, 1, 1, 1]),
        (record, [0, 0, 0, 3, 0, 0, 0, 3]),
        (up(&wal, 1)?, [1, 201, 0, 1, 0, 1, 1, 1]),
        (wal, [1, 201, 0, 3, 0, 0, 1, 0]),
    ];
    for (path, codes) in cases {
        let mode = std::fs::metadata(&path)?.permissions();
        set_permissions(&path, Permissions::from_mode(0o000))?;
        let answers = scene.ask()?;
        set_permissions(&path, mode)?;
        for (ran, code) in answers.into_iter().zip(codes) {
            let ran = orderly(ran)?.expect_code(code).with_context(|| path.display().to_string())?;
            ensure!(code == 0 || ran.to_string().to_lowercase().contains("permission denied"), "{ran}");
        }
    }
    scene.expect([0; 8], &[])
}

/// An object that root wrote, as after a call by the wrong user.
#[test]
fn a_file_of_another_owner_is_told() -> Result<()> {
    if !settings::has_root("a_file_of_another_owner_is_told") {
        return Ok(());
    }
    let scene = Scene::new()?;
    for (path, codes) in [
        (scene.repo.path().join("holdfast.json"), [1, 201, 1, 1, 1, 1, 1, 1]),
        (scene.repo.wal(&scene.segment)?, [1, 201, 0, 3, 0, 0, 1, 0]),
    ] {
        chown(&path, Some(0), Some(0))?;
        set_permissions(&path, Permissions::from_mode(0o600))?;
        scene.expect(codes, &["ermission denied"])?;
        scene.sandbox.account().own(&path)?;
    }
    scene.expect([0; 8], &[])
}

/// The repository's folder is gone, and where it was nothing can be made: an unmounted disk.
#[test]
fn a_vanished_repository_is_told() -> Result<()> {
    let scene = Scene::new()?;
    let away = scene.repo.take_away()?;
    let above = scene.sandbox.path();
    set_permissions(above, Permissions::from_mode(0o500))?;
    let answers = scene.ask();
    set_permissions(above, Permissions::from_mode(0o700))?;
    for (ran, code) in answers?.into_iter().zip([10, 210, 10, 10, 10, 10, 10, 10]) {
        orderly(ran)?.expect_code(code)?.says(&[scene.repo.arg()?])?;
    }
    ensure!(!scene.repo.path().exists());
    away.bring_back()?;
    scene.expect([0; 8], &[])
}

/// The repository is gone while a backup is made: nothing is published, the server goes on, and the next backup
/// succeeds.
#[test]
fn a_repository_vanishes_under_a_backup() -> Result<()> {
    let (sandbox, repo, cluster) = archived_table()?;
    let older = cluster.backup(&[])?;
    // Only the segment that proves the archiving arrives; the archiver hangs on the rest until the repository is gone.
    let probe = cluster.sql("select pg_walfile_name(pg_current_wal_insert_lsn())")?;
    let usual = e2e::cluster::archive_command(&sandbox, &repo)?;
    let hangs = format!("while test -e {}; do sleep 0.1; done; false", repo.arg()?);
    cluster.set("archive_command", &format!("if test %f = {probe}; then {usual}; else {hangs}; fi"))?;
    let mut child = background(&cluster, &sandbox, "basebackup", &["-c", "fast", "-d", "postgres"])?;
    wait::until("the backup has begun", || {
        ensure!(child.try_wait()?.is_none(), "the backup ended before the repository vanished");
        Ok(e2e::sandbox::find_files(repo.path(), "started.json").len() == 2)
    })?;
    let away = repo.take_away()?;
    let status = process::wait_for(&mut child)?.context("the backup hangs without its repository")?;
    ensure!(status.code() == Some(1), "{status}");
    ensure!(!repo.path().exists(), "the backup made a new repository");
    let said = std::fs::read_to_string(sandbox.path().join("basebackup.err"))?;
    ensure!(said.contains("nothing was published") && said.contains("hint: "), "{said}");
    ensure!(cluster.sql("select count(*) from pg_stat_activity where application_name like '%basebackup%'")? == "0");
    away.bring_back()?;
    ensure!(repo.backups() == [older]);
    cluster.set("archive_command", &usual)?;
    cluster.backup(&[])?;
    ensure!(repo.backups().len() == 2);
    Ok(())
}

/// The repository is gone while a recovery in place unpacks: the way back is named and works, and so does the same
/// recovery afterwards.
#[test]
fn a_repository_vanishes_under_a_recovery() -> Result<()> {
    let (sandbox, repo, cluster) = archived_table()?;
    cluster.backup(&[])?;
    cluster.sql("insert into t select generate_series(1, 1000)")?;
    cluster.switch_wal()?;
    cluster.stop(StopMode::Fast)?;
    let before = fingerprint(cluster.pgdata())?;
    let mut child = background(&cluster, &sandbox, "recover", &["run", "--yes", "-U", "postgres", "--target-latest"])?;
    wait::until("the recovery unpacks", || {
        ensure!(child.try_wait()?.is_none(), "the recovery ended before the repository vanished");
        Ok(sandbox.path().join("pg.holdfast/journal.json").exists())
    })?;
    let away = repo.take_away()?;
    let status = process::wait_for(&mut child)?.context("the recovery hangs without its repository")?;
    ensure!(status.code().is_some_and(|code| matches!(code, 1 | 10 | 20)), "{status}");
    let said = std::fs::read_to_string(sandbox.path().join("recover.err"))?;
    ensure!(said.contains("recover rollback -D"), "{said}");
    ensure!(!cluster.is_running(), "a half recovered server runs");
    away.bring_back()?;
    sandbox.run("recover", &["rollback", "-D", cluster.pgdata_arg()?, "--repo", repo.arg()?, "--yes"])?.success()?;
    unchanged(&before, &fingerprint(cluster.pgdata())?)?;
    cluster.recover(&["--target-latest"])?;
    ensure!(cluster.sql("select count(*) from t")? == "2000");
    Ok(())
}

/// Starts a program on the cluster; what it says goes to `PROGRAM.err` in the sandbox.
fn background(cluster: &Cluster, sandbox: &Sandbox, program: &str, args: &[&str]) -> Result<std::process::Child> {
    let mut command = sandbox.command(sandbox.program(program))?;
    command.args(args).args(["--repo", cluster.repo()?.arg()?, "-D", cluster.pgdata_arg()?]);
    if let Ok(connection) = cluster.connection() {
        command.args(connection);
    }
    let said = std::fs::File::create(sandbox.path().join(format!("{program}.err")))?;
    command.stdout(std::process::Stdio::null()).stderr(said).stdin(std::process::Stdio::null());
    command.spawn().with_context(|| format!("start {program}"))
}

/// The folder and all below it, the deepest first.
fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(folders(&entry.path())?);
        }
    }
    found.push(path.to_owned());
    Ok(found)
}
