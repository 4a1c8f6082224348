//! The one question that recovery asks.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use anyhow::Context as _;
use common::app::Context;

/// Whether somebody at a terminal answers `yes`. Where nobody can be asked (no terminal, or `--json`), the answer is no.
pub(crate) fn yes(question: &str, ctx: &Context) -> anyhow::Result<bool> {
    if !std::io::stdin().is_terminal() || ctx.output.is_json() {
        return Ok(false);
    }
    let mut stderr = std::io::stderr().lock();
    write!(stderr, "{question} [yes/no] ")?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).context("read the answer")?;
    Ok(answer.trim().eq_ignore_ascii_case("yes"))
}
