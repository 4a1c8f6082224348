//! Nobody types a command at 3 a.m. that does not work: every command of the runbooks (`docs/OPERATIONS.md`) is carried out as
//! it is written, on servers that fared as its chapter tells, with this machine's paths, times and numbers for those of the
//! examples. A command that no scene carries out fails its test. Those of the README, and those in the midst of a
//! sentence, are read by the program that they call.

mod book;
mod corruption;
mod document;
mod full_archive;
mod in_place;
mod losses;
mod other_servers;
mod set_up;

use anyhow::{Context, Result, ensure};
use e2e::Sandbox;

use book::Book;
use document::{blocks, spans};

const README: &str = include_str!("../../../../README.md");
const OPERATIONS: &str = include_str!("../../../../docs/OPERATIONS.md");

const PROGRAMS: [&str; 6] = ["archive-wal", "restore-wal", "basebackup", "recover", "retention", "verify"];

/// Which scene carries out which chapters: a test each.
macro_rules! scenes {
    ($($test:ident: $scene:path => [$($chapter:literal),+ $(,)?];)+) => {
        $(
            #[test]
            fn $test() -> Result<()> {
                let mut book = Book::open(&[$($chapter),+])?;
                $scene(&mut book)?;
                book.close()
            }
        )+
        const CARRIED_OUT: &[&str] = &[$($($chapter),+),+];
    };
}

scenes! {
    setting_up: set_up::scene => ["Setting up and checking an archive", "A repository on a mounted disk"];
    a_dropped_table: losses::dropped_table => [
        "What happened, and when?", "A table was dropped", "A copy becomes production",
    ];
    a_lost_server: losses::lost_server => ["The server is lost"];
    a_moment_in_place: in_place::moment => [
        "Before a recovery", "Look before the recovery is ended", "The recovery was a mistake",
        "Cleaning up after a recovery",
    ];
    an_odd_recovery: in_place::odd => [
        "A recovery failed half-way", "Whose configuration comes back", "Who starts the server",
        "What a recovered server is checked for", "Only a little is damaged, and the repository is far",
    ];
    a_wrong_timeline: other_servers::wrong_timeline => ["A wrong timeline"];
    standbys: other_servers::standbys => ["Standbys"];
    an_upgraded_server: other_servers::upgraded => ["After `pg_upgrade`"];
    a_host_without_holdfast: other_servers::without_holdfast => ["Without Holdfast"];
    a_full_archive: full_archive::scene => [
        "The archive is full or fails", "Retention from cron", "What to watch",
    ];
    damaged_segments_and_records: corruption::repository => [
        "A segment is damaged or missing", "A record is damaged",
    ];
    damaged_pages: corruption::pages => ["Pages of the server are damaged"];
}

#[test]
fn every_chapter_with_commands_has_a_scene() -> Result<()> {
    let all = blocks(OPERATIONS);
    let untold: Vec<_> = all.iter().filter(|typed| !CARRIED_OUT.contains(&typed.chapter.as_str())).collect();
    ensure!(untold.is_empty(), "nobody carries these out: {untold:#?}");
    ensure!(all.len() >= 80, "only {} commands were found", all.len());
    Ok(())
}

/// The words of a call of one of our programs; none for anything else, and none for one that is cut short by "…".
fn call(line: &str) -> Option<(&'static str, Vec<String>)> {
    let (mut words, mut word, mut quote): (Vec<String>, String, Option<char>) = (Vec::new(), String::new(), None);
    for character in line.chars().chain([' ']) {
        match (quote, character) {
            (Some(open), it) if it == open => quote = None,
            (None, '\'' | '"') => quote = Some(character),
            (None, '#' | '>' | '|' | '&') if word.is_empty() => break,
            (None, ' ') if !word.is_empty() => words.push(std::mem::take(&mut word)),
            (None, ' ') => {}
            (_, it) => word.push(it),
        }
    }
    let mut words = words.into_iter().skip_while(|word| ["sudo", "-u", "postgres"].contains(&word.as_str()));
    let first = words.next()?;
    let program = PROGRAMS.into_iter().find(|program| *program == first)?;
    let words: Vec<String> = words.collect();
    (!words.iter().any(|word| word == "…")).then_some((program, words))
}

#[test]
fn every_other_command_is_one_that_its_program_knows() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let typed = blocks(README).into_iter().map(|typed| typed.text);
    let mut read = 0;
    for line in typed.chain(spans(README)).chain(spans(OPERATIONS)) {
        let Some((program, words)) = call(&line) else { continue };
        // Help is given where it is asked for; what stands before it is read first, its values too.
        let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
        sandbox.run(program, &args)?.success().with_context(|| line.clone())?;
        read += 1;
    }
    ensure!(read >= 30, "only {read} commands were found");
    let (program, words) =
        call("sudo -u postgres recover run -D '/a b' --target-time '2026-11-20 03:15' # past").context("a call")?;
    ensure!(program == "recover" && words == ["run", "-D", "/a b", "--target-time", "2026-11-20 03:15"], "{words:?}");
    let unknown = sandbox.run("recover", &["run", "--target-tim", "x", "--help"])?;
    ensure!(unknown.code == Some(2), "help hides an unknown option: {unknown}");
    Ok(())
}
