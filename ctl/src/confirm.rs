//! The question before anything dangerous.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use crate::exit::{Kind, Stop};

/// Whether a question can be asked, or need not be: checked before anything is sent, so that a script
/// without `--yes` ends the same way whatever the cluster is doing.
///
/// # Errors
/// There is no terminal and `--yes` was not given.
pub fn possible(yes: bool, verb: &str) -> Result<(), Stop> {
    if yes || (io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(());
    }
    Err(Stop::new(
        Kind::Usage,
        format!("{verb} asks for a yes and there is no terminal to ask on: repeat it with --yes"),
    ))
}

/// Asks on stderr.
///
/// # Errors
/// The answer is not yes.
pub fn ask(what: &str) -> Result<(), Stop> {
    eprint!("{what}\nGo on? [y/N] ");
    io::stderr().flush().map_err(Stop::unexpected)?;
    let mut answer = String::new();
    io::stdin()
        .lock()
        .read_line(&mut answer)
        .map_err(Stop::unexpected)?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => Err(Stop::new(Kind::Usage, "not confirmed; nothing was asked")),
    }
}
