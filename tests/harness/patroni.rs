//! Patroni with etcd on a cluster's hosts, as a team runs it that has not moved yet: one etcd and one
//! Patroni a host, from the distribution's packages, PostgreSQL in the members' data directories.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use crate::cluster::{Cluster, PATIENCE, write_private};
use crate::config::PASSWORD;
use crate::host::{Host, log_file};
use crate::member::{HTTP_PORT, Member, POSTGRES_PORT, signal};
use crate::orphans;
use crate::wait::wait_until;

/// Where the packages put them.
const PATRONI: &str = "/usr/bin/patroni";
const PATRONICTL: &str = "/usr/bin/patronictl";
const ETCD: &str = "/usr/bin/etcd";
/// How long Patroni may take to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// A running Patroni cluster on the hosts of one that does not run yet. Dropped before the cluster.
#[derive(Debug)]
pub struct Patroni {
    hosts: Vec<Place>,
    etcds: Vec<Child>,
    daemons: Vec<Option<Child>>,
}

#[derive(Debug)]
struct Place {
    host: Host,
    file: PathBuf,
    log: PathBuf,
}

/// The name of a member in Patroni: one that Matriarch has no such name for.
pub fn name(place: usize) -> String {
    format!("pg_{}", place + 1)
}

impl Patroni {
    /// Starts etcd everywhere, Patroni on the first host, which makes the database, and then on the
    /// others, which clone it. `dynamic` is `bootstrap.dcs`, `own` the rest of the table `postgresql`,
    /// both as indented YAML.
    ///
    /// # Errors
    /// A package is missing; or it did not become a primary with streaming standbys.
    pub fn start(cluster: &Cluster, dynamic: &str, own: &str) -> Result<Patroni> {
        for program in [PATRONI, PATRONICTL, ETCD] {
            ensure!(
                Path::new(program).exists(),
                "{program} is not there (cargo xtask setup installs it)"
            );
        }
        let hosts = cluster.members.iter().enumerate();
        let hosts = hosts.map(|(place, member)| {
            let file = member.folder.join("patroni.yml");
            write_private(&file, &patroni_yml(cluster, place, dynamic, own))?;
            give_away(&file)?;
            let (host, log) = (member.host.clone(), member.folder.join("patroni.log"));
            anyhow::Ok(Place { host, file, log })
        });
        let mut patroni = Patroni {
            hosts: hosts.collect::<Result<_>>()?,
            etcds: Vec::new(),
            daemons: cluster.members.iter().map(|_| None).collect(),
        };
        for member in &cluster.members {
            patroni.etcds.push(start_etcd(cluster, member)?);
        }
        patroni.start_on(0)?;
        wait_until("Patroni's first primary", PATIENCE, || {
            match cluster.get(0, "/primary") {
                Ok(answer) if answer.status == 200 => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })?;
        for place in 1..cluster.members.len() {
            patroni.start_on(place)?;
        }
        patroni.wait_streaming(cluster)?;
        Ok(patroni)
    }

    /// Waits until one member is Patroni's primary and all others stream; the primary.
    ///
    /// # Errors
    /// Not in time.
    pub fn wait_streaming(&self, cluster: &Cluster) -> Result<usize> {
        let wanted = cluster.members.len() - 1;
        wait_until("Patroni's standbys stream", PATIENCE, || {
            let [primary] = cluster.primaries()[..] else {
                return Err(cluster.seen());
            };
            let sql = "SELECT application_name FROM pg_stat_replication WHERE state = 'streaming'";
            match cluster.sql(primary, sql) {
                Ok(names) if names.len() == wanted => Ok(primary),
                other => Err(format!("{other:?}")),
            }
        })
    }

    /// Starts Patroni on a host, as its unit does.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start_on(&mut self, place: usize) -> Result<()> {
        let Place { host, file, log } = &self.hosts[place];
        let output = log_file(log)?;
        let mut command = host.command_as_postgres(Path::new("sh"));
        // It makes a relative socket directory, and with it the data directory, open to all; PostgreSQL
        // refuses that on a clone.
        command.args(["-c", "umask 0077 && exec \"$0\" \"$1\"", PATRONI]);
        command.arg(file).stdin(Stdio::null());
        command.stdout(output.try_clone()?).stderr(output);
        self.daemons[place] = Some(orphans::spawn(&mut command).context("start Patroni")?);
        Ok(())
    }

    /// Stops it as its unit does: SIGTERM to Patroni alone, and its end is waited for.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn stop_on(&mut self, place: usize) -> Result<()> {
        let child = self.daemons[place].as_mut().context("no Patroni")?;
        signal(i32::try_from(child.id())?, Signal::SIGTERM)?;
        wait_until("Patroni ends", STOP_LIMIT, || match child.try_wait() {
            Ok(Some(_)) => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        self.daemons[place] = None;
        Ok(())
    }

    /// Ends every etcd: nobody needs it any more.
    ///
    /// # Errors
    /// One could not be ended.
    pub fn stop_etcd(&mut self) -> Result<()> {
        for mut child in self.etcds.drain(..) {
            child.kill().context("end etcd")?;
            child.wait().context("wait for etcd")?;
        }
        Ok(())
    }

    /// `patronictl` on the first host; what it printed.
    ///
    /// # Errors
    /// It failed.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        let Place { host, file, .. } = &self.hosts[0];
        let mut command = host.command_as_postgres(Path::new(PATRONICTL));
        command.arg("-c").arg(file).args(words);
        // Its library for command lines refuses to run without a language.
        command.env("LC_ALL", "C.UTF-8");
        Host::run(command)
    }

    /// The file of a host's Patroni.
    pub fn file(&self, place: usize) -> &Path {
        &self.hosts[place].file
    }
}

impl Drop for Patroni {
    fn drop(&mut self) {
        let daemons = self.daemons.iter_mut().flatten();
        for child in daemons.chain(self.etcds.iter_mut()) {
            // One that has ended by itself needs no end; waited for so that no zombie stays.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn give_away(path: &Path) -> Result<()> {
    crate::member::give_to_postgres(path)
}

fn start_etcd(cluster: &Cluster, member: &Member) -> Result<Child> {
    let address = &member.host.address;
    let all: Vec<String> = cluster
        .members
        .iter()
        .map(|it| format!("{}=http://{}:2380", it.name, it.host.address))
        .collect();
    let output = log_file(&member.folder.join("etcd.log"))?;
    let mut etcd: Command = member.host.command(Path::new(ETCD));
    etcd.args(["--name", &member.name, "--data-dir"]);
    etcd.arg(member.folder.join("etcd"));
    for (flag, port) in [
        ("--listen-client-urls", 2379),
        ("--advertise-client-urls", 2379),
        ("--listen-peer-urls", 2380),
        ("--initial-advertise-peer-urls", 2380),
    ] {
        etcd.arg(flag).arg(format!("http://{address}:{port}"));
    }
    etcd.args(["--initial-cluster", &all.join(","), "--log-level", "warn"]);
    etcd.stdin(Stdio::null());
    etcd.stdout(output.try_clone()?).stderr(output);
    orphans::spawn(&mut etcd).context("start etcd")
}

fn patroni_yml(cluster: &Cluster, place: usize, dynamic: &str, own: &str) -> String {
    let member = &cluster.members[place];
    let address = &member.host.address;
    let etcds: Vec<String> = cluster
        .members
        .iter()
        .map(|it| format!("{}:2379", it.host.address))
        .collect();
    let (data, bin) = (member.data_dir(), member.bin.display());
    let (data, volume) = (data.display(), member.volume());
    let volume = volume.display();
    format!(
        "scope: shop\nnamespace: /service/\nname: {}\n\
         restapi:\n  listen: 0.0.0.0:{HTTP_PORT}\n  connect_address: {address}:{HTTP_PORT}\n\
         etcd3:\n  hosts: {}\n\
         bootstrap:\n  dcs:\n{dynamic}\n  initdb:\n  - encoding: UTF8\n  - data-checksums\n\
         postgresql:\n  listen: 0.0.0.0:{POSTGRES_PORT}\n  connect_address: {address}:{POSTGRES_PORT}\n\
         \x20 data_dir: {data}\n  bin_dir: {bin}\n  pgpass: {volume}/pgpass\n\
         \x20 authentication:\n    superuser: {{username: postgres, password: {PASSWORD}}}\n\
         \x20   replication: {{username: replicator, password: {PASSWORD}}}\n\
         \x20   rewind: {{username: rewind_user, password: {PASSWORD}}}\n{own}\n\
         watchdog:\n  mode: off\n\
         tags:\n  nofailover: false\n  noloadbalance: false\n  clonefrom: false\n  nosync: false\n",
        name(place),
        etcds.join(","),
    )
}
