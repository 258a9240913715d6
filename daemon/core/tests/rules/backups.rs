//! Backups on a schedule: each moment once, one at a time, by a member that can, whoever leads.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_core::change::{Applied, Command, Rejected, Stamp, apply};
use cluster_core::decide::backups::{RETRY_AFTER, scheduled};
use cluster_core::decide::snapshots::SILENCE_LIMIT;
use cluster_core::decide::{Reason, Verdict};
use cluster_core::model::backup_run::{self, ATTEMPTS, RUNS_KEPT};
use cluster_core::model::objectives::{Kept, Objective, objectives};
use cluster_core::model::postgres::Follows;
use cluster_core::model::state::HistoryEntry;
use cluster_core::model::view::ClusterView;
use cluster_core::model::{
    BackupOutcome, ClusterState, Epoch, MemberName, NodeId, PostgresStatus, RecoverySetting,
    RunKind, SettingsChange, Verification,
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
            report.health.reads_repository = true;
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
        assert!(night.set(schedule).is_ok());
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

    fn change(&mut self, key: &str, value: &str) {
        let one = RecoverySetting::read(key, value).expect("a key");
        let change = SettingsChange {
            recovery: vec![one.expect("a value")],
            ..SettingsChange::default()
        };
        let done = self.commit(Command::ChangeSettings {
            change: Box::new(change),
            expected: None,
            by: "a test".to_owned(),
        });
        assert_eq!(done, Ok(Applied::Changed));
    }

    fn objective(&self, name: &str, recoverable: Option<u64>) -> Objective {
        let all = objectives(self.state(), recoverable, self.now);
        let found = all.into_iter().find(|it| it.name == name);
        found.expect("an objective of this name")
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
        what: RunKind::Backup,
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

fn verified(verdict: backup_run::Verdict) -> BackupOutcome {
    BackupOutcome::Verified(Box::new(Verification {
        verdict,
        level: cluster_core::model::recovery::VerifyLevel::Start,
        backup: Some("one".to_owned()),
        bytes: 9,
        rto_ms: Some(20_000),
        rpo_ms: None,
        host: "h".to_owned(),
        version: "0".to_owned(),
        postgres: None,
        by: "schedule".to_owned(),
        problems: vec!["base.tar is damaged".to_owned()],
    }))
}

#[test]
fn nothing_is_proven_before_the_first_backup_and_a_backup_and_a_proof_go_side_by_side() {
    let mut night = Night::new("every 1h");
    night.change("verify_schedule", "0 5 * * *");
    assert_eq!(night.begins(), name("c"));
    assert!(night.is_quiet(), "there is nothing to prove yet");
    night.is_stored();
    night.begins();
    assert!(night.state().open_run(RunKind::Verify).is_some());
    assert!(night.end(stored()).is_err(), "that is not how a proof ends");
    assert!(night.is_quiet());
    night.now += HOUR;
    night.begins();
    assert!(night.state().open_run(RunKind::Backup).is_some());
    assert!(night.state().open_run(RunKind::Verify).is_some());
    assert!(night.is_quiet(), "one of a kind");
}

#[test]
fn a_proof_that_failed_is_tried_again_and_one_that_was_out_of_time_waits_for_its_next_moment() {
    for (verdict, attempts) in [
        (backup_run::Verdict::Failed, ATTEMPTS),
        (backup_run::Verdict::TimedOut, 1),
        (backup_run::Verdict::Successful, 1),
    ] {
        let mut night = Night::new("off");
        night.change("verify_schedule", "daily 02:00");
        for _ in 0..attempts {
            night.begins();
            assert_eq!(night.end(verified(verdict)), Ok(Applied::Changed));
            night.now += u64::try_from(RETRY_AFTER.as_millis()).expect("short");
        }
        assert!(night.is_quiet(), "{verdict:?}");
        let last = night.state().history.last().expect("a line").clone();
        let is_good = verdict == backup_run::Verdict::Successful;
        let what = if is_good {
            "verify-completed"
        } else {
            "verify-failed"
        };
        assert_eq!(last.what, what);
        assert!(last.reason.contains(verdict.word()), "{}", last.reason);
        assert_eq!(last.reason.contains("damaged"), !is_good);
    }
}

#[test]
fn who_cannot_read_the_repository_takes_backups_and_proves_and_prunes_nothing() {
    let mut night = Night::new("off");
    night.change("prune_schedule", "daily 02:00");
    night.look.report("c").health.reads_repository = false;
    assert_eq!(night.begins(), name("b"));
    let pruned = BackupOutcome::Pruned {
        what: "nothing went".to_owned(),
    };
    assert_eq!(night.end(pruned), Ok(Applied::Changed));
    assert!(night.is_quiet());
    night.now += 24 * HOUR;
    for member in ["a", "b"] {
        night.look.report(member).health.reads_repository = false;
    }
    let Verdict::Wait(Reason::BackupWaits(why)) = night.judge(HEARD) else {
        panic!("somebody is named: {:?}", night.judge(HEARD));
    };
    assert!(
        why.contains("prune_schedule") && why.contains("identity"),
        "{why}"
    );
    assert_eq!(night.set("every 1h"), Ok(Applied::Changed));
    assert_eq!(night.begins(), name("c"), "what waits holds up nobody");
}

#[test]
fn ages_are_breached_from_the_beginning_and_from_a_moment_on() {
    let mut night = Night::new("every 1h");
    assert_eq!(night.objective("backup-age", None).verdict, Kept::NotSet);
    night.change("backup_age", "2h");
    night.change("verification_age", "25h");
    for name in ["backup-age", "verification-age"] {
        let missing = night.objective(name, None);
        assert_eq!(
            (missing.verdict, missing.measured_ms),
            (Kept::Breached, None)
        );
        assert_eq!(missing.since_unix_ms, None, "it never was kept");
    }
    night.begins();
    night.is_stored();
    night.now += 2 * HOUR;
    assert_eq!(night.objective("backup-age", None).verdict, Kept::Ok);
    night.now += 1;
    let late = night.objective("backup-age", None);
    assert_eq!(
        (late.verdict, late.measured_ms),
        (Kept::Breached, Some(2 * HOUR + 1))
    );
    assert_eq!(late.since_unix_ms, Some(night.now - 1));
    assert_eq!(late.of, "one");
    night.change("verify_schedule", "daily 02:00");
    while night.state().open_run(RunKind::Verify).is_none() {
        night.begins();
        if night.state().open_run(RunKind::Verify).is_none() {
            night.is_stored();
        }
    }
    let done = night.end(verified(backup_run::Verdict::Failed));
    assert_eq!(done, Ok(Applied::Changed));
    let unproven = night.objective("verification-age", None);
    assert_eq!(
        unproven.verdict,
        Kept::Breached,
        "a failed one proves nothing"
    );
}

#[test]
fn recovery_is_judged_by_the_last_failover_the_last_restore_and_the_archive() {
    let mut night = Night::new("off");
    night.change("rto", "10s");
    night.change("rpo", "90s");
    for name in ["rto-failover", "rto-restore", "rpo-archive"] {
        assert_eq!(
            night.objective(name, None).verdict,
            Kept::NotMeasured,
            "{name}"
        );
    }
    let now = night.now;
    assert_eq!(
        night.objective("rpo-archive", Some(now - 90_000)).verdict,
        Kept::Ok
    );
    let late = night.objective("rpo-archive", Some(now - 90_001));
    assert_eq!(late.verdict, Kept::Breached);
    assert_eq!(late.since_unix_ms, Some(now - 1));
    night.change("verify_schedule", "daily 02:00");
    night.begins();
    let done = night.end(verified(backup_run::Verdict::Successful));
    assert_eq!(done, Ok(Applied::Changed));
    let slow = night.objective("rto-restore", None);
    assert_eq!(
        (slow.verdict, slow.measured_ms),
        (Kept::Breached, Some(20_000))
    );
    assert_eq!(slow.since_unix_ms, Some(night.now), "when it was measured");
    let entry = |what: &str, at_unix_ms| HistoryEntry {
        index: 1,
        at_unix_ms,
        epoch: Epoch(2),
        what: what.to_owned(),
        member: Some(name("b")),
        timeline: None,
        lsn: None,
        reason: String::new(),
    };
    let history = &mut night.look.state.history;
    history.push(entry("revoked", NOW));
    history.push(entry("granted", NOW + 3_000));
    history.push(entry("activated", NOW + 4_000));
    let failover = night.objective("rto-failover", None);
    assert_eq!(
        (failover.verdict, failover.measured_ms),
        (Kept::Ok, Some(4_000))
    );
    assert_eq!(failover.at_unix_ms, Some(NOW + 4_000));
    // A planned hand-over is none.
    let history = &mut night.look.state.history;
    history.push(entry("released", NOW + 10_000));
    history.push(entry("activated", NOW + 60_000));
    assert_eq!(night.objective("rto-failover", None), failover);
}
