//! How far long work is: a bar on a terminal, a log line now and then elsewhere.
//!
//! The bar has no colours. Whatever else is written to the terminal meanwhile goes through [`Beside`], which takes
//! the bar away and puts it back.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::report::Progress;
use crate::sys::clock::Stopwatch;
use crate::units::{ByteCount, Took};

/// A bar on standard error; nothing where that is no terminal.
pub struct Bar {
    screen: MultiProgress,
    current: Mutex<Option<Current>>,
}

/// The bar of the current phase.
struct Current {
    bar: ProgressBar,
    phase: String,
}

impl Bar {
    /// A bar that shares the terminal with everything that is written beside `screen`.
    pub fn new(screen: MultiProgress) -> Self {
        Self { screen, current: Mutex::new(None) }
    }

    fn current(&self) -> MutexGuard<'_, Option<Current>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Bar {
    fn begin(&self, phase: &str, total: Option<u64>) {
        self.end();
        let (bar, template) = match total {
            Some(total) => (
                ProgressBar::new(total),
                "{msg}  {wide_bar}  {binary_bytes}/{binary_total_bytes}  {binary_bytes_per_sec}  {eta}",
            ),
            None => (ProgressBar::new_spinner(), "{msg}  {spinner}  {binary_bytes}  {binary_bytes_per_sec}"),
        };
        // The templates are constants; were one wrong, indicatif's own would do.
        let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.screen.add(bar.with_style(style).with_message(phase.to_owned()));
        bar.tick();
        bar.enable_steady_tick(Duration::from_millis(250));
        *self.current() = Some(Current { bar, phase: phase.to_owned() });
    }

    fn advance(&self, bytes: u64) {
        if let Some(current) = self.current().as_ref() {
            current.bar.inc(bytes);
        }
    }

    fn note(&self, text: &str) {
        if let Some(current) = self.current().as_ref() {
            current.bar.set_message(format!("{}  {text}", current.phase));
        }
    }

    fn end(&self) {
        if let Some(Current { bar, .. }) = self.current().take() {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
    }
}

/// Log lines: one when 30 seconds have passed, or a quarter is done and 5 seconds have passed.
#[derive(Default)]
pub struct Lines(Mutex<Option<Phase>>);

struct Phase {
    name: String,
    watch: Stopwatch,
    done: u64,
    total: Option<u64>,
    note: String,
    pace: Pace,
}

impl Lines {
    fn phase(&self) -> MutexGuard<'_, Option<Phase>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Lines {
    fn begin(&self, phase: &str, total: Option<u64>) {
        let pace = Pace::default();
        let (name, note) = (phase.to_owned(), String::new());
        *self.phase() = Some(Phase { name, watch: Stopwatch::start(), done: 0, total, note, pace });
    }

    fn advance(&self, bytes: u64) {
        let mut guard = self.phase();
        let Some(phase) = guard.as_mut() else { return };
        phase.done = phase.done.saturating_add(bytes);
        let elapsed = phase.watch.elapsed();
        if phase.pace.is_due(phase.done, phase.total, elapsed) {
            let text = line(phase, elapsed);
            // The log may be slow; other workers need not wait for it.
            drop(guard);
            tracing::info!("{text}");
        }
    }

    fn note(&self, text: &str) {
        if let Some(phase) = self.phase().as_mut() {
            text.clone_into(&mut phase.note);
        }
    }

    fn end(&self) {
        *self.phase() = None;
    }
}

/// How far it is, how fast, how long it will take at that speed, and what was noted.
fn line(phase: &Phase, elapsed: Duration) -> String {
    let Phase { name, done, total, note, .. } = phase;
    let mut parts = vec![match total {
        Some(total) => {
            let percent = u128::from(*done) * 100 / u128::from((*total).max(1));
            format!("{name}: {} of {} ({percent}%)", ByteCount(*done), ByteCount(*total))
        }
        None => format!("{name}: {}", ByteCount(*done)),
    }];
    let millis = elapsed.as_millis().max(1);
    let speed = u64::try_from(u128::from(*done) * 1000 / millis).unwrap_or(u64::MAX);
    if speed > 0 {
        parts.push(format!("{}/s", ByteCount(speed)));
        let left = total.map(|total| total.saturating_sub(*done)).filter(|left| *left > 0);
        parts.extend(left.map(|left| format!("{} left", Took(Duration::from_secs(left.div_ceil(speed))))));
    }
    if !note.is_empty() {
        parts.push(note.clone());
    }
    parts.join(", ")
}

/// When the next line is due.
#[derive(Default)]
struct Pace {
    said_at: Duration,
    quarter: u128,
}

impl Pace {
    const INTERVAL: Duration = Duration::from_secs(30);
    const INTERVAL_MIN: Duration = Duration::from_secs(5);

    /// Whether a line is due `elapsed` after the phase began; a line that is due counts as said.
    fn is_due(&mut self, done: u64, total: Option<u64>, elapsed: Duration) -> bool {
        let quarter = total.map_or(0, |total| u128::from(done) * 4 / u128::from(total.max(1)));
        let since = elapsed.saturating_sub(self.said_at);
        let due = since >= Self::INTERVAL || (quarter > self.quarter && since >= Self::INTERVAL_MIN);
        if due {
            self.said_at = elapsed;
            self.quarter = quarter;
        }
        due
    }
}

/// A writer that shares a terminal with a [`Bar`].
pub struct Beside<W> {
    screen: MultiProgress,
    writer: W,
}

impl<W> Beside<W> {
    /// Writes to `writer` with the bars of `screen` out of the way.
    pub fn new(screen: MultiProgress, writer: W) -> Self {
        Self { screen, writer }
    }
}

impl<W: Write> Write for Beside<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self { screen, writer } = self;
        screen.suspend(|| writer.write(bytes))
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Self { screen, writer } = self;
        screen.suspend(|| writer.write_all(bytes).and_then(|()| writer.flush()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::output::Captured;
    use indicatif::{ProgressDrawTarget, TermLike};
    use rstest::rstest;

    #[rstest]
    #[case::quick_phases_are_silent(&[(50, 1), (100, 4)], &[])]
    #[case::a_quarter(&[(10, 6), (25, 7), (30, 8), (50, 9), (51, 12)], &[7, 12])]
    #[case::slow(&[(1, 29), (2, 30), (3, 59), (4, 60)], &[30, 60])]
    fn lines_come_now_and_then(#[case] steps: &[(u64, u64)], #[case] expected: &[u64]) {
        let mut pace = Pace::default();
        let due =
            |&(done, second): &(u64, u64)| pace.is_due(done, Some(100), Duration::from_secs(second)).then_some(second);
        assert_eq!(steps.iter().filter_map(due).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn nothing_to_do_is_no_division_by_zero() {
        assert!(Pace::default().is_due(0, Some(0), Duration::from_secs(30)));
        assert!(line(&phase(0, Some(0), ""), Duration::ZERO).contains("(0%)"));
        assert!(line(&phase(u64::MAX, Some(u64::MAX), ""), Duration::ZERO).contains("(100%)"));
    }

    fn phase(done: u64, total: Option<u64>, note: &str) -> Phase {
        let (name, note) = ("replay".to_owned(), note.to_owned());
        Phase { name, watch: Stopwatch::start(), done, total, note, pace: Pace::default() }
    }

    #[rstest]
    #[case(30 << 20, Some(90 << 20), "", "replay: 30.0 MiB of 90.0 MiB (33%), 3.0 MiB/s, 20.0 s left")]
    #[case(30 << 20, Some(30 << 20), "", "replay: 30.0 MiB of 30.0 MiB (100%), 3.0 MiB/s")]
    #[case(30 << 20, None, "at 03:15", "replay: 30.0 MiB, 3.0 MiB/s, at 03:15")]
    #[case(0, Some(1 << 20), "", "replay: 0 B of 1.0 MiB (0%)")]
    fn a_line_tells_speed_and_rest(
        #[case] done: u64,
        #[case] total: Option<u64>,
        #[case] note: &str,
        #[case] expected: &str,
    ) {
        assert_eq!(line(&phase(done, total, note), Duration::from_secs(10)), expected);
    }

    /// A terminal that remembers what was ever drawn.
    #[derive(Debug, Clone, Default)]
    struct Terminal(Captured);

    impl TermLike for Terminal {
        fn width(&self) -> u16 {
            80
        }
        fn move_cursor_up(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_down(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_right(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn move_cursor_left(&self, _: usize) -> io::Result<()> {
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.write_str(text)
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.0.clone().write_all(text.as_bytes())
        }
        fn clear_line(&self) -> io::Result<()> {
            self.write_str("<cleared>")
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_bar_shows_the_phase_and_makes_room_for_text() {
        let terminal = Terminal::default();
        let target = ProgressDrawTarget::term_like(Box::new(terminal.clone()));
        let screen = MultiProgress::with_draw_target(target);
        let bar = Bar::new(screen.clone());
        bar.begin("copy", Some(4096));
        bar.advance(1024);
        bar.note("at noon");
        bar.advance(1024);
        Beside::new(screen, terminal.0.clone()).write_all(b"hello\n").unwrap();
        bar.end();
        let shown = terminal.0.text();
        let (before, after) = shown.split_once("hello\n").unwrap();
        assert!(before.contains("copy") && before.ends_with("<cleared>"), "{shown}");
        assert!(after.ends_with("<cleared>"), "{shown}");
    }
}
