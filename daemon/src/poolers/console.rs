//! The admin console of one PgBouncer: it speaks the simple query protocol and nothing else.

use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage, SimpleQueryRow};

use crate::config::PgbouncerConfig;

/// Why it did not do as it was told.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The connection, or its answer.
    #[error("{0}")]
    Console(#[from] tokio_postgres::Error),
    /// Not in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// The address in the configuration.
    #[error("`{0}` is not host:port")]
    Address(String),
    /// Its clients keep their server for as long as they are connected.
    #[error(
        "pool_mode is session {of}: a pause would last until its clients disconnect \
         (use transaction or statement)"
    )]
    SessionPooling {
        /// Where that is said.
        of: String,
    },
}

/// One console; the session lasts as long as one command.
#[derive(Clone, Debug)]
pub(super) struct Console {
    /// `host:port`.
    pub(super) address: String,
    login: Config,
}

impl Console {
    pub(super) fn new(address: &str, config: &PgbouncerConfig) -> Result<Console, Error> {
        let bad = || Error::Address(address.to_owned());
        let (host, port) = address.rsplit_once(':').ok_or_else(bad)?;
        let mut login = Config::new();
        login
            .host(host.trim_matches(['[', ']']))
            .port(port.parse().map_err(|_| bad())?)
            .user(&config.user)
            .dbname("pgbouncer");
        if let Some(password) = &config.password {
            login.password(password.expose());
        }
        let address = address.to_owned();
        Ok(Console { address, login })
    }

    /// New transactions wait; returns when no server connection is in use any more.
    pub(super) async fn pause(&self, limit: Duration) -> Result<(), Error> {
        self.within(limit, async |client| {
            refuse_session_pooling(client).await?;
            // Paused already: by an earlier attempt, or by an operator who resumes it again.
            said(client, "PAUSE", "already suspended/paused").await
        })
        .await
    }

    /// What waited goes on, with new connections to wherever the servers are now.
    pub(super) async fn resume(&self, limit: Duration) -> Result<(), Error> {
        self.within(limit, async |client| {
            said(client, "RESUME", "not paused").await
        })
        .await
    }

    async fn within(
        &self,
        limit: Duration,
        work: impl AsyncFnOnce(&Client) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let asked = async {
            let (client, connection) = self.login.connect(NoTls).await?;
            let driver = tokio::spawn(async move { drop(connection.await) });
            let outcome = work(&client).await;
            driver.abort();
            outcome
        };
        timeout(limit, asked)
            .await
            .unwrap_or(Err(Error::TimedOut(limit)))
    }
}

/// Runs a command; that it is so already is no error.
async fn said(client: &Client, command: &str, already: &str) -> Result<(), Error> {
    match client.batch_execute(command).await {
        Ok(()) => Ok(()),
        Err(error) => match error.as_db_error() {
            Some(answer) if answer.message().contains(already) => Ok(()),
            _ => Err(error.into()),
        },
    }
}

/// The default, what a database says for itself, and what a user does.
async fn refuse_session_pooling(client: &Client) -> Result<(), Error> {
    let is_session = |mode: Option<&str>| mode == Some("session");
    let mut default = false;
    for row in rows(client, "SHOW CONFIG").await? {
        if row.get("key") == Some("pool_mode") {
            default = is_session(row.get("value"));
        }
    }
    for row in rows(client, "SHOW DATABASES").await? {
        let name = row.get("name").unwrap_or_default();
        let own = row.get("pool_mode").filter(|mode| !mode.is_empty());
        let is_so = own.map_or(default, |mode| is_session(Some(mode)));
        if name != "pgbouncer" && is_so {
            let of = format!("for database {name}");
            return Err(Error::SessionPooling { of });
        }
    }
    for row in rows(client, "SHOW USERS").await? {
        if is_session(row.get("pool_mode")) {
            let of = format!("for user {}", row.get("name").unwrap_or_default());
            return Err(Error::SessionPooling { of });
        }
    }
    Ok(())
}

async fn rows(client: &Client, command: &str) -> Result<Vec<SimpleQueryRow>, Error> {
    let answer = client.simple_query(command).await?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(rows.collect())
}
