//! clusterd: flags → logging → config → runtime → exit code.

use std::convert::Infallible;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clusterd::config::{self, Config, LogFormat};
use clusterd::takeover::{self, Mode};
use clusterd::telemetry::{self, Style, Telemetry};
use clusterd::{runtime, startup};
use clusterd_guard::privileges::{self, Account};
use tokio::runtime::{Handle, Runtime};
use tokio::sync::oneshot;

/// Raft-based PostgreSQL cluster manager: one daemon on each database host.
#[derive(Parser)]
#[command(name = "clusterd", version)]
struct Flags {
    /// This member's config file.
    #[arg(
        long,
        short,
        default_value = "/etc/clusterd/clusterd.toml",
        env = "CLUSTERD_CONFIG"
    )]
    config: PathBuf,
    /// Check the config file, list every problem, and exit.
    #[arg(long)]
    check_config: bool,
    /// Print the config with every default filled in and secrets masked, and exit.
    #[arg(long)]
    dump_config: bool,
    /// Accept a group of two voters without a witness, which cannot fail over.
    #[arg(long)]
    accept_no_failover: bool,
    /// Take over the PostgreSQL that runs in the data directory, with one restart (also:
    /// CLUSTERD_TAKE_OVER=yes, which needs no --yes): first its standbys, on their hosts, and the other
    /// members; the primary last.
    #[arg(long)]
    take_over: bool,
    /// With --take-over: print what would be imported, what is refused and the way back; change nothing.
    #[arg(long, requires = "take_over")]
    dry_run: bool,
    /// With --take-over: do not ask.
    #[arg(long, requires = "take_over")]
    yes: bool,
}

/// What was said about taking a running server over.
#[derive(Clone, Copy)]
enum Wish {
    None,
    DryRun,
    TakeOver { is_confirmed: bool },
}

impl Flags {
    fn wish(&self) -> Wish {
        // For a service manager, where nobody can add a flag for one start.
        let by_environment =
            config::process_environment("CLUSTERD_TAKE_OVER").is_some_and(|value| value == "yes");
        match (self.take_over, self.dry_run) {
            (_, true) => Wish::DryRun,
            (true, false) => Wish::TakeOver {
                is_confirmed: self.yes || by_environment,
            },
            (false, false) if by_environment => Wish::TakeOver { is_confirmed: true },
            (false, false) => Wish::None,
        }
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let environment = |name: &str| match name {
        "CLUSTERD_ACCEPT_NO_FAILOVER" if flags.accept_no_failover => Some("1".to_owned()),
        other => config::process_environment(other),
    };
    let config = match Config::load(&flags.config, &environment) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("clusterd: {}", telemetry::chain(&error));
            return ExitCode::from(2);
        }
    };
    if flags.dump_config {
        print!("{}", config.dump());
        return ExitCode::SUCCESS;
    }
    if flags.check_config {
        println!("{} is in order", flags.config.display());
        return ExitCode::SUCCESS;
    }
    let wish = flags.wish();
    let ended = match wish {
        Wish::DryRun => dry_run(&config),
        Wish::None | Wish::TakeOver { .. } => serve(config, wish).map(|()| true),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("clusterd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Looks at the running server as PostgreSQL's user, whom it lets in.
fn dry_run(config: &Config) -> anyhow::Result<bool> {
    if let Some(postgres) = &config.postgres
        && nix::unistd::Uid::effective().is_root()
    {
        privileges::drop_to(&Account::of_name(&postgres.os_user)?)?;
    }
    one_thread()?.block_on(takeover::dry_run(config))
}

fn serve(config: Config, wish: Wish) -> anyhow::Result<()> {
    let style = match config.log.format {
        LogFormat::Text => Style::Text,
        LogFormat::Json => Style::Json,
    };
    let telemetry = Telemetry::start(style, &config.log.level, config.name.as_str())?;
    // Two TLS providers are in the tree; this one is ours. An error means that it is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mode = match wish {
        Wish::TakeOver { .. } => takeover::mode(&config)?,
        Wish::None | Wish::DryRun => Mode::Ordinary,
    };
    let prepared = startup::prepare(&config, mode)?;
    // One thread for the group, the leases and whoever asks; one for PostgreSQL and its files, which
    // may stand still. A pool of threads wakes one for every second message, and that costs as much
    // as the work.
    let runtime = one_thread()?;
    let (beside, keep) = beside()?;
    let ended = runtime.block_on(async {
        let take_over = match (mode, wish) {
            (Mode::TakeOver, Wish::TakeOver { is_confirmed }) => {
                Some(takeover::prepare(&config, is_confirmed).await?)
            }
            (Mode::TakeOver | Mode::Ordinary, _) => None,
        };
        Box::pin(runtime::run(config, prepared, telemetry, take_over, beside)).await
    });
    drop(keep);
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ended
}

fn one_thread() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
}

/// A runtime on a thread of its own; it ends when the sender is dropped.
fn beside() -> std::io::Result<(Handle, oneshot::Sender<Infallible>)> {
    let runtime = one_thread()?;
    let handle = runtime.handle().clone();
    let (keep, is_over) = oneshot::channel();
    std::thread::Builder::new()
        .name("clusterd-pg".to_owned())
        .spawn(move || {
            // An error, always: nothing is ever sent.
            let _ = runtime.block_on(is_over);
            // A disk that stands still must not hold up the end.
            runtime.shutdown_background();
        })?;
    Ok((handle, keep))
}
