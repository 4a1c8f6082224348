//! The faults of this process, as somebody outside has planned them.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::{Counter, FaultKind, FaultPlan, Moment, Only};
use crate::report::Advice;

/// The variable that plans a fault: `CLASS:KIND@N`, such as `file:kill@17`; or at the Nth call that looks like a pattern:
/// `file:kill@2 rename to *journal.json`.
pub const PLAN_VARIABLE: &str = "HOLDFAST_FAULT";
/// The variable with the file that gets a line for each call: `CLASS N WHAT NAME`.
pub const TRACE_VARIABLE: &str = "HOLDFAST_FAULT_TRACE";
/// The variable with the name of the one program that is meant by the others: they reach what it starts, too.
pub const PROGRAM_VARIABLE: &str = "HOLDFAST_FAULT_PROGRAM";

const FILES: &str = "file";
const STORES: &str = "store";

#[derive(Debug)]
struct Counters {
    files: Counter,
    stores: Arc<Counter>,
}

static COUNTERS: OnceLock<Counters> = OnceLock::new();

/// From now on calls are counted, fail as `plan` says, and have their lines in the file `trace`. To be called once;
/// does nothing when there is neither.
pub fn install(plan: Option<&str>, trace: Option<&Path>) -> anyhow::Result<()> {
    if plan.is_none() && trace.is_none() {
        return Ok(());
    }
    let plan = plan.map(parse).transpose()?;
    let counter = |class| -> anyhow::Result<Counter> {
        let (plan, only) =
            plan.as_ref().filter(|(planned, ..)| *planned == class).map_or_else(Default::default, |it| {
                let only = it.2.map(|pattern| Only { pattern: pattern.to_owned(), ..Only::default() });
                (Some(it.1.clone()), only)
            });
        let trace = trace.map(|path| OpenOptions::new().create(true).append(true).open(path)).transpose()?;
        Ok(Counter { trace: trace.map(|file: File| (file, class)), only, ..Counter::new(plan) })
    };
    let counters = Counters { files: counter(FILES)?, stores: Arc::new(counter(STORES)?) };
    COUNTERS.set(counters).map_err(|_| anyhow::anyhow!("faults are planned once for a process"))
}

pub(super) fn files() -> Option<&'static Counter> {
    COUNTERS.get().map(|counters| &counters.files)
}

pub(crate) fn stores() -> Option<Arc<Counter>> {
    COUNTERS.get().map(|counters| Arc::clone(&counters.stores))
}

fn parse(text: &str) -> Result<(&'static str, FaultPlan, Option<&str>), Advice> {
    let parsed = text.split_once(':').and_then(|(class, rest)| {
        let class = [FILES, STORES].into_iter().find(|known| *known == class)?;
        let (kind, at) = rest.split_once('@')?;
        if kind == "slow" {
            let time = Duration::from_millis(at.parse().ok()?);
            return Some((class, FaultPlan { at: 0, kind: FaultKind::Slow(time) }, None));
        }
        let (at, only) = at.split_once(' ').map_or((at, None), |(at, only)| (at, Some(only)));
        Some((class, FaultPlan { at: at.parse().ok()?, kind: kind_of(kind)? }, only))
    });
    parsed.ok_or_else(|| {
        Advice::usage(format!("{PLAN_VARIABLE}: {text:?} plans no fault")).hint(
            "write file:KIND@N or store:KIND@N; KIND is fail, after, full, short, kill, torn or killed, N the call, or N PATTERN; \
             or store:slow@MILLISECONDS",
        )
    })
}

fn kind_of(word: &str) -> Option<FaultKind> {
    Some(match word {
        "fail" => FaultKind::Fail(io::ErrorKind::Other),
        "after" => FaultKind::FailAfter(io::ErrorKind::Other),
        "full" => FaultKind::FailHalfway(io::ErrorKind::StorageFull),
        "short" => FaultKind::Short,
        "kill" => FaultKind::Die(Moment::Before),
        "torn" => FaultKind::Die(Moment::Halfway),
        "killed" => FaultKind::Die(Moment::After),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[test]
    fn a_plan_names_class_kind_and_call() {
        let (class, plan, only) = parse("store:torn@17").unwrap();
        assert_eq!((class, plan.at, only), ("store", 17, None));
        assert_eq!(parse("file:kill@2 rename to *x").unwrap().2, Some("rename to *x"));
        assert!(matches!(plan.kind, FaultKind::Die(Moment::Halfway)));
    }

    #[test]
    fn a_slow_store_has_no_call_of_its_own() {
        let (class, plan, _) = parse("store:slow@50").unwrap();
        assert_eq!(class, "store");
        assert!(matches!(plan.kind, FaultKind::Slow(time) if time == Duration::from_millis(50)));
    }

    #[rstest]
    #[case("")]
    #[case("kill@17")]
    #[case("disk:kill@17")]
    #[case("file:melt@17")]
    #[case("file:kill")]
    #[case("file:kill@-1")]
    fn anything_else_is_refused(#[case] text: &str) {
        assert!(parse(text).unwrap_err().message.contains("plans no fault"));
    }
}
