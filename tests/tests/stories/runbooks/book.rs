//! A place where the commands of some chapters are carried out as they are written.

use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result, ensure};
use e2e::cluster::Recipe;
use e2e::{Cluster, Ran, Repo, Sandbox, process};

use super::OPERATIONS;
use super::document::{Typed, blocks, paths, put};

/// Where the document's places lie here.
const PLACES: [(&str, &str); 7] = [
    ("/var/lib/postgresql/15/", "/"),
    ("/var/lib/postgresql/17/", "/"),
    ("/var/lib/holdfast", "/repo"),
    ("/var/backups", "/backups"),
    ("/mnt/", "/mnt/"),
    ("/srv/", "/srv/"),
    ("/tmp/", "/"),
];

/// What somebody answers to every question.
const ANSWERS: &str = "yes\nyes\nyes\n";

/// Some chapters, and what is still to be done in them.
pub(super) struct Book {
    pub sandbox: Sandbox,
    /// What the configuration file names; its folder is there.
    pub repo: Repo,
    left: Vec<Typed>,
    words: Vec<(String, String)>,
    config: String,
    port: u16,
}

impl Book {
    /// Opens the chapters, in a place where there is nothing but a repository's empty folder.
    pub(super) fn open(chapters: &[&str]) -> Result<Self> {
        let sandbox = Sandbox::in_memory()?;
        let repo = Repo::new(&sandbox, "repo")?;
        let mut left = blocks(OPERATIONS);
        left.retain(|typed| chapters.contains(&typed.chapter.as_str()));
        for chapter in chapters {
            ensure!(left.iter().any(|typed| typed.chapter == *chapter), "no commands in a chapter {chapter:?}");
        }
        for folder in ["backups", "mnt", "srv", "fake"] {
            sandbox.folder(folder)?;
        }
        let place = sandbox.path().display();
        let mut words: Vec<_> =
            PLACES.iter().map(|(example, here)| ((*example).to_owned(), format!("{place}{here}"))).collect();
        for port in ["5433", "5434", "5435"] {
            words.push((port.to_owned(), sandbox.new_port().to_string()));
        }
        let config = format!(
            "[[repository]]\nurl = \"{}\"\n[restore]\nhole-grace = \"1s\"\n[retention]\nkeep-last = 1\n",
            repo.arg()?
        );
        let mut book = Self { sandbox, repo, left, words, config: String::new(), port: 0 };
        book.configure(&config)?;
        Ok(book)
    }

    /// Fails when a command was not carried out.
    pub(super) fn close(&self) -> Result<()> {
        ensure!(self.left.is_empty(), "nobody carries these out: {:#?}", self.left);
        Ok(())
    }

    /// Appends to the configuration file.
    pub(super) fn configure(&mut self, lines: &str) -> Result<()> {
        self.config.push_str(lines);
        self.sandbox.write(&self.sandbox.path().join("holdfast.toml"), self.config.as_bytes())
    }

    /// From now on this stands in the commands where the document has the example.
    pub(super) fn says(&mut self, example: &str, here: &str) {
        self.words.retain(|(known, _)| known != example);
        self.words.push((example.to_owned(), here.to_owned()));
    }

    /// From now on a moment stands there, and it is now.
    pub(super) fn says_now(&mut self, example: &str, cluster: &Cluster) -> Result<()> {
        let now = cluster.sql("select clock_timestamp()")?;
        self.says(example, &now);
        Ok(())
    }

    /// The server that the commands talk to when they name none.
    pub(super) fn talks_to(&mut self, cluster: &Cluster) -> Result<()> {
        self.port = cluster.port()?;
        Ok(())
    }

    /// A program of this name is found before all others.
    pub(super) fn fake(&self, name: &str, script: &str) -> Result<()> {
        let path = self.sandbox.path().join("fake").join(name);
        self.sandbox.write(&path, format!("#!/bin/sh\n{script}\n").as_bytes())?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).context("make it a program")
    }

    /// Production as the chapters have it: archived into the repository, a database `shop`, in it 1000 `orders`.
    pub(super) fn production(&mut self) -> Result<Cluster> {
        // A backup does not wait for a checkpoint that takes its time, and a standby keeps what nobody has archived.
        let recipe =
            Recipe::new("main").segment_mb(1).set("checkpoint_completion_target", "0").set("wal_keep_size", "256MB");
        let cluster = recipe.archived_to(&self.repo).start(&self.sandbox)?;
        self.talks_to(&cluster)?;
        cluster.sql("create database shop")?;
        shop(&cluster, "create table orders (id int primary key)")?;
        order(&cluster, 1000)?;
        Ok(cluster)
    }

    /// The next command that begins so, with this place's words; it counts as carried out.
    pub(super) fn take(&mut self, begin: &str) -> Result<String> {
        let found = self.left.iter().position(|typed| typed.text.starts_with(begin));
        let typed = self.left.remove(found.with_context(|| format!("no {begin:?} in {:#?}", self.left))?);
        Ok(put(&typed.text, &self.words))
    }

    /// Carries out the next command that begins so; it must end with 0.
    pub(super) fn run(&mut self, begin: &str) -> Result<Ran> {
        self.run_to(begin, 0)
    }

    /// The same for one that ends with another code, as the document says.
    pub(super) fn run_to(&mut self, begin: &str, code: i32) -> Result<Ran> {
        let command = self.take(begin)?;
        self.shell(&command)?.expect_code(code)
    }

    /// Carries this out at a terminal, where every question is answered with yes.
    pub(super) fn shell(&self, text: &str) -> Result<Ran> {
        let place = self.sandbox.path();
        let is_known = |path: &&str| path.starts_with("/dev/") || path.starts_with(&*place.to_string_lossy());
        let strange: Vec<&str> = paths(text).filter(|path| !is_known(path)).collect();
        ensure!(strange.is_empty(), "{strange:?} are not of this place: {text}");
        let mut command = self.sandbox.command("bash")?;
        let path = command.get_envs().find(|(name, _)| *name == "PATH").and_then(|(_, value)| value);
        let path = path.and_then(|path| path.to_str()).context("a PATH")?;
        let programs = self.sandbox.program("recover");
        let programs = programs.parent().context("the programs' folder")?;
        let path = format!("{}:{}:{path}", place.join("fake").display(), programs.display());
        command.args(["-o", "pipefail", "-c", text]).env("PATH", path);
        command.env("HOLDFAST_CONFIG", place.join("holdfast.toml"));
        command.env("PGHOST", self.sandbox.sockets()).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        process::run_at_terminal(&mut command, ANSWERS)
    }
}

/// Runs SQL in the database of the examples.
pub(super) fn shop(cluster: &Cluster, sql: &str) -> Result<String> {
    let ran = process::run(cluster.psql()?.args(["-d", "shop"]), sql)?.success().with_context(|| sql.to_owned())?;
    Ok(ran.stdout.trim_end_matches('\n').to_owned())
}

/// That many orders more.
pub(super) fn order(cluster: &Cluster, count: u32) -> Result<()> {
    let numbers = format!("select count(*) + 1, count(*) + {count} from orders");
    shop(cluster, &format!("insert into orders select generate_series(a, b) from ({numbers}) n (a, b)")).map(drop)
}

/// Fails unless there are that many orders.
pub(super) fn has_orders(cluster: &Cluster, count: u32) -> Result<()> {
    let found = shop(cluster, "select count(*) from orders")?;
    ensure!(found == count.to_string(), "{found} orders instead of {count} in {}", cluster.pgdata().display());
    Ok(())
}
