//! `LeaseKeeper`: the lease of this member, on an OS thread of its own.
//!
//! The thread owns the deadline and a connection to the guard. It reads the clock *before* it posts
//! a renewal to the runtime, takes the answer, moves the deadline and tells the guard. Nothing in it
//! waits for the network, the disk or a lock held over I/O. A retry is a new request with an id and
//! a sending time of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use cluster_core::model::lease::{Holder, LeaseTimes, Moment};
use cluster_core::model::{Epoch, Incarnation, RuleId};
use clusterd_guard::clock;
use tokio::sync::{mpsc, watch};

use crate::board::LeaseView;

/// Renewals that may be under way at once; older ones are forgotten.
const IN_FLIGHT: usize = 32;
/// Orders that may wait for the runtime; more means that it is stuck, and a lost order is a lost
/// renewal, nothing else.
const ORDERS: usize = 8;

/// A wish to renew that was not repeated for so many leases counts no more: whoever had it looks at
/// nothing, and a primary that nobody looks at must not be kept.
const WISH_LASTS: u32 = 3;

/// SCHED_FIFO priority of the thread, where permitted; below the guard's own.
const PRIORITY: i32 = 10;

/// What the lease thread asks of the guard. Every call is bounded by the connection's time limit.
pub trait DeadlineGuard: Send {
    /// Sets or extends the deadline of the running process set; nothing happens when none runs.
    ///
    /// # Errors
    /// A sentence; the lease stands, but a promotion will be refused by the guard.
    fn arm(&mut self, epoch: Epoch, valid_until: Moment, kill_at: Moment) -> Result<(), String>;
    /// Asks the postmaster for an immediate stop.
    fn stop_now(&mut self) -> Result<(), String>;
    /// Epoch and end of the lease the running set is armed with.
    fn armed(&mut self) -> Option<(Epoch, Moment)>;
}

/// One renewal to be sent by the runtime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RenewOrder {
    /// Its own id.
    pub attempt: u64,
    /// For which epoch.
    pub epoch: Epoch,
    /// With which data directory.
    pub incarnation: Incarnation,
}

/// What became of one renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenewOutcome {
    /// A quorum-confirmed leader says yes.
    Confirmed {
        /// D, as the leader counts it.
        lease: Duration,
        /// The newest live rule of the epoch, as the leader knew it then.
        newest_rule: RuleId,
    },
    /// A ready, confirmed leader says that this member holds nothing.
    Refused,
    /// No leader, no quorum, no answer: nothing is known.
    Failed,
}

enum Message {
    Want(Option<(Epoch, Incarnation)>),
    Soon,
    Answer { attempt: u64, outcome: RenewOutcome },
    Times(LeaseTimes),
    Stop,
}

/// The handle. Cheap to clone.
#[derive(Clone)]
pub struct LeaseKeeper {
    messages: Sender<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    holder: watch::Sender<Holder>,
    /// What was asked of the thread last.
    wanted: std::sync::Mutex<Option<(Epoch, Incarnation)>>,
    /// How often that was asked.
    wishes: std::sync::atomic::AtomicU64,
    priority_refused: std::sync::OnceLock<String>,
    first_renewal: std::sync::OnceLock<Duration>,
    /// The newest rule that a confirmed renewal named, and its epoch.
    newest_rule: watch::Sender<(Epoch, RuleId)>,
}

impl LeaseView for LeaseKeeper {
    fn holder(&self) -> Holder {
        *self.shared.holder.borrow()
    }

    fn now(&self) -> Moment {
        now()
    }

    fn first_renewal(&self) -> Option<Duration> {
        self.shared.first_renewal.get().copied()
    }
}

/// Now, on this host's `CLOCK_BOOTTIME`.
pub fn now() -> Moment {
    Moment(clock::boottime())
}

impl LeaseKeeper {
    /// Starts the thread. A reign the guard is still armed for is taken over from it.
    ///
    /// # Errors
    /// The thread could not be started.
    pub fn start(
        guard: Box<dyn DeadlineGuard>,
        times: LeaseTimes,
    ) -> std::io::Result<(LeaseKeeper, mpsc::Receiver<RenewOrder>)> {
        let (messages, inbox) = channel();
        let (orders, order_inbox) = mpsc::channel(ORDERS);
        let shared = Arc::new(Shared {
            holder: watch::Sender::new(Holder::default()),
            wanted: std::sync::Mutex::default(),
            wishes: std::sync::atomic::AtomicU64::default(),
            priority_refused: std::sync::OnceLock::new(),
            first_renewal: std::sync::OnceLock::new(),
            newest_rule: watch::Sender::new((Epoch::NONE, RuleId::default())),
        });
        let (ready, is_ready) = sync_channel(1);
        let keeper = LeaseKeeper {
            messages,
            shared: shared.clone(),
        };
        std::thread::Builder::new()
            .name("lease".to_owned())
            .spawn(move || {
                let mut thread = LeaseThread::new(guard, times, orders, shared);
                thread.run(&inbox, &ready);
            })?;
        // The deadline of before a restart is known before anybody asks for it.
        let _ = is_ready.recv_timeout(Duration::from_secs(5));
        Ok((keeper, order_inbox))
    }

    /// Renews this epoch from now on, at once; or none. To be repeated with every look at the server:
    /// the same wish again costs nothing, and one that is not repeated runs out.
    pub fn want(&self, wanted: Option<(Epoch, Incarnation)>) {
        self.shared.wishes.fetch_add(1, Ordering::Relaxed);
        let mut known = self
            .shared
            .wanted
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if *known != wanted {
            *known = wanted;
            let _ = self.messages.send(Message::Want(wanted));
        }
    }

    /// Renews now, not in up to R: what the leader says with it is waited for.
    pub fn renew_soon(&self) {
        let _ = self.messages.send(Message::Soon);
    }

    /// Tells how a renewal ended.
    pub fn answer(&self, attempt: u64, outcome: RenewOutcome) {
        let _ = self.messages.send(Message::Answer { attempt, outcome });
    }

    /// Other times are in force.
    pub fn set_times(&self, times: LeaseTimes) {
        let _ = self.messages.send(Message::Times(times));
    }

    /// Follows the lease: every move of the deadline, and its loss.
    pub fn watch(&self) -> watch::Receiver<Holder> {
        self.shared.holder.subscribe()
    }

    /// The newest rule of `epoch` by a confirmed renewal; none when none said so, or the lease it gave
    /// has run out.
    pub fn newest_rule(&self, epoch: Epoch) -> Option<RuleId> {
        let (of, rule) = *self.shared.newest_rule.borrow();
        let holder = *self.shared.holder.borrow();
        let is_held = holder.epoch == epoch && now() < holder.valid_until;
        (is_held && of == epoch).then_some(rule)
    }

    /// Follows [`LeaseKeeper::newest_rule`].
    pub fn watch_rule(&self) -> watch::Receiver<(Epoch, RuleId)> {
        self.shared.newest_rule.subscribe()
    }

    /// Why the thread runs without real-time priority, if it does.
    pub fn priority_refused(&self) -> Option<&str> {
        self.shared.priority_refused.get().map(String::as_str)
    }

    /// Ends the thread; the guard keeps enforcing the last deadline.
    pub fn stop(&self) {
        let _ = self.messages.send(Message::Stop);
    }
}

/// A renewal under way.
struct Pending {
    epoch: Epoch,
    sent: Moment,
    /// `REALTIME − BOOTTIME` when it was sent, in milliseconds [E4].
    shift_ms: i128,
}

struct LeaseThread {
    guard: Box<dyn DeadlineGuard>,
    times: LeaseTimes,
    orders: mpsc::Sender<RenewOrder>,
    shared: Arc<Shared>,
    holder: Holder,
    wanted: Option<(Epoch, Incarnation)>,
    pending: BTreeMap<u64, Pending>,
    next_attempt: u64,
    next_renewal: Moment,
    /// The end of lease for which the soft stop was already asked.
    stopped_for: Option<Moment>,
    /// How often the loop had asked when this thread last looked, and for how long it has not since.
    wishes_seen: u64,
    unasked_for: Duration,
    /// When that was counted last.
    counted_at: Moment,
}

impl LeaseThread {
    fn new(
        guard: Box<dyn DeadlineGuard>,
        times: LeaseTimes,
        orders: mpsc::Sender<RenewOrder>,
        shared: Arc<Shared>,
    ) -> Self {
        LeaseThread {
            guard,
            times,
            orders,
            shared,
            holder: Holder::default(),
            wanted: None,
            pending: BTreeMap::new(),
            next_attempt: 1,
            next_renewal: Moment::default(),
            stopped_for: None,
            wishes_seen: 0,
            unasked_for: Duration::ZERO,
            counted_at: now(),
        }
    }

    fn run(&mut self, inbox: &Receiver<Message>, ready: &SyncSender<()>) {
        if let Err(error) = clusterd_guard::sys::set_real_time_priority(PRIORITY) {
            let _ = self.shared.priority_refused.set(error.to_string());
        }
        if let Some((epoch, valid_until)) = self.guard.armed() {
            self.holder = Holder {
                epoch,
                valid_until,
                renewed_at: Moment::default(),
            };
            self.publish();
        }
        let _ = ready.send(());
        loop {
            self.renew_when_due();
            self.stop_when_due();
            match inbox.recv_timeout(self.pause()) {
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    /// Until the next renewal or the soft stop, whichever is first; timers stop in suspend, so the
    /// clock is read again at each wake-up.
    fn pause(&self) -> Duration {
        let now = now();
        let mut until = Duration::from_millis(500);
        if self.wanted.is_some() {
            until = until.min(self.next_renewal.since(now));
        }
        let soft = self.holder.valid_until.before(self.times.stop_soft);
        if soft > now {
            until = until.min(soft.since(now));
        }
        until.max(Duration::from_micros(200))
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Want(wanted) => {
                if wanted != self.wanted {
                    self.wanted = wanted;
                    self.next_renewal = now();
                }
            }
            Message::Soon => self.next_renewal = now(),
            Message::Times(times) => self.times = times,
            Message::Answer { attempt, outcome } => self.take_answer(attempt, outcome),
            Message::Stop => {}
        }
    }

    fn renew_when_due(&mut self) {
        let Some((epoch, incarnation)) = self.wanted else {
            return;
        };
        if now() < self.next_renewal {
            return;
        }
        if self.is_forgotten() {
            self.next_renewal = now().after(self.times.renew);
            return;
        }
        let attempt = self.next_attempt;
        self.next_attempt += 1;
        // s: read before the order is handed to any queue.
        let shift_ms = clock_shift_ms();
        let sent = now();
        self.next_renewal = sent.after(self.times.renew);
        let order = RenewOrder {
            attempt,
            epoch,
            incarnation,
        };
        if self.orders.try_send(order).is_ok() {
            self.pending.insert(
                attempt,
                Pending {
                    epoch,
                    sent,
                    shift_ms,
                },
            );
            while self.pending.len() > IN_FLIGHT {
                self.pending.pop_first();
            }
        }
    }

    /// Nobody has asked for a renewal for long: the member's loop stands still. Between two looks of this
    /// thread at most R counts: a host that was frozen froze both.
    fn is_forgotten(&mut self) -> bool {
        let wishes = self.shared.wishes.load(Ordering::Relaxed);
        if wishes != self.wishes_seen {
            self.wishes_seen = wishes;
            self.unasked_for = Duration::ZERO;
        }
        let at = now();
        let passed = at.since(self.counted_at).min(self.times.renew);
        self.counted_at = at;
        let before = self.unasked_for;
        self.unasked_for += passed;
        let lasts = self.times.lease * WISH_LASTS;
        let is_forgotten = self.unasked_for > lasts;
        if is_forgotten && before <= lasts {
            tracing::error!("the member's loop stands still: its lease is not renewed");
        }
        is_forgotten
    }

    fn take_answer(&mut self, attempt: u64, outcome: RenewOutcome) {
        let Some(pending) = self.pending.remove(&attempt) else {
            return;
        };
        match outcome {
            RenewOutcome::Confirmed { lease, newest_rule } => {
                let moved = (clock_shift_ms() - pending.shift_ms).unsigned_abs();
                if moved > lease.as_millis() / 4 {
                    // A pause of the host that its clock did not show must not keep or start a
                    // primary [E4].
                    self.drop_lease("the host was paused");
                    return;
                }
                self.confirmed(pending.epoch, pending.sent, lease);
                self.learn_rule(pending.epoch, newest_rule);
            }
            RenewOutcome::Refused => {
                if pending.epoch >= self.holder.epoch {
                    self.drop_lease("the leader refused the renewal");
                }
            }
            RenewOutcome::Failed => {
                // Sooner than R: a new leader may be there; still bounded.
                let soon = now().after(self.times.renew / 5);
                self.next_renewal = self.next_renewal.min(soon);
            }
        }
    }

    fn confirmed(&mut self, epoch: Epoch, sent: Moment, lease: Duration) {
        if self.wanted.is_none_or(|(wanted, _)| wanted != epoch) {
            return;
        }
        self.holder.confirmed(epoch, sent, lease);
        let until = self.holder.valid_until;
        if let Err(why) = self
            .guard
            .arm(epoch, until, until.before(self.times.stop_hard))
        {
            tracing::warn!(%epoch, %why, "the guard did not take the deadline");
        }
        self.shared
            .first_renewal
            .get_or_init(|| now().since(process_started()));
        self.publish();
    }

    /// Answers may come out of order; rules of one epoch only grow.
    fn learn_rule(&self, epoch: Epoch, rule: RuleId) {
        self.shared.newest_rule.send_if_modified(|known| {
            let is_newer = (epoch, rule) > *known;
            if is_newer {
                *known = (epoch, rule);
            }
            is_newer
        });
    }

    fn drop_lease(&mut self, why: &str) {
        if self.holder.valid_until == Moment::default() {
            return;
        }
        tracing::warn!(epoch = %self.holder.epoch, why, "lease dropped");
        self.holder.drop_lease();
        self.publish();
    }

    /// At `valid_until − K_soft`: the endpoints already answer 503 by themselves; PostgreSQL is
    /// asked to stop. The guard kills at `valid_until − K_hard` whatever became of that.
    fn stop_when_due(&mut self) {
        let until = self.holder.valid_until;
        if until == Moment::default() || self.stopped_for == Some(until) {
            return;
        }
        if now() < until.before(self.times.stop_soft) {
            return;
        }
        self.stopped_for = Some(until);
        // A set that was never armed for this epoch is a standby: not ours to stop.
        if self
            .guard
            .armed()
            .is_some_and(|(epoch, _)| epoch == self.holder.epoch)
        {
            tracing::warn!(epoch = %self.holder.epoch, "the lease is about to run out: stopping");
            if let Err(why) = self.guard.stop_now() {
                tracing::warn!(why, "could not ask for the stop; the guard will kill");
            }
        }
        self.publish();
    }

    fn publish(&self) {
        self.shared.holder.send_replace(self.holder);
    }
}

/// When this process was started, as the kernel keeps it: in hundredths of a second since boot. Now,
/// where that cannot be read. Source: proc_pid_stat(5), field 22.
fn process_started() -> Moment {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let ticks = after_name.and_then(|rest| rest.split(' ').nth(19)?.parse::<u64>().ok());
    ticks.map_or_else(now, |ticks| Moment(Duration::from_millis(ticks * 10)))
}

fn clock_shift_ms() -> i128 {
    let milliseconds = |time: Duration| i128::try_from(time.as_millis()).unwrap_or(i128::MAX);
    milliseconds(clock::realtime()) - milliseconds(clock::boottime())
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Default)]
    struct Told {
        armed: Vec<(Epoch, Moment, Moment)>,
        stops: u32,
    }

    struct Recorder(Arc<Mutex<Told>>);

    impl DeadlineGuard for Recorder {
        fn arm(&mut self, epoch: Epoch, until: Moment, kill: Moment) -> Result<(), String> {
            self.0
                .lock()
                .expect("lock")
                .armed
                .push((epoch, until, kill));
            Ok(())
        }

        fn stop_now(&mut self) -> Result<(), String> {
            self.0.lock().expect("lock").stops += 1;
            Ok(())
        }

        fn armed(&mut self) -> Option<(Epoch, Moment)> {
            self.0
                .lock()
                .expect("lock")
                .armed
                .last()
                .map(|(epoch, until, _)| (*epoch, *until))
        }
    }

    fn confirmed(lease: Duration) -> RenewOutcome {
        RenewOutcome::Confirmed {
            lease,
            newest_rule: RuleId(4),
        }
    }

    fn quick() -> LeaseTimes {
        LeaseTimes {
            lease: Duration::from_millis(300),
            renew: Duration::from_millis(20),
            stop_soft: Duration::from_millis(200),
            stop_hard: Duration::from_millis(100),
            ..cluster_core::model::lease::Preset::Fast.times()
        }
    }

    #[tokio::test]
    async fn a_confirmed_renewal_arms_the_guard_from_the_time_before_it_was_sent() {
        let told = Arc::new(Mutex::new(Told::default()));
        let (keeper, mut orders) =
            LeaseKeeper::start(Box::new(Recorder(told.clone())), quick()).expect("thread");
        let before = now();
        keeper.want(Some((Epoch(3), Incarnation(1))));
        let order = orders.recv().await.expect("an order");
        let posted = now();
        let lease = Duration::from_secs(10);
        keeper.answer(order.attempt, confirmed(lease));
        let mut lease_moves = keeper.watch();
        lease_moves
            .wait_for(|holder| holder.epoch == Epoch(3))
            .await
            .expect("the thread runs");
        let holder = keeper.holder();
        assert!(holder.valid_until >= before.after(lease));
        assert!(
            holder.valid_until <= posted.after(lease),
            "never counted from the answer"
        );
        let armed = told.lock().expect("lock").armed.clone();
        assert_eq!(armed[0].0, Epoch(3));
        assert_eq!(armed[0].2, armed[0].1.before(Duration::from_millis(100)));
        keeper.stop();
    }

    #[tokio::test]
    async fn a_wish_to_renew_that_is_not_repeated_runs_out() {
        let told = Arc::new(Mutex::new(Told::default()));
        let (keeper, mut orders) =
            LeaseKeeper::start(Box::new(Recorder(told)), quick()).expect("thread");
        let wish = Some((Epoch(1), Incarnation(1)));
        keeper.want(wish);
        let silence = quick().renew * 10;
        let limit = now().after(Duration::from_secs(10));
        let mut count = 0;
        while tokio::time::timeout(silence, orders.recv()).await.is_ok() {
            count += 1;
            assert!(now() < limit, "renewed for ever");
        }
        assert!(count > 0);
        keeper.want(wish);
        let again = tokio::time::timeout(Duration::from_secs(5), orders.recv()).await;
        assert!(again.is_ok(), "asked again, and not renewed");
        keeper.stop();
    }

    #[tokio::test]
    async fn the_soft_stop_is_asked_once_when_renewals_fail() {
        let told = Arc::new(Mutex::new(Told::default()));
        let (keeper, mut orders) =
            LeaseKeeper::start(Box::new(Recorder(told.clone())), quick()).expect("thread");
        keeper.want(Some((Epoch(1), Incarnation(1))));
        let order = orders.recv().await.expect("an order");
        let lease = Duration::from_millis(300);
        keeper.answer(order.attempt, confirmed(lease));
        let limit = now().after(Duration::from_secs(5));
        while told.lock().expect("lock").stops == 0 {
            if let Ok(Some(order)) =
                tokio::time::timeout(Duration::from_millis(50), orders.recv()).await
            {
                keeper.answer(order.attempt, RenewOutcome::Failed);
            }
            assert!(now() < limit, "no soft stop within five seconds");
        }
        assert!(!keeper.holder().may_serve(Epoch(1), now(), &quick()));
        keeper.stop();
    }

    #[tokio::test]
    async fn a_late_answer_for_an_unwanted_epoch_moves_nothing() {
        let told = Arc::new(Mutex::new(Told::default()));
        let (keeper, mut orders) =
            LeaseKeeper::start(Box::new(Recorder(told.clone())), quick()).expect("thread");
        keeper.want(Some((Epoch(1), Incarnation(1))));
        let old = orders.recv().await.expect("an order");
        keeper.want(Some((Epoch(2), Incarnation(1))));
        let new = loop {
            let order = orders.recv().await.expect("an order");
            if order.epoch == Epoch(2) {
                break order;
            }
        };
        let lease = Duration::from_secs(5);
        keeper.answer(old.attempt, confirmed(lease));
        keeper.answer(new.attempt, confirmed(lease));
        let mut lease_moves = keeper.watch();
        lease_moves
            .wait_for(|holder| holder.epoch == Epoch(2))
            .await
            .expect("the thread runs");
        assert!(
            told.lock()
                .expect("lock")
                .armed
                .iter()
                .all(|(epoch, ..)| *epoch == Epoch(2))
        );
        keeper.stop();
    }
}
