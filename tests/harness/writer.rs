//! Writers outside the cluster: each inserts numbered rows, one autocommit statement a row, and
//! records for every row where and when it was acknowledged. One clock for all of them.
//!
//! An acknowledgement carries the server's timeline, which names the reign it was given in: that is
//! how two writable primaries are seen. A row without an answer counts neither way, nor does one whose
//! wait for a standby was cancelled: PostgreSQL acknowledges that with a warning [A6].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;
use tokio_postgres::config::TargetSessionAttrs;

use crate::sql::{self, Login, Notices};

/// The harness's one clock: time since it was first asked.
pub fn clock() -> Duration {
    static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);
    STARTED.elapsed()
}

/// Made before writers start. The mark tells two rows of one number apart, should two servers each
/// have made one.
pub const TABLE: &str = "DROP TABLE IF EXISTS written; \
     CREATE TABLE written (writer int, number bigint, mark uuid DEFAULT gen_random_uuid(), \
     PRIMARY KEY (writer, number))";

/// A writer that was not let in tries the next place after this. Every attempt costs the machine a
/// server process; without a pause a dozen writers leave no processor to the failover they measure.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// How PostgreSQL's warnings about a wait that was ended before a standby confirmed begin.
pub const CANCELLED: &str = "canceling";

/// How writers behave.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Where to try, in turn.
    pub places: Vec<(String, u16)>,
    /// Who as.
    pub login: Login,
    /// How many.
    pub writers: u32,
    /// The number of the first, so that several groups can write at once.
    pub first: u32,
    /// How long one connection attempt may take.
    pub connect_limit: Duration,
    /// How long one insert may take before the writer gives the connection up.
    pub statement_limit: Duration,
    /// Pause between rows.
    pub pause: Duration,
}

/// One acknowledged row.
#[derive(Clone, Debug)]
pub struct Row {
    /// Which writer.
    pub writer: u32,
    /// Its number.
    pub number: i64,
    /// Address of the server that acknowledged.
    pub server: String,
    /// Timeline it was on.
    pub timeline: u32,
    /// Sent, on the harness's clock.
    pub invoked: Duration,
    /// Acknowledged, on the harness's clock.
    pub acknowledged: Duration,
}

/// Everything that was recorded.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Acknowledged rows, in order of acknowledgement.
    pub rows: Vec<Row>,
    /// Rows sent that got no answer, with when they were sent.
    pub unknown: BTreeMap<(u32, i64), Duration>,
    /// Rows acknowledged with the warning that the wait for a standby was cancelled; also in `unknown`.
    pub cancelled: u64,
    /// Rows refused with an error by a server that was still there.
    pub refused: u64,
    /// Connections that were given up.
    pub lost_connections: u64,
}

/// Writers at work.
#[derive(Debug)]
pub struct Writers {
    shared: Arc<Shared>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    is_over: AtomicBool,
    history: Mutex<History>,
}

impl Shared {
    fn note(&self, change: impl FnOnce(&mut History)) {
        change(
            &mut self
                .history
                .lock()
                .expect("no writer panics while it holds the history"),
        );
    }
}

impl Writers {
    /// Starts them on a runtime.
    pub fn start(runtime: &tokio::runtime::Handle, options: &WriterOptions) -> Self {
        let shared = Arc::new(Shared {
            is_over: AtomicBool::new(false),
            history: Mutex::new(History::default()),
        });
        let tasks = (options.first..options.first + options.writers)
            .map(|writer| runtime.spawn(write(writer, options.clone(), shared.clone())))
            .collect();
        Self { shared, tasks }
    }

    /// How many rows are acknowledged so far.
    pub fn count(&self) -> usize {
        self.so_far().rows.len()
    }

    /// What is recorded so far.
    pub fn so_far(&self) -> History {
        self.shared
            .history
            .lock()
            .expect("no writer panics while it holds the history")
            .clone()
    }

    /// The newest acknowledgement later than `since`.
    pub fn newest_after(&self, since: Duration) -> Option<Row> {
        let history = self
            .shared
            .history
            .lock()
            .expect("no writer panics while it holds it");
        history
            .rows
            .last()
            .filter(|row| row.acknowledged > since)
            .cloned()
    }

    /// Ends them and hands over what they recorded.
    pub fn stop(self) -> History {
        self.shared.is_over.store(true, Ordering::SeqCst);
        let limit = Instant::now() + Duration::from_secs(2);
        while Instant::now() < limit && self.tasks.iter().any(|task| !task.is_finished()) {
            std::thread::sleep(Duration::from_millis(10));
        }
        for task in &self.tasks {
            // One that still waits for a frozen server.
            task.abort();
        }
        let mut history = self.so_far();
        history.rows.sort_by_key(|row| row.acknowledged);
        history
    }
}

async fn write(writer: u32, options: WriterOptions, shared: Arc<Shared>) {
    let mut number = 0;
    let mut place = writer as usize % options.places.len();
    while !shared.is_over.load(Ordering::SeqCst) {
        let (address, port) = &options.places[place];
        let mut config = options.login.config(address, *port);
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        let opened = async {
            let (client, notices) = sql::connect_and_listen(&config, options.connect_limit).await?;
            let server = "SELECT host(inet_server_addr())";
            let server = sql::column(&client, server, options.connect_limit).await?;
            let server = server.into_iter().next().unwrap_or_default();
            anyhow::Ok(Session {
                client,
                notices,
                server,
            })
        };
        match opened.await {
            Ok(session) => {
                write_on(&session, writer, &mut number, &options, &shared).await;
                shared.note(|history| history.lost_connections += 1);
                // All lose theirs at once: each goes on at another server, or all would come to the right
                // one at the same late moment.
                place = (place + writer as usize) % options.places.len();
            }
            Err(_) => {
                place = (place + 1) % options.places.len();
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// An open connection to a server.
struct Session {
    client: Client,
    notices: Notices,
    server: String,
}

/// Writes until the connection is no good.
async fn write_on(
    session: &Session,
    writer: u32,
    number: &mut i64,
    options: &WriterOptions,
    shared: &Shared,
) {
    let client = &session.client;
    while !shared.is_over.load(Ordering::SeqCst) {
        *number += 1;
        let sql = format!(
            "INSERT INTO written VALUES ({writer}, {number}) \
             RETURNING substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)"
        );
        let invoked = clock();
        let key = (writer, *number);
        let answer = tokio::time::timeout(options.statement_limit, client.simple_query(&sql)).await;
        let acknowledged = clock();
        let said = session.notices.take();
        match answer {
            Ok(Ok(_)) if said.iter().any(|text| text.starts_with(CANCELLED)) => {
                shared.note(|history| {
                    history.unknown.insert(key, invoked);
                    history.cancelled += 1;
                });
            }
            Ok(Ok(messages)) => {
                let timeline = messages.iter().find_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0),
                    _ => None,
                });
                let timeline = timeline.and_then(|text| u32::from_str_radix(text, 16).ok());
                let row = Row {
                    writer,
                    number: key.1,
                    server: session.server.clone(),
                    timeline: timeline.unwrap_or_default(),
                    invoked,
                    acknowledged,
                };
                shared.note(|history| history.rows.push(row));
            }
            Ok(Err(error)) if error.as_db_error().is_some() && !client.is_closed() => {
                shared.note(|history| history.refused += 1);
                return;
            }
            Ok(Err(_)) | Err(_) => {
                shared.note(|history| {
                    history.unknown.insert(key, invoked);
                });
                return;
            }
        }
        if !options.pause.is_zero() {
            tokio::time::sleep(options.pause).await;
        }
    }
}

impl History {
    /// The largest time without any acknowledgement in the given span, its ends included.
    pub fn outage(&self, from: Duration, to: Duration) -> Duration {
        let mut last = from;
        let mut largest = Duration::ZERO;
        let within = self
            .rows
            .iter()
            .map(|row| row.acknowledged)
            .filter(|at| *at > from && *at < to);
        for at in within.chain(std::iter::once(to)) {
            largest = largest.max(at.saturating_sub(last));
            last = at;
        }
        largest
    }

    /// Every time of at least `least` without any acknowledgement, between two of them in the span.
    pub fn gaps(&self, from: Duration, to: Duration, least: Duration) -> Vec<Duration> {
        let at: Vec<Duration> = self
            .rows
            .iter()
            .map(|row| row.acknowledged)
            .filter(|at| *at > from && *at < to)
            .collect();
        at.windows(2)
            .map(|pair| pair[1].saturating_sub(pair[0]))
            .filter(|gap| *gap >= least)
            .collect()
    }

    /// Longest time during which two reigns both acknowledged: last of the older one after the first
    /// of the newer one. With it the rows of the older that came too late.
    pub fn overlap(&self) -> (Duration, Vec<Row>) {
        let mut first: BTreeMap<u32, Duration> = BTreeMap::new();
        for row in &self.rows {
            let at = first.entry(row.timeline).or_insert(row.acknowledged);
            *at = (*at).min(row.acknowledged);
        }
        let mut worst = Duration::ZERO;
        let mut late = Vec::new();
        for row in &self.rows {
            let newer = first.range(row.timeline + 1..).map(|(_, at)| *at).min();
            if let Some(over) = newer.and_then(|at| row.acknowledged.checked_sub(at))
                && !over.is_zero()
            {
                worst = worst.max(over);
                late.push(row.clone());
            }
        }
        (worst, late)
    }

    /// Acknowledged rows that a server does not have.
    ///
    /// # Errors
    /// The server could not be read.
    pub async fn missing(&self, client: &Client) -> Result<Vec<Row>> {
        let sql = "SELECT writer || ' ' || number FROM written";
        let present = sql::column(client, sql, Duration::from_secs(30)).await?;
        let mut found = BTreeSet::new();
        for line in &present {
            let (writer, number) = line.split_once(' ').context("two numbers")?;
            found.insert((writer.parse::<u32>()?, number.parse::<i64>()?));
        }
        let is_gone = |row: &&Row| !found.contains(&(row.writer, row.number));
        Ok(self.rows.iter().filter(is_gone).cloned().collect())
    }

    /// Timelines that acknowledged, in order.
    pub fn timelines(&self) -> BTreeSet<u32> {
        self.rows.iter().map(|row| row.timeline).collect()
    }

    /// How often the reign went to another server: a reign that nobody was acknowledged in is not
    /// seen, and a new reign of the same server is no change.
    pub fn changes_of_primary(&self) -> usize {
        let reigns: BTreeMap<u32, &str> = self
            .rows
            .iter()
            .map(|row| (row.timeline, row.server.as_str()))
            .collect();
        let servers: Vec<&str> = reigns.into_values().collect();
        servers.windows(2).filter(|pair| pair[0] != pair[1]).count()
    }

    /// Adds what another group of writers recorded.
    pub fn merge(&mut self, other: History) {
        self.rows.extend(other.rows);
        self.rows.sort_by_key(|row| row.acknowledged);
        self.unknown.extend(other.unknown);
        self.cancelled += other.cancelled;
        self.refused += other.refused;
        self.lost_connections += other.lost_connections;
    }
}

/// Fails when two reigns acknowledged at the same time.
///
/// # Errors
/// They did.
pub fn require_no_overlap(history: &History) -> Result<()> {
    let (overlap, late) = history.overlap();
    if late.is_empty() {
        return Ok(());
    }
    bail!("two primaries acknowledged for {overlap:?}: {late:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(timeline: u32, at_ms: u64) -> Row {
        let at = Duration::from_millis(at_ms);
        let server = "10.0.0.1".to_owned();
        Row {
            writer: 1,
            number: 1,
            server,
            timeline,
            invoked: at,
            acknowledged: at,
        }
    }

    fn history(rows: &[(u32, u64)]) -> History {
        let rows = rows
            .iter()
            .map(|(timeline, at)| row(*timeline, *at))
            .collect();
        History {
            rows,
            ..History::default()
        }
    }

    #[test]
    fn outage_is_the_largest_gap_and_its_ends_count() {
        let rows = history(&[(1, 100), (1, 200), (2, 900), (2, 1000)]);
        let ms = Duration::from_millis;
        assert_eq!(rows.outage(ms(150), ms(1000)), ms(700));
        assert_eq!(
            rows.outage(ms(300), ms(2000)),
            ms(1000),
            "nothing came after 1000"
        );
        assert_eq!(
            rows.outage(ms(5000), ms(7000)),
            ms(2000),
            "nothing came at all"
        );
    }

    #[test]
    fn a_new_reign_of_the_same_server_is_no_change_of_primary() {
        let mut all = history(&[(1, 100), (2, 200), (3, 300), (3, 400), (4, 500)]);
        for (row, server) in all.rows.iter_mut().zip(["a", "a", "b", "b", "a"]) {
            row.server = server.to_owned();
        }
        assert_eq!(all.changes_of_primary(), 2);
    }

    #[test]
    fn late_row_of_an_older_reign_is_an_overlap() {
        assert!(require_no_overlap(&history(&[(1, 100), (2, 200), (3, 300)])).is_ok());
        let both = history(&[(1, 100), (2, 200), (1, 250), (2, 300)]);
        assert_eq!(both.overlap().0, Duration::from_millis(50));
        assert_eq!(both.overlap().1.len(), 1);
        assert!(require_no_overlap(&both).is_err());
    }
}
