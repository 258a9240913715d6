//! Every state within bounds, by `stateright`, breadth first: a counterexample is the shortest.
//!
//! Which changes of the truth are allowed is asked of the core's own `apply`; whether WAL is on a
//! line, whether a flush counts for X, of its own functions. Only the steps of the world are here.

use std::sync::Arc;
use std::time::Duration;

use cluster_core::model::Lsn;
use cluster_core::model::ledger::Relation;
use cluster_core::model::rule::counts_for;
use stateright::{Checker, HasDiscoveries, Model, Property};

use crate::truths::{Change, Truth, Truths, timeline};
use crate::world::{Content, MOST, Member, World, Wrong};

/// How far a search goes.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub members: usize,
    /// The rule at the start, over all standbys.
    pub first: (u8, &'static [usize]),
    pub epochs: u8,
    pub writes: u8,
    pub changes: u8,
    pub clones: u8,
    /// The k a rule may have.
    pub ks: &'static [u8],
    /// Steps taken before the search begins; each must be possible there.
    pub prefix: &'static [Step],
}

impl Bounds {
    fn first(&self) -> Content {
        let (k, set) = self.first;
        set.iter()
            .fold(Content::nobody(k), |rule, member| rule.with(*member, 0))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Write(usize),
    Deliver(usize),
    Attach {
        member: usize,
        to: usize,
    },
    Revoke,
    Promise(usize),
    Report(usize),
    FastForward {
        member: usize,
        from: usize,
    },
    Grant {
        member: usize,
        among: u8,
        first: Content,
    },
    Promote {
        member: usize,
        epoch: u8,
    },
    Propose(Content),
    SetRule {
        member: usize,
        id: u8,
    },
    InForce(usize),
    Activate(usize),
    /// The primary makes the id unusable for its server, asks, and the proposal is forgotten.
    Withdraw {
        member: usize,
        id: u8,
    },
    Stop(usize),
    Clone {
        member: usize,
        from: usize,
    },
    Rewind {
        member: usize,
        from: usize,
    },
}

pub struct Search {
    pub bounds: Bounds,
    pub wrong: Wrong,
    pub truths: Truths,
}

impl Search {
    pub fn new(bounds: Bounds, wrong: Wrong) -> Search {
        Search {
            bounds,
            wrong,
            truths: Truths::new(bounds.members, bounds.first(), wrong),
        }
    }

    fn is_on_line(&self, truth: &Truth, member: &Member, epoch: u8) -> bool {
        if self.wrong == Wrong::NameBeforeProvenance {
            return true;
        }
        let end = Lsn(u64::from(member.wal.len()));
        truth
            .state
            .ledger
            .relation(timeline(member.wal.line()), end, timeline(epoch))
            == Relation::OnLine
    }

    /// Every content over the others: nobody, or k of a set of at least k.
    fn contents(&self, world: &World, primary: usize, among: u8) -> Vec<Content> {
        let mut contents = Vec::new();
        for mask in 0..1_u8 << self.bounds.members {
            if mask & 1 << primary != 0 || mask & among != mask {
                continue;
            }
            for k in self.bounds.ks {
                let is_fit = if mask == 0 {
                    *k == 0
                } else {
                    *k > 0 && u32::from(*k) <= mask.count_ones()
                };
                if is_fit {
                    let rule = (0..self.bounds.members)
                        .filter(|member| mask & 1 << member != 0)
                        .fold(Content::nobody(*k), |rule, member| {
                            rule.with(member, world.members[member].life)
                        });
                    contents.push(rule);
                }
            }
        }
        contents
    }

    fn standby_steps(&self, world: &World, truth: &Truth, at: usize, steps: &mut Vec<Step>) {
        let it = &world.members[at];
        let others = (0..self.bounds.members).filter(|other| *other != at);
        for to in others.clone() {
            let Some(epoch) = world.members[to].reign else {
                continue;
            };
            let is_new = it.follows != Some((to as u8, epoch));
            let is_told = truth.reign(epoch).is_some_and(|reign| reign.4);
            if is_new && it.promise <= epoch && is_told && self.is_on_line(truth, it, epoch) {
                steps.push(Step::Attach { member: at, to });
            }
        }
        if let Some((to, _)) = it.follows {
            let source = world.members[usize::from(to)].wal;
            if it.wal.len() < source.len() && it.wal.is_prefix_of(source) {
                steps.push(Step::Deliver(at));
            }
        }
        for epoch in it.used + 1..=truth.epoch {
            if self.may_promote(truth, it, at, epoch) {
                steps.push(Step::Promote { member: at, epoch });
            }
        }
        if self.wrong == Wrong::GrantReused
            && it.used == truth.epoch
            && self.may_promote(truth, it, at, it.used)
        {
            steps.push(Step::Promote {
                member: at,
                epoch: it.used,
            });
        }
        // Our own daemon clones and rewinds only under a newer epoch; somebody with a backup at
        // hand does it whenever he likes.
        if world.clones < self.bounds.clones {
            for from in others {
                if world.members[from].wal != it.wal {
                    steps.push(Step::Clone { member: at, from });
                }
            }
            let source = world.members[truth.holder].wal;
            if truth.is_activated && at != truth.holder && !it.wal.is_prefix_of(source) {
                steps.push(Step::Rewind {
                    member: at,
                    from: truth.holder,
                });
            }
        }
    }

    fn may_promote(&self, truth: &Truth, it: &Member, at: usize, epoch: u8) -> bool {
        let Some((member, life, parent, start, _)) = truth.reign(epoch) else {
            return false;
        };
        let is_same_life = it.life == life || self.wrong == Wrong::GrantWithoutIncarnation;
        let is_at_start = it.wal.line() == parent && it.wal.len() == start;
        // The mutants promote whatever is there: that check would hide them.
        let is_blind = matches!(
            self.wrong,
            Wrong::GrantWithoutIncarnation | Wrong::GrantReused
        );
        member == at && is_same_life && it.promise <= epoch && (is_at_start || is_blind)
    }

    fn sealing_steps(&self, world: &World, truth: &Truth, steps: &mut Vec<Step>) {
        let target = truth.epoch + 1;
        let members = 0..self.bounds.members;
        for at in members.clone() {
            let it = &world.members[at];
            if it.reign.is_some() && self.wrong != Wrong::RunningPrimarySeals {
                continue;
            }
            if it.promise < target {
                steps.push(Step::Promise(at));
            } else if world.held[at] != Some(world.held_of(at, target))
                && self.wrong != Wrong::ReportReused
                || world.held[at].is_none()
            {
                steps.push(Step::Report(at));
            }
            let has_sealed = |it: usize| world.held[it].is_some_and(|held| held.target == target);
            for from in members.clone().filter(|from| *from != at) {
                let source = world.members[from].wal;
                if has_sealed(at)
                    && has_sealed(from)
                    && it.wal != source
                    && it.wal.is_prefix_of(source)
                {
                    steps.push(Step::FastForward { member: at, from });
                }
            }
        }
        self.grants(world, truth, steps);
    }

    /// Every Grant the core accepts, for every set of seals the leader may go by.
    fn grants(&self, world: &World, truth: &Truth, steps: &mut Vec<Step>) {
        let held: u8 = (0..MOST)
            .filter(|at| world.held[*at].is_some())
            .fold(0, |mask, at| mask | 1 << at);
        for member in 0..self.bounds.members {
            if held & 1 << member == 0 {
                continue;
            }
            let mut firsts = self.contents(world, member, held);
            firsts.push(Content::nobody(1));
            for first in firsts.into_iter().filter(|first| first.k() > 0) {
                let among = (1..1_u8 << self.bounds.members)
                    .rev()
                    .filter(|among| among & held == *among && among & 1 << member != 0)
                    .find(|among| {
                        let change = self.grant(world, member, *among, first, truth.epoch + 1);
                        self.truths.after(world.truth, change).is_some()
                    });
                if let Some(among) = among {
                    steps.push(Step::Grant {
                        member,
                        among,
                        first,
                    });
                }
            }
        }
    }

    fn grant(&self, world: &World, member: usize, among: u8, first: Content, epoch: u8) -> Change {
        let mut sealed = world.held;
        for (at, held) in sealed.iter_mut().enumerate() {
            if among & 1 << at == 0 {
                *held = None;
            }
            if self.wrong == Wrong::ReportReused
                && let Some(held) = held
            {
                held.target = epoch;
            }
        }
        Change::Grant {
            member: member as u8,
            sealed,
            first,
        }
    }

    fn primary_steps(
        &self,
        world: &World,
        truth: &Truth,
        at: usize,
        epoch: u8,
        steps: &mut Vec<Step>,
    ) {
        let server = &world.members[at].server;
        if server.open && world.writes < self.bounds.writes {
            steps.push(Step::Write(at));
        }
        for (id, of, rule) in &truth.live {
            let is_older = *id < server.given && self.wrong == Wrong::OlderRuleApplied;
            if *of == epoch && (*id > server.given || is_older) && server.newest != Some(*rule) {
                steps.push(Step::SetRule {
                    member: at,
                    id: *id,
                });
            }
        }
        let is_proven = server.evaluated == server.newest && server.x.is_some();
        if server.newest.is_some() && !is_proven {
            steps.push(Step::InForce(at));
        }
        let is_current = truth.is_granted && truth.epoch == epoch;
        if !is_current {
            steps.push(Step::Stop(at));
            return;
        }
        if let Some(change) = self.activation(world, truth, at)
            && let Some(after) = self.truths.after(world.truth, change)
            && after != world.truth
        {
            steps.push(Step::Activate(at));
        }
        for (id, _, _) in truth.live.iter().filter(|live| live.1 == epoch) {
            let was_set = *id <= server.given && self.wrong == Wrong::SetAndWithdrawn;
            let change = Change::Withdraw { rule: *id };
            if (*id > server.given || was_set) && self.truths.after(world.truth, change).is_some() {
                steps.push(Step::Withdraw {
                    member: at,
                    id: *id,
                });
            }
        }
        if world.changes < self.bounds.changes {
            let newest = truth.live.last().map(|live| live.2);
            for rule in self.contents(world, at, 0xF) {
                if newest != Some(rule) {
                    steps.push(Step::Propose(rule));
                }
            }
        }
    }

    /// The leader activates by what the primary told of the newest rule.
    fn activation(&self, world: &World, truth: &Truth, at: usize) -> Option<Change> {
        let it = &world.members[at];
        // X is the newest rule's that was set; `given` may stand above it after a Withdraw.
        let set = truth.live.iter().rev().find(|live| {
            live.1 == truth.epoch && live.0 <= it.server.given && Some(live.2) == it.server.newest
        });
        let (mut rule, mut x) = (set.map_or(0, |live| live.0), it.server.x);
        if self.wrong == Wrong::OlderRuleApplied {
            rule = it.server.given;
        }
        let is_first = !truth.is_activated;
        let is_rash = self.wrong == Wrong::ActivatedBeforeX && !is_first
            || self.wrong == Wrong::NoActivationBarrier && is_first;
        if is_rash && self.wrong == Wrong::NoActivationBarrier {
            rule = truth.live.iter().find(|live| live.1 == truth.epoch)?.0;
            x = Some(it.wal.len());
        }
        let (x, content) = (x?, truth.live.iter().find(|live| live.0 == rule)?.2);
        let mut by = Content::nobody(0);
        for member in 0..self.bounds.members {
            if let Some(life) = content.life_of(member) {
                let told = it.server.replies[member][usize::from(life)];
                let lsn = |position: u8| Lsn(u64::from(position));
                let counts = counts_for(lsn(x), lsn(told), lsn(it.wal.len()));
                let is_blind = self.wrong == Wrong::NameBeforeProvenance && told >= x;
                if counts || is_rash || is_blind {
                    by = by.with(member, life);
                }
            }
        }
        Some(Change::Activate { rule, at: x, by })
    }
}

impl Model for Search {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let mut world = World::first(self.bounds.members, self.bounds.first());
        for step in self.bounds.prefix {
            let mut steps = Vec::new();
            self.actions(&world, &mut steps);
            assert!(steps.contains(step), "{step:?} is none of {steps:?}");
            world = self.next_state(&world, *step).expect("it is possible");
        }
        vec![world]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let truth = self.truths.get(world.truth);
        for at in 0..self.bounds.members {
            match world.members[at].reign {
                Some(epoch) => self.primary_steps(world, &truth, at, epoch, steps),
                None => self.standby_steps(world, &truth, at, steps),
            }
        }
        if truth.epoch < self.bounds.epochs {
            if truth.is_granted {
                steps.push(Step::Revoke);
            } else {
                self.sealing_steps(world, &truth, steps);
            }
        }
    }

    fn next_state(&self, before: &World, step: Step) -> Option<World> {
        let truth: Arc<Truth> = self.truths.get(before.truth);
        let mut world = before.clone();
        let target = truth.epoch + 1;
        match step {
            Step::Write(at) => {
                world.members[at].wal.push(8 + world.writes);
                world.writes += 1;
                world.acknowledge(at, self.wrong);
            }
            Step::Deliver(at) => {
                let (to, _) = world.members[at].follows?;
                let end = world.members[at].wal.len() + 1;
                world.members[at].wal = world.members[usize::from(to)].wal.cut(end);
                world.reply(to.into(), at, self.wrong);
            }
            Step::Attach { member, to } => {
                world.members[member].follows = Some((to as u8, world.members[to].reign?));
                world.reply(to, member, self.wrong);
            }
            Step::Revoke => world.truth = self.truths.after(world.truth, Change::Revoke)?,
            Step::Promise(at) => world.members[at].promise = target,
            Step::Report(at) => {
                if self.wrong != Wrong::SealedWithReceiver {
                    world.members[at].follows = None;
                }
                world.held[at] = Some(world.held_of(at, target));
            }
            Step::FastForward { member, from } => {
                world.members[member].wal = world.members[from].wal;
                world.held[member] = None;
            }
            Step::Grant {
                member,
                among,
                first,
            } => {
                let change = self.grant(before, member, among, first, target);
                world.truth = self.truths.after(world.truth, change)?;
                if self.wrong != Wrong::ReportReused {
                    world.held = [None; MOST];
                }
            }
            Step::Promote { member, epoch } => {
                let fork = world.members[member].wal.len();
                world.promote(member, epoch);
                let change = Change::Promoted {
                    member: member as u8,
                    epoch,
                    fork,
                };
                world.truth = self
                    .truths
                    .after(world.truth, change)
                    .unwrap_or(world.truth);
            }
            Step::Propose(rule) => {
                world.changes += 1;
                world.truth = self.truths.after(world.truth, Change::Propose(rule))?;
            }
            Step::SetRule { member, id } => {
                let rule = truth.live.iter().find(|live| live.0 == id)?.2;
                let keeps = (self.wrong == Wrong::OlderRuleApplied).then_some((
                    world.members[member].server.given,
                    world.members[member].server.x,
                ));
                world.set_rule(member, id, rule, self.wrong);
                // The leader still holds X of the newer rule.
                if let Some((given, x)) = keeps.filter(|(given, _)| *given > id) {
                    world.members[member].server.given = given;
                    world.members[member].server.x = x;
                }
            }
            Step::InForce(at) => world.in_force(at),
            Step::Activate(at) => {
                let change = self.activation(before, &truth, at)?;
                world.truth = self.truths.after(world.truth, change)?;
                world.members[at].server.open = true;
                // Whatever is in it can be read from now on, whoever was told before.
                if !truth.is_activated {
                    let wal = world.members[at].wal;
                    world.told |= wal.writes(wal.len());
                }
            }
            Step::Withdraw { member, id } => {
                let server = &mut world.members[member].server;
                server.given = server.given.max(id);
                world.truth = self
                    .truths
                    .after(world.truth, Change::Withdraw { rule: id })?;
            }
            Step::Stop(at) => world.stop(at),
            Step::Clone { member, from } => self.renew(&mut world, member, from, false)?,
            Step::Rewind { member, from } => self.renew(&mut world, member, from, true)?,
        }
        Some(world)
    }

    fn properties(&self) -> Vec<Property<Search>> {
        vec![
            Property::always("no told write is missing", |search: &Search, world| {
                search.has_all_told(world)
            }),
            Property::always(
                "a promoted one has all that was told",
                |search: &Search, world| search.has_all_told_when_promoted(world),
            ),
            Property::always("a timeline is opened once", |_, world: &World| {
                !world.is_opened_twice && world.has_one_history()
            }),
            Property::sometimes("another member serves", |search: &Search, world| {
                search.serves(world, |truth| truth.holder != 0)
            }),
            Property::sometimes("the same member serves again", |search: &Search, world| {
                search.serves(world, |truth| truth.holder == 0 && truth.epoch > 1)
            }),
            Property::sometimes("the last epoch serves", |search: &Search, world| {
                search.serves(world, |truth| truth.epoch == search.bounds.epochs)
            }),
            Property::sometimes(
                "a write is confirmed in a later epoch",
                |search: &Search, world| {
                    search.serves(world, |truth| truth.epoch > 1)
                        && world.told != 0
                        && world.told & !world.members[0].wal.writes(u8::MAX) != 0
                },
            ),
            Property::sometimes(
                "nobody confirms, by the protocol",
                |search: &Search, world| search.serves(world, |truth| truth.live[0].2.k() == 0),
            ),
            Property::sometimes("two confirm", |search: &Search, world| {
                search.serves(world, |truth| truth.live[0].2.k() == 2)
            }),
            Property::sometimes("the old primary follows", |_, world: &World| {
                world.members[0].follows.is_some()
            }),
            Property::sometimes("a new life confirms", |search: &Search, world| {
                search.serves(world, |truth| {
                    (0..MOST).any(|it| truth.live[0].2.life_of(it) > Some(0))
                })
            }),
        ]
    }
}

impl Search {
    fn renew(&self, world: &mut World, member: usize, from: usize, is_rewind: bool) -> Option<()> {
        world.renew(member, from, is_rewind);
        let life = world.members[member].life;
        let change = Change::Describe {
            member: member as u8,
            life,
        };
        world.truth = self.truths.after(world.truth, change)?;
        Some(())
    }

    /// An activated primary, of which this is so.
    fn serves(&self, world: &World, is_so: impl Fn(&Truth) -> bool) -> bool {
        let truth = self.truths.get(world.truth);
        truth.is_activated && world.members[truth.holder].server.open && is_so(&truth)
    }

    /// The activated primary of the newest epoch has every write anybody was told of.
    fn has_all_told(&self, world: &World) -> bool {
        !self.truths.get(world.truth).is_activated || self.has_all_told_when_promoted(world)
    }

    /// The same of one that is merely promoted: stronger, and sooner seen.
    fn has_all_told_when_promoted(&self, world: &World) -> bool {
        let truth = self.truths.get(world.truth);
        let primary = &world.members[truth.holder];
        primary.reign != Some(truth.epoch)
            || world.told & !primary.wal.writes(primary.wal.len()) == 0
    }
}

/// What a search found.
pub struct Found {
    pub states: usize,
    pub edges: usize,
    pub depth: usize,
    pub truths: usize,
    pub took: Duration,
    pub is_complete: bool,
    /// Which situations were met: a search that meets none proves nothing.
    pub reached: Vec<&'static str>,
    /// What was broken, and the steps to it.
    pub counterexample: Option<(&'static str, Vec<Step>)>,
}

pub fn search(bounds: Bounds, wrong: Wrong, threads: usize, limit: Duration) -> Found {
    let begun = std::time::Instant::now();
    let checker = Search::new(bounds, wrong)
        .checker()
        .threads(threads)
        .timeout(limit)
        .finish_when(HasDiscoveries::AnyFailures)
        .spawn_bfs()
        .join();
    let took = begun.elapsed();
    let properties = checker.model().properties();
    let is_failure = |name: &str| {
        properties
            .iter()
            .any(|it| it.name == name && it.expectation.discovery_is_failure())
    };
    let (mut counterexample, mut reached) = (None, Vec::new());
    for (name, path) in checker.discoveries() {
        if is_failure(name) {
            counterexample = Some((name, path.into_actions()));
        } else {
            reached.push(name);
        }
    }
    reached.sort_unstable();
    Found {
        states: checker.unique_state_count(),
        edges: checker.state_count(),
        depth: checker.max_depth(),
        truths: checker.model().truths.count(),
        is_complete: counterexample.is_none() && took < limit,
        took,
        reached,
        counterexample,
    }
}
