//! The other side: the same PostgreSQL with two standbys, made and started by hand as its manual says,
//! without any manager. Every parameter that is not a place or a name is taken from the running
//! primary it is compared with.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::Host;
use cluster_tests::{Cluster, Member, PATIENCE, wait_until};

use crate::Arguments;

/// Places, names, and what only a manager needs to be different.
const OWN: &[&str] = &[
    "cluster_name",
    "config_file",
    "data_directory",
    "external_pid_file",
    "hba_file",
    "ident_file",
    "listen_addresses",
    "port",
    "primary_conninfo",
    "primary_slot_name",
    "restart_after_crash",
    "restore_command",
    "synchronous_standby_names",
    "transaction_read_only",
    "unix_socket_directories",
];

/// Everything that was set on the primary, with its unit.
const SET: &str = "SELECT name || '=' || current_setting(name) FROM pg_settings \
                   WHERE source IN ('configuration file', 'command line', 'global', 'database', 'user') \
                   AND context <> 'internal' ORDER BY name";

/// A running primary with two standbys.
pub struct Plain {
    /// The hosts; the first has the primary.
    pub hosts: Cluster,
    /// The parameters both sides have.
    pub parameters: BTreeMap<String, String>,
}

impl Plain {
    /// Makes and starts it in the image of `ours`.
    pub fn start(arguments: &Arguments, ours: &Cluster, primary: usize, k: u32) -> Result<Self> {
        let hosts = arguments.wanted("bench-plain").make()?;
        let mut parameters = BTreeMap::new();
        for line in ours.sql(primary, SET)? {
            let (name, value) = line.split_once('=').context("a name and a value")?;
            // A dot: what a manager notes in its server; nobody else reads it.
            if !OWN.contains(&name) && !name.contains('.') {
                parameters.insert(name.to_owned(), value.to_owned());
            }
        }
        let plain = Self { hosts, parameters };
        plain.make_primary(ours, primary)?;
        for place in 1..plain.hosts.members.len() {
            plain.make_standby(place)?;
        }
        plain.confirm_by(k)?;
        Ok(plain)
    }

    /// As a power cut does: all three at once.
    pub fn stop(&self) -> Result<()> {
        let members = &self.hosts.members;
        members.iter().try_for_each(|member| member.host.kill_all())
    }

    /// Starts what was stopped, and waits until `k` confirm again.
    pub fn start_again(&self, k: u32) -> Result<()> {
        self.hosts.members.iter().try_for_each(start)?;
        self.confirm_by(k)
    }

    fn make_primary(&self, ours: &Cluster, primary: usize) -> Result<()> {
        let ask = |sql: &str| Ok::<_, anyhow::Error>(ours.sql(primary, sql)?.concat());
        let segment = ask("SELECT setting::bigint / 1048576 || '' FROM pg_settings \
                           WHERE name = 'wal_segment_size'")?;
        let locale = ask("SELECT datcollate FROM pg_database WHERE datname = 'postgres'")?;
        let mut words = vec![
            "--username=postgres".to_owned(),
            "--auth=trust".to_owned(),
            format!("--wal-segsize={segment}"),
            format!("--locale={locale}"),
            format!("--encoding={}", ask("SHOW server_encoding")?),
        ];
        if ask("SHOW data_checksums")? == "on" {
            words.push("--data-checksums".to_owned());
        }
        let member = &self.hosts.members[0];
        let mut initdb = member.host.command_as_postgres(&member.bin.join("initdb"));
        initdb.args(&words).arg("-D").arg(member.data_dir());
        Host::run(initdb).context("make the plain primary")?;
        write_private(
            &member.data_dir().join("pg_hba.conf"),
            "local all all trust\nhost all all 0.0.0.0/0 trust\nhost replication all 0.0.0.0/0 trust\n",
        )?;
        self.configure(member, "")?;
        start(member)
    }

    fn make_standby(&self, place: usize) -> Result<()> {
        let (upstream, member) = (&self.hosts.members[0], &self.hosts.members[place]);
        let slot = format!(
            "SELECT pg_create_physical_replication_slot('{}')",
            member.name
        );
        self.hosts.sql(0, &slot)?;
        let copy = member.bin.join("pg_basebackup");
        let mut copy = member.host.command_as_postgres(&copy);
        copy.args([
            "-h",
            &upstream.host.address,
            "-U",
            "postgres",
            "-c",
            "fast",
            "-X",
            "stream",
        ]);
        copy.arg("-D").arg(member.data_dir());
        Host::run(copy).context("copy the plain primary")?;
        let follow = format!(
            "primary_conninfo = 'host={} port=5432 user=postgres application_name={name}'\n\
             primary_slot_name = '{name}'\n",
            upstream.host.address,
            name = member.name
        );
        self.configure(member, &follow)?;
        write_private(&member.data_dir().join("standby.signal"), "")?;
        own(member)?;
        start(member)
    }

    /// Waits until both stream; then commits wait for `k` of them.
    fn confirm_by(&self, k: u32) -> Result<()> {
        let names: Vec<String> = self.hosts.members[1..]
            .iter()
            .map(|member| format!("\"{}\"", member.name))
            .collect();
        let names = match k {
            0 => String::new(),
            k => format!("ANY {k} ({})", names.join(",")),
        };
        let streaming = "SELECT count(*)::text FROM pg_stat_replication WHERE state = 'streaming'";
        self.wait_for(streaming, &names_count(&self.hosts))?;
        let set = format!("ALTER SYSTEM SET synchronous_standby_names = '{names}'");
        self.hosts.sql(0, &set)?;
        self.hosts.sql(0, "SELECT pg_reload_conf()")?;
        let counting = "SELECT count(*)::text FROM pg_stat_replication WHERE sync_state = 'quorum'";
        match k {
            0 => self.wait_for("SHOW synchronous_standby_names", ""),
            _ => self.wait_for(counting, &names_count(&self.hosts)),
        }
    }

    fn wait_for(&self, sql: &str, wanted: &str) -> Result<()> {
        wait_until(sql, PATIENCE, || match self.hosts.sql(0, sql) {
            Ok(found) if found.concat() == wanted => Ok(()),
            seen => Err(format!("{seen:?}")),
        })
    }

    /// The whole of `postgresql.conf`: what initdb wrote is replaced, so both sides have the same
    /// built-in defaults beneath.
    fn configure(&self, member: &Member, more: &str) -> Result<()> {
        let mut text = String::new();
        for (name, value) in &self.parameters {
            let _ = writeln!(text, "{name} = '{}'", value.replace('\'', "''"));
        }
        let _ = writeln!(text, "listen_addresses = '{}'", member.host.address);
        let _ = writeln!(
            text,
            "unix_socket_directories = '{}'",
            member.volume().display()
        );
        text.push_str(more);
        write_private(&member.data_dir().join("postgresql.conf"), &text)?;
        own(member)
    }
}

fn names_count(hosts: &Cluster) -> String {
    (hosts.members.len() - 1).to_string()
}

/// Files written here belong to root at first.
fn own(member: &Member) -> Result<()> {
    let mut own = std::process::Command::new("chown");
    own.args(["-R", "postgres:postgres"]).arg(member.data_dir());
    Host::run(own).map(drop)
}

fn start(member: &Member) -> Result<()> {
    // Through a shell, because the server keeps what pg_ctl was given as standard output.
    let command = format!(
        "exec {} -D {} -w -t 60 -l {} start >/dev/null",
        member.bin.join("pg_ctl").display(),
        member.data_dir().display(),
        member.volume().join("server.log").display()
    );
    let mut shell = member.host.command_as_postgres(std::path::Path::new("sh"));
    shell.args(["-c", &command]);
    let started = Host::run(shell);
    let log = member.volume().join("server.log");
    started.with_context(|| cluster_tests::logs::tail(&log, 20))?;
    ensure!(member.postmaster_pid().is_ok(), "it did not start");
    Ok(())
}
