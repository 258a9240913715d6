//! `events`: the history as a stream. It goes on at any member after the last event seen, so a member that
//! is lost costs neither an event nor a second copy of one.

use std::ops::ControlFlow;
use std::time::Duration;

use cluster_proto::v1;
use cluster_proto::v1::events_client::EventsClient;
use cluster_proto::v1::follow_events_reply::Told;
use tonic::{Code, Status, Streaming};

use super::Context;
use crate::args::{Events, Format};
use crate::exit::{Kind, Stop};
use crate::output::{Align, Report, part, table};
use crate::view::EventView;

/// Between two attempts, when no member could be followed.
const PAUSE: Duration = Duration::from_secs(1);
/// How long a member may take to begin.
const BEGIN_LIMIT: Duration = Duration::from_secs(3);

const COLUMNS: [(&str, Align); 9] = [
    ("Index", Align::Right),
    ("Time", Align::Left),
    ("Epoch", Align::Right),
    ("What", Align::Left),
    ("Member", Align::Left),
    ("TL", Align::Right),
    ("LSN", Align::Right),
    ("Reason", Align::Left),
    ("Who", Align::Left),
];

/// Runs it.
///
/// # Errors
/// Nobody answered; with `--follow` only before the first answer.
pub async fn run(context: &Context, args: Events) -> Result<(), Stop> {
    let mut reader = Reader {
        context,
        args,
        seen: args.after,
        heading: true,
    };
    if !args.follow {
        return reader.once().await;
    }
    // Somebody must answer once before it is worth to wait.
    let mut found = Ok(reader.any().await?);
    loop {
        let stop = match found {
            Ok((address, stream)) => match reader.follow(&address, stream).await? {
                ControlFlow::Continue(stop) => stop,
                ControlFlow::Break(()) => return Ok(()),
            },
            Err(stop) => stop,
        };
        eprintln!("clusterctl: {}; goes on after what was seen", stop.text);
        tokio::time::sleep(PAUSE).await;
        found = reader.any().await;
    }
}

/// The events as cells.
fn cells(event: &EventView) -> Vec<String> {
    vec![
        event.index.to_string(),
        event.at.clone(),
        event.epoch.to_string(),
        event.what.clone(),
        event.member.clone().unwrap_or_default(),
        event.timeline.map(|it| it.to_string()).unwrap_or_default(),
        event.lsn.clone().unwrap_or_default(),
        event.reason.clone(),
        event.who.clone(),
    ]
}

struct Reader<'a> {
    context: &'a Context,
    args: Events,
    /// Index of the last event shown.
    seen: Option<u64>,
    /// Still to be written.
    heading: bool,
}

impl Reader<'_> {
    /// What there is, as one document.
    async fn once(&mut self) -> Result<(), Stop> {
        let (_, mut stream) = self.any().await?;
        let mut events = Vec::new();
        loop {
            let told = tokio::time::timeout(BEGIN_LIMIT, stream.message()).await;
            let told = told.map_err(|_| Stop::new(Kind::TimedOut, "the member fell silent"))?;
            match told.map_err(|status| Stop::from_status(&status))? {
                Some(reply) => events.extend(self.take(reply)),
                None => break,
            }
        }
        let rows: Vec<Vec<String>> = events.iter().map(cells).collect();
        let human = table("", &COLUMNS, &rows, self.context.paint);
        let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        self.context.write(&Report {
            human,
            data: serde_json::to_value(&events).unwrap_or_default(),
            rows: [vec![names], rows].concat(),
        })
    }

    /// Shows events until the stream ends, and why it did; or until nobody reads them.
    async fn follow(
        &mut self,
        address: &str,
        mut stream: Streaming<v1::FollowEventsReply>,
    ) -> Result<ControlFlow<(), Stop>, Stop> {
        let ended = |stop| Ok(ControlFlow::Continue(stop));
        loop {
            match stream.message().await {
                Ok(Some(reply)) => {
                    if let Some(event) = self.take(reply)
                        && self.write(&event)?.is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Ok(None) => {
                    let text = format!("{address} has ended the stream");
                    return ended(Stop::new(Kind::Unreachable, text));
                }
                Err(status) => {
                    let why = Stop::from_status(&status);
                    return ended(Stop::new(why.kind, format!("{address}: {}", why.text)));
                }
            }
        }
    }

    /// The event, unless it was shown already; a gap is said.
    fn take(&mut self, reply: v1::FollowEventsReply) -> Option<EventView> {
        match reply.told? {
            Told::Event(event) if self.seen.is_some_and(|seen| event.index <= seen) => None,
            Told::Event(event) => {
                self.seen = Some(event.index);
                Some(EventView::from(&event))
            }
            Told::Forgotten(gap) => {
                eprintln!(
                    "clusterctl: events between {} and {} may be missing: they are no longer \
                     remembered",
                    gap.after, gap.oldest
                );
                None
            }
        }
    }

    fn write(&mut self, event: &EventView) -> Result<ControlFlow<()>, Stop> {
        let format = self.context.global.output;
        let cells = cells(event);
        let names = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
        let rows = match std::mem::take(&mut self.heading) {
            true => vec![names, cells],
            false => vec![cells],
        };
        let data = serde_json::to_value(event).unwrap_or_default();
        match format {
            Format::Table => part(&human(event)),
            // One object a line: what follows never ends, so it can be no document.
            Format::Json => part(&format!("{data}\n")),
            Format::Yaml => {
                let text = serde_yaml_ng::to_string(&data).map_err(Stop::unexpected)?;
                part(&format!("---\n{text}"))
            }
            Format::Tsv => {
                let human = String::new();
                part(&Report { human, data, rows }.text(format)?)
            }
        }
    }

    /// The first member that begins to tell.
    async fn any(&self) -> Result<(String, Streaming<v1::FollowEventsReply>), Stop> {
        let mut tried = Vec::new();
        for address in self.context.client.endpoints() {
            match self.ask(address).await {
                Ok(stream) => return Ok((address.clone(), stream)),
                Err(stop) if stop.kind == Kind::Usage => return Err(stop),
                Err(stop) => tried.push(stop.text),
            }
        }
        let text = format!("no member can be followed ({})", tried.join("; "));
        Err(Stop::new(Kind::Unreachable, text))
    }

    async fn ask(&self, address: &str) -> Result<Streaming<v1::FollowEventsReply>, Stop> {
        let channel = self.context.client.channel(address).await?;
        let request = v1::FollowEventsRequest {
            after: self.seen,
            newest: self.args.limit,
            stops_at_end: !self.args.follow,
        };
        let mut client = EventsClient::new(channel);
        let begun = tokio::time::timeout(BEGIN_LIMIT, client.follow(request)).await;
        let named = |text: &str| Stop::new(Kind::Unreachable, format!("{address}: {text}"));
        match begun {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(named(&said(&status))),
            Err(_) => Err(named("connected, but no answer")),
        }
    }
}

fn said(status: &Status) -> String {
    match status.code() {
        Code::Unimplemented => "its clusterd is too old to tell events".to_owned(),
        _ => Stop::from_status(status).text,
    }
}

/// One line for people: what comes line by line cannot be a table.
fn human(event: &EventView) -> String {
    let by = match event.who.as_str() {
        "cluster" => String::new(),
        who if event.reason.contains(who) => String::new(),
        who => format!(" (by {who})"),
    };
    let member = event.member.as_deref().unwrap_or("");
    format!(
        "{}  epoch {:<4} {:<14} {:<12} {}{by}\n",
        event.at, event.epoch, event.what, member, event.reason
    )
}
