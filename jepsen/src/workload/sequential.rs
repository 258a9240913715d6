//! Chains: one client writes the links of a chain one after the other, each once the one before was acknowledged.
//! Whoever looks at the newest link first, on whatever member, must then find all the older ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use anyhow::Result;
use rand::RngExt as _;

use super::crew::{Client, FinalRead, Work};
use crate::client::{Session, Stage, array};
use crate::history::{Edn, Kind};

/// Links of a chain.
const LINKS: i64 = 5;
/// Looked at: one of so many of the newest chains.
const NEWEST: i64 = 6;

/// Writes chains.
#[derive(Default)]
pub struct Chains {
    begun: Arc<AtomicI64>,
}

/// Looks at them, on one member.
pub struct Look {
    begun: Arc<AtomicI64>,
}

impl Chains {
    /// Somebody who looks at these.
    pub fn look(&self) -> Look {
        Look {
            begun: self.begun.clone(),
        }
    }
}

impl Work for Chains {
    fn tables(&self) -> String {
        "CREATE TABLE sequential (k int NOT NULL, i int NOT NULL, PRIMARY KEY (k, i))".to_owned()
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let chain = self.begun.fetch_add(1, Ordering::SeqCst);
        let steps = (0..LINKS).map(|link| {
            let sql = format!("INSERT INTO sequential VALUES ({chain}, {link})");
            ("write", Edn::integers([chain, link]), sql)
        });
        client.in_turn(session, steps.collect()).await
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        vec![FinalRead {
            f: "read-all",
            value: Edn::Nil,
            sql: "SELECT k, array_agg(i ORDER BY i DESC) FROM sequential GROUP BY k ORDER BY k"
                .to_owned(),
            read: |_, rows| {
                let chain = |row: &Vec<String>| {
                    let links = Edn::integers(array(&row[1])?);
                    Ok(Edn::Vector(vec![Edn::Integer(row[0].parse()?), links]))
                };
                Ok(Edn::Vector(rows.iter().map(chain).collect::<Result<_>>()?))
            },
        }]
    }
}

impl Work for Look {
    fn tables(&self) -> String {
        String::new()
    }

    async fn one(&self, session: Session, client: &mut Client) -> (Option<Session>, Kind) {
        let newest = self.begun.load(Ordering::SeqCst);
        let back = client.chance.random_range(0..NEWEST);
        let chain = (newest - back).max(0);
        let value = |it: Edn| Edn::Vector(vec![Edn::Integer(chain), it]);
        let ticket = client
            .recorder
            .invoke(client.process, "read", value(Edn::Nil));
        let mut found = Vec::new();
        for link in (0..LINKS).rev() {
            let sql = format!("SELECT 1 FROM sequential WHERE k = {chain} AND i = {link}");
            match session.ask(Stage::Before, &sql).await {
                Ok(rows) if rows.is_empty() => {}
                Ok(_) => found.push(link),
                Err(outcome) => {
                    let kind = outcome.kind;
                    client.recorder.complete(ticket, kind, None, outcome.more);
                    return (None, kind);
                }
            }
        }
        let answer = Some(value(Edn::integers(found)));
        let facts = session.facts();
        client.recorder.complete(ticket, Kind::Ok, answer, facts);
        (Some(session), Kind::Ok)
    }

    fn final_reads(&self) -> Vec<FinalRead> {
        Vec::new()
    }
}
