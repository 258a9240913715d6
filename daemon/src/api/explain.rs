//! Why one member is not primary, does not confirm commits, and what it waits for: the answers of the
//! decisions' own code, as `GetStatus` carries them, put together for one member. Pure.

use cluster_proto::v1;
use cluster_proto::v1::explanation::Line;

/// Code of the line about a member that has not been heard lately.
const NOT_HEARD: &str = "not-heard";

/// The role as `clusterctl` prints it.
pub fn role_word(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "unknown",
        v1::Role::Primary => "primary",
        v1::Role::Standby => "standby",
        v1::Role::SyncStandby => "sync standby",
        v1::Role::QuorumStandby => "quorum standby",
        v1::Role::Witness => "witness",
    }
}

fn line(code: &str, text: impl Into<String>) -> Line {
    Line {
        code: code.to_owned(),
        text: text.into(),
    }
}

/// What there is to say of a member, most important first.
pub fn member(status: &v1::Status, it: &v1::MemberStatus) -> Vec<Line> {
    let mut lines: Vec<Line> = heard(status, it).into_iter().collect();
    if it.role() == v1::Role::Witness {
        lines.push(line("witness", "votes only: it has no PostgreSQL"));
        return lines;
    }
    let holds = status
        .reign
        .as_ref()
        .is_some_and(|reign| reign.holder == it.name && reign.phase == "granted");
    if holds {
        lines.extend(holder(status, it));
    } else {
        lines.push(promotable(status, it));
        lines.push(confirms(status, it));
    }
    lines.extend(waits(status, it));
    // What it decided before it fell silent says nothing about now.
    if lines.first().is_none_or(|line| line.code != NOT_HEARD) && !it.verdict.is_empty() {
        lines.push(line(
            "does",
            format!("its own last decision: {}", it.verdict),
        ));
    }
    lines.extend(callbacks(status, it));
    lines
}

fn heard(status: &v1::Status, it: &v1::MemberStatus) -> Option<Line> {
    match it.report_age_ms {
        None => Some(line(
            NOT_HEARD,
            format!("{} has not been heard by {}", it.name, status.answered_by),
        )),
        Some(age) if age > status.lease_ms => Some(line(
            NOT_HEARD,
            format!(
                "was last heard {}.{} s ago: all else is as it was then",
                age / 1000,
                age % 1000 / 100
            ),
        )),
        Some(_) => None,
    }
}

/// The holder of the newest reign: whether it serves, and what keeps it.
fn holder(status: &v1::Status, it: &v1::MemberStatus) -> Vec<Line> {
    let epoch = status.epoch;
    let is_activated = status.reign.as_ref().is_some_and(|it| it.is_activated);
    let mut lines = vec![match (status.primary == it.name, is_activated) {
        (true, _) => line("is-primary", format!("is the primary of epoch {epoch}")),
        (false, false) => line(
            "not-open",
            format!("was granted epoch {epoch} and lets nobody in before it is activated"),
        ),
        (false, true) => line(
            "not-serving",
            format!(
                "holds epoch {epoch} and does not serve: its PostgreSQL is {}",
                it.state
            ),
        ),
    }];
    if status.confirming.as_ref().is_some_and(|it| it.writes_wait) {
        lines.push(line("writes-wait", "its commits wait for confirmations"));
    }
    lines
}

fn promotable(status: &v1::Status, it: &v1::MemberStatus) -> Line {
    let eligible: Vec<&v1::Candidate> = status
        .candidates
        .iter()
        .filter(|it| it.is_eligible)
        .collect();
    let place = eligible.iter().position(|one| one.member == it.name);
    if let Some(place) = place {
        let text = match place {
            0 => "could be promoted, before all others".to_owned(),
            place => {
                let before: Vec<&str> = eligible[..place]
                    .iter()
                    .map(|one| one.member.as_str())
                    .collect();
                format!("could be promoted, after {}", before.join(", "))
            }
        };
        return line("candidate", text);
    }
    let refused = status.candidates.iter().find(|one| one.member == it.name);
    let reasons = match refused.map(|one| &one.reasons[..]) {
        Some(reasons) if !reasons.is_empty() => reasons.join("; "),
        Some(_) | None => "nothing is known of its data".to_owned(),
    };
    line("no-candidate", format!("could not be promoted: {reasons}"))
}

fn confirms(status: &v1::Status, it: &v1::MemberStatus) -> Line {
    if it.confirms {
        return line("confirms", "confirms commits");
    }
    let why = match (status.mode.as_str(), it.why_not_confirming.as_str()) {
        ("async", "") => "in mode async nobody does",
        (_, "") => "there is no rule that names it",
        (_, why) => why,
    };
    line(
        "does-not-confirm",
        format!("does not confirm commits: {why}"),
    )
}

/// What is under way on it.
fn waits(status: &v1::Status, it: &v1::MemberStatus) -> Vec<Line> {
    let mut lines = Vec::new();
    if let Some(busy) = &it.busy {
        let done = match (busy.done_bytes, busy.total_bytes) {
            (Some(done), Some(total)) => format!(", {done} of {total} bytes"),
            (Some(done), None) => format!(", {done} bytes"),
            (None, _) => String::new(),
        };
        let seconds = busy.for_ms / 1000;
        lines.push(line(
            "busy",
            format!("is busy with {} for {seconds} s{done}", busy.with),
        ));
    }
    // Names only: the page is open to everybody.
    if !it.pending.is_empty() {
        let names: Vec<&str> = it.pending.iter().map(|it| it.name.as_str()).collect();
        lines.push(line(
            "pending-restart",
            format!("waits for a restart: {}", names.join(", ")),
        ));
    }
    if !it.parameters_refused.is_empty() {
        lines.push(line(
            "parameters-refused",
            "its PostgreSQL could not start with the parameters of the settings, and runs with those it \
             had before",
        ));
    }
    if it.is_joining {
        lines.push(line(
            "joining",
            "is awaited under a new id with an empty store",
        ));
    }
    let scheduled = status
        .schedules
        .iter()
        .filter(|schedule| match &schedule.work {
            Some(v1::schedule::Work::Switchover(planned)) => {
                planned.to == it.name || planned.from == it.name
            }
            Some(v1::schedule::Work::Restart(restart)) => restart.member == it.name,
            None => false,
        });
    for schedule in scheduled {
        let v1::Schedule { text, due, by, .. } = schedule;
        lines.push(line("scheduled", format!("{text} at {due}, by {by}")));
    }
    let concerns = |request: &&v1::Request| {
        let step = request.step();
        let is_open = step != v1::RequestStep::Done && step != v1::RequestStep::Failed;
        is_open && (request.to == it.name || asked_of(request) == Some(it.name.as_str()))
    };
    for request in status.requests.iter().filter(concerns) {
        lines.push(line(
            "request",
            format!("request {} by {} is under way", request.id, request.by),
        ));
    }
    lines
}

/// Callbacks of its own that went wrong; only it knows of them.
fn callbacks(status: &v1::Status, it: &v1::MemberStatus) -> Vec<Line> {
    let own = status
        .verdicts
        .iter()
        .filter(|_| status.answered_by == it.name);
    let failed = own.filter(|verdict| verdict.code == "callback-failed");
    let lines = failed.map(|it| line("callback-failed", format!("{} {}", it.rule, it.text)));
    lines.collect()
}

/// The member a request names.
fn asked_of(request: &v1::Request) -> Option<&str> {
    use v1::request_kind::Kind;
    match request.kind.as_ref()?.kind.as_ref()? {
        Kind::Switchover(to) => Some(&to.to),
        Kind::Failover(to) => Some(&to.to),
        Kind::Restart(on) | Kind::Reload(on) | Kind::Reinit(on) => Some(&on.member),
        Kind::RestartPending(_) => None,
    }
}
