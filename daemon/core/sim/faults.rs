//! What goes wrong, when, and to whom; every fault is cured in the end.

use cluster_core::change::Command;
use cluster_core::model::lease::Preset;
use cluster_core::model::{RequestId, RequestKind, RequestOutcome};

use crate::network::{MS, Micros, SECOND};
use crate::postgres::{Postgres, Process};
use crate::world::{Event, World};

/// How a schedule goes.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Applying lags in so many of 1000 turns.
    pub apply_lag: u64,
    /// No new fault from then on.
    pub until: Micros,
    /// Looking at PostgreSQL never fails.
    pub is_clear_sighted: bool,
    /// A directory is unusable after a host's restart, per mille.
    pub damage: u64,
    /// How much clients write.
    pub writes: u64,
    /// The longest pause between two faults.
    pub gap: Micros,
}

impl World {
    /// Begins to break things.
    pub fn begin_faults(&mut self, length: Micros) {
        self.plan.apply_lag = *[0, 100, 500].get(self.random.index(3)).unwrap_or(&0);
        self.plan.damage = 20;
        self.plan.writes = if self.random.chance(150) { 2000 } else { 150 };
        self.plan.until = self.now + length;
        self.plan.gap = self.random.between(2 * SECOND, 9 * SECOND);
        let first = self.random.between(100 * MS, 2 * SECOND);
        self.after(first, Event::Fault);
        if self.kind.jumps {
            self.after(first, Event::Jump);
        }
        if self.changes.is_some() {
            self.after(first * 2, Event::Change);
        }
    }

    /// Everything works again.
    pub fn end_faults(&mut self) {
        self.say_world(|| "the faults end".to_owned());
        self.plan = Plan {
            writes: 100,
            ..Plan::default()
        };
        self.network.heal();
        self.mend_clocks();
        for node in 0..self.nodes.len() {
            self.nodes[node].dies_after_steps = None;
            self.nodes[node].storage_stuck = None;
            self.nodes[node].postgres.wedged_since = None;
            if self.nodes[node].postgres.unusable == Some(false) {
                self.nodes[node].postgres.unusable = None;
            }
            self.thaw(node, true);
            self.thaw(node, false);
            self.start_host(node);
            self.start_daemon(node);
        }
    }

    /// The next thing goes wrong.
    pub fn next_fault(&mut self) {
        if self.now >= self.plan.until {
            return;
        }
        let pause = if self.random.chance(150) {
            self.random.between(10 * MS, 300 * MS)
        } else {
            self.random.between(300 * MS, self.plan.gap)
        };
        self.after(pause, Event::Fault);
        self.watch.faults += 1;
        let victim = self.victim();
        match self.random.below(100) {
            0..18 => self.lose_host(victim),
            18..32 => self.lose_daemon(victim),
            32..38 => self.fall_between_steps(victim),
            38..48 => self.lose_postgres(victim),
            48..54 => self.freeze(victim, false),
            54..60 => self.freeze(victim, true),
            60..76 => self.cut(victim),
            76..80 => self.slow_down(),
            80..83 => self.wedge(victim),
            83..86 => self.stick_storage(victim),
            86..87 => self.foreign_start(victim),
            87..88 => self.lose_everything(),
            88..98 => self.ask(victim),
            _ => self.replace(victim),
        }
    }

    /// Mostly the primary or the leader.
    pub fn victim(&mut self) -> usize {
        let primary = self.open_primary();
        let leader = self.ready_leader();
        let any = self.random.index(self.nodes.len());
        match self.random.below(100) {
            0..55 => primary.unwrap_or(any),
            55..75 => leader.unwrap_or(any),
            _ => any,
        }
    }

    fn how_long(&mut self) -> Micros {
        if self.random.chance(400) {
            self.random.between(50 * MS, 1500 * MS)
        } else {
            self.random.between(1500 * MS, 9 * SECOND)
        }
    }

    pub fn lose_host(&mut self, node: usize) {
        if self.nodes[node].host_up {
            self.coverage.count("fault", "host lost");
            self.crash_host(node);
            let away = self.how_long();
            self.after(away, Event::StartHost { node });
        }
    }

    pub fn lose_daemon(&mut self, node: usize) {
        if self.nodes[node].host_up && self.nodes[node].daemon_up {
            self.coverage.count("fault", "daemon killed");
            self.crash_daemon(node);
            let away = self.how_long() / 2;
            self.after(away, Event::StartDaemon { node });
        }
    }

    fn fall_between_steps(&mut self, node: usize) {
        self.coverage.count("fault", "dies between steps");
        let steps = self.random.below(12) as u32;
        self.nodes[node].dies_after_steps = Some(steps);
        // Something to do, so that there are steps.
        self.lose_postgres(node);
    }

    pub fn lose_postgres(&mut self, node: usize) {
        if self.nodes[node].host_up && self.nodes[node].postgres.runs() {
            self.coverage.count("fault", "PostgreSQL killed");
            self.say(node, || "PostgreSQL dies".to_owned());
            self.nodes[node].postgres.vanish();
            self.nodes[node].mind.is_dirty = true;
        }
    }

    fn freeze(&mut self, node: usize, is_host: bool) {
        let length = self.how_long();
        self.freeze_for(node, is_host, length);
    }

    pub fn freeze_for(&mut self, node: usize, is_host: bool, length: Micros) {
        let host = &mut self.nodes[node];
        if !host.host_up || host.host_frozen || host.daemon_frozen {
            return;
        }
        if is_host {
            host.host_frozen = true;
            self.coverage.count("fault", "host frozen");
            self.say(node, || "host freezes".to_owned());
        } else {
            host.daemon_frozen = true;
            self.coverage.count("fault", "daemon frozen");
            self.say(node, || "clusterd freezes".to_owned());
        }
        self.after(
            length,
            Event::Thaw {
                node,
                host: is_host,
            },
        );
    }

    fn cut(&mut self, node: usize) {
        let count = self.nodes.len();
        match self.random.below(5) {
            0 | 1 => {
                self.coverage.count("fault", "member cut off");
                let groups: Vec<u8> = (0..count).map(|other| u8::from(other == node)).collect();
                self.network.split(&groups);
                self.say(node, || "is cut off".to_owned());
            }
            2 => {
                self.coverage.count("fault", "one way cut");
                let is_deaf = self.random.chance(500);
                for other in 0..count {
                    let (from, to) = if is_deaf {
                        (other, node)
                    } else {
                        (node, other)
                    };
                    self.network.set(from, to, false);
                }
                self.say(node, || {
                    format!("is {}", if is_deaf { "deaf" } else { "mute" })
                });
            }
            3 => {
                self.coverage.count("fault", "one link cut");
                let other = self.random.index(count);
                self.network.set(node, other, false);
                if self.random.chance(600) {
                    self.network.set(other, node, false);
                }
                let name = self.names[other].clone();
                self.say(node, || format!("loses its link to {name}"));
            }
            _ => {
                self.coverage.count("fault", "network split");
                let groups: Vec<u8> = (0..count).map(|_| self.random.below(2) as u8).collect();
                self.network.split(&groups);
                self.say_world(|| format!("network split {groups:?}"));
            }
        }
        let length = self.how_long();
        self.after(length, Event::HealNetwork);
    }

    fn slow_down(&mut self) {
        self.coverage.count("fault", "slow network");
        self.network.slowest = self.random.between(20 * MS, 1500 * MS);
        self.network.loss = self.random.below(300);
        self.say_world(|| "network slow and lossy".to_owned());
        let length = self.how_long();
        self.after(length, Event::HealNetwork);
    }

    fn wedge(&mut self, node: usize) {
        let now = self.now;
        let postgres = &mut self.nodes[node].postgres;
        if postgres.runs() && postgres.wedged_since.is_none() {
            postgres.wedged_since = Some(now);
            self.coverage.count("fault", "PostgreSQL wedged");
            self.say(node, || "PostgreSQL answers nothing".to_owned());
            let length = self.random.between(SECOND, 16 * SECOND);
            self.after(length, Event::Unwedge { node });
        }
    }

    fn stick_storage(&mut self, node: usize) {
        self.coverage.count("fault", "storage stuck");
        self.nodes[node].storage_stuck = Some(self.now);
        self.say(node, || "storage takes no writes".to_owned());
        let length = self.random.between(SECOND, 12 * SECOND);
        self.after(length, Event::StorageWorks { node });
    }

    /// Somebody runs `pg_ctl start`.
    fn foreign_start(&mut self, node: usize) {
        let ready = self.now + 100 * MS;
        let host = &mut self.nodes[node];
        let may = host.host_up
            && !host.host_frozen
            && host.postgres.set_is_empty()
            && host.durable.marker.is_none()
            && host
                .postgres
                .data
                .as_ref()
                .is_some_and(|data| data.has_signal);
        if may {
            host.postgres.start(ready);
            host.postgres.is_foreign = true;
            self.coverage.count("fault", "foreign start");
        }
    }

    fn lose_everything(&mut self) {
        self.coverage.count("fault", "all hosts lost");
        for node in 0..self.nodes.len() {
            self.lose_host(node);
        }
    }

    pub fn new_request(&mut self) -> RequestId {
        self.next_number += 1;
        RequestId(format!("r{}", self.next_number))
    }

    /// An operator wants something.
    fn ask(&mut self, member: usize) {
        let name = self.names[member].clone();
        let by = "operator".to_owned();
        let kind = match self.random.below(14) {
            0..3 => RequestKind::Switchover { to: None },
            3..6 => {
                let to = self.random.index(self.names.len());
                RequestKind::Switchover {
                    to: Some(self.names[to].clone()),
                }
            }
            6 => RequestKind::Failover { to: name },
            7 | 8 => RequestKind::Restart { member: name },
            9 => RequestKind::Reload { member: name },
            10 => RequestKind::Reinit { member: name },
            11 => return self.change_preset(),
            12 => return self.call_off(),
            _ => {
                self.coverage.count("fault", "paused");
                let length = self.how_long();
                self.after(length, Event::Resume);
                return self.operator(Command::Pause { by });
            }
        };
        self.coverage.count("fault", kind.verb());
        self.say_world(|| format!("operator asks {kind:?}"));
        let id = self.new_request();
        self.operator(Command::Ask { id, kind, by });
        // What is done while a hand-over runs is the interesting part.
        let soon = self.random.between(5 * MS, 900 * MS);
        self.after(soon, Event::Fault);
    }

    fn change_preset(&mut self) {
        self.coverage.count("fault", "preset changed");
        let preset = match self.truth.newest().settings.preset {
            Preset::Fast => Preset::Lan,
            Preset::Lan | Preset::Wan => Preset::Fast,
        };
        self.say_world(|| format!("operator sets preset {}", preset.word()));
        self.operator(Command::SetPreset { preset });
        let soon = self.random.between(5 * MS, 1500 * MS);
        self.after(soon, Event::Fault);
    }

    fn call_off(&mut self) {
        let open = self
            .truth
            .newest()
            .moving_request()
            .map(|request| request.id.clone());
        if let Some(id) = open {
            self.coverage.count("fault", "called off");
            let outcome = RequestOutcome::Failed {
                why: "cancelled by operator".to_owned(),
            };
            self.operator(Command::End { id, outcome });
        }
    }

    /// A standby's host comes back with empty disks.
    fn replace(&mut self, node: usize) {
        let truth = self.truth.newest();
        let is_holder = truth
            .reign
            .as_ref()
            .is_some_and(|reign| reign.holder == self.names[node]);
        let is_well = truth.granted().is_some_and(|reign| reign.is_activated);
        let is_open = truth
            .members
            .values()
            .any(|member| member.joining.is_some());
        // Another wiped one, whose replacement nobody has recorded yet, and the majority were gone.
        let others_up = (0..self.nodes.len())
            .all(|other| self.answers(other) && !self.nodes[other].raft.is_wiped);
        if is_holder || !is_well || is_open || !others_up || self.ready_leader() == Some(node) {
            return;
        }
        self.wipe(node);
        let member = self.names[node].clone();
        let by = "operator".to_owned();
        self.operator(Command::ReplaceMember {
            member,
            peer: String::new(),
            by,
        });
    }

    pub fn wipe(&mut self, node: usize) {
        self.coverage.count("fault", "host wiped");
        self.crash_host(node);
        self.say(node, || "comes back with empty disks".to_owned());
        let host = &mut self.nodes[node];
        host.raft = crate::raft::RaftNode {
            is_wiped: true,
            ..Default::default()
        };
        host.raft.last_heard = self.now;
        host.durable = Default::default();
        host.postgres = Postgres::empty();
        host.postgres.process = Process::None;
        let away = self.random.between(500 * MS, 3 * SECOND);
        self.after(away, Event::StartHost { node });
    }
}
