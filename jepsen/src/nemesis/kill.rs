//! Processes killed: one kind of them, or all of a host at once.

use anyhow::Result;
use cluster_tests::Member;

use super::Fault;

/// Kills. A process that is gone already is no failure: that is what was wanted.
pub fn begin(fault: Fault, member: &mut Member) -> Result<()> {
    let found = match fault {
        Fault::KillHost => return member.kill_host(),
        Fault::KillDaemon if member.is_running() => return member.kill_daemon(),
        Fault::KillGuard => member.kill_guard(),
        Fault::KillPostgres => member.kill_postmaster(),
        _ => Ok(()),
    };
    if let Err(error) = found {
        eprintln!("           {}: {error:#}", member.name);
    }
    Ok(())
}
