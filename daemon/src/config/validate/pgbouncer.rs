//! `[pgbouncer]`.

use std::time::Duration;

use cluster_core::model::MemberKind;

use super::super::PgbouncerConfig;
use super::super::file::PgbouncerTable;
use super::Check;
use super::security::SecretSource;

/// Its own name for whoever may do everything.
const USER: &str = "pgbouncer";
/// Transactions of a web application end within it. A switchover waits no longer.
const PAUSE_LIMIT: Duration = Duration::from_secs(3);
/// The step of a switchover that it delays may take 30 s.
const LONGEST: Duration = Duration::from_secs(10);

impl Check<'_> {
    pub(super) fn pgbouncer(
        &mut self,
        table: &mut PgbouncerTable,
        kind: MemberKind,
    ) -> PgbouncerConfig {
        if kind == MemberKind::Witness {
            let text = "a witness hands no primary over (leave the table out)";
            self.problem("pgbouncer", text);
        }
        if table.addresses.is_empty() {
            self.problem("pgbouncer.addresses", "missing (a list of \"host:port\")");
        }
        for (place, address) in table.addresses.iter().enumerate() {
            let key = format!("pgbouncer.addresses[{place}]");
            self.address(&key, address);
            if table.addresses[..place].contains(address) {
                self.problem(&key, format!("`{address}` is listed twice"));
            }
        }
        let user = table.user.clone().unwrap_or_else(|| USER.to_owned());
        if user.is_empty() {
            self.problem("pgbouncer.user", "empty (one of PgBouncer's admin_users)");
        }
        let password = self.secret(SecretSource {
            key: "pgbouncer.password",
            variable: "CLUSTERD_PGBOUNCER_PASSWORD",
            inline: &mut table.password,
            file: &table.password_file,
        });
        let mut pause_limit = PAUSE_LIMIT;
        if let Some(text) = &table.pause_limit {
            pause_limit = self.duration("pgbouncer.pause_limit", text);
            let shortest = Duration::from_millis(100);
            if !(shortest..=LONGEST).contains(&pause_limit) {
                let text = format!("not between 100ms and {}s", LONGEST.as_secs());
                self.problem("pgbouncer.pause_limit", text);
            }
        }
        PgbouncerConfig {
            addresses: table.addresses.clone(),
            user,
            password,
            pause_limit,
        }
    }
}
