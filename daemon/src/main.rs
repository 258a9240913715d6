//! clusterd: flags → logging → config → runtime → exit code.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use clusterd::config::{self, Config, LogFormat};
use clusterd::telemetry::{self, Style, Telemetry};
use clusterd::{runtime, startup};

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
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            eprintln!("clusterd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(config: Config) -> anyhow::Result<()> {
    let style = match config.log.format {
        LogFormat::Text => Style::Text,
        LogFormat::Json => Style::Json,
    };
    let telemetry = Telemetry::start(style, &config.log.level, config.name.as_str())?;
    // Two TLS providers are in the tree; this one is ours. An error means that it is installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let prepared = startup::prepare(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .thread_name("clusterd")
        .build()?;
    let ended = runtime.block_on(runtime::run(config, prepared, telemetry));
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ended
}
