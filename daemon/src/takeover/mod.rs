//! Take-over of a PostgreSQL that runs already: looked at, reported, and with one restart made the
//! cluster's first primary.
//!
//! The group forms while the old server serves; only then is it stopped. Until that moment nothing
//! in its directory changes, and no guard exists, because a guard kills whatever runs in its
//! directory that it did not start. For the same reason an ordinary start is refused where a
//! stranger's server runs ([`refuse_stranger`]).
//!
//! | file | what it holds |
//! |---|---|
//! | `checks` | what is imported, replaced, refused; pure |
//! | `distribution` | what would start the old server again |
//! | `estimate` | how long the restart will take, and what that is made of |
//! | `report`, `way_back` | the words |
//! | `handover` | of a primary: waiting for the group, the stop, the measured gap |
//! | `standby` | of a standby: what is special, waiting for its primary, the stop |

mod checks;
mod distribution;
mod estimate;
mod handover;
mod report;
mod standby;
mod way_back;

use std::io::{BufRead as _, IsTerminal as _, Write as _};
use std::path::Path;

use anyhow::{Context, bail};

use crate::config::{Config, PostgresConfig};
use crate::postgres::{self, OldFacts, OldServer};
use crate::reconcile::durable::DurableRecord;
use crate::telemetry;

use checks::{Findings, Refusal, Situation};
pub use handover::{Hold, Place, TakeOver};

/// How this daemon begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// The data directory is ours, empty, or holds a stopped server.
    Ordinary,
    /// A server of somebody else's runs in it and is to be taken over.
    TakeOver,
}

/// What is found in the data directory of a member that has never had one.
struct Looked {
    old: OldServer,
    facts: OldFacts,
    findings: Findings,
    way_back: Vec<String>,
}

/// Fails where a server runs that was never this member's. Changes nothing.
///
/// # Errors
/// It does; or that could not be found out.
pub fn refuse_stranger(config: &Config) -> anyhow::Result<()> {
    let Some(old) = stranger(config)? else {
        return Ok(());
    };
    let place = data_dir(config)?;
    bail!(
        "a PostgreSQL that was never this cluster's runs in {} (process {}, port {}); it is left \
         alone and nothing was changed. To see what taking it over would do: clusterd --config FILE \
         --take-over --dry-run. Or stop it, or name another postgres.data_dir",
        place.display(),
        old.pid,
        old.port,
    )
}

/// The mode for `--take-over`: once the directory is ours there is nothing left to take over.
///
/// # Errors
/// No server runs in the data directory: its settings could not be read.
pub fn mode(config: &Config) -> anyhow::Result<Mode> {
    if is_ours(&config.state_dir)? {
        return Ok(Mode::Ordinary);
    }
    find(config).map(|_| Mode::TakeOver)
}

/// The server that runs in the data directory.
fn find(config: &Config) -> anyhow::Result<OldServer> {
    let place = data_dir(config)?;
    OldServer::find(place)?.with_context(|| {
        format!(
            "no PostgreSQL runs in {}: start it, so that its parameters, users and slots can be \
             read, and a standby streams (an empty data directory needs no --take-over)",
            place.display()
        )
    })
}

/// Looks, and prints what a take-over would do; whether it would be done. Changes nothing.
///
/// # Errors
/// The old server could not be looked at.
pub async fn dry_run(config: &Config) -> anyhow::Result<bool> {
    let looked = look(config).await?;
    print!("{}", looked.report(config));
    let is_possible = looked.findings.refused.is_empty();
    println!(
        "\n{}",
        if is_possible && looked.is_standby() {
            "It can be taken over, before its primary is: run the same command here without \
             --dry-run, and on the primary's host last of all."
        } else if is_possible {
            "It can be taken over: start clusterd on every other member first (with --take-over \
             where a standby of it is), then run the same command here without --dry-run."
        } else {
            "It is not taken over as it is. Nothing was changed."
        }
    );
    Ok(is_possible)
}

/// Looks, prints, asks unless `is_confirmed`; from here on the daemon may go ahead.
///
/// # Errors
/// It is refused, or nobody said yes.
pub async fn prepare(config: &Config, is_confirmed: bool) -> anyhow::Result<TakeOver> {
    let looked = look(config).await?;
    print!("{}", looked.report(config));
    let _ = std::io::stdout().flush();
    looked.refuse()?;
    if !is_confirmed {
        ask(if looked.is_standby() {
            "Take this standby over, once its primary is?"
        } else {
            "Take it over, with one restart?"
        })?;
    }
    Ok(TakeOver::new(looked))
}

fn ask(question: &str) -> anyhow::Result<()> {
    let (stdin, mut stderr) = (std::io::stdin(), std::io::stderr());
    if !stdin.is_terminal() {
        bail!("there is no terminal to ask on: repeat it with --yes");
    }
    write!(stderr, "\n{question} [y/N] ").context("ask")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("ask")?;
    if !["y", "yes"].contains(&answer.trim().to_ascii_lowercase().as_str()) {
        bail!("not confirmed; nothing was changed");
    }
    Ok(())
}

impl Looked {
    fn is_standby(&self) -> bool {
        self.facts.standby.is_some()
    }

    fn report(&self, config: &Config) -> String {
        report::report(
            config,
            &self.old,
            &self.facts,
            &self.findings,
            &self.way_back,
        )
    }

    fn refuse(&self) -> anyhow::Result<()> {
        Looked::refuse_any(self.findings.refused.iter())
    }

    fn refuse_any<'a>(refused: impl Iterator<Item = &'a Refusal>) -> anyhow::Result<()> {
        let refused: Vec<String> = refused
            .map(|refusal| format!("{} (cure: {})", refusal.what, refusal.cure))
            .collect();
        if refused.is_empty() {
            return Ok(());
        }
        bail!("it is not taken over: {}", refused.join("; "))
    }
}

/// Reads everything and judges it.
async fn look(config: &Config) -> anyhow::Result<Looked> {
    let own = own_postgres(config)?;
    if is_ours(&config.state_dir)? {
        bail!("this member's data directory belongs to the cluster already: nothing to take over");
    }
    let old = find(config)?;
    let programs = postgres::programs_major(&own.bin_dir, &own.os_user).await?;
    let (facts, unreadable) = match old.facts(&own.superuser).await {
        Ok(facts) => (facts, None),
        Err(error) => (OldFacts::default(), Some(cannot_read(own, &old, &error))),
    };
    let starters = distribution::starters(Path::new("/"), old.unit.as_deref(), &facts.config_file);
    let findings = match unreadable {
        Some(refusal) => Findings {
            refused: vec![refusal],
            ..Findings::default()
        },
        None => checks::assess(&Situation {
            config,
            postgres: own,
            facts: &facts,
            port: old.port,
            programs: programs.0,
            starters: &starters,
        }),
    };
    let way_back = match facts.standby {
        Some(_) => way_back::of_standby(config, own, &old, &facts.config_file),
        None => way_back::way_back(config, own, &old, &facts.config_file),
    };
    Ok(Looked {
        old,
        facts,
        findings,
        way_back,
    })
}

fn cannot_read(own: &PostgresConfig, old: &OldServer, error: &postgres::Error) -> Refusal {
    let socket = old
        .socket_dir
        .as_ref()
        .map_or("TCP".to_owned(), |place| place.display().to_string());
    Refusal {
        what: format!(
            "user {} cannot look at it as `{}` over {socket}, port {}: {}",
            own.os_user,
            own.superuser,
            old.port,
            telemetry::chain(error)
        ),
        cure: format!(
            "let `local all {} peer` be the first line of its pg_hba.conf and reload it, or name its \
             superuser in postgres.superuser",
            own.superuser
        ),
    }
}

fn stranger(config: &Config) -> anyhow::Result<Option<OldServer>> {
    let Some(own) = &config.postgres else {
        return Ok(None);
    };
    let Some(old) = OldServer::find(&own.data_dir)? else {
        return Ok(None);
    };
    Ok((!is_ours(&config.state_dir)?).then_some(old))
}

/// Whether this member has ever had a data directory of the cluster's.
fn is_ours(state_dir: &Path) -> anyhow::Result<bool> {
    let kept = DurableRecord::open(state_dir)?.get();
    Ok(kept.incarnation.is_some() || kept.marker.is_some())
}

fn own_postgres(config: &Config) -> anyhow::Result<&PostgresConfig> {
    config
        .postgres
        .as_ref()
        .context("a witness has no PostgreSQL to take over")
}

fn data_dir(config: &Config) -> anyhow::Result<&Path> {
    Ok(&own_postgres(config)?.data_dir)
}
