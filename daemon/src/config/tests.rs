//! The config as an operator meets it: good files load, bad ones say everything that is wrong, the
//! sample is complete.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::*;

const NO_ENVIRONMENT: Environment<'static> = &|_| None;

/// A directory with programs, secrets and a config file in it.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self {
            dir: tempfile::tempdir().expect("temporary directory"),
        };
        fs::create_dir(place.path("bin")).expect("created");
        for program in super::PROGRAMS {
            fs::write(place.path("bin").join(program), "").expect("written");
        }
        place.private("secret", "a-long-enough-secret\n");
        place.private("password", "pass word\n");
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn private(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("written");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).expect("chmod");
    }

    /// A file that will do, with `HERE` as this directory.
    fn good(&self) -> String {
        GOOD.replace("HERE", &self.dir.path().display().to_string())
    }

    fn load(&self, text: &str, environment: Environment<'_>) -> Result<Config, Error> {
        self.private("clusterd.toml", text);
        Config::load(&self.path("clusterd.toml"), environment)
    }

    fn problems(&self, text: &str) -> Vec<String> {
        match self.load(text, NO_ENVIRONMENT) {
            Err(Error::Invalid { problems, .. }) => problems,
            other => panic!("expected problems, got {other:?}"),
        }
    }
}

const GOOD: &str = r#"
cluster = "main"
name = "n1"
state_dir = "HERE/state"

[security]
cluster_secret_file = "HERE/secret"

[postgres]
bin_dir = "HERE/bin"
data_dir = "HERE/data"
port = 6001
os_user = "nobody"
replication_password_file = "HERE/password"
rewind_password_file = "HERE/password"
parameters = { work_mem = "8MB", max_connections = 50, jit = false }

[[members]]
name = "n2"
peer = "127.0.0.2:8009"
[[members]]
name = "n1"
peer = "127.0.0.1:8009"
[[members]]
name = "w"
kind = "witness"
peer = "127.0.0.3:8009"
"#;

fn assert_has(problems: &[String], key: &str, words: &str) {
    assert!(
        problems
            .iter()
            .any(|p| p.starts_with(&format!("{key}: ")) && p.contains(words)),
        "no `{key}: …{words}…` in {problems:#?}"
    );
}

/// Only root may name another user to run PostgreSQL as.
fn as_this_user(text: String) -> String {
    if nix::unistd::Uid::effective().is_root() {
        text
    } else {
        text.replace("os_user = \"nobody\"\n", "")
    }
}

#[test]
fn a_good_file_loads_with_its_defaults() {
    let place = Place::new();
    let config = place
        .load(&as_this_user(place.good()), NO_ENVIRONMENT)
        .expect("loads");
    assert_eq!(config.cluster.as_str(), "main");
    let names: Vec<&str> = config.members.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["n1", "n2", "w"], "sorted by name");
    assert_eq!(config.own_entry().peer, "127.0.0.1:8009");
    assert_eq!(config.advertise.http, "127.0.0.1:8008");
    assert_eq!(config.advertise.postgres, "127.0.0.1:6001");
    assert_eq!(
        config.security.cluster_secret.expose(),
        "a-long-enough-secret"
    );
    assert_eq!(config.settings, Settings::default());
    let postgres = config.postgres.expect("a database");
    assert_eq!(postgres.replication.password.expose(), "pass word");
    assert_eq!(postgres.wal_segment_mb, 4);
    assert_eq!(postgres.parameters["jit"], "off");
    assert_eq!(postgres.parameters["max_connections"], "50");
    assert_eq!(config.guard.socket, place.path("state").join("guard.sock"));
}

#[test]
fn every_problem_is_reported_at_once() {
    let place = Place::new();
    let bad = place
        .good()
        .replace("cluster = \"main\"", "cluster = \"Main!\"")
        .replace(
            "port = 6001",
            "port = 8008\nwal_segment_size = \"5MB\"\nencoding = \"latin\"\nhba = [\"let all in\"]",
        )
        .replace("HERE/data", "data")
        .replace(
            &format!("data_dir = \"{}/data\"", place.dir.path().display()),
            "data_dir = \"data\"",
        )
        .replace("max_connections = 50", "primary_conninfo = \"host=x\"")
        .replace("127.0.0.2:8009", "127.0.0.2");
    let text = format!("preset = \"quick\"\n{bad}\n[log]\nlevel = \"a=b=c\"\nformat = \"xml\"\n");
    let problems = place.problems(&text);
    assert_has(&problems, "cluster", "not a valid cluster name");
    assert_has(&problems, "preset", "fast, lan or wan");
    assert_has(&problems, "postgres.port", "also that of listen.http");
    assert_has(&problems, "postgres.encoding", "no server encoding");
    assert_has(&problems, "postgres.wal_segment_size", "power of two");
    assert_has(&problems, "postgres.hba[0]", "pg_hba.conf");
    assert_has(&problems, "postgres.data_dir", "relative");
    assert_has(
        &problems,
        "postgres.parameters.primary_conninfo",
        "belongs to clusterd",
    );
    assert_has(&problems, "members[0].peer", "host:port");
    assert_has(&problems, "log.level", "debug");
    assert_has(&problems, "log.format", "json");
}

#[test]
fn who_confirms_commits_in_a_new_cluster_is_read_and_checked_as_a_whole() {
    use cluster_core::model::settings::Mode;

    let place = Place::new();
    let with = |settings: &str, tags: &str| {
        let text = as_this_user(place.good());
        format!("{text}\n[tags]\n{tags}\n[settings]\n{settings}")
    };
    let good = with(
        "mode = \"strict\"\nk = 1\nk_min = 1\n[settings.zones]\nn1 = \"east\"\nn2 = \"west\"",
        "nosync = false\nsync_priority = 7",
    );
    let config = place.load(&good, NO_ENVIRONMENT).expect("loads");
    assert_eq!(config.settings.mode, Mode::Strict);
    assert_eq!((config.settings.k, config.settings.k_min), (1, 1));
    let zones: Vec<_> = config.settings.zones.iter().collect();
    assert_eq!(
        format!("{zones:?}"),
        r#"[(MemberName("n1"), "east"), (MemberName("n2"), "west")]"#
    );
    assert_eq!(config.tags.sync_priority(), 7);
    let dumped = place.load(&config.dump(), NO_ENVIRONMENT).expect("loads");
    assert_eq!(dumped.settings, config.settings);

    let bad = with(
        "mode = \"quorum\"\nk = 0\nk_min = 0\n[settings.zones]\nn9 = \"east\"\nn1 = 3\nn2 = \" \"",
        "nosync = true\nsync_priority = 7",
    );
    let problems = place.problems(&bad);
    assert_has(&problems, "settings.mode", "sync, strict or async");
    assert_has(&problems, "settings.k", "at least 1");
    assert_has(&problems, "settings.k_min", "at least 1");
    assert_has(&problems, "settings.zones", "no member n9");
    assert_has(&problems, "settings.zones", "n2 has no name");
    assert_has(&problems, "settings.zones.n1", "not a text");
    assert_has(&problems, "tags.sync_priority", "contradicts nosync");
    let too_strict = with("mode = \"strict\"\nk = 9\nk_min = 2", "");
    let problems = place.problems(&too_strict);
    assert_has(&problems, "settings.k", "at most 8");
    assert_has(
        &problems,
        "settings.k_min",
        "there are 1 standbys at most, every write would wait",
    );
}

#[test]
fn an_unknown_key_is_refused_with_its_line() {
    let place = Place::new();
    let text = place.good().replace("state_dir", "state_dri");
    match place.load(&text, NO_ENVIRONMENT) {
        Err(Error::Syntax { message, .. }) => {
            assert!(
                message.contains("state_dri") && message.contains("line 4"),
                "{message}"
            );
        }
        other => panic!("expected a syntax error, got {other:?}"),
    }
}

#[test]
fn two_voters_are_refused_until_it_is_accepted() {
    let place = Place::new();
    let text = as_this_user(place.good());
    let two = text
        .split("[[members]]\nname = \"w\"")
        .next()
        .expect("a first part");
    assert_has(&place.problems(two), "members", "two voters");
    let accept: Environment<'_> =
        &|name| (name == "CLUSTERD_ACCEPT_NO_FAILOVER").then(|| "1".to_owned());
    assert!(
        place
            .load(two, accept)
            .expect("accepted")
            .accept_no_failover
    );
}

#[test]
fn a_secret_file_open_to_all_is_refused() {
    let place = Place::new();
    fs::set_permissions(place.path("secret"), fs::Permissions::from_mode(0o644)).expect("chmod");
    let problems = place.problems(&place.good());
    assert_has(
        &problems,
        "security.cluster_secret_file",
        "open to every user, mode 0644",
    );
}

#[test]
fn the_environment_wins_and_no_secret_is_ever_shown() {
    let place = Place::new();
    let environment: Environment<'_> = &|name| match name {
        "CLUSTERD_REPLICATION_PASSWORD" => Some("from-the-environment".to_owned()),
        "CLUSTERD_ADMIN_TOKEN" => Some("token-of-sixteen-chars".to_owned()),
        _ => None,
    };
    let config = place
        .load(&as_this_user(place.good()), environment)
        .expect("loads");
    let postgres = config.postgres.as_ref().expect("a database");
    assert_eq!(
        postgres.replication.password.expose(),
        "from-the-environment"
    );
    let shown = format!("{config:?}\n{}", config.dump());
    for secret in [
        "from-the-environment",
        "token-of",
        "a-long-enough",
        "pass word",
    ] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
    assert!(
        config.dump().contains("admin_token = \"***\""),
        "{}",
        config.dump()
    );
}

#[test]
fn a_dump_is_a_config_file_again() {
    let place = Place::new();
    let config = place
        .load(&as_this_user(place.good()), NO_ENVIRONMENT)
        .expect("loads");
    let again = place
        .load(&config.dump(), NO_ENVIRONMENT)
        .expect("loads again");
    assert_eq!(again.dump(), config.dump());
}

#[test]
fn a_witness_has_no_postgresql() {
    let place = Place::new();
    let text = place.good().replace(
        "name = \"n1\"\nstate",
        "name = \"w\"\nkind = \"witness\"\nstate",
    );
    assert_has(
        &place.problems(&text),
        "postgres",
        "a witness has no PostgreSQL",
    );
    let before = text.split("[postgres]").next().expect("a first part");
    let after = text.split_once("[[members]]").expect("a list").1;
    let config = place
        .load(&format!("{before}[[members]]{after}"), NO_ENVIRONMENT)
        .expect("loads");
    assert!(config.postgres.is_none() && config.advertise.postgres.is_empty());
}

/// The keys of one table, as serde knows them.
fn keys_of<'de, T: serde::Deserialize<'de>>() -> BTreeSet<String> {
    use serde::de::{Deserializer, Error as _, Visitor, value::Error};

    struct Probe<'a>(&'a mut BTreeSet<String>);

    impl<'de> Deserializer<'de> for Probe<'_> {
        type Error = Error;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
            Err(Error::custom("not a table"))
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Error> {
            self.0.extend(fields.iter().map(|&field| field.to_owned()));
            Err(Error::custom("only the fields were wanted"))
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 u8 u16 u32 u64 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut keys = BTreeSet::new();
    assert!(
        T::deserialize(Probe(&mut keys)).is_err(),
        "the probe always stops"
    );
    assert!(!keys.is_empty());
    keys
}

#[test]
fn the_sample_documents_every_key_and_no_other() {
    use super::file::*;

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/clusterd.toml");
    let sample = fs::read_to_string(path).expect("the sample");
    let uncommented: Vec<&str> = sample
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if key.starts_with(|c: char| c.is_ascii_lowercase() || c == '[') => key,
            _ => line,
        })
        .collect();
    let text = uncommented.join("\n");
    toml::from_str::<File>(&text).expect("every line of the sample, uncommented, is accepted");
    let sample: toml::Table = text.parse().expect("TOML");
    let expect = |name: &str, table: &toml::Table, keys: BTreeSet<String>| {
        let shown: BTreeSet<String> = table.keys().cloned().collect();
        assert_eq!(
            shown, keys,
            "keys of [{name}] in config/clusterd.toml and in file.rs"
        );
    };
    expect("", &sample, keys_of::<File>());
    for (name, keys) in [
        ("listen", keys_of::<ListenTable>()),
        ("advertise", keys_of::<AdvertiseTable>()),
        ("security", keys_of::<SecurityTable>()),
        ("postgres", keys_of::<PostgresTable>()),
        ("guard", keys_of::<GuardTable>()),
        ("backup", keys_of::<BackupTable>()),
        ("callbacks", keys_of::<CallbacksTable>()),
        ("pgbouncer", keys_of::<PgbouncerTable>()),
        ("tags", keys_of::<TagsTable>()),
        ("log", keys_of::<LogTable>()),
        ("settings", keys_of::<SettingsTable>()),
    ] {
        expect(name, sample[name].as_table().expect("a table"), keys);
    }
    for (name, callback) in sample["callbacks"].as_table().expect("a table") {
        let callback = callback.as_table().expect("a table");
        expect(name, callback, keys_of::<CallbackTable>());
    }
    let webhook = sample["webhooks"][0].as_table().expect("a table");
    expect("webhooks", webhook, keys_of::<WebhookTable>());
    let member = sample["members"][0].as_table().expect("a table");
    expect("members", member, keys_of::<MemberTable>());
}

/// The defaults that the sample shows commented out are the defaults.
#[test]
fn the_sample_shows_the_true_defaults() {
    let defaults = toml::Table::try_from(file::File {
        postgres: Some(file::PostgresTable::default()),
        ..file::File::default()
    })
    .expect("serialises");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/clusterd.toml");
    let mut table = String::new();
    let mut checked = 0;
    for line in fs::read_to_string(path).expect("the sample").lines() {
        if let Some(name) = line.strip_prefix('[') {
            name.trim_matches(['[', ']']).clone_into(&mut table);
        }
        let Some(line) = line.strip_prefix('#').filter(|l| !l.starts_with(' ')) else {
            continue;
        };
        let Ok(one) = line.parse::<toml::Table>() else {
            continue;
        };
        let place = if table.is_empty() {
            Some(&defaults)
        } else {
            defaults.get(&table).and_then(|t| t.as_table())
        };
        for (key, value) in one {
            if let Some(default) = place.and_then(|place| place.get(&key)) {
                assert_eq!(*default, value, "default of [{table}] {key}");
                checked += 1;
            }
        }
    }
    assert!(checked > 25, "only {checked} defaults were compared");
}

#[test]
fn everything_wrong_about_the_repository_is_told_at_once() {
    let place = Place::new();
    let key = "age1lggyhqrw2nlhcxprm67z43rta597azn8gknawjehu9d9dl0jq3yqqvfafg";
    place.private(
        "store",
        "aws_endpiont = \"http://127.0.0.1:1\"\ncolour = \"hush\"\n",
    );
    let store = place.path("store").display().to_string();
    let table = format!(
        "[backup]\nrepository = \"s3://bucket/prefix\"\ncredentials = \"{store}\"\n\
         recipients = [\"{key}\", \"age1short\", \"AGE-SECRET-KEY-1HUSH\"]\nmax_rate = \"fast\"\n\
         binary = \"/nowhere/clusterd-backup\"\nidentity = \"/nowhere/key\"\n"
    );
    let good = format!("{}\n", place.good());
    let problems = place.problems(&(good.clone() + &table));
    assert_eq!(problems.len(), 7, "{problems:#?}");
    assert_has(&problems, "backup.identity", "/nowhere/key");
    assert_has(&problems, "backup.credentials", "aws_endpiont");
    assert_has(&problems, "backup.credentials", "colour");
    assert_has(&problems, "backup.recipients", "age1short");
    assert_has(&problems, "backup.recipients", "private key");
    assert_has(&problems, "backup.max_rate", "fast");
    assert_has(&problems, "backup.binary", "/nowhere");
    assert!(!problems.join("").to_lowercase().contains("hush"));

    let open = fs::Permissions::from_mode(0o640);
    fs::set_permissions(place.path("store"), open).expect("chmod");
    assert_has(
        &place.problems(&(good.clone() + &table)),
        "backup.credentials",
        "chmod 0600",
    );

    let with = |repository: &str| format!("{good}[backup]\nrepository = \"{repository}\"\n");
    for (repository, words) in [
        ("https://host/path", "only be read"),
        ("ftp://host/path", "no store of this kind"),
        ("relative", "relative"),
        ("", "missing"),
    ] {
        assert_has(
            &place.problems(&with(repository)),
            "backup.repository",
            words,
        );
    }

    place.private(
        "store",
        "aws_access_key_id = \"x\"\naws_secret_access_key = \"hush\"\n",
    );
    let table = format!(
        "[backup]\nrepository = \"s3://bucket/prefix\"\ncredentials = \"{store}\"\n\
         recipients = [\"{key}\"]\nmax_rate = \"50MB\"\n\
         read_credentials = \"{store}\"\nprune_credentials = \"{store}\"\nidentity = \"{store}\"\n"
    );
    let config = place
        .load(&(good + &table), NO_ENVIRONMENT)
        .expect("it will do");
    let backup = config.backup.as_ref().expect("one");
    assert_eq!(backup.options.recipients[0].as_str(), key);
    assert_eq!(backup.options.max_rate, Some(50 << 20));
    assert_eq!(backup.audit_interval, Duration::from_secs(600));
    for file in [
        &backup.read_credentials,
        &backup.prune_credentials,
        &backup.identity,
    ] {
        assert_eq!(file.as_deref(), Some(place.path("store").as_path()));
    }
    assert!(!format!("{config:?} {}", config.dump()).contains("hush"));
}

/// What `clusterctl import-patroni` makes is a config.
#[test]
fn a_config_made_from_a_patroni_file_loads() {
    for made in [
        include_str!("../../../ctl/tests/golden/import_patroni.toml"),
        include_str!("../../../ctl/tests/golden/import_patroni_dynamic.toml"),
    ] {
        let place = Place::new();
        for secret in ["replication", "rewind", "superuser"] {
            place.private(&format!("{secret}-password"), "a-long-enough-secret\n");
        }
        place.private("cluster-secret", "a-long-enough-secret\n");
        place.private("admin-token", "another-long-enough-secret\n");
        let here = place.dir.path().display().to_string();
        let text = made
            .replace("/etc/clusterd", &here)
            .replace("/usr/lib/postgresql/15/bin", &format!("{here}/bin"))
            .replace("[postgres]\n", "[postgres]\nos_user = \"nobody\"\n");
        let text = format!("state_dir = \"{here}/state\"\n{text}");
        let config = place
            .load(&as_this_user(text), NO_ENVIRONMENT)
            .expect("it will do");
        assert_eq!(config.name.as_str(), "pg-1");
        let postgres = config.postgres.as_ref().expect("one");
        assert_eq!((postgres.port, postgres.hba.len()), (5433, 2));
        assert_eq!(
            postgres.parameters["shared_preload_libraries"],
            "pg_stat_statements"
        );
    }
}

#[test]
fn everything_wrong_about_webhooks_is_told_at_once() {
    let place = Place::new();
    let file = place.good();
    let problems = place.problems(&format!(
        "{file}\n[[webhooks]]\nformat = \"smoke\"\nurl = \"ftp://a\"\nleast = \"all\"\n\
         [[webhooks]]\nname = \"b\"\nformat = \"pagerduty\"\n\
         [[webhooks]]\nname = \"b\"\n"
    ));
    assert_has(&problems, "webhooks[0].name", "missing");
    assert_has(&problems, "webhooks[0].format", "none of json");
    assert_has(&problems, "webhooks[0].url", "ftp://a");
    assert_has(&problems, "webhooks[0].least", "none of info");
    assert_has(&problems, "webhooks[1].key", "CLUSTERD_WEBHOOK_1_KEY");
    assert_has(&problems, "webhooks[2].name", "another one");
    assert_has(&problems, "webhooks[2].url", "no address");

    let text = format!(
        "{file}\n[[webhooks]]\nname = \"on-call\"\nformat = \"opsgenie\"\nkey = \"unsaid\"\n"
    );
    let config = place.load(&text, NO_ENVIRONMENT).expect("it will do");
    assert!(config.secrets().contains(&"unsaid".to_owned()));
    assert!(!config.dump().contains("unsaid"), "{}", config.dump());
    assert_eq!(config.webhooks[0].url, "https://api.opsgenie.com/v2/alerts");
}

#[test]
fn everything_wrong_about_pgbouncer_is_told_at_once() {
    let place = Place::new();
    let file = place.good();
    let problems = place.problems(&format!(
        "{file}\n[pgbouncer]\naddresses = [\"db\", \"a:6432\", \"a:6432\"]\nuser = \"\"\n\
         password = \"\"\npause_limit = \"11s\"\n"
    ));
    assert_has(&problems, "pgbouncer.addresses[0]", "db");
    assert_has(&problems, "pgbouncer.addresses[2]", "listed twice");
    assert_has(&problems, "pgbouncer.user", "admin_users");
    assert_has(&problems, "pgbouncer.password", "empty");
    assert_has(&problems, "pgbouncer.pause_limit", "10s");
    let none = place.problems(&format!("{file}\n[pgbouncer]\n"));
    assert_has(&none, "pgbouncer.addresses", "missing");

    let text = format!("{file}\n[pgbouncer]\naddresses = [\"a:6432\"]\npassword = \"known\"\n");
    let config = place.load(&text, NO_ENVIRONMENT).expect("it will do");
    assert!(config.secrets().contains(&"known".to_owned()));
    assert!(!config.dump().contains("known"), "{}", config.dump());
    let pgbouncer = config.pgbouncer.expect("it is there");
    assert_eq!(
        (pgbouncer.user.as_str(), pgbouncer.pause_limit.as_secs()),
        ("pgbouncer", 3)
    );
}

#[test]
fn everything_wrong_about_callbacks_is_told_at_once() {
    let place = Place::new();
    let program = |name: &str, mode: u32| {
        let path = place.path(name);
        fs::write(&path, "#!/bin/sh\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("set");
        path.display().to_string()
    };
    let (good, plain, open) = (
        program("good", 0o755),
        program("plain", 0o644),
        program("open", 0o757),
    );
    let file = place.good();
    let problems = place.problems(&format!(
        "{file}\n[callbacks.on_start]\ncommand = [\"{plain}\"]\n\
         [callbacks.on_stop]\ncommand = [\"{open}\"]\n\
         [callbacks.on_restart]\ncommand = [\"told\"]\n\
         [callbacks.on_role_change]\n\
         [callbacks.on_reload]\ncommand = [\"/nowhere/told\"]\ntime_limit = \"soon\"\n\
         [callbacks.before_stop]\ncommand = [\"{good}\"]\ntime_limit = \"21s\"\n"
    ));
    assert_has(&problems, "callbacks.on_start.command", "no program");
    assert_has(&problems, "callbacks.on_stop.command", "every user");
    assert_has(&problems, "callbacks.on_restart.command", "relative");
    assert_has(&problems, "callbacks.on_role_change.command", "empty");
    assert_has(&problems, "callbacks.on_reload.command", "/nowhere/told");
    assert_has(&problems, "callbacks.on_reload.time_limit", "soon");
    assert_has(&problems, "callbacks.before_stop.time_limit", "20s");

    let text = format!(
        "{file}\n[callbacks.post_activate]\ncommand = [\"{good}\", \"first\"]\n\
         [callbacks.before_stop]\ncommand = [\"{good}\"]\n"
    );
    let config = place.load(&text, NO_ENVIRONMENT).expect("it will do");
    let limits = ["post_activate", "before_stop"].map(|name| config.callbacks[name].time_limit);
    assert_eq!(limits.map(|limit| limit.as_secs()), [60, 10]);
    assert_eq!(config.callbacks["post_activate"].command, [&good, "first"]);

    let unknown = format!("{file}\n[callbacks.on_whim]\ncommand = [\"{good}\"]\n");
    let refused = place
        .load(&unknown, NO_ENVIRONMENT)
        .expect_err("no such callback");
    assert!(refused.to_string().contains("on_whim"), "{refused}");
}
