//! Synchronous replication in the simulation: walsenders that take a new value one by one, flush
//! replies that outlive their connection, acknowledgements by the mixture of all values in use, and
//! the primary's daemon around `rule_step`.

use std::collections::BTreeMap;

use cluster_core::decide::rule_setter::{SetterStep, SetterView, first_value, rule_step};
use cluster_core::model::confirmation::{FENCE, Proven, StandbySeen, SyncName, SyncReport};
use cluster_core::model::postgres::{Primary, Sender};
use cluster_core::model::settings::Mode;
use cluster_core::model::{Epoch, Lsn, PostgresStatus, Rule, RuleId, TimelineId};

use crate::mistakes::Mutant;
use crate::network::{MS, Micros, SECOND};
use crate::world::World;

/// So much may be written and not confirmed yet in a healthy cluster: some three seconds' worth.
const UNCONFIRMED: u64 = 50_000;

/// One connection of a standby, or what is left of it.
#[derive(Clone, Debug)]
pub struct Walsender {
    pub node: usize,
    pub started: Micros,
    pub is_connected: bool,
    /// Gone since, or behind since.
    pub late_since: Option<Micros>,
    /// What has to be flushed to be in time, and what proves that it streams.
    pub target: Lsn,
    pub proof: Lsn,
    pub proven_since: Option<Micros>,
    pub flushed: Lsn,
    /// Gone or gray once, by the same name.
    pub has_failed: bool,
    /// When it takes the newest value.
    pub takes_at: Micros,
    /// The priority by the value it works by.
    pub is_named: bool,
}

/// What lives as long as one PostgreSQL process out of recovery.
#[derive(Clone, Debug)]
pub struct Commits {
    pub epoch: Epoch,
    pub started: Micros,
    pub text: String,
    /// The rule of the text; none = the fence.
    pub newest: Option<Rule>,
    pub given: RuleId,
    pub reloaded: Micros,
    /// Values some walsender may still work by; none of them is proven gone.
    pub evaluated: Vec<Rule>,
    pub senders: BTreeMap<SyncName, Walsender>,
    pub canary_waited: bool,
    /// Everything up to here was acknowledged.
    pub acknowledged: Lsn,
}

impl Commits {
    /// With the fence everything waits until a rule is set; a first rule may be in force at once.
    pub fn new(epoch: Epoch, now: Micros, text: String, first: Option<Rule>) -> Commits {
        Commits {
            epoch,
            started: now,
            text,
            given: first.as_ref().map_or(RuleId(0), |rule| rule.id),
            evaluated: first.iter().cloned().collect(),
            newest: first,
            reloaded: now,
            senders: BTreeMap::new(),
            canary_waited: false,
            acknowledged: Lsn::ZERO,
        }
    }

    fn set(&mut self, rule: Option<Rule>, text: String, now: Micros, delays: &[Micros]) {
        self.text = text;
        if let Some(rule) = &rule {
            self.given = rule.id;
            self.evaluated.push(rule.clone());
        }
        self.newest = rule;
        self.reloaded = now + 1;
        for (sender, delay) in self.senders.values_mut().zip(delays) {
            sender.takes_at = now + delay;
        }
    }

    /// Walsenders whose time has come work by the newest value.
    fn take(&mut self, now: Micros) {
        let newest = self.newest.as_ref();
        for (name, sender) in &mut self.senders {
            if sender.takes_at <= now {
                sender.is_named = newest.is_some_and(|rule| counts(rule, name));
            }
        }
    }

    /// What PostgreSQL acknowledges now: the smallest k of all values in use, over all their names.
    fn acknowledge(&mut self, end: Lsn, is_alone: bool) {
        let joint;
        let rule = match &self.evaluated[..] {
            [] => return,
            [one] => one,
            several => {
                joint = Rule::joint(several);
                let Some(joint) = &joint else { return };
                joint
            }
        };
        let k = if is_alone { 0 } else { rule.k };
        let mut flushed: Vec<Lsn> = self
            .senders
            .iter()
            .filter(|(name, _)| counts(rule, name))
            .map(|(_, it)| it.flushed)
            .collect();
        flushed.sort_unstable_by(|left, right| right.cmp(left));
        let upto = match k {
            0 => Some(end),
            k => flushed.get(k as usize - 1).copied(),
        };
        self.acknowledged = self.acknowledged.max(upto.unwrap_or_default());
    }
}

/// A rule counts this connection.
fn counts(rule: &Rule, name: &SyncName) -> bool {
    rule.epoch == name.epoch && rule.set.get(&name.member) == Some(&name.incarnation)
}

impl World {
    /// Commits wait for somebody now.
    pub fn is_sync(&self) -> bool {
        self.truth.newest().settings.mode != Mode::Async
    }

    /// They do so now and then.
    fn has_commits(&self) -> bool {
        self.kind.mode != Mode::Async
    }

    /// PostgreSQL left recovery.
    pub fn begin_commits(&mut self, node: usize, timeline: TimelineId) {
        let ledger = &self.truth.newest().ledger;
        let epoch = ledger.entry(timeline).map(|entry| entry.epoch);
        if let (true, Some(epoch)) = (self.has_commits(), epoch) {
            let host = &self.nodes[node];
            let is_held = host.holder.epoch == epoch && host.holder.valid_until > self.local(node);
            let newest = host.mind.confirmed_newest.filter(|_| is_held);
            let state = self.state_of(node);
            let (given, text) = first_value(state, epoch, newest);
            let first = state.live_rules.iter().find(|rule| rule.id == given);
            let commits = Commits::new(epoch, self.now, text, first.cloned());
            self.nodes[node].postgres.commits = Some(commits);
        }
    }

    /// A standby's receiver has flushed what it got; the reply is on its way no longer.
    pub fn reply(&mut self, node: usize, primary: usize, epoch: Epoch) {
        if !self.has_commits() {
            return;
        }
        let Some(incarnation) = self.nodes[node].durable.incarnation else {
            return;
        };
        let name = SyncName {
            member: self.names[node].clone(),
            incarnation,
            epoch,
        };
        let delay = self.delay();
        let now = self.now;
        let (source, host) = crate::raft::pair(&mut self.nodes, primary, node);
        let (Some(commits), Some(mine), Some(theirs)) = (
            &mut source.postgres.commits,
            &host.postgres.data,
            &source.postgres.data,
        ) else {
            return;
        };
        let (flushed, end) = (mine.end, theirs.end);
        let fresh = || Walsender {
            node,
            started: now,
            is_connected: false,
            late_since: None,
            target: end,
            proof: Lsn(end.0 + 1),
            proven_since: None,
            has_failed: false,
            flushed,
            takes_at: now + delay,
            is_named: false,
        };
        let sender = commits.senders.entry(name).or_insert_with(fresh);
        if !sender.is_connected {
            *sender = Walsender {
                flushed: sender.flushed.max(flushed),
                is_connected: true,
                late_since: sender.late_since,
                has_failed: sender.late_since.is_some(),
                ..fresh()
            };
        }
        sender.flushed = sender.flushed.max(flushed);
        if flushed >= sender.proof {
            sender.proven_since.get_or_insert(now);
        }
        if flushed >= sender.target {
            sender.late_since = None;
            sender.target = end;
        }
    }

    fn delay(&mut self) -> Micros {
        match self.random.below(10) {
            0 => self.random.between(100 * MS, SECOND),
            _ => self.random.between(MS, 60 * MS),
        }
    }

    /// Walsenders and acknowledgements of one tick; also on a zombie.
    pub fn advance_commits(&mut self, node: usize) {
        if self.nodes[node].postgres.commits.is_none() {
            return;
        }
        if self.nodes[node].postgres.writable().is_none() {
            self.nodes[node].postgres.commits = None;
            return;
        }
        let connected: Vec<bool> = (0..self.nodes.len())
            .map(|other| self.receives_from(other, node))
            .collect();
        let now = self.now;
        let is_alone = self.mutant == Mutant::AcknowledgesAlone;
        let host = &mut self.nodes[node];
        let (Some(commits), Some(data)) = (&mut host.postgres.commits, &mut host.postgres.data)
        else {
            return;
        };
        // The nudge: something to confirm, also before clients come in.
        data.end.0 += 8;
        for sender in commits.senders.values_mut() {
            sender.is_connected &= connected[sender.node];
            if !sender.is_connected {
                sender.proven_since = None;
                sender.is_named = false;
            }
            if !sender.is_connected || sender.flushed < sender.target {
                sender.late_since.get_or_insert(now);
            }
        }
        commits.take(now);
        let (end, before) = (data.end, commits.acknowledged);
        commits.acknowledge(end, is_alone);
        let has_grown = commits.acknowledged > before;
        let line = data.line.last().copied();
        // Up to where it begins the timeline has nothing of its own.
        if let Some((timeline, begin)) = line {
            let (epoch, told) = (commits.epoch, commits.acknowledged);
            if told > begin {
                self.told(epoch, timeline, told);
            }
            if has_grown {
                self.check_least(node);
            }
        }
    }

    /// Its walreceiver is connected to this server.
    fn receives_from(&self, node: usize, primary: usize) -> bool {
        let host = &self.nodes[node];
        let crate::postgres::Process::Recovery(recovery) = &host.postgres.process else {
            return false;
        };
        host.host_up
            && !host.host_frozen
            && recovery.is_streaming
            && recovery.receiver.is_some_and(|to| to.member == primary)
    }

    /// What a look at the primary shows of its commits.
    pub fn fill_primary(&self, node: usize, primary: &mut Primary) {
        let Some(commits) = &self.nodes[node].postgres.commits else {
            return;
        };
        primary.sync_names.clone_from(&commits.text);
        primary.started_unix_ms = commits.started;
        primary.senders = commits
            .senders
            .iter()
            .filter(|(_, sender)| sender.is_connected)
            .map(|(name, sender)| Sender {
                application_name: name.to_string(),
                user: String::new(),
                client: String::new(),
                state: "streaming".to_owned(),
                sync_state: String::new(),
                sync_priority: u32::from(sender.is_named),
                sent: sender.flushed,
                flushed: sender.flushed,
                replayed: sender.flushed,
                started_unix_ms: sender.started,
                slot: None,
                pid: 0,
            })
            .collect();
    }

    /// The primary's daemon does the next step of a rule change.
    pub fn set_rule(&mut self, node: usize) {
        if self.nodes[node].postgres.commits.is_none() || self.nodes[node].mind.next_rule > self.now
        {
            return;
        }
        let pause = self.random.between(20 * MS, 80 * MS);
        self.nodes[node].mind.next_rule = self.now + pause;
        let look = self.look(node);
        let PostgresStatus::Primary(primary) = &look.postgres else {
            return;
        };
        let host = &self.nodes[node];
        let Some(commits) = &host.postgres.commits else {
            return;
        };
        let now = self.local(node);
        let is_held = host.holder.epoch == commits.epoch && host.holder.valid_until > now;
        let step = rule_step(&SetterView {
            state: &look.state,
            epoch: commits.epoch,
            confirmed_newest: host.mind.confirmed_newest.filter(|_| is_held),
            primary,
            given: commits.given,
            reloaded_unix_ms: Some(commits.reloaded),
            canary_waited: commits.canary_waited,
        });
        let newest = look
            .state
            .live_rules
            .iter()
            .rev()
            .find(|rule| rule.epoch == commits.epoch)
            .cloned();
        self.take_step(node, step, newest);
    }

    fn take_step(&mut self, node: usize, step: SetterStep, newest: Option<Rule>) {
        let count = self.names.len();
        let delays: Vec<Micros> = (0..count).map(|_| self.delay()).collect();
        let now = self.now;
        let host = &mut self.nodes[node];
        let (Some(commits), Some(data)) = (&mut host.postgres.commits, &host.postgres.data) else {
            return;
        };
        let (end, epoch) = (data.end, commits.epoch);
        let text = self.trace.is_some().then(|| format!("{step:?}"));
        let mut is_new = true;
        match step {
            SetterStep::Rest { .. } | SetterStep::AwaitRenewal => is_new = false,
            SetterStep::SetFence => {
                commits.canary_waited = false;
                commits.set(None, FENCE.to_owned(), now, &delays);
            }
            // Seen once the backends have read the file; from then on nobody passes.
            SetterStep::Canary => commits.canary_waited = true,
            SetterStep::Set { rule, text } => {
                commits.set(newest, text, now, &delays);
                commits.canary_waited = false;
                host.mind.proven = None;
                self.check_set(node, rule, epoch);
            }
            SetterStep::AwaitWalsenders { names } => {
                is_new = false;
                for name in names {
                    // Ended; it comes back and knows the newest value from its start.
                    let name = name.parse();
                    if let Some(sender) = name.ok().and_then(|it| commits.senders.get_mut(&it)) {
                        sender.is_connected = false;
                    }
                }
            }
            SetterStep::Prove { rule } => {
                is_new = host.mind.proven.is_none_or(|proven| proven.rule != rule);
                if is_new {
                    commits.evaluated.retain(|it| it.id == rule);
                    host.mind.proven = Some(Proven { rule, x: end });
                }
            }
            SetterStep::Foreign { .. } | SetterStep::Poisoned { .. } => {
                self.violated(&format!("X28: {step:?}"));
                return;
            }
        }
        if let (true, Some(text)) = (is_new, text) {
            self.say(node, || text);
        }
    }

    /// What the primary tells the leader of its commits.
    pub fn sync_report(&self, node: usize) -> Option<SyncReport> {
        let host = &self.nodes[node];
        let commits = host.postgres.commits.as_ref()?;
        let age = |since: Micros| (self.now - since) / 1000;
        // A receiver of an older epoch may still be there, under its older name.
        let standbys = commits.senders.iter();
        let standbys = standbys.filter(|(name, _)| name.epoch == commits.epoch);
        let standbys = standbys.map(|(name, sender)| StandbySeen {
            member: name.member.clone(),
            incarnation: name.incarnation,
            is_connected: sender.is_connected,
            proven_for_ms: sender.proven_since.map(age),
            late_for_ms: sender.late_since.map(age).filter(|ms| *ms > 100),
            has_failed: sender.has_failed,
        });
        let mut standbys: Vec<StandbySeen> = standbys.collect();
        let newest = self.state_of(node).live_rules.last();
        for (member, life) in newest.iter().flat_map(|rule| &rule.set) {
            let is_seen = |it: &StandbySeen| it.member == *member && it.incarnation == *life;
            if !standbys.iter().any(is_seen) {
                standbys.push(StandbySeen {
                    member: member.clone(),
                    incarnation: *life,
                    is_connected: false,
                    proven_for_ms: None,
                    late_for_ms: Some(age(commits.started)),
                    has_failed: false,
                });
            }
        }
        Some(SyncReport {
            epoch: commits.epoch,
            started_unix_ms: commits.started,
            given: commits.given,
            proven: host.mind.proven,
            unusable: None,
            standbys,
        })
    }

    /// Fetches from another sealed member what that one has more.
    pub fn fast_forward(&mut self, node: usize, from: usize, step: u8) -> Option<Micros> {
        if step == 0 {
            return Some(self.random.between(30 * MS, 300 * MS));
        }
        let works = |host: &crate::world::Node| {
            host.host_up
                && !host.host_frozen
                && matches!(host.postgres.process, crate::postgres::Process::Recovery(_))
        };
        let can = works(&self.nodes[from])
            && works(&self.nodes[node])
            && self.network.both_ways(node, from);
        let (source, host) = crate::raft::pair(&mut self.nodes, from, node);
        if let (true, Some(theirs), Some(mine)) =
            (can, &source.postgres.data, &mut host.postgres.data)
            && mine.is_prefix_of(theirs)
        {
            mine.end = theirs.end;
            mine.line.clone_from(&theirs.line);
            let newest = self.truth.newest();
            let entry = newest.ledger.entry(theirs.timeline());
            host.durable.line = host.durable.line.max(entry.map(|entry| entry.epoch));
            host.mind.seal = None;
            self.coverage.count("world", "fast-forwarded");
        }
        None
    }

    /// Nothing that was written lately is left unacknowledged on the open primary.
    pub fn commits_wait(&self, primary: usize) -> bool {
        let host = &self.nodes[primary];
        let (Some(commits), Some(data)) = (&host.postgres.commits, &host.postgres.data) else {
            return self.is_sync();
        };
        data.end.0.saturating_sub(commits.acknowledged.0) > UNCONFIRMED
    }
}
