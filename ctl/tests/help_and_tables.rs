//! Golden output: every help text, and every table from fixed data. What an operator sees changes only
//! when somebody wants it to: `UPDATE_GOLDEN=1 cargo test -p clusterctl` rewrites the files.

use std::path::Path;

use clap::CommandFactory as _;
use cluster_proto::v1;
use clusterctl::args::{Arguments, Change, Diff, Format, SetSettings, Wait};
use clusterctl::commands::settings::{edit, revisions};
use clusterctl::commands::{
    dr, explain, history, list, members, overview, planned as scheduled, requests, settings,
    snapshot, status, wait,
};
use clusterctl::output::{Paint, Report};
use clusterctl::view::{SettingsView, StatusView};

/// 2026-11-22 00:00:00 UTC.
const NOW: u64 = 1_795_305_600_000;

fn assert_golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).expect("golden file is written");
        return;
    }
    let expected = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{name}: {error}; UPDATE_GOLDEN=1 makes it"));
    assert!(
        expected == text,
        "{name} differs; UPDATE_GOLDEN=1 accepts it\n--- expected\n{expected}\n--- now\n{text}"
    );
}

fn in_every_format(report: &Report) -> String {
    [Format::Table, Format::Json, Format::Yaml, Format::Tsv]
        .map(|format| {
            let text = report.text(format).expect("can be written");
            format!("==== {format:?}\n{text}")
        })
        .concat()
}

fn standby(name: &str, node_id: u64, host: &str, lag: u64) -> v1::MemberStatus {
    v1::MemberStatus {
        name: name.to_owned(),
        node_id,
        role: v1::Role::Standby.into(),
        state: "streaming".to_owned(),
        addresses: Some(v1::Addresses {
            peer: format!("{host}:8009"),
            http: format!("{host}:8008"),
            postgres: format!("{host}:5432"),
        }),
        timeline: Some(7),
        receive_lsn: Some(0x3_0000_1000),
        replay_lsn: Some(0x3_0000_1000 - lag),
        receive_lag_bytes: Some(0),
        replay_lag_bytes: Some(lag),
        report_age_ms: Some(120),
        version: "0.1.0".to_owned(),
        server_version: Some(150_014),
        incarnation: "00c0ffee".to_owned(),
        is_voter: true,
        follows_epoch: Some(4),
        verdict: "following n1".to_owned(),
        ..Default::default()
    }
}

fn calm() -> v1::Status {
    let primary = v1::MemberStatus {
        role: v1::Role::Primary.into(),
        state: "running".to_owned(),
        receive_lag_bytes: None,
        replay_lag_bytes: None,
        replay_lsn: None,
        follows_epoch: None,
        archive: Some(v1::Archive {
            newest: Some("000000070000000200000010".to_owned()),
            recoverable_unix_ms: Some(NOW - 12_000),
            waiting: 1,
            failure: String::new(),
            failing_since_unix_ms: None,
        }),
        ..standby("n1", 1, "10.0.0.1", 0)
    };
    let witness = v1::MemberStatus {
        name: "w".to_owned(),
        node_id: 4,
        role: v1::Role::Witness.into(),
        addresses: Some(v1::Addresses {
            peer: "10.0.0.4:8009".to_owned(),
            http: "10.0.0.4:8008".to_owned(),
            postgres: String::new(),
        }),
        report_age_ms: Some(80),
        version: "0.1.0".to_owned(),
        is_voter: true,
        ..Default::default()
    };
    v1::Status {
        cluster: "main".to_owned(),
        cluster_id: "5e1f".to_owned(),
        generation: 1,
        system_identifier: 7_277_694_203_142_172_922,
        answered_by: "n2".to_owned(),
        epoch: 4,
        reign: Some(v1::Reign {
            epoch: 4,
            holder: "n1".to_owned(),
            phase: "granted".to_owned(),
            timeline: 7,
            start_lsn: 0x2_FFFF_0000,
            fork_lsn: Some(0x2_FFFF_0000),
            is_activated: true,
            reason: "primary-silent".to_owned(),
            ended_because: None,
        }),
        primary: "n1".to_owned(),
        members: vec![
            primary,
            v1::MemberStatus {
                is_raft_leader: true,
                ..standby("n2", 2, "10.0.0.2", 0)
            },
            standby("n3", 3, "10.0.0.3", 5 << 20),
            witness,
        ],
        lease_left_ms: Some(2_760),
        lease_ms: 3_000,
        preset: "lan".to_owned(),
        mode: "async".to_owned(),
        verdicts: vec![v1::VerdictLine {
            rule: "failover".to_owned(),
            code: "primary-healthy".to_owned(),
            text: "the primary renews its lease".to_owned(),
            age_ms: 3_600_000,
        }],
        term: 12,
        raft_leader: "n2".to_owned(),
        voters_up: 4,
        voters_total: 4,
        failure_tolerance: "one voter may be lost; with two lost, writes stop".to_owned(),
        not_granted: vec!["real-time priority: Operation not permitted".to_owned()],
        candidates: vec![
            v1::Candidate {
                member: "n2".to_owned(),
                is_eligible: true,
                reasons: vec![],
            },
            v1::Candidate {
                member: "n3".to_owned(),
                is_eligible: false,
                reasons: vec!["5 MB behind, more than maximum_lag_on_failover (1 MB)".to_owned()],
            },
        ],
        applied_index: 99,
        maximum_lag_on_failover_bytes: 1 << 20,
        last_failover_ms: Some(3_100),
        fence_in_ms: Some(2_360),
        confirming: Some(v1::Confirming {
            in_force: Some(rule(9, 0, &[])),
            survivable_standbys: Some(1),
            survivable_standbys_text: "1 standby may be lost and writes go on".to_owned(),
            survivable_with_primary_text: "a failover may lose acknowledged writes (mode async)"
                .to_owned(),
            ..Default::default()
        }),
        rules: vec![rule(9, 0, &[])],
        ..Default::default()
    }
}

fn rule(id: u64, k: u32, members: &[&str]) -> v1::Rule {
    v1::Rule {
        id,
        epoch: 4,
        k,
        members: members.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// Mode sync; n2 confirms, n3 is about to join and says why it does not yet.
fn in_sync() -> v1::Status {
    let mut status = calm();
    status.mode = "sync".to_owned();
    status.rules = vec![rule(9, 1, &["n2"]), rule(10, 1, &["n2", "n3"])];
    status.members[0].commit_overrides =
        vec!["role report sets synchronous_commit to off".to_owned()];
    status.members[0].cancelled_waits = 2;
    status.members[1].role = v1::Role::SyncStandby.into();
    status.members[1].confirms = true;
    status.members[1].receive_delay_ms = Some(0);
    let joining = &mut status.members[2];
    joining.receive_lag_bytes = Some(3 << 20);
    joining.receive_delay_ms = Some(420);
    joining.replay_delay_ms = Some(1_300);
    joining.why_not_confirming = "rule 10 names it, proposed and not activated yet".to_owned();
    status.confirming = Some(v1::Confirming {
        wanted_k: 1,
        in_force: Some(rule(9, 1, &["n2"])),
        is_proven: true,
        proposed: Some(10),
        members: vec!["n2".to_owned()],
        survivable_standbys: Some(0),
        survivable_with_primary: Some(0),
        survivable_standbys_text: "no standby may be lost, or writes wait".to_owned(),
        survivable_with_primary_text:
            "the primary may be lost, no standby with it, without losing an acknowledged write"
                .to_owned(),
        ..Default::default()
    });
    status
}

/// Mode sync, and the primary is gone with a standby: nobody may be promoted.
fn two_lost() -> v1::Status {
    let mut status = in_sync();
    status.primary = String::new();
    status.lease_left_ms = None;
    status.fence_in_ms = None;
    status.rules = vec![rule(10, 1, &["n2", "n3"])];
    if let Some(reign) = &mut status.reign {
        reign.phase = "revoked".to_owned();
        reign.ended_because = Some("primary-silent".to_owned());
    }
    for lost in [0, 1] {
        status.members[lost].state = "unknown".to_owned();
        status.members[lost].report_age_ms = Some(8_400);
        status.members[lost].confirms = false;
    }
    for member in &mut status.members[..3] {
        member.why_not_confirming = "there is no primary".to_owned();
    }
    status.confirming = Some(v1::Confirming {
        wanted_k: 1,
        ..Default::default()
    });
    let missing = |member: &str, silent_ms| v1::blocked::Missing {
        member: member.to_owned(),
        silent_ms,
    };
    status.blocked = Some(v1::Blocked {
        missing: vec![missing("n1", Some(8_400)), missing("n2", None)],
        at_risk: "writes acknowledged behind 3/1000 of epoch 4, which only n1, n2 may have"
            .to_owned(),
        to: "n3".to_owned(),
        command: "clusterctl failover --to n3 --reason \"…\"".to_owned(),
    });
    status
}

/// The primary is gone, a switchover failed before, it is paused, a standby is being cloned.
fn bad_night() -> v1::Status {
    let mut status = calm();
    status.primary = String::new();
    status.lease_left_ms = None;
    status.fence_in_ms = None;
    status.confirming = None;
    status.voters_up = 3;
    status.failure_tolerance = "one more voter lost and writes stop".to_owned();
    status.pause = Some(v1::PauseStatus {
        by: "root@db2: patching".to_owned(),
        at_unix_ms: NOW - 60_000,
    });
    if let Some(reign) = &mut status.reign {
        reign.phase = "revoked".to_owned();
        reign.ended_because = Some("primary-silent".to_owned());
    }
    let lost = &mut status.members[0];
    lost.role = v1::Role::Standby.into();
    lost.state = "unknown".to_owned();
    lost.report_age_ms = Some(8_400);
    lost.receive_lsn = None;
    lost.probes = vec![v1::Probe {
        what: "wal".to_owned(),
        last_ok_age_ms: 9_000,
        took_ms: 4,
        is_stuck: true,
        has_failed: false,
    }];
    let cloning = &mut status.members[2];
    cloning.state = "creating replica".to_owned();
    cloning.busy = Some(v1::Busy {
        with: "clone".to_owned(),
        for_ms: 61_000,
        done_bytes: Some(3 << 29),
        total_bytes: Some(4 << 30),
    });
    cloning.pending_restart = true;
    cloning.tags = Some(v1::Tags {
        nofailover: true,
        failover_priority: Some(1),
        custom: [("zone".to_owned(), "b".to_owned())].into(),
        ..Default::default()
    });
    let ask = |id: &str, step: v1::RequestStep, text: &str| v1::Request {
        id: id.to_owned(),
        kind: Some(v1::RequestKind {
            kind: Some(v1::request_kind::Kind::Switchover(v1::Switchover {
                to: "n2".to_owned(),
            })),
        }),
        by: "root@db2".to_owned(),
        at_unix_ms: NOW - 30_000,
        step: step.into(),
        to: "n2".to_owned(),
        text: text.to_owned(),
    };
    status.requests = vec![
        ask("00000000000000aa", v1::RequestStep::Moving, ""),
        ask(
            "00000000000000ab",
            v1::RequestStep::Failed,
            "n2 did not catch up in 300 ms",
        ),
    ];
    status
}

/// A switchover and a restart are to come.
fn planned() -> v1::Status {
    let schedule = |id: &str, text: &str, work| v1::Schedule {
        id: id.to_owned(),
        work: Some(work),
        due_unix_ms: NOW + 7_200_000,
        due: "2026-11-22T03:00:00+01:00".to_owned(),
        by: "root@db2: patching".to_owned(),
        at_unix_ms: NOW,
        text: text.to_owned(),
    };
    let switchover = v1::ScheduledSwitchover {
        from: "n1".to_owned(),
        to: "n2".to_owned(),
    };
    let restart = v1::ScheduledRestart {
        member: "n3".to_owned(),
        older_than: "15.21".to_owned(),
        ..Default::default()
    };
    v1::Status {
        maintenance: vec![v1::Maintenance {
            member: "n3".to_owned(),
            since_unix_ms: NOW,
            until_unix_ms: NOW + 3_600_000,
            by: "root@db2: a new disk".to_owned(),
        }],
        schedules: vec![
            schedule(
                "00000000000000ac",
                "switchover from n1 to n2",
                v1::schedule::Work::Switchover(switchover),
            ),
            schedule(
                "00000000000000ad",
                "restart of n3 if its version is below 15.21",
                v1::schedule::Work::Restart(restart),
            ),
        ],
        ..calm()
    }
}

#[test]
fn what_is_scheduled_is_shown() {
    let status = planned();
    let notes = ["n2 would become primary".to_owned()];
    let mut text = in_every_format(&list::list(&StatusView::from(&status), Paint::plain()));
    let view = StatusView::from(&status);
    let screen = status::render(&view, None, NOW, Paint::plain());
    text.push_str(&screen.text(Format::Table).expect("can be written"));
    for dry_run in [true, false] {
        let report = scheduled::scheduled_report(&status.schedules[0], &notes, dry_run);
        text.push_str(&in_every_format(&report));
    }
    assert_golden("planned.txt", &text);
}

#[test]
fn every_help_text() {
    let mut command = Arguments::command().term_width(100);
    command.build();
    let mut text = String::new();
    collect_help(&mut command, &mut text);
    assert_golden("help.txt", &text);
}

#[test]
fn the_documentation_has_every_exit_code_and_command() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clusterctl.md");
    let text = std::fs::read_to_string(path).expect("docs/clusterctl.md");
    for line in clusterctl::exit::CODES.lines().skip(1) {
        let (code, meaning) = line.trim().split_once("  ").expect("code and meaning");
        assert!(
            text.contains(&format!("| {code} | {meaning} |")),
            "exit code {code}"
        );
    }
    for command in Arguments::command().get_subcommands() {
        assert!(
            text.contains(&format!("`{}", command.get_name())),
            "{}",
            command.get_name()
        );
    }
}

fn collect_help(command: &mut clap::Command, text: &mut String) {
    text.push_str(&format!(
        "==== {}\n",
        command.get_bin_name().unwrap_or("clusterctl")
    ));
    text.push_str(&command.render_long_help().to_string());
    text.push('\n');
    for sub in command.get_subcommands_mut() {
        if sub.get_name() != "help" {
            collect_help(sub, text);
        }
    }
}

#[test]
fn list_in_every_format() {
    let view = StatusView::from(&calm());
    assert_golden(
        "list.txt",
        &in_every_format(&list::list(&view, Paint::plain())),
    );
}

#[test]
fn status_says_what_keeps_wal_from_the_repository_and_since_when() {
    let mut status = calm();
    let archive = status.members[0].archive.as_mut().expect("it has one");
    archive.waiting = 40;
    archive.failure = "could not store `1/wal/00000007`: no space".to_owned();
    archive.failing_since_unix_ms = Some(NOW - 600_000);
    let text = status::render(&StatusView::from(&status), None, NOW, Paint::plain()).human;
    let line = text.lines().find(|line| line.starts_with("Archive"));
    let line = line.expect("a line on the archive");
    for part in [
        "(12.0 s ago)",
        "FAILS for 10 min, 40 files wait",
        "no space",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
}

#[test]
fn status_says_how_scheduled_backups_stand_and_why_one_failed() {
    let line = |backups: v1::ScheduledBackups| {
        let mut status = calm();
        status.backups = Some(backups);
        let text = status::render(&StatusView::from(&status), None, NOW, Paint::plain()).human;
        let line = text.lines().find(|line| line.starts_with("Backup"));
        line.expect("a line on backups").to_owned()
    };
    let stored = v1::BackupRun {
        due_unix_ms: NOW - 7_200_000,
        attempt: 1,
        member: "n2".to_owned(),
        began_unix_ms: NOW - 7_200_000,
        ended_unix_ms: Some(NOW - 600_000),
        id: "one".to_owned(),
        bytes: 5,
        ..v1::BackupRun::default()
    };
    let open = v1::BackupRun {
        member: "n3".to_owned(),
        began_unix_ms: NOW - 12_000,
        ended_unix_ms: None,
        id: String::new(),
        ..stored.clone()
    };
    let failed = v1::BackupRun {
        attempt: 2,
        ended_unix_ms: Some(NOW - 3_000),
        failure: "no space".to_owned(),
        ..open.clone()
    };
    let with = |newest: &v1::BackupRun| v1::ScheduledBackups {
        schedule: "every 6h".to_owned(),
        next_unix_ms: Some(NOW + 1),
        newest: Some(newest.clone()),
        newest_stored: Some(stored.clone()),
    };
    let fine = line(with(&stored));
    assert!(
        fine.contains("one of 10 min ago by n2, 5 bytes; schedule every 6h, next "),
        "{fine}"
    );
    assert!(
        !fine.contains("FAILED") && !fine.contains("takes one"),
        "{fine}"
    );
    let running = line(with(&open));
    assert!(
        running.ends_with("; n3 takes one since 12.0 s"),
        "{running}"
    );
    let bad = line(with(&failed));
    assert!(
        bad.ends_with("; attempt 2 of n3 FAILED 3.0 s ago: no space"),
        "{bad}"
    );
    let none = line(v1::ScheduledBackups {
        newest_stored: None,
        ..with(&open)
    });
    assert!(
        none.contains("none is stored by the schedule yet"),
        "{none}"
    );
}

#[test]
fn list_on_a_bad_night() {
    let view = StatusView::from(&bad_night());
    assert_golden(
        "list_bad_night.txt",
        &list::list(&view, Paint::plain()).human,
    );
}

#[test]
fn list_before_there_is_a_cluster() {
    let view = StatusView::from(&v1::Status::default());
    assert_golden(
        "list_unformed.txt",
        &list::list(&view, Paint::plain()).human,
    );
}

#[test]
fn overview_says_of_each_member_why_it_is_not_consistent() {
    let of = |status: v1::Status| overview::report(&StatusView::from(&status), Paint::plain());
    let calm = of(calm());
    assert_golden("overview.txt", &in_every_format(&calm));
    assert_eq!(calm.data["is_consistent"], true);
    let others = [bad_night(), two_lost(), v1::Status::default()].map(of);
    assert!(others.iter().all(|it| it.data["is_consistent"] == false));
    let texts = others.map(|it| it.human);
    assert_golden("overview_bad_nights.txt", &texts.join("\n"));
}

/// Each single thing that makes a good member doubtful.
#[test]
fn one_thing_wrong_is_enough_to_be_inconsistent() {
    type Change = fn(&mut v1::MemberStatus);
    let changes: [(&str, Change); 5] = [
        ("last heard", |it| it.report_age_ms = Some(60_000)),
        ("has not been heard", |it| it.report_age_ms = None),
        ("is on timeline", |it| it.timeline = Some(1)),
        ("does not follow", |it| it.follows_epoch = Some(1)),
        ("its PostgreSQL is", |it| it.state = "starting".to_owned()),
    ];
    for (words, change) in changes {
        let mut status = calm();
        let standbys = |it: &&mut v1::MemberStatus| it.role() == v1::Role::Standby;
        change(status.members.iter_mut().find(standbys).expect("a standby"));
        let report = overview::report(&StatusView::from(&status), Paint::plain());
        assert!(report.human.contains(words), "{words}: {}", report.human);
        assert_eq!(report.data["is_consistent"], false, "{words}");
    }
}

fn objective(
    name: &str,
    limit_ms: Option<u64>,
    measured: Option<(u64, u64)>,
    of: &str,
    verdict: &str,
) -> v1::Objective {
    v1::Objective {
        name: name.to_owned(),
        limit_ms,
        measured_ms: measured.map(|it| it.0),
        at_unix_ms: measured.map(|it| it.1),
        of: of.to_owned(),
        verdict: verdict.to_owned(),
        since_unix_ms: None,
    }
}

/// Everything is promised and kept, and every schedule has been followed.
fn proven() -> v1::Status {
    let found = v1::Verification {
        verdict: "SUCCESSFUL".to_owned(),
        level: "start".to_owned(),
        backup: "one".to_owned(),
        bytes: 33_554_432,
        rto_ms: Some(20_000),
        rpo_ms: None,
        host: "host2".to_owned(),
        version: "0.1.0".to_owned(),
        postgres: "18.1".to_owned(),
        by: "schedule".to_owned(),
        problems: Vec::new(),
    };
    let run = v1::BackupRun {
        due_unix_ms: NOW - 7_200_000,
        attempt: 1,
        member: "n2".to_owned(),
        began_unix_ms: NOW - 7_200_000,
        ended_unix_ms: Some(NOW - 600_000),
        ..v1::BackupRun::default()
    };
    let with = |run: v1::BackupRun| v1::ScheduledBackups {
        schedule: "daily 22:00".to_owned(),
        next_unix_ms: Some(NOW + 79_200_000),
        newest: Some(run.clone()),
        newest_stored: Some(run),
    };
    v1::Status {
        backups: Some(with(v1::BackupRun {
            id: "one".to_owned(),
            bytes: 5,
            ..run.clone()
        })),
        verifications: Some(with(v1::BackupRun {
            verification: Some(found),
            ..run.clone()
        })),
        prunings: Some(with(v1::BackupRun {
            pruned: "Deleted 12 objects of database 7.".to_owned(),
            ..run
        })),
        objectives: vec![
            objective(
                "rto-failover",
                Some(600_000),
                None,
                "no primary was lost",
                "not measured",
            ),
            objective(
                "rto-restore",
                Some(600_000),
                Some((20_000, NOW - 600_000)),
                "one restored by n2 until its first answer",
                "ok",
            ),
            objective(
                "rpo-archive",
                None,
                Some((12_000, NOW - 12_000)),
                "the newest commit that is sure to be in the repository",
                "not set",
            ),
            objective(
                "backup-age",
                Some(93_600_000),
                Some((7_200_000, NOW - 7_200_000)),
                "one",
                "ok",
            ),
            objective(
                "verification-age",
                Some(691_200_000),
                Some((600_000, NOW - 600_000)),
                "by n2",
                "ok",
            ),
        ],
        audit: Some(v1::ArchiveAudit {
            member: "n2".to_owned(),
            looked_unix_ms: NOW - 180_000,
            found_unix_ms: Some(NOW - 180_000),
            backups: 1,
            segments: 123,
            first_backup: "one".to_owned(),
            first_unix_ms: Some(NOW - 7_000_000),
            ..v1::ArchiveAudit::default()
        }),
        ..calm()
    }
}

#[test]
fn dr_status_says_what_is_kept_what_is_not_and_since_when() {
    let of = |status: &v1::Status| dr::report(&StatusView::from(status), NOW, Paint::plain());
    let good = of(&proven());
    assert_golden("dr_status.txt", &in_every_format(&good));
    assert_eq!(good.data["is_kept"], true);

    let mut bad = proven();
    let late = &mut bad.objectives[3];
    late.measured_ms = Some(97_200_000);
    late.at_unix_ms = Some(NOW - 97_200_000);
    late.since_unix_ms = Some(NOW - 3_600_000);
    late.verdict = "breached".to_owned();
    let never = "no scheduled verification was successful";
    bad.objectives[4] = objective(
        "verification-age",
        Some(691_200_000),
        None,
        never,
        "breached",
    );
    let runs = bad.verifications.as_mut().expect("it has some");
    runs.newest_stored = None;
    let run = runs.newest.as_mut().expect("one");
    let found = run.verification.as_mut().expect("what it found");
    found.verdict = "FAILED".to_owned();
    found.problems = vec!["`base.tar.zst` is damaged".to_owned()];
    run.failure = "FAILED: `base.tar.zst` is damaged".to_owned();
    let audit = bad.audit.as_mut().expect("one");
    audit.missing = 12;
    audit.missing_names = vec!["00000001000000000000000A".to_owned()];
    audit.failure = "the store is away".to_owned();
    let judged = of(&bad);
    assert_golden("dr_status_bad.txt", &judged.human);
    assert_eq!(judged.data["is_kept"], false);
    let shown = status::render(&StatusView::from(&bad), None, NOW, Paint::plain()).human;
    for part in [
        "NOT kept: backup-age since 2026-11-21 23:00:00 UTC (1 h); NOT kept: verification-age",
        "FAILED 10 min ago: FAILED: `base.tar.zst` is damaged",
        "Deleted 12 objects",
    ] {
        assert!(judged.human.contains(part), "{part}: {}", judged.human);
        assert!(shown.contains(part), "{part}: {shown}");
    }

    let nothing = of(&calm());
    assert!(
        nothing.human.contains("Nothing is promised"),
        "{}",
        nothing.human
    );
}

fn snapshots() -> v1::ListSnapshotsReply {
    let member = |name: &str, status: &str, why: &str| v1::SnapshotMember {
        name: name.to_owned(),
        status: status.to_owned(),
        why: why.to_owned(),
    };
    let whole = v1::Snapshot {
        id: "3f2c9a44-7d0e-4b1c-9a77-0c5f6e1d2b3a".to_owned(),
        status: "completed".to_owned(),
        by: "root@db1".to_owned(),
        at_unix_ms: NOW,
        taker: "n2".to_owned(),
        taker_peer: "db2:8009".to_owned(),
        taker_http: "db2:8008".to_owned(),
        epoch: 7,
        recipients: vec!["age1reader".to_owned()],
        members: vec![
            member("n1", "completed", ""),
            member("n2", "completed", ""),
            member(
                "n3",
                "missing",
                "it was not heard while the snapshot was taken",
            ),
        ],
        file: Some(v1::SnapshotFile {
            bytes: 31_872_512,
            sha256: "ab".repeat(32),
            timeline: 7,
            start: "0/3000028".to_owned(),
            end: "0/3000100".to_owned(),
            major: 15,
        }),
        ..v1::Snapshot::default()
    };
    let why = "clusterd of n3 ended while it took it";
    let failed = v1::Snapshot {
        id: "11111111-7d0e-4b1c-9a77-0c5f6e1d2b3a".to_owned(),
        status: "failed".to_owned(),
        why: why.to_owned(),
        at_unix_ms: NOW - 60_000,
        taker: "n3".to_owned(),
        epoch: 7,
        members: vec![member("n3", "failed", why)],
        ..v1::Snapshot::default()
    };
    v1::ListSnapshotsReply {
        snapshots: vec![whole, failed],
        origin: Some(v1::SnapshotOrigin {
            snapshot: "22222222-7d0e-4b1c-9a77-0c5f6e1d2b3a".to_owned(),
            cluster_id: "c0ffee".to_owned(),
            generation: 1,
            epoch: 4,
            timeline: 5,
            end: "0/2000100".to_owned(),
        }),
    }
}

#[test]
fn snapshots_in_every_format() {
    let reply = snapshots();
    let list = snapshot::list(&reply, Paint::plain());
    assert_golden("snapshot_list.txt", &in_every_format(&list));
    let texts = reply.snapshots.iter().map(|it| {
        let status = snapshot::status(it, Paint::plain());
        in_every_format(&status)
    });
    assert_golden("snapshot_status.txt", &texts.collect::<String>());
}

#[test]
fn topology_is_a_tree() {
    let view = StatusView::from(&calm());
    assert_golden("topology.txt", &list::topology(&view, Paint::plain()).human);
}

#[test]
fn members_in_every_format() {
    let view = StatusView::from(&calm());
    assert_golden("members.txt", &members::list(&view, Paint::plain()).human);
}

#[test]
fn status_in_every_format() {
    let view = StatusView::from(&calm());
    let report = status::render(&view, Some(NOW - 11_100_000), NOW, Paint::plain());
    assert_golden("status.txt", &in_every_format(&report));
}

#[test]
fn status_on_a_bad_night() {
    let view = StatusView::from(&bad_night());
    let report = status::render(&view, None, NOW, Paint::plain());
    assert_golden("status_bad_night.txt", &report.human);
}

#[test]
fn status_in_mode_sync_says_who_confirms_and_why_the_others_do_not() {
    let view = StatusView::from(&in_sync());
    let report = status::render(&view, None, NOW, Paint::plain());
    assert_golden("status_sync.txt", &report.human);
    let mut waits = in_sync();
    waits.members[1].confirms = false;
    waits.members[1].why_not_confirming = "has confirmed nothing for 1.2 s".to_owned();
    if let Some(found) = &mut waits.confirming {
        found.members.clear();
        found.writes_wait = true;
    }
    let text = status::render(&StatusView::from(&waits), None, NOW, Paint::plain()).human;
    assert!(text.contains("nobody confirms: WRITES WAIT"), "{text}");
    assert!(
        text.contains("does not confirm: has confirmed nothing for 1.2 s"),
        "{text}"
    );
}

#[test]
fn status_says_what_is_missing_and_how_to_go_on_when_nobody_may_be_promoted() {
    let view = StatusView::from(&two_lost());
    let report = status::render(&view, None, NOW, Paint::plain());
    assert_golden("status_two_lost.txt", &report.human);
}

#[test]
fn settings_in_every_format() {
    let own = v1::MemberSettings {
        nosync: Some(true),
        parameters: [("work_mem".to_owned(), "16MB".to_owned())].into(),
        ..v1::MemberSettings::default()
    };
    let row = |key: &str, value: &str| v1::SettingsRow {
        key: key.to_owned(),
        value: value.to_owned(),
    };
    let priority = |member: &str, priority, is_set| v1::SyncPriority {
        member: member.to_owned(),
        priority,
        is_set,
    };
    let reply = v1::SettingsReply {
        settings: Some(v1::Settings {
            preset: "lan".to_owned(),
            mode: "sync".to_owned(),
            k: 2,
            k_min: 1,
            zones: [("n1".to_owned(), "east".to_owned())].into(),
            members: [("n3".to_owned(), own)].into(),
            maximum_lag_on_failover_bytes: 1 << 20,
            seal_patience_ms: 1000,
            probe_limit_ms: 5000,
            keep_standby_sessions: false,
            parameters: [("work_mem".to_owned(), "8MB".to_owned())].into(),
            ..v1::Settings::default()
        }),
        revision: 42,
        rows: vec![
            row("mode", "sync"),
            row("k", "2"),
            row("zones.n1", "east"),
            row("members.n3.nosync", "true"),
            row("parameters.work_mem", "8MB"),
            row("members.n3.parameters.work_mem", "16MB"),
        ],
        revisions: vec![
            v1::SettingsRevision {
                revision: 0,
                by: "as the cluster was formed".to_owned(),
                rows: vec![row("mode", "sync"), row("k", "1"), row("probe_limit", "5s")],
                ..v1::SettingsRevision::default()
            },
            v1::SettingsRevision {
                revision: 42,
                at_unix_ms: 1_790_000_000_000,
                by: "root@db1: more memory".to_owned(),
                changes: vec!["k 1 -> 2".to_owned()],
                rows: vec![row("mode", "sync"), row("k", "2")],
            },
        ],
        priorities: vec![
            priority("n1", 1, false),
            priority("n2", 3, false),
            priority("n3", 0, true),
        ],
    };
    let report = settings::render(&SettingsView::from(&reply), Paint::plain());
    assert_golden("settings.txt", &in_every_format(&report));
    let history = revisions::history(&reply, Paint::plain());
    let against = |from, to| revisions::diff(&reply, &Diff { from, to });
    let diff = against(0, Some(42)).expect("both are kept");
    let same = against(42, Some(42)).expect("it is kept");
    let all = [history, diff, same].map(|it| in_every_format(&it));
    assert_golden("settings_revisions.txt", &all.concat());
    let stop = against(7, None).expect_err("not kept");
    assert_eq!(stop.text, "revision 7 is not kept (0, 42)");
    let text = edit::text(&reply);
    let read = edit::assignments(&text).expect("what is shown is read");
    let of_member: Vec<&str> = read
        .iter()
        .filter(|it| it.member == "n3")
        .map(|it| it.key.as_str())
        .collect();
    assert_eq!(of_member, ["nosync", "parameters.work_mem"]);
    assert_eq!(read.len(), reply.rows.len());
    let problems = edit::assignments("mode = sync\nnonsense\n").expect_err("line 2");
    assert_eq!(problems, ["line 2: `nonsense` is not KEY = VALUE"]);
    let done = v1::ChangeSettingsReply {
        changes: vec!["mode sync -> async".to_owned()],
        lowers: vec!["mode async: commits are confirmed by nobody".to_owned()],
        notes: vec!["the rules follow one by one".to_owned()],
        settings: None,
        revision: 0,
    };
    let text = [true, false].map(|dry| in_every_format(&settings::changed(&done, dry)));
    assert_golden("settings_set.txt", &text.concat());
}

#[test]
fn assignments_are_keys_and_values_and_everything_else_is_told_at_once() {
    let set = |assignments: &[&str]| SetSettings {
        assignments: assignments.iter().map(|&text| text.to_owned()).collect(),
        member: Some("n2".to_owned()),
        expected_revision: None,
        change: Change {
            dry_run: false,
            reason: None,
        },
    };
    let good = settings::assignments(&set(&["sync_priority=3", "nosync="])).expect("good");
    let shown: Vec<_> = good
        .iter()
        .map(|one| (one.key.as_str(), one.value.as_str(), one.member.as_str()))
        .collect();
    assert_eq!(shown, [("sync_priority", "3", "n2"), ("nosync", "", "n2")]);
    let stop = settings::assignments(&set(&["mode", "=sync", "k=1"])).expect_err("refused");
    assert_eq!(stop.kind, clusterctl::exit::Kind::Usage);
    assert_eq!(
        stop.text,
        "`mode` is not KEY=VALUE; `=sync` is not KEY=VALUE"
    );
}

#[test]
fn history_in_every_format() {
    let line = |index, what: &str, reason: &str| v1::HistoryEntry {
        index,
        at_unix_ms: NOW + index * 1000,
        epoch: 4,
        what: what.to_owned(),
        member: "n1".to_owned(),
        timeline: Some(7),
        lsn: Some(0x2_FFFF_0000),
        reason: reason.to_owned(),
    };
    let entries = vec![
        line(1, "granted", "primary-silent"),
        line(2, "promoted", ""),
    ];
    let report = history::render(&v1::History { entries }, Paint::plain());
    assert_golden("history.txt", &in_every_format(&report));
}

#[test]
fn explain_in_every_format() {
    let line = |code: &str, text: &str| v1::explanation::Line {
        code: code.into(),
        text: text.into(),
    };
    let lines = vec![
        line("revoke", "n2 would revoke epoch 4 after 2.2 s"),
        line("grant", "n2 would be promoted in epoch 5"),
    ];
    let report = explain::render(
        "If the primary died now:",
        &v1::Explanation { lines },
        Paint::plain(),
    );
    assert_golden("explain.txt", &in_every_format(&report));
}

#[test]
fn a_failover_says_what_is_at_risk() {
    let view = StatusView::from(&bad_night());
    let text = requests::at_risk(&view, "n2");
    assert!(
        text.contains("received everything") && text.contains("8.4 s ago"),
        "{text}"
    );
    assert!(requests::at_risk(&view, "n9").contains("no member n9"));
}

#[test]
fn wait_knows_what_is_missing() {
    let healthy = Wait {
        healthy: true,
        primary: None,
        streaming: false,
        timeout: std::time::Duration::from_secs(1),
    };
    assert_eq!(
        wait::unmet(&StatusView::from(&calm()), &healthy),
        Vec::<String>::new()
    );
    let missing = wait::unmet(&StatusView::from(&bad_night()), &healthy);
    for part in [
        "a primary",
        "n1 streaming",
        "n3 streaming",
        "4 voters",
        "long work on n3",
    ] {
        assert!(
            missing.iter().any(|text| text.contains(part)),
            "{part} in {missing:?}"
        );
    }
    // A standby that still streams in an older epoch is not streaming.
    let mut stale = calm();
    stale.members[1].follows_epoch = Some(3);
    let streaming = Wait {
        healthy: false,
        streaming: true,
        ..healthy.clone()
    };
    assert_eq!(wait::unmet(&StatusView::from(&stale), &streaming).len(), 1);
    let other = Wait {
        healthy: false,
        primary: Some("n2".to_owned()),
        ..healthy
    };
    assert_eq!(
        wait::unmet(&StatusView::from(&calm()), &other),
        ["n2 as primary (it is n1)".to_owned()]
    );
}

#[test]
fn colours_are_only_added_never_needed() {
    let view = StatusView::from(&calm());
    let plain = list::list(&view, Paint::plain()).human;
    assert!(!plain.contains('\u{1b}'));
    assert!(
        !status::render(&view, None, NOW, Paint::plain())
            .human
            .contains('\u{1b}')
    );
}

/// A command's own argument of the same name would be read as the global one, of another type: a crash
/// at every use of the command.
#[test]
fn no_command_has_an_argument_named_like_a_global_one() {
    fn walk(command: &clap::Command, taken: &[String], found: &mut Vec<String>) {
        for below in command.get_subcommands() {
            let own = below.get_arguments().map(|it| it.get_id().to_string());
            found.extend(
                own.filter(|id| taken.contains(id))
                    .map(|id| format!("{} --{id}", below.get_name())),
            );
            walk(below, taken, found);
        }
    }
    let all = Arguments::command();
    let global = all.get_arguments().filter(|it| it.is_global_set());
    let global: Vec<String> = global.map(|it| it.get_id().to_string()).collect();
    assert!(global.contains(&"output".to_owned()), "{global:?}");
    let mut found = Vec::new();
    walk(&all, &global, &mut found);
    assert_eq!(found, Vec::<String>::new());
}
