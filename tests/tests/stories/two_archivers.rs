//! Two `archive-wal` at once on one name: one file, or one winner.

use std::io::Read;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::faults::Rehearsal;
use e2e::{Repo, process, settings};
use rstest::rstest;

use crate::fault_loops::archive_wal::Scene;

/// How often the two meet: five times as often as other stories have rounds.
fn meetings(story: &str) -> u32 {
    5 * settings::rounds(story)
}

/// A shell's script that says that it is there, and becomes the program in its arguments when its input ends.
const WAIT_THEN_RUN: &str = "echo; read -r go; exec \"$0\" \"$@\"";

/// Two writers of one segment, the second with bytes and a codec of its own.
struct Rivals {
    /// Its folder holds everything.
    _scene: Scene,
    repo: Repo,
    name: String,
    contents: [Vec<u8>; 2],
    writers: [(Rehearsal, &'static str); 2],
}

impl Rivals {
    fn new(different: bool, codecs: [&'static str; 2]) -> Result<Self> {
        let scene = Scene::new()?;
        let (repo, name) = (Repo::new(&scene.sandbox, "repo")?, scene.name(0)?);
        let ours = scene.files.get(&name).context("a segment")?.clone();
        let mut theirs = ours.clone();
        if different {
            // In a record, far from any page's header: sound WAL for all that archive-wal knows.
            *theirs.get_mut(5_000).context("a segment has pages")? ^= 1;
        }
        let contents = [ours, theirs];
        let rehearse = |place: &str, content: &[u8]| -> Result<Rehearsal> {
            let path = scene.sandbox.folder(place)?.join(&name);
            scene.sandbox.write(&path, content)?;
            let file = path.to_str().context("text")?;
            let args = ["--repo", repo.arg()?, "-D", scene.cluster.pgdata_arg()?, file];
            Ok(Rehearsal::new(&scene.sandbox, "archive-wal", &args))
        };
        let writers = [(rehearse("ours", &contents[0])?, codecs[0]), (rehearse("theirs", &contents[1])?, codecs[1])];
        let rivals = Self { _scene: scene, repo, name, contents, writers };
        // Each is fine by itself.
        for (command, _) in &rivals.writers {
            rivals.repo.forget()?;
            command.run()?.success()?;
        }
        Ok(rivals)
    }

    /// Both at once, into a repository that is not there yet; whether each of them was told that its file is archived.
    fn meet(&self, round: u32) -> Result<[bool; 2]> {
        self.repo.forget()?;
        let start = |(command, codec): &(Rehearsal, &str)| -> Result<_> {
            let mut command = command.command_by("sh", &["-c", WAIT_THEN_RUN])?;
            command.env("HOLDFAST_COMPRESSION", codec);
            Ok(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?)
        };
        let [one, two] = &self.writers;
        let mut children = [start(one)?, start(two)?];
        for child in &mut children {
            child.stdout.take().context("a pipe")?.read_exact(&mut [0])?;
        }
        // The word to go is the end of the input; who gets it first changes.
        let mut inputs: Vec<_> = children.iter_mut().map(|child| child.stdin.take()).collect();
        inputs.rotate_left(usize::from(round % 2 == 1));
        for input in inputs {
            drop(input);
        }
        let mut done = [false; 2];
        for (child, done) in children.iter_mut().zip(&mut done) {
            let status = process::wait_for(child)?.context("archive-wal is stuck")?;
            let code = status.code().context("archive-wal died")?;
            ensure!(matches!(code, 0 | 20), "neither archived nor refused: {code}");
            *done = code == 0;
        }
        Ok(done)
    }

    /// What the archive holds under the name, in any codec.
    fn archived(&self) -> Result<Vec<Vec<u8>>> {
        let is_it =
            |path: &&std::path::PathBuf| path.file_stem().is_some_and(|stem| Path::new(stem) == Path::new(&self.name));
        self.repo.objects().iter().filter(is_it).map(|object| self.repo.unpack(object)).collect()
    }
}

#[rstest]
#[case::one_codec(["zstd:1", "zstd:1"], 1)]
#[case::two_codecs(["zstd:1", "lz4"], 2)]
fn two_archivers_of_one_segment_both_succeed(#[case] codecs: [&'static str; 2], #[case] objects: usize) -> Result<()> {
    let rivals = Rivals::new(false, codecs)?;
    for round in 0..meetings("two_archivers_of_one_segment_both_succeed") {
        ensure!(rivals.meet(round)? == [true, true], "the same file, and not archived");
        rivals.repo.require_whole()?;
        let archived = rivals.archived()?;
        ensure!((1..=objects).contains(&archived.len()), "{} objects", archived.len());
        ensure!(archived.iter().all(|bytes| *bytes == rivals.contents[0]), "the archived segment is not the server's");
    }
    Ok(())
}

/// In one codec one of the two wins. In two codecs both may be refused, when each sees the other's; they come again, as
/// PostgreSQL does, and never are both archived.
#[rstest]
#[case::one_codec(["zstd:1", "zstd:1"])]
#[case::two_codecs(["zstd:1", "lz4"])]
fn of_two_different_segments_one_is_refused(#[case] codecs: [&'static str; 2]) -> Result<()> {
    let rivals = Rivals::new(true, codecs)?;
    let (mut wins, meetings) = ([0; 2], meetings("of_two_different_segments_one_is_refused"));
    for round in 0..meetings {
        let done = rivals.meet(round)?;
        rivals.repo.require_whole()?;
        let archived = rivals.archived()?;
        match done {
            [true, true] => anyhow::bail!("two different files are archived under one name"),
            [false, false] => {
                ensure!(codecs[0] != codecs[1], "both were refused");
                ensure!(archived.is_empty(), "both were refused, and something stays");
            }
            [ours, _] => {
                let winner = usize::from(!ours);
                ensure!(archived == [rivals.contents[winner].clone()], "the archive does not hold the winner's bytes");
                wins[winner] += 1;
            }
        }
    }
    settings::tell(&format!("of two different segments {codecs:?}: {wins:?} of {meetings} won"));
    Ok(())
}
