//! A session on one server: statements as text, each with what became of it.

use std::time::Duration;

use anyhow::{Context, Result};
use cluster_tests::Cluster;
use cluster_tests::member::POSTGRES_PORT;
use cluster_tests::sql::{self, Login, Notices};
use cluster_tests::writer::CANCELLED;
use tokio_postgres::config::TargetSessionAttrs;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::{Observed, Outcome, Stage, outcome};
use crate::history::Edn;

/// How long a connection attempt may take.
const CONNECT_LIMIT: Duration = Duration::from_millis(500);
/// How long a statement may take before the session is given up: longer than a deadlock is looked for.
const STATEMENT_LIMIT: Duration = Duration::from_secs(3);
/// Pause after a session that could not be opened: attempts cost the machine server processes.
const TRY_AGAIN: Duration = Duration::from_millis(100);

/// Where servers are.
#[derive(Clone, Debug)]
pub struct Places {
    servers: Vec<(String, String)>,
    login: Login,
}

impl Places {
    /// Every member with PostgreSQL.
    pub fn of(cluster: &Cluster) -> Self {
        let databases = cluster.members.iter().filter(|member| !member.is_witness);
        let server =
            |member: &cluster_tests::Member| (member.name.clone(), member.host.address.clone());
        Self {
            servers: databases.map(server).collect(),
            login: cluster.login(),
        }
    }

    /// One of them only.
    pub fn only(&self, place: usize) -> Self {
        Self {
            servers: vec![self.servers[place].clone()],
            login: self.login.clone(),
        }
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// A session on the server that takes writes: each place is tried in turn, from `*turn` on. None
    /// if that one does not.
    pub async fn primary(&self, turn: &mut usize) -> Option<Session> {
        self.open(turn, TargetSessionAttrs::ReadWrite).await
    }

    /// A session on the next place, whatever it is.
    pub async fn any(&self, turn: &mut usize) -> Option<Session> {
        self.open(turn, TargetSessionAttrs::Any).await
    }

    async fn open(&self, turn: &mut usize, wanted: TargetSessionAttrs) -> Option<Session> {
        let (name, address) = &self.servers[*turn % self.servers.len()];
        let mut config = self.login.config(address, POSTGRES_PORT);
        config.target_session_attrs(wanted);
        match sql::connect_and_listen(&config, CONNECT_LIMIT).await {
            Ok((client, notices)) => Some(Session {
                client,
                notices,
                node: name.clone(),
                cancel_after: None,
            }),
            Err(_) => {
                *turn += 1;
                tokio::time::sleep(TRY_AGAIN).await;
                None
            }
        }
    }
}

/// An open connection.
#[derive(Debug)]
pub struct Session {
    client: Client,
    notices: Notices,
    node: String,
    cancel_after: Option<Duration>,
}

impl Session {
    /// From now on each statement is cancelled when it has not ended after so long.
    pub fn cancelling(mut self, after: Option<Duration>) -> Self {
        self.cancel_after = after;
        self
    }

    /// Whether it can be used no longer.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// What an event says of where it was done.
    pub fn facts(&self) -> Vec<(String, Edn)> {
        vec![("node".to_owned(), Edn::Text(self.node.clone()))]
    }

    /// Sends a statement; its rows, or what became of the operation. After `Err` of a stage `Before` a
    /// transaction has to be ended with [`Session::give_up`].
    pub async fn ask(&self, stage: Stage, sql: &str) -> Result<Vec<Vec<String>>, Outcome> {
        let (rows, observed) = self.observe(sql).await;
        let mut found = outcome(stage, &observed);
        if found.is_ok() {
            return Ok(rows);
        }
        found.more.extend(self.facts());
        Err(found)
    }

    /// Ends a transaction that is not to be committed. A session that cannot do that is closed.
    pub async fn give_up(self) -> Option<Self> {
        match self.observe("ROLLBACK").await.1 {
            Observed::Done if !self.is_closed() => Some(self),
            _ => None,
        }
    }

    async fn observe(&self, sql: &str) -> (Vec<Vec<String>>, Observed) {
        self.notices.take();
        let answer = tokio::time::timeout(STATEMENT_LIMIT, self.answer(sql)).await;
        let warned = self.notices.take();
        match answer {
            Ok(Ok(messages)) => {
                let is_unconfirmed = warned.iter().any(|text| text.starts_with(CANCELLED));
                let observed = match is_unconfirmed {
                    true => Observed::DoneUnconfirmed,
                    false => Observed::Done,
                };
                (messages.iter().filter_map(row).collect(), observed)
            }
            Ok(Err(error)) => {
                let state = error.code().map(|code| code.code().to_owned());
                (Vec::new(), state.map_or(Observed::Lost, Observed::Refused))
            }
            Err(_) => (Vec::new(), Observed::Lost),
        }
    }

    /// The cancel request has been taken before the answer counts, or it would meet the next statement.
    async fn answer(&self, sql: &str) -> Result<Vec<SimpleQueryMessage>, tokio_postgres::Error> {
        let asked = self.client.simple_query(sql);
        let Some(after) = self.cancel_after else {
            return asked.await;
        };
        tokio::pin!(asked);
        tokio::select! {
            answer = &mut asked => return answer,
            () = tokio::time::sleep(after) => {}
        }
        let token = self.client.cancel_token();
        let cancel = tokio::time::timeout(CONNECT_LIMIT, token.cancel_query(NoTls));
        tokio::join!(asked, cancel).0
    }
}

/// Columns as text; NULL as nothing.
fn row(message: &SimpleQueryMessage) -> Option<Vec<String>> {
    let SimpleQueryMessage::Row(row) = message else {
        return None;
    };
    let column = |place| row.get(place).unwrap_or_default().to_owned();
    Some((0..row.len()).map(column).collect())
}

/// The numbers of `{1,2}`.
///
/// # Errors
/// It is no array of numbers.
pub fn array(text: &str) -> Result<Vec<i64>> {
    let inside = text.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    let inside = inside.with_context(|| format!("no array: {text:?}"))?;
    let elements = inside.split(',').filter(|it| !it.is_empty());
    elements.map(|it| it.parse().context("a number")).collect()
}
