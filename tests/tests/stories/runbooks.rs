//! Nobody types a command at 3 a.m. that its program does not know: every command of the README and of the runbooks is
//! read by the program that it calls. None is carried out.

use anyhow::{Context, Result, ensure};
use e2e::Sandbox;

const PROGRAMS: [&str; 6] = ["archive-wal", "restore-wal", "basebackup", "recover", "retention", "verify"];

const DOCUMENTS: [(&str, &str); 2] = [
    ("README.md", include_str!("../../../README.md")),
    ("docs/OPERATIONS.md", include_str!("../../../docs/OPERATIONS.md")),
];

/// The lines of a document's blocks for a shell, those that go on after a backslash in one.
fn shell_lines(text: &str) -> Vec<String> {
    let (mut lines, mut inside, mut begun): (Vec<String>, bool, String) = (Vec::new(), false, String::new());
    for line in text.lines() {
        match line.trim_start() {
            "```sh" => inside = true,
            "```" => inside = false,
            line if inside => match line.strip_suffix('\\') {
                Some(first) => begun.push_str(first),
                None => lines.push(std::mem::take(&mut begun) + line),
            },
            _ => {}
        }
    }
    lines
}

/// The words of a call of one of our programs; none for any other line, and none for one that is cut short by "…".
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
fn every_command_is_one_that_its_program_knows() -> Result<()> {
    let sandbox = Sandbox::new()?;
    let mut read = 0;
    for (document, text) in DOCUMENTS {
        for line in shell_lines(text) {
            let Some((program, words)) = call(&line) else { continue };
            // Help is given where it is asked for; what stands before it is read first, its values too.
            let args: Vec<&str> = words.iter().map(String::as_str).chain(["--help"]).collect();
            sandbox.run(program, &args)?.success().with_context(|| format!("{document}: {line}"))?;
            read += 1;
        }
    }
    ensure!(read >= 30, "only {read} commands were found");
    let (program, words) =
        call("sudo -u postgres recover run -D '/a b' --target-time '2026-11-20 03:15' # past").context("a call")?;
    ensure!(program == "recover" && words == ["run", "-D", "/a b", "--target-time", "2026-11-20 03:15"], "{words:?}");
    let unknown = sandbox.run("recover", &["run", "--target-tim", "x", "--help"])?;
    ensure!(unknown.code == Some(2), "help hides an unknown option: {unknown}");
    Ok(())
}
