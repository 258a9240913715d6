//! Physical slots of the members: wanted against found.
//!
//! Every member that may be promoted has a slot for every other one, and moves it along as the
//! primary's view of that member moves, so that a failover strands nobody (hazards D20).

use cluster_core::model::Lsn;

use super::{Error, Postgres, sql};

/// A slot that should exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedSlot {
    /// Its name; see `MemberName::slot_name`.
    pub name: String,
    /// How far its user has come, when known; a slot in use is moved by its user only.
    pub reached: Option<Lsn>,
}

/// The prefix of slots that are ours; others are never touched.
const PREFIX: &str = "clusterd_";

impl Postgres {
    /// Creates the slots that are missing, drops ours that nobody wants, moves idle ones along.
    pub async fn apply_slots(&self, wanted: &[WantedSlot]) -> Result<(), Error> {
        // The loop and its chores both come here; two would make the same slot.
        let _turn = self.inner.slots.lock().await;
        let limit = self.limits().statement;
        let session = self.session().await?;
        let mut found = Vec::new();
        for row in session.query(limit, sql::SLOTS, &[]).await? {
            let name: String = row.get("slot_name");
            let restart = row
                .get::<_, Option<i64>>("restart")
                .and_then(|v| u64::try_from(v).ok());
            let status: Option<String> = row.get("wal_status");
            // A lost slot keeps nothing and can never be used again: it is made anew.
            let is_lost = status.as_deref() == Some("lost");
            found.push((
                name,
                row.get::<_, bool>("active"),
                restart.map(Lsn),
                is_lost,
            ));
        }
        for (name, active, _, is_lost) in &found {
            let is_wanted = wanted.iter().any(|slot| slot.name == *name);
            if name.starts_with(PREFIX) && !active && (!is_wanted || *is_lost) {
                session
                    .query(
                        limit,
                        "SELECT pg_drop_replication_slot($1::text::name)",
                        &[name],
                    )
                    .await?;
            }
        }
        for slot in wanted {
            match found
                .iter()
                .find(|(name, _, _, is_lost)| *name == slot.name && !is_lost)
            {
                None => {
                    let create = "SELECT pg_create_physical_replication_slot($1::text::name, true)";
                    session.query(limit, create, &[&slot.name]).await?;
                }
                Some((_, false, Some(restart), _)) => {
                    if let Some(reached) = slot.reached.filter(|reached| reached > restart) {
                        // The server itself refuses to go beyond what it has.
                        let advance = "SELECT pg_replication_slot_advance($1::text::name, \
                            least($2::text::pg_lsn, CASE WHEN pg_is_in_recovery() \
                            THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END))";
                        session
                            .query(limit, advance, &[&slot.name, &reached.to_string()])
                            .await?;
                    }
                }
                Some(_) => {}
            }
        }
        Ok(())
    }
}
