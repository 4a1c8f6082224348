//! What an internal error does: one line, and the process ends, whichever thread it happened in.
//!
//! A panic must not end as Rust's 101: recovery would take that for an absent file and promote. The hook is
//! installed whether the build unwinds or aborts.

use std::io::{self, Write as _};
use std::panic::{Location, PanicHookInfo};

use super::exit::{self, Program};
use super::run;

/// Makes every panic of the process end it with `program`'s code for an internal error.
pub(crate) fn install(program: Program) {
    std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
        let text = message(program, info.payload_as_str().unwrap_or("unknown"), info.location());
        // Not through the log: the thread that panicked may hold its lock. Nothing can be done about a failure.
        drop(io::stderr().write_all(text.as_bytes()));
        let code = if run::answers_a_standby(program, None) { exit::ABSENT } else { exit::panic_code(program) };
        #[expect(clippy::exit, reason = "nothing may go on after an internal error, in any thread")]
        std::process::exit(i32::from(code));
    }));
}

fn message(program: Program, what: &str, location: Option<&Location<'_>>) -> String {
    let what = super::failure::single_line(what);
    let place = location.map_or_else(String::new, |place| format!(" at {}:{}", place.file(), place.line()));
    format!(
        "{program}: internal error: {what}{place}\n{program}: hint: please report this with the line above and the \
         output of {program} --version\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_the_place() {
        let text = message(Program::RestoreWal, "two\nlines", Some(Location::caller()));
        let first = text.lines().next().unwrap();
        assert!(first.starts_with("restore-wal: internal error: two\\nlines at "), "{text}");
        assert!(first.contains("panic.rs:"), "{text}");
        assert_eq!(text.lines().count(), 2);
    }
}
