//! A bank: money is moved between accounts, and the total of what is read at once never changes, on no
//! member.

use anyhow::Result;
use rand::RngExt as _;

use super::crew::{Client, FinalRead, Work};
use crate::client::{Outcome, Session, Stage};
use crate::history::{Edn, Kind};

/// Accounts.
pub const ACCOUNTS: i64 = 8;
/// What each begins with.
pub const BALANCE: i64 = 100;

const READ: &str = "SELECT id, balance FROM bank ORDER BY id";

/// Moves money, and reads balances on the primary.
pub struct Bank;

/// Reads balances on one member.
pub struct Totals;

impl Bank {
    /// Runs a transfer up to its commit; whether there was money enough.
    async fn transfer(
        &self,
        session: &Session,
        (from, to, amount): (i64, i64, i64),
    ) -> Result<bool, Outcome> {
        session
            .ask(Stage::Before, "BEGIN ISOLATION LEVEL REPEATABLE READ")
            .await?;
        let take = format!(
            "UPDATE bank SET balance = balance - {amount} \
             WHERE id = {from} AND balance >= {amount} RETURNING id"
        );
        if session.ask(Stage::Before, &take).await?.is_empty() {
            return Ok(false);
        }
        let give = format!("UPDATE bank SET balance = balance + {amount} WHERE id = {to}");
        session.ask(Stage::Before, &give).await?;
        session.ask(Stage::Commit, "COMMIT").await?;
        Ok(true)
    }
}

impl Work for Bank {
    fn tables(&self) -> String {
        format!(
            "CREATE TABLE bank (id int PRIMARY KEY, balance bigint NOT NULL CHECK (balance >= 0)); \
             INSERT INTO bank SELECT id, {BALANCE} FROM generate_series(1, {ACCOUNTS}) AS id"
        )
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        if client.chance.random_bool(0.3) {
            return Totals.one(session, client).await;
        }
        let from = client.chance.random_range(1..=ACCOUNTS);
        let to = (from + client.chance.random_range(1..ACCOUNTS) - 1) % ACCOUNTS + 1;
        let amount = client.chance.random_range(1..=20);
        let value = Edn::map([
            ("from", Edn::Integer(from)),
            ("to", Edn::Integer(to)),
            ("amount", Edn::Integer(amount)),
        ]);
        let ticket = client.recorder.invoke(client.process, "transfer", value);
        let (left, kind, more) = match self.transfer(&session, (from, to, amount)).await {
            Ok(true) => {
                let facts = session.facts();
                (Some(session), Kind::Ok, facts)
            }
            Ok(false) => (session.give_up().await, Kind::Fail, Vec::new()),
            Err(Outcome { kind, more }) if kind == Kind::Fail => {
                (session.give_up().await, kind, more)
            }
            Err(Outcome { kind, more }) => (None, kind, more),
        };
        client.recorder.complete(ticket, kind, None, more);
        (left, kind)
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        vec![FinalRead {
            f: "read",
            value: Edn::Nil,
            sql: READ.to_owned(),
            read: |_, rows| balances(rows),
        }]
    }
}

impl Work for Totals {
    fn tables(&self) -> String {
        String::new()
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let asked = ("read", Edn::Nil);
        let read = |rows: &[Vec<String>]| balances(rows).ok();
        client
            .statement(session, Stage::Before, asked, READ, read)
            .await
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        Vec::new()
    }
}

/// `{1 100 2 80 …}`, as elle-cli reads it.
fn balances(rows: &[Vec<String>]) -> Result<Edn> {
    let pair = |row: &Vec<String>| {
        let number = |place: usize| anyhow::Ok(Edn::Integer(row[place].parse()?));
        Ok((number(0)?, number(1)?))
    };
    Ok(Edn::Map(rows.iter().map(pair).collect::<Result<_>>()?))
}
