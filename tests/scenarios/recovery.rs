//! What the cluster does by itself so that its data can be got back: it deletes backups that nothing needs, proves the
//! newest one, and says which promise is kept.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use cluster_tests::cluster::write_private;
use cluster_tests::{Cluster, PATIENCE, Wanted, wait_until};
use serde_json::Value;

use crate::backup_schedule::far_away;

/// A verification begins with a minute and takes some seconds: two of them fit.
const LIMIT: std::time::Duration = PATIENCE.saturating_mul(3);

fn recovery(cluster: &Cluster) -> Result<Value> {
    let text = cluster.ctl(&["dr", "status", "-o", "json"])?;
    Ok(serde_json::from_str(&text)?)
}

/// Waits until the newest of a kind that is over is as wanted; that one.
fn wait_over(cluster: &Cluster, kind: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_until(kind, LIMIT, || {
        let found = recovery(cluster).map_err(|error| format!("{error:#}"))?;
        let newest = &found[kind]["newest"];
        match newest["ended_unix_ms"].is_u64() && is_wanted(newest) {
            true => Ok(newest.clone()),
            false => Err(found[kind].to_string()),
        }
    })
}

fn set(cluster: &Cluster, assignments: &[&str]) -> Result<()> {
    let words = [&["settings", "set", "--yes"], assignments].concat();
    cluster.ctl(&words)?;
    Ok(())
}

fn objective(found: &Value, name: &str) -> Result<Value> {
    let all = found["objectives"].as_array().context("objectives")?;
    let one = all.iter().find(|it| it["name"] == name);
    Ok(one.with_context(|| format!("no {name}: {found}"))?.clone())
}

fn stored(cluster: &Cluster) -> Result<Vec<Value>> {
    let text = cluster.ctl(&["backup", "list", "-o", "json"])?;
    let list: Value = serde_json::from_str(&text)?;
    Ok(list.as_array().context("a list")?.clone())
}

/// The value of the one series of this name, as the first member has it, that has this label too.
fn metric(cluster: &Cluster, name: &str, label: &str) -> Result<String> {
    let text = cluster.get(0, "/metrics")?.body;
    let line = text
        .lines()
        .find(|line| line.starts_with(&format!("{name}{{")) && line.contains(label));
    let line = line.with_context(|| format!("no {name} {label}"))?;
    Ok(line.rsplit(' ').next().unwrap_or_default().to_owned())
}

/// The object of a backup with the database's files.
fn base_of(cluster: &Cluster, id: &str) -> Result<std::path::PathBuf> {
    for database in std::fs::read_dir(cluster.repository())? {
        let file = database?
            .path()
            .join("backup")
            .join(id)
            .join("base.tar.zst");
        if file.exists() {
            return Ok(file);
        }
    }
    anyhow::bail!("{id} is not in the repository")
}

/// Two seconds instead of ten minutes.
fn audit_often(cluster: &Cluster) -> Result<()> {
    for member in &cluster.members {
        let file = member.config_file();
        let text = std::fs::read_to_string(&file)?;
        let (before, after) = text.split_once("\n[backup]\n").context("the table")?;
        let table = "\n[backup]\naudit_interval = \"2s\"\n";
        write_private(&file, &format!("{before}{table}{after}"))?;
    }
    Ok(())
}

/// Waits until what was found in the archive is as wanted.
fn wait_audit(cluster: &Cluster, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    wait_until(what, PATIENCE, || {
        let found = recovery(cluster).map_err(|error| format!("{error:#}"))?;
        match is_wanted(&found["audit"]) {
            true => Ok(found["audit"].clone()),
            false => Err(found["audit"].to_string()),
        }
    })
}

/// A segment behind the only backup is deleted, and put back; after it a backup is taken.
fn a_hole_is_told(cluster: &Cluster, backup: &str) -> Result<()> {
    let primary = cluster.wait_primary(PATIENCE)?;
    let whole = wait_audit(cluster, "the archive without a hole", |audit| {
        audit["missing"] == 0 && audit["first_backup"] == backup
    })?;
    let problems = whole["problems"].as_array().context("problems")?;
    ensure!(problems.is_empty() && whole["failure"].is_null(), "{whole}");
    let wal = base_of(cluster, backup)?;
    let wal = wal.ancestors().nth(3).context("the database")?.join("wal");
    let lost = cluster.sql(primary, "SELECT pg_walfile_name(pg_current_wal_lsn())")?;
    let lost = lost.into_iter().next().context("its name")?;
    let folder = wal.join(&lost[..8]).join(&lost);
    for _ in 0..2 {
        cluster.sql(primary, "SELECT pg_switch_wal()::text")?;
        cluster.sql(primary, "CREATE TABLE IF NOT EXISTS more (number int)")?;
        cluster.sql(primary, "INSERT INTO more VALUES (1)")?;
    }
    cluster.sql(primary, "SELECT pg_switch_wal()::text")?;
    let aside = cluster.repository().join("aside");
    wait_until("the segment in the archive", PATIENCE, || {
        let archived = std::fs::read_dir(wal.join(&lost[..8]));
        let archived = archived.map_err(|error| error.to_string())?;
        let names = archived.flatten().map(|it| it.file_name());
        let behind = names.filter(|it| it.to_string_lossy().as_ref() > lost.as_str());
        match folder.exists() && behind.count() > 1 {
            true => Ok(()),
            false => Err(format!("{} and what follows", folder.display())),
        }
    })?;
    std::fs::rename(&folder, &aside)?;
    let found = wait_audit(cluster, "the hole", |audit| audit["missing"] == 1)?;
    ensure!(
        found["missing_names"][0] == lost.as_str() && found["first_backup"].is_null(),
        "{found}"
    );
    for shown in [cluster.ctl(&["dr", "status"])?, cluster.ctl(&["status"])?] {
        let words = format!("HOLE in the archive: 1 segment is missing: {lost}");
        ensure!(shown.contains(&words), "{shown}");
    }
    println!("{}", cluster.ctl(&["dr", "status"])?);
    ensure!(metric(cluster, "clusterd_archive_missing_segments", "")? == "1");
    // What lies behind it counts again from the next backup.
    cluster.ctl(&["backup", "create"])?;
    cluster.sql(primary, "SELECT pg_switch_wal()::text")?;
    let found = wait_audit(cluster, "the next backup", |audit| {
        audit["first_backup"].is_string()
    })?;
    ensure!(
        found["first_backup"] != backup && found["missing"] == 1,
        "{found}"
    );
    std::fs::rename(&aside, &folder)?;
    wait_audit(cluster, "the segment put back", |audit| {
        audit["missing"] == 0 && audit["first_backup"] == backup
    })?;
    ensure!(metric(cluster, "clusterd_archive_missing_segments", "")? == "0");
    ensure!(metric(cluster, "clusterd_archive_problems", "")? == "0");
    let first: f64 = metric(cluster, "clusterd_archive_first_recoverable_time", "")?.parse()?;
    let looked: f64 = metric(cluster, "clusterd_archive_audit_time", "")?.parse()?;
    ensure!(0.0 < first && first < looked, "{first} to {looked}");
    ensure!(metric(cluster, "clusterd_archive_audit_failing", "")? == "0");
    Ok(())
}

#[test]
fn the_schedule_prunes_and_verifies_and_a_damaged_backup_is_told() -> Result<()> {
    let mut cluster = Wanted::new("recovery").repository().make()?;
    audit_often(&cluster)?;
    cluster.start_all()?;
    cluster.wait_healthy(PATIENCE)?;
    let primary = cluster.wait_primary(PATIENCE)?;
    cluster.sql(
        primary,
        "CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number",
    )?;
    let refused = cluster.ctl(&["settings", "set", "verify_schedule=sometimes", "--yes"]);
    let why = format!("{:#}", refused.expect_err("no schedule"));
    ensure!(why.contains("daily 02:00"), "{why}");
    set(
        &cluster,
        &[
            "rto=10min",
            "rpo=10min",
            "backup_age=1h",
            "verification_age=1h",
        ],
    )?;
    let before = cluster.ctl(&["dr", "status"])?;
    for name in ["backup-age", "verification-age"] {
        let words = format!("NOT kept: {name}, and never was");
        ensure!(before.contains(&words), "{words}: {before}");
    }

    // Two backups, and nothing but the newest is to stay.
    cluster.ctl(&["backup", "create"])?;
    let far = far_away()?;
    set(&cluster, &[&format!("backup_schedule={far}")])?;
    let backup = wait_over(&cluster, "backups", |run| run["failure"].is_null())?;
    let id = backup["id"].as_str().context("its name")?.to_owned();
    ensure!(stored(&cluster)?.len() == 2, "{:?}", stored(&cluster)?);
    set(
        &cluster,
        &[
            "keep_window=1ms",
            "keep_at_least=1",
            &format!("prune_schedule={far}"),
        ],
    )?;
    let pruned = wait_over(&cluster, "prunings", |_| true)?;
    let what = pruned["pruned"].as_str().unwrap_or_default();
    ensure!(what.starts_with("Deleted "), "{pruned}");
    let left = stored(&cluster)?;
    ensure!(left.len() == 1 && left[0]["id"] == *id, "{left:?}");

    set(&cluster, &["verify_schedule=* * * * *"])?;
    let proof = wait_over(&cluster, "verifications", |_| true)?;
    let found = &proof["verification"];
    ensure!(
        found["verdict"] == "SUCCESSFUL" && found["level"] == "start" && found["backup"] == *id,
        "{proof}"
    );
    ensure!(
        found["rto_ms"].is_u64() && found["postgres"].is_string(),
        "{proof}"
    );
    let taker = cluster
        .members
        .iter()
        .position(|it| proof["member"] == *it.name);
    let taker = taker.context("its member")?;
    ensure!(taker != cluster.wait_primary(PATIENCE)?, "{proof}");
    // How far the archive is, is known with the first segment.
    cluster.sql(primary, "SELECT pg_switch_wal()::text")?;
    let kept = wait_until("every promise kept", PATIENCE, || {
        let found = recovery(&cluster).map_err(|error| format!("{error:#}"))?;
        for name in [
            "rto-restore",
            "rpo-archive",
            "backup-age",
            "verification-age",
        ] {
            let one = objective(&found, name).map_err(|error| format!("{error:#}"))?;
            if one["verdict"] != "ok" {
                return Err(one.to_string());
            }
        }
        Ok(found)
    })?;
    ensure!(kept["is_kept"] == true, "{kept}");
    let failover = objective(&kept, "rto-failover")?;
    ensure!(failover["verdict"] == "not measured", "{failover}");
    println!("{}", cluster.ctl(&["dr", "status"])?);
    ensure!(metric(&cluster, "clusterd_pruning_failed", "")? == "0");
    ensure!(metric(&cluster, "clusterd_scheduled_backup_failed", "")? == "0");
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    for (name, at_most) in [
        ("clusterd_scheduled_backup_next_time", 7.0 * 86_400.0),
        ("clusterd_verification_next_time", 60.0),
    ] {
        // A verification that takes so long lets a moment of each minute go by.
        let next: f64 = metric(&cluster, name, "")?.parse()?;
        ensure!(
            (now - 60.0..=now + at_most).contains(&next),
            "{name} is {next}, now is {now}"
        );
    }
    ensure!(metric(&cluster, "clusterd_verification_failed", "")? == "0");
    let breached = |cluster: &Cluster| {
        let label = "objective=\"verification-age\"";
        metric(cluster, "clusterd_objective_breached", label)
    };
    ensure!(breached(&cluster)? == "0");

    // One byte of the backup is another one.
    let base = base_of(&cluster, &id)?;
    let mut content = std::fs::read(&base)?;
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(&base, content)?;
    let failed = wait_over(&cluster, "verifications", |run| run["failure"].is_string())?;
    let why = failed["failure"].as_str().unwrap_or_default();
    ensure!(
        why.starts_with("FAILED: ") && why.contains("base.tar.zst"),
        "{failed}"
    );
    set(&cluster, &["verify_schedule=off", "verification_age=1ms"])?;
    wait_over(&cluster, "verifications", |run| run["failure"].is_string())?;
    let told = cluster.ctl(&["dr", "status"])?;
    let status = cluster.ctl(&["status"])?;
    println!("{told}\n{status}");
    for shown in [&told, &status] {
        ensure!(
            shown.contains("NOT kept: verification-age since "),
            "{shown}"
        );
        ensure!(
            shown.contains(" FAILED ") && shown.contains("base.tar.zst"),
            "{shown}"
        );
    }
    ensure!(metric(&cluster, "clusterd_verification_failed", "")? == "1");
    ensure!(breached(&cluster)? == "1");
    let history = cluster.ctl(&["history"])?;
    for word in ["prune-completed", "verify-completed", "verify-failed"] {
        ensure!(history.contains(word), "{word}: {history}");
    }

    a_hole_is_told(&cluster, &id)?;

    // Nothing is left of the copies.
    for member in &cluster.members {
        let scratch = member.state_dir().join("postgres/verify");
        if scratch.exists() {
            let left = std::fs::read_dir(&scratch)?.count();
            ensure!(left == 0, "{left} in {}", scratch.display());
        }
    }
    cluster.wait_healthy(PATIENCE)?;
    cluster.finish()
}
