//! Named situations, step by step: `cases/*.txt`. Each is a list of commands, then `----`, then
//! what happened. `UPDATE_CASES=1` writes what happens now into the files; read the difference.
//!
//! A case runs in the same world as the random schedules, with a fixed seed and no other faults.

use std::path::{Path, PathBuf};

use cluster_core::change::Command;
use cluster_core::change::command::Scheduling;
use cluster_core::model::lease::Preset;
use cluster_core::model::schedule::{Due, Work};
use cluster_core::model::{Lsn, RequestKind, RequestOutcome, Tags};

use crate::kinds::Kind;
use crate::leader::WALL_UNIX_MS;
use crate::mistakes::Mutant;
use crate::network::{MS, SECOND};
use crate::postgres::Process;
use crate::world::{Setup, World};

/// The seed of every case.
const SEED: u64 = 20;

fn setup_of(words: &[&str]) -> Setup {
    let mut setup = Setup {
        databases: 0,
        preset: Preset::Lan,
        ..Setup::default()
    };
    for word in words {
        match *word {
            "witness" => setup.has_witness = true,
            "mode=sync" => setup.kind = Kind::SYNC,
            "mode=strict" => setup.kind = Kind::STRICT,
            "k=2" => (setup.k, setup.k_min) = (2, 2),
            "preset=fast" => setup.preset = Preset::Fast,
            "preset=lan" => setup.preset = Preset::Lan,
            member => {
                setup.databases += 1;
                let nofailover = member.ends_with("(nofailover)");
                setup.tags.push(Tags {
                    nofailover,
                    ..Tags::default()
                });
            }
        }
    }
    setup
}

/// One running case.
struct Case {
    world: World,
    shown: usize,
}

impl Case {
    fn new(words: &[&str]) -> Case {
        let mut world = World::new(SEED, &setup_of(words), Mutant::None);
        world.trace = Some(Vec::new());
        world.plan.writes = 0;
        world.plan.is_clear_sighted = true;
        Case { world, shown: 0 }
    }

    fn node(&self, name: &str) -> usize {
        self.world
            .names
            .iter()
            .position(|known| known.as_str() == name)
            .unwrap_or_else(|| panic!("there is no member {name} in this case"))
    }

    fn ask(&mut self, kind: RequestKind) {
        let id = self.world.new_request();
        self.world.operator(Command::Ask {
            id,
            kind,
            by: "operator".to_owned(),
        });
    }

    /// Of the simulated wall clock: so many seconds from now.
    fn schedule(&mut self, seconds: u64, work: Work) {
        let id = self.world.new_request();
        let unix_ms = WALL_UNIX_MS + self.world.now / MS + seconds * 1000;
        self.world.operator(Command::Schedule(Box::new(Scheduling {
            id,
            work,
            due: Due {
                unix_ms,
                text: format!("in {seconds} s"),
            },
            replaces: false,
            by: "operator".to_owned(),
        })));
    }

    fn run(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let member = || words.get(1).map(|name| self.node(name)).unwrap_or_default();
        let name = || words[1].parse().expect("a member's name");
        let by = || "operator".to_owned();
        match words[0] {
            "advance" => {
                let seconds: f64 = words[1].trim_end_matches('s').parse().expect("seconds");
                let until = self.world.now + (seconds * SECOND as f64) as u64;
                self.world.run_until(until);
            }
            "until-well" => {
                self.world.must_become_well();
                let until = self.world.now + SECOND;
                self.world.run_until(until);
                self.shown = self.trace().len();
            }
            "host-lost" => self.world.crash_host(member()),
            "host-back" => self.world.start_host(member()),
            "host-frozen" => self.world.freeze_for(member(), true, 3600 * SECOND),
            "host-thawed" => self.world.thaw(member(), true),
            "daemon-killed" => self.world.crash_daemon(member()),
            "daemon-back" => self.world.start_daemon(member()),
            "postgres-killed" => self.world.lose_postgres(member()),
            "dies-after-steps" => {
                let node = member();
                self.world.nodes[node].dies_after_steps = words[2].parse().ok();
            }
            "wiped" => self.world.wipe(member()),
            "cut" => {
                let node = member();
                let groups: Vec<u8> = (0..self.world.nodes.len())
                    .map(|other| u8::from(other == node))
                    .collect();
                self.world.network.split(&groups);
            }
            "link-cut" => {
                let name = words[2].parse().expect("a member's name");
                let (node, other) = (member(), self.world.index_of(&name).expect("a member"));
                self.world.network.set(node, other, false);
                self.world.network.set(other, node, false);
            }
            "heal" => self.world.network.heal(),
            "writes" => self.world.plan.writes = words[1].parse().expect("a number"),
            "ahead" => {
                let bytes: u64 = words[2].parse().expect("bytes");
                let node = member();
                if let Some(data) = &mut self.world.nodes[node].postgres.data {
                    data.end = Lsn(data.end.0 + bytes);
                }
            }
            "promoted-by-hand" => self.promote_by_hand(member()),
            "promoted-unseen" => self.promote_unseen(member()),
            "switchover" => {
                let to = words.get(1).map(|_| name());
                self.ask(RequestKind::Switchover { to });
            }
            "scheduled-switchover" => {
                let seconds: u64 = words[1].trim_end_matches('s').parse().expect("seconds");
                let to = words.get(2).map(|to| to.parse().expect("a member's name"));
                self.schedule(seconds, Work::Switchover { from: None, to });
            }
            "failover" => self.ask(RequestKind::Failover { to: name() }),
            "restart" => self.ask(RequestKind::Restart { member: name() }),
            "reinit" => self.ask(RequestKind::Reinit { member: name() }),
            "call-off" => {
                let open = self
                    .world
                    .truth
                    .newest()
                    .moving_request()
                    .map(|r| r.id.clone());
                let outcome = RequestOutcome::Failed {
                    why: "cancelled by operator".to_owned(),
                };
                self.world.operator(Command::End {
                    id: open.expect("an open one"),
                    outcome,
                });
            }
            "pause" => self.world.operator(Command::Pause { by: by() }),
            "resume" => self.world.operator(Command::Resume { by: by() }),
            "replace" => {
                let (member, peer) = (name(), String::new());
                self.world.operator(Command::ReplaceMember {
                    member,
                    peer,
                    by: by(),
                });
            }
            other => panic!("a case knows no command `{other}`"),
        }
    }

    /// Somebody runs `pg_ctl promote`: out of recovery without any Grant, which no schedule does.
    fn promote_by_hand(&mut self, node: usize) {
        let look = self.world.look(node);
        let mut postgres = self.world.nodes[node].postgres.clone();
        if let Some(data) = &mut postgres.data {
            let timeline = data.timeline().next();
            data.line.push((timeline, data.end));
        }
        postgres.process = Process::Writable(crate::postgres::Writable {
            fork: Lsn::ZERO,
            is_open: false,
        });
        let status = postgres.status(self.world.now, &self.world.names);
        let look = crate::member::Look {
            postgres: status,
            ..look
        };
        let verdict = cluster_core::decide::decide_member(&self.world.view(node, &look));
        let text = crate::actions::sentence(&verdict.action);
        self.world.say(node, || {
            format!("would do: {text} [{}]", verdict.reason.code())
        });
    }

    /// The same while the daemon was away, and the host went down before it came back.
    fn promote_unseen(&mut self, node: usize) {
        let host = &mut self.world.nodes[node].postgres;
        assert!(!host.runs(), "first the host, then what happened on it");
        if let Some(data) = &mut host.data {
            data.line.push((data.timeline().next(), data.end));
            data.redo = data.end;
            data.end = Lsn(data.end.0 + 5000);
            data.was_in_recovery = false;
            data.ended_clean = false;
            data.has_signal = false;
        }
    }

    fn trace(&self) -> &[String] {
        self.world.trace.as_deref().unwrap_or_default()
    }

    /// What happened since the last time, and how things stand.
    fn tell(&mut self) -> String {
        let mut told = String::new();
        for line in &self.trace()[self.shown..] {
            // Without the time; a member's waiting is told only where it leads.
            let text = line.get(9..).unwrap_or_default();
            if text.contains(": waits [") {
                continue;
            }
            told.push_str(text);
            told.push('\n');
        }
        told.push_str(&format!("= {}\n", self.standing()));
        self.shown = self.trace().len();
        told
    }

    fn standing(&self) -> String {
        let truth = self.world.truth.newest();
        let primary = match self.world.open_primary() {
            Some(node) => format!(
                "{} is primary in epoch {}",
                self.world.names[node],
                truth.epoch()
            ),
            None => format!("no primary, epoch {}", truth.epoch()),
        };
        let unwell = self.world.unwell();
        let unwell: Vec<&str> = unwell
            .iter()
            .filter_map(|text| text.split_once(": ").map(|(_, text)| text))
            .collect();
        if unwell.is_empty() {
            format!("{primary}, all well")
        } else {
            format!("{primary}; {}", unwell.join("; "))
        }
    }
}

/// Runs the commands of a case; the same text with what happened now.
fn replay(text: &str) -> String {
    let mut case: Option<Case> = None;
    let mut out = String::new();
    let mut is_told = false;
    for line in text.lines() {
        if line == "----" {
            let told = case.as_mut().map(Case::tell).unwrap_or_default();
            out.push_str("----\n");
            out.push_str(&told);
            is_told = true;
            continue;
        }
        if line.trim().is_empty() {
            is_told = false;
        }
        if is_told {
            continue;
        }
        out.push_str(line);
        out.push('\n');
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.first() {
            None | Some(&"#") => {}
            Some(&"cluster") => case = Some(Case::new(&words[1..])),
            Some(_) => case
                .as_mut()
                .expect("a case begins with `cluster`")
                .run(line),
        }
    }
    if let Some(case) = case {
        assert!(
            case.world.violations.is_empty(),
            "{:?}",
            case.world.violations
        );
    }
    out
}

fn cases() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("sim/cases");
    let mut found: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder of the cases")
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|ending| ending == "txt"))
        .collect();
    found.sort();
    found
}

#[test]
fn every_case_goes_as_it_is_written() {
    let is_update = std::env::var("UPDATE_CASES").is_ok();
    let cases = cases();
    assert!(cases.len() >= 12, "only {} cases were found", cases.len());
    let mut different = Vec::new();
    for path in cases {
        let written = std::fs::read_to_string(&path).expect("a readable case");
        let now = replay(&written);
        if is_update {
            std::fs::write(&path, &now).expect("a writable case");
        } else if now != written {
            let first = now
                .lines()
                .zip(written.lines())
                .find(|(now, then)| now != then);
            different.push(format!("{}: first difference {first:?}", path.display()));
        }
    }
    assert!(
        different.is_empty(),
        "{}\nwhen that is meant: UPDATE_CASES=1 cargo test -p cluster-core --test sim case",
        different.join("\n")
    );
}

/// A case whose text is wrong must be noticed.
#[test]
fn a_case_that_goes_otherwise_is_noticed() {
    let text = "cluster a b c\nuntil-well\nhost-lost a\nadvance 5s\n----\n= nothing\n";
    assert_ne!(replay(text), text);
}

/// Milliseconds are not lost on the way.
const _: () = assert!(SECOND == 1000 * MS);
