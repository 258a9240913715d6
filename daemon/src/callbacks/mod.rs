//! Programs of the operator that are told what has happened to this member's PostgreSQL.
//!
//! They are named in the member's own config file and nowhere else, and run as the daemon does: as
//! PostgreSQL's user. What they do decides nothing: `changes` reads from what the member's loop has seen what
//! they are told, and each kind has a thread of its own (`worker`) that runs one at a time, so that a
//! program, or the disk it lies on, can hang without holding up the loop, the lease or another kind.
//! Only [`Callbacks::before_stop`] is waited for, by planned stops, and no longer than its limit.

mod changes;
mod worker;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use cluster_core::model::lease::Moment;
use cluster_core::model::{ClusterName, Epoch, MemberName, TimelineId};
use tokio::sync::watch;

pub use changes::{Server, Sight};

use changes::Changes;
use worker::{Slot, Worker};

/// What a member's programs may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// PostgreSQL runs here now.
    OnStart,
    /// It does not any more.
    OnStop,
    /// It was stopped and started again on purpose, in the same role.
    OnRestart,
    /// It became a primary, ceased to be one, or is a standby again.
    OnRoleChange,
    /// Its configuration was read again because somebody asked for it.
    OnReload,
    /// The new primary lets clients in.
    PostActivate,
    /// It is about to be stopped on purpose, and waits for this.
    BeforeStop,
}

impl Kind {
    /// Every one.
    pub const ALL: [Kind; 7] = [
        Kind::OnStart,
        Kind::OnStop,
        Kind::OnRestart,
        Kind::OnRoleChange,
        Kind::OnReload,
        Kind::PostActivate,
        Kind::BeforeStop,
    ];

    /// As the config file, the program's argument and the metrics have it.
    pub fn word(self) -> &'static str {
        match self {
            Kind::OnStart => "on_start",
            Kind::OnStop => "on_stop",
            Kind::OnRestart => "on_restart",
            Kind::OnRoleChange => "on_role_change",
            Kind::OnReload => "on_reload",
            Kind::PostActivate => "post_activate",
            Kind::BeforeStop => "before_stop",
        }
    }
}

/// The role a program is told, in Patroni's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It is, or was, the primary.
    Primary,
    /// It is, or was, a standby.
    Replica,
    /// It was the primary and is nothing now.
    Demoted,
}

impl Role {
    /// Patroni's word.
    pub fn word(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Demoted => "demoted",
        }
    }
}

/// One thing to tell a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    /// What has happened.
    pub kind: Kind,
    /// The role.
    pub role: Role,
    /// The newest epoch known here.
    pub epoch: Epoch,
    /// PostgreSQL's timeline, when it is known.
    pub timeline: Option<TimelineId>,
}

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its absolute path, and the arguments that come before ours.
    pub command: Vec<String>,
    /// After this it is killed with its whole process group.
    pub time_limit: Duration,
}

/// How the callbacks of one kind have gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// Which.
    pub kind: Kind,
    /// Ended with 0.
    pub done: u64,
    /// Ended otherwise, or could not be started.
    pub failed: u64,
    /// Killed at the limit.
    pub timed_out: u64,
    /// Never run, because a newer one took its place in the queue.
    pub replaced: u64,
    /// One runs now.
    pub is_running: bool,
    /// The newest one that is over.
    pub last: Option<Last>,
}

/// How one went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Last {
    /// Whether it ended with 0.
    pub is_done: bool,
    /// How it went, in words.
    pub text: String,
    /// When it ended.
    pub at: Moment,
    /// How long it took.
    pub took: Duration,
}

/// What every program is told, and the clock.
#[derive(Clone, Debug)]
pub struct Place {
    /// The cluster's name: Patroni's scope.
    pub cluster: ClusterName,
    /// Own name.
    pub me: MemberName,
    /// This host's clock.
    pub clock: fn() -> Moment,
}

/// The way to the programs; cheap to clone. The default has none, and does nothing.
#[derive(Clone, Debug, Default)]
pub struct Callbacks {
    shared: Option<Arc<Shared>>,
}

#[derive(Debug)]
struct Shared {
    changes: Mutex<Changes>,
    slots: BTreeMap<Kind, Arc<Slot>>,
}

/// A panic elsewhere leaves nothing half-done in what these locks protect.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Callbacks {
    /// Starts a thread for each program.
    ///
    /// # Errors
    /// No thread.
    pub fn start(
        place: &Place,
        programs: BTreeMap<Kind, Program>,
        shutdown: &watch::Receiver<bool>,
    ) -> anyhow::Result<Callbacks> {
        if programs.is_empty() {
            return Ok(Callbacks::default());
        }
        let mut slots = BTreeMap::new();
        for (kind, program) in programs {
            let slot = Arc::new(Slot::new(kind, program.time_limit));
            let worker = Worker {
                place: place.clone(),
                program,
                slot: Arc::clone(&slot),
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("a runtime for callbacks")?;
            let shutdown = shutdown.clone();
            std::thread::Builder::new()
                .name("clusterd-call".to_owned())
                .spawn(move || runtime.block_on(worker.run(shutdown)))
                .context("a thread for callbacks")?;
            slots.insert(kind, slot);
        }
        Ok(Callbacks {
            shared: Some(Arc::new(Shared {
                changes: Mutex::default(),
                slots,
            })),
        })
    }

    /// Whether anything would be told.
    pub fn is_wanted(&self) -> bool {
        self.shared.is_some()
    }

    /// Takes over what the member's loop has seen; never waits.
    pub fn look(&self, sight: &Sight) {
        let Some(shared) = &self.shared else { return };
        for call in lock(&shared.changes).look(sight) {
            shared.queue(call);
        }
    }

    /// PostgreSQL has read its configuration again, on request; never waits.
    pub fn reloaded(&self) {
        let Some(shared) = &self.shared else { return };
        let call = lock(&shared.changes).now(Kind::OnReload);
        if let Some(call) = call {
            shared.queue(call);
        }
    }

    /// Before a planned stop: returns when the program has ended, or was killed at its limit. How it ended
    /// changes nothing. Dropped before that, the program is killed.
    pub async fn before_stop(&self) {
        let Some(shared) = &self.shared else { return };
        let Some(slot) = shared.slots.get(&Kind::BeforeStop) else {
            return;
        };
        let call = lock(&shared.changes).now(Kind::BeforeStop);
        if let Some(call) = call {
            slot.run(call).await;
        }
    }

    /// How all have gone, in the order of [`Kind::ALL`].
    pub fn told(&self) -> Vec<Told> {
        let slots = self.shared.iter().flat_map(|shared| shared.slots.values());
        slots.map(|slot| slot.told()).collect()
    }

    /// After the shutdown was told: returns when no program runs any more.
    pub async fn ended(&self) {
        for slot in self.shared.iter().flat_map(|shared| shared.slots.values()) {
            slot.ended().await;
        }
    }
}

impl Shared {
    fn queue(&self, call: Call) {
        if let Some(slot) = self.slots.get(&call.kind) {
            slot.queue(call);
        }
    }
}
