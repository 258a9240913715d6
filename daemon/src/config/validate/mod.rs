//! From the file as written to [`Config`]: every problem is collected, each as
//! `key: what is wrong (what would do)`.
//!
//! The one surprise: a bad value never stops the check. A stand-in takes its place so that the rest
//! can be looked at; the stand-ins never leave this file, because a single problem refuses all.

mod backup;
mod callbacks;
mod pgbouncer;
pub(super) mod postgres;
mod security;
mod webhooks;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use cluster_core::model::lease::Preset;
use cluster_core::model::settings::Mode;
use cluster_core::model::{
    Addresses, ClusterName, MemberKind, MemberName, RecoverySettings, Recurrence, Settings, Tags,
};

use super::file::{File, GuardTable, SettingsTable};
use super::{
    CgroupConfig, Config, Environment, GuardConfig, GuardStarter, ListedMember, Listen, LogConfig,
    LogFormat, PostgresConfig, units,
};

/// Turns the file into a config.
///
/// # Errors
/// Every problem, as `key: what is wrong (what would do)`.
pub fn check(mut file: File, environment: Environment<'_>) -> Result<Config, Vec<String>> {
    let mut check = Check {
        environment,
        problems: Vec::new(),
    };
    if environment("CLUSTERD_ACCEPT_NO_FAILOVER").is_some_and(|value| value == "1") {
        file.accept_no_failover = true;
    }
    let cluster: ClusterName = check.name("cluster", &file.cluster, "nobody");
    let name: MemberName = check.name("name", &file.name, "nobody");
    let kind = check.kind("kind", &file.kind);
    check.absolute("state_dir", &file.state_dir);
    let members = check.members(&file, &name, kind);
    let listen = Listen {
        grpc: check.listen("listen.grpc", &file.listen.grpc),
        http: check.listen("listen.http", &file.listen.http),
    };
    let security = check.security(&mut file.security);
    let postgres = check.postgres_of(&mut file, kind);
    let own_peer = members
        .iter()
        .find(|m| m.name == name)
        .map(|m| m.peer.clone());
    let advertise = check.advertise(&file, own_peer, listen, postgres.as_ref());
    check.ports(listen, postgres.as_ref());
    let guard = check.guard(&file.guard, &file.state_dir);
    let backup = file.backup.as_ref().map(|table| check.backup(table));
    let callbacks = check.callbacks(file.callbacks.as_ref(), kind);
    let pgbouncer = file.pgbouncer.as_mut();
    let pgbouncer = pgbouncer.map(|table| check.pgbouncer(table, kind));
    let webhooks = check.webhooks(&mut file.webhooks);
    let tags = check.tags(&file);
    let log = check.log(&file);
    let settings = check.settings(&file.settings, &file.preset, &members);
    if !check.problems.is_empty() {
        return Err(check.problems);
    }
    Ok(Config {
        cluster,
        name,
        kind,
        state_dir: file.state_dir.clone(),
        members,
        accept_no_failover: file.accept_no_failover,
        listen,
        advertise,
        security,
        postgres,
        guard,
        backup,
        callbacks,
        pgbouncer,
        webhooks,
        tags,
        log,
        settings,
        effective: file,
    })
}

/// Why a file with a secret in it is open to others, if it is.
pub fn too_open(path: &Path) -> Option<String> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode();
    (mode & 0o007 != 0).then(|| {
        format!(
            "{} holds a secret and is open to every user, mode {:04o} (chmod 0600 it)",
            path.display(),
            mode & 0o7777
        )
    })
}

struct Check<'a> {
    environment: Environment<'a>,
    problems: Vec<String>,
}

impl Check<'_> {
    fn problem(&mut self, key: &str, text: impl std::fmt::Display) {
        self.problems.push(format!("{key}: {text}"));
    }

    fn name<T: FromStr>(&mut self, key: &str, text: &str, stand_in: &str) -> T
    where
        T::Err: std::fmt::Display,
    {
        if text.is_empty() {
            self.problem(key, "missing (a name: lower-case letters, digits, hyphens)");
        } else if let Err(error) = text.parse::<T>() {
            self.problem(key, error);
        }
        text.parse().ok().unwrap_or_else(|| {
            let fixed = stand_in.parse().ok();
            fixed.expect("the stand-in is a valid name")
        })
    }

    fn kind(&mut self, key: &str, text: &str) -> MemberKind {
        match text {
            "database" => MemberKind::Database,
            "witness" => MemberKind::Witness,
            other => {
                self.problem(key, format!("`{other}` is no kind (database or witness)"));
                MemberKind::Database
            }
        }
    }

    fn absolute(&mut self, key: &str, path: &Path) {
        if path.as_os_str().is_empty() {
            self.problem(key, "missing (an absolute directory)");
        } else if !path.is_absolute() {
            self.problem(
                key,
                format!("`{}` is relative (an absolute path)", path.display()),
            );
        } else if path.exists() && !path.is_dir() {
            self.problem(key, format!("{} is not a directory", path.display()));
        }
    }

    fn readable(&mut self, key: &str, path: &Path) {
        if !path.is_absolute() {
            self.problem(
                key,
                format!("`{}` is relative (an absolute path)", path.display()),
            );
        } else if let Err(error) = std::fs::File::open(path) {
            self.problem(key, format!("{} cannot be read: {error}", path.display()));
        }
    }

    /// A file that only its owner, or its group, may read.
    fn private(&mut self, key: &str, path: &Path) {
        self.readable(key, path);
        if let Some(why) = too_open(path) {
            self.problem(key, why);
        }
    }

    fn listen(&mut self, key: &str, text: &str) -> SocketAddr {
        text.parse().unwrap_or_else(|_| {
            self.problem(
                key,
                format!(
                    "`{text}` is not an address (write it as \"0.0.0.0:8009\" or \"[::]:8009\")"
                ),
            );
            SocketAddr::from(([0, 0, 0, 0], 0))
        })
    }

    fn address(&mut self, key: &str, text: &str) {
        if let Err(why) = units::host_port(text) {
            self.problem(key, why);
        }
    }

    fn duration(&mut self, key: &str, text: &str) -> Duration {
        units::duration(text).unwrap_or_else(|why| {
            self.problem(key, why);
            Duration::ZERO
        })
    }

    fn bytes(&mut self, key: &str, text: &str) -> u64 {
        units::bytes(text).unwrap_or_else(|why| {
            self.problem(key, why);
            0
        })
    }

    fn members(&mut self, file: &File, name: &MemberName, kind: MemberKind) -> Vec<ListedMember> {
        let mut members: Vec<ListedMember> = Vec::new();
        if file.members.is_empty() {
            self.problem(
                "members",
                "missing (list every first member, this one included)",
            );
            return members;
        }
        for (place, written) in file.members.iter().enumerate() {
            let key = |field: &str| format!("members[{place}].{field}");
            let listed = ListedMember {
                name: self.name(&key("name"), &written.name, "nobody"),
                kind: self.kind(&key("kind"), &written.kind),
                peer: written.peer.clone(),
            };
            self.address(&key("peer"), &written.peer);
            for other in &members {
                if other.name == listed.name {
                    self.problem(&key("name"), format!("`{}` is listed twice", other.name));
                }
                if other.peer == listed.peer {
                    let text = format!("`{}` is also the address of {}", other.peer, other.name);
                    self.problem(&key("peer"), text);
                }
            }
            members.push(listed);
        }
        members.sort_by(|a, b| a.name.cmp(&b.name));
        match members.iter().find(|member| member.name == *name) {
            None => self.problem("members", format!("`{name}` itself is missing in the list")),
            Some(own) if own.kind != kind => {
                self.problem("kind", "differs from this member's entry in members");
            }
            Some(_) => {}
        }
        if members
            .iter()
            .all(|member| member.kind == MemberKind::Witness)
        {
            self.problem(
                "members",
                "only witnesses (at least one has kind = \"database\")",
            );
        }
        if members.len() == 2 && !file.accept_no_failover {
            self.problem(
                "members",
                "two voters: the loss of either stops all writes and nobody is promoted (add a \
                 third member or a witness, or set accept_no_failover = true)",
            );
        }
        members
    }

    fn advertise(
        &mut self,
        file: &File,
        own_peer: Option<String>,
        listen: Listen,
        postgres: Option<&PostgresConfig>,
    ) -> Addresses {
        let given = &file.advertise;
        let peer = given.peer.clone().or(own_peer).unwrap_or_default();
        let host = units::host_port(&peer)
            .map(|(host, _)| host)
            .unwrap_or_default();
        let beside = |port: u16| format!("{host}:{port}");
        for (key, text) in [
            ("advertise.peer", &given.peer),
            ("advertise.http", &given.http),
            ("advertise.postgres", &given.postgres),
        ] {
            if let Some(text) = text {
                self.address(key, text);
            }
        }
        Addresses {
            http: given
                .http
                .clone()
                .unwrap_or_else(|| beside(listen.http.port())),
            postgres: match (postgres, &given.postgres) {
                (None, _) => String::new(),
                (Some(_), Some(text)) => text.clone(),
                (Some(postgres), None) => beside(postgres.port),
            },
            peer,
        }
    }

    fn ports(&mut self, listen: Listen, postgres: Option<&PostgresConfig>) {
        let mut taken = vec![
            ("listen.grpc", listen.grpc.port()),
            ("listen.http", listen.http.port()),
        ];
        taken.extend(postgres.map(|postgres| ("postgres.port", postgres.port)));
        for (place, (key, port)) in taken.iter().enumerate() {
            if let Some((other, _)) = taken[..place].iter().find(|(_, earlier)| earlier == port) {
                self.problem(
                    key,
                    format!("port {port} is also that of {other} (choose another)"),
                );
            }
            if *port == 0 && *key == "postgres.port" {
                self.problem(key, "port 0 is no port (1 to 65535)");
            }
        }
    }

    fn guard(&mut self, table: &GuardTable, state_dir: &Path) -> GuardConfig {
        let started_by = match table.started_by.as_str() {
            "daemon" => GuardStarter::Daemon,
            "service" => GuardStarter::Service,
            other => {
                let text = format!("`{other}` is nobody who starts it (daemon or service)");
                self.problem("guard.started_by", text);
                GuardStarter::Daemon
            }
        };
        if let Some(binary) = &table.binary {
            self.readable("guard.binary", binary);
        }
        if let Some(socket) = &table.socket
            && !socket.is_absolute()
        {
            self.problem("guard.socket", "relative (an absolute path)");
        }
        let cgroup = match table.cgroup.as_str() {
            "auto" => CgroupConfig::Auto,
            "none" => CgroupConfig::None,
            path => {
                if !Path::new(path).join("cgroup.procs").exists() {
                    let text = format!("{path} is no cgroup v2 directory (auto, none, or a path)");
                    self.problem("guard.cgroup", text);
                }
                CgroupConfig::Below(path.into())
            }
        };
        if table.realtime_priority > 99 {
            self.problem(
                "guard.realtime_priority",
                "above 99 (1 to 99; 0 asks for none)",
            );
        }
        if let Some(device) = &table.watchdog
            && !device.exists()
        {
            self.problem(
                "guard.watchdog",
                format!("{} does not exist", device.display()),
            );
        }
        let watchdog_timeout = self.duration("guard.watchdog_timeout", &table.watchdog_timeout);
        if watchdog_timeout.subsec_nanos() != 0 {
            self.problem("guard.watchdog_timeout", "devices count in whole seconds");
        }
        GuardConfig {
            started_by,
            binary: table.binary.clone(),
            socket: table
                .socket
                .clone()
                .unwrap_or_else(|| state_dir.join("guard.sock")),
            cgroup,
            realtime_priority: table.realtime_priority,
            watchdog: table.watchdog.clone(),
            watchdog_timeout,
        }
    }

    fn tags(&mut self, file: &File) -> Tags {
        let written = &file.tags;
        let mut custom = BTreeMap::new();
        for (name, value) in &written.custom {
            match scalar(value) {
                Some(text) => drop(custom.insert(name.clone(), text)),
                None => self.problem(&format!("tags.custom.{name}"), "not a single value"),
            }
        }
        if written.nofailover
            && written
                .failover_priority
                .is_some_and(|priority| priority > 0)
        {
            self.problem(
                "tags.failover_priority",
                "contradicts nofailover = true (keep one)",
            );
        }
        if written.nosync && written.sync_priority.is_some_and(|priority| priority > 0) {
            self.problem("tags.sync_priority", "contradicts nosync = true (keep one)");
        }
        Tags {
            nofailover: written.nofailover,
            failover_priority: written.failover_priority,
            noloadbalance: written.noloadbalance,
            clonefrom: written.clonefrom,
            nosync: written.nosync,
            sync_priority: written.sync_priority,
            custom,
        }
    }

    fn log(&mut self, file: &File) -> LogConfig {
        let format = match file.log.format.as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => {
                self.problem(
                    "log.format",
                    format!("`{other}` is no format (text or json)"),
                );
                LogFormat::Text
            }
        };
        let level = file.log.level.clone();
        if let Err(error) = tracing_subscriber::EnvFilter::builder().parse(&level) {
            self.problem(
                "log.level",
                format!("`{level}`: {error} (error, warn, info, debug, trace)"),
            );
        }
        LogConfig { format, level }
    }

    fn settings(
        &mut self,
        table: &SettingsTable,
        preset: &str,
        members: &[ListedMember],
    ) -> Settings {
        let preset = preset.parse().unwrap_or_else(|why: String| {
            self.problem("preset", why);
            Preset::Lan
        });
        let mode = table.mode.parse().unwrap_or_else(|why: String| {
            self.problem("settings.mode", why);
            Mode::default()
        });
        let backup_schedule = table.backup_schedule.parse().unwrap_or_else(|why: String| {
            self.problem("settings.backup_schedule", why);
            Recurrence::Off
        });
        let zones = self.zones(&table.zones);
        let milliseconds =
            |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let lag = "settings.maximum_lag_on_failover";
        let settings = Settings {
            preset,
            mode,
            k: table.k,
            k_min: table.k_min,
            zones,
            members: BTreeMap::new(),
            maximum_lag_on_failover_bytes: self.bytes(lag, &table.maximum_lag_on_failover),
            seal_patience_ms: milliseconds(
                self.duration("settings.seal_patience", &table.seal_patience),
            ),
            probe_limit_ms: milliseconds(self.duration("settings.probe_limit", &table.probe_limit)),
            keep_standby_sessions: table.keep_standby_sessions,
            backup_schedule,
            recovery: RecoverySettings::default(),
            parameters: self.parameters("settings.parameters", &table.parameters),
            primary_parameters: BTreeMap::new(),
            standby_parameters: BTreeMap::new(),
        };
        let kinds = members
            .iter()
            .map(|member| (member.name.clone(), member.kind))
            .collect();
        let found = settings.problems_among(&kinds).into_iter();
        self.problems
            .extend(found.map(|text| format!("settings.{text}")));
        settings
    }

    fn zones(&mut self, written: &BTreeMap<String, toml::Value>) -> BTreeMap<MemberName, String> {
        let mut zones = BTreeMap::new();
        for (name, value) in written {
            let key = format!("settings.zones.{name}");
            match (name.parse(), value) {
                (Ok(member), toml::Value::String(zone)) => {
                    drop(zones.insert(member, zone.clone()));
                }
                (Err(why), _) => self.problem(&key, format!("{why}")),
                (Ok(_), _) => self.problem(&key, "not a text (any name of a place)"),
            }
        }
        zones
    }
}

impl File {
    /// Whether a secret is written in the file itself.
    pub(super) fn holds_secrets(&self) -> bool {
        let security = &self.security;
        security.cluster_secret.is_some()
            || security.admin_token.is_some()
            || self.postgres.as_ref().is_some_and(|table| {
                table.superuser_password.is_some()
                    || table.replication_password.is_some()
                    || table.rewind_password.is_some()
                    || table.app_password.is_some()
            })
    }
}

fn scalar(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(value) => Some(if *value { "on" } else { "off" }.to_owned()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}
