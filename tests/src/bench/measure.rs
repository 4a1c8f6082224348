//! One run of a command, and what several runs come to.

use std::cmp::Ordering;
use std::fs::File;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use wait4::Wait4;

/// What one run of a command cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// From start to end.
    pub wall: Duration,
    /// Processor time of the command and of every process that it waited for.
    pub cpu: Duration,
    /// The largest resident set of any one of them, in bytes. Never below that of the process that started it.
    pub peak: u64,
}

/// Runs the command to its end; fails unless it succeeds.
///
/// Everything written before is on disk when the clock starts: nobody pays for another's dirty pages.
pub fn run(command: &mut Command) -> Result<Cost> {
    let text = format!("{command:?}");
    let mut output = tempfile::tempfile().context("create a scratch file")?;
    command.stdin(Stdio::null()).stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output.try_clone()?));
    nix::unistd::sync();
    let started = Instant::now();
    let child = command.spawn().with_context(|| format!("start {text}"))?;
    let ended = child.wait4().with_context(|| format!("wait for {text}"))?;
    let wall = started.elapsed();
    if !ended.status.success() {
        bail!("{text}: {}: {}", ended.status, read_back(&mut output)?);
    }
    Ok(Cost { wall, cpu: ended.rusage.utime + ended.rusage.stime, peak: ended.rusage.maxrss })
}

fn read_back(output: &mut File) -> Result<String> {
    let mut text = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).trim().to_owned())
}

/// One who takes part in a comparison: a name, and how to run it once. What the run needs beforehand, and what is
/// cleared away after it, is the function's own business and not in the cost that it answers.
pub struct Contender<'a> {
    name: String,
    once: Box<dyn FnMut(usize) -> Result<Cost> + 'a>,
}

impl<'a> Contender<'a> {
    /// `once` gets the number of the run, from 0 on.
    pub fn new(name: impl Into<String>, once: impl FnMut(usize) -> Result<Cost> + 'a) -> Self {
        Self { name: name.into(), once: Box::new(once) }
    }
}

/// What the runs of one contender came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Its name.
    pub name: String,
    /// Median time.
    pub wall: Duration,
    /// Shortest and longest time.
    pub spread: (Duration, Duration),
    /// Median processor time.
    pub cpu: Duration,
    /// Largest peak memory, in bytes.
    pub peak: u64,
    /// The times, in the order of the turns.
    pub turns: Vec<Duration>,
}

impl Summary {
    fn new(name: &str, costs: &[Cost]) -> Self {
        let turns: Vec<_> = costs.iter().map(|cost| cost.wall).collect();
        let mut walls = turns.clone();
        let wall = median(&mut walls).unwrap_or_default();
        let mut cpus: Vec<_> = costs.iter().map(|cost| cost.cpu).collect();
        Self {
            name: name.to_owned(),
            wall,
            spread: (walls.first().copied().unwrap_or_default(), walls.last().copied().unwrap_or_default()),
            cpu: median(&mut cpus).unwrap_or_default(),
            peak: costs.iter().map(|cost| cost.peak).max().unwrap_or_default(),
            turns,
        }
    }

    /// How many times longer than the other: the median over the turns of what each came to in the same turn, so that a
    /// slow minute counts for neither. Not a number when they had no turn together.
    pub fn ratio_to(&self, other: &Self) -> f64 {
        let pairs = self.turns.iter().zip(&other.turns);
        let mut ratios: Vec<_> = pairs.map(|(own, other)| own.as_secs_f64() / other.as_secs_f64()).collect();
        median(&mut ratios).unwrap_or(f64::NAN)
    }
}

/// The contenders take turns, so that a slow minute of the machine is everybody's; the first turn of each warms caches
/// and is not counted.
pub fn take_turns(runs: usize, mut contenders: Vec<Contender<'_>>) -> Result<Vec<Summary>> {
    let mut costs = vec![Vec::with_capacity(runs); contenders.len()];
    for turn in 0..runs {
        for (contender, costs) in contenders.iter_mut().zip(&mut costs) {
            let cost = (contender.once)(turn).with_context(|| format!("{}, run {turn}", contender.name))?;
            if turn > 0 {
                costs.push(cost);
            }
        }
    }
    Ok(contenders.iter().zip(&costs).map(|(contender, costs)| Summary::new(&contender.name, costs)).collect())
}

/// Sorts, and answers the one in the middle (the lower of two).
fn median<T: Copy + PartialOrd>(values: &mut [T]) -> Option<T> {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(Ordering::Equal));
    values.get(values.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rstest::rstest;

    #[rstest]
    #[case(&[], None)]
    #[case(&[7], Some(7))]
    #[case(&[9, 1, 5], Some(5))]
    #[case(&[4, 1, 3, 2], Some(2))]
    fn the_median_is_in_the_middle(#[case] values: &[u64], #[case] expected: Option<u64>) {
        assert_eq!(median(&mut values.to_vec()), expected);
    }

    #[test]
    fn a_ratio_is_that_of_the_same_turn() {
        let summary = |times: &[u64]| {
            let costs: Vec<_> =
                times.iter().map(|time| Cost { wall: Duration::from_millis(*time), ..Cost::default() }).collect();
            Summary::new("", &costs)
        };
        // That of the medians is 1.
        let ratio = summary(&[30, 60, 10]).ratio_to(&summary(&[10, 30, 30]));
        assert!((ratio - 2.0).abs() < 1e-9, "{ratio}");
        assert!(summary(&[1]).ratio_to(&summary(&[])).is_nan());
    }

    #[test]
    fn turns_alternate_and_the_first_is_not_counted() {
        let order = std::cell::RefCell::new(String::new());
        let contender = |name: &'static str, cost: [u64; 3]| {
            let order = &order;
            Contender::new(name, move |turn| {
                order.borrow_mut().push_str(name);
                Ok(Cost { wall: Duration::from_millis(cost[turn]), cpu: Duration::ZERO, peak: cost[turn] })
            })
        };
        let found = take_turns(3, vec![contender("a", [90, 1, 2]), contender("b", [80, 3, 4])]).unwrap();
        assert_eq!(order.borrow().as_str(), "ababab");
        assert_eq!((found[0].wall, found[0].peak), (Duration::from_millis(1), 2));
        assert_eq!(found[1].spread, (Duration::from_millis(3), Duration::from_millis(4)));
    }

    #[test]
    fn a_cost_is_that_of_the_whole_family() {
        let cost = run(Command::new("sh").args(["-c", "head -c 20000000 /dev/zero | sha256sum"])).unwrap();
        assert!(cost.wall > Duration::ZERO && cost.cpu > Duration::ZERO && cost.peak > 0, "{cost:?}");
        let failed = run(Command::new("sh").args(["-c", "echo no luck >&2; exit 3"])).unwrap_err();
        assert!(failed.to_string().contains("no luck"), "{failed}");
    }
}
