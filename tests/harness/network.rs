//! The network of a pretended cluster: one namespace a host, all on a bridge that lies in a
//! namespace of its own, where the clients live too. Nothing of it is seen outside.
//!
//! Cuts are packet filter rules inside the hosts, so each direction and each port can be cut alone.

use std::io::Write;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Network part of the addresses, the same in each test: namespaces keep them apart.
const NETWORK: &str = "10.77.0";
/// Last part of the clients' address.
const CLIENTS: u8 = 254;

/// The empty table whose rules make the cuts.
const TABLE: &str = "table inet cuts {
  chain incoming { type filter hook input priority 0; policy accept; }
  chain outgoing { type filter hook output priority 0; policy accept; }
}";

/// The bridge and its namespaces.
#[derive(Debug)]
pub struct Network {
    prefix: String,
}

/// What of a host's traffic is dropped.
#[derive(Clone, Debug)]
pub enum Cut {
    /// Everything but loopback: nobody reaches it and it reaches nobody.
    All,
    /// Both directions between it and these addresses.
    Peers(Vec<String>),
    /// What these addresses send to it; it is still heard by them.
    From(Vec<String>),
    /// What it sends to these addresses; it still hears them.
    To(Vec<String>),
    /// Both directions of connections to this port, on it and from it.
    Port(u16),
    /// The same, between it and these addresses only: clients still reach the port.
    PeersPort(Vec<String>, u16),
}

impl Network {
    /// Makes the namespace of bridge and clients.
    ///
    /// # Errors
    /// Not root, or no `ip`.
    pub fn new(prefix: &str) -> Result<Self> {
        let hub = format!("{prefix}-hub");
        ip(&["netns", "add", &hub])?;
        ip(&["-n", &hub, "link", "set", "lo", "up"])?;
        ip(&[
            "-n",
            &hub,
            "link",
            "add",
            "bridge0",
            "type",
            "bridge",
            "forward_delay",
            "0",
        ])?;
        ip(&[
            "-n",
            &hub,
            "addr",
            "add",
            &format!("{NETWORK}.{CLIENTS}/24"),
            "dev",
            "bridge0",
        ])?;
        ip(&["-n", &hub, "link", "set", "bridge0", "up"])?;
        Ok(Self {
            prefix: prefix.to_owned(),
        })
    }

    /// Namespace where clients live.
    pub fn hub(&self) -> String {
        format!("{}-hub", self.prefix)
    }

    /// Network of all hosts, as hba and rules write it.
    pub fn range(&self) -> String {
        format!("{NETWORK}.0/24")
    }

    /// Where clients come from.
    pub fn client_address(&self) -> String {
        format!("{NETWORK}.{CLIENTS}")
    }

    /// Adds a host; its namespace and address.
    ///
    /// # Errors
    /// The number is taken.
    pub fn add_host(&self, name: &str, number: u8) -> Result<(String, String)> {
        let (hub, space) = (self.hub(), format!("{}-{name}", self.prefix));
        let address = format!("{NETWORK}.{number}");
        let cable = format!("cable{number}");
        ip(&["netns", "add", &space])?;
        ip(&["-n", &space, "link", "set", "lo", "up"])?;
        ip(&[
            "-n", &hub, "link", "add", &cable, "type", "veth", "peer", "name", "eth0", "netns",
            &space,
        ])?;
        ip(&["-n", &hub, "link", "set", &cable, "master", "bridge0", "up"])?;
        ip(&[
            "-n",
            &space,
            "addr",
            "add",
            &format!("{address}/24"),
            "dev",
            "eth0",
        ])?;
        ip(&["-n", &space, "link", "set", "eth0", "up"])?;
        filter(&space, TABLE)?;
        Ok((space, address))
    }
}

/// Adds a cut to a host's namespace.
///
/// # Errors
/// No `nft`.
pub fn cut(namespace: &str, what: &Cut) -> Result<()> {
    let set = |addresses: &[String]| format!("{{ {} }}", addresses.join(", "));
    let rules = match what {
        Cut::All => vec![
            "incoming iifname != lo drop".to_owned(),
            "outgoing oifname != lo drop".to_owned(),
        ],
        Cut::Peers(peers) => vec![
            format!("incoming ip saddr {} drop", set(peers)),
            format!("outgoing ip daddr {} drop", set(peers)),
        ],
        Cut::From(peers) => vec![format!("incoming ip saddr {} drop", set(peers))],
        Cut::To(peers) => vec![format!("outgoing ip daddr {} drop", set(peers))],
        Cut::Port(port) => ["incoming", "outgoing"]
            .iter()
            .flat_map(|chain| {
                [
                    format!("{chain} iifname != lo oifname != lo tcp dport {port} drop"),
                    format!("{chain} iifname != lo oifname != lo tcp sport {port} drop"),
                ]
            })
            .map(|rule| {
                // Each chain knows one of the two interfaces only.
                let unknown = if rule.starts_with("incoming") {
                    "oifname"
                } else {
                    "iifname"
                };
                rule.replace(&format!("{unknown} != lo "), "")
            })
            .collect(),
        Cut::PeersPort(peers, port) => {
            let (from, to) = (
                format!("incoming ip saddr {}", set(peers)),
                format!("outgoing ip daddr {}", set(peers)),
            );
            let of = |way: &str, end: &str| format!("{way} tcp {end} {port} drop");
            vec![
                of(&from, "dport"),
                of(&from, "sport"),
                of(&to, "dport"),
                of(&to, "sport"),
            ]
        }
    };
    let text: Vec<String> = rules
        .iter()
        .map(|rule| format!("add rule inet cuts {rule}"))
        .collect();
    filter(namespace, &text.join("\n"))
}

/// Takes away every cut of a host.
///
/// # Errors
/// No `nft`.
pub fn heal(namespace: &str) -> Result<()> {
    filter(
        namespace,
        "flush chain inet cuts incoming\nflush chain inet cuts outgoing",
    )
}

fn filter(namespace: &str, text: &str) -> Result<()> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{namespace}"))
        .args(["--", "nft", "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .context("start nft")?;
    if let Some(mut input) = child.stdin.take() {
        writeln!(input, "{text}").context("write to nft")?;
    }
    let status = child.wait().context("wait for nft")?;
    if !status.success() {
        bail!("nft refused in {namespace}: {text}");
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let answer = Command::new("ip")
        .args(arguments)
        .output()
        .context("start ip")?;
    if !answer.status.success() {
        let talk = String::from_utf8_lossy(&answer.stderr);
        bail!(
            "ip {}: {} (root is needed)",
            arguments.join(" "),
            talk.trim()
        );
    }
    Ok(())
}
