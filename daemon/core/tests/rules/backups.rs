//! Backups on a schedule: each moment once, one at a time, by a member that can, whoever leads.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_core::change::{Applied, Command, Rejected, Stamp, apply};
use cluster_core::decide::backups::{RETRY_AFTER, scheduled};
use cluster_core::decide::snapshots::SILENCE_LIMIT;
use cluster_core::decide::{Reason, Verdict};
use cluster_core::model::backup_run::{ATTEMPTS, RUNS_KEPT};
use cluster_core::model::postgres::Follows;
use cluster_core::model::view::ClusterView;
use cluster_core::model::{
    BackupOutcome, ClusterState, Epoch, MemberName, NodeId, PostgresStatus, SettingsChange,
};

use crate::cluster::{grant, name, put, revoke, rule, seal};
use crate::decisions::Look;

const HOUR: u64 = 3_600_000;
/// 2026-11-23 06:00:00 UTC.
const NOW: u64 = 1_795_413_600_000;

/// A cluster, its leader and its clock.
struct Night {
    look: Look,
    leader: NodeId,
    now: u64,
    index: u64,
}

/// Long enough for a report of everybody.
const HEARD: Duration = Duration::from_secs(5);

impl Night {
    fn new(schedule: &str) -> Night {
        let mut look = Look::new();
        for member in ["a", "b", "c"] {
            let report = look.report(member);
            report.health.has_repository = true;
            report.daemon_start = format!("{member}-1");
            if let PostgresStatus::Standby(standby) = &mut report.postgres {
                standby.follows = Some(Follows {
                    member: name("a"),
                    epoch: Epoch(1),
                });
            }
        }
        let mut night = Night {
            look,
            leader: NodeId(1),
            now: NOW,
            index: 100,
        };
        assert_eq!(night.set(schedule), Ok(Applied::Changed));
        night
    }

    fn state(&self) -> &ClusterState {
        &self.look.state
    }

    fn set(&mut self, schedule: &str) -> Result<Applied, Rejected> {
        let change = SettingsChange {
            backup_schedule: Some(schedule.parse().expect("a schedule")),
            ..SettingsChange::default()
        };
        self.commit(Command::ChangeSettings {
            change: Box::new(change),
            expected: None,
            by: "a test".to_owned(),
        })
    }

    fn commit(&mut self, command: Command) -> Result<Applied, Rejected> {
        self.index += 1;
        let stamp = Stamp {
            version: 1,
            at_unix_ms: self.now,
            command,
        };
        let before = self.look.state.clone();
        let done = apply(&mut self.look.state, self.index, &stamp);
        if done.is_err() {
            assert_eq!(self.look.state, before, "a refused command changes nothing");
        }
        done
    }

    fn judge(&self, leading_for: Duration) -> Verdict {
        let ages = BTreeMap::new();
        let (state, reports) = (&self.look.state, &self.look.reports);
        let view = ClusterView::settled(self.leader, state, reports, &[], &ages);
        scheduled(&ClusterView {
            leading_for,
            wall_unix_ms: Some(self.now),
            ..view
        })
    }

    fn is_quiet(&self) -> bool {
        self.judge(SILENCE_LIMIT) == Verdict::Pass
    }

    /// What is due begins; who takes it.
    fn begins(&mut self) -> MemberName {
        let new_leader = self.judge(Duration::from_millis(100));
        assert_eq!(new_leader, Verdict::Pass, "not before all were heard");
        let verdict = self.judge(HEARD);
        let Verdict::Propose(command, Reason::BackupDue(taker)) = verdict else {
            panic!("nothing begins: {verdict:?}");
        };
        assert_eq!(self.commit(*command.clone()), Ok(Applied::Changed));
        assert!(
            self.commit(*command).is_err(),
            "another leader proposes the same: refused"
        );
        taker
    }

    fn end(&mut self, outcome: BackupOutcome) -> Result<Applied, Rejected> {
        let run = self.state().backup_runs.last().expect("one").clone();
        let end = |member: MemberName| Command::EndBackup {
            run: run.index,
            member,
            outcome: outcome.clone(),
        };
        assert!(self.commit(end(name("a"))).is_err(), "it is not a's");
        self.commit(end(run.taker.clone()))
    }

    fn fails(&mut self) {
        let why = "no room".to_owned();
        let done = self.end(BackupOutcome::Failed { why });
        assert_eq!(done, Ok(Applied::Changed));
    }

    fn is_stored(&mut self) {
        assert_eq!(self.end(stored()), Ok(Applied::Changed));
    }
}

fn stored() -> BackupOutcome {
    BackupOutcome::Stored {
        id: "one".to_owned(),
        bytes: 7,
    }
}

#[test]
fn the_first_is_taken_at_once_and_each_moment_once_whoever_leads() {
    let mut night = Night::new("daily 02:00");
    assert_eq!(night.begins(), name("c"), "a standby that does not lead");
    assert!(night.is_quiet(), "one at a time");
    night.leader = NodeId(2);
    night.now += 20 * HOUR;
    assert!(
        night.is_quiet(),
        "the next moment waits for the end of this one"
    );
    night.now -= 20 * HOUR;
    night.is_stored();
    assert_eq!(night.end(stored()), Ok(Applied::Unchanged), "told twice");
    assert!(night.is_quiet(), "its moment is taken care of");
    night.now = NOW + 20 * HOUR - 1;
    assert!(night.is_quiet());
    night.now += 1;
    assert_eq!(night.begins(), name("b"), "another leads now");
    let runs = &night.state().backup_runs;
    assert_eq!(runs[1].due_unix_ms - runs[0].due_unix_ms, 24 * HOUR);
}

#[test]
fn missed_moments_are_made_up_for_once() {
    let mut night = Night::new("every 1h");
    night.begins();
    night.is_stored();
    night.now += 10 * HOUR + 1;
    night.begins();
    night.is_stored();
    assert!(night.is_quiet(), "ten were missed and one is taken");
    night.now += HOUR;
    night.begins();
}

#[test]
fn of_moments_of_cron_that_were_missed_only_the_newest_is_made_up_for() {
    // NOW is a Monday, 06:00.
    let mut night = Night::new("30 2 * * mon-fri");
    night.begins();
    night.is_stored();
    // Nobody led from Tuesday to Saturday.
    night.now = NOW + 5 * 24 * HOUR;
    night.begins();
    night.is_stored();
    let friday = NOW + 4 * 24 * HOUR - 7 * HOUR / 2;
    let runs = &night.state().backup_runs;
    assert_eq!(runs.len(), 2, "four were missed and one is taken");
    assert_eq!(runs[1].due_unix_ms, friday);
    let monday = friday + 3 * 24 * HOUR;
    night.now = monday - 1;
    assert!(night.is_quiet(), "no weekend");
    night.now = monday;
    night.begins();
}

#[test]
fn a_clock_that_goes_back_repeats_nothing() {
    let mut night = Night::new("0 * * * *");
    night.begins();
    night.is_stored();
    night.now -= HOUR;
    assert!(night.is_quiet(), "its moment is the newest taken care of");
    night.now += HOUR;
    assert!(night.is_quiet());
    night.now += HOUR;
    night.begins();
}

#[test]
fn a_failed_one_is_tried_again_a_few_times_and_then_with_the_next_moment() {
    let mut night = Night::new("daily 02:00");
    let retry = u64::try_from(RETRY_AFTER.as_millis()).expect("short");
    for attempt in 1..=ATTEMPTS {
        night.begins();
        assert_eq!(
            night.state().backup_runs.last().expect("one").attempt,
            attempt
        );
        night.fails();
        night.now += retry - 1;
        assert!(night.is_quiet(), "too early");
        night.now += 1;
    }
    assert!(night.is_quiet(), "it is given up");
    night.now += 24 * HOUR;
    night.begins();
    assert_eq!(night.state().backup_runs.last().expect("one").attempt, 1);
}

#[test]
fn one_across_a_change_of_the_primary_does_not_count() {
    let mut night = Night::new("daily 02:00");
    night.begins();
    let state = &mut night.look.state;
    revoke(state);
    let sealed = vec![seal("b", 2, 200), seal("c", 2, 200)];
    let next = grant(state, "b", rule(2, 2, 1, &["c"]), sealed);
    assert_eq!(put(state, next), Ok(Applied::Changed));
    night.is_stored();
    let run = night.state().backup_runs.last().expect("one");
    assert_eq!(run.failed_at(), Some(NOW));
    assert!(night.state().stored_backup().is_none());
    assert!(night.is_quiet(), "nobody is promoted yet");
}

#[test]
fn a_taker_that_is_gone_gives_it_up_after_a_while_and_not_before() {
    let mut night = Night::new("daily 02:00");
    let taker = night.begins();
    night.look.reports.remove(&taker);
    let early = night.judge(SILENCE_LIMIT - Duration::from_millis(1));
    assert_eq!(early, Verdict::Pass);
    let Verdict::Propose(command, reason) = night.judge(SILENCE_LIMIT) else {
        panic!("nothing is proposed");
    };
    assert_eq!(reason, Reason::BackupVoid(taker));
    assert_eq!(night.commit(*command), Ok(Applied::Changed));
    assert!(night.end(stored()).is_err(), "too late");
    night.now += u64::try_from(RETRY_AFTER.as_millis()).expect("short");
    assert_eq!(
        night.begins(),
        name("b"),
        "the other standby, although it leads"
    );
}

#[test]
fn nobody_is_named_who_cannot_and_the_reason_is_told() {
    let mut night = Night::new("daily 02:00");
    for standby in ["b", "c"] {
        night.look.report(standby).health.has_repository = false;
    }
    let Verdict::Propose(_, reason) = night.judge(HEARD) else {
        panic!("the primary can");
    };
    assert_eq!(reason, Reason::BackupDue(name("a")));
    night.look.report("a").health.has_repository = false;
    let Verdict::Wait(Reason::BackupWaits(why)) = night.judge(HEARD) else {
        panic!("somebody is named");
    };
    assert!(why.contains("[backup]"), "{why}");
}

#[test]
fn nothing_begins_while_paused_or_without_a_schedule() {
    let mut night = Night::new("daily 02:00");
    let by = "a test".to_owned();
    assert_eq!(
        night.commit(Command::Pause { by: by.clone() }),
        Ok(Applied::Changed)
    );
    assert!(night.is_quiet());
    assert_eq!(night.commit(Command::Resume { by }), Ok(Applied::Changed));
    assert!(!night.is_quiet());
    assert_eq!(night.set("off"), Ok(Applied::Changed));
    assert!(night.is_quiet());
    let begin = Command::BeginBackup {
        due_unix_ms: NOW,
        taker: name("b"),
        daemon_start: String::new(),
    };
    assert!(
        night.commit(begin).is_err(),
        "decided before it was switched off"
    );
}

#[test]
fn the_newest_stored_one_is_remembered_however_many_fail() {
    let mut night = Night::new("every 1h");
    night.begins();
    night.is_stored();
    for _ in 0..2 * RUNS_KEPT {
        night.now += HOUR;
        night.begins();
        night.fails();
    }
    assert_eq!(night.state().backup_runs.len(), RUNS_KEPT);
    let kept = night.state().stored_backup().expect("remembered");
    assert_eq!(kept.due_unix_ms, NOW);
}
