//! What a take-over makes of an old server: imported, replaced, worth knowing, refused. Pure: facts
//! in, findings out, all of them at once.

use std::path::Path;

use crate::config::{Config, PostgresConfig};
use cluster_core::model::parameters;
use cluster_core::model::settings::Mode;

use crate::postgres::{Imported, OldFacts, OldParameter};

use super::distribution::Starter;
use super::standby;

/// Why a take-over is refused, and what would cure it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub cure: String,
}

/// Everything that is to be said about one old server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Goes along.
    pub imported: Imported,
    /// Belongs to clusterd from then on: name and old value.
    pub replaced: Vec<(String, String)>,
    /// Our config file says something else: name, old value, new value.
    pub overruled: Vec<(String, String, String)>,
    /// Worth knowing before.
    pub warnings: Vec<String>,
    /// Each of them is a reason not to do it.
    pub refused: Vec<Refusal>,
}

/// What the assessment looks at.
#[derive(Debug)]
pub struct Situation<'a> {
    /// This member's config.
    pub config: &'a Config,
    /// Its table `[postgres]`.
    pub postgres: &'a PostgresConfig,
    /// The old server.
    pub facts: &'a OldFacts,
    /// Its port.
    pub port: u16,
    /// Major version of the configured programs.
    pub programs: u32,
    /// What would start the old server again.
    pub starters: &'a [Starter],
}

/// All findings.
pub fn assess(situation: &Situation<'_>) -> Findings {
    let mut found = Findings::default();
    parameters(situation, &mut found);
    found.imported.hba = importable_hba(situation, &mut found.refused);
    found.imported.ident = situation.facts.ident.clone();
    server_itself(situation, &mut found.refused);
    match &situation.facts.standby {
        Some(standby) => {
            standby::assess(situation, standby, &mut found);
        }
        None => {
            durability(situation, &mut found.refused);
            warn(situation, &mut found.warnings);
        }
    }
    for starter in situation.starters {
        found.refused.push(Refusal {
            what: starter.what.clone(),
            cure: starter.cure.clone(),
        });
    }
    found
}

pub(super) fn refuse(refused: &mut Vec<Refusal>, what: impl Into<String>, cure: impl Into<String>) {
    refused.push(Refusal {
        what: what.into(),
        cure: cure.into(),
    });
}

fn parameters(situation: &Situation<'_>, found: &mut Findings) {
    for OldParameter { name, value, .. } in &situation.facts.parameters {
        let own = situation.postgres.parameters.get(name);
        let name = name.to_ascii_lowercase();
        match own {
            // Patroni writes every target, to say that there is none.
            _ if name.starts_with("recovery_target") && value.is_empty() => {}
            _ if parameters::managed(&name).is_some() => {
                found.replaced.push((name, value.clone()));
            }
            Some(own) if own != value => found.overruled.push((name, value.clone(), own.clone())),
            None if let Some(why) = parameters::problem(&name, value) => refuse(
                &mut found.refused,
                format!("the old server sets {name} = {value}: {why}"),
                format!(
                    "set it there to something else and reload, or write {name} into [postgres.parameters]"
                ),
            ),
            // An empty value of an own extension's parameter is one, too.
            Some(_) | None => drop(found.imported.parameters.insert(name, value.clone())),
        }
    }
}

/// Lines can be copied as they are, except those that lead to other files.
fn importable_hba(situation: &Situation<'_>, refused: &mut Vec<Refusal>) -> Vec<String> {
    let file = situation.facts.hba_file.display();
    let (lead_away, plain): (Vec<&String>, Vec<&String>) = situation
        .facts
        .hba
        .iter()
        .partition(|line| line.starts_with("include") || line.contains('@'));
    for line in lead_away {
        refuse(
            refused,
            format!("{file}: `{line}` leads to another file, which would not be found"),
            "write the entries of that file here instead, and reload the old server",
        );
    }
    if let Some(line) = plain.iter().find(|line| line.ends_with('\\')) {
        refuse(
            refused,
            format!("{file}: `{line}` goes on in the next line"),
            "write it as one line, and reload the old server",
        );
    }
    plain.into_iter().cloned().collect()
}

fn server_itself(situation: &Situation<'_>, refused: &mut Vec<Refusal>) {
    let Situation {
        facts, postgres, ..
    } = situation;
    if facts.major() != situation.programs {
        refuse(
            refused,
            format!(
                "the old server is version {}, the programs in {} are of major {}",
                facts.version,
                postgres.bin_dir.display(),
                situation.programs
            ),
            "set postgres.bin_dir to the programs of the old server's major; upgrade it later",
        );
    }
    if facts.major() < 13 {
        refuse(
            refused,
            format!("version {} is older than 13", facts.version),
            "upgrade it with pg_upgrade first",
        );
    }
    if !facts.is_superuser {
        refuse(
            refused,
            format!("`{}` is no superuser", postgres.superuser),
            "name a superuser in postgres.superuser",
        );
    }
}

fn durability(situation: &Situation<'_>, refused: &mut Vec<Refusal>) {
    let facts = situation.facts;
    if facts.wal_level == "minimal" {
        refuse(
            refused,
            "wal_level = minimal: such a server cannot start in recovery, and every start under \
             clusterd is one",
            "ALTER SYSTEM SET wal_level = 'replica'; and restart it at a time of your choice",
        );
    }
    if !facts.has_checksums && !facts.has_wal_log_hints {
        refuse(
            refused,
            "neither data checksums nor wal_log_hints: after a failover it could not be rewound, \
             only copied anew",
            "ALTER SYSTEM SET wal_log_hints = on; and restart it at a time of your choice (or, \
             while it is stopped: pg_checksums --enable)",
        );
    }
    for target in &facts.recovery_targets {
        let name = target.split(' ').next().unwrap_or_default();
        refuse(
            refused,
            format!(
                "{target} is set: a start in recovery would stop there and lose what came later"
            ),
            format!(
                "ALTER SYSTEM RESET {name}; or remove it from {}; no restart is needed",
                facts.config_file.display()
            ),
        );
    }
}

fn warn(situation: &Situation<'_>, warnings: &mut Vec<String>) {
    let Situation {
        facts,
        postgres,
        config,
        port,
        ..
    } = situation;
    let value = |name: &str| {
        let found = facts.parameters.iter().find(|it| it.name == name);
        found.map(|it| it.value.as_str()).filter(|v| !v.is_empty())
    };
    if *port != postgres.port {
        warnings.push(format!(
            "it listens on port {port}, and will on {} (postgres.port): clients must follow",
            postgres.port
        ));
    }
    if facts.prepared > 0 {
        warnings.push(format!(
            "{} prepared transactions are open; they stay, and block a rewind's and a vacuum's \
             progress until somebody ends them",
            facts.prepared
        ));
    }
    if !facts.unlogged.is_empty() {
        warnings.push(format!(
            "unlogged tables are EMPTIED, as at every later start of a primary: {}",
            facts.unlogged.join(", ")
        ));
    }
    if facts.major() < 15 {
        warnings.push("on this major the restart resets the activity statistics".to_owned());
    }
    if value("archive_mode").is_some_and(|mode| mode != "off") {
        let then = match &config.backup {
            Some(_) => {
                "it goes to the repository of [backup] after the take-over, and to no other place"
            }
            None => "nothing is archived after the take-over (without a table [backup])",
        };
        warnings.push(format!(
            "it archives WAL, and archive_command is clusterd's: {then}"
        ));
    }
    if let Some(names) = value("synchronous_standby_names") {
        let settings = &config.settings;
        let then = match settings.mode {
            Mode::Async => "commits wait for nobody (settings.mode = \"async\")".to_owned(),
            Mode::Sync | Mode::Strict => format!(
                "settings.mode = \"{}\" says who confirms commits, as soon as standbys follow (k = {})",
                settings.mode.word(),
                settings.k
            ),
        };
        warnings.push(format!(
            "synchronous_standby_names = '{names}' ends: {then}"
        ));
    }
    for standby in &facts.standbys {
        warnings.push(format!(
            "`{standby}` streams from it: on a member's host it is taken over, too, with its data \
             (clusterd --take-over there first); elsewhere it is on its own"
        ));
    }
    for slot in facts.slots.iter().filter(|slot| !slot.is_logical) {
        warnings.push(format!(
            "slot `{}` stays and keeps WAL: the members have their own, so drop it when nobody \
             streams through it any more",
            slot.name
        ));
    }
    for slot in facts.slots.iter().filter(|slot| slot.is_logical) {
        warnings.push(format!(
            "logical slot `{}` stays on this member; it is not on the standbys, so a failover \
             loses it",
            slot.name
        ));
    }
    if !facts.tablespaces.is_empty() {
        warnings
            .push("each tablespace needs the same path, empty, on every other member".to_owned());
    }
    if let Some(libraries) = value("shared_preload_libraries") {
        warnings.push(format!(
            "shared_preload_libraries = '{libraries}' must be installed on every member"
        ));
    }
    for parameter in &facts.parameters {
        if names_a_file(parameter) && parameters::managed(&parameter.name).is_none() {
            warnings.push(format!(
                "{} = '{}' must exist on every member",
                parameter.name, parameter.value
            ));
        }
    }
    for name in [&postgres.replication.name, &postgres.rewind.name] {
        if facts.roles.iter().any(|role| role.name == *name) {
            warnings.push(format!(
                "role `{name}` exists: it gets the password and attributes of this config file"
            ));
        }
    }
    let databases = config
        .members
        .iter()
        .filter(|member| member.kind == cluster_core::model::MemberKind::Database);
    if databases.count() > 1 {
        warnings.push(
            "the other members follow after the restart: until the first clone or standby of today \
             is ready there is no standby"
                .to_owned(),
        );
    }
}

fn names_a_file(parameter: &OldParameter) -> bool {
    parameter.name.ends_with("_file") && Path::new(&parameter.value).is_absolute()
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
