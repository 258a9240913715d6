//! Snapshots: a whole cluster as one file, taken under writes, and back on empty hosts; and everything that
//! may go wrong on the way.

use std::fs::File;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::host::Host;
use cluster_tests::member::{POSTGRES_PORT, fingerprint, give_to_postgres, signal};
use cluster_tests::{Cluster, PATIENCE, Wanted, programs, sql, wait_until};
use nix::sys::signal::Signal;
use serde_json::Value;

/// A table, and in the same transaction how many rows it has: equal in every consistent copy.
const TABLES: &str = "CREATE TABLE kept (number bigint PRIMARY KEY); CREATE TABLE total (n bigint); \
     INSERT INTO total VALUES (0)";
const ONE_MORE: &str =
    "BEGIN; UPDATE total SET n = n + 1; INSERT INTO kept SELECT n FROM total; COMMIT";
const COUNTS: &str =
    "SELECT count(*) || ' ' || coalesce(max(number), 0) || ' ' || (SELECT n FROM total) FROM kept";

/// Rows that are written one after the other until told to end.
struct Writing {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicU64>,
}

impl Writing {
    fn begin(cluster: &Cluster) -> Result<Writing> {
        let primary = cluster.wait_primary(PATIENCE)?;
        cluster.sql(primary, TABLES)?;
        let address = cluster.members[primary].host.address.clone();
        let config = cluster.login().config(&address, POSTGRES_PORT);
        let writing = Writing {
            stop: Arc::default(),
            acknowledged: Arc::default(),
        };
        let (stop, count) = (Arc::clone(&writing.stop), Arc::clone(&writing.acknowledged));
        cluster.start_task(async move {
            let Ok(client) = sql::connect(&config, PATIENCE).await else {
                return;
            };
            while !stop.load(Ordering::SeqCst) && client.batch_execute(ONE_MORE).await.is_ok() {
                count.fetch_add(1, Ordering::SeqCst);
            }
        });
        let rows = Arc::clone(&writing.acknowledged);
        wait_until("some rows", PATIENCE, || {
            match rows.load(Ordering::SeqCst) {
                0..20 => Err("few".to_owned()),
                _ => Ok(()),
            }
        })?;
        Ok(writing)
    }

    fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }
}

/// Files and programs that outlive a cluster, where user postgres may use them.
struct Luggage {
    place: tempfile::TempDir,
}

impl Luggage {
    fn new() -> Result<Luggage> {
        let place = tempfile::tempdir_in(cluster_tests::reaper::scratch())?;
        std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755))?;
        for name in ["clusterctl", "clusterd-backup"] {
            let to = place.path().join(name);
            std::fs::copy(programs::ours(name)?, &to)?;
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o755))?;
        }
        Ok(Luggage { place })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    /// As a user would: `clusterctl snapshot restore FILE --into …`.
    fn restore(&self, cluster: &Cluster, file: &Path, into: &Path) -> Command {
        let mut command = cluster
            .clients
            .command_as_postgres(&self.path("clusterctl"));
        command.args(["snapshot", "restore"]).arg(file);
        command.arg("--into").arg(into);
        command.arg("--bin-dir").arg(&cluster.members[0].bin);
        command
    }
}

/// A copy of a file with one byte changed.
fn flipped(file: &Path, to: &Path) -> Result<()> {
    let mut bytes = std::fs::read(file)?;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    Ok(std::fs::write(to, bytes)?)
}

fn create(cluster: &Cluster, more: &[&str]) -> Result<String> {
    let said = cluster.ctl(&[&["snapshot", "create"], more].concat())?;
    let uuid = said.lines().find_map(|line| line.strip_prefix("uuid = "));
    let uuid = uuid.with_context(|| said.clone())?.to_owned();
    ensure!(said.contains("\nstatus = processing\n"), "{said}");
    Ok(uuid)
}

fn status(cluster: &Cluster, uuid: &str) -> Result<Value> {
    let said = cluster.ctl(&["snapshot", "status", uuid, "-o", "json"])?;
    Ok(serde_json::from_str(&said)?)
}

/// Waits until it is no longer under way; how it stands.
fn ended(cluster: &Cluster, uuid: &str) -> Result<Value> {
    wait_until("the snapshot's end", 2 * PATIENCE, || {
        let found = status(cluster, uuid).map_err(|error| format!("{error:#}"))?;
        match found["status"].as_str() {
            Some("processing") | None => Err(found.to_string()),
            Some(_) => Ok(found),
        }
    })
}

/// `member -> (status, reason)`.
fn part(status: &Value, member: &str) -> (String, String) {
    let all = status["members"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|it| it["name"] == member);
    let found = found.unwrap_or(Value::Null);
    let text = |key: &str| found[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn overview(cluster: &Cluster) -> Result<Value> {
    Ok(serde_json::from_str(
        &cluster.ctl(&["overview", "-o", "json"])?,
    )?)
}

fn wait_consistent(cluster: &Cluster) -> Result<Value> {
    wait_until("every member is consistent", 2 * PATIENCE, || {
        let found = overview(cluster).map_err(|error| format!("{error:#}"))?;
        match found["is_consistent"] == true {
            true => Ok(found),
            false => Err(found.to_string()),
        }
    })
}

fn failing(command: Command) -> Result<(Option<i32>, String)> {
    let mut command = command;
    let answer = command.stdin(Stdio::null()).output()?;
    let said = [answer.stdout, answer.stderr].concat();
    ensure!(
        !answer.status.success(),
        "it did not fail: {}",
        String::from_utf8_lossy(&said)
    );
    Ok((
        answer.status.code(),
        String::from_utf8_lossy(&said).into_owned(),
    ))
}

/// From three members with writes to one file, and from that to three empty hosts.
#[test]
fn a_snapshot_taken_under_writes_comes_back_on_three_empty_hosts() -> Result<()> {
    let luggage = Luggage::new()?;
    let old = Wanted::new("snapshot").repository().start()?;
    old.ctl(&["settings", "set", "zones.m1=east", "zones.m2=west", "--yes"])?;
    let writing = Writing::begin(&old)?;
    let before = writing.acknowledged();
    let uuid = create(&old, &["--plain"])?;
    let tar = format!("/snapshot/{uuid}.tar");
    // As long as it is under way there is no file.
    let mut looks = 0;
    let done = wait_until("it is complete", 2 * PATIENCE, || {
        let asked = || -> Result<(u16, Value)> {
            let answer = old.send(0, "GET", &tar, "")?;
            Ok((answer.status, status(&old, &uuid)?))
        };
        let (code, found) = asked().map_err(|error| format!("{error:#}"))?;
        match found["status"].as_str() {
            Some("processing") if code == 404 => {
                looks += 1;
                Err(found.to_string())
            }
            Some("processing") => Ok(Err(anyhow::anyhow!("{code} while it was under way"))),
            _ => Ok(Ok(found)),
        }
    })??;
    ensure!(
        looks > 0,
        "it was never seen under way: the 404 is not shown"
    );
    let after = writing.acknowledged();
    ensure!(
        after > before,
        "nothing was written meanwhile: this shows little"
    );
    println!("{done:#}");
    for member in ["m1", "m2", "m3"] {
        ensure!(
            part(&done, member) == ("completed".to_owned(), String::new()),
            "{done}"
        );
    }
    let holder = done["member"].as_str().context("who has it")?.to_owned();
    let primary = old.wait_primary(PATIENCE)?;
    ensure!(
        old.members[primary].name != holder,
        "a standby is preferred"
    );
    let bytes = done["file"]["bytes"].as_u64().context("its size")?;

    // HTTP: the file for the token only; who does not have it sends on.
    for (place, member) in old.members.iter().enumerate() {
        let open = old.get(place, &tar)?;
        ensure!(open.status == 401, "{}: {}", member.name, open.status);
        let known = old.get(place, &format!("/snapshot/{uuid}"))?;
        ensure!(known.json()["status"] == "completed", "{}", known.body);
        let head = old.send(place, "HEAD", &tar, "")?;
        let wanted = match member.name == holder {
            true => format!("content-length: {bytes}"),
            false => format!("/snapshot/{uuid}.tar"),
        };
        let code = if member.name == holder { 200 } else { 307 };
        ensure!(
            head.status == code && head.head.contains(&wanted),
            "{}",
            head.head
        );
    }
    let file = luggage.path("snapshot.tar");
    let mut download = old.ctl_command(&["snapshot", "download", &uuid])?;
    let answer = download
        .stdout(File::create(&file)?)
        .stderr(Stdio::piped())
        .output()?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(
        said.trim() == format!("Downloaded {bytes} bytes successfully"),
        "{said}"
    );
    ensure!(std::fs::metadata(&file)?.len() == bytes);
    let clusters: Value = serde_json::from_str(&old.ctl(&["status", "-o", "json"])?)?;
    writing.stop.store(true, Ordering::SeqCst);
    let repository = old.repository();
    old.finish()?;

    // Three hosts that hold nothing.
    let more = format!(
        "\n[backup]\nrepository = \"{}\"\nbinary = \"{}\"\n",
        repository.display(),
        luggage.path("clusterd-backup").display()
    );
    let mut new = Wanted::new("restored").config(&more).make()?;
    let into = new.members[1].data_dir();
    let (bad, cut) = (luggage.path("flipped.tar"), luggage.path("cut.tar"));
    flipped(&file, &bad)?;
    std::fs::copy(&file, &cut)?;
    File::options().write(true).open(&cut)?.set_len(bytes / 3)?;
    let nothing = fingerprint(&new.members[1].volume())?;
    for wrong in [&bad, &cut] {
        let (code, said) = failing(luggage.restore(&new, wrong, &into))?;
        println!("{said}");
        ensure!(
            code == Some(3) && said.contains("is damaged"),
            "{code:?} {said}"
        );
    }
    let full = luggage.path("full");
    std::fs::create_dir(&full)?;
    std::fs::write(full.join("mine"), "mine")?;
    give_to_postgres(&full)?;
    let (code, said) = failing(luggage.restore(&new, &file, &full))?;
    ensure!(
        code == Some(3) && said.contains("is not empty"),
        "{code:?} {said}"
    );
    let mut as_root = Command::new(luggage.path("clusterctl"));
    as_root.args(["snapshot", "restore"]).arg(&file);
    as_root.args(["--bin-dir", "/nowhere", "--into"]).arg(&into);
    let (code, said) = failing(as_root)?;
    ensure!(
        code == Some(3) && said.contains("not as root"),
        "{code:?} {said}"
    );
    ensure!(
        fingerprint(&new.members[1].volume())? == nothing,
        "something was touched"
    );

    let said = Host::run(luggage.restore(&new, &file, &into))?;
    println!("{said}");
    ensure!(said.contains("every file is as it was copied"), "{said}");
    ensure!(said.contains(&repository.display().to_string()), "{said}");
    // The cluster's own roles get the passwords of the new config files.
    for member in &new.members {
        let text = std::fs::read_to_string(member.config_file())?;
        let text = text.replace(
            "replication_password = \"",
            "replication_password = \"another-",
        );
        write_private(&member.config_file(), &text)?;
    }
    new.start_all()?;
    new.wait_healthy(2 * PATIENCE)?;
    let seen = wait_consistent(&new)?;
    println!("{}", new.ctl(&["overview"])?);
    ensure!(
        seen["members"].as_array().map(Vec::len) == Some(3),
        "{seen}"
    );
    // The count that the snapshot recorded is the count there is, on every member.
    let mut counts = Vec::new();
    for place in 0..3 {
        counts.extend(new.sql(place, COUNTS)?);
    }
    println!("{before} acknowledged before, {after} after; count, max, recorded: {counts:?}");
    let numbers: Vec<u64> = counts[0]
        .split(' ')
        .map(str::parse)
        .collect::<Result<_, _>>()?;
    let [count, max, recorded] = numbers[..] else {
        anyhow::bail!("{counts:?}")
    };
    ensure!(counts.iter().all(|it| *it == counts[0]), "{counts:?}");
    ensure!(count == max && count == recorded, "{counts:?}");
    // One may have been on its way when the counter was read.
    ensure!(
        (before..=after + 1).contains(&count),
        "{count}: not {before} to {after}"
    );

    let settings: Value = serde_json::from_str(&new.ctl(&["settings", "show", "-o", "json"])?)?;
    ensure!(settings["zones"]["m1"] == "east", "{settings}");
    let own: Value = serde_json::from_str(&new.ctl(&["status", "-o", "json"])?)?;
    ensure!(
        own["cluster_id"] != clusters["cluster_id"],
        "the old cluster's id"
    );
    ensure!(own["system_identifier"] == clusters["system_identifier"]);
    let listed: Value = serde_json::from_str(&new.ctl(&["snapshot", "list", "-o", "json"])?)?;
    ensure!(listed["origin"]["snapshot"] == uuid.as_str(), "{listed}");
    ensure!(
        listed["origin"]["cluster_id"] == clusters["cluster_id"],
        "{listed}"
    );
    ensure!(listed["snapshots"] == Value::Array(Vec::new()), "{listed}");
    let history = new.ctl(&["history"])?;
    ensure!(history.contains("restored"), "{history}");

    // It writes, and never into the old cluster's archive.
    let primary = new.wait_primary(PATIENCE)?;
    new.sql(primary, ONE_MORE)?;
    new.sql(primary, "SELECT pg_switch_wal()")?;
    let refused = new.ctl(&["backup", "create"]);
    let why = format!("{:#}", refused.expect_err("the old cluster's repository"));
    ensure!(why.contains("give this one another"), "{why}");
    wait_until("status says so", PATIENCE, || {
        let said = new.status().map_err(|error| error.to_string())?;
        match said.contains("FAILS for") && said.contains("give this one another") {
            true => Ok(()),
            false => Err(said),
        }
    })?;
    ensure!(!repository.exists(), "something was archived there");
    new.finish()
}

/// Holds the copy of a snapshot up, once it runs.
fn hold(cluster: &Cluster, member: usize) -> Result<i32> {
    let pid = wait_until("a copy", PATIENCE, || {
        let all = cluster.members[member].host.processes();
        let copy = all.iter().find(|(_, name)| name == "pg_basebackup");
        copy.map(|(pid, _)| *pid).ok_or_else(|| format!("{all:?}"))
    })?;
    signal(pid, Signal::SIGSTOP)?;
    Ok(pid)
}

fn standbys(cluster: &Cluster) -> Result<(usize, usize)> {
    let primary = cluster.wait_primary(PATIENCE)?;
    Ok(((primary + 1) % 3, (primary + 2) % 3))
}

/// What is asked for wrongly, and a member that is away: said at once, or said of that member.
#[test]
fn a_snapshot_is_refused_for_what_is_wrong_and_completes_without_a_member_that_is_away()
-> Result<()> {
    let mut cluster = Wanted::new("snapshot-bad").start()?;
    let none = "00000000-0000-4000-8000-000000000000";
    for (arguments, code, words) in [
        (&["status", none][..], 3, "there is no snapshot"),
        (&["status", "nonsense"], 3, "is not a valid uuid"),
        (&["download", none], 3, "there is no snapshot"),
        (&["create"], 3, "holds the whole database"),
        (
            &["create", "--recipient", "age1short"],
            3,
            "is no public key",
        ),
        (
            &["create", "--plain", "--member", "m9"],
            3,
            "m9 is no member",
        ),
    ] {
        let command = cluster.ctl_command(&[&["snapshot"], arguments].concat())?;
        let (found, said) = failing(command)?;
        ensure!(
            found == Some(code) && said.contains(words),
            "{arguments:?}: {found:?} {said}"
        );
    }
    let mut without = cluster.ctl_command(&["snapshot", "create", "--plain"])?;
    without
        .env_remove("CLUSTERCTL_TOKEN")
        .env("HOME", "/nonexistent");
    let (code, said) = failing(without)?;
    ensure!(code == Some(6), "{code:?} {said}");
    for path in [format!("/snapshot/{none}"), "/snapshot/nonsense".to_owned()] {
        ensure!(cluster.get(0, &path)?.status == 404, "{path}");
        let tar = cluster.send(0, "GET", &format!("{path}.tar"), "")?;
        ensure!(tar.status == 404, "{path}.tar: {}", tar.status);
    }
    let open = cluster.members[0].http();
    let open = cluster.run(async move {
        cluster_tests::http::request("POST", &open, "/snapshot", PATIENCE).await
    })?;
    ensure!(open.status == 401, "{}", open.status);
    let unsaid = cluster.send(0, "POST", "/snapshot", "")?;
    ensure!(unsaid.status == 400, "{} {}", unsaid.status, unsaid.body);

    // One member is away; HTTP begins it.
    let (taker, away) = standbys(&cluster)?;
    cluster.members[away].kill_host()?;
    let name = cluster.members[away].name.clone();
    wait_until("the others miss it", PATIENCE, || {
        let seen = overview(&cluster).map_err(|error| format!("{error:#}"))?;
        let all = seen["members"].as_array().cloned().unwrap_or_default();
        let gone = all.iter().find(|it| it["name"] == name.as_str());
        match gone.is_some_and(|it| it["is_consistent"] == false) {
            true => Ok(()),
            false => Err(seen.to_string()),
        }
    })?;
    let begun = cluster.send(taker, "POST", "/snapshot", "{\"plain\": true}")?;
    ensure!(begun.status == 200, "{} {}", begun.status, begun.body);
    let uuid = begun.json()["uuid"].as_str().context("a uuid")?.to_owned();
    ensure!(begun.json()["status"] == "processing", "{}", begun.body);
    let found = ended(&cluster, &uuid)?;
    ensure!(found["status"] == "completed", "{found}");
    let (word, why) = part(&found, &name);
    ensure!(word == "missing" && why.contains("not heard"), "{found}");

    // Somebody removes the file: it is told, and no download begins.
    let holder = found["member"].as_str().context("who has it")?.to_owned();
    let holder = cluster
        .members
        .iter()
        .find(|it| it.name == holder)
        .context("a member")?;
    std::fs::remove_file(holder.state_dir().join(format!("snapshots/{uuid}.tar")))?;
    wait_until("it is missing", PATIENCE, || {
        let found = status(&cluster, &uuid).map_err(|error| format!("{error:#}"))?;
        match found["status"] == "missing" && found.to_string().contains("is gone from") {
            true => Ok(()),
            false => Err(found.to_string()),
        }
    })?;
    let (code, said) = failing(cluster.ctl_command(&["snapshot", "download", &uuid])?)?;
    ensure!(
        code == Some(3) && said.contains("missing"),
        "{code:?} {said}"
    );
    cluster.finish()
}

/// Whoever takes it is killed, is gone, is another's standby by then, or has no room: never under way for ever.
#[test]
fn a_snapshot_whose_taker_fails_is_failed_with_the_reason() -> Result<()> {
    let mut cluster = Wanted::new("snapshot-lost").start()?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(primary, "CREATE TABLE large AS SELECT g, repeat(md5(g::text), 30) FROM generate_series(1, 100000) g")?;
    let (first, second) = standbys(&cluster)?;
    let name = |cluster: &Cluster, place: usize| cluster.members[place].name.clone();

    // No room: said before anything is copied.
    cluster.members[second].limit_snapshots(16)?;
    let small = name(&cluster, second);
    let uuid = create(&cluster, &["--plain", "--member", &small])?;
    let found = ended(&cluster, &uuid)?;
    println!("{found:#}");
    ensure!(found["status"] == "failed", "{found}");
    ensure!(part(&found, &small).1.contains("no room"), "{found}");
    let left = std::fs::read_dir(cluster.members[second].state_dir().join("snapshots"))?;
    ensure!(
        left.flatten()
            .all(|it| it.file_name().to_string_lossy().ends_with(".begun")),
        "a copy was left"
    );

    // Its daemon is killed, and started again.
    let taker = name(&cluster, first);
    let uuid = create(&cluster, &["--plain", "--member", &taker])?;
    let copy = hold(&cluster, first)?;
    let other = failing(cluster.ctl_command(&["snapshot", "create", "--plain"])?)?;
    ensure!(other.1.contains("one at a time"), "{other:?}");
    cluster.members[first].kill_daemon()?;
    cluster.members[first].start()?;
    let found = ended(&cluster, &uuid)?;
    println!("{found:#}");
    ensure!(found["status"] == "failed", "{found}");
    ensure!(
        part(&found, &taker).1.contains("ended while it took it"),
        "{found}"
    );
    let _ = signal(copy, Signal::SIGCONT);
    cluster.wait_healthy(PATIENCE)?;

    // Another epoch begins.
    let uuid = create(&cluster, &["--plain", "--member", &taker])?;
    let copy = hold(&cluster, first)?;
    cluster.ctl(&["switchover", "--to", &small, "--yes"])?;
    let found = ended(&cluster, &uuid)?;
    println!("{found:#}");
    ensure!(found["status"] == "failed", "{found}");
    ensure!(
        part(&found, &taker).1.contains("began while it was taken"),
        "{found}"
    );
    let _ = signal(copy, Signal::SIGCONT);
    cluster.wait_healthy(PATIENCE)?;
    wait_until("the copy has ended", PATIENCE, || {
        let all = cluster.members[first].host.processes();
        match all.iter().any(|(_, name)| name == "pg_basebackup") {
            true => Err(format!("{all:?}")),
            false => Ok(()),
        }
    })?;

    // Its host is lost for good.
    let uuid = wait_until("it can begin", PATIENCE, || {
        create(&cluster, &["--plain", "--member", &taker]).map_err(|error| format!("{error:#}"))
    })?;
    hold(&cluster, first)?;
    cluster.members[first].kill_host()?;
    let found = ended(&cluster, &uuid)?;
    println!("{found:#}");
    ensure!(found["status"] == "failed", "{found}");
    ensure!(part(&found, &taker).1.contains("was not heard"), "{found}");
    cluster.members[first].start()?;
    cluster.wait_healthy(2 * PATIENCE)?;
    // And the next one succeeds, with nothing left of those before.
    let uuid = wait_until("it can begin", Duration::from_secs(30), || {
        create(&cluster, &["--plain", "--member", &taker]).map_err(|error| format!("{error:#}"))
    })?;
    let found = ended(&cluster, &uuid)?;
    ensure!(found["status"] == "completed", "{found}");
    let place = cluster.members[first].state_dir().join("snapshots");
    wait_until("only its file is left", PATIENCE, || {
        let left = std::fs::read_dir(&place).map_err(|error| error.to_string())?;
        let names: Vec<String> = left
            .flatten()
            .map(|it| it.file_name().to_string_lossy().into_owned())
            .collect();
        match names == [format!("{uuid}.tar")] {
            true => Ok(()),
            false => Err(format!("{names:?}")),
        }
    })?;
    cluster.finish()
}

/// With a key that is on no host, and a member without data: it has a part, too.
#[test]
fn an_encrypted_snapshot_of_a_cluster_with_a_witness_comes_back_with_its_key_only() -> Result<()> {
    let luggage = Luggage::new()?;
    let keys = luggage.path("keys");
    std::fs::create_dir(&keys)?;
    give_to_postgres(&keys)?;
    let old = Wanted::new("snapshot-key").members(2, 1).start()?;
    let key = keys.join("own.key");
    let mut generate = old
        .clients
        .command_as_postgres(&luggage.path("clusterd-backup"));
    generate.args(["key", "generate"]).arg(&key);
    let reader = Host::run(generate)?.trim().to_owned();
    let primary = old.wait_primary(PATIENCE)?;
    old.sql(
        primary,
        "CREATE TABLE secret AS SELECT 'hush-'||g AS word FROM generate_series(1, 500) g",
    )?;
    let uuid = create(&old, &["--recipient", &reader])?;
    let found = ended(&old, &uuid)?;
    for member in ["m1", "m2", "m3"] {
        ensure!(part(&found, member).0 == "completed", "{found}");
    }
    let file = luggage.path("snapshot.tar");
    let mut download = old.ctl_command(&["snapshot", "download", &uuid])?;
    let answer = download.stdout(File::create(&file)?).output()?;
    ensure!(answer.status.success(), "{answer:?}");
    old.finish()?;

    let mut new = Wanted::new("key-restored").members(2, 1).make()?;
    let into = new.members[0].data_dir();
    let (code, said) = failing(luggage.restore(&new, &file, &into))?;
    ensure!(code == Some(3) && said.contains(&reader), "{code:?} {said}");
    ensure!(!into.exists(), "something was touched");
    let mut restore = luggage.restore(&new, &file, &into);
    Host::run({
        restore.arg("--identity").arg(&key);
        restore
    })?;
    new.start_all()?;
    new.wait_healthy(2 * PATIENCE)?;
    let seen = wait_consistent(&new)?;
    ensure!(seen.to_string().contains("Witness"), "{seen}");
    for place in 0..2 {
        let found = new.sql(
            place,
            "SELECT count(*) FROM secret WHERE word LIKE 'hush-%'",
        )?;
        ensure!(found == ["500"], "{found:?}");
    }
    new.finish()
}
