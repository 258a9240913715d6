//! The world around the rules: members with WAL, receivers and walsenders, in small. No clock: every
//! step is optional and as late as it likes, and an old primary may run for ever.
//!
//! Acknowledging is not a step: a write counts as acknowledged in the first moment PostgreSQL could
//! acknowledge it, which asks more of the protocol than any later moment would.

use std::fmt;

/// The most members a search has.
pub const MOST: usize = 4;
/// The most lives of one data directory.
pub const LIVES: usize = 3;

/// What is made wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrong {
    Nothing,
    /// The Grant looks at the newest live rule only.
    OldRuleNotBlocked,
    /// The Grant looks at the oldest live rule only.
    NewRuleNotBlocked,
    ActivatedBeforeX,
    SealedWithReceiver,
    LsnWithoutTimeline,
    NoActivationBarrier,
    NamesWithoutSlots,
    NoJointRule,
    NameBeforeProvenance,
    GrantReused,
    GrantWithoutIncarnation,
    ReportReused,
    OlderRuleApplied,
    ProposalSupersedes,
    LiveDroppedAtGrant,
    /// Beyond the list: X is read before the rule is proven in force.
    XBeforeInForce,
    /// Beyond the list: a rule that was set is withdrawn.
    SetAndWithdrawn,
    /// Beyond the list: a running primary counts as sealed.
    RunningPrimarySeals,
}

/// k and the lives of the members in the set, packed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Content {
    k: u8,
    /// Four bits a member: life + 1, 0 = not in the set.
    lives: u16,
}

impl Content {
    pub const fn nobody(k: u8) -> Content {
        Content { k, lives: 0 }
    }

    pub const fn with(self, member: usize, life: u8) -> Content {
        let shift = 4 * member;
        Content {
            k: self.k,
            lives: self.lives & !(0xF << shift) | (life as u16 + 1) << shift,
        }
    }

    pub fn k(self) -> u8 {
        self.k
    }

    pub fn life_of(self, member: usize) -> Option<u8> {
        let nibble = (self.lives >> (4 * member) & 0xF) as u8;
        nibble.checked_sub(1)
    }

    pub fn size(self) -> u8 {
        (0..MOST)
            .filter(|member| self.life_of(*member).is_some())
            .count() as u8
    }

    /// What PostgreSQL may mix of two values: the smaller k, both sets [X27].
    fn mixed(self, other: Content) -> Content {
        let mut mixed = self;
        mixed.k = self.k.min(other.k);
        for member in 0..MOST {
            if let Some(life) = other.life_of(member) {
                mixed = mixed.with(member, life);
            }
        }
        mixed
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of [", self.k)?;
        for member in 0..MOST {
            if let Some(life) = self.life_of(member) {
                write!(f, "{}{life}", ['a', 'b', 'c', 'd'][member])?;
            }
        }
        write!(f, "]")
    }
}

/// A sequence of records, packed four bits each: 1..=7 the promotion of that epoch, 8.. a write.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Wal {
    len: u8,
    records: u64,
}

impl Wal {
    pub fn len(self) -> u8 {
        self.len
    }

    fn at(self, place: u8) -> u8 {
        (self.records >> (4 * place) & 0xF) as u8
    }

    pub fn push(&mut self, record: u8) {
        self.records |= u64::from(record) << (4 * self.len);
        self.len += 1;
    }

    pub fn cut(self, len: u8) -> Wal {
        let mut cut = Wal::default();
        for place in 0..len.min(self.len) {
            cut.push(self.at(place));
        }
        cut
    }

    pub fn is_prefix_of(self, other: Wal) -> bool {
        self.len <= other.len && other.cut(self.len) == self
    }

    /// How much two have in common.
    fn common(self, other: Wal) -> u8 {
        (0..self.len.min(other.len))
            .find(|place| self.at(*place) != other.at(*place))
            .unwrap_or(self.len.min(other.len))
    }

    /// The epoch of its last timeline; 0 = the base.
    pub fn line(self) -> u8 {
        (0..self.len)
            .rev()
            .map(|place| self.at(place))
            .find(|record| *record < 8)
            .unwrap_or(0)
    }

    /// The place behind the promotion of `epoch`.
    fn behind(self, epoch: u8) -> u8 {
        (0..self.len)
            .find(|place| self.at(*place) == epoch)
            .map_or(0, |place| place + 1)
    }

    /// The writes in it below `end`, as a mask.
    pub fn writes(self, end: u8) -> u8 {
        (0..self.len.min(end))
            .map(|place| self.at(place))
            .filter(|record| *record >= 8)
            .fold(0, |mask, record| mask | 1 << (record - 8))
    }
}

impl fmt::Debug for Wal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for place in 0..self.len {
            match self.at(place) {
                epoch @ ..8 => write!(f, "P{epoch} ")?,
                write => write!(f, "w{} ", write - 8)?,
            }
        }
        Ok(())
    }
}

/// A running primary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Server {
    /// The rule its walsenders may still evaluate, mixed of all not proven gone; none = the fence.
    pub evaluated: Option<Content>,
    /// The rule set last, and its id.
    pub newest: Option<Content>,
    pub given: u8,
    /// Read after the newest rule was proven in force.
    pub x: Option<u8>,
    /// Clients come in.
    pub open: bool,
    /// The highest flush position ever told under the name of each life of each member.
    pub replies: [[u8; LIVES]; MOST],
}

/// One data directory and its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Member {
    pub wal: Wal,
    pub life: u8,
    /// Durable: no older epoch is acknowledged, no Grant up to `used` is used again.
    pub promise: u8,
    pub used: u8,
    /// Out of recovery, of this epoch.
    pub reign: Option<u8>,
    pub server: Server,
    /// Its receiver: from whom, under the name of which epoch.
    pub follows: Option<(u8, u8)>,
}

/// A seal report as the leader holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    pub life: u8,
    pub target: u8,
    /// The epoch of its last timeline.
    pub line: u8,
    pub end: u8,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    /// Number of the truth.
    pub truth: u32,
    pub members: [Member; MOST],
    /// The leader's memory.
    pub held: [Option<Held>; MOST],
    /// Writes somebody was told of, as a mask: acknowledged, or readable on an open primary.
    pub told: u8,
    pub writes: u8,
    pub changes: u8,
    pub clones: u8,
    /// Timelines opened so far, as a mask; and whether one was opened twice.
    pub opened: u8,
    pub is_opened_twice: bool,
}

impl World {
    /// Everybody has the start of epoch 1 and follows `a`, which serves under `first`.
    pub fn first(members: usize, first: Content) -> World {
        let mut all = [Member::default(); MOST];
        let mut wal = Wal::default();
        wal.push(1);
        for (number, member) in all.iter_mut().enumerate().take(members) {
            member.wal = wal;
            member.follows = (number > 0).then_some((0, 1));
        }
        all[0].reign = Some(1);
        all[0].used = 1;
        all[0].server = Server {
            evaluated: Some(first),
            newest: Some(first),
            given: if first.k() == 0 { 2 } else { 1 },
            x: Some(1),
            open: true,
            replies: [[0; LIVES]; MOST],
        };
        for replies in all[0].server.replies.iter_mut().take(members).skip(1) {
            replies[0] = 1;
        }
        World {
            truth: 0,
            members: all,
            held: [None; MOST],
            told: 0,
            writes: 0,
            changes: 0,
            clones: 0,
            opened: 0b10,
            is_opened_twice: false,
        }
    }

    pub fn held_of(&self, member: usize, target: u8) -> Held {
        let it = &self.members[member];
        Held {
            life: it.life,
            target,
            line: it.wal.line(),
            end: it.wal.len(),
        }
    }

    /// A flush position arrives at the primary.
    pub fn reply(&mut self, primary: usize, from: usize, wrong: Wrong) {
        let member = &self.members[from];
        let (life, end) = (usize::from(member.life), member.wal.len());
        let told = &mut self.members[primary].server.replies[from][life];
        *told = (*told).max(end);
        self.acknowledge(primary, wrong);
    }

    /// Marks what PostgreSQL may acknowledge now.
    pub fn acknowledge(&mut self, primary: usize, wrong: Wrong) {
        let member = &self.members[primary];
        let (Some(epoch), Some(rule)) = (member.reign, member.server.evaluated) else {
            return;
        };
        let wal = member.wal;
        for end in wal.behind(epoch) + 1..=wal.len() {
            let confirmed: u8 = (0..MOST)
                .filter(|other| {
                    rule.life_of(*other)
                        .is_some_and(|life| member.server.replies[*other][usize::from(life)] >= end)
                })
                // A connection that is half dead and its successor count as two [A12].
                .map(|_| {
                    if wrong == Wrong::NamesWithoutSlots {
                        2
                    } else {
                        1
                    }
                })
                .sum();
            if confirmed >= rule.k() {
                self.told |= wal.writes(end) & !wal.writes(end - 1);
            }
        }
    }

    /// The primary's daemon sets a rule; walsenders mix it with what they had.
    pub fn set_rule(&mut self, primary: usize, id: u8, rule: Content, wrong: Wrong) {
        let end = self.members[primary].wal.len();
        let server = &mut self.members[primary].server;
        let is_fence = rule.k() > 0 && rule.size() == 0;
        server.evaluated = match server.evaluated {
            None if is_fence => None,
            None => Some(rule),
            Some(before) => Some(before.mixed(rule)),
        };
        server.newest = Some(rule);
        server.given = id;
        server.x = (wrong == Wrong::XBeforeInForce).then_some(end);
        self.acknowledge(primary, wrong);
    }

    /// Every walsender has taken the newest rule; X is read.
    pub fn in_force(&mut self, primary: usize) {
        let end = self.members[primary].wal.len();
        let server = &mut self.members[primary].server;
        server.evaluated = server.newest;
        server.x = Some(server.x.unwrap_or(end));
    }

    pub fn promote(&mut self, member: usize, epoch: u8) {
        let it = &mut self.members[member];
        it.used = epoch;
        it.wal.push(epoch);
        it.reign = Some(epoch);
        it.server = Server::default();
        it.follows = None;
        let bit = 1 << epoch;
        self.is_opened_twice |= self.opened & bit != 0;
        self.opened |= bit;
    }

    /// Every process of it is gone; it starts again in recovery, sealed.
    pub fn stop(&mut self, primary: usize) {
        self.members[primary].reign = None;
        self.members[primary].server = Server::default();
        for member in &mut self.members {
            if member
                .follows
                .is_some_and(|follows| usize::from(follows.0) == primary)
            {
                member.follows = None;
            }
        }
    }

    /// Another copy, or rewound to what both have: a new life either way.
    pub fn renew(&mut self, member: usize, from: usize, is_rewind: bool) {
        let source = self.members[from].wal;
        let it = &mut self.members[member];
        it.wal = if is_rewind {
            source.cut(it.wal.common(source))
        } else {
            source
        };
        it.life += 1;
        it.follows = None;
        self.clones += 1;
    }

    /// Two members on one timeline have the same bytes as far as both go.
    pub fn has_one_history(&self) -> bool {
        let all = || self.members.iter().filter(|member| member.wal.len() > 0);
        all().all(|one| {
            all().all(|other| {
                one.wal.line() != other.wal.line()
                    || one.wal.is_prefix_of(other.wal)
                    || other.wal.is_prefix_of(one.wal)
            })
        })
    }
}
