//! From Patroni's words to ours. What cannot be carried over is told with what to do about it; nothing is
//! dropped in silence.

use std::collections::BTreeMap;

use cluster_core::model::{MemberName, parameters};
use toml::{Table, Value};

use super::source::Source;

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Translated {
    /// `clusterd.toml`.
    pub config: Table,
    /// Secrets, by the name of the file that the config looks for below `/etc/clusterd`.
    pub secrets: BTreeMap<String, String>,
    /// To be run once the cluster has formed.
    pub commands: Vec<String>,
    /// What is not carried over: the place, and what to do.
    pub left: Vec<(String, String)>,
    /// What will not do at all.
    pub problems: Vec<String>,
}

/// Where the files lie on the host.
pub const FOLDER: &str = "/etc/clusterd";

/// One member of the cluster to be: its name and where its gRPC listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: MemberName,
    /// `host:port`.
    pub peer: String,
    /// It only votes.
    pub is_witness: bool,
}

/// Translates one member's file. `dynamic` is what `patronictl show-config` prints; without it, what the
/// cluster was bootstrapped with.
pub fn translate(mut file: Source, dynamic: Option<Source>, members: &[Listed]) -> Translated {
    let mut it = Translated::default();
    it.names(&mut file, members);
    let mut bootstrap = file.map("bootstrap");
    let dcs = bootstrap.map("dcs");
    let mut dynamic = dynamic.unwrap_or(dcs);
    let mut postgresql = file.map("postgresql");
    let mut shared = dynamic.map("postgresql");
    it.listeners(&mut file, &mut postgresql);
    it.postgres(&mut postgresql);
    it.hba(&mut postgresql, &mut shared, &mut bootstrap);
    it.parameters(&mut postgresql, &mut shared);
    it.initdb(&mut bootstrap);
    it.settings(&mut dynamic);
    it.tags(&mut file.map("tags"));
    it.log(&mut file.map("log"));
    it.watchdog(&mut file.map("watchdog"));
    it.not_needed(&mut file, &mut postgresql, &mut shared, &mut dynamic);
    it.not_there(&mut postgresql, &mut shared, &mut dynamic, &mut bootstrap);
    for rest in [&file, &bootstrap, &postgresql, &dynamic, &shared] {
        for place in rest.left() {
            it.leave(
                &place,
                "not known here: look whether anything depends on it",
            );
        }
    }
    it
}

impl Translated {
    fn put(&mut self, table: &str, key: &str, value: impl Into<Value>) {
        let mut place = &mut self.config;
        for name in table.split('.').filter(|name| !name.is_empty()) {
            let next = place.entry(name).or_insert_with(|| Table::new().into());
            match next {
                Value::Table(next) => place = next,
                _ => return,
            }
        }
        place.insert(key.to_owned(), value.into());
    }

    fn get(&self, table: &str, key: &str) -> Option<&Value> {
        let mut place = &self.config;
        for name in table.split('.') {
            place = place.get(name)?.as_table()?;
        }
        place.get(key)
    }

    fn leave(&mut self, place: &str, what: impl Into<String>) {
        self.left.push((place.to_owned(), what.into()));
    }

    fn problem(&mut self, text: String) {
        self.problems.push(text);
    }

    fn names(&mut self, file: &mut Source, members: &[Listed]) {
        match file.text("scope") {
            Some(scope) => {
                let name = our_name(&scope);
                if name != scope {
                    self.leave("scope", format!("`{scope}` is no name here: `{name}`"));
                }
                self.put("", "cluster", name);
            }
            None => self.problem("scope: missing".to_owned()),
        }
        let name = file.text("name").unwrap_or_default();
        let own = our_name(&name);
        if own != name {
            self.leave("name", format!("`{name}` is no name here: `{own}`"));
        }
        if !members.iter().any(|member| member.name.as_str() == own) {
            self.problem(format!(
                "name: `{own}` is not among --members (every member, this one included)"
            ));
        }
        self.put("", "name", own);
        let list = members.iter().map(|member| {
            let mut entry = Table::new();
            entry.insert("name".into(), member.name.to_string().into());
            let kind = if member.is_witness {
                "witness"
            } else {
                "database"
            };
            entry.insert("kind".into(), kind.into());
            entry.insert("peer".into(), member.peer.clone().into());
            Value::Table(entry)
        });
        let list: Vec<Value> = list.collect();
        self.put("", "members", list);
        let file = |name: &str| format!("{FOLDER}/{name}");
        self.put("security", "cluster_secret_file", file("cluster-secret"));
        self.put("security", "admin_token_file", file("admin-token"));
        // As the units in the package have it.
        self.put("guard", "started_by", "service");
        self.put("guard", "socket", "/run/clusterd/guard.sock");
    }

    fn listeners(&mut self, file: &mut Source, postgresql: &mut Source) {
        let mut restapi = file.map("restapi");
        if let Some(listen) = restapi.text("listen") {
            self.put("listen", "http", listen);
        }
        if let Some(address) = restapi.text("connect_address") {
            self.put("advertise", "http", address);
        }
        if let Some(address) = postgresql.text("connect_address") {
            self.put("advertise", "postgres", with_port(&address, "5432"));
        }
        if let Some(listen) = postgresql.text("listen") {
            let (hosts, port) = listen.rsplit_once(':').unwrap_or((&listen, "5432"));
            let hosts: Vec<Value> = hosts.split(',').map(|host| host.trim().into()).collect();
            self.put("postgres", "listen", hosts);
            match port.parse::<i64>() {
                Ok(port) => self.put("postgres", "port", port),
                Err(_) => self.problem(format!("postgresql.listen: `{port}` is no port")),
            }
        }
        let files = ["certfile", "keyfile", "cafile"].map(|key| restapi.text(key));
        match files {
            [Some(cert), Some(key), Some(authority)] => {
                self.put("security", "tls_cert", cert);
                self.put("security", "tls_key", key);
                self.put("security", "tls_ca", authority);
            }
            [None, None, None] => {}
            _ => self.leave(
                "restapi.certfile",
                "TLS needs certificate, key and authority, and is for members and clusterctl as well: \
                 security.tls_cert, tls_key, tls_ca",
            ),
        }
        let verify = restapi.text("verify_client");
        if let Some(verify) = verify.filter(|it| it != "none" && it != "off") {
            if verify == "required" {
                self.put("security", "client_auth", true);
            }
            self.leave(
                "restapi.verify_client",
                "HTTP asks no client for a certificate; gRPC does with security.client_auth",
            );
        }
        if restapi.drop("authentication") {
            self.leave(
                "restapi.authentication",
                "a token takes its place: security.admin_token_file; scripts send `Authorization: Bearer TOKEN`",
            );
        }
        for place in restapi.left() {
            self.leave(&place, "has no counterpart");
        }
        file.drop("ctl");
    }

    fn postgres(&mut self, postgresql: &mut Source) {
        for (theirs, ours) in [("data_dir", "data_dir"), ("bin_dir", "bin_dir")] {
            match postgresql.text(theirs) {
                Some(value) => self.put("postgres", ours, value),
                None => self.problem(format!(
                    "postgresql.{theirs}: missing, and there is no default here"
                )),
            }
        }
        let mut roles = postgresql.map("authentication");
        for (role, user, file) in [
            ("superuser", "superuser", "superuser-password"),
            ("replication", "replication_user", "replication-password"),
            ("rewind", "rewind_user", "rewind-password"),
        ] {
            let mut found = roles.map(role);
            if let Some(name) = found.text("username") {
                self.put("postgres", user, name);
            }
            if let Some(password) = found.text("password") {
                let key = format!("{}_file", file.replace('-', "_"));
                self.put("postgres", &key, format!("{FOLDER}/{file}"));
                self.secrets.insert(file.to_owned(), password);
            } else if role != "superuser" {
                self.problem(format!(
                    "postgresql.authentication.{role}.password: missing; members need one over TCP. Write \
                     one into a copy of this file, the same for every host, and import that: clusterd gives it to \
                     the role, which it makes if it is not there (postgres.{}_file)",
                    file.replace('-', "_")
                ));
            }
            for (theirs, ours) in [
                ("sslmode", "sslmode"),
                ("sslcert", "ssl_cert"),
                ("sslkey", "ssl_key"),
                ("sslrootcert", "ssl_ca"),
            ] {
                if let Some(value) = found.text(theirs)
                    && role == "replication"
                {
                    self.put("postgres", ours, value);
                }
            }
            for place in found.left() {
                self.leave(&place, "has no counterpart");
            }
        }
    }

    fn hba(&mut self, postgresql: &mut Source, shared: &mut Source, bootstrap: &mut Source) {
        let mut lines = postgresql.list("pg_hba");
        if lines.is_empty() {
            lines = shared.list("pg_hba");
        }
        if lines.is_empty() {
            lines = bootstrap.list("pg_hba");
        }
        shared.drop("pg_hba");
        bootstrap.drop("pg_hba");
        let replication = self.get("postgres", "replication_user");
        let replication = replication.and_then(Value::as_str).unwrap_or("replicator");
        let is_members = |line: &String| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let has = |place: usize, wanted: &[&str]| {
                let list = words.get(place).copied().unwrap_or_default();
                list.split(',')
                    .all(|it| wanted.contains(&it.trim_matches('"')))
            };
            has(1, &["replication"]) && has(2, &["all", replication])
        };
        let (theirs, ours): (Vec<String>, Vec<String>) = lines.into_iter().partition(is_members);
        for line in theirs {
            let text = format!("`{line}`: clusterd lets its members in by itself");
            self.leave("postgresql.pg_hba", text);
        }
        let ours: Vec<Value> = ours.into_iter().map(Value::from).collect();
        self.put("postgres", "hba", ours);
    }

    /// Where local clients look for the server: it stays there.
    fn socket(&mut self, own: &mut Source, all: &mut Source) {
        const NAME: &str = "unix_socket_directories";
        let place = own.place_of(NAME);
        let (own, all) = (own.text(NAME), all.text(NAME));
        let Some(list) = own.or(all) else {
            self.leave(
                &place,
                "is not set, so the socket is where PostgreSQL was built to have it (Debian: \
                 /var/run/postgresql). Clusterd's is below its state_dir: set postgres.socket_dir if local \
                 clients come over it",
            );
            return;
        };
        let mut each = list.split(',').map(str::trim).filter(|it| !it.is_empty());
        match each.next() {
            Some(first) if first.starts_with('/') => self.put("postgres", "socket_dir", first),
            Some(first) => self.leave(
                &place,
                format!(
                    "`{first}` is no absolute path: the socket will be below state_dir; set postgres.socket_dir \
                     if local clients come over it"
                ),
            ),
            None => self.leave(&place, "is empty: there will be a socket, below state_dir"),
        }
        for other in each {
            self.leave(
                &place,
                format!("`{other}`: one directory only, postgres.socket_dir"),
            );
        }
    }

    fn parameters(&mut self, postgresql: &mut Source, shared: &mut Source) {
        let (mut own, mut all) = (postgresql.map("parameters"), shared.map("parameters"));
        self.socket(&mut own, &mut all);
        let (own, all) = (own.texts(), all.texts());
        self.parameters_into("postgres.parameters", own, false);
        self.parameters_into("settings.parameters", all, true);
        for (theirs, ours) in [
            ("parameters_primary", "primary"),
            ("parameters_replica", "standby"),
        ] {
            for (name, value) in shared.map(theirs).texts() {
                match parameters::problem_from_afar(&name, &value) {
                    None => self.commands.push(format!(
                        "clusterctl settings set {}",
                        quoted(&format!("{ours}.parameters.{name}={value}"))
                    )),
                    Some(why) => self.leave(&format!("postgresql.{theirs}.{name}"), why),
                }
            }
            for (name, _) in postgresql.map(theirs).texts() {
                self.leave(
                    &format!("postgresql.{theirs}.{name}"),
                    format!("is for the whole cluster here: clusterctl settings set {ours}.parameters.{name}=…"),
                );
            }
        }
    }

    fn parameters_into(&mut self, table: &str, found: Vec<(String, String)>, is_shared: bool) {
        for (name, value) in found {
            let place = if is_shared {
                format!("postgresql.parameters.{name} (shared)")
            } else {
                format!("postgresql.parameters.{name}")
            };
            match parameters::problem(&name, &value) {
                Some(why) => self.leave(&place, why),
                None if is_shared && parameters::names_a_program(&name) => {
                    self.leave(
                        &place,
                        "names a program or library: it is in [postgres.parameters], the same in every member's file",
                    );
                    // What the file itself says has been put already, and wins, as with Patroni.
                    if self.get("postgres.parameters", &name).is_none() {
                        self.put("postgres.parameters", &name, value);
                    }
                }
                None => self.put(table, &name, value),
            }
        }
    }

    fn initdb(&mut self, bootstrap: &mut Source) {
        for option in bootstrap.list("initdb") {
            match option.split_once(": ") {
                Some(("encoding", value)) => self.put("postgres", "encoding", value),
                Some(("locale", value)) => self.put("postgres", "locale", value),
                None if option == "data-checksums" => {}
                _ => self.leave("bootstrap.initdb", format!("`{option}` is not passed on")),
            }
        }
    }

    fn settings(&mut self, dynamic: &mut Source) {
        if let Some(lag) = dynamic.text("maximum_lag_on_failover") {
            let value = match lag.parse::<u64>() {
                Ok(bytes) => cluster_core::model::units::show_bytes(bytes),
                Err(_) => lag,
            };
            self.put("settings", "maximum_lag_on_failover", value);
        }
        let count = dynamic.text("synchronous_node_count");
        let k = count.and_then(|it| it.parse::<i64>().ok()).unwrap_or(1);
        let is_strict = dynamic.switch("synchronous_mode_strict") == Some(true);
        let mode = dynamic.text("synchronous_mode").unwrap_or_default();
        match mode.to_ascii_lowercase().as_str() {
            "on" | "true" | "quorum" if is_strict => {
                self.put("settings", "mode", "strict");
                self.put("settings", "k", k);
                self.put("settings", "k_min", 1);
            }
            "on" | "true" | "quorum" => {
                self.put("settings", "mode", "sync");
                self.put("settings", "k", k);
            }
            _ => {
                self.put("settings", "mode", "async");
                self.leave(
                    "synchronous_mode",
                    "is off, so commits wait for nobody here either and a failover may lose the last of \
                     them; `clusterctl settings set mode=sync` ends that",
                );
            }
        }
        for key in ["ttl", "loop_wait", "retry_timeout"] {
            if let Some(value) = dynamic.text(key) {
                self.leave(
                    key,
                    format!("{value}: times come as a whole, preset `lan` (a lease of 3 s) unless set otherwise"),
                );
            }
        }
    }

    fn tags(&mut self, tags: &mut Source) {
        for name in ["nofailover", "noloadbalance", "clonefrom", "nosync"] {
            if let Some(value) = tags.switch(name) {
                self.put("tags", name, value);
            }
        }
        for name in ["failover_priority", "sync_priority"] {
            if let Some(value) = tags.text(name).and_then(|it| it.parse::<i64>().ok()) {
                self.put("tags", name, value);
            }
        }
        for name in ["replicatefrom", "nostream"] {
            if tags.drop(name) {
                self.leave(
                    &format!("tags.{name}"),
                    "is not there yet: every standby streams from the primary",
                );
            }
        }
        for (name, value) in tags.texts() {
            self.put("tags.custom", &name, value);
        }
        for place in tags.left() {
            self.leave(&place, "is not a single value");
        }
    }

    fn log(&mut self, log: &mut Source) {
        if let Some(level) = log.text("level") {
            let ours = match level.to_ascii_uppercase().as_str() {
                "DEBUG" => "debug",
                "WARNING" => "warn",
                "ERROR" | "CRITICAL" => "error",
                _ => "info",
            };
            self.put("log", "level", ours);
        }
        if log.text("type").is_some_and(|it| it == "json") {
            self.put("log", "format", "json");
        }
        for place in log.left() {
            self.leave(
                &place,
                "lines go to stderr, for the journal or whoever keeps them",
            );
        }
    }

    fn watchdog(&mut self, watchdog: &mut Source) {
        let mode = watchdog.text("mode").unwrap_or_default();
        let device = watchdog.text("device");
        if mode == "required" || mode == "automatic" {
            let device = device.unwrap_or_else(|| "/dev/watchdog".to_owned());
            self.leave(
                "watchdog",
                format!("clusterd-guard stops PostgreSQL without one; if you want it as well: guard.watchdog = \"{device}\""),
            );
        }
        watchdog.drop("safety_margin");
    }

    /// What other parts of ours do, or what only an outside store needed.
    fn not_needed(
        &mut self,
        file: &mut Source,
        postgresql: &mut Source,
        shared: &mut Source,
        dynamic: &mut Source,
    ) {
        for key in [
            "etcd",
            "etcd3",
            "consul",
            "zookeeper",
            "exhibitor",
            "kubernetes",
            "raft",
            "namespace",
            "thread_pool_size",
            "thread_stack_size",
        ] {
            file.drop(key);
        }
        for source in [&mut *postgresql, &mut *shared] {
            for key in [
                "use_pg_rewind",
                "use_slots",
                "use_unix_socket",
                "use_unix_socket_repl",
                "pgpass",
                "remove_data_directory_on_rewind_failure",
                "remove_data_directory_on_diverged_timelines",
                "pg_ctl_timeout",
            ] {
                source.drop(key);
            }
        }
        for key in [
            "failsafe_mode",
            "check_timeline",
            "primary_race_backoff",
            "max_timelines_history",
            "primary_start_timeout",
            "primary_stop_timeout",
            "master_start_timeout",
            "master_stop_timeout",
            "maximum_lag_on_syncnode",
        ] {
            dynamic.drop(key);
        }
        if dynamic.switch("pause") == Some(true) {
            self.leave("pause", "the new cluster begins unpaused");
        }
    }

    /// What we do not have.
    fn not_there(
        &mut self,
        postgresql: &mut Source,
        shared: &mut Source,
        dynamic: &mut Source,
        bootstrap: &mut Source,
    ) {
        let not_yet = "is not there yet";
        for source in [postgresql, shared] {
            for (key, what) in [
                ("callbacks", "programs go into [callbacks]: docs/hooks.md"),
                (
                    "create_replica_methods",
                    "clones are made with pg_basebackup",
                ),
                (
                    "basebackup",
                    "options of clones: postgres.clone_rate_limit is there",
                ),
                ("pg_ident", not_yet),
                (
                    "custom_conf",
                    "the configuration is clusterd's: parameters go into [postgres.parameters]",
                ),
                (
                    "config_dir",
                    "the configuration is clusterd's, below state_dir",
                ),
                (
                    "recovery_conf",
                    "recovery is clusterd's; backups are in [backup]",
                ),
                ("pre_promote", not_yet),
                ("before_stop", "it goes into [callbacks]: docs/hooks.md"),
                ("proxy_address", not_yet),
                (
                    "bin_name",
                    "programs have their own names, in postgres.bin_dir",
                ),
                ("krbsrvname", not_yet),
            ] {
                if source.drop(key) {
                    let place = source.place_of(key);
                    self.leave(&place, what);
                }
            }
        }
        for (key, what) in [
            (
                "slots",
                "permanent slots are not there yet: those of today stay on the primary, and a failover leaves \
                 them behind",
            ),
            (
                "ignore_slots",
                "slots that clusterd did not make are left alone",
            ),
            ("standby_cluster", not_yet),
            ("member_slots_ttl", not_yet),
        ] {
            if dynamic.drop(key) {
                self.leave(key, what);
            }
        }
        for (key, what) in [
            ("method", "only for a new cluster; yours has data"),
            ("post_bootstrap", "only for a new cluster; yours has data"),
            ("post_init", "only for a new cluster; yours has data"),
            ("users", "only for a new cluster; yours has data"),
        ] {
            if bootstrap.drop(key) {
                self.leave(&format!("bootstrap.{key}"), what);
            }
        }
    }
}

/// A name as we have them: lower case, digits and hyphens, a letter first.
pub fn our_name(name: &str) -> String {
    let plain: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let plain = plain.trim_matches('-');
    let begins_well = plain.starts_with(|c: char| c.is_ascii_lowercase());
    let name = if begins_well {
        plain.to_owned()
    } else {
        format!("m-{plain}")
    };
    name.chars().take(31).collect()
}

fn with_port(address: &str, port: &str) -> String {
    if address.contains(':') {
        address.to_owned()
    } else {
        format!("{address}:{port}")
    }
}

/// For a shell.
fn quoted(text: &str) -> String {
    let is_plain = text
        .chars()
        .all(|c| c.is_ascii_alphanumeric() || "._=-,/:".contains(c));
    if is_plain {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}
