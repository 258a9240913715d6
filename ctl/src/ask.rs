//! One request of an operator from the question to its end: recorded under an id that is chosen here,
//! followed over broken connections and changes of the leader, shown on stderr while it goes on.

use std::io::IsTerminal as _;
use std::time::Duration;

use cluster_proto::v1::{AskProgress, AskRequest, RequestKind, RequestStep, request_kind};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;

use crate::args::{Change, Waiting};
use crate::client::{Client, is_broken_connection};
use crate::exit::{Kind, Stop};
use crate::output::Report;
use crate::time::{bytes, length};
use crate::view::step_word;

/// How long a member is given to record a request, besides the time to wait for its end.
const RECORD_LIMIT: Duration = Duration::from_secs(10);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(300);

/// Who asks, and why.
pub fn by(reason: Option<&str>) -> String {
    let user = nix::unistd::User::from_uid(nix::unistd::Uid::effective())
        .ok()
        .flatten();
    let user = user.map_or_else(|| "unknown".to_owned(), |user| user.name);
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match reason {
        Some(reason) => format!("{user}@{}: {reason}", host.trim()),
        None => format!("{user}@{}", host.trim()),
    }
}

/// What is asked, in words and for the wire.
pub struct Asking {
    /// For the wire.
    pub kind: request_kind::Kind,
    /// `switchover to n2`.
    pub what: String,
    /// Who must be primary; empty does not check.
    pub expected_primary: String,
}

/// Asks, follows it to its end, says what happened.
///
/// # Errors
/// Refused, failed, unreachable, or its end is unknown.
pub async fn ask(
    client: &Client,
    asking: Asking,
    change: &Change,
    waiting: Waiting,
) -> Result<Report, Stop> {
    let limit = if waiting.no_wait || change.dry_run {
        Duration::ZERO
    } else {
        waiting.timeout
    };
    let request = AskRequest {
        request_id: format!("{:016x}", rand::random::<u64>()),
        kind: Some(RequestKind {
            kind: Some(asking.kind),
        }),
        by: by(change.reason.as_deref()),
        dry_run: change.dry_run,
        wait_ms: u32::try_from(limit.as_millis()).unwrap_or(u32::MAX),
        expected_primary: asking.expected_primary,
    };
    let mut attempt = Attempt {
        client,
        deadline: Instant::now() + limit + RECORD_LIMIT,
        display: Display::new(&asking.what),
        was_sent: false,
        last: None,
        request,
    };
    let end = attempt.until_it_ends().await;
    attempt.display.clear();
    let last = end?;
    match last.step() {
        RequestStep::Failed => Err(Stop::new(
            Kind::Failed,
            format!("{}: {}", asking.what, last.text),
        )),
        _ if change.dry_run => Ok(dry_run_report(&asking.what, &last)),
        _ => Ok(done_report(
            &asking.what,
            &attempt.request.request_id,
            &last,
        )),
    }
}

fn dry_run_report(what: &str, last: &AskProgress) -> Report {
    let mut human = format!("Would do: {what}\n");
    if !last.text.is_empty() {
        human.push_str(&format!("  {}\n", last.text));
    }
    for note in &last.notes {
        human.push_str(&format!("  - {note}\n"));
    }
    human.push_str("Nothing was changed.\n");
    let mut rows = vec![vec!["note".to_owned()]];
    rows.extend(last.notes.iter().map(|note| vec![note.clone()]));
    let data = serde_json::json!({
        "dry_run": true, "what": what, "to": last.to, "text": last.text, "notes": last.notes,
    });
    Report { human, data, rows }
}

fn done_report(what: &str, id: &str, last: &AskProgress) -> Report {
    let step = step_word(last.step());
    let human = match (last.step(), last.text.as_str()) {
        (RequestStep::Done, "") => format!("Done: {what}\n"),
        (RequestStep::Done, text) => format!("Done: {text}\n"),
        (_, _) => {
            format!("Recorded as request {id}: {what}. `clusterctl status` shows how far it is.\n")
        }
    };
    let columns = ["request", "step", "to", "epoch", "text"];
    let cells = [id, step, &last.to, &last.epoch.to_string(), &last.text];
    Report {
        human,
        data: serde_json::json!({
            "request": id, "step": step, "to": last.to, "epoch": last.epoch, "text": last.text,
        }),
        rows: vec![
            columns.map(str::to_owned).to_vec(),
            cells.map(str::to_owned).to_vec(),
        ],
    }
}

/// The same request, sent until its end is known.
struct Attempt<'a> {
    client: &'a Client,
    request: AskRequest,
    deadline: Instant,
    display: Display,
    /// It may have been recorded.
    was_sent: bool,
    last: Option<AskProgress>,
}

impl Attempt<'_> {
    async fn until_it_ends(&mut self) -> Result<AskProgress, Stop> {
        // Refused on our own side: nobody is asked.
        self.client.authorised(())?;
        let mut turn = 0;
        loop {
            let order = rotated(self.client.endpoints(), turn);
            turn += 1;
            let answer = tokio::time::timeout_at(self.deadline, self.once(&order)).await;
            match answer {
                Ok(Ok(Some(last))) => return Ok(last),
                // The stream ended early, or nobody could record it: ask again with the same id.
                Ok(Ok(None)) => {}
                Ok(Err(stop)) if stop.kind == Kind::Unreachable && !self.was_sent => {
                    if self.deadline.saturating_duration_since(Instant::now()) < PAUSE || turn >= 3
                    {
                        return Err(stop);
                    }
                }
                Ok(Err(stop)) if stop.kind == Kind::Unreachable => {}
                Ok(Err(stop)) => return Err(stop),
                Err(_) => return Err(self.unknown()),
            }
            if self.deadline.saturating_duration_since(Instant::now()) < PAUSE {
                return Err(self.unknown());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn unknown(&self) -> Stop {
        let id = &self.request.request_id;
        let so_far = match &self.last {
            Some(last) => format!("last seen: {} {}", step_word(last.step()), last.text),
            None if self.was_sent => "no word of it came back".to_owned(),
            None => return Stop::new(Kind::Unreachable, "no member took the request"),
        };
        Stop::new(
            Kind::TimedOut,
            format!(
                "request {id} had not ended ({}). It goes on: `clusterctl status` shows how far it is, \
                 `clusterctl cancel {id}` takes it back",
                so_far.trim()
            ),
        )
    }

    /// One connection. `None`: it ended before the request did.
    async fn once(&mut self, order: &[String]) -> Result<Option<AskProgress>, Stop> {
        let mut nobody = Stop::new(Kind::Unreachable, "no member answered");
        for address in order {
            let mut admin = match self.client.connect(address).await {
                Ok(admin) => admin,
                Err(stop) if stop.kind == Kind::Unreachable => {
                    nobody = stop;
                    continue;
                }
                Err(stop) => return Err(stop),
            };
            let request = self.client.authorised(self.request.clone())?;
            let mut stream = match admin.ask(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) if is_broken_connection(&status) => {
                    self.was_sent = true;
                    return Ok(None);
                }
                Err(status) => return Err(Stop::from_status(&status)),
            };
            self.was_sent = true;
            loop {
                match stream.message().await {
                    Ok(Some(progress)) => {
                        self.display.show(&progress);
                        let is_end =
                            matches!(progress.step(), RequestStep::Done | RequestStep::Failed);
                        self.last = Some(progress);
                        if is_end {
                            return Ok(self.last.clone());
                        }
                    }
                    Ok(None) if self.request.dry_run || self.request.wait_ms == 0 => {
                        return Ok(self.last.clone());
                    }
                    Ok(None) => return Ok(None),
                    Err(status) if is_broken_connection(&status) => return Ok(None),
                    Err(status) => {
                        let stop = Stop::from_status(&status);
                        return match stop.kind {
                            Kind::TimedOut => Err(self.unknown()),
                            _ => Err(stop),
                        };
                    }
                }
            }
        }
        Err(nobody)
    }
}

/// Another member first each time: one that hangs must not be asked for ever.
fn rotated(endpoints: &[String], turn: usize) -> Vec<String> {
    let start = turn % endpoints.len().max(1);
    endpoints[start..]
        .iter()
        .chain(&endpoints[..start])
        .cloned()
        .collect()
}

/// What is seen while it goes on: a spinner or bar on a terminal, else one line a step.
struct Display {
    bar: Option<ProgressBar>,
    said: String,
}

impl Display {
    fn new(what: &str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            bar.set_style(spinner());
            bar.set_message(what.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Self {
            bar,
            said: String::new(),
        }
    }

    fn show(&mut self, progress: &AskProgress) {
        let mut line = step_word(progress.step()).to_owned();
        if !progress.text.is_empty() {
            line = format!("{line}: {}", progress.text);
        }
        let Some(bar) = &self.bar else {
            if line != self.said {
                eprintln!("{line}");
                self.said = line;
            }
            return;
        };
        if let Some(busy) = &progress.busy {
            match (busy.done_bytes, busy.total_bytes) {
                (Some(done), Some(total)) if total > 0 => {
                    bar.set_style(bytes_bar());
                    bar.set_length(total);
                    bar.set_position(done);
                    line = format!("{} {} of {}", busy.with, bytes(done), bytes(total));
                }
                _ => line = format!("{} for {}", busy.with, length(busy.for_ms)),
            }
        } else {
            bar.set_style(spinner());
        }
        bar.set_message(line);
    }

    fn clear(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn spinner() -> ProgressStyle {
    ProgressStyle::with_template("{spinner} {msg} ({elapsed})")
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
}

fn bytes_bar() -> ProgressStyle {
    ProgressStyle::with_template("{bar:30} {percent}% {msg} ({eta} left)")
        .unwrap_or_else(|_| ProgressStyle::default_bar())
}
