//! Log lines on standard error, in the manner of PostgreSQL's own programs: `basebackup: warning: …`, without a time,
//! because the server's log or the journal adds its own; or one JSON object a line.
//!
//! A message is always one line: what it quotes is escaped. A field `hint` becomes a line of its own.

use std::io::{self, Write};
use std::iter;
use std::sync::{Arc, Mutex, PoisonError};

use indicatif::MultiProgress;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use super::cli::{CommonArgs, LogFormat};
use super::exit::Program;
use super::failure::{Failure, single_line};
use super::progress::Beside;
use crate::sys::clock::Clock;

/// Writes log lines. One is made in `main`; clones share the writer.
#[derive(Clone)]
pub(crate) struct Log {
    program: Program,
    format: LogFormat,
    clock: Arc<dyn Clock>,
    writer: Arc<Mutex<dyn Write + Send>>,
}

impl Log {
    pub(crate) fn new(
        program: Program,
        format: LogFormat,
        clock: Arc<dyn Clock>,
        writer: impl Write + Send + 'static,
    ) -> Self {
        Self { program, format, clock, writer: Arc::new(Mutex::new(writer)) }
    }

    /// One to standard error that keeps out of the way of the bars on `screen`.
    pub(crate) fn to_stderr(program: Program, format: LogFormat, clock: Arc<dyn Clock>, screen: MultiProgress) -> Self {
        Self::new(program, format, clock, Beside::new(screen, io::stderr()))
    }

    /// Sends what the libraries say from now on here, from `level` upwards.
    pub(crate) fn listen(&self, level: LevelFilter) {
        // Fails only when somebody listens already, as in a test that calls `main` twice.
        drop(tracing_subscriber::registry().with(Listener(self.clone()).with_filter(level)).try_init());
    }

    /// The message with which the program ends. It is said at every level.
    pub(crate) fn failure(&self, failure: &Failure) {
        let mut fields = Map::new();
        if let Some(hint) = &failure.hint {
            fields.insert("hint".to_owned(), hint.clone().into());
        }
        self.write(&match (self.format, &failure.hint) {
            // In the server's log a call gets one line.
            (LogFormat::Text, Some(hint)) if self.program.speaks_into_the_servers_log() => {
                self.text("", &format!("{}; hint: {hint}", failure.message), Map::new())
            }
            (LogFormat::Text, _) => self.text("", &failure.message, fields),
            (LogFormat::Json, _) => self.json("error", &failure.message, fields),
        });
    }

    fn event(&self, level: Level, message: &str, fields: Map<String, Value>) {
        let name = match level {
            Level::ERROR => "error",
            Level::WARN => "warning",
            Level::INFO => "info",
            Level::DEBUG => "debug",
            Level::TRACE => "trace",
        };
        self.write(&match self.format {
            LogFormat::Text if level == Level::INFO => self.text("", message, fields),
            LogFormat::Text => self.text(&format!("{name}: "), message, fields),
            LogFormat::Json => self.json(name, message, fields),
        });
    }

    fn text(&self, label: &str, message: &str, mut fields: Map<String, Value>) -> String {
        let program = self.program;
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let hint = fields.remove("hint");
        let fields = fields.iter().map(|(name, value)| format!(" {name}={}", plain(value)));
        let body: Vec<String> = iter::once(message.to_owned()).chain(fields).collect();
        let line = format!("{program}: {label}{}\n", single_line(&body.concat()));
        match hint {
            Some(hint) => format!("{line}{program}: hint: {}\n", single_line(&plain(&hint))),
            None => line,
        }
    }

    fn json(&self, level: &str, message: &str, fields: Map<String, Value>) -> String {
        let time = self.clock.now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
        let mut object = fields;
        object.insert("time".to_owned(), time.into());
        object.insert("program".to_owned(), self.program.name().into());
        object.insert("level".to_owned(), level.into());
        object.insert("message".to_owned(), message.into());
        format!("{}\n", Value::Object(object))
    }

    fn write(&self, lines: &str) {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        // There is nowhere left to say that standard error is gone.
        drop(writer.write_all(lines.as_bytes()));
    }
}

/// From which level on `program` speaks: the two that PostgreSQL calls only when something is wrong.
pub(crate) fn level(program: Program, args: &CommonArgs) -> LevelFilter {
    let usual = if program.speaks_into_the_servers_log() { LevelFilter::WARN } else { LevelFilter::INFO };
    match (args.quiet, args.verbose) {
        (true, _) if usual == LevelFilter::WARN => LevelFilter::ERROR,
        (true, _) => LevelFilter::WARN,
        (false, 0) => usual,
        (false, 1) => LevelFilter::DEBUG,
        (false, _) => LevelFilter::TRACE,
    }
}

struct Listener(Log);

impl<S: Subscriber> Layer<S> for Listener {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        self.0.event(*event.metadata().level(), &fields.message, fields.others);
    }
}

#[derive(Default)]
struct Fields {
    message: String,
    others: Map<String, Value>,
}

impl Fields {
    fn add(&mut self, field: &Field, value: Value) {
        self.others.insert(field.name().to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let text = format!("{value:?}");
        if field.name() == "message" { self.message = text } else { self.add(field, text.into()) }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" { value.clone_into(&mut self.message) } else { self.add(field, value.into()) }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::output::Captured;
    use crate::sys::clock::FixedClock;
    use chrono::DateTime;
    use rstest::rstest;

    fn heard(format: LogFormat, say: impl FnOnce(&Log)) -> String {
        let captured = Captured::default();
        let clock = Arc::new(FixedClock(DateTime::from_timestamp(1_700_000_000, 0).unwrap()));
        let log = Log::new(Program::Basebackup, format, clock, captured.clone());
        let subscriber = tracing_subscriber::registry().with(Listener(log.clone()).with_filter(LevelFilter::INFO));
        tracing::subscriber::with_default(subscriber, || say(&log));
        captured.text()
    }

    #[test]
    fn text_lines_look_like_postgresqls() {
        let text = heard(LogFormat::Text, |log| {
            tracing::info!("copy {} files", 7);
            tracing::warn!(hint = "run verify", segment = "0001", bytes = 5, "odd\n\u{1b}[31msegment");
            tracing::debug!("not at this level");
            log.failure(&Failure { message: "read x: permission denied".into(), hint: Some("chmod".into()) });
        });
        let expected = "basebackup: copy 7 files\n\
             basebackup: warning: odd\\n\\u{1b}[31msegment bytes=5 segment=0001\n\
             basebackup: hint: run verify\n\
             basebackup: read x: permission denied\n\
             basebackup: hint: chmod\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn json_lines_are_objects() {
        let text = heard(LogFormat::Json, |log| {
            tracing::warn!(bytes = 5, "two\nlines");
            log.failure(&Failure { message: "no".into(), hint: None });
        });
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let time = "2023-11-14T22:13:20.000Z";
        let expected = [
            serde_json::json!({
                "time": time, "program": "basebackup", "level": "warning", "message": "two\nlines", "bytes": 5
            }),
            serde_json::json!({"time": time, "program": "basebackup", "level": "error", "message": "no"}),
        ];
        assert_eq!(objects, expected);
    }

    #[rstest]
    #[case(Program::ArchiveWal, 0, false, LevelFilter::WARN)]
    #[case(Program::ArchiveWal, 0, true, LevelFilter::ERROR)]
    #[case(Program::RestoreWal, 1, false, LevelFilter::DEBUG)]
    #[case(Program::Verify, 0, false, LevelFilter::INFO)]
    #[case(Program::Verify, 0, true, LevelFilter::WARN)]
    #[case(Program::Verify, 3, false, LevelFilter::TRACE)]
    fn levels(#[case] program: Program, #[case] verbose: u8, #[case] quiet: bool, #[case] expected: LevelFilter) {
        assert_eq!(level(program, &CommonArgs { verbose, quiet, ..CommonArgs::default() }), expected);
    }
}
