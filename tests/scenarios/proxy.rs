//! Real clients: HAProxy with the configuration we ship, and libpq with several hosts.

use std::path::Path;

use anyhow::{Result, ensure};
use cluster_tests::config::PASSWORD;
use cluster_tests::host::Host;
use cluster_tests::proxy::{Proxy, READ_PORT, WRITE_PORT};
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};

/// Asks through a connection string, as an application would.
fn psql(cluster: &Cluster, place: &str, sql: &str) -> Result<String> {
    let mut psql = cluster.clients.command(Path::new("psql"));
    let place =
        format!("{place} user=postgres password={PASSWORD} dbname=postgres connect_timeout=2");
    psql.args([&place, "-AtXc", sql]);
    Ok(Host::run(psql)?.trim().to_owned())
}

#[test]
fn haproxy_sends_writes_to_the_primary_and_reads_to_standbys() -> Result<()> {
    let mut cluster = Wanted::new("haproxy").start()?;
    let proxy = Proxy::start(&cluster)?;
    let server = "SELECT host(inet_server_addr())";
    let (write, read) = (
        format!("host=127.0.0.1 port={WRITE_PORT}"),
        format!("host=127.0.0.1 port={READ_PORT}"),
    );
    let primary = cluster.wait_primary(PATIENCE)?;
    let goes_to_primary = |primary: usize, cluster: &Cluster| {
        let address = cluster.members[primary].host.address.clone();
        wait_until(
            "the write port leads to the primary",
            PATIENCE,
            || match psql(cluster, &write, server) {
                Ok(found) if found == address => Ok(()),
                seen => Err(format!("{seen:?}")),
            },
        )
    };
    goes_to_primary(primary, &cluster)?;
    wait_until("the read port leads to standbys", PATIENCE, || {
        let seen = psql(&cluster, &read, "SELECT pg_is_in_recovery()");
        if seen.as_ref().is_ok_and(|text| text == "t") {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })?;
    cluster.members[primary].kill_host()?;
    let new = cluster.wait_other_primary(primary, PATIENCE)?;
    goes_to_primary(new, &cluster)?;
    drop(proxy);
    cluster.finish()
}

#[test]
fn libpq_with_several_hosts_finds_the_primary() -> Result<()> {
    let mut cluster = Wanted::new("libpq").start()?;
    let hosts: Vec<&str> = cluster
        .members
        .iter()
        .map(|m| m.host.address.as_str())
        .collect();
    let place = format!(
        "host={} port=5432 target_session_attrs=read-write",
        hosts.join(",")
    );
    let old = cluster.wait_primary(PATIENCE)?;
    let server = "SELECT host(inet_server_addr())";
    ensure!(psql(&cluster, &place, server)? == cluster.members[old].host.address);
    cluster.members[old].kill_host()?;
    let new = cluster.wait_other_primary(old, PATIENCE)?;
    wait_until("libpq finds the new primary", PATIENCE, || {
        match psql(&cluster, &place, server) {
            Ok(found) if found == cluster.members[new].host.address => Ok(()),
            seen => Err(format!("{seen:?}")),
        }
    })?;
    cluster.finish()
}
