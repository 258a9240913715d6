//! One file a command; here is which, and how one is repeated.

pub mod backup;
pub mod bundle;
pub mod dr;
pub mod events;
pub mod explain;
pub mod history;
pub mod import_patroni;
pub mod list;
pub mod local;
pub mod maintenance;
pub mod members;
pub mod other;
pub mod overview;
pub mod planned;
pub mod requests;
pub mod settings;
pub mod snapshot;
pub mod status;
pub mod wait;

use std::io::IsTerminal as _;
use std::time::Duration;

use cluster_proto::v1;

use crate::args::{
    Arguments, Command, DrCommand, Format, Global, MaintenanceCommand, MembersCommand, Snapshot,
    SnapshotCommand, Watch,
};
use crate::client::Client;
use crate::exit::Stop;
use crate::output::{Paint, Report};
use crate::places::Places;
use crate::time::now_unix_ms;
use crate::view::StatusView;

/// What every command has.
pub struct Context {
    /// The cluster.
    pub client: Client,
    /// Flags.
    pub global: Global,
    /// Colours of stdout.
    pub paint: Paint,
}

impl Context {
    fn new(global: Global) -> Result<Self, Stop> {
        let client = Client::new(Places::find(&global)?);
        Ok(Self {
            client,
            global,
            paint: Paint::for_stdout(),
        })
    }

    /// The cluster as some member sees it.
    pub(crate) async fn status(&self) -> Result<StatusView, Stop> {
        let answer = self
            .client
            .read(|mut admin| async move { admin.get_status(v1::GetStatusRequest {}).await })
            .await?;
        Ok(StatusView::from(&answer))
    }

    fn write(&self, report: &Report) -> Result<(), Stop> {
        report.write(self.global.output)
    }

    /// Shows a report once, or again and again.
    async fn show<F>(&self, watch: Watch, report: F) -> Result<(), Stop>
    where
        F: AsyncFn(&Self) -> Result<Report, Stop>,
    {
        let Some(seconds) = watch.watch else {
            return self.write(&report(self).await?);
        };
        let is_screen = self.global.output == Format::Table && std::io::stdout().is_terminal();
        loop {
            let found = report(self).await;
            if is_screen {
                let _ = console::Term::stdout().clear_screen();
            }
            match found {
                Ok(report) => self.write(&report)?,
                // A watch is most needed while nobody answers.
                Err(stop) => eprintln!("clusterctl: {stop}"),
            }
            tokio::time::sleep(Duration::from_secs(seconds.into())).await;
        }
    }
}

/// Runs the command.
///
/// # Errors
/// It was not done; why, and the exit code.
pub async fn run(arguments: Arguments) -> Result<(), Stop> {
    if let Command::Demo = arguments.command {
        return other::demo().write(arguments.global.output);
    }
    if let Command::ImportPatroni(args) = &arguments.command {
        return import_patroni::run(args)?.write(arguments.global.output);
    }
    if let Command::Local(local) = &arguments.command {
        return local::run(&arguments.global, &local.command).await;
    }
    if let Command::Snapshot(Snapshot {
        command: SnapshotCommand::Restore(args),
    }) = &arguments.command
    {
        return Err(snapshot::restore(args));
    }
    let context = Context::new(arguments.global)?;
    match arguments.command {
        Command::List(watch) => {
            context
                .show(watch, async |it| {
                    Ok(list::list(&it.status().await?, it.paint))
                })
                .await
        }
        Command::Topology(watch) => {
            context
                .show(watch, async |it| {
                    Ok(list::topology(&it.status().await?, it.paint))
                })
                .await
        }
        Command::Status(watch) => context.show(watch, status::report).await,
        Command::Explain(args) => {
            let member = args.member.unwrap_or_default();
            context
                .show(args.watch, async |it| explain::report(it, &member).await)
                .await
        }
        Command::Events(args) => events::run(&context, args).await,
        Command::History(history) => {
            context
                .show(history.watch, async |it| {
                    history::report(it, history.limit).await
                })
                .await
        }
        Command::Switchover(args) => requests::switchover(&context, &args).await,
        Command::Failover(args) => requests::failover(&context, &args).await,
        Command::Restart(args) => requests::restart(&context, &args).await,
        Command::Reload(args) => requests::reload(&context, &args).await,
        Command::Reinit(args) => requests::reinit(&context, &args).await,
        Command::Pause(change) => requests::pause(&context, &change).await,
        Command::Resume(change) => requests::resume(&context, &change).await,
        Command::Cancel(args) => requests::cancel(&context, &args).await,
        Command::Flush(args) => planned::flush(&context, &args).await,
        Command::Maintenance(args) => match args.command {
            MaintenanceCommand::On(args) => maintenance::on(&context, &args).await,
            MaintenanceCommand::Off(args) => maintenance::off(&context, &args).await,
        },
        Command::Settings(args) => settings::run(&context, &args.command).await,
        Command::Members(args) => match args.command {
            MembersCommand::List => {
                context.write(&members::list(&context.status().await?, context.paint))
            }
            MembersCommand::Replace(args) => members::replace(&context, &args).await,
        },
        Command::Backup(args) => backup::run(&context, &args.command).await,
        Command::Snapshot(args) => snapshot::run(&context, &args.command).await,
        Command::Dr(args) => match args.command {
            DrCommand::Status(watch) => {
                context
                    .show(watch, async |it| {
                        Ok(dr::report(&it.status().await?, now_unix_ms(), it.paint))
                    })
                    .await
            }
        },
        Command::Overview(watch) => {
            context
                .show(watch, async |it| {
                    Ok(overview::report(&it.status().await?, it.paint))
                })
                .await
        }
        Command::Wait(args) => wait::run(&context, &args).await,
        Command::Dsn(args) => other::dsn(&context, args).await,
        Command::Version => other::version(&context).await,
        Command::Bundle(args) => bundle::run(&context, &args).await,
        Command::Local(_) | Command::ImportPatroni(_) | Command::Demo => Ok(()),
    }
}
