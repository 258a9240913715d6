//! Who may connect: `pg_hba.conf` with the gate, and the user map that lets the daemon in.

use std::fmt::Write as _;

use super::config_files::HBA;
use super::options::{ConfigInputs, Gate, MemberAddress};
use super::{Postgres, conninfo, durable_file};

const GATE_OPEN: &str = "# gate: open";
const GATE_CLOSED: &str = "# gate: closed";

impl Postgres {
    /// Whether the hba file on disk lets clients in.
    pub(super) fn hba_is_open(&self) -> bool {
        durable_file::read(&self.state_path(HBA))
            .ok()
            .flatten()
            .is_some_and(|text| text.lines().any(|line| line == GATE_OPEN))
    }

    /// The daemon comes in by `peer`: as PostgreSQL's user, as its own, and as root if it is root.
    pub(super) fn ident(&self) -> String {
        let superuser = conninfo::quote_identifier(&self.options().superuser);
        let mut users = vec![self.options().os_user.clone()];
        if let Ok(Some(me)) = nix::unistd::User::from_uid(nix::unistd::geteuid())
            && !users.contains(&me.name)
        {
            users.push(me.name);
        }
        users
            .iter()
            .map(|user| format!("clusterd {user} {superuser}\n"))
            .chain(self.imported().ident.iter().map(|line| format!("{line}\n")))
            .collect()
    }

    pub(super) fn hba(&self, inputs: &ConfigInputs) -> String {
        let options = self.options();
        let gate = match inputs.gate {
            Gate::Open => GATE_OPEN,
            Gate::Closed => GATE_CLOSED,
        };
        let superuser = conninfo::quote_identifier(&options.superuser);
        let mut text = format!("# Written by clusterd; edits are lost.\n{gate}\n");
        let _ = writeln!(text, "local all,replication {superuser} peer map=clusterd");
        let kind = if options
            .replication_tls
            .sslmode
            .as_deref()
            .is_some_and(requires_tls)
        {
            "hostssl"
        } else {
            "host"
        };
        let replication = conninfo::quote_identifier(&options.replication.name);
        let rewind = conninfo::quote_identifier(&options.rewind.name);
        for address in inputs.members.iter().flat_map(hba_addresses) {
            let _ = writeln!(
                text,
                "{kind} replication {replication} {address} scram-sha-256"
            );
            let _ = writeln!(text, "{kind} postgres {rewind} {address} scram-sha-256");
        }
        // Nobody else may stream under any name (hazards A13), nor use the members' roles.
        let _ = writeln!(text, "host replication {replication} all reject");
        let _ = writeln!(text, "host all {replication},{rewind} all reject");
        if inputs.gate == Gate::Open {
            for line in options.hba_lines.iter().chain(&self.imported().hba) {
                let _ = writeln!(text, "{}", line.replace(['\n', '\r'], " "));
            }
        }
        text
    }
}

fn requires_tls(sslmode: &str) -> bool {
    ["require", "verify-ca", "verify-full"].contains(&sslmode)
}

fn hba_addresses(member: &MemberAddress) -> Vec<String> {
    if member.addresses.is_empty() {
        return member.host_name.clone().into_iter().collect();
    }
    let with_length = |address: &std::net::IpAddr| {
        format!("{address}/{}", if address.is_ipv4() { 32 } else { 128 })
    };
    member.addresses.iter().map(with_length).collect()
}
