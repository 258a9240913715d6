//! PgBouncer, paused around switchovers: the real one, behind it the HAProxy and configurations we ship.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use cluster_tests::config::PASSWORD;
use cluster_tests::host::{Host, log_file};
use cluster_tests::member::signal;
use cluster_tests::proxy::Proxy;
use cluster_tests::writer::clock;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use nix::sys::signal::Signal;

const ADMIN_PASSWORD: &str = "told-to-pause";
/// As the clients' host has it.
const ADDRESS: &str = "10.77.0.254:6432";
const PORT: &str = "6432";
/// A transaction of several statements, so that most switchovers come into the middle of some.
const SCRIPT: &str = "\\set row random(1, 1000)\nBEGIN;\nUPDATE counted SET n = n + 1 WHERE id = :row;\n\
     SELECT n FROM counted WHERE id = :row;\nEND;\n";

fn wanted(name: &str, limit: &str) -> Wanted {
    Wanted::new(name).config(&format!(
        "\n[pgbouncer]\naddresses = [\"{ADDRESS}\"]\nuser = \"clusterd\"\npassword = \"{ADMIN_PASSWORD}\"\n\
         pause_limit = \"{limit}\"\n"
    ))
}

struct Pooler {
    child: Child,
    folder: PathBuf,
}

impl Pooler {
    /// The file we ship, with other places for its files and this pool mode.
    fn start(cluster: &Cluster, pool_mode: &str) -> Result<Pooler> {
        let folder = cluster.folder.join("pgbouncer");
        fs::create_dir(&folder)?;
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/pgbouncer.ini");
        let place = folder.display();
        let text = fs::read_to_string(shipped)?
            .replace("/etc/pgbouncer/", &format!("{place}/"))
            .replace("/var/log/postgresql/", &format!("{place}/"))
            .replace("/var/run/postgresql/", &format!("{place}/"))
            .replace("unix_socket_dir = /var/run/postgresql", "unix_socket_dir =")
            .replace(
                "pool_mode = transaction",
                &format!("pool_mode = {pool_mode}"),
            );
        fs::write(folder.join("pgbouncer.ini"), text)?;
        let users = format!("\"postgres\" \"{PASSWORD}\"\n\"clusterd\" \"{ADMIN_PASSWORD}\"\n");
        fs::write(folder.join("userlist.txt"), users)?;
        let mut owner = Command::new("chown");
        ensure!(
            owner
                .args(["-R", "postgres"])
                .arg(&folder)
                .status()?
                .success()
        );
        let output = log_file(&folder.join("output"))?;
        let mut command = cluster
            .clients
            .command_as_postgres(Path::new("/usr/sbin/pgbouncer"));
        command
            .arg(folder.join("pgbouncer.ini"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.spawn().context("start PgBouncer")?;
        let pooler = Pooler { child, folder };
        wait_until("PgBouncer leads to the primary", PATIENCE, || {
            psql(cluster, "postgres", "SELECT 1")
                .map(drop)
                .map_err(|error| format!("{error:#}"))
        })?;
        Ok(pooler)
    }

    fn signal(&self, what: Signal) -> Result<()> {
        signal(i32::try_from(self.child.id())?, what)
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("pgbouncer.log")).unwrap_or_default()
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn psql(cluster: &Cluster, database: &str, sql: &str) -> Result<String> {
    let (user, password) = match database {
        "pgbouncer" => ("clusterd", ADMIN_PASSWORD),
        _ => ("postgres", PASSWORD),
    };
    let mut psql = cluster.clients.command(Path::new("psql"));
    let place = format!(
        "host=127.0.0.1 port={PORT} user={user} password={password} dbname={database} connect_timeout=2"
    );
    psql.args([&place, "-AtXc", sql]);
    Ok(Host::run(psql)?.trim().to_owned())
}

/// `pgbench -c 8` through the pooler until it is told to end.
struct Load {
    child: Child,
    folder: PathBuf,
}

impl Load {
    fn start(cluster: &Cluster, seconds: u32) -> Result<Load> {
        let primary = cluster.wait_primary(PATIENCE)?;
        cluster.sql(primary, "CREATE TABLE counted (id int PRIMARY KEY, n int)")?;
        cluster.sql(
            primary,
            "INSERT INTO counted SELECT g, 0 FROM generate_series(1, 1000) g",
        )?;
        let folder = cluster.folder.join("load");
        fs::create_dir(&folder)?;
        fs::write(folder.join("script"), SCRIPT)?;
        let output = log_file(&folder.join("output"))?;
        let program = Path::new("/usr/lib/postgresql/15/bin/pgbench");
        let mut command = cluster.clients.command(program);
        command
            .args(["-n", "-c", "8", "-j", "2", "-h", "127.0.0.1", "-p", PORT])
            .args([
                "-U",
                "postgres",
                "-T",
                &seconds.to_string(),
                "-R",
                "400",
                "-f",
            ])
            .arg(folder.join("script"))
            .arg("postgres")
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let child = command.spawn().context("start pgbench")?;
        let load = Load { child, folder };
        wait_until("transactions", PATIENCE, || match counted(cluster) {
            Ok(some) if some > 0 => Ok(()),
            other => Err(format!("{other:?}")),
        })?;
        Ok(load)
    }

    /// Waits for its end: none of its clients has seen an error. How many transactions it counted.
    fn end(mut self) -> Result<i64> {
        let status = self.child.wait()?;
        let said = fs::read_to_string(self.folder.join("output"))?;
        ensure!(status.success() && !said.contains("error"), "{said}");
        ensure!(said.contains("number of failed transactions: 0"), "{said}");
        let line = said
            .lines()
            .find(|line| line.starts_with("number of transactions actually processed: "));
        let count = line.and_then(|line| line.rsplit(' ').next());
        count
            .and_then(|count| count.parse().ok())
            .with_context(|| format!("no count: {said}"))
    }
}

fn counted(cluster: &Cluster) -> Result<i64> {
    let sum = psql(cluster, "postgres", "SELECT sum(n) FROM counted")?;
    Ok(sum.parse()?)
}

/// Whoever asks waits.
fn is_paused(cluster: &Cluster) -> Result<bool> {
    let mut psql = cluster.clients.command(Path::new("timeout"));
    let place =
        format!("host=127.0.0.1 port={PORT} user=postgres password={PASSWORD} dbname=postgres");
    let status = psql
        .args(["2", "psql", &place, "-AtXc", "SELECT 1"])
        .output()?
        .status;
    // Its own code for a time that was up.
    Ok(status.code() == Some(124))
}

fn log(cluster: &Cluster, member: usize) -> String {
    fs::read_to_string(cluster.members[member].log()).unwrap_or_default()
}

/// A handful of switchovers in a row: every transaction that was acknowledged counts once, none fails.
#[test]
fn clients_of_a_paused_pgbouncer_notice_no_switchover() -> Result<()> {
    let rounds: u32 = std::env::var("SWITCHOVERS")
        .ok()
        .map_or(Ok(4), |it| it.parse())?;
    let cluster = wanted("pooled", "3s").start()?;
    cluster.wait_healthy(PATIENCE)?;
    let proxy = Proxy::start(&cluster)?;
    let pooler = Pooler::start(&cluster, "transaction")?;
    let load = Load::start(&cluster, 8 + rounds * 4)?;
    for round in 0..rounds {
        let old = cluster.wait_healthy(PATIENCE)?;
        let begin = clock();
        cluster.ctl(&["switchover", "--yes"])?;
        let new = cluster.wait_other_primary(old, PATIENCE)?;
        // Who comes now is let in at once: nobody resumed it too early.
        let before = counted(&cluster)?;
        wait_until("transactions on the new primary", PATIENCE, || {
            let address = psql(&cluster, "postgres", "SELECT host(inet_server_addr())");
            match (address, counted(&cluster)) {
                (Ok(address), Ok(now))
                    if now > before && address == cluster.members[new].host.address =>
                {
                    Ok(())
                }
                other => Err(format!("{other:?}")),
            }
        })?;
        println!(
            "round {round}: {:?} until transactions on the new primary",
            clock() - begin
        );
        ensure!(log(&cluster, old).contains("PgBouncers are paused"));
    }
    let done = load.end()?;
    let counted = counted(&cluster)?;
    ensure!(counted == done, "{counted} counted, {done} acknowledged");
    println!("{done} transactions over {rounds} switchovers, none failed");
    drop((pooler, proxy));
    cluster.finish()
}

/// One that stands still delays a switchover by the limit and no more, and is resumed when it goes on; one whose
/// daemon is killed in between is resumed by the next one; session pooling is refused.
#[test]
fn a_pgbouncer_is_resumed_whatever_happens() -> Result<()> {
    let mut cluster = wanted("resumed", "1s").start()?;
    let first = cluster.wait_healthy(PATIENCE)?;
    let proxy = Proxy::start(&cluster)?;
    let pooler = Pooler::start(&cluster, "transaction")?;
    pooler.signal(Signal::SIGSTOP)?;
    let begin = clock();
    cluster.ctl(&["switchover", "--yes"])?;
    let took = clock() - begin;
    ensure!(took < Duration::from_secs(6), "{took:?}");
    ensure!(log(&cluster, first).contains("not paused before the switchover"));
    pooler.signal(Signal::SIGCONT)?;
    let goes_on = |cluster: &Cluster| {
        wait_until("it goes on", PATIENCE, || {
            match (is_paused(cluster), psql(cluster, "postgres", "SELECT 1")) {
                (Ok(false), Ok(_)) => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
    };
    goes_on(&cluster)?;
    let note = |cluster: &Cluster, member: usize| {
        let note = cluster.members[member]
            .state_dir()
            .join("pgbouncers-paused");
        wait_until("the note is gone", PATIENCE, || match note.exists() {
            true => Err(format!("{}", note.display())),
            false => Ok(()),
        })
    };
    note(&cluster, first)?;

    // The daemon dies between PAUSE and RESUME, as its note says.
    let second = cluster.wait_healthy(PATIENCE)?;
    psql(&cluster, "pgbouncer", "PAUSE")?;
    ensure!(is_paused(&cluster)?);
    cluster.members[second].kill_daemon()?;
    let place = cluster.members[second]
        .state_dir()
        .join("pgbouncers-paused");
    fs::write(place, "0123456789abcdef")?;
    cluster.members[second].start()?;
    goes_on(&cluster)?;
    note(&cluster, second)?;
    cluster.wait_healthy(PATIENCE)?;
    ensure!(!pooler.log().is_empty());
    // The host of the old primary dies while it is paused.
    let third = cluster.wait_healthy(PATIENCE)?;
    psql(&cluster, "pgbouncer", "PAUSE")?;
    ensure!(is_paused(&cluster)?);
    cluster.members[third].kill_host()?;
    cluster.wait_other_primary(third, PATIENCE)?;
    goes_on(&cluster)?;
    cluster.members[third].start()?;
    cluster.wait_healthy(PATIENCE)?;
    drop(pooler);

    fs::remove_dir_all(cluster.folder.join("pgbouncer"))?;
    let pooler = Pooler::start(&cluster, "session")?;
    let old = cluster.wait_primary(PATIENCE)?;
    cluster.ctl(&["switchover", "--yes"])?;
    ensure!(log(&cluster, old).contains("pool_mode is session for database postgres"));
    cluster.wait_healthy(PATIENCE)?;
    drop((pooler, proxy));
    cluster.finish()
}
