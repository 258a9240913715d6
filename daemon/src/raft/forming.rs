//! Forming the group exactly once, or being let into one that exists.
//!
//! The group forms only when every listed member is reachable and says: empty store, empty or
//! adoptable data directory, same list. There is no timeout that forms it with fewer [F3 F4]. The
//! first of the sorted list coordinates: it makes its own identity durable, gives every other its
//! identity, and only then lets Raft begin. After a crash it resumes at the same place: as long as
//! its own log is empty nobody can have voted.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::model::lease::LeaseTimes;
use cluster_proto::v1;
use cluster_proto::v1::raft_client::RaftClient;
use futures_util::future::join_all;
use tonic::transport::ClientTlsConfig;

use super::group::{ADOPTABLE, DataDir, Door, Doorway, GroupStatus, ListedMember, STANDBY};
use super::handshake::{Call, PROOF_KEY};
use super::network::Channels;
use super::types::{Founder, Identity, PeerNode};

/// Pause between two looks at the others.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How long one question to another member may take.
const ASK_LIMIT: Duration = Duration::from_secs(2);

/// What it takes to call on other members' doors.
#[derive(Clone)]
pub(super) struct Caller {
    pub channels: Arc<Channels>,
    pub tls: Option<ClientTlsConfig>,
    pub times: LeaseTimes,
    pub own: String,
    pub secret: super::handshake::ClusterSecret,
}

impl Caller {
    fn client(&self, address: &str) -> Result<RaftClient<tonic::transport::Channel>, String> {
        let channel = self.channels.to(address, self.tls.as_ref(), &self.times);
        channel
            .map(RaftClient::new)
            .map_err(|error| format!("no address: {error}"))
    }

    fn request<T>(&self, method: &str, to: &str, message: T) -> Result<tonic::Request<T>, String> {
        let call = Call {
            cluster_id: "",
            generation: 0,
            from: &self.own,
            to,
            method,
        };
        let proof = self.secret.proof(&call);
        let mut request = tonic::Request::new(message);
        let proof = proof
            .parse()
            .map_err(|_| "the proof is no metadata".to_owned())?;
        request.metadata_mut().insert(PROOF_KEY, proof);
        Ok(request)
    }

    /// Asks `to` what it knows.
    pub async fn probe(&self, to: &str, address: &str) -> Result<v1::ProbeReply, String> {
        let message = v1::ProbeRequest {
            from: self.own.clone(),
            to: to.to_owned(),
        };
        let request = self.request("Probe", to, message)?;
        let mut client = self.client(address)?;
        let reply = limited(client.probe(request)).await?;
        if reply.name == to {
            Ok(reply)
        } else {
            Err(format!("{} answers there", reply.name))
        }
    }

    /// Gives `to` the identity of `node_id`; repeating it is safe.
    pub async fn adopt(
        &self,
        to: &str,
        address: &str,
        identity: &Identity,
        list_hash: Option<&str>,
    ) -> Result<(), String> {
        let told = self.probe(to, address).await?;
        if !told.cluster_id.is_empty() {
            let same = told.cluster_id == identity.cluster_id
                && told.generation == identity.generation
                && told.node_id == identity.node_id;
            return if same {
                Ok(())
            } else {
                Err(format!(
                    "it is node {} of cluster {}",
                    told.node_id, told.cluster_id
                ))
            };
        }
        let message = v1::AdoptRequest {
            from: self.own.clone(),
            to: to.to_owned(),
            nonce: told.nonce,
            cluster_id: identity.cluster_id.clone(),
            generation: identity.generation,
            node_id: identity.node_id,
            list_hash: list_hash.unwrap_or_default().to_owned(),
        };
        let request = self.request("Adopt", to, message)?;
        let mut client = self.client(address)?;
        limited(client.adopt(request)).await.map(|_| ())
    }

    async fn ask_to_join(&self, to: &ListedMember, own: &ListedMember, nonce: u64) -> String {
        let name = to.name.as_str();
        let message = v1::JoinRequest {
            from: own.name.to_string(),
            to: name.to_owned(),
            address: own.address.clone(),
            nonce,
            kind: format!("{:?}", own.kind).to_lowercase(),
        };
        let answer = async {
            let request = self.request("Join", name, message)?;
            let mut client = self.client(&to.address)?;
            limited(client.join(request)).await
        };
        answer
            .await
            .map_or_else(|why| why, |reply| reply.waiting_for)
    }
}

async fn limited<T>(
    call: impl Future<Output = Result<tonic::Response<T>, tonic::Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(ASK_LIMIT, call).await {
        Err(_elapsed) => Err(format!("no answer within {ASK_LIMIT:?}")),
        Ok(Err(status)) if status.code() == tonic::Code::Unavailable => {
            Err("unreachable".to_owned())
        }
        Ok(Err(status)) => Err(status.message().to_owned()),
        Ok(Ok(reply)) => Ok(reply.into_inner()),
    }
}

/// What the others' answers add up to.
#[derive(Debug, PartialEq, Eq)]
enum Finding {
    /// Every listed member is ready.
    Complete,
    /// These members know a cluster: this attempt is over.
    ClusterExists(Vec<usize>),
    /// Somebody is missing or says no.
    Waiting(String),
}

/// Returns when this member has an identity, however long that takes.
pub(super) async fn find_identity(door: &Door, caller: &Caller) -> Identity {
    let doorway = &*door.shared;
    let mut said = String::new();
    loop {
        if let Some(identity) = doorway.store.identity() {
            if !identity.founders.is_empty() && doorway.store.is_pristine() {
                give_identities(doorway, caller, &identity).await;
            }
            doorway
                .status
                .send_replace(GroupStatus::Member(identity.clone()));
            return identity;
        }
        let waiting = look(doorway, caller).await;
        if let Some(why) = waiting
            && doorway.store.identity().is_none()
        {
            if said != why {
                tracing::info!(reason = "group-not-formed", "{why}");
                said.clone_from(&why);
            }
            doorway.status.send_replace(GroupStatus::Waiting(why));
            let mut status = doorway.status.subscribe();
            let is_member = status.wait_for(|status| matches!(status, GroupStatus::Member(_)));
            // Elapsed: look again. The sender lives as long as the door.
            let _ = tokio::time::timeout(LOOK_EVERY, is_member).await;
        }
    }
}

/// One look at all others; says what is waited for.
async fn look(doorway: &Doorway, caller: &Caller) -> Option<String> {
    let members = doorway.list.members();
    let answers = join_all(members.iter().map(|member| async {
        if member.name == doorway.own {
            return None;
        }
        Some(caller.probe(member.name.as_str(), &member.address).await)
    }))
    .await;
    match judge(doorway, &answers) {
        Finding::Waiting(why) => Some(why),
        Finding::ClusterExists(knowing) => {
            let own = members.iter().find(|member| member.name == doorway.own)?;
            let mut waiting = None;
            for place in knowing {
                waiting = Some(
                    caller
                        .ask_to_join(&members[place], own, doorway.nonce)
                        .await,
                );
            }
            waiting
        }
        Finding::Complete if *doorway.list.first() == doorway.own => found(doorway)
            .await
            .err()
            .map(|error| format!("could not keep the identity: {error}")),
        Finding::Complete => Some(format!("waiting for {} to form it", doorway.list.first())),
    }
}

fn judge(doorway: &Doorway, answers: &[Option<Result<v1::ProbeReply, String>>]) -> Finding {
    let members = doorway.list.members();
    let told = |place: usize| match &answers[place] {
        Some(Ok(told)) => Some(told),
        _ => None,
    };
    let knowing: Vec<usize> = (0..members.len())
        .filter(|place| told(*place).is_some_and(|told| !told.cluster_id.is_empty()))
        .collect();
    if !knowing.is_empty() {
        return Finding::ClusterExists(knowing);
    }
    let (mut adoptable, mut standbys) = (Vec::new(), Vec::new());
    for (member, answer) in members.iter().zip(answers) {
        let name = &member.name;
        let (data_dir, system) = match answer {
            None => (
                doorway.data_dir.word(),
                doorway.data_dir.system_identifier().unwrap_or(0),
            ),
            Some(Err(why)) => return Finding::Waiting(format!("waiting for {name}: {why}")),
            Some(Ok(told)) if told.list_hash != doorway.list.hash() => {
                return Finding::Waiting(format!(
                    "the member list of {name} differs from ours (make them the same)"
                ));
            }
            Some(Ok(told)) if !told.store_is_empty => {
                return Finding::Waiting(format!("the Raft store of {name} is not empty"));
            }
            Some(Ok(told)) => (told.data_dir.as_str(), told.system_identifier),
        };
        if data_dir == ADOPTABLE {
            adoptable.push((name.to_string(), system));
        } else if data_dir == STANDBY {
            standbys.push((name.to_string(), system));
        } else if data_dir != DataDir::Empty.word() && data_dir != DataDir::None.word() {
            return Finding::Waiting(format!(
                "the data directory of {name} is {data_dir}: it holds data that no voter of a \
                 group vouches for (move it aside, or take it over)"
            ));
        }
    }
    databases(&adoptable, &standbys).map_or(Finding::Complete, Finding::Waiting)
}

/// What is wrong with the databases that members bring, each with its name and system identifier:
/// one may bring the cluster's first data, and others may bring standbys of exactly that.
fn databases(adoptable: &[(String, u64)], standbys: &[(String, u64)]) -> Option<String> {
    let names = |them: &[(String, u64)]| -> String {
        let names: Vec<&str> = them.iter().map(|(name, _)| name.as_str()).collect();
        names.join(" and ")
    };
    if adoptable.len() > 1 {
        return Some(format!(
            "{} each bring a database; one may (take its standbys over with clusterd --take-over, or \
             empty the data directories of the others: they are cloned)",
            names(adoptable)
        ));
    }
    let Some((primary, system)) = adoptable.first() else {
        return (!standbys.is_empty()).then(|| {
            format!(
                "{}: a standby is taken over together with its primary, which no member brings \
                 (start clusterd --take-over on the primary's host)",
                names(standbys)
            )
        });
    };
    let strangers: Vec<String> = standbys
        .iter()
        .filter(|(_, of)| of != system)
        .map(|(name, of)| format!("{name} (system identifier {of})"))
        .collect();
    (!strangers.is_empty()).then(|| {
        format!(
            "{} is no standby of the database that {primary} brings (system identifier {system}): \
             end clusterd there, and let that member begin with an empty data directory",
            strangers.join(" and ")
        )
    })
}

/// The first step of forming, and the only one that cannot be taken back.
async fn found(doorway: &Doorway) -> std::io::Result<()> {
    let node = |member: &ListedMember| PeerNode {
        name: member.name.to_string(),
        address: member.address.clone(),
    };
    let founders: Vec<Founder> = (1..)
        .zip(doorway.list.members())
        .map(|(node_id, member)| Founder {
            node_id,
            node: node(member),
        })
        .collect();
    let identity = Identity {
        cluster_id: format!("{:032x}", rand::random::<u128>()),
        generation: 1,
        node_id: 1,
        founders,
    };
    tracing::info!(cluster = identity.cluster_id, "forming the group");
    doorway.store.adopt(identity).await
}

/// Gives every other founder its identity; returns when all have it on disk.
async fn give_identities(doorway: &Doorway, caller: &Caller, own: &Identity) {
    for founder in &own.founders {
        if founder.node_id == own.node_id {
            continue;
        }
        let identity = Identity {
            node_id: founder.node_id,
            founders: Vec::new(),
            ..own.clone()
        };
        let PeerNode { name, address } = &founder.node;
        loop {
            let given = caller
                .adopt(name, address, &identity, Some(doorway.list.hash()))
                .await;
            let Err(why) = given else { break };
            doorway.status.send_replace(GroupStatus::Waiting(format!(
                "forming: waiting for {name}: {why}"
            )));
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::databases;

    fn brought(names: &[(&str, u64)]) -> Vec<(String, u64)> {
        let owned = names.iter().map(|(name, of)| ((*name).to_owned(), *of));
        owned.collect()
    }

    #[test]
    fn one_database_and_its_own_standbys_may_be_brought_and_nothing_else() {
        let ask = |primaries: &[(&str, u64)], standbys: &[(&str, u64)]| {
            databases(&brought(primaries), &brought(standbys))
        };
        assert_eq!(ask(&[], &[]), None);
        assert_eq!(ask(&[("a", 7)], &[]), None);
        assert_eq!(ask(&[("a", 7)], &[("b", 7), ("c", 7)]), None);
        let told = |primaries, standbys| ask(primaries, standbys).unwrap_or_default();
        assert!(told(&[("a", 7), ("b", 7)], &[]).contains("a and b each bring"));
        assert!(told(&[], &[("b", 7)]).contains("which no member brings"));
        let why = told(&[("a", 7)], &[("b", 7), ("c", 8)]);
        assert!(
            why.starts_with("c (system identifier 8) is no standby"),
            "{why}"
        );
        let why = told(&[("a", 7)], &[("b", 0)]);
        assert!(
            why.contains("is no standby"),
            "an older version says none: {why}"
        );
    }
}
