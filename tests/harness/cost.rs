//! What processes of a host cost: time on a processor and resident memory.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::host::Host;

/// The two processes of a member that are ours.
pub const OURS: &[&str] = &["clusterd", "clusterd-guard"];

/// Cost of some processes, added up.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// Time on a processor.
    pub busy: Duration,
    /// Resident memory, bytes.
    pub resident: u64,
}

/// Cost so far of the processes of these names.
///
/// # Errors
/// One has just ended.
pub fn of_host(host: &Host, names: &[&str]) -> Result<Cost> {
    let mut sum = Cost::default();
    for (pid, name) in host.processes() {
        if names.contains(&name.as_str()) {
            let cost = of_process(pid).with_context(|| format!("cost of {name}"))?;
            sum.busy += cost.busy;
            sum.resident += cost.resident;
        }
    }
    Ok(sum)
}

fn of_process(pid: i32) -> Result<Cost> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit_once(')')
        .context("a name in brackets")?
        .1
        .split_whitespace()
        .collect();
    let number = |place: usize| fields.get(place).and_then(|text| text.parse::<u64>().ok());
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; 24 is pages of 4 KiB.
    let ticks = number(11)
        .zip(number(12))
        .map(|(user, system)| user + system)
        .context("times")?;
    let pages = number(21).context("resident pages")?;
    Ok(Cost {
        busy: Duration::from_millis(10 * ticks),
        resident: 4096 * pages,
    })
}
