//! The door of a member: what it tells before it belongs to a group, and how it is given its
//! identity. `forming.rs` walks through the doors of others.
//!
//! An identity is given once, to an empty store, and answered only when it is durable. The nonce
//! binds it to the very process that was asked: a late message cannot name a store that was wiped
//! in between.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use cluster_core::model::{MemberKind, MemberName};
use ring::digest;
use tokio::sync::watch;
use tokio::time::Instant;

use super::handshake::{Call, ClusterSecret};
use super::inbox::Refusal;
use super::log_store::LogStore;
use super::types::Identity;

/// One member as this member's config file lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedMember {
    /// Name.
    pub name: MemberName,
    /// Where its gRPC listens, `host:port`.
    pub address: String,
    /// Database or witness.
    pub kind: MemberKind,
}

/// What is in the place for the data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataDir {
    /// A witness has none.
    None,
    /// Nothing is there.
    Empty,
    /// A database that becomes the cluster's first data.
    Adoptable {
        /// Which database system.
        system_identifier: u64,
    },
    /// A standby that is taken over, after the member that brings its primary.
    Standby {
        /// Of which database system.
        system_identifier: u64,
    },
    /// It carries the id of a cluster of ours.
    Ours,
    /// Something else is there.
    Foreign,
}

/// [`DataDir::Adoptable`] on the wire.
pub(super) const ADOPTABLE: &str = "adoptable";
/// [`DataDir::Standby`] on the wire.
pub(super) const STANDBY: &str = "standby";

impl DataDir {
    /// The word on the wire.
    pub fn word(self) -> &'static str {
        match self {
            DataDir::None => "none",
            DataDir::Empty => "empty",
            DataDir::Adoptable { .. } => ADOPTABLE,
            DataDir::Standby { .. } => STANDBY,
            DataDir::Ours => "ours",
            DataDir::Foreign => "foreign",
        }
    }

    /// The database system it holds, where that matters to the others.
    pub fn system_identifier(self) -> Option<u64> {
        match self {
            DataDir::Adoptable { system_identifier } | DataDir::Standby { system_identifier } => {
                Some(system_identifier)
            }
            DataDir::None | DataDir::Empty | DataDir::Ours | DataDir::Foreign => None,
        }
    }
}

/// Why this member cannot take part in forming at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GroupError {
    /// The list does not contain this member.
    #[error("members: `{own}` is not in its own list (add it, the same on every member)")]
    NotListed {
        /// This member.
        own: String,
    },
    /// A name or an address is there twice.
    #[error("members: `{what}` is listed twice")]
    Twice {
        /// The name or address.
        what: String,
    },
    /// Two voters: losing either stops the cluster.
    #[error(
        "members: two members without a witness cannot fail over, because one alone has no \
         majority (add a witness, or accept it with --accept-no-failover)"
    )]
    NoFailover,
    /// Only witnesses.
    #[error("members: no member of the list has a PostgreSQL")]
    OnlyWitnesses,
}

/// How far this member is on its way into the group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum GroupStatus {
    /// The store is not open yet.
    #[default]
    Starting,
    /// Not a member yet; the sentence says what it waits for.
    Waiting(String),
    /// Member of a cluster.
    Member(Identity),
}

/// A member with an empty store that asked to be let in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner {
    /// Its name.
    pub name: MemberName,
    /// Where its gRPC listens.
    pub address: String,
    /// Database or witness, as it says.
    pub kind: String,
    /// When it last asked.
    pub heard: Instant,
}

/// The sorted, checked member list of the config file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberList {
    members: Vec<ListedMember>,
    hash: String,
}

impl MemberList {
    /// Checks and sorts the list.
    ///
    /// # Errors
    /// [`GroupError`].
    pub fn new(
        own: &MemberName,
        mut members: Vec<ListedMember>,
        accept_no_failover: bool,
    ) -> Result<MemberList, GroupError> {
        members.sort_by(|a, b| a.name.cmp(&b.name));
        for (place, member) in members.iter().enumerate() {
            for other in &members[place + 1..] {
                if other.name == member.name {
                    return Err(GroupError::Twice {
                        what: member.name.to_string(),
                    });
                }
                if other.address == member.address {
                    return Err(GroupError::Twice {
                        what: member.address.clone(),
                    });
                }
            }
        }
        if !members.iter().any(|member| member.name == *own) {
            return Err(GroupError::NotListed {
                own: own.to_string(),
            });
        }
        let witnesses = members
            .iter()
            .filter(|m| m.kind == MemberKind::Witness)
            .count();
        if witnesses == members.len() {
            return Err(GroupError::OnlyWitnesses);
        }
        if members.len() == 2 && witnesses == 0 && !accept_no_failover {
            return Err(GroupError::NoFailover);
        }
        let hash = hash_of(&members);
        Ok(MemberList { members, hash })
    }

    /// By name.
    pub fn members(&self) -> &[ListedMember] {
        &self.members
    }

    /// The same on every member whose list is the same.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The first Raft id of `name`: its place, from 1.
    pub fn place_of(&self, name: &MemberName) -> Option<u64> {
        (1..)
            .zip(&self.members)
            .find(|(_, member)| member.name == *name)
            .map(|(place, _)| place)
    }

    /// The member that coordinates the forming.
    pub fn first(&self) -> &MemberName {
        &self.members[0].name
    }
}

fn hash_of(members: &[ListedMember]) -> String {
    let mut text = String::new();
    for member in members {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {:?}", member.name, member.address, member.kind);
    }
    digest::digest(&digest::SHA256, text.as_bytes())
        .as_ref()
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
}

/// What a probe is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Own name.
    pub name: String,
    /// The cluster this member knows, if any.
    pub identity: Option<Identity>,
    /// Nothing was ever voted or appended, and there is no identity.
    pub store_is_empty: bool,
    /// [`DataDir::word`].
    pub data_dir: String,
    /// [`DataDir::system_identifier`]; 0 = none.
    pub system_identifier: u64,
    /// Hash of the list in its config file.
    pub list_hash: String,
    /// Boot of its host.
    pub boot_id: String,
    /// Number of its process.
    pub nonce: u64,
}

/// An identity that is being given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Who gives it.
    pub from: String,
    /// Repeats [`Told::nonce`].
    pub nonce: u64,
    /// The identity; never with founders.
    pub identity: Identity,
    /// Set while the group is forming.
    pub list_hash: Option<String>,
}

/// The member's door. Clones are the same.
#[derive(Clone)]
pub struct Door {
    pub(super) shared: Arc<Doorway>,
}

pub(super) struct Doorway {
    pub own: MemberName,
    pub secret: ClusterSecret,
    pub list: MemberList,
    pub data_dir: DataDir,
    pub boot_id: String,
    pub nonce: u64,
    pub store: LogStore,
    pub status: Arc<watch::Sender<GroupStatus>>,
    joiners: Mutex<BTreeMap<MemberName, Joiner>>,
    adopting: tokio::sync::Mutex<()>,
}

impl Door {
    pub(super) fn new(
        own: MemberName,
        secret: ClusterSecret,
        list: MemberList,
        data_dir: DataDir,
        store: LogStore,
        status: Arc<watch::Sender<GroupStatus>>,
    ) -> Door {
        let boot_id = super::boot_id();
        let shared = Doorway {
            own,
            secret,
            list,
            data_dir,
            boot_id,
            nonce: rand::random(),
            store,
            status,
            joiners: Mutex::default(),
            adopting: tokio::sync::Mutex::default(),
        };
        Door {
            shared: Arc::new(shared),
        }
    }

    /// Checks that the caller knows the secret and means this member.
    fn admit(&self, method: &str, from: &str, to: &str, proof: &str) -> Result<(), Refusal> {
        let call = Call {
            cluster_id: "",
            generation: 0,
            from,
            to,
            method,
        };
        if !self.shared.secret.is_proven(&call, proof) {
            return Err(Refusal::NotProven);
        }
        if to != self.shared.own.as_str() {
            return Err(Refusal::NotForUs(format!(
                "this is {}, not {to}",
                self.shared.own
            )));
        }
        Ok(())
    }

    /// Answers a probe.
    ///
    /// # Errors
    /// A stranger, or one who means another member.
    pub fn probed(&self, from: &str, to: &str, proof: &str) -> Result<Told, Refusal> {
        self.admit("Probe", from, to, proof)?;
        let identity = self.shared.store.identity();
        Ok(Told {
            name: self.shared.own.to_string(),
            store_is_empty: identity.is_none() && self.shared.store.is_pristine(),
            identity,
            data_dir: self.shared.data_dir.word().to_owned(),
            system_identifier: self.shared.data_dir.system_identifier().unwrap_or(0),
            list_hash: self.shared.list.hash().to_owned(),
            boot_id: self.shared.boot_id.clone(),
            nonce: self.shared.nonce,
        })
    }

    /// Takes an identity, durably, or says why not.
    ///
    /// # Errors
    /// A stranger; the store is not empty; the forming is not the one of our list.
    pub async fn offered(&self, offer: Offer, to: &str, proof: &str) -> Result<(), Refusal> {
        self.admit("Adopt", &offer.from, to, proof)?;
        let _one_at_a_time = self.shared.adopting.lock().await;
        if let Some(known) = self.shared.store.identity() {
            let same = known.cluster_id == offer.identity.cluster_id
                && known.generation == offer.identity.generation
                && known.node_id == offer.identity.node_id;
            return if same {
                Ok(())
            } else {
                Err(Refusal::NotForUs(format!(
                    "this store belongs to node {} of cluster {}",
                    known.node_id, known.cluster_id
                )))
            };
        }
        if let Some(why) = self.objection(&offer) {
            return Err(Refusal::NotForUs(why));
        }
        self.shared
            .store
            .adopt(offer.identity.clone())
            .await
            .map_err(|error: io::Error| {
                Refusal::Failed(format!("could not keep the identity: {error}"))
            })?;
        self.shared
            .status
            .send_replace(GroupStatus::Member(offer.identity));
        Ok(())
    }

    fn objection(&self, offer: &Offer) -> Option<String> {
        let Doorway {
            list,
            own,
            data_dir,
            ..
        } = &*self.shared;
        if offer.nonce != self.shared.nonce {
            return Some("meant for an earlier start of this member".to_owned());
        }
        if !self.shared.store.is_pristine() {
            return Some("the store is not empty".to_owned());
        }
        if !offer.identity.founders.is_empty() || offer.identity.node_id == 0 {
            return Some("not an identity for another member".to_owned());
        }
        if let Some(hash) = &offer.list_hash {
            if hash != list.hash() {
                return Some("the member lists differ".to_owned());
            }
            if offer.from != list.first().as_str() {
                return Some(format!("{} coordinates the forming", list.first()));
            }
            if list.place_of(own) != Some(offer.identity.node_id) {
                return Some("the id is not this member's place in the list".to_owned());
            }
            if matches!(data_dir, DataDir::Ours | DataDir::Foreign) {
                return Some(format!("the data directory is {}", data_dir.word()));
            }
        } else if *data_dir == DataDir::Foreign {
            return Some("the data directory belongs to somebody else".to_owned());
        }
        None
    }

    /// Takes note of a member that wants in; says what it is waiting for.
    ///
    /// # Errors
    /// A stranger, or this member belongs to no cluster itself.
    pub fn asked_to_join(&self, joiner: Joiner, to: &str, proof: &str) -> Result<String, Refusal> {
        self.admit("Join", joiner.name.as_str(), to, proof)?;
        if self.shared.store.identity().is_none() {
            return Err(Refusal::NotNow(
                "this member belongs to no cluster yet".to_owned(),
            ));
        }
        if self.shared.store.is_pristine() {
            return Ok("the group is being formed".to_owned());
        }
        let name = joiner.name.clone();
        let mut joiners = self
            .shared
            .joiners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Bounded: a name is listed once, and names are those of holders of the secret.
        if joiners.len() < 64 || joiners.contains_key(&name) {
            joiners.insert(name.clone(), joiner);
        }
        Ok(format!(
            "this host has an empty store and the cluster exists: run `clusterctl members replace \
             {name}`"
        ))
    }

    /// Members that asked to be let in during the last `within`.
    pub fn joiners(&self, within: std::time::Duration) -> Vec<Joiner> {
        let now = Instant::now();
        let joiners = self
            .shared
            .joiners
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        joiners
            .values()
            .filter(|joiner| now.saturating_duration_since(joiner.heard) <= within)
            .cloned()
            .collect()
    }

    /// Follows this member's way into the group.
    pub fn status(&self) -> watch::Receiver<GroupStatus> {
        self.shared.status.subscribe()
    }
}
