//! The plan on stocks made by hand, and on the random lives of a cluster.

use cluster_core::model::Epoch;
use cluster_core::model::timeline::HistoryLine;

use super::*;

const MIB: u64 = 1 << 20;
const HOUR: i64 = 3_600_000;

/// Numbers that are the same for the same seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }
}

/// A commit that was made: when, on which timeline, where.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: i64,
    timeline: TimelineId,
    lsn: Lsn,
}

/// A life of a cluster, and what is in its repository.
struct Life {
    stock: Stock,
    moments: Vec<Moment>,
    now: i64,
}

fn size() -> SegmentSize {
    SegmentSize::new(MIB).expect("a size")
}

fn name(timeline: TimelineId, number: u64) -> WalName {
    WalName::parse(&size().name(Segment { timeline, number })).expect("a name")
}

fn backup(number: usize, timeline: TimelineId, start: Lsn, end: Lsn, ended: i64) -> Manifest {
    Manifest {
        format: 1,
        id: format!("b{number:03}"),
        database: 7,
        major: 15,
        member: "m1".parse().expect("a name"),
        epoch: Epoch(timeline.0.into()),
        timeline,
        start,
        end,
        began_unix_ms: ended - 1000,
        ended_unix_ms: ended,
        key: None,
        files: Vec::new(),
    }
}

/// Writes, backups, failovers that lose a little, returns to a point long ago; numbers leave gaps.
fn live(seed: u64) -> Life {
    let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
    let mut life = Life {
        stock: Stock {
            size: Some(size()),
            ..Stock::default()
        },
        moments: Vec::new(),
        now: 1_700_000_000_000,
    };
    let (mut timeline, mut at, mut history) = (TimelineId::FIRST, Lsn(MIB + 100), Vec::new());
    let mut begun = Lsn(0);
    for _ in 0..60 {
        life.now += 1 + i64::try_from(dice.below(HOUR as u64)).expect("small");
        match dice.below(10) {
            0..6 => {
                let to = Lsn(at.0 + 1 + dice.below(3 * MIB));
                archive(&mut life.stock, timeline, at, to);
                at = to;
                let moment = Moment {
                    at: life.now,
                    timeline,
                    lsn: at,
                };
                life.moments.push(moment);
            }
            6..8 => {
                // From a position since this timeline began.
                let start = Lsn(at.0.saturating_sub(dice.below(MIB)).max(begun.0).max(1));
                let number = life.stock.backups.len();
                let taken = backup(number, timeline, start, at, life.now);
                life.stock.backups.push(taken);
            }
            _ => {
                let lost = match dice.below(4) {
                    0 => dice.below(20 * MIB),
                    _ => dice.below(MIB / 2),
                };
                let mut fork = Lsn(at.0.saturating_sub(lost).max(MIB + 100));
                // Within the line that was in use: from which timeline that position is.
                while history
                    .last()
                    .is_some_and(|line: &HistoryLine| line.end > fork)
                {
                    timeline = history.pop().expect("there is one").parent;
                }
                fork = fork.max(Lsn(MIB + 100));
                history.push(HistoryLine {
                    parent: timeline,
                    end: fork,
                });
                let highest = life.stock.archive.histories.keys().next_back();
                let highest = highest.copied().unwrap_or(TimelineId::FIRST);
                timeline = TimelineId(highest.0 + 1 + u32::from(dice.below(3) == 0));
                let known = &mut life.stock.archive.histories;
                known.insert(timeline, history.clone());
                archive(&mut life.stock, timeline, fork, fork);
                (at, begun) = (fork, fork);
            }
        }
    }
    life
}

fn archive(stock: &mut Stock, timeline: TimelineId, from: Lsn, to: Lsn) {
    for number in size().number(from)..=size().number(to) {
        let name = name(timeline, number);
        let object = format!("{}/00000001-aaaaaaaaaaaaaaaa.zst", name.folder(7));
        stock.archive.objects.insert(name, vec![object]);
    }
}

/// What is left.
fn pruned(stock: &Stock, plan: &Plan) -> Stock {
    let mut left = stock.clone();
    left.backups.retain(|it| !plan.backups.contains(&it.id));
    left.archive.objects.retain(|it, _| !plan.wal.contains(it));
    left
}

/// The segments from a backup's start to a position, along the way to a timeline.
fn is_whole(stock: &Stock, backup: &Manifest, to: Lsn, timeline: TimelineId) -> bool {
    let path = lineage::path(&stock.archive.histories, timeline);
    (size().number(backup.start)..=size().number(to)).all(|number| {
        let timeline = lineage::timeline_of(&path, size(), number).expect("it has begun");
        stock.archive.objects.contains_key(&name(timeline, number))
    })
}

/// Whether a commit can be had: along its own timeline, or, when it lies on it, along the main line.
fn is_restorable(stock: &Stock, moment: Moment, along: TimelineId) -> bool {
    let histories = &stock.archive.histories;
    lineage::reaches(histories, moment.timeline, moment.lsn, along)
        && stock.backups.iter().any(|backup| {
            backup.ended_unix_ms <= moment.at
                && backup.end <= moment.lsn
                && reaches(stock, backup, along)
                && is_whole(stock, backup, moment.lsn, along)
        })
}

#[test]
fn whatever_the_cluster_lived_through_each_moment_of_the_window_is_restorable_as_before() {
    let (mut gone, mut moments, mut refused) = (0, 0, 0);
    for seed in 1..=300 {
        let life = live(seed);
        let mut dice = Dice(seed);
        let policy = Policy {
            window_ms: i64::try_from(dice.below(20)).expect("small") * HOUR,
            at_least: 1 + usize::try_from(dice.below(3)).expect("small"),
        };
        let Ok(plan) = plan(&life.stock, policy, life.now) else {
            refused += 1;
            continue;
        };
        let left = pruned(&life.stock, &plan);
        gone += plan.backups.len() + plan.wal.len();
        let main = Lines::of(&life.stock, life.now).main;
        let since = life.now - policy.window_ms;
        for moment in life.moments.iter().filter(|it| it.at >= since) {
            for along in [moment.timeline, main] {
                let before = is_restorable(&life.stock, *moment, along);
                moments += usize::from(before);
                assert!(
                    !before || is_restorable(&left, *moment, along),
                    "seed {seed}: {moment:?} along {along} cannot be had any more: {plan:#?}"
                );
            }
        }
        for kept in &left.backups {
            assert!(
                !is_whole(&life.stock, kept, kept.end, kept.timeline)
                    || is_whole(&left, kept, kept.end, kept.timeline),
                "seed {seed}: {} has lost WAL: {plan:#?}",
                kept.id
            );
        }
        let of_main = |stock: &Stock| {
            let backups = stock.backups.iter();
            backups.filter(|it| reaches(stock, it, main)).count()
        };
        assert!(of_main(&left) >= policy.at_least.min(of_main(&life.stock)));
        // What was pruned once leaves nothing to prune.
        let again = super::plan(&left, policy, life.now).expect("it was possible before");
        assert!(again.is_empty(), "seed {seed}: {again:#?}");
    }
    // It did something, and was asked about something.
    assert!(gone > 300 && moments > 300, "{gone} {moments}");
    assert!(refused < 100, "{refused}");
}

/// Three backups, a day apart, on one timeline, and WAL throughout.
fn three() -> Life {
    let mut stock = Stock {
        size: Some(size()),
        ..Stock::default()
    };
    let now = 100 * 24 * HOUR;
    for (number, days) in [(1, 10), (2, 5), (3, 1)] {
        let start = Lsn(number * 10 * MIB);
        let ended = now - days * 24 * HOUR;
        let number = usize::try_from(number).expect("small");
        let end = Lsn(start.0 + 100);
        let taken = backup(number, TimelineId(1), start, end, ended);
        stock.backups.push(taken);
    }
    archive(&mut stock, TimelineId(1), Lsn(5 * MIB), Lsn(40 * MIB));
    Life {
        stock,
        moments: Vec::new(),
        now,
    }
}

fn days(window: i64, at_least: usize) -> Policy {
    Policy {
        window_ms: window * 24 * HOUR,
        at_least,
    }
}

#[test]
fn the_base_of_the_window_stays_and_what_is_older_goes() {
    let life = three();
    let plan = plan(&life.stock, days(4, 1), life.now).expect("a plan");
    assert_eq!(plan.backups, ["b001"]);
    let why = plan.keep["b002"].join("; ");
    assert!(why.contains("base of the window"), "{why}");
    assert_eq!(plan.wal.first(), Some(&name(TimelineId(1), 5)));
    assert_eq!(plan.wal.last(), Some(&name(TimelineId(1), 19)));
    assert_eq!(plan.wal.len(), 15);
}

#[test]
fn the_number_pins_and_leases_keep_what_the_window_does_not() {
    let mut life = three();
    let goes = |life: &Life, policy| plan(&life.stock, policy, life.now).expect("a plan").backups;
    assert_eq!(goes(&life, days(0, 1)), ["b001", "b002"]);
    assert_eq!(goes(&life, days(0, 2)), ["b001"]);
    life.stock.leases.push(Lease {
        id: "x".to_owned(),
        backup: "b002".to_owned(),
        what: "restore".to_owned(),
        by: "me".to_owned(),
        expires_unix_ms: life.now + 1,
    });
    assert_eq!(goes(&life, days(0, 1)), ["b001"]);
    life.stock.leases[0].expires_unix_ms = life.now;
    assert_eq!(goes(&life, days(0, 1)), ["b001", "b002"]);
    life.stock.pins.push(Pin {
        backup: "b001".to_owned(),
        why: "the year's end".to_owned(),
        by: "me".to_owned(),
        at_unix_ms: 0,
    });
    let plan = plan(&life.stock, days(0, 1), life.now).expect("a plan");
    assert_eq!(plan.backups, ["b002"]);
    // For itself only: its own WAL and one segment more, not what follows.
    for (number, goes) in [(9, true), (10, false), (11, false), (12, true), (30, false)] {
        let name = name(TimelineId(1), number);
        assert_eq!(plan.wal.contains(&name), goes, "{number}");
    }
}

#[test]
fn when_it_cannot_be_told_nothing_goes() {
    let why = |stock: &Stock| {
        let refused = plan(stock, days(0, 1), 1 << 50);
        refused.expect_err("refused").to_string()
    };
    let mut stock = three().stock;
    archive(&mut stock, TimelineId(3), Lsn(40 * MIB), Lsn(41 * MIB));
    assert!(why(&stock).contains("00000003.history"));
    // Of a line to which no backup leads.
    let line = HistoryLine {
        parent: TimelineId(1),
        end: Lsn(MIB),
    };
    stock.archive.histories.insert(TimelineId(3), vec![line]);
    assert!(why(&stock).contains("take one first"));
    let mut stock = three().stock;
    stock.size = None;
    assert!(why(&stock).contains("how large"));
    stock.backups.clear();
    let nothing = plan(&stock, days(0, 1), 1 << 50).expect("a plan");
    assert!(nothing.is_empty());
}

#[test]
fn parts_of_a_backup_go_when_nothing_was_added_for_a_day() {
    let mut life = three();
    for (id, age) in [("old", GIVEN_UP_AFTER_MS + 1), ("new", GIVEN_UP_AFTER_MS)] {
        life.stock.parts.push(Parts {
            id: id.to_owned(),
            objects: Vec::new(),
            newest_unix_ms: life.now - age,
        });
    }
    let plan = plan(&life.stock, days(30, 1), life.now).expect("a plan");
    assert_eq!(plan.parts, ["old"]);
    assert!(plan.backups.is_empty());
}
