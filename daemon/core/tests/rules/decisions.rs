//! What the leader decides about rules, one look at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use cluster_core::change::Command;
use cluster_core::decide::{Verdict, decide_cluster};
use cluster_core::model::confirmation::{Proven, StandbySeen, SyncName, SyncReport};
use cluster_core::model::member::{Health, Probe, SealReport};
use cluster_core::model::missing::MissingTold;
use cluster_core::model::postgres::{Primary, Receiver, Sender, Standby};
use cluster_core::model::settings::{Durability, Mode};
use cluster_core::model::view::{ClusterView, Seen};
use cluster_core::model::{
    Addresses, ClusterState, Epoch, Incarnation, Lsn, MemberName, MemberReport, NodeId,
    PostgresStatus, RequestId, Rule, RuleId, Tags, TimelineId,
};

use crate::cluster::{activate, done, name, propose, revoke, rule, seal, serving};

/// What the leader sees: everybody well, `a` the primary with 0/C8 flushed.
pub struct Look {
    pub state: ClusterState,
    pub reports: BTreeMap<MemberName, Seen>,
    pub ages: BTreeMap<RequestId, Duration>,
    base_age: Duration,
    leading_for: Duration,
    grant_age: Option<Duration>,
    pub ended_age: Duration,
}

pub const STARTED: u64 = 7;

pub fn sender(member: &str, epoch: u64, flushed: u64) -> Sender {
    let name = SyncName {
        member: name(member),
        incarnation: Incarnation(1),
        epoch: Epoch(epoch),
    };
    Sender {
        application_name: name.to_string(),
        user: String::new(),
        client: String::new(),
        state: "streaming".to_owned(),
        sync_state: "quorum".to_owned(),
        sync_priority: 1,
        sent: Lsn(flushed),
        flushed: Lsn(flushed),
        replayed: Lsn(flushed),
        started_unix_ms: STARTED + 1,
        slot: Some(format!("clusterd_{member}")),
        pid: 40,
    }
}

pub fn primary(senders: Vec<Sender>) -> Primary {
    Primary {
        timeline: TimelineId(2),
        flushed: Lsn(200),
        fork: Some(Lsn(100)),
        is_open: true,
        has_signal: true,
        sync_names: String::new(),
        senders,
        prepared_transactions: 0,
        oldest_transaction_ms: 0,
        oldest_wal: None,
        started_unix_ms: STARTED,
    }
}

pub fn report(member: &str, node: u64, postgres: PostgresStatus) -> MemberReport {
    MemberReport {
        member: name(member),
        node: NodeId(node),
        daemon_start: String::new(),
        version: String::new(),
        addresses: Addresses::default(),
        tags: Tags::default(),
        incarnation: Some(Incarnation(1)),
        system_identifier: Some(1),
        server_version: None,
        postgres,
        min_epoch: Epoch(1),
        used: Epoch::NONE,
        seal: None,
        set_is_empty: false,
        lease_left_ms: None,
        applied_index: 1,
        not_promotable: Vec::new(),
        health: Health::default(),
        busy: None,
        hears: Vec::new(),
        drained: None,
        done_request: None,
        checkpointed: Epoch::NONE,
        sync: None,
        verdict: String::new(),
    }
}

pub fn standby(flushed: u64) -> PostgresStatus {
    PostgresStatus::Standby(Standby {
        timeline: TimelineId(2),
        received: Some(Lsn(flushed)),
        replayed: Lsn(flushed),
        replay_delay_ms: None,
        replayed_at_unix_ms: None,
        replay_paused: false,
        replay_is_held: false,
        has_too_little: false,
        is_out_of_wal: false,
        has_frozen_receiver: false,
        unattached_for_ms: None,
        receiver: Some(Receiver {
            pid: 1,
            is_streaming: true,
            timeline: TimelineId(2),
            flushed: Lsn(flushed),
            latest_end: Lsn(flushed),
        }),
        at_end_of_wal: true,
        follows: None,
        started_unix_ms: 0,
    })
}

pub fn seen(member: &str) -> StandbySeen {
    StandbySeen {
        member: name(member),
        incarnation: Incarnation(1),
        is_connected: true,
        proven_for_ms: Some(60_000),
        late_for_ms: None,
        has_failed: false,
    }
}

impl Look {
    pub fn new() -> Look {
        Look::at(serving())
    }

    pub fn at(state: ClusterState) -> Look {
        let mut reports = BTreeMap::new();
        let senders = vec![sender("b", 1, 200), sender("c", 1, 200)];
        for (node, member) in ["a", "b", "c"].into_iter().enumerate() {
            let postgres = if node == 0 {
                PostgresStatus::Primary(primary(senders.clone()))
            } else {
                standby(200)
            };
            let mut report = report(member, node as u64, postgres);
            report.sync = (node == 0).then(|| SyncReport {
                epoch: Epoch(1),
                started_unix_ms: STARTED,
                given: RuleId(1),
                proven: Some(Proven {
                    rule: RuleId(1),
                    x: Lsn(110),
                }),
                unusable: None,
                standbys: vec![seen("b"), seen("c")],
            });
            let age = Duration::ZERO;
            reports.insert(name(member), Seen { report, age });
        }
        Look {
            state,
            reports,
            ages: BTreeMap::new(),
            base_age: Duration::from_millis(100),
            leading_for: Duration::from_secs(100),
            grant_age: Some(Duration::from_secs(60)),
            ended_age: Duration::from_secs(100),
        }
    }

    pub fn report(&mut self, member: &str) -> &mut MemberReport {
        let seen = self.reports.get_mut(&name(member)).expect("a member");
        &mut seen.report
    }

    pub fn sync(&mut self) -> &mut SyncReport {
        self.report("a").sync.as_mut().expect("of the primary")
    }

    pub fn of(&mut self, member: &str) -> &mut StandbySeen {
        let mut all = self.sync().standbys.iter_mut();
        all.find(|it| it.member == name(member)).expect("a standby")
    }

    pub fn late(&mut self, member: &str, ms: u64) -> &mut Look {
        self.of(member).late_for_ms = Some(ms);
        self
    }

    pub fn silent(&mut self, member: &str) -> &mut Look {
        let seen = self.reports.get_mut(&name(member)).expect("a member");
        seen.age = Duration::from_secs(5);
        self
    }

    fn senders(&mut self, senders: Vec<Sender>) {
        self.report("a").postgres = PostgresStatus::Primary(primary(senders));
    }

    pub fn verdict(&self) -> (Verdict, &'static str) {
        let view = ClusterView::settled(NodeId(1), &self.state, &self.reports, &[], &self.ages);
        let view = ClusterView {
            leading_for: self.leading_for,
            base_age: self.base_age,
            grant_age: self.grant_age,
            ended_age: self.ended_age,
            ..view
        };
        let verdict = decide_cluster(&view);
        let code = verdict.reason().code();
        (verdict.verdict, code)
    }

    /// One of the other questions about the same look.
    pub fn asked<T>(&self, voters: &[NodeId], ask: impl FnOnce(&ClusterView) -> T) -> T {
        let view = ClusterView::settled(NodeId(1), &self.state, &self.reports, voters, &self.ages);
        ask(&view)
    }

    /// Nothing is changed; that writes wait may be told.
    pub fn passes(&self) -> bool {
        matches!(
            self.verdict(),
            (Verdict::Pass, "all-well") | (Verdict::Wait(_), "writes-wait")
        )
    }

    pub fn proposes(&self, wanted: &Rule, reason: &str) {
        let (verdict, code) = self.verdict();
        let Verdict::Propose(command, _) = verdict else {
            panic!("{verdict:?}");
        };
        assert_eq!(
            *command,
            Command::Propose {
                rule: wanted.clone()
            }
        );
        assert_eq!(code, reason);
    }

    pub fn settings(&mut self, mode: Mode, k: u32, k_min: u32, zones: &[(&str, &str)]) {
        let zones = zones
            .iter()
            .map(|(it, zone)| (name(it), (*zone).to_owned()));
        let wanted = Durability {
            mode,
            k,
            k_min,
            zones: zones.collect(),
        };
        done(&mut self.state, Command::SetDurability(Box::new(wanted)));
    }

    pub fn tag(&mut self, member: &str, tags: Tags) {
        self.report(member).tags = tags.clone();
        self.state
            .members
            .get_mut(&name(member))
            .expect("a member")
            .tags = tags;
    }

    pub fn sealed(&mut self, member: &str, end: u64) {
        let seal: SealReport = seal(member, 2, end);
        self.report(member).seal = Some(seal);
    }
}

#[test]
fn a_healthy_rule_stays() {
    assert!(Look::new().passes());
}

#[test]
fn gray_standby_leaves_when_another_confirms() {
    let mut look = Look::new();
    assert!(look.late("b", 900).passes());
    look.late("b", 1000)
        .proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    // Only on the primary's own request, with a renewal younger than R.
    look.base_age = Duration::from_millis(300);
    assert!(look.passes());
}

#[test]
fn last_standby_is_given_up_when_the_leader_misses_it_too_and_only_then() {
    let mut look = Look::new();
    look.late("b", 1200).late("c", 1200);
    assert!(
        look.passes(),
        "both are heard: the primary's network is at fault"
    );
    look.silent("b");
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    look.silent("c");
    look.proposes(&rule(2, 1, 0, &[]), "degrade");
}

#[test]
fn a_standby_whose_postgres_is_gone_leaves_at_once() {
    let mut look = Look::new();
    look.of("b").is_connected = false;
    look.late("b", 1);
    look.report("b").postgres = PostgresStatus::Stopping;
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
}

#[test]
fn a_leader_that_has_not_heard_a_standby_yet_neither_drops_it_nor_blames_the_primary() {
    let mut look = Look::new();
    look.late("b", 9000).late("c", 9000).silent("b").silent("c");
    look.leading_for = Duration::from_millis(900);
    assert!(look.passes());
    look.leading_for = Duration::from_millis(1000);
    look.proposes(&rule(2, 1, 0, &[]), "degrade");
}

#[test]
fn a_primary_that_alone_lost_its_standbys_is_switched_away_from_not_degraded() {
    let mut look = Look::new();
    assert!(look.late("b", 1400).late("c", 1600).passes());
    look.late("b", 1500);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "replication-lost");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(matches!(*command, Command::Revoke { .. }));
}

/// The last standby confirms nothing because its disk stands still, which its own daemon sees: nothing is
/// wrong with the primary.
#[test]
fn a_stalled_disk_of_the_last_standby_is_not_the_primarys_fault() {
    let probe = |last_ok_age_ms| Probe {
        last_ok_age_ms,
        took_ms: 3,
        is_stuck: false,
        has_failed: false,
    };
    let mut look = Look::new();
    look.late("b", 9000).silent("b").late("c", 1400);
    look.report("c").health.wal_volume = Some(probe(1500));
    look.proposes(&rule(2, 1, 0, &[]), "degrade");
    // The disk works as usual: the network of one of both does not, and on the primary's word alone
    // nobody is left to be the last.
    look.report("c").health.wal_volume = Some(probe(1050));
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    look.late("c", 1600);
    look.report("c").health.wal_volume = Some(probe(1200));
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    // Nobody is late: a probe that takes long says nothing.
    look.of("c").late_for_ms = None;
    look.report("c").health.wal_volume = Some(probe(2000));
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
}

#[test]
fn a_standby_that_failed_returns_after_thirty_seconds_or_at_once_when_it_is_needed() {
    let mut look = Look::new();
    assert!(propose(&mut look.state, rule(2, 1, 1, &["c"])).is_ok());
    assert!(activate(&mut look.state, 2, 150, &["c"]).is_ok());
    look.sync().given = RuleId(2);
    look.of("b").proven_for_ms = Some(0);
    look.proposes(&rule(3, 1, 1, &["b", "c"]), "standby-joins-rule");
    look.of("b").has_failed = true;
    look.of("b").proven_for_ms = Some(29_000);
    assert!(look.passes());
    look.of("b").proven_for_ms = Some(30_000);
    look.proposes(&rule(3, 1, 1, &["b", "c"]), "standby-joins-rule");
    look.of("b").proven_for_ms = Some(0);
    look.late("c", 1200).silent("c");
    look.proposes(&rule(3, 1, 1, &["b"]), "standby-swapped");
    look.of("b").proven_for_ms = None;
    look.proposes(&rule(3, 1, 0, &[]), "degrade");
}

#[test]
fn sync_comes_back_from_nobody_and_strict_never_goes_there() {
    let mut look = Look::new();
    look.settings(Mode::Strict, 1, 1, &[]);
    look.late("b", 1200).late("c", 1200).silent("b").silent("c");
    assert!(look.passes(), "writes wait");
    look.settings(Mode::Sync, 1, 1, &[]);
    look.proposes(&rule(2, 1, 0, &[]), "degrade");
    assert!(propose(&mut look.state, rule(2, 1, 0, &[])).is_ok());
    assert!(activate(&mut look.state, 2, 150, &[]).is_ok());
    look.of("c").late_for_ms = None;
    look.proposes(&rule(3, 1, 1, &["c"]), "restore");
}

#[test]
fn settings_move_the_rule_and_one_change_waits_for_the_other() {
    let mut look = Look::new();
    look.settings(Mode::Sync, 2, 1, &[]);
    look.proposes(&rule(2, 1, 2, &["b", "c"]), "confirmations-change");
    assert!(propose(&mut look.state, rule(2, 1, 2, &["b", "c"])).is_ok());
    look.settings(Mode::Sync, 1, 1, &[]);
    look.proposes(&rule(3, 1, 1, &["b", "c"]), "confirmations-change");
    look.settings(Mode::Async, 1, 1, &[]);
    look.proposes(&rule(3, 1, 0, &[]), "degrade");
}

#[test]
fn tags_and_zones_say_who_confirms() {
    let mut look = Look::new();
    let nosync = Tags {
        nosync: true,
        ..Tags::default()
    };
    look.tag("b", nosync);
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    let first = Tags {
        sync_priority: Some(2),
        ..Tags::default()
    };
    look.tag("b", first);
    look.proposes(&rule(2, 1, 1, &["b"]), "standby-leaves-rule");
    look.tag("b", Tags::default());
    look.settings(
        Mode::Sync,
        1,
        1,
        &[("a", "left"), ("b", "left"), ("c", "right")],
    );
    look.proposes(&rule(2, 1, 1, &["c"]), "standby-leaves-rule");
    look.settings(
        Mode::Sync,
        2,
        1,
        &[("a", "left"), ("b", "left"), ("c", "right")],
    );
    look.proposes(&rule(2, 1, 2, &["b", "c"]), "confirmations-change");
    look.settings(
        Mode::Sync,
        1,
        1,
        &[("a", "left"), ("b", "left"), ("c", "left")],
    );
    assert!(look.passes(), "no other zone: better here than nowhere");
}

#[test]
fn a_proposal_is_activated_once_its_quorum_has_x() {
    let mut look = Look::new();
    look.settings(Mode::Sync, 2, 1, &[]);
    assert!(propose(&mut look.state, rule(2, 1, 2, &["b", "c"])).is_ok());
    assert!(look.passes(), "not proven yet");
    look.sync().given = RuleId(2);
    look.sync().proven = Some(Proven {
        rule: RuleId(2),
        x: Lsn(180),
    });
    look.report("c").postgres = standby(170);
    look.senders(vec![sender("b", 1, 190), sender("c", 1, 170)]);
    assert!(look.passes(), "c has not flushed X");
    look.senders(vec![sender("b", 1, 190), sender("c", 1, 201)]);
    assert!(look.passes(), "c claims more than the primary has");
    look.senders(vec![sender("b", 1, 190), sender("c", 0, 190)]);
    assert!(look.passes(), "c speaks under the name of another epoch");
    look.report("c").postgres = standby(180);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "rule-proven");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    let Command::Activate { rule, at, by, .. } = *command else {
        panic!("{command:?}")
    };
    assert_eq!((rule, at, by.len()), (RuleId(2), Lsn(180), 2));
    // X of another server process is no X.
    look.sync().started_unix_ms = STARTED + 1;
    assert!(look.passes());
}

#[test]
fn a_proposal_given_up_is_withdrawn() {
    let mut look = Look::new();
    assert!(propose(&mut look.state, rule(2, 1, 0, &[])).is_ok());
    look.sync().given = RuleId(2);
    look.sync().unusable = Some(RuleId(2));
    let (verdict, code) = look.verdict();
    assert_eq!(code, "rule-withdrawn");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    assert!(matches!(*command, Command::Withdraw { .. }));
}

#[test]
fn nobody_is_promoted_before_every_live_rule_is_blocked() {
    let mut look = Look::new();
    revoke(&mut look.state);
    look.silent("a").silent("c");
    look.sealed("b", 200);
    look.ended_age = Duration::from_secs(2);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "missing-members");
    let Verdict::Wait(reason) = verdict else {
        panic!("{verdict:?}")
    };
    let text = reason.to_string();
    assert!(
        text.contains("(a, c)") && text.contains("clusterctl failover"),
        "{text}"
    );
    let mut look = Look::new();
    revoke(&mut look.state);
    look.silent("a");
    look.sealed("b", 200);
    assert_eq!(look.verdict().1, "sealing");
    look.sealed("c", 190);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "chosen");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    let Command::Grant(grant) = command.as_ref() else {
        panic!("{command:?}")
    };
    assert_eq!(grant.member, name("b"));
    assert_eq!(grant.first_rule, rule(2, 2, 1, &["c"]));
    assert_eq!((grant.sealed.len(), grant.loss.as_ref()), (2, None));
    done(&mut look.state, *command);
}

/// The history says since when, and what is at risk; once, and not of a failover that is under way.
#[test]
fn that_a_promotion_waits_for_members_is_told_once_it_has_lasted_a_lease() {
    let mut look = Look::new();
    revoke(&mut look.state);
    look.silent("a").silent("c");
    look.sealed("b", 200);
    look.ended_age = Duration::from_millis(2999);
    assert_eq!(look.verdict().1, "missing-members");
    look.ended_age = Duration::from_secs(3);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "tells-missing");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    done(&mut look.state, (*command).clone());
    let told = look.state.history.last().expect("a line");
    assert_eq!(told.what, "members-missing");
    assert!(
        told.reason
            .contains("a, c; at risk: writes acknowledged behind 0/C8")
    );
    assert_eq!(look.verdict().1, "missing-members", "told once");
    // One that was not told of is news; one that comes and goes is not.
    let told = look.state.missing_told.clone().expect("told");
    let only = |member: &str| MissingTold {
        members: [name(member)].into(),
        ..told.clone()
    };
    look.state.missing_told = Some(only("a"));
    let (verdict, code) = look.verdict();
    assert_eq!(code, "tells-missing");
    let Verdict::Propose(again, _) = verdict else {
        panic!("{verdict:?}")
    };
    done(&mut look.state, *again);
    assert_eq!(look.state.missing_told.as_ref(), Some(&told));
    let again = Command::TellMissing(Box::new(only("c")), String::new());
    done(&mut look.state, again);
    assert_eq!(look.state.missing_told.as_ref(), Some(&told), "all of them");
    // Somebody is back, and it is not enough.
    look.reports.get_mut(&name("c")).expect("a member").age = Duration::ZERO;
    look.sealed("c", 190);
    let (verdict, _) = look.verdict();
    let Verdict::Propose(grant, _) = verdict else {
        panic!("{verdict:?}")
    };
    done(&mut look.state, *grant);
    assert_eq!(look.state.missing_told, None, "over");
    let late = cluster_core::change::Stamp {
        version: 1,
        at_unix_ms: 0,
        command: *command,
    };
    assert!(cluster_core::change::apply(&mut look.state, 99, &late).is_err());
}

#[test]
fn a_lagging_candidate_is_fast_forwarded_from_the_best() {
    let mut look = Look::new();
    revoke(&mut look.state);
    look.silent("a");
    let never = Tags {
        nofailover: true,
        ..Tags::default()
    };
    look.tag("b", never);
    look.sealed("b", 200);
    look.sealed("c", 190);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "fast-forward");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    done(&mut look.state, *command);
    assert!(matches!(look.verdict(), (Verdict::Wait(_), "fast-forward")));
    look.sealed("c", 200);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "chosen");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    done(&mut look.state, *command);
    assert_eq!(
        look.state.reign.as_ref().map(|it| it.holder.clone()),
        Some(name("c"))
    );
}

#[test]
fn a_primary_that_comes_back_alone_keeps_k_and_lets_nobody_in_before_it_is_confirmed() {
    let mut look = Look::new();
    revoke(&mut look.state);
    look.silent("b").silent("c");
    look.sealed("a", 230);
    let (verdict, code) = look.verdict();
    assert_eq!(code, "restart-in-place");
    let Verdict::Propose(command, _) = verdict else {
        panic!("{verdict:?}")
    };
    let Command::Grant(grant) = command.as_ref() else {
        panic!("{command:?}")
    };
    assert_eq!(grant.first_rule, rule(2, 2, 1, &[]));
    done(&mut look.state, *command);
    let fork = Command::Promoted {
        epoch: Epoch(2),
        member: name("a"),
        fork: Lsn(230),
    };
    done(&mut look.state, fork);
    let mut serving = primary(Vec::new());
    (serving.timeline, serving.flushed) = (TimelineId(3), Lsn(250));
    look.report("a").postgres = PostgresStatus::Primary(serving);
    let sync = look.sync();
    sync.epoch = Epoch(2);
    sync.given = RuleId(2);
    sync.standbys.clear();
    // Nobody is heard: nobody confirms, by the protocol.
    look.proposes(&rule(3, 2, 0, &[]), "degrade");
    // Somebody is: it has a moment to attach.
    let seen = look.reports.get_mut(&name("b")).expect("a member");
    seen.age = Duration::ZERO;
    look.grant_age = Some(Duration::from_secs(1));
    assert!(matches!(
        look.verdict(),
        (Verdict::Wait(_), "waiting-for-confirmation")
    ));
    let b = self::seen("b");
    look.sync().standbys.push(b);
    look.proposes(&rule(3, 2, 1, &["b"]), "standby-joins-rule");
}
