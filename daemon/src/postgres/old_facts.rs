//! Everything a take-over must know of the old server, read in one session. Changes nothing.
//!
//! Values are the ones in force, whatever file they came from; only a recovery target is looked for
//! in the files, because there it waits for the next start.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::old_pace::{self, OldPace};
use super::old_server::OldServer;
use super::old_standby::{self, OldStandby};
use super::sql::Session;
use super::version::Major;
use super::{Error, durable_file};

/// One statement; sizes of many databases may take a while.
pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// A parameter somebody has set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldParameter {
    /// Its name.
    pub name: String,
    /// Its value, in the parameter's own unit.
    pub value: String,
    /// Where it was set; none on the command line.
    pub file: Option<PathBuf>,
}

/// A role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldRole {
    /// Its name.
    pub name: String,
    /// It is a superuser.
    pub is_superuser: bool,
    /// It may log in.
    pub can_login: bool,
}

/// A replication slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldSlot {
    /// Its name.
    pub name: String,
    /// Logical slots are not on the standbys.
    pub is_logical: bool,
    /// Somebody streams through it now.
    pub is_active: bool,
}

/// The old server, as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OldFacts {
    /// `server_version_num`.
    pub version_number: u32,
    /// `server_version`.
    pub version: String,
    /// Of the control file.
    pub system_identifier: u64,
    /// Size of all databases. Unit: bytes.
    pub bytes: u64,
    /// WAL since the last checkpoint began. Unit: bytes.
    pub since_checkpoint_bytes: u64,
    /// It is a standby.
    pub is_in_recovery: bool,
    /// Pages carry checksums.
    pub has_checksums: bool,
    /// `wal_log_hints`.
    pub has_wal_log_hints: bool,
    /// `wal_level`.
    pub wal_level: String,
    /// The configured superuser really is one.
    pub is_superuser: bool,
    /// `config_file`.
    pub config_file: PathBuf,
    /// `hba_file`.
    pub hba_file: PathBuf,
    /// Recovery targets in its files.
    pub recovery_targets: Vec<String>,
    /// Parameters set in files or on the command line.
    pub parameters: Vec<OldParameter>,
    /// Lines of `pg_hba.conf`.
    pub hba: Vec<String>,
    /// Lines of `pg_ident.conf`.
    pub ident: Vec<String>,
    /// Replication slots.
    pub slots: Vec<OldSlot>,
    /// Tablespaces: name and place.
    pub tablespaces: Vec<(String, PathBuf)>,
    /// Roles, without PostgreSQL's own.
    pub roles: Vec<OldRole>,
    /// Prepared transactions.
    pub prepared: u32,
    /// Who streams from it: application name and address.
    pub standbys: Vec<String>,
    /// Where it is, if it is a standby.
    pub standby: Option<OldStandby>,
    /// How busy it is, if it is a primary.
    pub pace: OldPace,
    /// Unlogged tables, as `database.schema.table`: a start in recovery empties them.
    pub unlogged: Vec<String>,
}

impl OldFacts {
    /// Its major version.
    pub fn major(&self) -> u32 {
        self.version_number / 10_000
    }
}

const GENERAL: &str = "SELECT current_setting('server_version_num')::int4 AS number, \
  current_setting('server_version') AS version, \
  (SELECT system_identifier FROM pg_control_system()) AS identifier, \
  (SELECT coalesce(sum(pg_database_size(oid)), 0)::int8 FROM pg_database) AS bytes, \
  CASE WHEN pg_is_in_recovery() THEN 0 ELSE \
    (pg_current_wal_lsn() - (SELECT redo_lsn FROM pg_control_checkpoint()))::int8 END AS since, \
  pg_is_in_recovery() AS recovering, current_setting('data_checksums') = 'on' AS checksums, \
  current_setting('wal_log_hints') = 'on' AS hints, current_setting('wal_level') AS wal_level, \
  (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser, \
  current_setting('config_file') AS config_file, current_setting('hba_file') AS hba_file, \
  current_setting('ident_file') AS ident_file, \
  (SELECT count(*)::int4 FROM pg_prepared_xacts) AS prepared";

const PARAMETERS: &str = "SELECT name, setting, sourcefile FROM pg_settings \
  WHERE source IN ('configuration file', 'command line', 'environment variable') \
    AND context <> 'internal' ORDER BY name";

/// What the files say of recovery targets; the last line of a name is the one that counts.
const RECOVERY_TARGETS: &str = "SELECT DISTINCT ON (name) name, setting FROM pg_file_settings \
  WHERE name LIKE 'recovery\\_target%' ORDER BY name, seqno DESC";

const SLOTS: &str = "SELECT slot_name::text, slot_type = 'logical', active \
  FROM pg_replication_slots WHERE NOT temporary ORDER BY slot_name";

const TABLESPACES: &str = "SELECT spcname::text, pg_tablespace_location(oid) FROM pg_tablespace \
  WHERE pg_tablespace_location(oid) <> '' ORDER BY spcname";

const ROLES: &str = "SELECT rolname::text, rolsuper, rolcanlogin FROM pg_roles \
  WHERE rolname !~ '^pg_' ORDER BY rolname";

const STANDBYS: &str = "SELECT application_name || coalesce(' at ' || host(client_addr), '') \
  FROM pg_stat_replication ORDER BY 1";

const DATABASES: &str = "SELECT datname::text FROM pg_database WHERE datallowconn \
  ORDER BY datname";

const UNLOGGED: &str = "SELECT current_database() || '.' || oid::regclass::text FROM pg_class \
  WHERE relpersistence = 'u' AND relkind = 'r' ORDER BY 1 LIMIT 100";

impl OldServer {
    /// Reads everything.
    ///
    /// # Errors
    /// No session as `superuser`, a statement or a file failed.
    pub async fn facts(&self, superuser: &str) -> Result<OldFacts, Error> {
        let session = self.connect(superuser).await?;
        let row = session.query_one(LIMIT, GENERAL, &[]).await?;
        let path = |column: &str| PathBuf::from(row.get::<_, String>(column));
        let hba_file = path("hba_file");
        let mut facts = OldFacts {
            version_number: unsigned(row.get::<_, i32>("number")),
            version: row.get("version"),
            // A number above 2^63 is shown as a negative one.
            system_identifier: row.get::<_, i64>("identifier").cast_unsigned(),
            bytes: row.get::<_, i64>("bytes").max(0).cast_unsigned(),
            since_checkpoint_bytes: row.get::<_, i64>("since").max(0).cast_unsigned(),
            is_in_recovery: row.get("recovering"),
            has_checksums: row.get("checksums"),
            has_wal_log_hints: row.get("hints"),
            wal_level: row.get("wal_level"),
            is_superuser: row.get("superuser"),
            config_file: path("config_file"),
            hba: lines_of(&hba_file)?,
            hba_file,
            ident: lines_of(&path("ident_file"))?,
            prepared: unsigned(row.get::<_, i32>("prepared")),
            ..OldFacts::default()
        };
        facts.lists(&session).await?;
        if facts.is_in_recovery {
            facts.standby = Some(old_standby::read(&session, self.data_dir()).await?);
        } else {
            facts.pace = old_pace::read(&session, Major(facts.major())).await?;
            for row in session.query(LIMIT, DATABASES, &[]).await? {
                let one = self.connect_to(superuser, row.get(0)).await?;
                let found = one.query(LIMIT, UNLOGGED, &[]).await?;
                facts
                    .unlogged
                    .extend(found.iter().map(|row| row.get::<_, String>(0)));
            }
        }
        Ok(facts)
    }
}

impl OldFacts {
    async fn lists(&mut self, session: &Session) -> Result<(), Error> {
        for row in session.query(LIMIT, PARAMETERS, &[]).await? {
            self.parameters.push(OldParameter {
                name: row.get(0),
                value: row.get::<_, Option<String>>(1).unwrap_or_default(),
                file: row.get::<_, Option<String>>(2).map(PathBuf::from),
            });
        }
        for row in session.query(LIMIT, RECOVERY_TARGETS, &[]).await? {
            let (name, value): (String, String) = (row.get(0), row.get(1));
            let says_nothing = match name.as_str() {
                "recovery_target_timeline" => value == "latest",
                "recovery_target_action" | "recovery_target_inclusive" => true,
                _ => value.is_empty(),
            };
            if !says_nothing {
                self.recovery_targets.push(format!("{name} = '{value}'"));
            }
        }
        for row in session.query(LIMIT, SLOTS, &[]).await? {
            self.slots.push(OldSlot {
                name: row.get(0),
                is_logical: row.get(1),
                is_active: row.get(2),
            });
        }
        for row in session.query(LIMIT, TABLESPACES, &[]).await? {
            let place: String = row.get(1);
            self.tablespaces.push((row.get(0), PathBuf::from(place)));
        }
        for row in session.query(LIMIT, ROLES, &[]).await? {
            self.roles.push(OldRole {
                name: row.get(0),
                is_superuser: row.get(1),
                can_login: row.get(2),
            });
        }
        for row in session.query(LIMIT, STANDBYS, &[]).await? {
            self.standbys.push(row.get(0));
        }
        Ok(())
    }
}

/// The lines of a file that say something.
fn lines_of(path: &Path) -> Result<Vec<String>, Error> {
    let text = durable_file::read(path)?.unwrap_or_default();
    let says = |line: &&str| !line.is_empty() && !line.starts_with('#');
    Ok(text
        .lines()
        .map(str::trim)
        .filter(says)
        .map(str::to_owned)
        .collect())
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}
