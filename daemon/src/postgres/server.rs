//! Start as a standby, stop, kill, reload; attach to an upstream; the gate.
//!
//! There is no other start than `start_standby`: a primary is a standby that was promoted.

use std::io::{Read, Seek, SeekFrom};
use std::sync::atomic::Ordering;
use std::time::Duration;

use cluster_core::model::parameters;
use tokio::time::{Instant, sleep, timeout};

use super::data_dir::DataDirKind;
use super::options::{ConfigInputs, Gate, MemberAddress, StopMode, Upstream};
use super::supervisor::{Program, ServerProcess};
use super::tool::environment;
use super::{Error, Postgres, lock, sql};

/// The file the guard appends PostgreSQL's output to.
const OUTPUT: &str = "postgresql.log";

/// Bytes of output after which the next start begins a new file.
const OUTPUT_LIMIT: u64 = 64 << 20;

/// How often a wait looks again.
const STEP: Duration = Duration::from_millis(10);

impl Postgres {
    /// Starts the server in recovery, with `standby.signal`, and returns once the process exists.
    ///
    /// Refused when something unfinished was found. The gate is closed, whatever `inputs` say:
    /// hot-standby sessions are let in by `open_gate` afterwards.
    pub async fn start_standby(&self, inputs: &ConfigInputs) -> Result<i32, Error> {
        let _turn = self.inner.change.lock().await;
        if let Some(marker) = self.any_marker() {
            return Err(Error::Unfinished { marker });
        }
        self.require_stopped().await?;
        match self.data_dir_kind().await? {
            DataDirKind::Adoptable { .. } => {}
            DataDirKind::Empty => {
                return Err(Error::Unusable {
                    why: "it is empty".into(),
                });
            }
            DataDirKind::Unusable { why, .. } => return Err(Error::Unusable { why }),
        }
        self.launch(inputs).await
    }

    /// The start itself; the caller has checked that it may be.
    pub(super) async fn launch(&self, inputs: &ConfigInputs) -> Result<i32, Error> {
        let removed = self.remove_placeholders()?;
        if !removed.is_empty() {
            tracing::warn!(timelines = ?removed, "left-over placeholder histories removed before the start");
        }
        self.put_standby_signal()?;
        self.place_import()?;
        super::durable_file::remove(&self.data_path("recovery.signal"))?;
        super::durable_file::remove(&self.data_path("promote"))?;
        let foreign = self.scrub_auto_conf()?;
        if !foreign.is_empty() {
            tracing::warn!(names = ?foreign, "managed parameters removed from postgresql.auto.conf");
        }
        let mut inputs = inputs.clone();
        inputs.gate = Gate::Closed;
        self.judge_last_start(&inputs);
        self.write_config(&inputs)?;
        let control = self.control_data().await?;
        self.write_foreign_start(&control)?;
        let output = self.state_path(OUTPUT);
        self.prepare_output(&output)?;
        self.note_start(&inputs)?;
        let program = Program {
            program: self.program("postgres"),
            args: self.server_arguments(&control),
            env: environment(&[]),
            output,
        };
        self.drop_session().await;
        *lock(&self.inner.stopping) = None;
        let data_dir = self.options().data_dir.clone();
        Ok(self
            .supervisor()
            .start_postmaster(program, data_dir)
            .await?)
    }

    /// The output file exists and begins anew when it has grown large; one old one is kept.
    fn prepare_output(&self, path: &std::path::Path) -> Result<(), Error> {
        match path.metadata() {
            Ok(meta) if meta.len() <= OUTPUT_LIMIT => return Ok(()),
            Ok(_) => {
                // A log that cannot be put aside is no reason not to start.
                let _ = std::fs::rename(path, self.state_path(&format!("{OUTPUT}.1")));
            }
            Err(_) => {}
        }
        super::durable_file::write(path, b"", 0o600, self.owner())
    }

    /// Where PostgreSQL's output goes.
    pub fn output_file(&self) -> std::path::PathBuf {
        self.state_path(OUTPUT)
    }

    /// `what`, with the server's last complaint if its output holds one, and where there is more.
    pub(super) fn last_words(&self, what: &str) -> String {
        let output = self.output_file();
        let complaint = end_of(&output).ok().and_then(|text| {
            let is_complaint = |line: &&str| line.contains("FATAL: ") || line.contains("PANIC: ");
            text.lines().rev().find(is_complaint).map(str::to_owned)
        });
        match complaint {
            Some(line) => format!("{what}: {line} (more in {})", output.display()),
            None => format!("{what}; see {}", output.display()),
        }
    }

    /// Fails unless no process of this server exists.
    pub(super) async fn require_stopped(&self) -> Result<(), Error> {
        match self.process().await? {
            ServerProcess::None => Ok(()),
            ServerProcess::Running { .. } | ServerProcess::Ending { .. } => Err(Error::IsRunning),
        }
    }

    /// What the supervisor says, within the limit of a statement.
    pub(super) async fn process(&self) -> Result<ServerProcess, Error> {
        self.process_within(self.limits().statement).await
    }

    /// What the supervisor says.
    pub(super) async fn process_within(&self, limit: Duration) -> Result<ServerProcess, Error> {
        timeout(limit, self.supervisor().status())
            .await
            .map_err(|_| Error::TimedOut {
                what: "asking the guard",
                limit,
            })?
            .map_err(Error::from)
    }

    /// Waits until the server answers us.
    pub async fn wait_answering(&self, limit: Duration) -> Result<(), Error> {
        let begin = Instant::now();
        loop {
            if let ServerProcess::None = self.process().await? {
                let why = self.last_words("it ended while starting");
                return Err(Error::NotRunning { why });
            }
            if self.session().await.is_ok() {
                return Ok(());
            }
            if begin.elapsed() > limit {
                return Err(Error::TimedOut {
                    what: "waiting for the server to answer",
                    limit,
                });
            }
            sleep(STEP).await;
        }
    }

    /// Asks the server to stop and waits until no process of it is left.
    pub async fn stop(&self, mode: StopMode, limit: Duration) -> Result<(), Error> {
        match self.process().await? {
            ServerProcess::None => return Ok(()),
            ServerProcess::Running { pid, .. } => {
                *lock(&self.inner.stopping) = Some(pid);
                self.supervisor().stop(mode).await?;
            }
            ServerProcess::Ending { .. } => {}
        }
        self.drop_session().await;
        self.wait_stopped(limit).await
    }

    /// Stops in stages that together end within `budget`: fast, immediate, kill (hazards C5).
    pub async fn stop_budgeted(&self, budget: Duration) -> Result<StopMode, Error> {
        if self.stop(StopMode::Fast, budget.mul_f64(0.6)).await.is_ok() {
            return Ok(StopMode::Fast);
        }
        if self
            .stop(StopMode::Immediate, budget.mul_f64(0.2))
            .await
            .is_err()
        {
            self.kill("a stop did not end within its budget").await?;
        }
        Ok(StopMode::Immediate)
    }

    /// Kills every process of this server; returns when that is verified.
    pub async fn kill(&self, reason: &str) -> Result<(), Error> {
        self.drop_session().await;
        Ok(self.supervisor().kill(reason).await?)
    }

    async fn wait_stopped(&self, limit: Duration) -> Result<(), Error> {
        let begin = Instant::now();
        while self.process().await? != ServerProcess::None {
            if begin.elapsed() > limit {
                return Err(Error::TimedOut {
                    what: "stopping",
                    limit,
                });
            }
            sleep(STEP).await;
        }
        Ok(())
    }

    /// Asks the server to read its files again, and waits until it has.
    ///
    /// The postmaster reads them before any of its children does, so a session of ours that shows a
    /// newer load time proves that hba is in force as well.
    pub async fn reload(&self) -> Result<(), Error> {
        const LOADED: &str = "SELECT (extract(epoch FROM pg_conf_load_time()) * 1000000)::int8";
        let limit = self.limits().statement;
        let session = self.session().await?;
        let before: i64 = session.query_one(limit, LOADED, &[]).await?.get(0);
        self.supervisor().reload().await?;
        let begin = Instant::now();
        loop {
            let now: i64 = session.query_one(limit, LOADED, &[]).await?.get(0);
            if now > before {
                return Ok(());
            }
            if begin.elapsed() > limit {
                return Err(Error::TimedOut {
                    what: "reloading",
                    limit,
                });
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Writes the files and, if the server runs, reloads them.
    pub async fn apply_config(&self, inputs: &ConfigInputs) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        self.apply_config_in_turn(inputs).await
    }

    pub(super) async fn apply_config_in_turn(&self, inputs: &ConfigInputs) -> Result<(), Error> {
        // Until the server has read it, a gate just opened on disk is not open. After a failure it stays
        // so: nobody knows what the server has read.
        if inputs.gate == Gate::Open && self.inputs().gate == Gate::Closed {
            self.inner.is_opening.store(true, Ordering::Release);
        }
        let (postgres, wanted) = (self.clone(), inputs.clone());
        // A disk that hangs must not take a thread of the runtime with it.
        tokio::task::spawn_blocking(move || postgres.write_config(&wanted))
            .await
            .map_err(|_| Error::Probe {
                what: "configuration",
                why: "writing it was given up".to_owned(),
            })??;
        if let ServerProcess::Running { .. } = self.process().await? {
            self.reload().await?;
        }
        self.inner.is_opening.store(false, Ordering::Release);
        Ok(())
    }

    /// Lets these members in by hba and no others; whether that was not so already. Everything else in
    /// the configuration stays as it is.
    pub async fn admit_members(&self, members: &[MemberAddress]) -> Result<bool, Error> {
        if self.inputs().members == members {
            return Ok(false);
        }
        self.edit_config(|inputs| inputs.members = members.to_vec())
            .await?;
        Ok(true)
    }

    /// Changes a part of the configuration and leaves the rest as it is then: two edits at once never
    /// undo one another.
    pub async fn edit_config(&self, edit: impl FnOnce(&mut ConfigInputs)) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        let mut inputs = self.inputs();
        edit(&mut inputs);
        self.apply_config_in_turn(&inputs).await
    }

    /// Follows an upstream. The caller has proved that our WAL is on its line (DESIGN section 7).
    pub async fn attach(&self, upstream: Upstream) -> Result<(), Error> {
        self.edit_config(|inputs| inputs.upstream = Some(upstream))
            .await
    }

    /// Lets clients in.
    pub async fn open_gate(&self) -> Result<(), Error> {
        self.edit_config(|inputs| inputs.gate = Gate::Open).await
    }

    /// Lets no new client in. Sessions already open stay; see `end_client_sessions`.
    pub async fn close_gate(&self) -> Result<(), Error> {
        self.edit_config(|inputs| inputs.gate = Gate::Closed).await
    }

    /// Ends every client session but ours; returns how many were told to end.
    pub async fn end_client_sessions(&self) -> Result<u64, Error> {
        let session = self.session().await?;
        let row = session
            .query_one(self.limits().statement, sql::END_CLIENT_SESSIONS, &[])
            .await?;
        Ok(u64::try_from(row.get::<_, i64>(0)).unwrap_or(0))
    }

    /// CHECKPOINT, in a session of its own, because it may take long.
    pub async fn checkpoint(&self, limit: Duration) -> Result<(), Error> {
        self.connect_to("postgres", limit)
            .await?
            .batch(limit, "CHECKPOINT")
            .await
    }

    /// Managed parameters that come from somewhere else than our files (DESIGN 5.6): they are
    /// removed from `postgresql.auto.conf`, and named for the event.
    pub async fn take_foreign_settings(&self) -> Result<Vec<String>, Error> {
        let session = self.session().await?;
        let own = self.state_path("postgresql.conf").display().to_string();
        let rows = session
            .query(
                self.limits().statement,
                sql::FOREIGN_SETTINGS,
                &[&parameters::managed_names(), &own],
            )
            .await?;
        let mut names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        for name in self.scrub_auto_conf()? {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        if !names.is_empty() {
            self.reload().await?;
        }
        Ok(names)
    }
}

/// The last few kilobytes of a file.
fn end_of(path: &std::path::Path) -> std::io::Result<String> {
    let size = path.metadata()?.len();
    output_since(path, size.saturating_sub(8192))
}

/// What a file holds from here on, at most a megabyte of it.
pub(super) fn output_since(path: &std::path::Path, from: u64) -> std::io::Result<String> {
    const MOST: u64 = 1 << 20;
    let mut file = std::fs::File::open(path)?;
    file.seek(SeekFrom::Start(from))?;
    let mut said = Vec::new();
    file.take(MOST).read_to_end(&mut said)?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}
