//! One server of a test: a directory of its own, a guard of its own, a port of its own.

use std::future::Future;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use cluster_core::model::postgres::{Primary, Standby};
use cluster_core::model::{Epoch, Incarnation, Lsn, MemberName, PostgresStatus, TimelineId};
use clusterd::postgres::{
    ConfigInputs, GuardSupervisor, MemberAddress, Postgres, PostgresOptions, Promotion, Role,
    Secret, StopMode, Upstream,
};
use clusterd_guard::clock::boottime_ns;
use clusterd_guard::protocol::{Answer, Arm, Request};
use tempfile::TempDir;

/// Long enough for a loaded machine, short enough for a test to end.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The passwords of all test roles hold this, so that logs can be searched for it.
pub const CANARY: &str = "canary:pass\\word";

/// Runs a test against every major found, and says which one failed.
pub fn on_every_major<F, R>(test: F)
where
    F: Fn(PathBuf) -> R,
    R: Future<Output = Result<()>>,
{
    let found = bins().expect("PostgreSQL is installed");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime can be built");
    for bin in found {
        let limit = Duration::from_secs(300);
        match runtime.block_on(async { tokio::time::timeout(limit, test(bin.clone())).await }) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("with {}: {error:?}", bin.display()),
            Err(_) => panic!("with {}: not done after {limit:?}", bin.display()),
        }
    }
}

fn bins() -> Result<Vec<PathBuf>> {
    if let Ok(list) = std::env::var("MATRIARCH_PG_BINS") {
        return Ok(std::env::split_paths(&list).collect());
    }
    let me = std::env::current_exe()?;
    let target = me.ancestors().nth(3).context("a test lies under target")?;
    let mut found = Vec::new();
    for root in [Path::new("/usr/lib/postgresql"), &target.join("postgres")] {
        for entry in root.read_dir().into_iter().flatten().flatten() {
            let bin = entry.path().join("bin");
            if bin.join("initdb").is_file() {
                found.push(bin.canonicalize()?);
            }
        }
    }
    found.sort();
    ensure!(
        !found.is_empty(),
        "no PostgreSQL found: apt-get install postgresql"
    );
    Ok(found)
}

fn guard_program() -> Result<PathBuf> {
    let me = std::env::current_exe()?;
    let folder = me.ancestors().nth(2).context("a test lies under target")?;
    let program = folder.join("clusterd-guard");
    ensure!(
        program.is_file(),
        "clusterd-guard is not built: cargo build -p clusterd-guard"
    );
    Ok(program)
}

/// A member's server.
pub struct Server {
    pub name: String,
    pub postgres: Postgres,
    pub port: u16,
    pub supervisor: Arc<GuardSupervisor>,
    guard: Guarding,
    place: TempDir,
}

/// The guard's process; it must not outlive a test that fails before its server is complete.
struct Guarding(Child);

impl Drop for Guarding {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The kernel stops PostgreSQL with the guard; wait, so that nothing outlives the test.
        let pid_file = self.data_dir().join("postmaster.pid");
        let _ = self.guard.0.kill();
        let _ = self.guard.0.wait();
        let begin = Instant::now();
        while let Some(pid) = read_pid(&pid_file)
            && Path::new(&format!("/proc/{pid}")).exists()
            && begin.elapsed() < LIMIT
        {
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.postgres.output_file()).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- log of {}", self.name);
            eprintln!("{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
    }
}

/// A port that nobody listens on and that no outgoing connection is given: those come from the kernel's
/// range, which begins above all of these.
fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 12_000 + u16::try_from(std::process::id() % 40)? * 500;
    for _ in 0..500 {
        let port = first + NEXT.fetch_add(1, Ordering::Relaxed) % 500;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free port from {first} on")
}

fn read_pid(path: &Path) -> Option<i32> {
    std::fs::read_to_string(path)
        .ok()?
        .lines()
        .next()?
        .parse()
        .ok()
}

/// The system's user that servers run as.
pub fn os_user() -> String {
    if nix::unistd::geteuid().is_root() {
        return "postgres".to_owned();
    }
    nix::unistd::User::from_uid(nix::unistd::geteuid())
        .ok()
        .flatten()
        .expect("the current user has a name")
        .name
}

/// Gives a path to the user that servers run as.
pub fn hand_over(path: &Path) -> Result<()> {
    let user = nix::unistd::User::from_name(&os_user())?.context("the user of servers")?;
    Ok(nix::unistd::chown(path, Some(user.uid), Some(user.gid))?)
}

impl Server {
    /// A place without a database.
    pub async fn new(bin: &Path, name: &str) -> Result<Server> {
        Server::with(bin, name, |_| {}).await
    }

    /// The same with other options.
    pub async fn with(
        bin: &Path,
        name: &str,
        change: impl FnOnce(&mut PostgresOptions),
    ) -> Result<Server> {
        let place = tempfile::Builder::new()
            .prefix("mfacade-")
            .tempdir_in(cluster_tests::reaper::scratch())?;
        hand_over(place.path())?;
        let port = free_port()?;
        let role = |name: &str| Role {
            name: name.to_owned(),
            password: Secret::new(CANARY),
        };
        let mut options = PostgresOptions::new(
            name.parse()?,
            bin.to_owned(),
            place.path().join("data"),
            place.path().join("state"),
            role("replicator"),
            role("rewinder"),
        );
        options.os_user = os_user();
        options.superuser_password = Some(Secret::new(CANARY));
        options.port = port;
        options.listen_addresses = vec!["127.0.0.1".to_owned()];
        options.hba_lines = vec![
            "local all all trust".to_owned(),
            "host all app 127.0.0.1/32 trust".to_owned(),
        ];
        options
            .parameters
            .insert("shared_buffers".into(), "16MB".into());
        options
            .parameters
            .insert("log_statement".into(), "all".into());
        options
            .parameters
            .insert("log_connections".into(), "on".into());
        change(&mut options);
        let socket = place.path().join("guard.socket");
        let guard = Guarding(
            Command::new(guard_program()?)
                .arg("--socket")
                .arg(&socket)
                .arg("--data-dir")
                .arg(&options.data_dir)
                .args(["--user", &options.os_user, "--cgroup", "none"])
                .stderr(std::fs::File::create(place.path().join("guard.log"))?)
                .stdout(Stdio::null())
                .stdin(Stdio::null())
                .spawn()?,
        );
        let supervisor = Arc::new(GuardSupervisor::new(socket.clone()));
        let begin = Instant::now();
        while supervisor.ask(Request::Status).await.is_err() {
            if begin.elapsed() > LIMIT {
                let log = std::fs::read_to_string(place.path().join("guard.log"))?;
                bail!("the guard does not answer: {log}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let postgres = Postgres::open(options, supervisor.clone()).await?;
        Ok(Server {
            name: name.to_owned(),
            postgres,
            port,
            supervisor,
            guard,
            place,
        })
    }

    pub fn data_dir(&self) -> PathBuf {
        self.postgres.options().data_dir.clone()
    }

    pub fn state_dir(&self) -> PathBuf {
        self.postgres.options().state_dir.clone()
    }

    /// A directory that servers may write to.
    pub fn make_directory(&self, path: &Path) -> Result<()> {
        std::fs::create_dir(path)?;
        self.make_ours(path)
    }

    /// Gives a directory to the user that servers run as, and to nobody else.
    pub fn make_ours(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))?;
        hand_over(path)
    }

    pub fn path(&self) -> &Path {
        self.place.path()
    }

    /// What the servers of these tests have in common: members at loopback, the gate closed.
    pub fn inputs(&self) -> ConfigInputs {
        let member = |name: &str| MemberAddress {
            member: name.parse().expect("a valid name"),
            addresses: vec!["127.0.0.1".parse().expect("an address")],
            host_name: None,
        };
        ConfigInputs {
            sync_names: String::new(),
            members: vec![member("a"), member("b")],
            ..ConfigInputs::default()
        }
    }

    /// This server as upstream of `of`.
    pub fn upstream(&self, of: &Server, epoch: u64) -> Upstream {
        Upstream {
            member: self.name.parse().expect("a valid name"),
            is_forward: false,
            host: "127.0.0.1".to_owned(),
            port: self.port,
            epoch: Epoch(epoch),
            incarnation: Incarnation(1),
            slot: Some(MemberName::slot_name(
                &of.name.parse().expect("a valid name"),
            )),
        }
    }

    /// A lease that outlasts the test.
    pub async fn arm(&self, epoch: u64) -> Result<()> {
        let Answer::Status(status) = self.supervisor.ask(Request::Status).await? else {
            bail!("no status");
        };
        let set_id = status.set.context("a server runs")?.set_id;
        let until = boottime_ns() + 600_000_000_000;
        let order = Arm {
            set_id,
            epoch,
            valid_until_ns: until,
            kill_at_ns: until,
        };
        self.supervisor.ask(Request::Arm(order)).await?;
        Ok(())
    }

    /// Arms and promotes.
    pub async fn promote(&self, epoch: u64, timeline: u32) -> Result<Promotion> {
        self.arm(epoch).await?;
        self.promote_armed(epoch, timeline, LIMIT).await
    }

    /// Promotes; the guard is armed already.
    pub async fn promote_armed(
        &self,
        epoch: u64,
        timeline: u32,
        limit: Duration,
    ) -> Result<Promotion> {
        let (epoch, timeline) = (Epoch(epoch), TimelineId(timeline));
        Ok(self.postgres.promote(epoch, timeline, limit).await?)
    }

    /// initdb, first boot, promotion onto timeline 2, roles.
    pub async fn bootstrap(&self) -> Result<Promotion> {
        self.postgres.initdb().await?;
        self.start().await?;
        self.wait_end_of_wal().await?;
        let promotion = self.promote(1, 2).await?;
        self.postgres.create_roles().await?;
        Ok(promotion)
    }

    /// Starts as a sealed standby and waits until it answers.
    pub async fn start(&self) -> Result<()> {
        self.postgres.start_standby(&self.inputs()).await?;
        Ok(self.postgres.wait_answering(LIMIT).await?)
    }

    /// A new standby of `primary` by basebackup, streaming.
    pub async fn follow_by_clone(&self, primary: &Server, epoch: u64) -> Result<()> {
        primary
            .postgres
            .apply_config(&ConfigInputs {
                gate: primary.postgres.inputs().gate,
                ..primary.inputs()
            })
            .await?;
        let upstream = primary.upstream(self, epoch);
        let wanted = clusterd::postgres::WantedSlot {
            name: upstream.slot.clone().expect("tests use slots"),
            reached: None,
        };
        primary.postgres.apply_slots(&[wanted]).await?;
        let (progress, _) = tokio::sync::watch::channel(Default::default());
        let of = clusterd::postgres::CopyOf {
            database: primary.postgres.control_data().await?.system_identifier,
            timeline: primary.primary().await?.timeline,
        };
        self.postgres
            .clone_from(&upstream, Some(of), progress)
            .await?;
        let inputs = ConfigInputs {
            upstream: Some(upstream),
            ..self.inputs()
        };
        self.postgres.start_standby(&inputs).await?;
        self.postgres.wait_answering(LIMIT).await?;
        self.wait_replayed(primary.flushed().await?).await
    }

    /// Looks until `wanted` finds what it wants.
    pub async fn wait_status<T>(
        &self,
        what: &str,
        wanted: impl Fn(&PostgresStatus) -> Option<T>,
    ) -> Result<T> {
        let begin = Instant::now();
        loop {
            let status = self.postgres.observe().await;
            if let Some(value) = wanted(&status) {
                return Ok(value);
            }
            if begin.elapsed() > LIMIT {
                bail!("{}: waited for {what}; last seen: {status:?}", self.name);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn wait_end_of_wal(&self) -> Result<Standby> {
        self.wait_status("the end of WAL", |status| match status {
            PostgresStatus::Standby(standby) if standby.at_end_of_wal => Some(standby.clone()),
            _ => None,
        })
        .await
    }

    pub async fn wait_replayed(&self, lsn: Lsn) -> Result<()> {
        self.wait_status("replay", |status| match status {
            PostgresStatus::Standby(standby) if standby.replayed >= lsn => Some(()),
            _ => None,
        })
        .await
    }

    pub async fn primary(&self) -> Result<Primary> {
        self.wait_status("a primary", |status| match status {
            PostgresStatus::Primary(primary) => Some(primary.clone()),
            _ => None,
        })
        .await
    }

    pub async fn standby(&self) -> Result<Standby> {
        self.wait_status("a standby", |status| match status {
            PostgresStatus::Standby(standby) => Some(standby.clone()),
            _ => None,
        })
        .await
    }

    pub async fn flushed(&self) -> Result<Lsn> {
        Ok(self.primary().await?.flushed)
    }

    /// A session as superuser that is not the daemon's.
    pub async fn client(&self) -> Result<tokio_postgres::Client> {
        let mut config = tokio_postgres::Config::new();
        config
            .host_path(&self.postgres.options().socket_dir)
            .port(self.port)
            .user("postgres")
            .dbname("postgres")
            .application_name("test");
        let (client, connection) = config.connect(tokio_postgres::NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    pub async fn run(&self, sql: &str) -> Result<()> {
        Ok(self.client().await?.batch_execute(sql).await?)
    }

    /// One number.
    pub async fn number(&self, sql: &str) -> Result<i64> {
        Ok(self.client().await?.query_one(sql, &[]).await?.get(0))
    }

    /// One text.
    pub async fn text(&self, sql: &str) -> Result<String> {
        Ok(self.client().await?.query_one(sql, &[]).await?.get(0))
    }

    /// Kills everything of this server, as a crash would end it.
    pub async fn crash(&self) -> Result<()> {
        Ok(self.postgres.kill("the test wants a crash").await?)
    }

    pub async fn stop(&self) -> Result<()> {
        Ok(self.postgres.stop(StopMode::Fast, LIMIT).await?)
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.postgres.output_file()).unwrap_or_default()
    }
}
