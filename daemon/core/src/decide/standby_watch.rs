//! What a primary's daemon learns of its standbys from one look to the next: who is late, and who has
//! proven that it streams. Fed with every look at the server; decides nothing.
//!
//! A standby counts as streaming only once its replay has passed a position generated after it
//! attached: `state = 'streaming'` is true for moments on a diverged one. Source: DESIGN section 8.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::model::confirmation::{StandbySeen, SyncName};
use crate::model::lease::Moment;
use crate::model::postgres::{Primary, Sender};
use crate::model::{Epoch, Lsn, Rule};

use super::wanted_rule::{GRAY_AFTER, PROVEN_FOR};

/// A standby that has not flushed for less than this is not worth a word: one look and one round
/// trip apart, everybody is.
const WORTH_A_WORD: Duration = Duration::from_millis(100);

/// One name, connected or gone.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Track {
    /// When its walsender started; another one is another connection.
    started_unix_ms: u64,
    is_connected: bool,
    /// What has to be flushed for it to be in time.
    target: Lsn,
    late_since: Option<Moment>,
    /// A position generated after it attached.
    proof: Lsn,
    proven_since: Option<Moment>,
    /// Was gray or gone, and has not streamed for long enough since.
    has_failed: bool,
}

/// What was seen of every standby of one epoch, on one server process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StandbyWatch {
    epoch: Epoch,
    started_unix_ms: u64,
    since: Moment,
    tracks: BTreeMap<SyncName, Track>,
}

impl StandbyWatch {
    /// Begins for the server of this look.
    pub fn new(epoch: Epoch, primary: &Primary, now: Moment) -> StandbyWatch {
        StandbyWatch {
            epoch,
            started_unix_ms: primary.started_unix_ms,
            since: now,
            tracks: BTreeMap::new(),
        }
    }

    /// Whether what it knows is of this epoch and this server process.
    pub fn is_of(&self, epoch: Epoch, primary: &Primary) -> bool {
        self.epoch == epoch && self.started_unix_ms == primary.started_unix_ms
    }

    /// Takes one look. The senders were read before the server's own flush position.
    pub fn look(&mut self, primary: &Primary, now: Moment) {
        let mut connected = BTreeSet::new();
        for sender in &primary.senders {
            let Ok(name) = sender.application_name.parse::<SyncName>() else {
                continue;
            };
            if name.epoch == self.epoch && sender.holds_slot_of(&name.member) {
                self.connected(&name, sender, primary.flushed, now);
                connected.insert(name);
            }
        }
        for (name, track) in &mut self.tracks {
            if !connected.contains(name) {
                track.is_connected = false;
                track.has_failed = true;
                track.proven_since = None;
                track.late_since.get_or_insert(now);
            }
        }
    }

    fn connected(&mut self, name: &SyncName, sender: &Sender, flushed: Lsn, now: Moment) {
        let fresh = Track {
            started_unix_ms: sender.started_unix_ms,
            is_connected: true,
            target: flushed,
            late_since: None,
            proof: Lsn(flushed.0 + 1),
            proven_since: None,
            has_failed: false,
        };
        let track = self.tracks.entry(name.clone()).or_insert(fresh.clone());
        if !track.is_connected || track.started_unix_ms != sender.started_unix_ms {
            // Late since it went, until it has what was there when it came back.
            *track = Track {
                late_since: track.late_since,
                has_failed: true,
                ..fresh
            };
        }
        if sender.flushed >= track.target {
            track.late_since = None;
            track.target = flushed;
        } else {
            track.late_since.get_or_insert(now);
        }
        if sender.replayed >= track.proof {
            track.proven_since.get_or_insert(now);
        }
        let lasts = |since: Option<Moment>, long| since.is_some_and(|it| now.since(it) >= long);
        if lasts(track.late_since, GRAY_AFTER) {
            track.has_failed = true;
            // What it streams from now on counts anew.
            track.proven_since = None;
            track.proof = Lsn(flushed.0 + 1);
        } else if lasts(track.proven_since, PROVEN_FOR) {
            track.has_failed = false;
        }
    }

    /// What is told of everybody seen, and of those in `newest` that never were.
    pub fn standbys(&self, newest: Option<&Rule>, now: Moment) -> Vec<StandbySeen> {
        let milliseconds = |since: Moment| {
            let age = now.since(since);
            u64::try_from(age.as_millis()).unwrap_or(u64::MAX)
        };
        let late = |track: &Track| {
            let is_told = |since: &Moment| !track.is_connected || now.since(*since) >= WORTH_A_WORD;
            track.late_since.filter(is_told).map(milliseconds)
        };
        let seen = self.tracks.iter().map(|(name, track)| StandbySeen {
            member: name.member.clone(),
            incarnation: name.incarnation,
            is_connected: track.is_connected,
            proven_for_ms: track.proven_since.map(milliseconds),
            late_for_ms: late(track),
            has_failed: track.has_failed,
        });
        let of_rule = newest.iter().flat_map(|rule| &rule.set);
        let never = of_rule.filter(|(member, incarnation)| {
            let is_it =
                |name: &SyncName| name.member == **member && name.incarnation == **incarnation;
            !self.tracks.keys().any(is_it)
        });
        let never = never.map(|(member, incarnation)| StandbySeen {
            member: member.clone(),
            incarnation: *incarnation,
            is_connected: false,
            proven_for_ms: None,
            late_for_ms: Some(milliseconds(self.since)),
            has_failed: false,
        });
        seen.chain(never).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Incarnation, RuleId, TimelineId};

    const NAME: &str = "b~000000ab~3";

    fn at(ms: u64) -> Moment {
        Moment(Duration::from_millis(10_000 + ms))
    }

    fn sender(started: u64, flushed: u64, replayed: u64) -> Sender {
        Sender {
            application_name: NAME.to_owned(),
            user: String::new(),
            client: String::new(),
            state: "streaming".to_owned(),
            sync_state: "quorum".to_owned(),
            sync_priority: 1,
            sent: Lsn(flushed),
            flushed: Lsn(flushed),
            replayed: Lsn(replayed),
            started_unix_ms: started,
            slot: Some("clusterd_b".to_owned()),
            pid: 41,
        }
    }

    fn primary(flushed: u64, senders: Vec<Sender>) -> Primary {
        Primary {
            timeline: TimelineId(3),
            flushed: Lsn(flushed),
            fork: None,
            is_open: true,
            has_signal: true,
            sync_names: String::new(),
            senders,
            prepared_transactions: 0,
            oldest_transaction_ms: 0,
            oldest_wal: None,
            started_unix_ms: 77,
        }
    }

    fn watch(looks: &[(u64, Primary)]) -> StandbyWatch {
        let mut watch = StandbyWatch::new(Epoch(3), &looks[0].1, at(0));
        for (ms, primary) in looks {
            watch.look(primary, at(*ms));
        }
        watch
    }

    fn only(watch: &StandbyWatch, ms: u64) -> StandbySeen {
        let mut all = watch.standbys(None, at(ms));
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    #[test]
    fn streaming_is_proven_by_replay_beyond_what_was_there_when_it_attached() {
        let attached = primary(100, vec![sender(1, 100, 100)]);
        let mut known = watch(&[(0, attached.clone()), (200, attached)]);
        assert_eq!(
            only(&known, 200).proven_for_ms,
            None,
            "it has shown nothing yet"
        );
        known.look(&primary(150, vec![sender(1, 150, 150)]), at(400));
        assert_eq!(only(&known, 700).proven_for_ms, Some(300));
    }

    #[test]
    fn another_connection_has_to_prove_itself_anew() {
        let mut known = watch(&[
            (0, primary(100, vec![sender(1, 100, 100)])),
            (200, primary(150, vec![sender(1, 150, 150)])),
        ]);
        known.look(&primary(150, vec![sender(2, 150, 150)]), at(400));
        assert_eq!(only(&known, 400).proven_for_ms, None);
    }

    #[test]
    fn a_standby_that_is_gone_is_late_at_once_until_it_has_what_it_missed() {
        let mut known = watch(&[
            (0, primary(100, vec![sender(1, 100, 100)])),
            (200, primary(200, vec![])),
        ]);
        let gone = only(&known, 500);
        assert_eq!((gone.is_connected, gone.late_for_ms), (false, Some(300)));
        known.look(&primary(300, vec![sender(2, 100, 100)]), at(600));
        assert_eq!(only(&known, 700).late_for_ms, Some(500), "back, and behind");
        known.look(&primary(400, vec![sender(2, 300, 300)]), at(800));
        assert_eq!(only(&known, 900).late_for_ms, None);
    }

    #[test]
    fn a_standby_that_flushes_nothing_is_late_and_one_that_keeps_up_behind_writers_is_not() {
        let frozen = |at_primary| primary(at_primary, vec![sender(1, 100, 100)]);
        let known = watch(&[(0, frozen(100)), (200, frozen(200)), (400, frozen(300))]);
        assert_eq!(
            only(&known, 450).late_for_ms,
            None,
            "less than is worth a word"
        );
        assert_eq!(only(&known, 1600).late_for_ms, Some(1200));
        let behind = |at_primary| primary(at_primary, vec![sender(1, at_primary - 50, 60)]);
        let known = watch(&[(0, behind(100)), (200, behind(200)), (400, behind(300))]);
        assert_eq!(only(&known, 2000).late_for_ms, None);
    }

    #[test]
    fn a_standby_that_was_gray_or_gone_is_trusted_again_after_long_streaming_only() {
        let well = |at_primary: u64, started| {
            primary(at_primary, vec![sender(started, at_primary, at_primary)])
        };
        let mut known = watch(&[(0, well(100, 1)), (200, well(150, 1))]);
        assert!(!only(&known, 200).has_failed, "new and proven");
        known.look(&well(200, 2), at(400));
        assert!(only(&known, 400).has_failed, "it was gone");
        known.look(&well(250, 2), at(600));
        known.look(&well(300, 2), at(20_000));
        assert!(only(&known, 20_000).has_failed);
        known.look(&well(350, 2), at(30_700));
        assert!(!only(&known, 30_700).has_failed);
        let frozen = |at_primary| primary(at_primary, vec![sender(2, 350, 350)]);
        for ms in [31_000, 31_200, 32_300] {
            known.look(&frozen(300 + ms), at(ms));
        }
        let gray = only(&known, 32_300);
        assert!(gray.has_failed && gray.proven_for_ms.is_none());
    }

    #[test]
    fn names_of_another_epoch_and_foreign_names_are_nobody() {
        let mut other = sender(1, 100, 100);
        other.application_name = "b~000000ab~2".to_owned();
        let mut foreign = sender(1, 100, 100);
        foreign.application_name = "walreceiver".to_owned();
        let known = watch(&[(0, primary(100, vec![other, foreign]))]);
        assert!(known.standbys(None, at(10)).is_empty());
    }

    #[test]
    fn a_member_of_the_rule_that_was_never_seen_is_late_since_the_server_came() {
        let known = watch(&[(0, primary(100, vec![]))]);
        let rule = Rule {
            id: RuleId(1),
            epoch: Epoch(3),
            k: 1,
            set: BTreeMap::from([("b".parse().expect("name"), Incarnation(0xab))]),
        };
        let told = known.standbys(Some(&rule), at(250));
        assert_eq!(told.len(), 1);
        assert_eq!(told[0].late_for_ms, Some(250));
        assert!(!told[0].is_connected);
    }
}
