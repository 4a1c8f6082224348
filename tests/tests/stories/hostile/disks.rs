//! Disks that are full, of bytes or of files.

use e2e::{Disk, disk, settings, wait};

use super::*;

/// Fills a disk to the last byte; answers the file that does.
fn fill(disk: &Disk) -> Result<PathBuf> {
    let path = disk.path().join("ballast");
    let mut file = std::fs::File::create(&path)?;
    let full = std::io::copy(&mut std::io::repeat(7), &mut file);
    ensure!(full.is_err_and(|err| err.kind() == std::io::ErrorKind::StorageFull), "the disk is not full");
    Ok(path)
}

/// A scene whose repository lies on a small disk of its own, in a place where it does not hurt the others.
fn on_a_disk(story: &str, options: &str, told: impl FnOnce(&Scene, &Disk) -> Result<()> + Send) -> Result<()> {
    if !settings::has_root(story) {
        return Ok(());
    }
    disk::in_private(|| {
        let scene = Scene::new()?;
        let disk = Disk::new(&scene.sandbox, "disk", options)?;
        let from = format!("{}/.", scene.repo.arg()?);
        let to = scene.sandbox.folder("disk/repo")?;
        scene.sandbox.run_other("cp", &["-a", &from, to.to_str().context("text")?])?.success()?;
        let repo = Repo::new(&scene.sandbox, "disk/repo")?;
        let at = |cluster: &Cluster| Cluster::at(&scene.sandbox, cluster.pgdata(), Some(&repo));
        let scene = Scene { cluster: at(&scene.cluster), node: at(&scene.node), repo: repo.clone(), ..scene };
        let usual = e2e::cluster::archive_command(&scene.sandbox, &scene.repo)?;
        scene.cluster.configure(&[("archive_command".to_owned(), usual)])?;
        told(&scene, &disk)
    })
}

/// Nothing is lost, nothing half is left, and who only reads or removes goes on.
fn a_full_repository(scene: &Scene, relieve: impl FnOnce() -> Result<()>) -> Result<()> {
    let before = scene.repo.fingerprint()?;
    let path = format!("pg_wal/{}", scene.unarchived);
    let ran = orderly(scene.cluster.archive_wal(&path)?)?.expect_code(1)?;
    ran.says(&["no space left", "df -h", scene.repo.arg()?])?;
    unchanged(&before, &scene.repo.fingerprint()?)?;
    for ran in scene.ask()?.into_iter().skip(1) {
        orderly(ran)?.success()?;
    }
    // The server goes on, too, and its archiver.
    scene.cluster.start()?;
    let ran = orderly(scene.cluster.try_backup(&["--archive-timeout", "2s"])?)?.expect_code(20)?;
    ran.says(&["did not arrive", "the archiver failed"])?;
    // The archiver tries again and again, and what it tries with comes and goes.
    wait::until("the repository is as before", || Ok(scene.repo.fingerprint().is_ok_and(|now| now == before)))?;
    ensure!(scene.cluster.sql("select count(*) from t")? == "3000");
    relieve()?;
    scene.cluster.stop(StopMode::Immediate)?;
    scene.cluster.archive_wal(&path)?.success()?;
    scene.cluster.start()?;
    let id = scene.cluster.backup(&[])?;
    scene.run("verify", &["backup", &id])?.success()?;
    Ok(())
}

#[test]
fn a_full_disk_under_the_repository() -> Result<()> {
    on_a_disk("a_full_disk_under_the_repository", "size=20m", |scene, disk| {
        let ballast = fill(disk)?;
        a_full_repository(scene, || Ok(std::fs::remove_file(ballast)?))
    })
}

#[test]
fn no_inode_left_under_the_repository() -> Result<()> {
    on_a_disk("no_inode_left_under_the_repository", "size=20m,nr_inodes=1000", |scene, disk| {
        let used = e2e::sandbox::walk(disk.path()).len();
        // Folders count as well; what is there stays.
        disk.resize(&format!("nr_inodes={}", used + 1)).or_else(|_| {
            (used..used + 100).find_map(|count| disk.resize(&format!("nr_inodes={count}")).ok()).context("a limit")
        })?;
        a_full_repository(scene, || disk.resize("nr_inodes=1000"))
    })
}

/// There is room for WAL, and not for a backup: what was written of it goes again.
#[test]
fn a_backup_that_does_not_fit_leaves_nothing() -> Result<()> {
    on_a_disk("a_backup_that_does_not_fit_leaves_nothing", "size=8m", |scene, disk| {
        scene.cluster.start()?;
        scene.cluster.switch_wal()?;
        let backups = scene.repo.backups();
        let ran = orderly(scene.cluster.try_backup(&["-j", "2"])?)?.expect_code(1)?;
        ran.says(&["no space left", "nothing was published", "df -h"])?;
        ensure!(scene.repo.backups() == backups);
        let folders = std::fs::read_dir(scene.repo.path().join("main/backup"))?.count();
        ensure!(folders == backups.len(), "{folders} folders of {} backups", backups.len());
        let left = e2e::sandbox::walk(scene.repo.path());
        ensure!(left.iter().all(|path| path.extension() != Some("tmp".as_ref())), "{left:?}");
        disk.resize("size=20m")?;
        let id = scene.cluster.backup(&[])?;
        scene.run("verify", &["backup", &id])?.success()?;
        Ok(())
    })
}

/// The recovering server's disk is full: recovery stops, and goes on from there.
#[test]
fn a_full_disk_under_pg_wal() -> Result<()> {
    if !settings::has_root("a_full_disk_under_pg_wal") {
        return Ok(());
    }
    disk::in_private(|| {
        let scene = Scene::new()?;
        let disk = Disk::new(&scene.sandbox, "node/pg_wal", "size=2m")?;
        let ballast = fill(&disk)?;
        orderly(scene.fetch()?)?.expect_code(201)?.says(&["no space left", "df -h", &scene.segment])?;
        ensure!(std::fs::read_dir(disk.path())?.count() == 1, "something was left behind");
        std::fs::remove_file(ballast)?;
        scene.fetch()?.success()?;
        disk.resize("nr_inodes=1")?;
        orderly(scene.fetch()?)?.expect_code(201)?.says(&["no space left"])?;
        disk.resize("nr_inodes=100")?;
        scene.fetch()?.success()?;
        Ok(())
    })
}

/// A recovery that does not fit is refused before anything is touched; one whose disk fills up meanwhile names the way
/// back, and does not call the backup damaged.
#[test]
fn a_full_disk_under_a_recovery() -> Result<()> {
    if !settings::has_root("a_full_disk_under_a_recovery") {
        return Ok(());
    }
    disk::in_private(|| {
        let scene = Scene::new()?;
        let disk = Disk::new(&scene.sandbox, "disk", "size=10m")?;
        let options = ["--target-latest", "--no-start"];
        orderly(scene.copy("disk/copy", &options)?)?.expect_code(20)?.says(&["room for"])?;
        ensure!(std::fs::read_dir(disk.path())?.count() == 0, "a refused recovery made something");
        // Room enough, and too few inodes, which nobody counts before.
        disk.resize("size=100m,nr_inodes=200")?;
        let ran = orderly(scene.copy("disk/copy", &options)?)?.expect_code(1)?;
        ran.clone().says(&["no space left", "df -h", "recover rollback -D"])?;
        ensure!(!ran.stderr.contains("damaged"), "the backup is not to blame: {ran}");
        disk.resize("nr_inodes=10000")?;
        let dest = disk.path().join("copy").display().to_string();
        scene.run("recover", &["rollback", "-D", &dest, "--yes"])?.success()?;
        scene.copy("disk/copy", &options)?.success()?;
        scene.sandbox.run_other("pg_verifybackup", &["-n", &dest])?.success()?;
        Ok(())
    })
}

/// A disk fills up while a server archives to it, and later cannot be written to for a while: the archiver goes on, what
/// it calls archived is there, and when the cause is gone everything arrives.
#[test]
fn archiving_under_load_outlives_a_full_and_a_read_only_disk() -> Result<()> {
    if !settings::has_root("archiving_under_load_outlives_a_full_and_a_read_only_disk") {
        return Ok(());
    }
    disk::in_private(|| {
        let sandbox = Sandbox::in_memory()?;
        let disk = Disk::new(&sandbox, "disk", "size=20m")?;
        let repo = Repo::new(&sandbox, "disk/repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).set("wal_keep_size", "4GB").start(&sandbox)?;
        cluster.sql("create table t (a text)")?;
        until_archiving_fails(&cluster, "no space left")?;
        disk.resize("size=400m")?;
        everything_arrives(&cluster)?;
        let mount = Disk::read_only(repo.path())?;
        until_archiving_fails(&cluster, "read-only")?;
        drop(mount);
        everything_arrives(&cluster)
    })
}

/// Writes WAL that hardly compresses until the archiver fails with these words, and looks at what is archived then.
fn until_archiving_fails(cluster: &Cluster, words: &str) -> Result<()> {
    let row = "string_agg(md5(random()::text), '')";
    let write = format!("insert into t select {row} from generate_series(1, 200000) n group by n % 5000");
    wait::until("archiving fails", || {
        cluster.sql(&write)?;
        Ok(cluster.log().to_lowercase().contains(words))
    })?;
    let repo = cluster.repo()?;
    repo.require_whole()?;
    let left = e2e::sandbox::walk(repo.path());
    // One may be at work just now.
    let hidden = left.iter().filter(|path| path.extension() == Some("tmp".as_ref())).count();
    ensure!(hidden <= 1, "{left:?}");
    ensure!(!cluster.waiting_to_be_archived()?.is_empty());
    let archived = cluster.archived_by_its_own_account()?;
    ensure!(!archived.is_empty());
    archived.iter().try_for_each(|name| cluster.require_archived(name))
}

fn everything_arrives(cluster: &Cluster) -> Result<()> {
    // An archiver that has given up rests for a minute, unless a segment ends.
    cluster.end_segment()?;
    wait::until("everything is archived", || Ok(cluster.waiting_to_be_archived()?.is_empty()))?;
    let archived = cluster.archived_by_its_own_account()?;
    archived.iter().try_for_each(|name| cluster.require_archived(name))
}
