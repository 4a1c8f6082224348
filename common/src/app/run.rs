//! The frame around every program: parse, configure, run, say what went wrong, end with the right code.

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use clap::error::ErrorKind;
use clap::{Parser, ValueEnum as _};
use indicatif::MultiProgress;
use signal_hook::consts::SIGTERM;

use super::cli::{CommonArgs, LogFormat};
use super::config::Settings;
use super::context::Context;
use super::environment::Environment;
use super::exit::{self, Program};
use super::failure::Failure;
use super::logging::{self, Log};
use super::output::Output;
use super::panic;
use super::progress::{Bar, Beside, Lines};
use crate::report::{Advice, Cancel, ExitClass, Progress, Silent};
use crate::sys::clock::{Clock, SystemClock};
#[cfg(feature = "faults")]
use crate::sys::faults;
use crate::sys::{identity, signals};

/// How a program's `run` ended when it did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was asked for is done.
    Done,
    /// `restore-wal` alone: no repository has the file, provably, and nothing later needs it.
    Absent,
    /// It ended in this class; what there is to say was said.
    Class(ExitClass),
}

/// Runs a program that works for the configured data directory: see [`main_in`].
pub fn main<C: Parser>(
    program: Program,
    common: fn(&C) -> &CommonArgs,
    run: fn(&C, &Context) -> anyhow::Result<Outcome>,
) -> ExitCode {
    main_in(program, common, |_, settings| settings.pgdata.as_ref().map(|pgdata| pgdata.value.clone()), run)
}

/// Runs a program and says with which code the process ends.
///
/// In this order: panics end the process; arguments are parsed and settings merged; `data_directory` says for which
/// data directory the program works (a repository inside it is refused); started by root, the process becomes that
/// directory's owner, for good, where the directory exists; termination signals set [`Context::cancel`]; `run` runs; its error is said once.
/// `restore-wal` does not return when it was asked to end: it dies of SIGTERM.
pub fn main_in<C: Parser>(
    program: Program,
    common: fn(&C) -> &CommonArgs,
    data_directory: fn(&C, &Settings) -> Option<PathBuf>,
    run: fn(&C, &Context) -> anyhow::Result<Outcome>,
) -> ExitCode {
    panic::install(program);
    let world = World::of_process(program);
    let cli = match C::try_parse() {
        Ok(cli) => cli,
        Err(error) => return world.answer_parser(&error),
    };
    let log = world.log(common(&cli).log_format);
    let mut standby = answers_a_standby(program, None);
    let mut signal = None;
    let result = world.context(common(&cli), &log, |settings| data_directory(&cli, settings)).and_then(|context| {
        standby |= answers_a_standby(program, context.data_directory.as_deref());
        let received = signals::cancel_on_termination(&context.cancel)?;
        let result = run(&cli, &context);
        context.progress.end();
        signal = received.signal();
        result
    });
    let end = end_of(program, &result, signal, standby);
    if end == End::BySigterm {
        signals::die_of(SIGTERM);
    }
    if let Err(error) = &result {
        log.failure(&Failure::of_error(error));
    }
    end.exit_code()
}

/// What the process came with.
struct World {
    program: Program,
    environment: Environment,
    clock: Arc<dyn Clock>,
    screen: MultiProgress,
}

impl World {
    fn of_process(program: Program) -> Self {
        let environment = Environment::of_process();
        Self { program, environment, clock: Arc::new(SystemClock), screen: MultiProgress::new() }
    }

    /// The log, before anything is known to be right: a wrong `HOLDFAST_LOG_FORMAT` is complained of later, as text.
    fn log(&self, asked: Option<LogFormat>) -> Log {
        let format = asked.or_else(|| log_format(&self.environment).ok().flatten()).unwrap_or_default();
        Log::to_stderr(self.program, format, Arc::clone(&self.clock), self.screen.clone())
    }

    /// Help and the version are data; everything else that the parser says is a usage error.
    fn answer_parser(&self, error: &clap::Error) -> ExitCode {
        if !error.use_stderr() {
            // A reader that went away has seen enough.
            drop(error.print());
            return ExitCode::SUCCESS;
        }
        if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
            drop(error.print());
        } else {
            self.log(None).failure(&Failure::of_usage(error, self.program));
        }
        let standby = answers_a_standby(self.program, None);
        failure(self.program, ExitClass::Usage, standby).exit_code()
    }

    fn context(
        &self,
        args: &CommonArgs,
        log: &Log,
        data_directory: impl FnOnce(&Settings) -> Option<PathBuf>,
    ) -> anyhow::Result<Context> {
        #[cfg(feature = "faults")]
        install_faults(self.program, &self.environment)?;
        log_format(&self.environment)?;
        let args = &args.completed(&self.environment)?;
        log.listen(logging::level(self.program, args));
        let settings = Settings::load(args, &self.environment)?;
        let data_directory = data_directory(&settings);
        if let Some(directory) = &data_directory {
            settings.refuse_repository_inside(directory)?;
            // A data directory that is yet to be made has no owner to become.
            if directory.try_exists().with_context(|| format!("look for {}", directory.display()))? {
                identity::become_owner_of(directory)?;
            }
        }
        Ok(Context {
            program: self.program,
            settings,
            data_directory,
            environment: self.environment.clone(),
            clock: Arc::clone(&self.clock),
            output: self.output(args),
            progress: self.progress(args),
            cancel: Cancel::default(),
        })
    }

    fn output(&self, args: &CommonArgs) -> Output {
        // Only a window has a width; a file or a pipe gets every cell in one line.
        let columns = || self.environment.get("COLUMNS")?.to_str()?.parse().ok().filter(|columns| *columns > 0);
        let width = io::stdout().is_terminal().then(columns).flatten();
        Output::new(Beside::new(self.screen.clone(), io::stdout()), args.json).with_width(width)
    }

    fn progress(&self, args: &CommonArgs) -> Arc<dyn Progress> {
        let dumb = self.environment.get("TERM").is_some_and(|terminal| terminal == "dumb");
        if self.program.speaks_into_the_servers_log() || args.no_progress || args.quiet {
            Arc::new(Silent)
        } else if io::stderr().is_terminal() && !dumb {
            Arc::new(Bar::new(self.screen.clone()))
        } else {
            Arc::new(Lines::default())
        }
    }
}

/// Before anything is touched; in the program that is meant, if one is.
#[cfg(feature = "faults")]
fn install_faults(program: Program, environment: &Environment) -> anyhow::Result<()> {
    if environment.get(faults::PROGRAM_VARIABLE).is_some_and(|meant| meant != program.name()) {
        return Ok(());
    }
    let trace = environment.get(faults::TRACE_VARIABLE).map(Path::new);
    faults::install(environment.text(faults::PLAN_VARIABLE)?, trace)
}

fn log_format(environment: &Environment) -> Result<Option<LogFormat>, Advice> {
    const VARIABLE: &str = "HOLDFAST_LOG_FORMAT";
    let parse = |text| {
        let wrong = |_| Advice::usage(format!("{VARIABLE}: {text:?} is neither \"text\" nor \"json\""));
        LogFormat::from_str(text, false).map_err(wrong)
    };
    environment.text(VARIABLE)?.map(parse).transpose()
}

/// Whether this is `restore-wal`, called by a standby, to which every failure must read as "no such file".
///
/// A standby retries or streams then and never promotes itself, but shuts down at any code above 125. PostgreSQL runs
/// the command in its data directory; `directory` is what is known besides.
pub(crate) fn answers_a_standby(program: Program, directory: Option<&Path>) -> bool {
    let is_standby = |directory: &Path| directory.join("standby.signal").exists();
    program == Program::RestoreWal && (is_standby(Path::new("")) || directory.is_some_and(is_standby))
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Code(u8),
    BySigterm,
}

impl End {
    fn exit_code(self) -> ExitCode {
        match self {
            Self::Code(code) => code.into(),
            Self::BySigterm => ExitCode::FAILURE,
        }
    }
}

fn end_of(program: Program, result: &anyhow::Result<Outcome>, signal: Option<i32>, standby: bool) -> End {
    match (result, signal) {
        (Ok(Outcome::Done), _) => End::Code(exit::code(ExitClass::Done, program)),
        (Ok(Outcome::Absent), _) => End::Code(exit::ABSENT),
        (Ok(Outcome::Class(class)), _) => failure(program, *class, standby),
        // PostgreSQL takes the death by SIGTERM as its own shutdown, any code as an answer about the file. What the
        // signal broke first does not matter.
        (Err(_), Some(_)) if program == Program::RestoreWal => End::BySigterm,
        (Err(error), Some(signal)) if exit::is_interrupted(error) => match program {
            // The archiver itself would die of a code above 125.
            Program::ArchiveWal => failure(program, ExitClass::Failed, standby),
            _ => End::Code(u8::try_from(signal).map_or(u8::MAX, |signal| signal.saturating_add(128))),
        },
        (Err(error), _) => failure(program, exit::of_error(error), standby),
    }
}

fn failure(program: Program, class: ExitClass, standby: bool) -> End {
    End::Code(if standby && class != ExitClass::Done { exit::ABSENT } else { exit::code(class, program) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Interrupted;
    use rstest::rstest;

    fn interrupted() -> anyhow::Result<Outcome> {
        Err(anyhow::Error::from(Interrupted).context(Advice::refused("copy")))
    }

    fn refused() -> anyhow::Result<Outcome> {
        Err(Advice::refused("no").into())
    }

    #[rstest]
    #[case(Program::Verify, Ok(Outcome::Done), None, End::Code(0))]
    #[case(Program::Verify, Ok(Outcome::Done), Some(SIGTERM), End::Code(0))]
    #[case(Program::Verify, Ok(Outcome::Class(ExitClass::Findings)), None, End::Code(3))]
    #[case(Program::Verify, refused(), None, End::Code(20))]
    #[case(Program::Verify, refused(), Some(SIGTERM), End::Code(20))]
    #[case(Program::Verify, interrupted(), Some(SIGTERM), End::Code(143))]
    #[case(Program::Basebackup, interrupted(), Some(2), End::Code(130))]
    #[case(Program::ArchiveWal, interrupted(), Some(SIGTERM), End::Code(1))]
    #[case(Program::ArchiveWal, refused(), Some(SIGTERM), End::Code(20))]
    #[case(Program::RestoreWal, Ok(Outcome::Done), Some(SIGTERM), End::Code(0))]
    #[case(Program::RestoreWal, Ok(Outcome::Absent), None, End::Code(1))]
    #[case(Program::RestoreWal, Ok(Outcome::Class(ExitClass::Failed)), None, End::Code(201))]
    #[case(Program::RestoreWal, refused(), None, End::Code(220))]
    #[case(Program::RestoreWal, interrupted(), Some(SIGTERM), End::BySigterm)]
    #[case(Program::RestoreWal, refused(), Some(SIGTERM), End::BySigterm)]
    fn ends(
        #[case] program: Program,
        #[case] result: anyhow::Result<Outcome>,
        #[case] signal: Option<i32>,
        #[case] expected: End,
    ) {
        assert_eq!(end_of(program, &result, signal, false), expected);
    }

    #[rstest]
    #[case(Ok(Outcome::Done), 0)]
    #[case(Ok(Outcome::Absent), 1)]
    #[case(Ok(Outcome::Class(ExitClass::NoRepository)), 1)]
    #[case(refused(), 1)]
    fn a_standby_hears_of_no_failure(#[case] result: anyhow::Result<Outcome>, #[case] expected: u8) {
        assert_eq!(end_of(Program::RestoreWal, &result, None, true), End::Code(expected));
    }

    #[test]
    fn a_standby_is_known_by_its_signal_file() {
        let folder = tempfile::tempdir().unwrap();
        assert!(!answers_a_standby(Program::RestoreWal, Some(folder.path())));
        std::fs::File::create(folder.path().join("standby.signal")).unwrap();
        assert!(answers_a_standby(Program::RestoreWal, Some(folder.path())));
        assert!(!answers_a_standby(Program::ArchiveWal, Some(folder.path())));
    }

    #[test]
    fn a_wrong_log_format_is_named() {
        let of = |value| log_format(&Environment::of([("HOLDFAST_LOG_FORMAT", value)]));
        assert_eq!(of("json"), Ok(Some(LogFormat::Json)));
        assert_eq!(of(""), Ok(None));
        assert_eq!(of("xml").unwrap_err().message, "HOLDFAST_LOG_FORMAT: \"xml\" is neither \"text\" nor \"json\"");
    }
}
