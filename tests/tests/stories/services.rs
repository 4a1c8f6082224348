//! Servers that are stopped and started by others' means, and whose configuration they get.

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, process, wait};

struct Scene {
    sandbox: Sandbox,
    repo: Repo,
    cluster: Cluster,
}

impl Scene {
    /// A cluster with a backup, whose configuration was changed after it.
    fn new() -> Result<Self> {
        let sandbox = Sandbox::new()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let cluster = Recipe::new("pg").segment_mb(1).archived_to(&repo).start(&sandbox)?;
        cluster.backup(&[])?;
        cluster.set("work_mem", "8MB")?;
        cluster.sql("alter system set maintenance_work_mem = '32MB'")?;
        Ok(Self { sandbox, repo, cluster })
    }

    /// Runs `recover` with this section in its configuration, and with the folder `fake` before all others in `PATH`.
    fn recover(&self, section: &str, args: &[&str]) -> Result<Ran> {
        let config = self.sandbox.path().join("home/services.toml");
        self.sandbox.write(&config, format!("[restore]\nhole-grace = \"1s\"\n[recovery]\n{section}").as_bytes())?;
        let mut command = self.sandbox.command(self.sandbox.program("recover"))?;
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
        let path = path.and_then(|path| path.to_str()).context("a PATH")?.to_owned();
        command.env("PATH", format!("{}:{path}", self.sandbox.path().join("fake").display()));
        command.env("HOLDFAST_CONFIG", &config).args(args);
        command.args(["--repo", self.repo.arg()?, "-D", self.cluster.pgdata_arg()?, "-U", "postgres"]);
        // Nothing is asked before a recovery goes on.
        command.args(Some("--yes").filter(|_| !args.contains(&"continue")));
        process::run(&mut command, "")
    }

    /// What the commands have noted so far.
    fn calls(&self) -> Result<String> {
        Ok(std::fs::read_to_string(self.sandbox.path().join("calls"))?.lines().collect::<Vec<_>>().join(", "))
    }

    fn shows(&self, work_mem: &str, maintenance: &str) -> Result<()> {
        self.cluster.wait_promoted()?;
        let found = (self.cluster.sql("show work_mem")?, self.cluster.sql("show maintenance_work_mem")?);
        ensure!(found == (work_mem.to_owned(), maintenance.to_owned()), "{found:?}");
        Ok(())
    }
}

/// Commands of the user's own stop and start the server, for a recovery and for its undoing.
#[test]
fn own_commands_and_the_preserved_configuration() -> Result<()> {
    let scene = Scene::new()?;
    let calls = scene.sandbox.path().join("calls");
    let log = scene.sandbox.path().join("own.log");
    let section = format!(
        "stop-command = 'echo stop >> {0}; pg_ctl stop -s -m fast'\nstart-command = 'echo start >> {0}; pg_ctl start -s -W -l {1}'",
        calls.display(),
        log.display()
    );
    let ran = scene.recover(&section, &["run", "--target-immediate", "--config-from", "preserved"])?.success()?;
    ensure!(scene.calls()? == "stop, start", "{}", scene.calls()?);
    // The plan and the report tell what is otherwise in the backup.
    for words in ["postgresql.conf, postgresql.auto.conf differ: those in place are kept", "work_mem = '8MB'"] {
        ensure!(ran.stdout.contains(words), "{words}: {ran}");
    }
    scene.shows("8MB", "32MB")?;
    scene.recover(&section, &["rollback"])?.success()?;
    ensure!(scene.calls()?.starts_with("stop, start, stop, start"), "{}", scene.calls()?);
    wait::until("the old server is back", || Ok(scene.cluster.is_running()))?;
    scene.shows("8MB", "32MB")?;

    // One that cannot start the server is told of with what it said.
    let broken = "start-command = 'echo no such luck; exit 3'";
    let ran = scene.recover(broken, &["run", "--target-immediate"])?.expect_code(1)?.says(&["exit status: 3"])?;
    ensure!(ran.stderr.contains("run --resume"), "{ran}");
    scene.recover("", &["run", "--resume"])?.success()?;
    scene.shows("4MB", "64MB")
}

/// A start that goes on by itself, as that of a unit does, is called off by the stop, also before a server shows itself.
#[test]
fn a_start_that_no_server_is_seen_of_is_stopped() -> Result<()> {
    let scene = Scene::new()?;
    let calls = scene.sandbox.path().join("calls");
    let section = |start: &str| {
        format!(
            "stop-command = 'echo stop >> {0}; pg_ctl stop -s -m fast'\nstart-command = 'echo start >> {0}; {start}'",
            calls.display()
        )
    };
    scene.recover(&section("exit 3"), &["run", "--target-immediate"])?.expect_code(1)?;
    ensure!(scene.calls()? == "stop, start", "{}", scene.calls()?);
    let log = scene.sandbox.path().join("own.log");
    let start = format!("pg_ctl start -s -W -l {}", log.display());
    scene.recover(&section(&start), &["rollback"])?.success()?;
    ensure!(scene.calls()? == "stop, start, stop, start", "{}", scene.calls()?);
    scene.shows("8MB", "32MB")
}

/// There is no systemd in a test: something that is called so notes what it is asked for, and does it.
#[test]
fn a_systemd_unit_and_the_backups_configuration() -> Result<()> {
    let scene = Scene::new()?;
    let fake = scene.sandbox.folder("fake")?;
    let (calls, log) = (scene.sandbox.path().join("calls"), scene.sandbox.path().join("unit.log"));
    let script = format!(
        "#!/bin/sh\necho \"$*\" >> {}\ncase \"$*\" in\n*start*) pg_ctl start -s -W -l {};;\n*) pg_ctl stop -s -m fast;;\nesac\n",
        calls.display(),
        log.display()
    );
    let systemctl = fake.join("systemctl");
    scene.sandbox.write(&systemctl, script.as_bytes())?;
    process::run(std::process::Command::new("chmod").arg("755").arg(&systemctl), "")?.success()?;
    let section = "systemd-unit = 'postgresql@15-main'";
    let ran = scene.recover(section, &["run", "--target-immediate", "--target-action", "pause"])?.success()?;
    let both = "stop postgresql@15-main, --no-block start postgresql@15-main";
    ensure!(scene.calls()? == both, "{}", scene.calls()?);
    ensure!(ran.stdout.contains("--config-from preserved keeps those in place"), "{ran}");
    // Going on takes a stop and a start, by the same means.
    scene.recover(section, &["continue", "--target-latest"])?.success()?;
    ensure!(scene.calls()? == format!("{both}, {both}"), "{}", scene.calls()?);
    scene.shows("4MB", "64MB")?;

    // A copy is nobody's unit.
    let copy = scene.cluster.recover_copy("copy", &["--target-immediate"])?;
    ensure!(copy.is_running() && scene.calls()?.matches("start").count() == 2);
    Ok(())
}
