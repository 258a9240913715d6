//! A whole cluster: how it is described, made, asked and taken down.

use std::collections::BTreeMap;
use std::fs;
use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::booted::{self, Booted};
use crate::config::{self, ConfigOptions};
use crate::disk::Disk;
use crate::host::Host;
use crate::http::{self, Answer};
use crate::logs;
use crate::member::{Member, POSTGRES_PORT, give_to_postgres};
use crate::network::{Cut, Network};
use crate::orphans;
use crate::programs;
use crate::reaper::{Reaper, cgroup_root, scratch, sweep};
use crate::sql::{self, Login};
use crate::wait::wait_until;
use crate::writer::{self, History, WriterOptions, Writers};

/// How long anything may take that should take seconds: machines are noisy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// How long one question over HTTP may take.
const ASK_LIMIT: Duration = Duration::from_millis(500);

/// What is wanted.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Name, for kept logs.
    pub name: String,
    /// Members with PostgreSQL.
    pub databases: u8,
    /// Members without.
    pub witnesses: u8,
    /// Times of the lease.
    pub preset: String,
    /// PostgreSQL's major; none is the distribution's.
    pub major: Option<u32>,
    /// First loopback address (`127.0.0.N`); none makes namespaces.
    pub loopback: Option<u8>,
    /// What each member's volume lies on; none is the machine's own disk.
    pub disk: Option<Disk>,
    /// The place of a member that runs under a booted systemd.
    pub booted: Option<usize>,
    /// The folder that the members' programs are in; none: what was built with this test.
    pub programs: Option<PathBuf>,
    /// More configuration, for every member.
    pub more_config: String,
    /// Lines of `[settings]`: what the cluster is founded with.
    pub settings: String,
    /// All members archive into a directory of the cluster's folder.
    pub has_repository: bool,
}

impl Wanted {
    /// Three members, preset `lan`, the distribution's PostgreSQL, namespaces.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            databases: 3,
            witnesses: 0,
            preset: "lan".to_owned(),
            major: None,
            loopback: None,
            disk: None,
            booted: None,
            programs: None,
            more_config: String::new(),
            settings: String::new(),
            has_repository: false,
        }
    }

    /// With a repository of backups and archived WAL.
    pub fn repository(mut self) -> Self {
        self.has_repository = true;
        self
    }

    /// Another preset.
    pub fn preset(mut self, preset: &str) -> Self {
        preset.clone_into(&mut self.preset);
        self
    }

    /// Another number of members with and without PostgreSQL.
    pub fn members(mut self, databases: u8, witnesses: u8) -> Self {
        self.databases = databases;
        self.witnesses = witnesses;
        self
    }

    /// Another major.
    pub fn major(mut self, major: u32) -> Self {
        self.major = Some(major);
        self
    }

    /// On loopback addresses instead of namespaces.
    pub fn on_loopback(mut self, first: u8) -> Self {
        self.loopback = Some(first);
        self
    }

    /// Volumes that can be filled.
    pub fn small_disks(mut self, megabytes: u32) -> Self {
        self.disk = Some(Disk::InMemory(megabytes));
        self
    }

    /// Volumes that can be made to stand still.
    pub fn block_disks(mut self, megabytes: u32) -> Self {
        self.disk = Some(Disk::Block(megabytes));
        self
    }

    /// The member at this place is installed as a package would, under a booted systemd.
    pub fn under_systemd(mut self, place: usize) -> Self {
        self.booted = Some(place);
        self
    }

    /// Members run the programs of this folder, until they are upgraded.
    pub fn programs(mut self, folder: PathBuf) -> Self {
        self.programs = Some(folder);
        self
    }

    /// More configuration, for every member: whole tables.
    pub fn config(mut self, text: &str) -> Self {
        self.more_config.push_str(text);
        self
    }

    /// Founded in this durability mode.
    pub fn mode(self, mode: &str) -> Self {
        self.setting(&format!("mode = \"{mode}\""))
    }

    /// Founded with this setting, as its line in the table.
    pub fn setting(mut self, line: &str) -> Self {
        self.settings.push_str(line);
        self.settings.push('\n');
        self
    }

    /// Makes hosts, folders and files; starts nothing.
    ///
    /// # Errors
    /// Not root, something is not installed, or not built.
    pub fn make(self) -> Result<Cluster> {
        Cluster::make(self)
    }

    /// Makes it, starts all members, waits until every standby streams.
    ///
    /// # Errors
    /// It did not become healthy.
    pub fn start(self) -> Result<Cluster> {
        let mut cluster = self.make()?;
        cluster.start_all()?;
        cluster.wait_healthy(PATIENCE)?;
        Ok(cluster)
    }
}

/// A running cluster. Dropping it leaves nothing behind, whatever happened.
#[derive(Debug)]
pub struct Cluster {
    /// Members, in order of their addresses.
    pub members: Vec<Member>,
    /// Its folder.
    pub folder: PathBuf,
    /// The clients' host.
    pub clients: Host,
    wanted: Wanted,
    runtime: Option<Runtime>,
    announced: Vec<String>,
    prefix: String,
    is_finished: bool,
    // Last: dropped after everything else, it ends what is left and removes the folder.
    reaper: Option<Reaper>,
}

impl Cluster {
    fn make(wanted: Wanted) -> Result<Self> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        sweep()?;
        orphans::adopt();
        let number = NUMBER.fetch_add(1, Ordering::SeqCst);
        let prefix = format!("mt{}-{number}", std::process::id());
        let group = cgroup_root()?.join(&prefix);
        let folder = scratch().join(&prefix);
        let reaper = Reaper::start(&group, &prefix, &folder)?;
        fs::create_dir_all(&folder).context("make the cluster's folder")?;
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
        fs::create_dir(&group).context("make the cluster's control group (root is needed)")?;
        let network = match wanted.loopback {
            None => Some(Network::new(&prefix)?),
            Some(_) => None,
        };
        let host = |name: &str, number: u8| -> Result<Host> {
            let group = group.join(name);
            fs::create_dir(&group).context("make a host's control group")?;
            let (namespace, address) = match &network {
                Some(network) => {
                    let (namespace, address) = network.add_host(name, number)?;
                    (Some(namespace), address)
                }
                None => (
                    None,
                    format!("127.0.0.{}", wanted.loopback.unwrap_or(1) + number - 1),
                ),
            };
            Ok(Host {
                name: name.to_owned(),
                address,
                namespace,
                group,
            })
        };
        let mut members = Vec::new();
        for number in 1..=wanted.databases + wanted.witnesses {
            let name = format!("m{number}");
            members.push(Member {
                host: host(&name, number)?,
                folder: folder.join(&name),
                bin: programs::postgres_bin(wanted.major)?,
                is_witness: number > wanted.databases,
                through: &[],
                program: match &wanted.programs {
                    Some(folder) => folder.join("clusterd"),
                    None => programs::ours("clusterd")?,
                },
                booted: None,
                daemon: None,
                name,
            });
        }
        let clients_group = group.join("clients");
        fs::create_dir(&clients_group).context("make the clients' control group")?;
        let clients = Host {
            name: "clients".to_owned(),
            address: network
                .as_ref()
                .map_or("127.0.0.1".to_owned(), Network::client_address),
            namespace: network.as_ref().map(Network::hub),
            group: clients_group,
        };
        let runtime = runtime_in(clients.namespace.clone())?;
        let mut cluster = Self {
            members,
            folder,
            clients,
            wanted,
            runtime: Some(runtime),
            announced: Vec::new(),
            prefix,
            is_finished: false,
            reaper: Some(reaper),
        };
        cluster.write_configs(&cluster.range(network.as_ref()))?;
        Ok(cluster)
    }

    fn range(&self, network: Option<&Network>) -> String {
        network.map_or("127.0.0.0/8".to_owned(), Network::range)
    }

    /// Where the repository is, if there is one.
    pub fn repository(&self) -> PathBuf {
        self.folder.join("repository")
    }

    /// The program that archives and restores, where PostgreSQL's user may run it.
    pub fn backup_program(&self) -> PathBuf {
        self.folder.join("clusterd-backup")
    }

    fn make_repository(&self) -> Result<String> {
        if !self.wanted.has_repository {
            return Ok(String::new());
        }
        let (repository, program) = (self.repository(), self.backup_program());
        fs::create_dir(&repository).context("make the repository")?;
        give_to_postgres(&repository)?;
        let built = match &self.wanted.programs {
            Some(folder) => folder.join("clusterd-backup"),
            None => programs::ours("clusterd-backup")?,
        };
        fs::copy(built, &program).context("copy clusterd-backup")?;
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
        Ok(format!(
            "\n[backup]\nrepository = \"{}\"\nbinary = \"{}\"\n",
            repository.display(),
            program.display()
        ))
    }

    fn write_configs(&mut self, clients: &str) -> Result<()> {
        let repository = self.make_repository()?;
        let members: Vec<(String, String)> = self
            .members
            .iter()
            .map(|member| (member.name.clone(), member.host.address.clone()))
            .collect();
        let witnesses: Vec<String> = self
            .members
            .iter()
            .filter(|member| member.is_witness)
            .map(|member| member.name.clone())
            .collect();
        for (place, member) in self.members.iter_mut().enumerate() {
            fs::create_dir_all(&member.folder).context("make a member's folder")?;
            member.make_folders()?;
            let is_booted = self.wanted.booted == Some(place);
            let (state_dir, data_dir) = match is_booted {
                true => (booted::STATE_DIR.into(), booted::DATA_DIR.into()),
                false => (member.state_dir(), member.data_dir()),
            };
            if let Some(disk) = self.wanted.disk {
                member.mount_disk(disk)?;
            }
            let text = config::clusterd_toml(&ConfigOptions {
                cluster: &self.wanted.name,
                member: &member.name,
                address: &member.host.address,
                members: &members,
                witnesses: &witnesses,
                preset: &self.wanted.preset,
                listen: match is_booted {
                    // As installed, so that clusterctl finds the member of its own host.
                    true => "0.0.0.0",
                    false => &member.host.address,
                },
                state_dir: &state_dir,
                data_dir: &data_dir,
                has_guard_unit: is_booted,
                bin: &member.bin,
                clients,
                client_login: if self.wanted.loopback.is_some() {
                    "scram-sha-256"
                } else {
                    "trust"
                },
            });
            let mut text = format!("{text}{}{repository}", self.wanted.more_config);
            if !self.wanted.settings.is_empty() {
                text.push_str(&format!("\n[settings]\n{}", self.wanted.settings));
            }
            write_private(&member.config_file(), &text)?;
            if is_booted {
                let machine = format!("{}-{}", self.prefix, member.name);
                let (folder, host) = (&member.folder, &member.host);
                member.booted = Some(Booted::install(
                    folder,
                    host,
                    &machine,
                    &text,
                    member.is_witness,
                )?);
            }
        }
        Ok(())
    }

    /// Starts every member that does not run.
    ///
    /// # Errors
    /// One could not be started.
    pub fn start_all(&mut self) -> Result<()> {
        for member in &mut self.members {
            if !member.is_running() {
                member.start()?;
            }
        }
        Ok(())
    }

    /// ERROR lines that contain this text are expected and do not fail the test.
    pub fn expect_error(&mut self, text: &str) {
        self.announced.push(text.to_owned());
    }

    /// Runs a future where the clients live.
    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        let runtime = self
            .runtime
            .as_ref()
            .expect("the runtime lives as long as the cluster");
        let task = runtime.spawn(future);
        runtime
            .block_on(task)
            .expect("a client's task does not panic")
    }

    /// Starts a future where the clients live, and does not wait for it.
    pub fn start_task(&self, future: impl Future<Output = ()> + Send + 'static) {
        let runtime = self
            .runtime
            .as_ref()
            .expect("the runtime lives as long as the cluster");
        runtime.spawn(future);
    }

    /// `GET` from a member.
    ///
    /// # Errors
    /// It does not answer.
    pub fn get(&self, member: usize, path: &str) -> Result<Answer> {
        let (address, path) = (self.members[member].http(), path.to_owned());
        self.run(async move { http::get(&address, &path, ASK_LIMIT).await })
    }

    /// Any method with the token, and a body if there is one.
    ///
    /// # Errors
    /// It does not answer.
    pub fn send(&self, member: usize, method: &str, path: &str, body: &str) -> Result<Answer> {
        let address = self.members[member].http();
        let (method, path) = (method.to_owned(), path.to_owned());
        let rest = format!(
            "Authorization: Bearer {}\r\nContent-Length: {}\r\n\r\n{body}",
            config::TOKEN,
            body.len()
        );
        self.run(async move { http::send(&method, &address, &path, &rest, PATIENCE).await })
    }

    /// Members that say they serve as primary.
    pub fn primaries(&self) -> Vec<usize> {
        let says_yes = |member: &usize| {
            !self.members[*member].is_witness
                && self
                    .get(*member, "/primary")
                    .is_ok_and(|answer| answer.status == 200)
        };
        (0..self.members.len()).filter(says_yes).collect()
    }

    /// Waits until exactly one member serves as primary; its place.
    ///
    /// # Errors
    /// None within the limit.
    pub fn wait_primary(&self, limit: Duration) -> Result<usize> {
        wait_until("one primary", limit, || match self.primaries()[..] {
            [primary] => Ok(primary),
            _ => Err(self.seen()),
        })
    }

    /// Waits until a primary other than `old` serves.
    ///
    /// # Errors
    /// None within the limit.
    pub fn wait_other_primary(&self, old: usize, limit: Duration) -> Result<usize> {
        wait_until("another primary", limit, || match self.primaries()[..] {
            [primary] if primary != old => Ok(primary),
            _ => Err(self.seen()),
        })
    }

    /// Waits until one primary serves and every other member with PostgreSQL streams; the primary.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn wait_healthy(&self, limit: Duration) -> Result<usize> {
        self.wait_streaming(usize::from(self.wanted.databases) - 1, limit)
    }

    /// Waits until one primary serves, so many standbys stream, and commits are confirmed as the mode
    /// says: before that a lost primary is waited for. The primary.
    ///
    /// # Errors
    /// Not within the limit.
    pub fn wait_streaming(&self, standbys: usize, limit: Duration) -> Result<usize> {
        let what = format!("one primary and {standbys} streaming standbys");
        wait_until(&what, limit, || {
            let [primary] = self.primaries()[..] else {
                return Err(self.seen());
            };
            let seen = self.get(primary, "/cluster").map(|answer| answer.json());
            let seen = seen.unwrap_or(Value::Null);
            let streaming = members_of(&seen)
                .iter()
                .filter(|m| m["state"] == "streaming")
                .count();
            // The primary's word may be a moment old: each standby must say so itself, too.
            let ready = (0..self.members.len())
                .filter(|place| {
                    self.get(*place, "/replica")
                        .is_ok_and(|said| said.status == 200)
                })
                .count();
            let is_confirmed = standbys == 0 || is_confirmed(&seen["durability"]);
            match streaming == standbys && ready == standbys && is_confirmed {
                true => Ok(primary),
                false => Err(format!("{ready} ready standbys, {seen}")),
            }
        })
    }

    /// What each member says of itself now, for messages.
    pub fn seen(&self) -> String {
        let mut said = BTreeMap::new();
        for (place, member) in self.members.iter().enumerate() {
            let answer = match self.get(place, "/patroni") {
                Ok(answer) => format!("{} {}", answer.status, answer.body.trim()),
                Err(error) => format!("{error:#}"),
            };
            said.insert(member.name.clone(), answer);
        }
        format!("{said:#?}")
    }

    /// How the tests log in to PostgreSQL.
    pub fn login(&self) -> Login {
        Login {
            user: "postgres".to_owned(),
            password: config::PASSWORD.to_owned(),
            database: "postgres".to_owned(),
        }
    }

    /// First column of what a member's PostgreSQL answers, over the network.
    ///
    /// # Errors
    /// Refused.
    pub fn sql(&self, member: usize, sql: &str) -> Result<Vec<String>> {
        let config = self
            .login()
            .config(&self.members[member].host.address, POSTGRES_PORT);
        let statement = sql.to_owned();
        let answer = self.run(async move {
            let client = sql::connect(&config, Duration::from_secs(3)).await?;
            sql::column(&client, &statement, Duration::from_secs(30)).await
        });
        answer.with_context(|| format!("{}: {sql}", self.members[member].name))
    }

    /// `clusterctl`, asking any member; what it printed.
    ///
    /// # Errors
    /// It failed; with what it said.
    pub fn ctl(&self, arguments: &[&str]) -> Result<String> {
        Host::run(self.ctl_command(arguments)?)
    }

    /// What `clusterctl status` prints, also while the cluster is not well.
    ///
    /// # Errors
    /// It could not be started.
    pub fn status(&self) -> Result<String> {
        let mut command = self.ctl_command(&["status"])?;
        let answer = orphans::output(&mut command).context("start clusterctl")?;
        let said = [answer.stdout, answer.stderr].concat();
        Ok(String::from_utf8_lossy(&said).into_owned())
    }

    /// `clusterctl` with token and endpoints, where the clients live.
    ///
    /// # Errors
    /// It is not built.
    pub fn ctl_command(&self, arguments: &[&str]) -> Result<std::process::Command> {
        let mut command = self.clients.command(&programs::ours("clusterctl")?);
        let endpoints: Vec<String> = self.members.iter().map(Member::grpc).collect();
        command.env("CLUSTERCTL_ENDPOINTS", endpoints.join(","));
        command.env("CLUSTERCTL_TOKEN", config::TOKEN);
        command.args(arguments);
        Ok(command)
    }

    /// Addresses of all members but one.
    pub fn peers_of(&self, member: usize) -> Vec<String> {
        let others = self
            .members
            .iter()
            .enumerate()
            .filter(|(place, _)| *place != member);
        others
            .map(|(_, other)| other.host.address.clone())
            .collect()
    }

    /// Cuts a member off from all other members; clients still reach it.
    ///
    /// # Errors
    /// No network to cut.
    pub fn isolate(&self, member: usize) -> Result<()> {
        self.members[member].cut(&Cut::Peers(self.peers_of(member)))
    }

    /// Makes the table of the writers and starts `writers` of them against all members.
    ///
    /// # Errors
    /// There is no primary to make the table on.
    pub fn start_writers(&self, writers: u32) -> Result<Writers> {
        let [primary] = self.primaries()[..] else {
            bail!("no primary: {}", self.seen())
        };
        self.sql(primary, writer::TABLE)?;
        Ok(self.writers(&self.writer_options(writers)))
    }

    /// Every member with PostgreSQL in turn, give up after half a second.
    pub fn writer_options(&self, writers: u32) -> WriterOptions {
        let databases = self.members.iter().filter(|member| !member.is_witness);
        WriterOptions {
            places: databases
                .map(|m| (m.host.address.clone(), POSTGRES_PORT))
                .collect(),
            login: self.login(),
            writers,
            first: 0,
            connect_limit: Duration::from_millis(400),
            statement_limit: Duration::from_secs(1),
            pause: Duration::from_millis(5),
        }
    }

    /// Writers that know one member only and never give a statement up: they hold sessions on it
    /// whatever happens, and so are the ones to see a second primary.
    pub fn faithful_writers(&self, member: usize, writers: u32) -> Writers {
        let mut options = self.writer_options(writers);
        options.places = vec![(self.members[member].host.address.clone(), POSTGRES_PORT)];
        options.first = 1000 * (u32::try_from(member).unwrap_or(0) + 1);
        options.statement_limit = Duration::from_secs(120);
        self.writers(&options)
    }

    /// Starts writers where the clients live.
    pub fn writers(&self, options: &WriterOptions) -> Writers {
        let runtime = self
            .runtime
            .as_ref()
            .expect("the runtime lives as long as the cluster");
        Writers::start(runtime.handle(), options)
    }

    /// Acknowledged rows that a member does not have.
    ///
    /// # Errors
    /// It could not be read.
    pub fn missing(&self, member: usize, history: &History) -> Result<Vec<writer::Row>> {
        let config = self
            .login()
            .config(&self.members[member].host.address, POSTGRES_PORT);
        let history = history.clone();
        self.run(async move {
            let client = sql::connect(&config, Duration::from_secs(3)).await?;
            history.missing(&client).await
        })
    }

    /// ERROR lines of all members that were not announced.
    pub fn unexpected_errors(&self) -> Vec<String> {
        let of_member = |member: &Member| -> Vec<String> {
            member.collect_log();
            let lines = logs::unexpected_errors(&member.log(), &self.announced);
            lines
                .into_iter()
                .map(|line| format!("{}: {line}", member.name))
                .collect()
        };
        self.members.iter().flat_map(of_member).collect()
    }

    /// The end of a good test: nothing is kept. Without it logs are kept, whatever the reason.
    ///
    /// # Errors
    /// A member wrote an ERROR line that was not announced.
    pub fn finish(mut self) -> Result<()> {
        let errors = self.unexpected_errors();
        anyhow::ensure!(errors.is_empty(), "unexpected ERROR lines: {errors:#?}");
        self.is_finished = true;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_finished {
            self.members.iter().for_each(Member::collect_log);
            let kept = logs::keep(
                &self.folder,
                &format!("{}-{}", self.wanted.name, self.prefix),
            );
            for member in &self.members {
                eprintln!(
                    "--- end of {}'s log\n{}",
                    member.name,
                    logs::tail(&member.log(), 25)
                );
            }
            eprintln!("logs are kept in {}", kept.display());
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
        drop(self.reaper.take());
        for member in &mut self.members {
            if let Some(mut child) = member.daemon.take() {
                // Killed by the cleaner; waited for so that no zombie stays.
                let _ = child.wait();
            }
        }
    }
}

/// A file that holds secrets: only its owner reads it, as the daemon demands.
///
/// # Errors
/// The folder is not there.
pub fn write_private(path: &std::path::Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))
        .with_context(|| format!("close {}", path.display()))
}

/// Nobody has to confirm commits, or one rule is live and somebody does.
fn is_confirmed(durability: &Value) -> bool {
    let count = |key: &str| durability[key].as_array().map_or(0, Vec::len);
    durability["mode"] == "async"
        || durability["k"].as_u64().is_some_and(|k| k > 0)
            && count("live_rules") == 1
            && count("confirming") > 0
}

/// `members` of an answer to `/cluster`.
pub fn members_of(cluster: &Value) -> Vec<Value> {
    cluster["members"].as_array().cloned().unwrap_or_default()
}

/// A runtime all of whose threads are in a network namespace.
fn runtime_in(namespace: Option<String>) -> Result<Runtime> {
    let enter = move || {
        if let Some(namespace) = &namespace {
            let entered = fs::File::open(format!("/run/netns/{namespace}"))
                .map_err(anyhow::Error::from)
                .and_then(|file| Ok(setns(file, CloneFlags::CLONE_NEWNET)?));
            if let Err(error) = entered {
                // A client in the wrong network would test nothing.
                eprintln!("could not enter {namespace}: {error}");
                std::process::abort();
            }
        }
    };
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(enter)
        .enable_all()
        .build()
        .context("start the clients' runtime")
}
