//! One number that only grows: one client raises it on the primary, and one is bound to each member and
//! reads it there, with the position of WAL that the member has come to.

use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::{Context, Result};

use super::crew::{Client, FinalRead, Work};
use crate::client::{Session, Stage};
use crate::history::{Edn, Kind};

/// The value, whether the server is a standby, and its position in bytes. A session keeps one
/// snapshot a statement; the position is read after it and may be newer, never older.
const READ: &str = "SELECT v, pg_is_in_recovery(), \
     CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END \
     - '0/0'::pg_lsn FROM monotonic";

/// Raises it.
#[derive(Default)]
pub struct Raise(AtomicI64);

/// Reads it on one member.
pub struct Follow;

impl Work for Raise {
    fn tables(&self) -> String {
        "CREATE TABLE monotonic (v bigint NOT NULL); INSERT INTO monotonic VALUES (0)".to_owned()
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let next = self.0.fetch_add(1, Ordering::SeqCst) + 1;
        // A write without an answer may still come: it must not lower what is there.
        let sql = format!("UPDATE monotonic SET v = greatest(v, {next})");
        let asked = ("write", Edn::Integer(next));
        let answer = Some(Edn::Integer(next));
        client
            .statement(session, Stage::Commit, asked, &sql, |_| answer)
            .await
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        vec![FinalRead {
            f: "read",
            value: Edn::Nil,
            sql: READ.to_owned(),
            read: |_, rows| seen(rows),
        }]
    }
}

impl Work for Follow {
    fn tables(&self) -> String {
        String::new()
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let asked = ("read", Edn::Nil);
        let read = |rows: &[Vec<String>]| seen(rows).ok();
        client
            .statement(session, Stage::Before, asked, READ, read)
            .await
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        Vec::new()
    }
}

fn seen(rows: &[Vec<String>]) -> Result<Edn> {
    let row = rows.first().context("the one row")?;
    Ok(Edn::map([
        ("v", Edn::Integer(row[0].parse()?)),
        ("standby", Edn::Bool(row[1] == "t")),
        ("lsn", Edn::Integer(row[2].parse()?)),
    ]))
}
