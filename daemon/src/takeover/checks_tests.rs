//! What is imported and what is refused, from facts.

use super::*;
use crate::postgres::{OldRole, OldSlot, OldStandby};
use cluster_core::model::{Lsn, TimelineId};

/// A config file that loads without anything being installed but a user.
fn config(parameters: &str) -> Config {
    let place = tempfile::tempdir().expect("a directory");
    let bin = place.path().join("bin");
    std::fs::create_dir(&bin).expect("made");
    for program in crate::config::PROGRAMS {
        std::fs::write(bin.join(program), "").expect("written");
    }
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid());
    let user = user.ok().flatten().expect("this user").name;
    let user = match user.as_str() {
        "root" => "nobody".to_owned(),
        _ => user,
    };
    let text = format!(
        r#"
cluster = "shop"
name = "a"
state_dir = "/var/lib/clusterd"
[listen]
grpc = "127.0.0.1:8009"
http = "127.0.0.1:8008"
[security]
cluster_secret = "a-secret-of-the-tests-only-0123456789"
[postgres]
bin_dir = "{}"
data_dir = "/var/lib/pg"
os_user = "{user}"
replication_password = "only-for-tests"
rewind_password = "only-for-tests"
[postgres.parameters]
{parameters}
[[members]]
name = "a"
peer = "127.0.0.1:8009"
"#,
        bin.display()
    );
    let file = place.path().join("clusterd.toml");
    std::fs::write(&file, text).expect("written");
    use std::os::unix::fs::PermissionsExt as _;
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(&file, private).expect("closed");
    Config::load(&file, &|_| None).unwrap_or_else(|error| panic!("{error}"))
}

/// A server that can be taken over.
fn good() -> OldFacts {
    OldFacts {
        version_number: 150_018,
        version: "15.18".to_owned(),
        has_checksums: true,
        wal_level: "replica".to_owned(),
        is_superuser: true,
        ..OldFacts::default()
    }
}

fn judge(config: &Config, facts: &OldFacts, starters: &[Starter]) -> Findings {
    assess(&Situation {
        config,
        postgres: config.postgres.as_ref().expect("a database member"),
        facts,
        port: 5433,
        programs: 15,
        starters,
    })
}

fn set(name: &str, value: &str) -> OldParameter {
    OldParameter {
        name: name.to_owned(),
        value: value.to_owned(),
        file: None,
    }
}

#[test]
fn a_parameter_that_takes_the_promise_away_is_refused_until_one_of_both_sides_changes_it() {
    let facts = OldFacts {
        parameters: vec![set("synchronous_commit", "local")],
        ..good()
    };
    let found = judge(&config(""), &facts, &[]);
    assert_eq!(found.refused.len(), 1, "{:?}", found.refused);
    assert!(found.refused[0].what.contains("synchronous_commit = local"));
    assert!(found.imported.parameters.is_empty());
    let found = judge(&config("synchronous_commit = \"on\""), &facts, &[]);
    assert_eq!(found.refused, []);
    assert_eq!(found.overruled.len(), 1);
}

#[test]
fn parameters_are_imported_replaced_or_overruled() {
    let config = config("work_mem = \"9MB\"");
    let facts = OldFacts {
        parameters: vec![
            set("archive_mode", "on"),
            set("max_connections", "300"),
            set("port", "5433"),
            set("ssl_cert_file", "/etc/ssl/own.pem"),
            set("work_mem", "7168"),
        ],
        hba: vec!["host all app 10.0.0.0/8 scram-sha-256".to_owned()],
        slots: vec![OldSlot {
            name: "cdc".to_owned(),
            is_logical: true,
            is_active: false,
        }],
        roles: vec![OldRole {
            name: "replicator".to_owned(),
            is_superuser: false,
            can_login: true,
        }],
        prepared: 2,
        ..good()
    };
    let found = judge(&config, &facts, &[]);
    assert_eq!(found.refused, []);
    let imported: Vec<_> = found.imported.parameters.keys().collect();
    assert_eq!(imported, ["max_connections", "ssl_cert_file"]);
    let replaced: Vec<_> = found.replaced.iter().map(|(name, _)| name).collect();
    assert_eq!(replaced, ["archive_mode", "port"]);
    assert_eq!(found.overruled.len(), 1);
    assert_eq!(found.imported.hba, facts.hba);
    for word in [
        "port 5433",
        "nothing is archived",
        "`cdc`",
        "/etc/ssl/own.pem",
        "2 prepared",
    ] {
        let is_told = found.warnings.iter().any(|text| text.contains(word));
        assert!(is_told, "{word}: {:?}", found.warnings);
    }
}

#[test]
fn every_refusal_comes_with_its_cure_and_all_at_once() {
    let facts = OldFacts {
        version_number: 140_001,
        has_checksums: false,
        wal_level: "minimal".to_owned(),
        recovery_targets: vec!["recovery_target_lsn = '0/1'".to_owned()],
        hba: vec![
            "host all @people all md5".to_owned(),
            "include more.conf".to_owned(),
        ],
        is_superuser: false,
        ..good()
    };
    let starter = Starter {
        what: "start.conf says `auto`".to_owned(),
        cure: "echo manual".to_owned(),
    };
    let found = judge(&config(""), &facts, &[starter]);
    for word in [
        "of major 15",
        "superuser",
        "minimal",
        "wal_log_hints",
        "recovery_target_lsn",
        "@people",
        "include",
        "auto",
    ] {
        let told = found.refused.iter().find(|it| it.what.contains(word));
        let told = told.unwrap_or_else(|| panic!("{word}: {:?}", found.refused));
        assert!(!told.cure.is_empty(), "{word} without a cure");
    }
    assert!(found.imported.hba.is_empty());
}

/// A standby of it that can be taken over.
fn good_standby() -> OldStandby {
    OldStandby {
        timeline: TimelineId(1),
        replayed: Lsn(100),
        is_streaming: true,
        upstream: Some("10.0.0.1:5432".to_owned()),
        has_signal: true,
    }
}

#[test]
fn what_a_standby_has_of_its_own_manager_is_replaced_not_refused() {
    let facts = OldFacts {
        is_in_recovery: true,
        has_checksums: false,
        parameters: vec![
            set("primary_conninfo", "host=a password=secret"),
            set("primary_slot_name", "s"),
            set("restore_command", "fetch"),
            set("recovery_min_apply_delay", "60000"),
            set("work_mem", "7168"),
        ],
        recovery_targets: vec!["recovery_target_timeline = 'current'".to_owned()],
        standby: Some(good_standby()),
        ..good()
    };
    let found = judge(&config(""), &facts, &[]);
    assert_eq!(found.refused, []);
    let replaced: Vec<_> = found.replaced.iter().map(|(name, _)| name).collect();
    assert_eq!(
        replaced,
        [
            "primary_conninfo",
            "primary_slot_name",
            "restore_command",
            "recovery_target_timeline"
        ]
    );
    assert!(found.imported.parameters.contains_key("work_mem"));
    let is_told = found.warnings.iter().any(|it| it.contains("apply_delay"));
    assert!(is_told, "{:?}", found.warnings);
}

#[test]
fn a_standby_that_cannot_be_proven_or_is_started_by_others_is_refused() {
    let facts = OldFacts {
        is_in_recovery: true,
        standby: Some(OldStandby {
            is_streaming: false,
            has_signal: false,
            ..good_standby()
        }),
        ..good()
    };
    let starter = Starter {
        what: "start.conf says `auto`".to_owned(),
        cure: "echo manual".to_owned(),
    };
    let found = judge(&config(""), &facts, &[starter]);
    for word in ["does not stream", "standby.signal", "auto"] {
        let told = found.refused.iter().any(|it| it.what.contains(word));
        assert!(told, "{word}: {:?}", found.refused);
    }
    assert_eq!(found.refused.len(), 3);
}
