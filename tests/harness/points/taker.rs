//! Notes points while the cluster works: a position, a moment, a restore point or a transaction in turn.
//!
//! A point counts only when a row that was sent after it was acknowledged on the same session: then a
//! standby has confirmed everything up to it, so it lies on the line that every later primary continues.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio_postgres::Client;
use tokio_postgres::config::TargetSessionAttrs;

use crate::sql::{self, Notices};
use crate::writer::{CANCELLED, WriterOptions, clock};

/// What points are proven with.
pub const TABLE: &str = "CREATE TABLE proof (number serial PRIMARY KEY)";

/// Commits, and says as which transaction.
const PROOF: &str = "INSERT INTO proof DEFAULT VALUES RETURNING pg_current_xact_id()::text";

/// Where a restore is to stop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A position.
    Lsn(String),
    /// A moment.
    Time(String),
    /// A restore point.
    Name(String),
    /// A transaction.
    Xid(String),
}

impl Target {
    /// As the restore is told.
    pub fn flags(&self) -> [String; 2] {
        let (flag, value) = match self {
            Self::Lsn(value) => ("--lsn", value),
            Self::Time(value) => ("--to", value),
            Self::Name(value) => ("--name", value),
            Self::Xid(value) => ("--xid", value),
        };
        [flag.to_owned(), value.clone()]
    }
}

/// One point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Where to stop.
    pub target: Target,
    /// Asked for, on the harness's clock.
    pub before: Duration,
    /// Answered, on the harness's clock.
    pub after: Duration,
}

/// Somebody who notes points.
#[derive(Debug)]
pub struct Taker {
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    is_over: AtomicBool,
    points: Mutex<Vec<Point>>,
}

impl Shared {
    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    fn points(&self) -> std::sync::MutexGuard<'_, Vec<Point>> {
        self.points.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taker {
    /// Begins, on the runtime it is called in.
    pub fn start(options: WriterOptions, seed: u64) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(take(options, StdRng::seed_from_u64(seed), shared.clone()));
        Self { shared, task }
    }

    /// How many are noted.
    pub fn count(&self) -> usize {
        self.shared.points().len()
    }

    /// Ends, and hands over what was noted.
    pub fn stop(self) -> Vec<Point> {
        self.shared.is_over.store(true, Ordering::SeqCst);
        self.task.abort();
        self.shared.points().clone()
    }
}

async fn take(options: WriterOptions, mut dice: StdRng, shared: Arc<Shared>) {
    let mut number = 0;
    let mut place = 0;
    while !shared.is_over() {
        place = (place + 1) % options.places.len();
        let (address, port) = &options.places[place];
        let mut config = options.login.config(address, *port);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let opened = sql::connect_and_listen(&config, options.connect_limit).await;
        if let Ok((client, notices)) = opened {
            loop {
                number += 1;
                let noted = note(&client, &notices, number, options.statement_limit).await;
                let Ok(point) = noted else { break };
                shared.points().push(point);
                tokio::time::sleep(Duration::from_millis(dice.random_range(20..400))).await;
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn note(client: &Client, notices: &Notices, number: u64, limit: Duration) -> Result<Point> {
    let one = async |sql: &str| {
        let answer = sql::column(client, sql, limit).await?;
        answer.into_iter().next().context("one row")
    };
    let before = clock();
    let target = match number % 4 {
        0 => Target::Lsn(one("SELECT pg_current_wal_insert_lsn()::text").await?),
        1 => Target::Time(now()?),
        2 => {
            let name = format!("point_{number}");
            one(&format!("SELECT pg_create_restore_point('{name}')::text")).await?;
            Target::Name(name)
        }
        _ => Target::Xid(one(PROOF).await?),
    };
    let after = clock();
    one(PROOF).await?;
    let is_cancelled = |text: &String| text.starts_with(CANCELLED);
    ensure!(
        !notices.take().iter().any(is_cancelled),
        "a wait for a standby was cancelled"
    );
    Ok(Point {
        target,
        before,
        after,
    })
}

/// The moment as PostgreSQL takes it, with all the digits that it keeps.
fn now() -> Result<String> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let at = jiff::Timestamp::from_microsecond(i64::try_from(since.as_micros())?)?;
    Ok(at.to_string())
}
