//! SQL from outside the cluster, as an application would send it.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, SimpleQueryMessage};

/// Name and password the tests connect with.
#[derive(Clone, Debug)]
pub struct Login {
    /// Role.
    pub user: String,
    /// Password.
    pub password: String,
    /// Database.
    pub database: String,
}

impl Login {
    /// As tokio-postgres takes it.
    pub fn config(&self, address: &str, port: u16) -> Config {
        let mut config = Config::new();
        config
            .host(address)
            .port(port)
            .user(&self.user)
            .password(&self.password);
        config.dbname(&self.database).application_name("test");
        config
    }
}

/// Connects; the connection's own task ends with the client.
///
/// # Errors
/// Refused, or no answer within the limit.
pub async fn connect(config: &Config, limit: Duration) -> Result<Client> {
    let (client, connection) = tokio::time::timeout(limit, config.connect(NoTls))
        .await
        .context("no answer in time")?
        .context("connect")?;
    tokio::spawn(connection);
    Ok(client)
}

/// What a server said besides its answers, in order.
#[derive(Clone, Debug, Default)]
pub struct Notices(Arc<Mutex<Vec<String>>>);

impl Notices {
    /// Everything said since this was last called.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, text: &str) {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.push(text.to_owned());
    }
}

/// Connects and keeps the warnings: one that came before an answer is there when the answer is.
///
/// # Errors
/// Refused, or no answer within the limit.
pub async fn connect_and_listen(config: &Config, limit: Duration) -> Result<(Client, Notices)> {
    let (client, mut connection) = tokio::time::timeout(limit, config.connect(NoTls))
        .await
        .context("no answer in time")?
        .context("connect")?;
    let notices = Notices::default();
    let kept = notices.clone();
    tokio::spawn(async move {
        while let Some(Ok(message)) = poll_fn(|context| connection.poll_message(context)).await {
            if let AsyncMessage::Notice(notice) = message {
                kept.add(notice.message());
            }
        }
    });
    Ok((client, notices))
}

/// The first column of every row, as text.
///
/// # Errors
/// PostgreSQL refused, or no answer within the limit.
pub async fn column(client: &Client, sql: &str, limit: Duration) -> Result<Vec<String>> {
    let answer = tokio::time::timeout(limit, client.simple_query(sql))
        .await
        .context("no answer in time")?
        .map_err(|error| match error.as_db_error() {
            Some(refused) => anyhow::anyhow!("{}: {}", refused.severity(), refused.message()),
            None => anyhow::Error::new(error),
        })?;
    let rows = answer.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or_default().to_owned()),
        _ => None,
    });
    Ok(rows.collect())
}
