//! Lists that grow. A transaction reads and appends to one to four lists; since every element is
//! appended once, the longest list shows in which order transactions came. Three histories, one for
//! each isolation level, on tables of their own.

use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context, Result};
use rand::RngExt as _;

use super::crew::{Client, FinalRead, Work};
use crate::client::{Outcome, Session, Stage, array};
use crate::history::{Edn, Kind};

/// Lists in use at a time.
const ACTIVE: i64 = 4;
/// A list is left after so many elements: reads stay short.
const LENGTH: i64 = 40;

/// What transactions are begun with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isolation {
    /// Each statement sees what was committed before it.
    ReadCommitted,
    /// PostgreSQL's is snapshot isolation.
    RepeatableRead,
    /// As if one after the other.
    Serializable,
}

impl Isolation {
    /// All three.
    pub const ALL: [Self; 3] = [
        Isolation::ReadCommitted,
        Isolation::RepeatableRead,
        Isolation::Serializable,
    ];

    /// In names.
    pub fn word(self) -> &'static str {
        match self {
            Isolation::ReadCommitted => "read-committed",
            Isolation::RepeatableRead => "repeatable-read",
            Isolation::Serializable => "serializable",
        }
    }

    fn sql(self) -> String {
        self.word().replace('-', " ").to_uppercase()
    }

    fn table(self) -> String {
        format!("append_{}", self.word().replace('-', "_"))
    }
}

/// The workload at one level.
pub struct Append {
    isolation: Isolation,
    appended: AtomicI64,
}

/// One step of a transaction.
#[derive(Clone, Copy)]
enum Step {
    Append(i64, i64),
    Read(i64),
}

impl Append {
    /// At this level.
    pub fn new(isolation: Isolation) -> Self {
        Self {
            isolation,
            appended: AtomicI64::new(0),
        }
    }

    /// Lists so far, the newest left out.
    fn first_active(&self) -> i64 {
        self.appended.load(Ordering::SeqCst) / (LENGTH * ACTIVE) * ACTIVE
    }

    fn draw(&self, client: &mut Client) -> Vec<Step> {
        let steps = client.chance.random_range(1..=4);
        let first = self.first_active();
        let step = |_| {
            let key = first + client.chance.random_range(0..ACTIVE);
            match client.chance.random_bool(0.5) {
                true => Step::Append(key, self.appended.fetch_add(1, Ordering::SeqCst) + 1),
                false => Step::Read(key),
            }
        };
        (0..steps).map(step).collect()
    }

    /// Runs it up to its commit; for each step what was read.
    async fn run(&self, session: &Session, steps: &[Step]) -> Result<Vec<Edn>, Outcome> {
        let begin = format!("BEGIN ISOLATION LEVEL {}", self.isolation.sql());
        session.ask(Stage::Before, &begin).await?;
        let (table, mut done) = (self.isolation.table(), Vec::new());
        for step in steps {
            let sql = match step {
                Step::Append(key, element) => format!(
                    "INSERT INTO {table} VALUES ({key}, ARRAY[{element}]) \
                     ON CONFLICT (k) DO UPDATE SET v = {table}.v || EXCLUDED.v"
                ),
                Step::Read(key) => format!("SELECT v FROM {table} WHERE k = {key}"),
            };
            let rows = session.ask(Stage::Before, &sql).await?;
            let list = rows.first().map(|row| array(&row[0]));
            let list = list
                .transpose()
                .expect("PostgreSQL prints arrays of numbers so");
            done.push(written(*step, list.unwrap_or_default()));
        }
        session.ask(Stage::Commit, "COMMIT").await?;
        Ok(done)
    }
}

impl Work for Append {
    fn tables(&self) -> String {
        let table = self.isolation.table();
        format!("CREATE TABLE {table} (k int PRIMARY KEY, v bigint[] NOT NULL)")
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let steps = self.draw(client);
        let asked = steps.iter().map(|step| match step {
            Step::Append(..) => written(*step, Vec::new()),
            Step::Read(key) => read(*key, Edn::Nil),
        });
        let value = Edn::Vector(asked.collect());
        let ticket = client.recorder.invoke(client.process, "txn", value);
        match self.run(&session, &steps).await {
            Ok(done) => {
                let answer = Some(Edn::Vector(done));
                client
                    .recorder
                    .complete(ticket, Kind::Ok, answer, session.facts());
                (Some(session), Kind::Ok)
            }
            Err(Outcome { kind, more }) => {
                // Over before it is recorded as over: a lock that is still held would be seen as order.
                let left = match kind {
                    Kind::Fail => session.give_up().await,
                    _ => None,
                };
                client.recorder.complete(ticket, kind, None, more);
                (left, kind)
            }
        }
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        let keys = 0..self.first_active() + ACTIVE;
        vec![FinalRead {
            f: "txn",
            value: Edn::Vector(keys.map(|key| read(key, Edn::Nil)).collect()),
            sql: format!("SELECT k, v FROM {}", self.isolation.table()),
            read: all_lists,
        }]
    }
}

fn read(key: i64, list: Edn) -> Edn {
    Edn::Vector(vec![Edn::keyword("r"), Edn::Integer(key), list])
}

fn written(step: Step, list: Vec<i64>) -> Edn {
    match step {
        Step::Append(key, element) => Edn::Vector(vec![
            Edn::keyword("append"),
            Edn::Integer(key),
            Edn::Integer(element),
        ]),
        Step::Read(key) => read(key, Edn::integers(list)),
    }
}

fn all_lists(asked: &Edn, rows: &[Vec<String>]) -> Result<Edn> {
    let mut lists = std::collections::BTreeMap::new();
    for row in rows {
        lists.insert(row[0].parse::<i64>()?, array(&row[1])?);
    }
    let keys = asked.elements().context("a transaction")?.iter();
    let keys = keys.filter_map(|it| it.elements()?.get(1)?.integer());
    let filled = keys.map(|key| {
        let list = lists.remove(&key).unwrap_or_default();
        read(key, Edn::integers(list))
    });
    Ok(Edn::Vector(filled.collect()))
}
