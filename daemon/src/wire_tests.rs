//! Round trips: what is decoded is what was encoded.

use cluster_core::model::confirmation::{Proven, StandbySeen, SyncReport};
use cluster_core::model::lease::Preset;
use cluster_core::model::postgres::{Receiver, Standby};
use cluster_core::model::{Lsn, NodeId, PostgresStatus, TimelineId};

use super::*;

fn report(name: &str) -> MemberReport {
    MemberReport {
        member: name.parse().expect("name"),
        node: NodeId(1),
        daemon_start: "boot-1/2".to_owned(),
        version: "0.1.0".to_owned(),
        addresses: Addresses {
            peer: "127.0.0.1:8009".to_owned(),
            http: "127.0.0.1:8008".to_owned(),
            postgres: "127.0.0.1:5432".to_owned(),
        },
        tags: Tags {
            custom: BTreeMap::from([("zone".into(), "a".into())]),
            ..Tags::default()
        },
        incarnation: Some(Incarnation(0xdead_beef)),
        system_identifier: Some(7),
        server_version: Some(150_020),
        postgres: PostgresStatus::Standby(Standby {
            timeline: TimelineId(3),
            received: Some(Lsn(0x16_B374_D848)),
            replayed: Lsn(0x16_B374_D000),
            replay_delay_ms: Some(12),
            replayed_at_unix_ms: Some(1_795_304_110_000),
            replay_paused: false,
            replay_is_held: false,
            has_too_little: false,
            is_out_of_wal: false,
            has_frozen_receiver: false,
            unattached_for_ms: None,
            receiver: Some(Receiver {
                pid: 42,
                is_streaming: true,
                timeline: TimelineId(3),
                flushed: Lsn(0x16_B374_D848),
                latest_end: Lsn(0x16_B374_D900),
            }),
            at_end_of_wal: false,
            follows: None,
            started_unix_ms: 1_795_304_000_000,
        }),
        min_epoch: Epoch(4),
        used: Epoch(2),
        seal: None,
        set_is_empty: false,
        lease_left_ms: Some(2500),
        applied_index: 99,
        not_promotable: vec!["nofailover".to_owned()],
        health: Health::default(),
        busy: None,
        hears: vec!["b".parse().expect("name")],
        drained: None,
        done_request: None,
        sync: None,
        checkpointed: Epoch(1),
        verdict: "follow a".to_owned(),
    }
}

#[test]
fn a_report_is_read_back_as_it_was_written() {
    let before = MemberReport {
        sync: Some(SyncReport {
            epoch: Epoch(4),
            started_unix_ms: 1_795_304_000_000,
            given: RuleId(9),
            proven: Some(Proven {
                rule: RuleId(8),
                x: Lsn(0x16_B374_D848),
            }),
            unusable: Some(RuleId(9)),
            standbys: vec![StandbySeen {
                member: "b".parse().expect("name"),
                incarnation: Incarnation(0xc0ffee),
                is_connected: true,
                proven_for_ms: Some(31_000),
                late_for_ms: Some(400),
                has_failed: true,
            }],
        }),
        ..report("a")
    };
    assert_eq!(
        decode_report(Some(&encode_report(&before))).expect("decoded"),
        before
    );
}

#[test]
fn a_report_of_a_later_release_with_more_fields_is_still_read() {
    let mut encoded = encode_report(&report("a"));
    let mut value: serde_json::Value = serde_json::from_slice(&encoded.body).expect("json");
    value["something_new"] = serde_json::json!(1);
    encoded.body = serde_json::to_vec(&value).expect("json");
    assert_eq!(decode_report(Some(&encoded)).expect("decoded"), report("a"));
    encoded.version = 2;
    let error = decode_report(Some(&encoded))
        .expect_err("refused")
        .to_string();
    assert!(
        error.contains("version 2") && error.contains("upgrade"),
        "{error}"
    );
}

#[test]
fn the_merged_view_is_read_back_as_it_was_written() {
    let seen = |name: &str, age| Seen {
        report: report(name),
        age: Duration::from_millis(age),
    };
    let before = MergedView {
        applied_index: 77,
        asked_to_lead: Some("n2".parse().expect("name")),
        leader: "b".parse().expect("name"),
        term: 9,
        reports: [seen("a", 10), seen("b", 250)]
            .into_iter()
            .map(|seen| (seen.report.member.clone(), seen))
            .collect(),
        verdicts: vec![AgedVerdict {
            rule: "failover".to_owned(),
            code: "primary-healthy".to_owned(),
            text: "the primary renews its lease".to_owned(),
            age: Duration::from_secs(5),
        }],
        last_failover: Some(Duration::from_millis(2_345)),
        failovers: BTreeMap::from([("primary-silent".to_owned(), 2)]),
    };
    assert_eq!(decode_view(encode_view(&before)).expect("decoded"), before);
}

#[test]
fn every_kind_of_request_is_read_back_as_it_was_written() {
    let name = |text: &str| text.parse::<MemberName>().expect("name");
    for kind in [
        RequestKind::Switchover { to: None },
        RequestKind::Switchover {
            to: Some(name("b")),
        },
        RequestKind::Failover { to: name("b") },
        RequestKind::Restart { member: name("a") },
        RequestKind::Reload { member: name("a") },
        RequestKind::Reinit { member: name("c") },
    ] {
        assert_eq!(
            decode_kind(Some(encode_kind(&kind))).expect("decoded"),
            kind
        );
        let (version, body) = encode_command(&Command::Ask {
            id: cluster_core::model::RequestId("r1".to_owned()),
            kind: kind.clone(),
            by: "tester".to_owned(),
        });
        assert!(
            matches!(decode_command(version, &body), Ok(Command::Ask { kind: k, .. }) if k == kind)
        );
    }
    assert!(decode_kind(None).is_err());
    let failover = v1::request_kind::Kind::Failover(v1::Failover {
        to: "No Name".to_owned(),
    });
    assert!(
        decode_kind(Some(v1::RequestKind {
            kind: Some(failover)
        }))
        .is_err()
    );
}

#[test]
fn a_renewal_answer_counts_for_its_own_attempt_only() {
    for answer in [
        RenewAnswer::Confirmed {
            lease: Duration::from_millis(3000),
            newest_rule: RuleId(7),
        },
        RenewAnswer::Refused {
            code: "revoked".to_owned(),
            newer_epoch: Some(Epoch(8)),
            leader: Some("c".parse().expect("name")),
        },
    ] {
        let reply = encode_renewal("boot/1/17".to_owned(), &answer);
        assert_eq!(
            decode_renewal_answer("boot/1/17", reply.clone()).expect("same"),
            answer
        );
        assert!(decode_renewal_answer("boot/1/18", reply).is_err());
    }
}

#[test]
fn a_command_of_another_version_is_refused() {
    let (version, body) = encode_command(&Command::SettleLease);
    assert!(decode_command(version, &body).is_ok());
    assert!(matches!(
        decode_command(version + 1, &body),
        Err(Error::Version { .. })
    ));
}

#[test]
fn settings_are_read_back_as_they_were_written() {
    let name = |text: &str| text.parse::<MemberName>().expect("name");
    let map = |key: &str, value: &str| BTreeMap::from([(key.to_owned(), value.to_owned())]);
    let own = MemberSettings {
        nofailover: Some(true),
        failover_priority: Some(2),
        noloadbalance: Some(false),
        clonefrom: Some(true),
        nosync: Some(false),
        sync_priority: Some(3),
        parameters: map("shared_buffers", "1GB"),
    };
    let before = Settings {
        preset: Preset::Wan,
        mode: Mode::Strict,
        k: 3,
        k_min: 2,
        zones: BTreeMap::from([(name("a"), "east".to_owned())]),
        members: BTreeMap::from([(name("b"), own)]),
        maximum_lag_on_failover_bytes: 5,
        seal_patience_ms: 6,
        probe_limit_ms: 7,
        keep_standby_sessions: true,
        backup_schedule: "daily 02:00".parse().expect("a schedule"),
        recovery: RecoverySettings {
            verify_schedule: "0 3 * * sun".parse().expect("a schedule"),
            keep_at_least: 3,
            rpo_ms: Some(90_000),
            ..RecoverySettings::default()
        },
        parameters: map("work_mem", "8MB"),
        primary_parameters: map("checkpoint_timeout", "15min"),
        standby_parameters: map("hot_standby_feedback", "on"),
    };
    let (version, tried) = encode_tried(&before);
    assert_eq!(decode_tried(version, &tried).expect("decoded"), before);
    assert!(decode_tried(version + 1, &tried).is_err());
    assert!(decode_tried(version, br#"{"mood": "good"}"#).is_err());
    let encoded = encode_settings(&before);
    assert_eq!(decode_settings(encoded.clone()).expect("decoded"), before);
    let strange = v1::Settings {
        mode: "quorum".to_owned(),
        ..encoded
    };
    assert!(decode_settings(strange).is_err());
}

#[test]
fn no_tag_is_lost_on_the_way() {
    let sent = tags(&Tags {
        nofailover: true,
        failover_priority: Some(2),
        noloadbalance: true,
        clonefrom: true,
        nosync: true,
        sync_priority: Some(7),
        custom: BTreeMap::from([("zone".into(), "a".into())]),
    });
    assert!(sent.nofailover && sent.noloadbalance && sent.clonefrom && sent.nosync);
    assert_eq!(
        (sent.failover_priority, sent.sync_priority),
        (Some(2), Some(7))
    );
    assert_eq!(sent.custom.len(), 1);
}
