//! Single values: read, written, and written only if they are what they are thought to be. Each key
//! gets few operations, because the time to judge one grows with what overlaps on it.

use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context, Result};
use rand::RngExt as _;

use super::crew::{Client, FinalRead, Work};
use crate::client::{Session, Stage};
use crate::history::{Edn, Kind};

/// Keys in use at a time.
const ACTIVE: i64 = 2;
/// A key is left after so many operations.
const OPERATIONS: i64 = 60;
/// Values are below this, so that compare-and-set often finds what it expects.
const VALUES: i64 = 5;

/// The workload.
#[derive(Default)]
pub struct Register {
    begun: AtomicI64,
}

impl Work for Register {
    fn tables(&self) -> String {
        "CREATE TABLE register (k int PRIMARY KEY, v int NOT NULL)".to_owned()
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let begun = self.begun.fetch_add(1, Ordering::SeqCst);
        let key = begun / (OPERATIONS * ACTIVE) * ACTIVE + client.chance.random_range(0..ACTIVE);
        let new = client.chance.random_range(0..VALUES);
        let keyed = |value: Edn| Edn::Vector(vec![Edn::Integer(key), value]);
        match client.chance.random_range(0..3) {
            0 => {
                let sql = format!("SELECT v FROM register WHERE k = {key}");
                let asked = ("read", keyed(Edn::Nil));
                let read = |rows: &[Vec<String>]| value(rows).ok().map(keyed);
                client
                    .statement(session, Stage::Before, asked, &sql, read)
                    .await
            }
            1 => {
                let sql = format!(
                    "INSERT INTO register VALUES ({key}, {new}) \
                     ON CONFLICT (k) DO UPDATE SET v = EXCLUDED.v"
                );
                let value = keyed(Edn::Integer(new));
                let asked = ("write", value.clone());
                client
                    .statement(session, Stage::Commit, asked, &sql, |_| Some(value))
                    .await
            }
            _ => {
                let old = client.chance.random_range(0..VALUES);
                let sql = format!(
                    "UPDATE register SET v = {new} WHERE k = {key} AND v = {old} RETURNING v"
                );
                let value = keyed(Edn::integers([old, new]));
                let asked = ("cas", value.clone());
                let read = |rows: &[Vec<String>]| (!rows.is_empty()).then_some(value);
                client
                    .statement(session, Stage::Commit, asked, &sql, read)
                    .await
            }
        }
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        let keys = 0..self.begun.load(Ordering::SeqCst) / (OPERATIONS * ACTIVE) * ACTIVE + ACTIVE;
        let read = |key| FinalRead {
            f: "read",
            value: Edn::Vector(vec![Edn::Integer(key), Edn::Nil]),
            sql: format!("SELECT v FROM register WHERE k = {key}"),
            read: |asked, rows| {
                let key = asked.elements().and_then(|it| it.first());
                let key = key.context("a key")?.clone();
                Ok(Edn::Vector(vec![key, value(rows)?]))
            },
        };
        keys.map(read).collect()
    }
}

fn value(rows: &[Vec<String>]) -> Result<Edn> {
    Ok(match rows.first() {
        Some(row) => Edn::Integer(row[0].parse()?),
        None => Edn::Nil,
    })
}
