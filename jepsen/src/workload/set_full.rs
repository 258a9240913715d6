//! Sets that grow and are read all the time, on the primary: what was acknowledged is there at once, and what was read
//! once never disappears. The same with clients that cancel their statements, most of them while they commit.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::RngExt as _;

use super::crew::{Client, FinalRead, Work};
use crate::client::{Session, Stage};
use crate::history::{Edn, Kind};

/// A set is left after so many operations.
const OPERATIONS: i64 = 200;
/// A statement is cancelled after less than this: most commits take longer than some of it.
const CANCELLED_WITHIN_US: u64 = 4_000;

/// The workload.
pub struct SetFull {
    begun: AtomicI64,
    table: &'static str,
    cancels: bool,
}

impl SetFull {
    /// Nobody cancels.
    pub fn new() -> Self {
        Self {
            begun: AtomicI64::new(0),
            table: "set_full",
            cancels: false,
        }
    }

    /// Every addition is cancelled after a moment, if it has not ended.
    pub fn cancelled() -> Self {
        Self {
            table: "cancelled",
            cancels: true,
            ..Self::new()
        }
    }

    fn select(&self, key: i64) -> String {
        format!("SELECT v FROM {} WHERE k = {key} ORDER BY v", self.table)
    }
}

impl Work for SetFull {
    fn tables(&self) -> String {
        format!(
            "CREATE TABLE {} (k int NOT NULL, v int NOT NULL, PRIMARY KEY (k, v))",
            self.table
        )
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let begun = self.begun.fetch_add(1, Ordering::SeqCst);
        let newest = begun / OPERATIONS;
        if client.chance.random_bool(0.5) {
            // Mostly the set that grows; now and then an older one, which must not have lost anything.
            let key = match client.chance.random_bool(0.2) {
                true => client.chance.random_range(0..=newest),
                false => newest,
            };
            let asked = ("read", keyed(key, Edn::Nil));
            let read = |rows: &[Vec<String>]| Some(keyed(key, elements(rows).ok()?));
            let session = session.cancelling(None);
            return client
                .statement(session, Stage::Before, asked, &self.select(key), read)
                .await;
        }
        let sql = format!("INSERT INTO {} VALUES ({newest}, {begun})", self.table);
        let value = keyed(newest, Edn::Integer(begun));
        let asked = ("add", value.clone());
        let after = Duration::from_micros(client.chance.random_range(0..CANCELLED_WITHIN_US));
        let session = session.cancelling(self.cancels.then_some(after));
        let read = |_: &[Vec<String>]| Some(value);
        client
            .statement(session, Stage::Commit, asked, &sql, read)
            .await
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        let newest = self.begun.load(Ordering::SeqCst) / OPERATIONS;
        let read = |key| FinalRead {
            f: "read",
            value: keyed(key, Edn::Nil),
            sql: self.select(key),
            read: |asked, rows| {
                let key = asked.elements().and_then(|it| it.first()?.integer());
                Ok(keyed(key.context("a key")?, elements(rows)?))
            },
        };
        (0..=newest).map(read).collect()
    }
}

fn keyed(key: i64, value: Edn) -> Edn {
    Edn::Vector(vec![Edn::Integer(key), value])
}

fn elements(rows: &[Vec<String>]) -> Result<Edn> {
    let numbers = rows.iter().map(|row| Ok(row[0].parse()?));
    Ok(Edn::integers(numbers.collect::<Result<Vec<i64>>>()?))
}
