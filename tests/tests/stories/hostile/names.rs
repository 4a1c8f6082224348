//! Names made to break lines, quotes and paths.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;

use super::*;

/// What PostgreSQL would never hand over as the name of a file.
fn strange_names() -> Vec<OsString> {
    let text = ["", ".", "..", "../x", "../../etc/passwd", "/etc/passwd", "0000000100000000000000AA\n", "a b", "$(id)"];
    let mut names: Vec<OsString> = text.into_iter().map(OsString::from).collect();
    names.extend([
        "0000000100000000000000AA\u{1b}[2J".into(),
        "0000000100000000000000aa".into(),
        "0000000100000000000000AA.history/..".into(),
        "0".repeat(300).into(),
        OsString::from_vec(b"0000000100000000000000\xFF\xFE".to_vec()),
        "000000010000000000000\u{fc}\u{fc}".into(),
    ]);
    names
}

#[test]
fn strange_names_of_wal_files_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    let before = fingerprint(scene.sandbox.path())?;
    let run = |program: &str, args: &[&OsStr]| {
        let mut command = scene.sandbox.command(scene.sandbox.program(program))?;
        command.args(["--repo", scene.repo.arg()?, "--"]).args(args).current_dir(scene.node.pgdata());
        orderly(e2e::process::run(&mut command, "")?)
    };
    for name in strange_names() {
        let told = || format!("{}", name.display());
        let ran = run("restore-wal", &[&name, "pg_wal/RECOVERYXLOG".as_ref()]).with_context(told)?;
        ran.stops_recovery()?;
        let path = PathBuf::from("pg_wal").join(&name);
        let ran = run("archive-wal", &[path.as_os_str()]).with_context(told)?;
        ensure!(ran.code.is_some_and(|code| (1..=125).contains(&code)), "{ran}");
    }
    unchanged(&before, &fingerprint(scene.sandbox.path())?)
}

#[test]
fn strange_names_of_clusters_are_refused() -> Result<()> {
    let scene = Scene::new()?;
    let before = fingerprint(scene.sandbox.path())?;
    let long = "x".repeat(65);
    for name in ["", ".", "..", "../main", "main/../main", "/main", "a b", "-x", "a\nb", "\u{1b}[2J", "\u{fc}", &long] {
        let cluster = format!("--cluster={name}");
        let calls: [(&str, &[&str]); 6] = [
            ("archive-wal", &["pg_wal/x"]),
            ("restore-wal", &[&scene.segment, "pg_wal/RECOVERYXLOG"]),
            ("basebackup", &[]),
            ("recover", &["list"]),
            ("retention", &["--keep-last", "1"]),
            ("verify", &["backup", "--all"]),
        ];
        for (program, args) in calls {
            let args = [args, &["--repo", scene.repo.arg()?, &cluster]].concat();
            let ran = orderly(scene.sandbox.run_in(scene.node.pgdata(), program, &args)?)?;
            ran.expect_code(if program == "restore-wal" { 202 } else { 2 })?;
        }
    }
    unchanged(&before, &fingerprint(scene.sandbox.path())?)
}

/// A link inside a repository could lead anywhere: nothing goes through it, neither in nor out.
#[test]
#[expect(clippy::disallowed_methods, reason = "an administrator who moves a folder and leaves a link")]
fn links_inside_a_repository_are_not_followed() -> Result<()> {
    let scene = Scene::new()?;
    let elsewhere = scene.sandbox.path().join("elsewhere");
    let wal = scene.repo.wal(&scene.segment)?;
    let record = scene.repo.backup_object(&scene.newer, "backup.json")?;
    let folder = |path: &PathBuf, above: usize| path.ancestors().nth(above).map(ToOwned::to_owned);
    // What becomes a link, and how restore-wal ends then.
    let links = [
        (folder(&wal, 4), 201),
        (folder(&wal, 3), 201),
        (folder(&wal, 1), 201),
        (Some(wal.clone()), 201),
        (folder(&record, 1), 0),
        (Some(record), 0),
    ];
    for (path, fetched) in links {
        let path = path.context("a path in the repository")?;
        std::fs::rename(&path, &elsewhere)?;
        symlink(&elsewhere, &path)?;
        let before = fingerprint(&elsewhere)?;
        let told = || format!("{} is a link", path.display());
        for (index, ran) in scene.ask()?.into_iter().enumerate() {
            let ran = orderly(ran).with_context(told)?;
            if index == 1 {
                ran.expect_code(fetched).with_context(told)?;
            }
        }
        unchanged(&before, &fingerprint(&elsewhere)?)?;
        std::fs::remove_file(&path)?;
        std::fs::rename(&elsewhere, &path)?;
    }
    scene.expect([0; 8], &[])
}

/// Spaces, quotes and letters in the paths of everything, and files in the data directory whose names nobody would
/// type: backed up, listed, checked, and recovered by a server that reads the paths from its settings.
#[test]
fn strange_paths_come_through() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let repo = Repo::new(&sandbox, "the \"repo\" $(x) \u{fc}'s")?;
    let config = format!("[[repository]]\nurl = '''{}'''\n\n[restore]\nhole-grace = \"1s\"\n", repo.arg()?);
    sandbox.write(&sandbox.path().join("home/holdfast.toml"), config.as_bytes())?;
    let archive = format!("{} %p", sandbox.program("archive-wal").display());
    let recipe = Recipe::new("my 'data' $HOME %p \u{e9}").segment_mb(1).set("archive_mode", "on");
    let cluster = recipe.set("archive_command", &archive).start(&sandbox)?;
    let cluster = Cluster::at(&sandbox, cluster.pgdata(), Some(&repo));
    cluster.sql("create table t as select generate_series(1, 1000) as n")?;
    let names: [&[u8]; 6] = [b"line\nbreak", b"\xFF\xFE", b"\x1b[2J", b"back\\slash\"quote", b"-rf *", &[b'n'; 255]];
    for name in names {
        sandbox.write(&cluster.pgdata().join("base").join(OsString::from_vec(name.to_vec())), name)?;
    }
    let id = orderly(cluster.try_backup(&["-l", "it's \"quoted\" \u{1f980}"])?)?.success()?.stdout.trim().to_owned();
    cluster.sql("insert into t select generate_series(1, 1000)")?;
    cluster.switch_wal()?;
    for (program, args) in [
        ("verify", vec!["backup", &id]),
        ("basebackup", vec!["list"]),
        ("recover", vec!["list"]),
        ("recover", vec!["windows"]),
    ] {
        orderly(sandbox.run(program, &args)?)?.success()?;
    }
    // pg_ctl itself would run what stands there; so nothing is made at all.
    for name in ["a \"copy\"", "$(id)", "`id`", "a\\b", "a\nb"] {
        let copy = Cluster::at(&sandbox, &sandbox.path().join(name), Some(&repo));
        let ran = orderly(copy.try_recover(&["--as", "copy", "--port", "5999", "--target-latest"])?)?;
        ran.expect_code(2)?.says(&["pg_ctl", "choose a path"])?;
        ensure!(!copy.pgdata().exists());
    }
    let copy = cluster.recover_copy("a 'copy' (x) %f \u{fc}; exit", &["--target-latest"])?;
    ensure!(copy.sql("select count(*) from t")? == "2000");
    for name in names {
        let path = copy.pgdata().join("base").join(OsString::from_vec(name.to_vec()));
        ensure!(std::fs::read(&path)? == name, "{} came back with other contents", path.display());
    }
    Ok(())
}
