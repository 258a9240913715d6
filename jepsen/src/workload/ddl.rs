//! Tables that are made, changed and dropped while things break: at the end every member has the same ones, and those
//! that the answers explain.

use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Result;

use super::crew::{Client, FinalRead, Work};
use crate::client::Session;
use crate::history::{Edn, Kind};

/// Each table with its columns and indexes.
const READ: &str = "SELECT substr(relname, 5)::int AS n, relnatts - dropped, \
       (SELECT count(*) FROM pg_index WHERE indrelid = c.oid) \
     FROM pg_class c, LATERAL (SELECT count(*) AS dropped FROM pg_attribute \
       WHERE attrelid = c.oid AND attisdropped) d \
     WHERE relkind = 'r' AND relname ~ '^ddl_[0-9]+$' ORDER BY n";

/// The workload.
#[derive(Default)]
pub struct Ddl(AtomicI64);

impl Work for Ddl {
    fn tables(&self) -> String {
        String::new()
    }

    /// One table's life; every second one is dropped at its end.
    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let table = self.0.fetch_add(1, Ordering::SeqCst);
        let step = |f: &'static str, sql: String| (f, Edn::Integer(table), sql);
        let steps = [
            step("create", format!("CREATE TABLE ddl_{table} (a int)")),
            step("add", format!("ALTER TABLE ddl_{table} ADD b text")),
            step("index", format!("CREATE INDEX ON ddl_{table} (a)")),
            step("remove", format!("ALTER TABLE ddl_{table} DROP b")),
            step("drop", format!("DROP TABLE ddl_{table}")),
        ];
        let wanted = if table % 2 == 0 { 5 } else { 4 };
        let steps = steps.into_iter().take(wanted);
        client.in_turn(session, steps.collect()).await
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        vec![FinalRead {
            f: "read",
            value: Edn::Nil,
            sql: READ.to_owned(),
            read: |_, rows| {
                let table = |row: &Vec<String>| {
                    let numbers = row.iter().map(|it| Ok(it.parse()?));
                    anyhow::Ok(Edn::integers(numbers.collect::<Result<Vec<i64>>>()?))
                };
                Ok(Edn::Vector(rows.iter().map(table).collect::<Result<_>>()?))
            },
        }]
    }
}
