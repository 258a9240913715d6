//! `status`: one screen for a bad night. Who is primary and why, how much may still fail, who could
//! take over, what is under way, what this host did not grant.

use std::fmt::Write as _;

use cluster_proto::v1;

use super::{Context, dr};
use crate::exit::Stop;
use crate::output::{Paint, Report};
use crate::time::{bytes, length, moment, now_unix_ms};
use crate::view::{MemberView, StatusView};

/// How many ended requests are shown.
const ENDED_SHOWN: usize = 3;

/// Asks a member and renders its answer.
///
/// # Errors
/// Nobody answered.
pub async fn report(context: &Context) -> Result<Report, Stop> {
    let status = context.status().await?;
    let history = context
        .client
        .read(|mut admin| async move {
            admin
                .get_history(v1::GetHistoryRequest { limit: 100 })
                .await
        })
        .await
        // The time of the last promotion is nice to have; the rest must not wait for it.
        .unwrap_or_default();
    let since = history
        .entries
        .iter()
        .rev()
        .find(|entry| {
            entry.epoch == status.epoch && matches!(&*entry.what, "activated" | "promoted")
        })
        .map(|entry| entry.at_unix_ms);
    Ok(render(&status, since, now_unix_ms(), context.paint))
}

/// The screen. `since`: when the present primary began; `now`: this host's wall clock.
pub fn render(status: &StatusView, since: Option<u64>, now: u64, paint: Paint) -> Report {
    let mut screen = Screen {
        text: String::new(),
        paint,
    };
    screen.head(status, since, now);
    screen.blocked(status);
    screen.members(status);
    screen.candidates(status);
    screen.verdicts(status);
    screen.requests(status);
    screen.unconfirmed(status);
    screen.probes(status);
    screen.not_granted(status);
    let data = serde_json::to_value(status).unwrap_or_default();
    let rows = rows(&data);
    Report {
        human: screen.text,
        data,
        rows,
    }
}

/// The plain values, one a line; lists are for JSON and YAML.
fn rows(data: &serde_json::Value) -> Vec<Vec<String>> {
    let mut rows = vec![vec!["key".to_owned(), "value".to_owned()]];
    for (key, value) in data.as_object().into_iter().flatten() {
        match value {
            serde_json::Value::String(text) => rows.push(vec![key.clone(), text.clone()]),
            serde_json::Value::Number(_) | serde_json::Value::Bool(_) => {
                rows.push(vec![key.clone(), value.to_string()]);
            }
            serde_json::Value::Null
            | serde_json::Value::Array(_)
            | serde_json::Value::Object(_) => {}
        }
    }
    rows
}

struct Screen {
    text: String,
    paint: Paint,
}

impl Screen {
    fn line(&mut self, label: &str, text: &str) {
        let _ = writeln!(self.text, "{label:<12} {text}");
    }

    fn heading(&mut self, text: &str) {
        let _ = writeln!(self.text, "\n{}", self.paint.heading(text));
    }

    fn item(&mut self, text: &str) {
        let _ = writeln!(self.text, "  {text}");
    }

    fn head(&mut self, status: &StatusView, since: Option<u64>, now: u64) {
        let title = match (status.cluster.as_str(), status.system_identifier) {
            ("", _) => "No cluster yet: the group has not formed".to_owned(),
            (name, Some(identifier)) => format!("Cluster {name} ({identifier})"),
            (name, None) => format!("Cluster {name}, no data yet"),
        };
        let title = self.paint.heading(&title);
        let _ = writeln!(self.text, "{title}, as {} sees it\n", status.answered_by);
        let primary = self.primary(status, since, now);
        self.line("Primary", &primary);
        if let Some(pause) = &status.pause {
            let text = format!("since {}, by {}: no automatic failover", pause.at, pause.by);
            let text = self.paint.warn(&text);
            self.line("PAUSED", &text);
        }
        for it in &status.maintenance {
            let text = format!("of {} until {}, by {}", it.member, it.until, it.by);
            let text = self.paint.warn(&text);
            self.line("Maintenance", &text);
        }
        for schedule in &status.schedules {
            let text = format!("{} at {}, by {}", schedule.what, schedule.due, schedule.by);
            self.line("Scheduled", &text);
        }
        if let Some(reign) = &status.reign {
            let stands = match (reign.phase.as_str(), reign.is_activated) {
                ("granted", true) => "open to clients",
                ("granted", false) => "not open to clients yet",
                (phase, _) => phase,
            };
            let mut text = format!(
                "{}, timeline {}, {stands}; granted because: {}",
                reign.epoch, reign.timeline, reign.reason
            );
            if let Some(why) = &reign.ended_because {
                let _ = write!(text, "; ended because: {why}");
            }
            self.line("Epoch", &text);
        }
        let lease = match status.lease_left_ms {
            Some(left) => {
                let fence = status.fence_in_ms.map_or_else(String::new, |left| {
                    format!("; without a renewal fenced in {}", length(left))
                });
                format!(
                    "{} of {} left (preset {}){fence}",
                    length(left),
                    length(status.lease_ms),
                    status.preset
                )
            }
            None => format!(
                "nobody holds it (preset {}, {})",
                status.preset,
                length(status.lease_ms)
            ),
        };
        self.line("Lease", &lease);
        self.durability(status);
        self.archive(status, now);
        self.backups(status, now);
        let leader = status.raft_leader.as_deref().unwrap_or("none known");
        self.line(
            "Raft",
            &format!(
                "leader {leader}, term {}, {} of {} voters heard",
                status.term, status.voters_up, status.voters_total
            ),
        );
        let has_spare = status.voters_up > status.voters_total / 2 + 1;
        let tolerance = &status.failure_tolerance;
        let tolerance = if has_spare {
            tolerance.clone()
        } else {
            self.paint.warn(tolerance)
        };
        self.line("Tolerance", &tolerance);
        if let Some(took) = status.last_failover_ms {
            self.line("Last change", &format!("took {}", length(took)));
        }
    }

    /// Who must confirm commits, who does, and what may be lost now.
    fn durability(&mut self, status: &StatusView) {
        let found = &status.confirming;
        let rule = found.in_force.as_ref();
        let lag = bytes(status.maximum_lag_on_failover_bytes);
        let mode = status.mode.as_str();
        let who = |members: &[String]| match members {
            [] => "nobody".to_owned(),
            members => members.join(", "),
        };
        let mut text = match rule {
            Some(rule) if rule.k == 0 && mode != "async" => self.paint.warn(&format!(
                "{mode}, but NOBODY confirms now: no standby is left, and only the primary itself \
                 could be promoted"
            )),
            Some(rule) if rule.k > 0 => {
                let verb = if found.members.len() > 1 {
                    "confirm"
                } else {
                    "confirms"
                };
                let text = format!(
                    "{mode}: a commit needs {} of {}; {} {verb}",
                    rule.k,
                    who(&rule.members),
                    who(&found.members)
                );
                if found.writes_wait {
                    self.paint.bad(&format!("{text}: WRITES WAIT"))
                } else {
                    text
                }
            }
            Some(_) | None if mode == "async" => format!(
                "async: commits wait for nobody; an automatic failover may lose up to {lag}"
            ),
            Some(_) | None => format!("{mode}: there is no primary, so nobody confirms"),
        };
        if rule.is_some_and(|rule| rule.k < found.wanted_k && rule.k > 0) {
            let _ = write!(text, "; {} are wanted", found.wanted_k);
        }
        self.line("Durability", &text);
        let rules = status.rules.iter().map(|rule| {
            let is_it = found.in_force.as_ref().map(|it| it.id) == Some(rule.id);
            let stands = match (is_it, found.is_proven, found.proposed == Some(rule.id)) {
                (true, true, _) => "; proven in force",
                (true, false, _) => "; in force",
                (false, _, true) => "; proposed",
                (false, _, false) => "",
            };
            let asks = match rule.k {
                0 => "nobody has to confirm".to_owned(),
                k => format!("{k} of {}", who(&rule.members)),
            };
            format!("{} of epoch {} ({asks}{stands})", rule.id, rule.epoch)
        });
        let rules: Vec<String> = rules.collect();
        if !rules.is_empty() {
            self.line("Live rules", &rules.join("; "));
        }
        if rule.is_some() && !found.survivable_standbys_text.is_empty() {
            self.line("Losses now", &found.survivable_standbys_text);
            let text = &found.survivable_with_primary_text;
            let text = match found.survivable_with_primary {
                Some(_) => text.clone(),
                None => self.paint.warn(text),
            };
            self.line("", &text);
        }
    }

    /// Up to when everything is in the repository, and what keeps it from being there.
    fn archive(&mut self, status: &StatusView, now: u64) {
        let primary = status.members.iter().find(|member| member.is_primary());
        let Some(archive) = primary.and_then(|member| member.archive.as_ref()) else {
            return;
        };
        let age = |at: u64| length(now.saturating_sub(at));
        let mut text = match archive.recoverable_unix_ms {
            Some(at) => format!(
                "every commit until {} ({} ago) is in the repository",
                moment(at),
                age(at)
            ),
            None => "nothing of this primary is known to be in the repository yet".to_owned(),
        };
        if let Some(why) = &archive.failure {
            let since = archive.failing_since_unix_ms.map(age);
            let _ = write!(
                text,
                "; FAILS for {}, {} files wait: {why}",
                since.unwrap_or_default(),
                archive.waiting
            );
            text = self.paint.bad(&text);
        } else if archive.waiting > 1 {
            let _ = write!(text, "; {} files wait", archive.waiting);
        }
        self.line("Archive", &text);
    }

    /// What schedules ask for, and how the newest of each stands; what is promised.
    fn backups(&mut self, status: &StatusView, now: u64) {
        if let Some(audit) = &status.audit {
            let (is_good, text) = dr::restorable(audit, now);
            // `dr status` says when all is well.
            if !is_good {
                self.line("Restorable", &self.paint.bad(&text));
            }
        }
        for (name, found) in dr::schedules(status) {
            let (is_good, text) = dr::newest(name, found, now);
            let text = match is_good {
                true => text,
                false => self.paint.bad(&text),
            };
            self.line(name, &text);
        }
        if status.objectives.iter().any(|it| it.limit_ms.is_some()) {
            let (is_kept, text) = dr::sentence(&status.objectives, now);
            let text = match is_kept {
                true => text,
                false => self.paint.bad(&text),
            };
            self.line("Objectives", &text);
        }
    }

    /// Which members are missing, what may be lost without them, and how to go on all the same.
    fn blocked(&mut self, status: &StatusView) {
        let Some(blocked) = &status.blocked else {
            return;
        };
        self.heading("Nobody is promoted: an acknowledged write may be missing");
        for missing in &blocked.missing {
            let silent = match missing.silent_ms {
                Some(ms) => format!("not heard for {}", length(ms)),
                None => "not heard since the Raft leader leads".to_owned(),
            };
            let line = self.paint.bad(&format!("{:<12} {silent}", missing.member));
            self.item(&line);
        }
        self.item("It goes on by itself as soon as enough of them are back.");
        self.item(&format!("At risk without them: {}", blocked.at_risk));
        match &blocked.command {
            Some(command) => self.item(&format!("To accept that loss: {command}")),
            None => self.item("Nobody that is heard could be promoted instead."),
        }
    }

    fn primary(&self, status: &StatusView, since: Option<u64>, now: u64) -> String {
        let Some(name) = &status.primary else {
            let holder = status.reign.as_ref().map(|reign| reign.holder.as_str());
            let text = match (holder, &status.initializer) {
                (Some(holder), _) => {
                    format!("NONE; writes are stopped (the last one was {holder})")
                }
                (None, Some(maker)) => format!("none yet; {maker} makes the first data directory"),
                (None, None) => "none yet".to_owned(),
            };
            return self.paint.bad(&text);
        };
        let address = status
            .member(name)
            .map_or("", |member| member.postgres.as_str());
        let mut text = format!("{} ({address})", self.paint.good(name));
        if let Some(since) = since {
            let age = length(now.saturating_sub(since));
            let _ = write!(text, " since {} ({age})", moment(since));
        }
        text
    }

    fn members(&mut self, status: &StatusView) {
        self.heading("Members");
        let in_force = status.confirming.in_force.as_ref();
        let is_asked = in_force.is_some_and(|rule| status.confirming.wanted_k > 0 || rule.k > 0);
        for member in &status.members {
            let mut line = self.member(member);
            if let Some(why) = member.why_not_confirming.as_ref().filter(|_| is_asked) {
                let _ = write!(line, "; does not confirm: {why}");
            }
            self.item(&line);
        }
    }

    fn member(&self, member: &MemberView) -> String {
        let state = match (member.is_witness(), member.report_age_ms) {
            (_, None) => self.paint.bad("never heard"),
            (_, Some(age)) if member.state == "unknown" => {
                self.paint.bad(&format!("not heard for {}", length(age)))
            }
            (true, Some(_)) => "votes".to_owned(),
            (false, Some(_)) => member.state.clone(),
        };
        let mut text = format!("{:<12} {:<14} {state}", member.name, member.role);
        if !member.is_primary() {
            let has_all = member.replay_lag_bytes == Some(0);
            let received = (member.receive_lag_bytes, member.receive_delay_ms);
            let replayed = (member.replay_lag_bytes, member.replay_delay_ms);
            for (what, did, (behind, late)) in [
                ("receive", "received", received),
                ("replay", "replayed", replayed),
            ] {
                let _ = match (behind, late) {
                    (Some(0), _) if has_all && what == "receive" => Ok(()),
                    (Some(0), _) => write!(text, ", {did} everything"),
                    (Some(lag), Some(late)) if late > 0 => {
                        write!(text, ", {what} {} ({}) behind", bytes(lag), length(late))
                    }
                    (Some(lag), _) => write!(text, ", {what} {} behind", bytes(lag)),
                    (None, _) => Ok(()),
                };
            }
        }
        if member.confirms {
            text.push_str(", confirms commits");
        }
        if let Some(busy) = &member.busy {
            let _ = write!(text, ", {} for {}", busy.with, length(busy.for_ms));
            if let (Some(done), Some(total)) = (busy.done_bytes, busy.total_bytes) {
                let _ = write!(text, " ({} of {})", bytes(done), bytes(total));
            }
        }
        for (is_so, word) in [
            (member.is_raft_leader, "Raft leader"),
            (!member.is_voter, "does not vote"),
            (member.is_joining, "its replacement is awaited"),
        ] {
            if is_so {
                let _ = write!(text, ", {word}");
            }
        }
        if member.pending_restart {
            let _ = write!(text, ", waits for a restart ({})", member.pending_text());
        }
        if let Some(refused) = &member.parameters_refused {
            let _ = write!(
                text,
                ", could not start with {refused}: runs with what it had before"
            );
        }
        if !member.tags.is_empty() {
            let _ = write!(text, " [{}]", member.tags_text());
        }
        text
    }

    fn candidates(&mut self, status: &StatusView) {
        if status.candidates.is_empty() {
            return;
        }
        self.heading("Could be promoted if the primary were lost now");
        for candidate in &status.candidates {
            let word = if candidate.is_eligible {
                self.paint.good("yes")
            } else {
                format!(
                    "{}: {}",
                    self.paint.warn("no"),
                    candidate.reasons.join("; ")
                )
            };
            self.item(&format!("{:<12} {word}", candidate.member));
        }
    }

    fn verdicts(&mut self, status: &StatusView) {
        if status.verdicts.is_empty() {
            return;
        }
        self.heading("Why (last word of each rule)");
        for verdict in &status.verdicts {
            let age = length(verdict.age_ms);
            self.item(&format!(
                "{:<12} {}: {} ({age})",
                verdict.rule, verdict.code, verdict.text
            ));
        }
    }

    fn requests(&mut self, status: &StatusView) {
        let (open, ended): (Vec<_>, Vec<_>) =
            status.requests.iter().partition(|request| request.is_open);
        if !open.is_empty() {
            self.heading("Under way");
        }
        for request in open {
            let member = request.member.as_deref().unwrap_or("the best standby");
            self.item(&format!(
                "{} {} {member}: {} (asked {} by {})",
                request.id, request.verb, request.step, request.at, request.by
            ));
        }
        if !ended.is_empty() {
            self.heading("Lately asked");
        }
        for request in ended.into_iter().take(ENDED_SHOWN) {
            let member = request.member.as_deref().unwrap_or("-");
            let step = match request.step.as_str() {
                "failed" => self.paint.warn("failed"),
                step => step.to_owned(),
            };
            self.item(&format!(
                "{} {member} {step}: {} (asked {} by {})",
                request.verb, request.text, request.at, request.by
            ));
        }
    }

    /// Commits that nobody confirms although the mode says so.
    fn unconfirmed(&mut self, status: &StatusView) {
        let mut lines = Vec::new();
        for member in &status.members {
            let overrides = member.commit_overrides.iter();
            lines.extend(overrides.map(|line| format!("{:<12} {line}", member.name)));
            if member.cancelled_waits > 0 {
                lines.push(format!(
                    "{:<12} {} waits for a confirmation were cancelled since its daemon started",
                    member.name, member.cancelled_waits
                ));
            }
            if member.strangers_ended > 0 {
                lines.push(format!(
                    "{:<12} {} connections confirmed commits under a name that was not theirs; they \
                     were ended",
                    member.name, member.strangers_ended
                ));
            }
        }
        if lines.is_empty() {
            return;
        }
        self.heading("Commits that are not confirmed as the mode promises");
        for line in lines {
            let line = self.paint.warn(&line);
            self.item(&line);
        }
    }

    fn probes(&mut self, status: &StatusView) {
        let sick: Vec<String> = status
            .members
            .iter()
            .flat_map(|member| member.probes.iter().map(move |probe| (member, probe)))
            .filter(|(_, probe)| probe.is_stuck || probe.has_failed)
            .map(|(member, probe)| {
                let how = if probe.has_failed {
                    "fails"
                } else {
                    "is stuck"
                };
                let age = length(probe.last_ok_age_ms);
                format!(
                    "{:<12} {} probe {how}; last success {age} ago",
                    member.name, probe.what
                )
            })
            .collect();
        if sick.is_empty() {
            return;
        }
        self.heading("Disks");
        for line in sick {
            let line = self.paint.bad(&line);
            self.item(&line);
        }
    }

    fn not_granted(&mut self, status: &StatusView) {
        if status.not_granted.is_empty() {
            return;
        }
        self.heading(&format!("The host of {} did not grant", status.answered_by));
        for line in &status.not_granted {
            self.item(line);
        }
    }
}
