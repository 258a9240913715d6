//! What a server has to know of the other members: from where they stream, and a slot for each.

use cluster_core::model::{ClusterState, Lsn, MemberKind, MemberName};

use crate::postgres::{MemberAddress, WantedSlot};

/// Who may stream from this member: every other one with a PostgreSQL, from where Raft knows it.
pub fn member_addresses(me: &MemberName, state: &ClusterState) -> Vec<MemberAddress> {
    state
        .members
        .iter()
        .filter(|(name, member)| *name != me && member.kind == MemberKind::Database)
        .filter_map(|(name, member)| hba_address(name, &member.addresses.postgres))
        .collect()
}

fn hba_address(name: &MemberName, address: &str) -> Option<MemberAddress> {
    let (host, _port) = address.rsplit_once(':')?;
    let host = host.trim_matches(['[', ']']);
    let mut addresses: Vec<std::net::IpAddr> = host.parse().into_iter().collect();
    // Between loopback addresses of one host every connection comes from the first of them.
    let first = std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
    if addresses
        .iter()
        .any(|address| address.is_loopback() && *address != first)
    {
        addresses.push(first);
    }
    let host_name = addresses.is_empty().then(|| host.to_owned());
    Some(MemberAddress {
        member: name.clone(),
        addresses,
        host_name,
    })
}

/// A slot for every other member with a PostgreSQL, moved along to where that member is known to be.
pub fn wanted_slots(
    me: &MemberName,
    state: &ClusterState,
    reached: &[(MemberName, Lsn)],
) -> Vec<WantedSlot> {
    state
        .databases()
        .filter(|(name, _)| *name != me)
        .map(|(name, _)| WantedSlot {
            name: name.slot_name(),
            reached: reached
                .iter()
                .find(|(known, _)| known == name)
                .map(|(_, lsn)| *lsn),
        })
        .collect()
}
