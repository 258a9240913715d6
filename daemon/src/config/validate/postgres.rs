//! The table `[postgres]`: places, roles, what a new cluster is made with, what clients are let in by.

use std::collections::BTreeMap;
use std::path::Path;

use cluster_core::model::{MemberKind, parameters};
use nix::unistd::{Uid, User};

use super::super::file::{File, PostgresTable};
use super::super::{AppConfig, PostgresConfig, ReplicationTls, RoleConfig};
use super::security::SecretSource;
use super::{Check, scalar};

/// Programs that must be in `bin_dir`.
pub(crate) const PROGRAMS: [&str; 6] = [
    "postgres",
    "initdb",
    "pg_basebackup",
    "pg_rewind",
    "pg_controldata",
    "psql",
];

/// First words of a line of `pg_hba.conf`.
const HBA_WORDS: [&str; 6] = [
    "local",
    "host",
    "hostssl",
    "hostnossl",
    "hostgssenc",
    "hostnogssenc",
];

/// Encodings that a database can be stored in. Source: PostgreSQL's documentation, "Character Set
/// Support"; the same in 13 to 18.
const ENCODINGS: &str = "EUC_CN EUC_JIS_2004 EUC_JP EUC_KR EUC_TW ISO_8859_5 ISO_8859_6 ISO_8859_7 \
    ISO_8859_8 KOI8R KOI8U LATIN1 LATIN2 LATIN3 LATIN4 LATIN5 LATIN6 LATIN7 LATIN8 LATIN9 LATIN10 \
    MULE_INTERNAL SQL_ASCII UTF8 WIN866 WIN874 WIN1250 WIN1251 WIN1252 WIN1253 WIN1254 WIN1255 \
    WIN1256 WIN1257 WIN1258";

/// libpq's `sslmode`.
const SSL_MODES: [&str; 6] = [
    "disable",
    "allow",
    "prefer",
    "require",
    "verify-ca",
    "verify-full",
];

impl Check<'_> {
    pub(super) fn postgres_of(
        &mut self,
        file: &mut File,
        kind: MemberKind,
    ) -> Option<PostgresConfig> {
        let state_dir = file.state_dir.clone();
        match (kind, &mut file.postgres) {
            (MemberKind::Database, Some(table)) => self.postgres(table, &state_dir),
            (MemberKind::Database, None) => {
                self.problem(
                    "postgres",
                    "missing (a member of kind database needs this table)",
                );
                None
            }
            (MemberKind::Witness, Some(_)) => {
                self.problem(
                    "postgres",
                    "a witness has no PostgreSQL (remove this table)",
                );
                None
            }
            (MemberKind::Witness, None) => None,
        }
    }

    fn postgres(&mut self, table: &mut PostgresTable, state_dir: &Path) -> Option<PostgresConfig> {
        self.directories(table, state_dir);
        let os_user = self.os_user(table.os_user.as_deref());
        table.os_user = Some(os_user.clone());
        let superuser_password = self.secret(SecretSource {
            key: "postgres.superuser_password",
            variable: "CLUSTERD_SUPERUSER_PASSWORD",
            inline: &mut table.superuser_password,
            file: &table.superuser_password_file,
        });
        let replication = self.role(
            table.replication_user.clone(),
            SecretSource {
                key: "postgres.replication_password",
                variable: "CLUSTERD_REPLICATION_PASSWORD",
                inline: &mut table.replication_password,
                file: &table.replication_password_file,
            },
        );
        let rewind = self.role(
            table.rewind_user.clone(),
            SecretSource {
                key: "postgres.rewind_password",
                variable: "CLUSTERD_REWIND_PASSWORD",
                inline: &mut table.rewind_password,
                file: &table.rewind_password_file,
            },
        );
        let app = self.app(table);
        self.role_names(table);
        self.hba(&table.hba);
        let wal_segment_mb = self.wal_segment(&table.wal_segment_size);
        let divergent_wal_cap_bytes =
            self.bytes("postgres.divergent_wal_cap", &table.divergent_wal_cap);
        let clone_rate_kb = self.clone_rate(table.clone_rate_limit.as_deref());
        let parameters = self.parameters("postgres.parameters", &table.parameters);
        if table.listen.iter().any(|address| address.trim().is_empty()) {
            self.problem(
                "postgres.listen",
                "holds an empty address (\"*\" is every address)",
            );
        }
        if !ENCODINGS
            .split_whitespace()
            .any(|known| known == table.encoding)
        {
            let text = format!("`{}` is no server encoding ({ENCODINGS})", table.encoding);
            self.problem("postgres.encoding", text);
        }
        let socket_dir = table
            .socket_dir
            .get_or_insert_with(|| state_dir.join("socket"))
            .clone();
        Some(PostgresConfig {
            bin_dir: table.bin_dir.clone(),
            data_dir: table.data_dir.clone(),
            wal_dir: table.wal_dir.clone(),
            socket_dir,
            listen: table.listen.clone(),
            port: table.port,
            os_user,
            superuser: table.superuser.clone(),
            superuser_password,
            replication: replication?,
            rewind: rewind?,
            app,
            locale: table.locale.clone(),
            encoding: table.encoding.clone(),
            wal_segment_mb,
            hba: table.hba.clone(),
            parameters,
            replication_tls: self.replication_tls(table),
            clone_in_place: table.clone_in_place,
            divergent_wal_cap_bytes,
            clone_rate_kb,
        })
    }

    fn directories(&mut self, table: &PostgresTable, state_dir: &Path) {
        self.absolute("postgres.bin_dir", &table.bin_dir);
        if table.bin_dir.is_absolute() {
            let missing: Vec<&str> = PROGRAMS
                .into_iter()
                .filter(|program| !table.bin_dir.join(program).is_file())
                .collect();
            if !missing.is_empty() {
                let text = format!(
                    "{} has no {} ({})",
                    table.bin_dir.display(),
                    missing.join(", "),
                    installed_hint()
                );
                self.problem("postgres.bin_dir", text);
            }
        }
        self.absolute("postgres.data_dir", &table.data_dir);
        let outside = "never inside the data directory: a clone or rewind would carry it away";
        if !table.data_dir.as_os_str().is_empty() && state_dir.starts_with(&table.data_dir) {
            self.problem("state_dir", format!("inside postgres.data_dir ({outside})"));
        }
        if let Some(wal_dir) = &table.wal_dir {
            self.absolute("postgres.wal_dir", wal_dir);
            if wal_dir.starts_with(&table.data_dir) {
                self.problem(
                    "postgres.wal_dir",
                    format!("inside postgres.data_dir ({outside})"),
                );
            }
        }
        if let Some(socket_dir) = &table.socket_dir {
            self.absolute("postgres.socket_dir", socket_dir);
        }
        let socket = table
            .socket_dir
            .clone()
            .unwrap_or_else(|| state_dir.join("socket"));
        // `sun_path` holds 107 bytes and a NUL; PostgreSQL appends `/.s.PGSQL.65535`.
        if socket.as_os_str().len() + "/.s.PGSQL.65535".len() > 107 {
            self.problem(
                "postgres.socket_dir",
                format!(
                    "{} is too long for a Unix socket (at most 92 bytes)",
                    socket.display()
                ),
            );
        }
    }

    fn os_user(&mut self, given: Option<&str>) -> String {
        let me = Uid::effective();
        let current = User::from_uid(me).ok().flatten().map(|user| user.name);
        let wanted = match given {
            Some(name) => name.to_owned(),
            None if me.is_root() => "postgres".to_owned(),
            None => current.clone().unwrap_or_else(|| "postgres".to_owned()),
        };
        match User::from_name(&wanted) {
            Ok(Some(user)) if user.uid.is_root() => {
                self.problem("postgres.os_user", "PostgreSQL refuses root (name another user)");
            }
            Ok(Some(user)) if !me.is_root() && user.uid != me => self.problem(
                "postgres.os_user",
                format!(
                    "only root can run PostgreSQL as {wanted} (start clusterd as root or as {wanted})"
                ),
            ),
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => self.problem(
                "postgres.os_user",
                format!("there is no user `{wanted}` on this host (create it or name another)"),
            ),
        }
        wanted
    }

    fn role(&mut self, name: String, source: SecretSource<'_>) -> Option<RoleConfig> {
        let key = source.key;
        let variable = source.variable;
        let has_file = source.file.is_some();
        let password = self.secret(source);
        if password.is_none() && !has_file {
            self.problem(key, format!("missing (set {key}_file, or {variable})"));
        }
        Some(RoleConfig {
            name,
            password: password?,
        })
    }

    fn app(&mut self, table: &mut PostgresTable) -> Option<AppConfig> {
        let (Some(database), Some(user)) = (table.app_database.clone(), table.app_user.clone())
        else {
            if table.app_database.is_some() || table.app_user.is_some() {
                self.problem(
                    "postgres.app_database",
                    "app_database and app_user go together",
                );
            }
            return None;
        };
        let owner = self.role(
            user,
            SecretSource {
                key: "postgres.app_password",
                variable: "CLUSTERD_APP_PASSWORD",
                inline: &mut table.app_password,
                file: &table.app_password_file,
            },
        );
        Some(AppConfig {
            database,
            owner: owner?,
        })
    }

    fn role_names(&mut self, table: &PostgresTable) {
        let mut named = vec![
            ("postgres.superuser", table.superuser.as_str()),
            ("postgres.replication_user", table.replication_user.as_str()),
            ("postgres.rewind_user", table.rewind_user.as_str()),
        ];
        if let Some(user) = &table.app_user {
            named.push(("postgres.app_user", user));
        }
        for (place, (key, name)) in named.iter().enumerate() {
            if name.is_empty() || name.len() > 63 || name.starts_with("pg_") {
                self.problem(
                    key,
                    format!("`{name}` is no role name (1 to 63 bytes, not pg_…)"),
                );
            }
            if let Some((other, _)) = named[..place].iter().find(|(_, earlier)| earlier == name) {
                self.problem(
                    key,
                    format!("the same role as {other} (each needs its own)"),
                );
            }
        }
    }

    fn hba(&mut self, lines: &[String]) {
        for (place, line) in lines.iter().enumerate() {
            let key = format!("postgres.hba[{place}]");
            let first = line.split_whitespace().next().unwrap_or_default();
            if line.contains('\n') {
                self.problem(&key, "holds a line break (one entry a line)");
            } else if !first.starts_with('#') && !HBA_WORDS.contains(&first) {
                self.problem(
                    &key,
                    format!(
                        "`{line}` is no line of pg_hba.conf (host all all 10.0.0.0/8 scram-sha-256)"
                    ),
                );
            }
        }
    }

    fn wal_segment(&mut self, text: &str) -> u32 {
        let bytes = self.bytes("postgres.wal_segment_size", text);
        let megabytes = u32::try_from(bytes >> 20).unwrap_or(0);
        let is_valid =
            bytes == u64::from(megabytes) << 20 && megabytes.is_power_of_two() && megabytes <= 1024;
        if bytes != 0 && !is_valid {
            self.problem(
                "postgres.wal_segment_size",
                format!("`{text}` is no segment size (a power of two from 1MB to 1024MB)"),
            );
        }
        megabytes
    }

    fn clone_rate(&mut self, text: Option<&str>) -> Option<u32> {
        let bytes = self.bytes("postgres.clone_rate_limit", text?);
        // Source: pg_basebackup --max-rate takes 32 kB to 1024 MB a second.
        let kilobytes = u32::try_from(bytes >> 10).unwrap_or(u32::MAX);
        if bytes == 0 {
            return None;
        }
        if !(32..=1 << 20).contains(&kilobytes) {
            self.problem(
                "postgres.clone_rate_limit",
                "out of range (32kB to 1GB a second)",
            );
        }
        Some(kilobytes)
    }

    fn replication_tls(&mut self, table: &PostgresTable) -> ReplicationTls {
        if let Some(mode) = &table.sslmode
            && !SSL_MODES.contains(&mode.as_str())
        {
            let text = format!("`{mode}` is no sslmode ({})", SSL_MODES.join(", "));
            self.problem("postgres.sslmode", text);
        }
        let files = [
            ("postgres.ssl_cert", &table.ssl_cert),
            ("postgres.ssl_key", &table.ssl_key),
            ("postgres.ssl_ca", &table.ssl_ca),
        ];
        for (key, path) in files {
            if let Some(path) = path {
                self.readable(key, path);
            }
        }
        if table.ssl_cert.is_some() != table.ssl_key.is_some() {
            self.problem("postgres.ssl_cert", "ssl_cert and ssl_key go together");
        }
        if table
            .sslmode
            .as_ref()
            .is_some_and(|m| m.starts_with("verify"))
            && table.ssl_ca.is_none()
        {
            self.problem("postgres.ssl_ca", "missing (sslmode verify-… needs it)");
        }
        ReplicationTls {
            sslmode: table.sslmode.clone(),
            certificate: table.ssl_cert.clone(),
            key: table.ssl_key.clone(),
            authority: table.ssl_ca.clone(),
        }
    }

    pub(super) fn parameters(
        &mut self,
        table: &str,
        written: &BTreeMap<String, toml::Value>,
    ) -> BTreeMap<String, String> {
        let mut found = BTreeMap::new();
        for (name, value) in written {
            let key = format!("{table}.{name}");
            let name = name.to_ascii_lowercase();
            match scalar(value) {
                Some(text) => {
                    if let Some(why) = parameters::problem(&name, &text) {
                        self.problem(&key, why);
                    }
                    found.insert(name, text);
                }
                None => self.problem(&key, "not a single value (a text, a number or true/false)"),
            }
        }
        found
    }
}

/// Where PostgreSQL's programs usually are, as found on this host.
fn installed_hint() -> String {
    let mut found: Vec<String> = Vec::new();
    for root in ["/usr/lib/postgresql", "/usr"] {
        let Ok(entries) = std::fs::read_dir(root) else {
            continue;
        };
        for entry in entries.flatten() {
            let is_candidate =
                root != "/usr" || entry.file_name().to_string_lossy().starts_with("pgsql-");
            let bin = entry.path().join("bin");
            if is_candidate && bin.join("postgres").is_file() {
                found.push(bin.display().to_string());
            }
        }
    }
    found.sort();
    if found.is_empty() {
        "install PostgreSQL and name the directory of its programs".to_owned()
    } else {
        format!("here: {}", found.join(", "))
    }
}
