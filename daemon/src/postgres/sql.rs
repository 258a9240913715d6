//! Every statement we send, and the connection it goes over.
//!
//! All sessions are over the Unix socket, with `synchronous_commit = local`: with a fence name in
//! force a session of ours would otherwise wait for ever (DESIGN 5.9). Every call has a limit.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, NoTls, Row, Statement};

use super::{Error, Postgres, lock};

/// One session. Dropping it ends it.
pub(super) struct Session {
    client: Client,
    /// Statements the server has parsed and planned already: the same few are asked many times a
    /// second.
    prepared: Mutex<HashMap<String, Statement>>,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Session {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Everything `observe` needs in one row; see `status` for the columns.
pub(super) const OBSERVE: &str = "\
SELECT r.recovering, \
  (extract(epoch FROM pg_postmaster_start_time()) * 1000)::int8 AS started, \
  CASE WHEN r.recovering THEN (pg_last_wal_receive_lsn() - '0/0')::int8 END AS received, \
  CASE WHEN r.recovering THEN (pg_last_wal_replay_lsn() - '0/0')::int8 END AS replayed, \
  CASE WHEN r.recovering THEN pg_is_wal_replay_paused() END AS paused, \
  current_setting('recovery_min_apply_delay') <> '0' AS delayed, \
  (extract(epoch FROM pg_last_xact_replay_timestamp()) * 1000)::int8 AS replayed_at, \
  (extract(epoch FROM clock_timestamp() - pg_last_xact_replay_timestamp()) * 1000)::int8 AS delay, \
  (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup') AS startup_wait, \
  (SELECT pid FROM pg_stat_activity WHERE backend_type = 'walreceiver' LIMIT 1) AS receiver_seen, \
  current_setting('primary_conninfo') AS conninfo, \
  w.pid AS receiver_pid, w.status AS receiver_status, w.received_tli AS receiver_timeline, \
  (w.flushed_lsn - '0/0')::int8 AS receiver_flushed, \
  (w.latest_end_lsn - '0/0')::int8 AS receiver_latest_end, \
  CASE WHEN NOT r.recovering THEN substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8) END \
    AS timeline, \
  CASE WHEN NOT r.recovering THEN (pg_current_wal_flush_lsn() - '0/0')::int8 END AS flushed, \
  current_setting('synchronous_standby_names') AS sync_names, \
  (SELECT count(*) FROM pg_prepared_xact()) AS prepared, \
  (SELECT (extract(epoch FROM clock_timestamp() - min(xact_start)) * 1000)::int8 \
     FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()) \
    AS oldest \
FROM (SELECT pg_is_in_recovery() AS recovering) r LEFT JOIN pg_stat_wal_receiver w ON true";

/// What the startup process waits for.
pub(super) const STARTUP_WAIT: &str = "\
SELECT (SELECT wait_event FROM pg_stat_activity WHERE backend_type = 'startup') AS startup_wait, \
  CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END AS paused";

/// The values in force of the parameters that a promotion may find too low.
pub(super) const RECOVERY_PARAMETERS_IN_FORCE: &str = "\
SELECT name, setting::int8 AS value FROM pg_settings WHERE name = ANY($1)";

/// Replay goes on, whoever paused it.
pub(super) const RESUME_REPLAY: &str = "SELECT pg_wal_replay_resume()";

/// Whether it is in recovery, whether it has anybody to follow, and the last restartpoint's timeline.
pub(super) const IS_SEALED: &str = "SELECT pg_is_in_recovery() AS recovering, \
  (SELECT timeline_id FROM pg_control_checkpoint()) AS timeline, \
  current_setting('primary_conninfo') <> '' OR current_setting('restore_command') <> '' AS follows, \
  coalesce((pg_last_wal_replay_lsn() - '0/0')::int8, 0) AS ended, \
  (SELECT setting::int8 FROM pg_settings WHERE name = 'wal_segment_size') AS segment";

/// The walsenders.
pub(super) const SENDERS: &str = "\
SELECT application_name, usename::text AS usename, coalesce(host(client_addr), '') AS client, state, \
  sync_state, sync_priority, coalesce((sent_lsn - '0/0')::int8, 0) AS sent, \
  coalesce((flush_lsn - '0/0')::int8, 0) AS flushed, \
  coalesce((replay_lsn - '0/0')::int8, 0) AS replayed, \
  (extract(epoch FROM backend_start) * 1000)::int8 AS started, pid, slot_name::text AS slot \
FROM pg_stat_replication LEFT JOIN pg_replication_slots ON active_pid = pid";

/// Our walsenders' slots and whether they are in use.
pub(super) const SLOTS: &str = "\
SELECT slot_name::text AS slot_name, active, (restart_lsn - '0/0')::int8 AS restart, \
  wal_status FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary";

/// Ends every session of a client, walsenders and our own excepted.
pub(super) const END_CLIENT_SESSIONS: &str = "\
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
WHERE backend_type = 'client backend' AND application_name <> 'clusterd' AND pid <> pg_backend_pid()";

/// Parameters whose new value waits for a start.
pub(super) const PENDING_RESTART: &str = "\
SELECT name, current_setting(name) AS value, boot_val AS default FROM pg_settings \
WHERE pending_restart ORDER BY name";

/// Which server this is, and since when.
pub(super) const SERVER_START: &str = "\
SELECT current_setting('server_version') AS version, \
  (extract(epoch FROM pg_postmaster_start_time()) * 1000)::int8 AS started";

/// Managed parameters whose value comes from a file that is not ours.
pub(super) const FOREIGN_SETTINGS: &str = "\
SELECT name FROM pg_settings WHERE name = ANY($1) AND sourcefile IS NOT NULL AND sourcefile <> $2";

/// The rule in force by the configuration, and when that was read.
pub(super) const RULE_GIVEN: &str = "\
SELECT current_setting('clusterd.rule', true) AS rule, \
  ceil(extract(epoch FROM pg_conf_load_time()) * 1000)::int8 AS loaded";

/// Who lowers `synchronous_commit` below what the mode promises: files of the server, roles and
/// databases, functions of the database this is asked in, and sessions by the statement they ran last.
/// `is_momentary`: seen only while it ran.
pub(super) const COMMIT_OVERRIDES: &str = "\
WITH low AS (SELECT '^synchronous_commit=(off?|local|remote_write|f(a(lse?|l)?)?|no?|0)$' AS pattern) \
SELECT 'every session (' || f.sourcefile || '): synchronous_commit=' || f.setting AS line, \
  false AS is_momentary \
FROM pg_file_settings f, low \
WHERE f.applied AND 'synchronous_commit=' || lower(f.setting) ~ low.pattern \
  AND lower(f.name) = 'synchronous_commit' \
UNION SELECT coalesce('role ' || quote_ident(r.rolname), 'everybody') \
  || coalesce(' in ' || quote_ident(d.datname), '') || ': ' || c.setting, false \
FROM low, pg_db_role_setting s \
  CROSS JOIN LATERAL unnest(s.setconfig) AS c(setting) \
  LEFT JOIN pg_roles r ON r.oid = s.setrole LEFT JOIN pg_database d ON d.oid = s.setdatabase \
WHERE lower(c.setting) ~ low.pattern \
UNION SELECT 'function ' || p.oid::regprocedure || ' in ' || quote_ident(current_database()) \
  || ': ' || c.setting, false \
FROM low, pg_proc p CROSS JOIN LATERAL unnest(p.proconfig) AS c(setting) \
WHERE lower(c.setting) ~ low.pattern \
UNION SELECT 'a session' || coalesce(' of ' || quote_ident(a.usename), '') \
  || coalesce(' in ' || quote_ident(a.datname), '') || ': synchronous_commit=' \
  || lower(coalesce(m.found[1], m.found[2])), true \
FROM pg_stat_activity a CROSS JOIN LATERAL regexp_match(a.query, \
  '(?:^|;)\\s*set\\s+(?:session\\s+|local\\s+)?synchronous_commit\\s*(?:=|\\sto\\s)\\s*''?\
(off|local|remote_write|false|no|0)\\M|set_config\\(\\s*''synchronous_commit''\\s*,\\s*''\
(off|local|remote_write|false|no|0)''', 'i') AS m(found) \
WHERE m.found IS NOT NULL AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid() \
ORDER BY 1";

/// Ends walsenders by name.
pub(super) const END_WALSENDERS: &str = "\
SELECT pg_terminate_backend(pid) FROM pg_stat_replication WHERE application_name = ANY($1)";

/// Ends these walsenders, and no other process, unless one holds the slot of the member it is named
/// after by now; how many.
pub(super) const END_STRANGERS: &str = "\
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_replication WHERE pid = ANY($1) \
AND NOT EXISTS (SELECT FROM pg_replication_slots \
  WHERE active_pid = pid \
  AND slot_name = 'clusterd_' || replace(split_part(application_name, '~', 1), '-', '_'))";

/// What one backend waits for.
pub(super) const WAITS_FOR: &str =
    "SELECT (SELECT wait_event FROM pg_stat_activity WHERE pid = $1)";

/// A record in WAL that is flushed when it returns, and that no table shows.
pub(super) const COMMIT_PROBE: &str = "SELECT pg_logical_emit_message(true, 'clusterd', '')";

impl Session {
    /// Connects within `limit`.
    pub async fn open(config: &Config, limit: Duration) -> Result<Session, Error> {
        let (client, connection) = timeout(limit, config.connect(NoTls))
            .await
            .map_err(|_| Error::SqlTimedOut { limit })?
            .map_err(|source| Error::Sql {
                source: Box::new(source),
            })?;
        let driver = tokio::spawn(async move {
            // An error here ends the session; whoever uses it next sees it closed.
            let _ = connection.await;
        });
        Ok(Session {
            client,
            prepared: Mutex::default(),
            driver,
        })
    }

    /// Whether the server or the socket has gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Runs one statement and returns its rows.
    pub async fn query(
        &self,
        limit: Duration,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, Error> {
        let asked = async {
            let prepared = self.prepared(statement).await?;
            self.client.query(&prepared, parameters).await
        };
        timeout(limit, asked)
            .await
            .map_err(|_| Error::SqlTimedOut { limit })?
            .map_err(|source| Error::Sql {
                source: Box::new(source),
            })
    }

    async fn prepared(&self, text: &str) -> Result<Statement, tokio_postgres::Error> {
        let known = lock(&self.prepared).get(text).cloned();
        if let Some(statement) = known {
            return Ok(statement);
        }
        let statement = self.client.prepare(text).await?;
        lock(&self.prepared).insert(text.to_owned(), statement.clone());
        Ok(statement)
    }

    /// Runs one statement that returns one row.
    pub async fn query_one(
        &self,
        limit: Duration,
        statement: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> Result<Row, Error> {
        let mut rows = self.query(limit, statement, parameters).await?;
        rows.pop().ok_or(Error::NoRow)
    }

    /// Runs statements without parameters.
    pub async fn batch(&self, limit: Duration, statements: &str) -> Result<(), Error> {
        timeout(limit, self.client.batch_execute(statements))
            .await
            .map_err(|_| Error::SqlTimedOut { limit })?
            .map_err(|source| Error::Sql {
                source: Box::new(source),
            })
    }
}

impl Postgres {
    /// Opens a session as superuser in the database `postgres`.
    pub(super) async fn connect(&self) -> Result<Session, Error> {
        self.connect_to("postgres", Duration::from_secs(10)).await
    }

    /// Opens a session in a database; `statement_limit` is enforced by the server as well.
    pub(super) async fn connect_to(
        &self,
        database: &str,
        statement_limit: Duration,
    ) -> Result<Session, Error> {
        let options = self.options();
        let limit = self.limits().connect;
        let mut config = Config::new();
        config
            .host_path(&options.socket_dir)
            .port(options.port)
            .user(&options.superuser)
            .dbname(database)
            .application_name("clusterd")
            .connect_timeout(limit)
            .options(format!(
                "-c synchronous_commit=local -c search_path=pg_catalog -c log_statement=none \
                 -c log_min_duration_statement=-1 -c default_transaction_read_only=off \
                 -c statement_timeout={} -c lock_timeout=2000",
                statement_limit.as_millis()
            ));
        Session::open(&config, limit).await
    }

    /// The kept session, opened again if it was lost.
    pub(super) async fn session(&self) -> Result<Arc<Session>, Error> {
        let mut kept = self.kept_session().lock().await;
        if let Some(session) = kept.as_ref()
            && !session.is_closed()
        {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(self.connect().await?);
        *kept = Some(Arc::clone(&session));
        Ok(session)
    }

    /// Forgets the kept session.
    pub(super) async fn drop_session(&self) {
        *self.kept_session().lock().await = None;
    }
}
