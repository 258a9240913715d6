//! `[callbacks]`.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use cluster_core::model::MemberKind;

use super::super::CallbackProgram;
use super::super::file::{CallbackTable, CallbacksTable};
use super::Check;

/// Long enough for an address to move or a name server to be told, short enough that one that hangs is
/// noticed the same minute.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// It is waited for: a switchover that a program holds up for longer is none any more.
const BEFORE_STOP_LIMIT: Duration = Duration::from_secs(10);
/// Beside it the step of a switchover that it delays (30 s) must have room for the rest.
const LONGEST_BEFORE_STOP: Duration = Duration::from_secs(20);
/// Whoever needs longer begins something and ends.
const LONGEST: Duration = Duration::from_secs(3600);

impl Check<'_> {
    pub(super) fn callbacks(
        &mut self,
        table: Option<&CallbacksTable>,
        kind: MemberKind,
    ) -> BTreeMap<&'static str, CallbackProgram> {
        let Some(table) = table else {
            return BTreeMap::new();
        };
        if kind == MemberKind::Witness {
            self.problem(
                "callbacks",
                "a witness has no PostgreSQL to tell of (leave the table out)",
            );
        }
        let usual = (TIME_LIMIT, LONGEST);
        let waited_for = (BEFORE_STOP_LIMIT, LONGEST_BEFORE_STOP);
        let named = [
            ("on_start", &table.on_start, usual),
            ("on_stop", &table.on_stop, usual),
            ("on_restart", &table.on_restart, usual),
            ("on_role_change", &table.on_role_change, usual),
            ("on_reload", &table.on_reload, usual),
            ("post_activate", &table.post_activate, usual),
            ("before_stop", &table.before_stop, waited_for),
        ];
        let mut programs = BTreeMap::new();
        for (name, callback, limits) in named {
            if let Some(callback) = callback {
                programs.insert(name, self.callback(name, callback, limits));
            }
        }
        programs
    }

    fn callback(
        &mut self,
        name: &str,
        table: &CallbackTable,
        (default, longest): (Duration, Duration),
    ) -> CallbackProgram {
        let key = format!("callbacks.{name}.command");
        match table.command.first() {
            None => self.problem(&key, "empty (a list: the program, then its arguments)"),
            Some(program) => {
                if let Some(why) = no_program(Path::new(program)) {
                    self.problem(&key, why);
                }
            }
        }
        let key = format!("callbacks.{name}.time_limit");
        let time_limit = match &table.time_limit {
            None => default,
            Some(text) => self.duration(&key, text),
        };
        let shortest = Duration::from_secs(1);
        if table.time_limit.is_some() && !(shortest..=longest).contains(&time_limit) {
            let seconds = longest.as_secs();
            self.problem(&key, format!("not between 1s and {seconds}s"));
        }
        CallbackProgram {
            command: table.command.clone(),
            time_limit,
        }
    }
}

/// Why this is nothing to run, if so. Who may write it may do what PostgreSQL's user may.
fn no_program(path: &Path) -> Option<String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Some(format!("`{shown}` is relative (an absolute path)"));
    }
    let found = match std::fs::metadata(path) {
        Ok(found) => found,
        Err(error) => return Some(format!("{shown} cannot be looked at: {error}")),
    };
    let mode = found.permissions().mode();
    if !found.is_file() || mode & 0o111 == 0 {
        return Some(format!("{shown} is no program (chmod +x it)"));
    }
    (mode & 0o002 != 0).then(|| format!("{shown} can be written by every user (chmod o-w it)"))
}
