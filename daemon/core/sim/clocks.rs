//! A host's clock and, where nothing is promised of clocks, what happens to it: jumps ahead and back,
//! half and double rates, the guard's clock apart from its daemon's, timers that ring early or late.
//!
//! Source: hazards 7, S3: with clocks outside the assumptions still S5 to S8. The one surprise: a clock
//! is mended by catching up with the latest it ever showed; one that is behind has stopped for ever
//! what was begun before.

use std::time::Duration;

use cluster_core::model::lease::Moment;

use crate::network::{MS, Micros, SECOND};
use crate::world::{Event, Node, World};

/// A timer that a step back would stop for longer rings after so long.
const LONGEST_WAIT: i64 = 10 * SECOND as i64;

/// One clock: its own zero, its own rate.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Real time of the last break.
    since: Micros,
    /// What it showed right after it.
    shown: Micros,
    /// Ticks a real second now, in millionths.
    rate: u64,
    /// The rate it is made for.
    good_rate: u64,
    /// The latest it showed before any break.
    latest: Micros,
}

impl Clock {
    pub fn new(rate: u64) -> Clock {
        Clock {
            since: 0,
            shown: SECOND,
            rate,
            good_rate: rate,
            latest: 0,
        }
    }

    pub fn boot(&mut self, now: Micros) {
        (self.since, self.shown, self.latest) = (now, SECOND, 0);
    }

    fn at(&self, now: Micros) -> Micros {
        self.shown + (now - self.since) * self.rate / 1_000_000
    }

    pub fn read(&self, now: Micros) -> Moment {
        Moment(Duration::from_micros(self.at(now)))
    }

    /// The first real time at which the clock shows at least `moment`, as far as it knows.
    pub fn real(&self, moment: Moment) -> Micros {
        let ahead = (moment.0.as_micros() as u64).saturating_sub(self.shown);
        self.since + (ahead * 1_000_000).div_ceil(self.rate)
    }

    fn jump(&mut self, now: Micros, by: i64) {
        let shown = self.at(now);
        self.latest = self.latest.max(shown);
        (self.since, self.shown) = (now, shown.saturating_add_signed(by));
    }

    fn run_at(&mut self, now: Micros, rate: u64) {
        self.jump(now, 0);
        self.rate = rate;
    }

    /// Runs as it should, from the latest that it or `other` showed.
    fn mended(mut self, now: Micros, mut other: Clock) -> Clock {
        other.run_at(now, other.good_rate);
        self.run_at(now, self.good_rate);
        self.latest = self.latest.max(other.latest);
        self.shown = self.latest;
        self
    }
}

/// What happens to a host's clocks.
#[derive(Clone, Copy, Debug)]
enum Break {
    Jump(i64),
    Rate(u64),
}

/// What of a daemon waits for a time.
fn timers(host: &mut Node) -> [&mut Micros; 8] {
    [
        &mut host.raft.last_heard,
        &mut host.raft.quorum_at,
        &mut host.raft.next_beat,
        &mut host.mind.next_decision,
        &mut host.mind.next_renewal,
        &mut host.mind.next_report,
        &mut host.mind.next_rule,
        &mut host.lead.next_decision,
    ]
}

impl World {
    /// The next clock breaks.
    pub fn next_jump(&mut self) {
        if !self.kind.jumps || self.now >= self.plan.until {
            return;
        }
        let pause = self.random.between(20 * MS, 2500 * MS);
        self.after(pause, Event::Jump);
        let node = self.victim();
        let what = match self.random.below(10) {
            0..3 => Break::Rate(self.random.between(500_000, 2_000_000)),
            3..6 => Break::Jump(self.distance()),
            _ => Break::Jump(-self.distance()),
        };
        let (of_daemon, of_guard) = match self.random.below(10) {
            0..5 => (true, true),
            5..7 => (true, false),
            _ => (false, true),
        };
        self.watch.jumps += 1;
        self.coverage.count(
            "fault",
            match what {
                Break::Jump(by) if by < 0 => "clock jumps back",
                Break::Jump(_) => "clock jumps ahead",
                Break::Rate(_) => "clock changes its rate",
            },
        );
        self.say(node, || {
            format!("clock: {what:?} (daemon {of_daemon}, guard {of_guard})")
        });
        self.break_clocks(node, what, of_daemon, of_guard);
    }

    /// As far as a lease, as far as a suspended machine, or anything between.
    fn distance(&mut self) -> i64 {
        let most = *[500 * MS, 4 * SECOND, 30 * SECOND, 3600 * SECOND]
            .get(self.random.index(4))
            .unwrap_or(&SECOND);
        self.random.between(10 * MS, most) as i64
    }

    fn break_clocks(&mut self, node: usize, what: Break, of_daemon: bool, of_guard: bool) {
        let now = self.now;
        let host = &mut self.nodes[node];
        let mut clocks = Vec::new();
        if of_daemon {
            clocks.push(&mut host.clock);
        }
        if of_guard {
            clocks.push(&mut host.guard_clock);
        }
        for clock in clocks {
            match what {
                Break::Jump(by) => clock.jump(now, by),
                Break::Rate(rate) => clock.run_at(now, rate),
            }
        }
        if let (true, Break::Jump(by)) = (of_daemon, what) {
            self.shift_timers(node, by);
        }
    }

    /// What waits for a time of day rings early or late: elections, heartbeats, renewals, loops.
    fn shift_timers(&mut self, node: usize, by: i64) {
        let later = by.saturating_neg().min(LONGEST_WAIT);
        let now = self.now;
        let host = &mut self.nodes[node];
        for timer in timers(host) {
            *timer = timer.saturating_add_signed(later);
        }
        host.raft.quorum_at = host.raft.quorum_at.min(now);
    }

    /// Every clock works again.
    pub fn mend_clocks(&mut self) {
        let now = self.now;
        for host in self.nodes.iter_mut().filter(|_| self.kind.jumps) {
            host.clock = host.clock.mended(now, host.guard_clock);
            host.guard_clock = host.clock;
            for timer in timers(host) {
                *timer = (*timer).min(now);
            }
        }
    }
}
