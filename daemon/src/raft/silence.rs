//! When did a quorum last acknowledge this leader, and may it still send?
//!
//! openraft's leader never steps down by itself, and its heartbeats keep every follower it still
//! reaches from electing another. With a link that is lost in one direction, or with five members
//! and one that everybody reaches, nobody could ever be elected. So a leader whose quorum is gone
//! for `2 × election_max` goes silent: it sends no heartbeat and no entry. Every `2·E` it opens a
//! short window, to find out whether the quorum is back; the time between is longer than any
//! follower's election timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use cluster_core::model::lease::LeaseTimes;
use tokio::time::Instant;

use super::types::Vote;

/// What this process knows about being heard.
#[derive(Debug)]
pub struct Silence {
    times: LeaseTimes,
    inner: Mutex<Hearing>,
}

#[derive(Debug, Default)]
struct Hearing {
    vote: Option<Vote>,
    since: Option<Instant>,
    acknowledged: BTreeMap<u64, Instant>,
    silent: Option<Silent>,
}

#[derive(Clone, Copy, Debug)]
struct Silent {
    since: Instant,
    window_until: Instant,
    next_window: Instant,
}

/// What the pulse has to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Nothing changed.
    Keep,
    /// Stop heartbeats.
    GoSilent,
    /// Send one round of heartbeats.
    OpenWindow,
    /// Heartbeats again.
    Speak,
}

impl Silence {
    /// Nobody leads yet.
    pub fn new(times: LeaseTimes) -> Silence {
        Silence {
            times,
            inner: Mutex::default(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Hearing> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether entries and heartbeats may go out at `now`.
    pub fn may_send(&self, now: Instant) -> bool {
        self.lock()
            .silent
            .is_none_or(|silent| now < silent.window_until)
    }

    /// Whether this leader has gone silent.
    pub fn is_silent(&self) -> bool {
        self.lock().silent.is_some()
    }

    /// `node` acknowledged a message sent under `vote` at `sent`.
    pub fn acknowledged(&self, vote: Vote, node: u64, sent: Instant) {
        let mut hearing = self.lock();
        match hearing.vote {
            Some(known) if known == vote => {}
            // A late answer to an older reign of ours.
            Some(known) if known > vote => return,
            _ => hearing.begin(vote, sent),
        }
        let newest = hearing.acknowledged.entry(node).or_insert(sent);
        *newest = (*newest).max(sent);
    }

    /// How long ago the youngest moment lies at which a quorum of every configuration heard this
    /// leader; `None` when it does not lead under `vote`.
    pub fn quorum_age(
        &self,
        vote: Vote,
        own: u64,
        configurations: &[BTreeSet<u64>],
        now: Instant,
    ) -> Option<Duration> {
        let hearing = self.lock();
        if hearing.vote != Some(vote) {
            return None;
        }
        let since = hearing.since?;
        let heard = |node: &u64| {
            if *node == own {
                now
            } else {
                hearing.acknowledged.get(node).copied().unwrap_or(since)
            }
        };
        configurations
            .iter()
            .map(|voters| {
                let mut moments: Vec<Instant> = voters.iter().map(heard).collect();
                moments.sort_unstable_by(|a, b| b.cmp(a));
                moments.get(voters.len() / 2).map_or(now, |moment| *moment)
            })
            .min()
            .map(|oldest| now.saturating_duration_since(oldest.min(now)))
    }

    /// One turn of a process that leads under `vote`; `age` from [`Silence::quorum_age`].
    pub fn lead(&self, vote: Vote, age: Option<Duration>, now: Instant) -> Turn {
        let mut hearing = self.lock();
        if hearing.vote != Some(vote) {
            let was_silent = hearing.silent.is_some();
            hearing.begin(vote, now);
            return if was_silent { Turn::Speak } else { Turn::Keep };
        }
        let age = age.unwrap_or_default();
        let election = self.times.election();
        match hearing.silent {
            None if age > self.times.election_max * 2 => {
                hearing.silent = Some(Silent {
                    since: now,
                    window_until: now,
                    next_window: now + election * 2,
                });
                Turn::GoSilent
            }
            None => Turn::Keep,
            Some(silent) if age < now.saturating_duration_since(silent.since) => {
                hearing.silent = None;
                Turn::Speak
            }
            Some(silent) if now >= silent.next_window => {
                hearing.silent = Some(Silent {
                    since: silent.since,
                    window_until: now + self.times.heartbeat * 3,
                    next_window: now + election * 2,
                });
                Turn::OpenWindow
            }
            Some(_) => Turn::Keep,
        }
    }

    /// One turn of a process that does not lead.
    pub fn follow(&self) -> Turn {
        let mut hearing = self.lock();
        let was_silent = hearing.silent.is_some();
        *hearing = Hearing::default();
        if was_silent { Turn::Speak } else { Turn::Keep }
    }
}

impl Hearing {
    fn begin(&mut self, vote: Vote, now: Instant) {
        *self = Hearing {
            vote: Some(vote),
            since: Some(now),
            ..Hearing::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use cluster_core::model::lease::Preset;

    use super::*;

    const OWN: u64 = 1;

    fn voters(of: &[u64]) -> Vec<BTreeSet<u64>> {
        vec![of.iter().copied().collect()]
    }

    #[test]
    fn the_quorum_is_as_old_as_its_youngest_majority() {
        let silence = Silence::new(Preset::Lan.times());
        let vote = Vote::new_committed(3, OWN);
        let start = Instant::now();
        let ms = Duration::from_millis;
        silence.acknowledged(vote, 2, start);
        silence.acknowledged(vote, 3, start + ms(300));
        let now = start + ms(1000);
        assert_eq!(
            silence.quorum_age(vote, OWN, &voters(&[1, 2, 3]), now),
            Some(ms(700))
        );
        assert_eq!(
            silence.quorum_age(vote, OWN, &voters(&[1]), now),
            Some(ms(0))
        );
        let joint = [voters(&[1, 2, 3]), voters(&[2, 3, 4])].concat();
        assert_eq!(silence.quorum_age(vote, OWN, &joint, now), Some(ms(1000)));
        assert_eq!(
            silence.quorum_age(Vote::new_committed(4, OWN), OWN, &joint, now),
            None
        );
    }

    #[test]
    fn a_leader_nobody_answers_goes_silent_looks_now_and_then_and_speaks_again() {
        let times = Preset::Lan.times();
        let silence = Silence::new(times);
        let vote = Vote::new_committed(3, OWN);
        let config = voters(&[1, 2, 3]);
        let mut now = Instant::now();
        let turn =
            |now: Instant| silence.lead(vote, silence.quorum_age(vote, OWN, &config, now), now);
        assert_eq!(turn(now), Turn::Keep);
        now += times.election_max * 2 + Duration::from_millis(1);
        assert_eq!(turn(now), Turn::GoSilent);
        assert!(!silence.may_send(now));
        now += times.election() * 2;
        assert_eq!(turn(now), Turn::OpenWindow);
        assert!(silence.may_send(now));
        now += times.heartbeat * 3;
        assert_eq!(turn(now), Turn::Keep);
        assert!(!silence.may_send(now));
        now += times.election() * 2;
        assert_eq!(turn(now), Turn::OpenWindow);
        silence.acknowledged(vote, 2, now);
        assert_eq!(turn(now), Turn::Speak);
        assert!(silence.may_send(now + times.election()));
    }
}
