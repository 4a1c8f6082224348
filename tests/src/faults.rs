//! The programs' own calls of files and stores, and faults planned at them.
//!
//! `cargo test --workspace` builds the programs so that they number these calls and fail, or die, at the one that an
//! environment variable names (`common::sys::faults`). A [`Rehearsal`] is one command line, run with a fault at any
//! of its calls.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::{Ran, Sandbox, process, settings};

/// The variable that plans a fault.
const PLAN: &str = "HOLDFAST_FAULT";
/// The variable with the file that gets a line for each call.
const TRACE: &str = "HOLDFAST_FAULT_TRACE";
/// The variable with the program that they are for, and not for what it starts.
const PROGRAM: &str = "HOLDFAST_FAULT_PROGRAM";

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `file` or `store`.
    class: String,
    /// Which of its class; the first is 1.
    number: u64,
    /// What it does.
    what: String,
    /// To which file or object.
    name: String,
}

impl Call {
    /// A line of a trace, such as `file 17 sync /srv/repo`. What is done may be several words, but for none of the
    /// names matters where they begin.
    fn parse(line: &str) -> Option<Self> {
        let mut words = line.splitn(4, ' ').map(str::to_owned);
        let (class, number) = (words.next()?, words.next()?.parse().ok()?);
        Some(Self { class, number, what: words.next()?, name: words.next().unwrap_or_default() })
    }

    /// The kinds of faults that can make a difference here. A call that only looks leaves nothing to be torn, and dying
    /// at it is dying at the next one that does something; each store's deed is made of calls of files.
    fn kinds(&self) -> &'static [&'static str] {
        match (self.class.as_str(), self.what.as_str()) {
            (_, "read") => &["fail", "short"],
            (_, "open" | "look" | "list" | "get" | "stat") => &["fail"],
            ("file", "write") => &["kill", "full", "torn", "fail", "after"],
            ("file", _) => &["kill", "fail", "after"],
            (_, "write") => &["fail", "full"],
            _ => &["fail", "after"],
        }
    }
}

/// A fault at one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    call: Call,
    kind: &'static str,
}

impl Fault {
    /// Whether the program dies of it.
    pub fn kills(&self) -> bool {
        matches!(self.kind, "kill" | "torn" | "killed")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { class, number, what, name } = &self.call;
        write!(f, "{PLAN}={class}:{}@{number}, at: {what} {name}", self.kind)
    }
}

/// One command line of a program.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    sandbox: Sandbox,
    program: &'static str,
    args: Vec<String>,
    dir: PathBuf,
}

impl Rehearsal {
    /// The program with these arguments, in the sandbox's folder.
    pub fn new(sandbox: &Sandbox, program: &'static str, args: &[&str]) -> Self {
        let args = args.iter().map(|&arg| arg.to_owned()).collect();
        Self { sandbox: sandbox.clone(), program, args, dir: sandbox.path().to_owned() }
    }

    /// The same in another working directory.
    #[must_use]
    pub fn within(mut self, dir: &Path) -> Self {
        dir.clone_into(&mut self.dir);
        self
    }

    /// The command, undisturbed.
    pub fn command(&self) -> Result<std::process::Command> {
        let mut command = self.sandbox.command(self.sandbox.program(self.program))?;
        command.args(&self.args).current_dir(&self.dir);
        Ok(command)
    }

    /// Another program, which gets the command as its last arguments and starts it.
    pub fn command_by(&self, starter: &str, args: &[&str]) -> Result<std::process::Command> {
        let mut command = self.sandbox.command(starter)?;
        command.args(args).arg(self.sandbox.program(self.program)).args(&self.args).current_dir(&self.dir);
        Ok(command)
    }

    /// Runs it undisturbed.
    pub fn run(&self) -> Result<Ran> {
        process::run(&mut self.command()?, "")
    }

    /// Runs it undisturbed and to success; answers its calls, in order.
    pub fn calls(&self) -> Result<Vec<Call>> {
        let (ran, calls) = self.traced(None)?;
        ran.success()?;
        ensure!(
            !calls.is_empty(),
            "{} was built without the feature that faults need: run cargo test --workspace --no-run",
            self.sandbox.program(self.program).display()
        );
        Ok(calls)
    }

    /// Runs it with the fault, and makes sure that it ends as it may: killed when the fault kills, never by a panic.
    pub fn suffer(&self, fault: &Fault) -> Result<Ran> {
        let (ran, calls) = self.traced(Some(fault))?;
        let reached = calls.iter().any(|call| (&call.class, call.number) == (&fault.call.class, fault.call.number));
        match (reached, fault.kills()) {
            (true, true) => ensure!(ran.signal == Some(9), "it was to be killed: {ran}"),
            // Another order of its threads may have had fewer calls.
            (false, _) => return ran.success(),
            (true, false) => ensure!(ran.code.is_some(), "no signal was sent: {ran}"),
        }
        ensure!(!ran.stderr.contains("panicked"), "{ran}");
        Ok(ran)
    }

    /// Runs it until it is killed before the Nth call that looks like `pattern` (`*` stands for anything); `None` when it
    /// has not so many and ends well.
    pub fn killed_at(&self, number: u32, pattern: &str) -> Result<Option<Ran>> {
        let mut command = self.command()?;
        command.env(PLAN, format!("file:kill@{number} {pattern}"));
        let ran = process::run(&mut command, "")?;
        if ran.signal == Some(9) { Ok(Some(ran)) } else { ran.success().map(|_| None) }
    }

    fn traced(&self, fault: Option<&Fault>) -> Result<(Ran, Vec<Call>)> {
        let trace = self.sandbox.path().join("trace");
        self.sandbox.write(&trace, b"")?;
        let mut command = self.command()?;
        command.env(TRACE, &trace).env(PROGRAM, self.program);
        if let Some(Fault { call, kind }) = fault {
            command.env(PLAN, format!("{}:{kind}@{}", call.class, call.number));
        }
        let ran = process::run(&mut command, "")?;
        let lines = std::fs::read_to_string(&trace).context("read the trace")?;
        Ok((ran, lines.lines().filter_map(Call::parse).collect()))
    }
}

/// A fault at the last call that does `what` to a name that has `part` in it.
pub fn at(calls: &[Call], what: &str, part: &str, kind: &'static str) -> Option<Fault> {
    let call = calls.iter().rev().find(|call| call.what == what && call.name.contains(part))?;
    Some(Fault { call: call.clone(), kind })
}

/// Every fault of every kind that can make a difference at these calls.
pub fn every(calls: &[Call]) -> Vec<Fault> {
    let last = calls.iter().rev().find(|call| call.class == "file").cloned();
    let killed = last.map(|call| Fault { call, kind: "killed" });
    let all = calls.iter().flat_map(|call| call.kinds().iter().map(|&kind| Fault { call: call.clone(), kind }));
    all.chain(killed).collect()
}

/// In a soak [`every`] fault. Otherwise one at a call, its kind chosen by turns; of the calls of one sort (the same is
/// done to another file) the first, the last, and `more` of those between.
pub fn some(story: &str, calls: &[Call], more: usize) -> Vec<Fault> {
    if settings::is_soak() {
        return every(calls);
    }
    let mut random = fastrand::Rng::with_seed(settings::seed(story));
    let mut sorts: BTreeMap<(&str, &str), Vec<&Call>> = BTreeMap::new();
    for call in calls {
        sorts.entry((&call.class, &call.what)).or_default().push(call);
    }
    let mut turn = random.usize(..60);
    let mut chosen = Vec::new();
    for mut same in sorts.into_values() {
        // The ends first, then the others in any order.
        if let Some(last) = same.len().checked_sub(1).filter(|last| *last > 1) {
            same.swap(1, last);
            random.shuffle(same.get_mut(2..).unwrap_or_default());
        }
        for call in same.into_iter().take(more.saturating_add(2)) {
            let kinds = call.kinds();
            turn += 1;
            chosen.extend(kinds.get(turn % kinds.len()).map(|&kind| Fault { call: call.clone(), kind }));
        }
    }
    chosen
}

/// Tries the faults one after the other and says how many there were at how many calls.
pub fn try_each(
    story: &str,
    calls: &[Call],
    faults: &[Fault],
    attempt: impl FnMut(&Fault) -> Result<()>,
) -> Result<()> {
    in_turn(story, faults, attempt)?;
    settings::tell(&format!("{story}: {} faults, {} calls", faults.len(), calls.len()));
    Ok(())
}

/// Tries one after the other; the error of the first that fails names the story and the fault.
pub(crate) fn in_turn<F: fmt::Display>(
    story: &str,
    faults: &[F],
    mut attempt: impl FnMut(&F) -> Result<()>,
) -> Result<()> {
    faults.iter().try_for_each(|fault| attempt(fault).with_context(|| format!("{story}: {fault}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_a_trace_is_a_call() {
        let call = Call::parse("file 7 set the mode of /s/a b").unwrap();
        assert_eq!((call.number, call.what.as_str(), call.name.as_str()), (7, "set", "the mode of /s/a b"));
        assert_eq!(Call::parse("store 2 list ").unwrap().name, "");
        assert_eq!(Call::parse("file x"), None);
    }

    /// What holds the feature is left out of every other build than that of the tests.
    #[test]
    fn only_a_build_of_tests_can_fail_on_purpose() {
        let tree = |edges: &str| {
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let mut command = std::process::Command::new(cargo);
            command.args(["tree", "--workspace", "--locked", "--offline", "-i", "common", "-e", edges]);
            process::run(command.current_dir(env!("CARGO_MANIFEST_DIR")), "").unwrap().success().unwrap().stdout
        };
        let feature = "common feature \"faults\"";
        assert!(tree("normal,build,dev,features").contains(feature));
        let programs = tree("normal,build,features");
        assert!(programs.contains("archive-wal") && !programs.contains(feature), "{programs}");
    }

    fn calls(count: u64) -> Vec<Call> {
        (1..=count).map(|n| Call::parse(&format!("file {n} write /x/{n}")).unwrap()).collect()
    }

    #[test]
    fn a_sample_has_the_ends_of_each_sort() {
        let chosen = some("test", &calls(100), 3);
        if !settings::is_soak() {
            let numbers: Vec<u64> = chosen.iter().map(|fault| fault.call.number).collect();
            assert!(numbers.len() == 5 && numbers.contains(&1) && numbers.contains(&100), "{numbers:?}");
        }
        assert_eq!(every(&calls(3)).len(), 3 * 5 + 1);
    }

    #[test]
    fn the_first_failure_ends_the_trying() {
        let (calls, mut tried) = (calls(3), 0);
        let ended = try_each("test", &calls, &every(&calls), |_| {
            tried += 1;
            ensure!(tried < 4, "enough");
            Ok(())
        });
        let said = format!("{:#}", ended.unwrap_err());
        assert_eq!((tried, said.as_str()), (4, "test: HOLDFAST_FAULT=file:fail@1, at: write /x/1: enough"));
    }
}
