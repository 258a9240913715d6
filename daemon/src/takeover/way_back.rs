//! The way back to the old server, as commands to copy. Before its restart there is nothing to undo;
//! afterwards its data stays, with everything that was written under clusterd.

use std::path::Path;

use crate::config::{Config, GuardStarter, PostgresConfig};
use crate::postgres::OldServer;

/// Where things for the way back are kept, below `state_dir`.
pub const KEPT: &str = "taken-over";

/// The steps: comments begin with `#`, everything else is a command.
pub fn way_back(
    config: &Config,
    postgres: &PostgresConfig,
    old: &OldServer,
    config_file: &Path,
) -> Vec<String> {
    let data = quote(&postgres.data_dir.display().to_string());
    let kept = config.state_dir.join(KEPT);
    let mut steps = vec![
        "# Before the restart: end clusterd (Ctrl-C). Nothing of the old server was changed.".to_owned(),
        "# After it: 1. on every other member, then here, end clusterd and its guard; that stops PostgreSQL."
            .to_owned(),
        end_daemon(config),
    ];
    steps.push("# 2. Here: take away what makes it a standby and what clusterd added.".to_owned());
    steps.push(format!(
        "rm -f {data}/standby.signal {data}/clusterd-foreign-start.conf {data}/clusterd-imported.json"
    ));
    steps.push(put_back_auto_conf(&kept, &data));
    steps.push("# 3. Start it as before.".to_owned());
    steps.push(start(postgres, old, config_file));
    steps.push("# 4. Drop the members' slots: they would keep WAL for ever.".to_owned());
    steps.push(format!(
        "runuser -u {} -- {} {} -p {} -d postgres -c \"SELECT pg_drop_replication_slot(slot_name) \
         FROM pg_replication_slots WHERE slot_name LIKE 'clusterd\\_%'\"",
        quote(&postgres.os_user),
        quote(&postgres.bin_dir.join("psql").display().to_string()),
        old.socket_dir
            .as_ref()
            .map(|directory| format!("-h {}", quote(&directory.display().to_string())))
            .unwrap_or_default(),
        old.port,
    ));
    steps.push(format!(
        "# 5. Before another take-over, empty {} on every member, and the other members' data directories.",
        config.state_dir.display()
    ));
    steps
}

/// The same for a standby: it goes back to following its old primary, with `standby.signal`.
pub fn of_standby(
    config: &Config,
    postgres: &PostgresConfig,
    old: &OldServer,
    config_file: &Path,
) -> Vec<String> {
    let data = quote(&postgres.data_dir.display().to_string());
    let kept = config.state_dir.join(KEPT);
    vec![
        "# Until its primary is taken over: end clusterd (Ctrl-C). Nothing of the old standby was \
         changed."
            .to_owned(),
        "# After it: 1. end clusterd and its guard here; that stops PostgreSQL.".to_owned(),
        end_daemon(config),
        "# 2. Put its own settings back, with what a standby may not have less of than its primary had \
         under clusterd, and take away what clusterd added."
            .to_owned(),
        put_back_auto_conf(&kept, &data),
        format!("cat {data}/clusterd-foreign-start.conf >> {data}/postgresql.auto.conf"),
        format!("rm -f {data}/clusterd-foreign-start.conf {data}/clusterd-imported.json"),
        "# 3. When its primary runs as before (see the way back there): start it as before."
            .to_owned(),
        start(postgres, old, config_file),
    ]
}

fn end_daemon(config: &Config) -> String {
    match config.guard.started_by {
        GuardStarter::Service => "systemctl disable --now clusterd clusterd-guard".to_owned(),
        GuardStarter::Daemon => "pkill -x clusterd; pkill -x clusterd-guard".to_owned(),
    }
}

fn put_back_auto_conf(kept: &Path, data: &str) -> String {
    format!(
        "cp -p {} {data}/postgresql.auto.conf",
        quote(&kept.join("postgresql.auto.conf").display().to_string())
    )
}

/// The command that started it, as far as it can be told.
fn start(postgres: &PostgresConfig, old: &OldServer, config_file: &Path) -> String {
    let debian = config_file
        .parent()
        .and_then(|place| place.strip_prefix("/etc/postgresql").ok());
    if let Some(place) = debian {
        return format!(
            "pg_ctlcluster {} start",
            place.display().to_string().replace('/', " ")
        );
    }
    if let Some(unit) = &old.unit {
        return format!("systemctl enable --now {unit}");
    }
    let pg_ctl = match old.command_line.first().map(Path::new) {
        Some(program) if program.is_absolute() => program.with_file_name("pg_ctl"),
        Some(_) | None => postgres.bin_dir.join("pg_ctl"),
    };
    let data = postgres.data_dir.display().to_string();
    let mut options = Vec::new();
    let mut words = old.command_line.iter().skip(1);
    while let Some(word) = words.next() {
        if word == "-D" {
            words.next();
        } else {
            options.push(quote(word));
        }
    }
    let options = match options.is_empty() {
        true => String::new(),
        false => format!(" -o {}", quote(&options.join(" "))),
    };
    format!(
        "runuser -u {} -- {} -D {} -l {}{options} -w start",
        quote(&postgres.os_user),
        quote(&pg_ctl.display().to_string()),
        quote(&data),
        quote(&format!("{data}/after-way-back.log")),
    )
}

/// As a shell reads it.
fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::quote;

    #[test]
    fn words_are_quoted_as_a_shell_reads_them() {
        assert_eq!(quote("/var/lib/pg"), "/var/lib/pg");
        assert_eq!(quote("a b"), "'a b'");
        assert_eq!(quote("it's"), "'it'\\''s'");
        assert_eq!(quote(""), "''");
    }
}
