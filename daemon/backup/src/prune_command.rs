//! `clusterd-backup prune`, `pin` and `unpin`.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use cluster_backup::holds::{self, Pin, now_unix_ms};
use cluster_backup::retention::{self, Plan, Policy, Stock};
use cluster_backup::{Repository, manifest, prune};

use crate::{Place, Unlock, who};

#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    repository: Place,
    #[command(flatten)]
    unlock: Unlock,
    /// Any moment this far back stays restorable ("7d", "36h").
    #[arg(long, value_parser = who::duration)]
    keep_window: Duration,
    /// Backups and WAL of this database (its system identifier) alone.
    #[arg(long)]
    database: Option<u64>,
    /// So many backups stay, however old.
    #[arg(long, default_value = "2")]
    keep_at_least: usize,
    /// These stay, too, this time; see `pin` for longer.
    #[arg(long)]
    pin: Vec<String>,
    /// Print what would go; touch nothing (also what happens without --yes).
    #[arg(long, conflicts_with = "yes")]
    dry_run: bool,
    /// Delete.
    #[arg(long)]
    yes: bool,
    /// Who asked for it; without it the user that runs this.
    #[arg(long)]
    by: Option<String>,
}

#[derive(Args)]
pub struct PinFlags {
    #[command(flatten)]
    repository: Place,
    #[command(flatten)]
    unlock: Unlock,
    /// The backup.
    id: String,
    /// Why, for those who find it later.
    #[arg(long)]
    why: String,
    /// Who; without it the user that runs this.
    #[arg(long)]
    by: Option<String>,
}

/// Plans for each database, and deletes with `--yes`.
pub async fn prune(flags: &Flags) -> Result<()> {
    let repository = flags.repository.open(&flags.unlock)?;
    ensure!(
        flags.keep_at_least > 0,
        "--keep-at-least 0 would keep nothing"
    );
    let policy = Policy {
        window_ms: i64::try_from(flags.keep_window.as_millis())?,
        at_least: flags.keep_at_least,
    };
    let by = flags.by.clone().unwrap_or_else(who::user);
    // All of it is planned before anything goes.
    let mut plans = Vec::new();
    let mut databases = databases(&repository).await?;
    databases.retain(|database| flags.database.is_none_or(|own| own == *database));
    for database in databases {
        let mut stock = prune::stock(&repository, database).await?;
        let now = now_unix_ms();
        stock.pins.extend(flags.pin.iter().map(|id| Pin {
            backup: id.clone(),
            why: "--pin".to_owned(),
            by: by.clone(),
            at_unix_ms: now,
        }));
        let plan = retention::plan(&stock, policy, now)?;
        tell(database, &stock, &plan);
        plans.push((database, stock, plan, now));
    }
    let known = |id: &String| {
        let mut backups = plans.iter().flat_map(|(_, stock, _, _)| &stock.backups);
        backups.any(|it| it.id == *id)
    };
    if let Some(id) = flags.pin.iter().find(|id| !known(id)) {
        bail!("--pin {id}: there is no backup of this name; nothing was touched");
    }
    if !flags.yes {
        println!("Dry run: nothing was touched; --yes does it.");
        return Ok(());
    }
    for (database, stock, plan, now) in plans {
        if plan.is_empty() {
            continue;
        }
        let by = format!("{by} on {}", who::host());
        let record = prune::record(&stock, &plan, policy, by, now);
        let deleted = prune::perform(&repository, database, &stock, &plan, record).await?;
        println!("Deleted {deleted} objects of database {database}.");
    }
    Ok(())
}

fn tell(database: u64, stock: &Stock, plan: &Plan) {
    println!("Database {database}:");
    for (id, why) in &plan.keep {
        println!("  stays  {id}  ({})", why.join("; "));
    }
    for id in &plan.backups {
        println!("  goes   {id}");
    }
    for id in &plan.parts {
        println!("  goes   {id}  (parts of a backup that was given up)");
    }
    for (timeline, first, last, count) in prune::ranges(&plan.wal) {
        let (first, last) = (first.as_str(), last.as_str());
        println!("  goes   {count} files of WAL of timeline {timeline}, {first} to {last}");
    }
    if !plan.keys.is_empty() {
        println!(
            "  goes   {} data keys of backups that go or are gone",
            plan.keys.len()
        );
    }
    println!("  stays  {} files of WAL", plan.wal_kept);
    for pin in &stock.pins {
        if !stock.backups.iter().any(|it| it.id == pin.backup) {
            println!("  note   {} is pinned and not there", pin.backup);
        }
    }
}

async fn databases(repository: &Repository) -> Result<Vec<u64>> {
    let folders = repository.folders("").await?;
    Ok(folders.iter().filter_map(|it| it.parse().ok()).collect())
}

/// Pins a backup.
pub async fn pin(flags: &PinFlags) -> Result<()> {
    let repository = flags.repository.open(&flags.unlock)?;
    let backups = manifest::list(&repository).await?;
    let backup = backups.iter().find(|it| it.id == flags.id);
    let backup = backup.with_context(|| format!("there is no backup named {}", flags.id))?;
    let pin = Pin {
        backup: flags.id.clone(),
        why: flags.why.clone(),
        by: flags.by.clone().unwrap_or_else(who::user),
        at_unix_ms: now_unix_ms(),
    };
    holds::pin(&repository, backup.database, &pin).await?;
    println!("{} stays until it is unpinned.", flags.id);
    Ok(())
}

/// Takes the pin away.
pub async fn unpin(place: &Place, id: &str) -> Result<()> {
    let repository = place.open(&Unlock { identity: None })?;
    for database in databases(&repository).await? {
        let pins = holds::pins(&repository, database).await?;
        if pins.iter().any(|it| it.backup == id) {
            holds::unpin(&repository, database, id).await?;
            println!("{id} is not pinned any more.");
            return Ok(());
        }
    }
    bail!("{id} is not pinned")
}
