//! The lease: until when a primary may accept writes, and when another may be granted. Arithmetic
//! only; the clock is an argument. Both sides of DESIGN section 6: [`Holder`] and [`Granter`].
//!
//! The one surprise: nobody ever sends a time. The holder counts from the moment before it asked,
//! the granter from the moment it answered, each on its own `CLOCK_BOOTTIME`.

use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::epoch::Epoch;

/// A reading of one host's `CLOCK_BOOTTIME`. Comparable only with readings of the same boot.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub Duration);

impl Moment {
    /// `self + by`.
    pub fn after(self, by: Duration) -> Moment {
        Moment(self.0.saturating_add(by))
    }

    /// `self - by`, not below the boot.
    pub fn before(self, by: Duration) -> Moment {
        Moment(self.0.saturating_sub(by))
    }

    /// How long ago `earlier` was; zero when it lies ahead.
    pub fn since(self, earlier: Moment) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Largest rate difference of two hosts' clocks, in thousandths: 0.5 %. Source: DESIGN section 6
/// (NTP slews by at most 500 ppm, calibration errors about 100 ppm).
pub const DRIFT_PER_MILLE: u32 = 5;

/// Granularity of clock readings added to every wait. Source: DESIGN section 6.
pub const GRANULARITY: Duration = Duration::from_millis(5);

/// Least cap of the waiting credit of one tick. Source: DESIGN section 6 [E5].
pub const LEAST_CREDIT: Duration = Duration::from_millis(100);

/// How long a leader waits after its last confirmation before it may grant to another member:
/// `D·(1+ρ)/(1−ρ) + 5 ms`. Source: DESIGN section 6, derived in hazards 3.4.
pub fn wait_for(lease: Duration) -> Duration {
    lease * (1000 + DRIFT_PER_MILLE) / (1000 - DRIFT_PER_MILLE) + GRANULARITY
}

/// All times of one lease preset. Durations are real time; `check` refuses what breaks the
/// inequality of DESIGN section 6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseTimes {
    /// D: how long one confirmed renewal lasts, from the moment before it was sent.
    pub lease: Duration,
    /// R: how often the holder renews.
    pub renew: Duration,
    /// Raft heartbeat interval.
    pub heartbeat: Duration,
    /// Raft election timeout, least.
    pub election_min: Duration,
    /// Raft election timeout, most.
    pub election_max: Duration,
    /// K_soft: before the end of the lease, when the daemon stops answering as primary and asks
    /// PostgreSQL to stop.
    pub stop_soft: Duration,
    /// K_hard: before the end of the lease, when the guard kills.
    pub stop_hard: Duration,
    /// S: how long before `D − K_soft` the leader suspects the holder and begins to seal.
    pub suspect_early: Duration,
}

/// A named set of times.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// One quiet rack: D = 1.25 s.
    Fast,
    /// The default: D = 3 s.
    Lan,
    /// Between sites: D = 12 s.
    Wan,
}

impl Preset {
    /// The times of this preset. Source: table in DESIGN section 6.
    pub fn times(self) -> LeaseTimes {
        let ms = Duration::from_millis;
        match self {
            Preset::Fast => LeaseTimes {
                lease: ms(1250),
                renew: ms(100),
                heartbeat: ms(30),
                election_min: ms(80),
                election_max: ms(160),
                stop_soft: ms(200),
                stop_hard: ms(100),
                suspect_early: ms(250),
            },
            Preset::Lan => LeaseTimes {
                lease: ms(3000),
                renew: ms(250),
                heartbeat: ms(50),
                election_min: ms(200),
                election_max: ms(400),
                stop_soft: ms(400),
                stop_hard: ms(150),
                suspect_early: ms(400),
            },
            Preset::Wan => LeaseTimes {
                lease: ms(12000),
                renew: ms(1000),
                heartbeat: ms(200),
                election_min: ms(800),
                election_max: ms(1600),
                stop_soft: ms(1000),
                stop_hard: ms(300),
                suspect_early: ms(400),
            },
        }
    }

    /// The word in settings.
    pub fn word(self) -> &'static str {
        match self {
            Preset::Fast => "fast",
            Preset::Lan => "lan",
            Preset::Wan => "wan",
        }
    }
}

impl FromStr for Preset {
    type Err = String;

    fn from_str(text: &str) -> Result<Preset, String> {
        [Preset::Fast, Preset::Lan, Preset::Wan]
            .into_iter()
            .find(|preset| preset.word() == text)
            .ok_or_else(|| format!("`{text}` is no preset (fast, lan or wan)"))
    }
}

impl LeaseTimes {
    /// E: the longest time one Raft election takes without a network: `2·max + 1.5·heartbeat`.
    pub fn election(&self) -> Duration {
        self.election_max * 2 + self.heartbeat * 3 / 2
    }

    /// How long the holder's daemon may be away before the leader revokes: `D − K_soft − S − 2R −
    /// 1.5·heartbeat`. Source: DESIGN section 2.
    pub fn daemon_may_be_away(&self) -> Duration {
        self.lease
            .saturating_sub(self.stop_soft)
            .saturating_sub(self.suspect_early)
            .saturating_sub(self.renew * 2)
            .saturating_sub(self.heartbeat * 3 / 2)
    }

    /// Base older than this: revoke and begin to seal. `D − K_soft − S`.
    pub fn suspect_after(&self) -> Duration {
        self.lease
            .saturating_sub(self.stop_soft)
            .saturating_sub(self.suspect_early)
    }

    /// Every relation between these numbers that does not hold, each as a sentence.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let need = self.election() * 2 + self.renew * 3;
        let have = self.lease.saturating_sub(self.stop_soft);
        if have < need {
            found.push(format!(
                "lease - stop_soft is {have:?}, but a healthy primary would stop itself during a \
                 Raft election unless it is at least 2 elections and 3 renewals: {need:?}"
            ));
        }
        if self.stop_hard >= self.stop_soft {
            found.push("stop_hard must be less than stop_soft".to_owned());
        }
        if self.stop_hard < Duration::from_millis(100) {
            found.push("stop_hard must be at least 100ms: the guard needs that to kill".to_owned());
        }
        if self.election_min >= self.election_max {
            found.push("election_min must be less than election_max".to_owned());
        }
        if self.heartbeat >= self.election_min {
            found.push("heartbeat must be less than election_min".to_owned());
        }
        if self.lease < Duration::from_secs(1) {
            found.push("lease must be at least 1s".to_owned());
        }
        if self.renew.is_zero() || self.heartbeat.is_zero() {
            found.push("renew and heartbeat must not be zero".to_owned());
        }
        found
    }
}

/// The member's side: what it may still do under the epoch it holds.
///
/// Changed by the lease thread only. `valid_until` belongs to one epoch and one boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Holder {
    /// The epoch of `valid_until`.
    pub epoch: Epoch,
    /// End of the lease on this host's clock.
    pub valid_until: Moment,
    /// When the newest confirmed renewal was sent.
    pub renewed_at: Moment,
}

impl Holder {
    /// Takes a confirmed renewal: sent at `sent`, answered with the lease length `lease`.
    ///
    /// An answer for an older epoch changes nothing. A newer epoch starts from nothing: an older
    /// epoch's time is never carried over.
    pub fn confirmed(&mut self, epoch: Epoch, sent: Moment, lease: Duration) {
        if epoch < self.epoch {
            return;
        }
        if epoch > self.epoch {
            *self = Holder {
                epoch,
                ..Holder::default()
            };
        }
        self.valid_until = self.valid_until.max(sent.after(lease));
        self.renewed_at = self.renewed_at.max(sent);
    }

    /// Drops the lease at once: refused, revoked, or a hidden pause was noticed.
    pub fn drop_lease(&mut self) {
        self.valid_until = Moment::default();
    }

    /// Whether this member may serve as primary of `epoch`: `now < valid_until − K_soft`.
    pub fn may_serve(&self, epoch: Epoch, now: Moment, times: &LeaseTimes) -> bool {
        epoch == self.epoch && now < self.valid_until.before(times.stop_soft)
    }

    /// Whether PostgreSQL may be promoted under `epoch`: may serve, and the renewal that says so is
    /// not older than 2R. Source: DESIGN section 6, "A Grant carries no time".
    pub fn may_promote(&self, epoch: Epoch, now: Moment, times: &LeaseTimes) -> bool {
        self.may_serve(epoch, now, times) && now.since(self.renewed_at) <= times.renew * 2
    }
}

/// A Raft vote as the granter keys on it: term *and* node, because two nodes can lead in the same
/// term number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaderVote {
    /// Raft term.
    pub term: u64,
    /// The node that leads.
    pub node: u64,
}

/// The leader's side: from when on another member may be granted.
///
/// Lives beside the state machine and is changed in one critical section with the applying of
/// entries. Time is *credited*: a jump of the clock forwards counts for at most twice the tick
/// (never below 100 ms), a step back for nothing [E5].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Granter {
    last_reading: Moment,
    credited: Duration,
    leading: Option<LeaderVote>,
    is_ready: bool,
    may_grant_at: Duration,
    base: Duration,
    last_grant: Option<Duration>,
}

impl Granter {
    /// A process that has just started, at `now`.
    pub fn started(now: Moment) -> Granter {
        Granter {
            last_reading: now,
            credited: Duration::ZERO,
            leading: None,
            is_ready: false,
            may_grant_at: Duration::ZERO,
            base: Duration::ZERO,
            last_grant: None,
        }
    }

    /// Lets time pass up to `now`; `tick` is how often this is called at least.
    pub fn pass(&mut self, now: Moment, tick: Duration) {
        let cap = (tick * 2).max(LEAST_CREDIT);
        self.credited += now.since(self.last_reading).min(cap);
        self.last_reading = now;
    }

    /// This process leads under `vote` since now. `lease` is the larger of D and D_prev.
    ///
    /// Called for every new vote, also when the role "leader" was never seen to be lost in between.
    pub fn lead(&mut self, vote: LeaderVote, lease: Duration) {
        if self.leading == Some(vote) {
            return;
        }
        self.leading = Some(vote);
        self.is_ready = false;
        self.base = self.credited;
        self.may_grant_at = self.may_grant_at.max(self.credited + wait_for(lease));
    }

    /// This process does not lead.
    pub fn follow(&mut self) {
        self.leading = None;
        self.is_ready = false;
    }

    /// An entry proposed by this process under `vote` is committed and applied here. `lease` is the
    /// larger of D and D_prev as applied now: at the election an entry that makes D longer may not
    /// have been applied yet, and an older leader may have answered with it.
    pub fn ready(&mut self, vote: LeaderVote, lease: Duration) {
        if self.leading == Some(vote) && !self.is_ready {
            self.is_ready = true;
            self.may_grant_at = self.may_grant_at.max(self.base + wait_for(lease));
        }
    }

    /// Whether this process leads under `vote` and may answer and decide.
    pub fn is_ready(&self, vote: LeaderVote) -> bool {
        self.is_ready && self.leading == Some(vote)
    }

    /// A renewal was confirmed and is being answered with `lease`: moves the base.
    pub fn confirm(&mut self, lease: Duration) {
        self.base = self.credited;
        self.may_grant_at = self.may_grant_at.max(self.credited + wait_for(lease));
    }

    /// A Grant was committed or applied here.
    pub fn granted(&mut self) {
        self.last_grant = Some(self.credited);
    }

    /// How long since the base moved: this process's start, its vote, its last confirmation.
    pub fn base_age(&self) -> Duration {
        self.credited.saturating_sub(self.base)
    }

    /// How long since the latest Grant was committed or applied here, if any was.
    pub fn grant_age(&self) -> Option<Duration> {
        self.last_grant.map(|at| self.credited.saturating_sub(at))
    }

    /// Whether every lease that may be out has run out.
    pub fn lease_waited_out(&self) -> bool {
        self.credited >= self.may_grant_at
    }

    /// How long until [`Granter::lease_waited_out`].
    pub fn wait_left(&self) -> Duration {
        self.may_grant_at.saturating_sub(self.credited)
    }

    /// When to revoke: the base is older than `D − K_soft − S` *and* at least 4R have passed since
    /// the latest Grant. Source: DESIGN section 6, "When".
    pub fn suspects(&self, times: &LeaseTimes) -> bool {
        self.base_age() > times.suspect_after()
            && self.grant_age().is_none_or(|age| age >= times.renew * 4)
    }

    /// Whether W(`lease`) has passed since this process began to lead; used to clear D_prev.
    pub fn has_led_for(&self, since: Duration, lease: Duration) -> bool {
        self.credited.saturating_sub(since) >= wait_for(lease)
    }

    /// Time credited since the process started; a stamp for [`Granter::has_led_for`].
    pub fn stamp(&self) -> Duration {
        self.credited
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_keeps_the_inequality() {
        for preset in [Preset::Fast, Preset::Lan, Preset::Wan] {
            assert_eq!(
                preset.times().problems(),
                Vec::<String>::new(),
                "{preset:?}"
            );
        }
    }

    #[test]
    fn times_that_would_fence_a_healthy_primary_are_refused() {
        let mut times = Preset::Lan.times();
        times.election_max = Duration::from_millis(600);
        assert!(times.problems()[0].contains("Raft election"));
    }

    #[test]
    fn a_renewal_counts_from_the_moment_before_it_was_sent() {
        let times = Preset::Lan.times();
        let mut holder = Holder::default();
        let sent = Moment(Duration::from_secs(100));
        holder.confirmed(Epoch(1), sent, times.lease);
        assert_eq!(holder.valid_until, Moment(Duration::from_secs(103)));
        holder.confirmed(Epoch(1), sent.before(Duration::from_secs(1)), times.lease);
        assert_eq!(
            holder.valid_until,
            Moment(Duration::from_secs(103)),
            "never backwards"
        );
        assert!(holder.may_serve(Epoch(1), Moment(Duration::from_millis(102_599)), &times));
        assert!(!holder.may_serve(Epoch(1), Moment(Duration::from_millis(102_600)), &times));
        assert!(!holder.may_serve(Epoch(2), sent, &times));
    }

    #[test]
    fn a_longer_lease_applied_after_the_election_is_waited_out_too() {
        let vote = LeaderVote { term: 2, node: 1 };
        let (short, long) = (Duration::from_millis(1250), Duration::from_secs(3));
        let mut granter = Granter::started(Moment::default());
        granter.lead(vote, short);
        for tick in 1..=100 {
            granter.pass(
                Moment(Duration::from_millis(20 * tick)),
                Duration::from_millis(20),
            );
        }
        granter.ready(vote, long);
        assert!(!granter.lease_waited_out());
        assert_eq!(granter.wait_left(), wait_for(long) - Duration::from_secs(2));
    }

    #[test]
    fn a_clock_jump_earns_no_waiting_credit() {
        let mut granter = Granter::started(Moment(Duration::from_secs(10)));
        granter.lead(LeaderVote { term: 1, node: 1 }, Duration::from_secs(3));
        granter.pass(Moment(Duration::from_secs(3600)), Duration::from_millis(20));
        assert!(!granter.lease_waited_out());
        granter.pass(Moment(Duration::from_secs(1)), Duration::from_millis(20));
        assert_eq!(granter.stamp(), LEAST_CREDIT);
    }
}
