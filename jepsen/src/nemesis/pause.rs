//! Processes that stand still and come back, believing no time has passed.

use anyhow::Result;
use cluster_tests::Member;
use cluster_tests::member::signal;
use nix::sys::signal::Signal;

use super::Fault;

/// Stops. A process that is not there cannot be stopped: that is told, and is no failure.
pub fn begin(fault: Fault, member: &Member) -> Result<()> {
    let done = match fault {
        Fault::FreezeHost => return member.host.freeze(),
        Fault::FreezePostgres => member.stop_postgres(),
        Fault::FreezeReplication => freeze_replication(member),
        _ => member.stop_daemon(),
    };
    if let Err(error) = done {
        eprintln!("           {}: {error:#}", member.name);
    }
    Ok(())
}

fn freeze_replication(member: &Member) -> Result<()> {
    let all = member.postgres_processes();
    let is_it = |title: &str| {
        title
            .split_whitespace()
            .any(|word| word == "walreceiver" || word == "walsender")
    };
    match all.iter().find(|(_, title)| is_it(title)) {
        Some((pid, _)) => signal(*pid, Signal::SIGSTOP),
        None => anyhow::bail!("nobody replicates: {all:?}"),
    }
}
