//! The kinds of schedules: who confirms commits, and whether clocks may be trusted; and the cluster
//! that a schedule's number makes.

use std::collections::BTreeMap;

use cluster_core::model::Tags;
use cluster_core::model::lease::Preset;
use cluster_core::model::settings::Mode;

use crate::random::Random;
use crate::world::Setup;

/// What a schedule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    pub mode: Mode,
    /// Clocks jump, and run at half or double rate. What rests on clocks is not checked then.
    pub jumps: bool,
}

impl Kind {
    pub const ASYNC: Kind = Kind::new(Mode::Async, false);
    pub const SYNC: Kind = Kind::new(Mode::Sync, false);
    pub const STRICT: Kind = Kind::new(Mode::Strict, false);
    pub const SYNC_JUMPS: Kind = Kind::new(Mode::Sync, true);
    pub const STRICT_JUMPS: Kind = Kind::new(Mode::Strict, true);

    const fn new(mode: Mode, jumps: bool) -> Kind {
        Kind { mode, jumps }
    }

    /// As `--mode` takes it.
    pub fn word(self) -> &'static str {
        match (self.mode, self.jumps) {
            (Mode::Async, _) => "async",
            (Mode::Sync, false) => "sync",
            (Mode::Strict, false) => "strict",
            (Mode::Sync, true) => "sync-jumps",
            (Mode::Strict, true) => "strict-jumps",
        }
    }

    /// The kinds a word stands for; a schedule has the one of its number.
    pub fn read(word: &str) -> Vec<Kind> {
        match word {
            "async" => vec![Kind::ASYNC],
            "sync" => vec![Kind::SYNC],
            "strict" => vec![Kind::STRICT],
            "sync-jumps" => vec![Kind::SYNC_JUMPS],
            "strict-jumps" => vec![Kind::STRICT_JUMPS],
            "jumps" => vec![Kind::SYNC_JUMPS, Kind::STRICT_JUMPS],
            "mixed" => vec![
                Kind::SYNC,
                Kind::STRICT,
                Kind::SYNC_JUMPS,
                Kind::STRICT_JUMPS,
            ],
            _ => panic!(
                "`{word}` is no mode (async, sync, strict, sync-jumps, strict-jumps, jumps or mixed)"
            ),
        }
    }
}

/// The cluster of a schedule.
pub fn setup_of(kind: Kind, seed: u64, random: &mut Random) -> Setup {
    let mut setup = async_setup(random);
    if kind != Kind::ASYNC {
        confirm(kind, seed, &mut setup);
    }
    setup
}

fn async_setup(random: &mut Random) -> Setup {
    let (databases, has_witness) = match random.below(10) {
        0..6 => (3, false),
        6..8 => (2, true),
        _ => (5, false),
    };
    let preset = if random.chance(600) {
        Preset::Fast
    } else {
        Preset::Lan
    };
    let mut tags = vec![Tags::default(); databases];
    if databases > 2 && random.chance(150) {
        tags[random.index(databases)].nofailover = true;
    }
    if random.chance(150) {
        tags[random.index(databases)].failover_priority = Some(5);
    }
    let brings = match random.below(20) {
        0 => 1,
        1 => 2,
        _ => 0,
    };
    Setup {
        databases,
        has_witness,
        preset,
        tags,
        brings,
        ..Setup::default()
    }
}

/// Who confirms commits. A generator of its own: the same seed makes the same cluster in `async`.
fn confirm(kind: Kind, seed: u64, setup: &mut Setup) {
    let mut random = Random::new(seed ^ 0xC0FF);
    let is_large = setup.databases > 3;
    setup.kind = kind;
    setup.k = match setup.databases {
        2 => 1,
        3 => 1 + u32::from(random.chance(200)),
        _ => 1 + u32::from(random.chance(600)),
    };
    if kind.mode == Mode::Strict && setup.k > 1 {
        setup.k_min = 1 + u32::from(random.chance(500));
    }
    if is_large && random.chance(300) {
        setup.zones = (0..setup.databases)
            .map(|place| (place, random.below(2) as u8))
            .collect::<BTreeMap<usize, u8>>();
    }
    if is_large && random.chance(200) {
        setup.tags[random.index(setup.databases)].nosync = true;
    }
    if random.chance(200) {
        setup.tags[random.index(setup.databases)].sync_priority = Some(3);
    }
    setup.changes = random.chance(350);
    setup.may_be_async = setup.changes && random.chance(400);
}
