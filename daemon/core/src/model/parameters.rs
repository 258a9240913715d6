//! Which PostgreSQL parameters may be set by whom. Only names and shapes are judged here; values are
//! judged by PostgreSQL itself, on every member, before a change is proposed, but for the few that a promise rests on.

/// Why a parameter belongs to clusterd.
const PLACE: &str = "is the place of this member's server, which its config file says";
const STREAMING: &str = "says who streams from whom, which follows the epoch";
const DURABILITY: &str =
    "decides what a confirmed commit is worth (mode, k and k_min say who confirms)";
const RECOVERY: &str = "decides where recovery ends, which the ledger of timelines says";
const ARCHIVE: &str = "keeps the archive without holes ([backup] of the config file)";
const SUPERVISION: &str = "is needed to supervise the server";

/// Parameters that belong to the daemon, sorted, each with the reason: refused from users, scrubbed from
/// `postgresql.auto.conf`. Source: DESIGN section 5 item 6.
pub const MANAGED: &[(&str, &str)] = &[
    ("allow_alter_system", SUPERVISION),
    ("archive_cleanup_command", ARCHIVE),
    ("archive_command", ARCHIVE),
    ("archive_library", ARCHIVE),
    ("archive_mode", ARCHIVE),
    ("cluster_name", PLACE),
    ("clusterd.rule", DURABILITY),
    ("config_file", PLACE),
    ("data_directory", PLACE),
    ("data_sync_retry", DURABILITY),
    ("external_pid_file", PLACE),
    ("fsync", DURABILITY),
    ("full_page_writes", DURABILITY),
    ("hba_file", PLACE),
    ("hot_standby", SUPERVISION),
    ("ident_file", PLACE),
    ("lc_messages", SUPERVISION),
    ("listen_addresses", PLACE),
    ("log_destination", SUPERVISION),
    ("logging_collector", SUPERVISION),
    ("port", PLACE),
    ("primary_conninfo", STREAMING),
    ("primary_slot_name", STREAMING),
    ("promote_trigger_file", STREAMING),
    ("recovery_end_command", RECOVERY),
    ("recovery_target", RECOVERY),
    ("recovery_target_action", RECOVERY),
    ("recovery_target_inclusive", RECOVERY),
    ("recovery_target_lsn", RECOVERY),
    ("recovery_target_name", RECOVERY),
    ("recovery_target_time", RECOVERY),
    ("recovery_target_timeline", RECOVERY),
    ("recovery_target_xid", RECOVERY),
    ("restart_after_crash", SUPERVISION),
    ("restore_command", ARCHIVE),
    ("synchronous_standby_names", DURABILITY),
    ("unix_socket_directories", PLACE),
    ("unix_socket_group", PLACE),
    ("unix_socket_permissions", PLACE),
    ("update_process_title", SUPERVISION),
    ("wal_log_hints", DURABILITY),
];

/// Parameters that name a program or a library, or hold code that is run.
const PROGRAMS: &[&str] = &[
    "dynamic_library_path",
    "extension_control_path",
    "jit_provider",
    "local_preload_libraries",
    "oauth_validator_libraries",
    "session_preload_libraries",
    "shared_preload_libraries",
    "ssl_passphrase_command",
];
/// The same of extensions, by the last part of the name: what they run at a start.
const PROGRAM_ENDINGS: &[&str] = &[
    ".on_init",
    ".on_plperl_init",
    ".on_plperlu_init",
    ".start_proc",
];

/// Values of `synchronous_commit` with which a commit waits for what the mode promises.
const WAITS: &[&str] = &["on", "remote_apply"];
/// Values of `log_min_messages` that keep warnings out of the log.
const TELLS_NO_WARNINGS: &[&str] = &["error", "log", "fatal", "panic"];

/// Longest value. Judgement: far above any list of names, far below what would weigh in the log.
const LONGEST: usize = 4096;
/// Most parameters of the whole cluster, or of one role or member. PostgreSQL has some 400.
pub const MOST: usize = 500;

/// Why clusterd keeps this parameter to itself; none when it does not. The name in any case.
pub fn managed(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    MANAGED
        .iter()
        .find(|(managed, _)| *managed == name)
        .map(|(_, why)| *why)
}

/// Names of [`MANAGED`].
pub fn managed_names() -> Vec<&'static str> {
    MANAGED.iter().map(|(name, _)| *name).collect()
}

/// Whether it names a program or library: only a member's own config file may.
pub fn names_a_program(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    PROGRAMS.contains(&name.as_str()) || PROGRAM_ENDINGS.iter().any(|end| name.ends_with(end))
}

/// What is wrong with this parameter wherever it is set, with what would do.
pub fn problem(name: &str, value: &str) -> Option<String> {
    let lower = name.to_ascii_lowercase();
    if let Some(why) = managed(name) {
        return Some(format!("belongs to clusterd: it {why}"));
    }
    if !is_name(name) {
        return Some("is not the name of a parameter (letters, digits, _ and .)".to_owned());
    }
    if value.contains(['\n', '\r', '\0']) {
        return Some("the value holds a line break (one line)".to_owned());
    }
    if value.len() > LONGEST {
        return Some(format!("the value is too long (at most {LONGEST} bytes)"));
    }
    if lower == "wal_level" && !["replica", "logical"].contains(&value) {
        return Some("standbys need it (replica or logical)".to_owned());
    }
    let value = value.trim().to_ascii_lowercase();
    if lower == "synchronous_commit" && !WAITS.contains(&value.as_str()) {
        return Some(
            "commits would be answered before a standby has flushed them (on or remote_apply; a role \
             or session that may lose its commits can set less for itself)"
                .to_owned(),
        );
    }
    if lower == "log_min_messages" && TELLS_NO_WARNINGS.contains(&value.as_str()) {
        return Some(
            "cancelled waits for a standby are counted from the warnings in the log (warning or below)"
                .to_owned(),
        );
    }
    None
}

/// What is wrong with setting it through the network, beyond [`problem`].
pub fn problem_from_afar(name: &str, value: &str) -> Option<String> {
    problem(name, value).or_else(|| {
        names_a_program(name).then(|| {
            "names a program or library, which only a member's own config file may \
             ([postgres.parameters])"
                .to_owned()
        })
    })
}

fn is_name(name: &str) -> bool {
    name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_and_without_twins() {
        assert!(MANAGED.windows(2).all(|pair| pair[0].0 < pair[1].0));
        assert!(PROGRAMS.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn what_is_refused_says_why() {
        for (name, value, words) in [
            ("Fsync", "off", "confirmed commit"),
            ("primary_conninfo", "x", "epoch"),
            ("work mem", "1MB", "name of a parameter"),
            ("work_mem", "1MB\nfsync = off", "line break"),
            ("wal_level", "minimal", "replica or logical"),
            ("synchronous_commit", "REMOTE_WRITE", "on or remote_apply"),
            ("synchronous_commit", "local", "on or remote_apply"),
            ("Synchronous_Commit", " off", "on or remote_apply"),
            ("log_min_messages", "FATAL", "warning or below"),
        ] {
            let said = problem(name, value).unwrap_or_default();
            assert!(said.contains(words), "{name}: {said}");
        }
        assert_eq!(problem("synchronous_commit", "Remote_Apply"), None);
        assert_eq!(problem("log_min_messages", "debug1"), None);
        assert_eq!(problem("work_mem", "64MB"), None);
        assert_eq!(problem("pg_stat_statements.max", "5000"), None);
    }

    #[test]
    fn a_program_comes_only_from_a_config_file() {
        for name in [
            "Shared_Preload_Libraries",
            "plperl.on_init",
            "pltcl.start_proc",
        ] {
            assert_eq!(problem(name, "x"), None);
            let said = problem_from_afar(name, "x").unwrap_or_default();
            assert!(said.contains("config file"), "{name}: {said}");
        }
        assert_eq!(problem_from_afar("work_mem", "64MB"), None);
    }
}
