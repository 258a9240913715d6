//! Logging: one line an event on stderr, as text or JSON, each with this member and its epoch; the
//! level can be changed while it runs. Also how an error chain is printed.
//!
//! The one surprise: member and epoch are written by the line's own format, not by a span. A span's
//! recorded field is fixed once printed, and the epoch changes while one loop turns on.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, TryLockError};

use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::writer::MakeWriterExt as _;
use tracing_subscriber::fmt::{FmtContext, FormattedFields};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// Libraries that say much that is no news to an operator; added to a bare level. openraft calls
/// every lost heartbeat an error; what matters of it is told by `raft/`.
const QUIET: &str = "openraft=off,sled=warn,h2=warn,hyper=warn,tonic=warn,tower=warn,rustls=warn";

/// So much of the newest lines is remembered, for `clusterctl bundle`. Unit: bytes.
const REMEMBERED: usize = 512 * 1024;

/// How lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why logging could not be set up or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a level nor directives.
    #[error(
        "`{0}` is no log level (error, warn, info, debug, trace, or like info,clusterd::raft=debug)"
    )]
    BadLevel(String),
    /// Set up twice, or taken down.
    #[error("logging is not available: {0}")]
    Unavailable(String),
}

/// The logging that was set up; cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    filter: reload::Handle<EnvFilter, Registry>,
    epoch: Arc<AtomicU64>,
    recent: Recent,
}

/// The newest lines. Nobody ever waits for it: a line that comes while somebody else writes or reads is
/// on stderr alone, because the lease's thread writes lines, too.
#[derive(Clone, Default)]
struct Recent(Arc<Mutex<Remembered>>);

#[derive(Default)]
struct Remembered {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
}

impl Recent {
    fn text(&self) -> Option<String> {
        let kept = match self.0.try_lock() {
            Ok(kept) => kept,
            Err(TryLockError::Poisoned(kept)) => kept.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let all: Vec<u8> = kept.lines.iter().flatten().copied().collect();
        Some(String::from_utf8_lossy(&all).into_owned())
    }
}

impl std::io::Write for Recent {
    /// One call is one line: the layer writes each event whole.
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        if let Ok(mut kept) = self.0.try_lock() {
            kept.lines.push_back(line.to_vec());
            kept.bytes += line.len();
            while kept.bytes > REMEMBERED {
                let Some(oldest) = kept.lines.pop_front() else {
                    break;
                };
                kept.bytes -= oldest.len();
            }
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}

impl Telemetry {
    /// Sets the process's logging up, on stderr.
    ///
    /// # Errors
    /// The level will not do, or logging is already set up.
    pub fn start(style: Style, level: &str, member: &str) -> Result<Self, Error> {
        let epoch = Arc::new(AtomicU64::new(0));
        let (filter, handle) = reload::Layer::new(parse_level(level)?);
        let lines = Lines {
            style,
            member: member.to_owned(),
            epoch: Arc::clone(&epoch),
        };
        let recent = Recent::default();
        let also = recent.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(lines)
            .with_writer(std::io::stderr.and(move || also.clone()));
        tracing_subscriber::registry()
            .with(filter)
            .with(layer)
            .try_init()
            .map_err(|error| Error::Unavailable(error.to_string()))?;
        Ok(Self {
            filter: handle,
            epoch,
            recent,
        })
    }

    /// The newest lines; none while one is being written.
    pub fn recent(&self) -> Option<String> {
        self.recent.text()
    }

    /// Changes the level of the running process.
    ///
    /// # Errors
    /// The level will not do; nothing changed.
    pub fn set_level(&self, level: &str) -> Result<(), Error> {
        let filter = parse_level(level)?;
        self.filter
            .reload(filter)
            .map_err(|error| Error::Unavailable(error.to_string()))
    }

    /// The epoch that lines carry from now on.
    pub fn set_epoch(&self, epoch: u64) {
        self.epoch.store(epoch, Ordering::Relaxed);
    }
}

/// A bare level keeps the libraries quiet; directives are taken as they are.
fn parse_level(level: &str) -> Result<EnvFilter, Error> {
    let level = level.trim();
    let bad = || Error::BadLevel(level.to_owned());
    if level.is_empty() {
        return Err(bad());
    }
    if !level.contains([',', '=']) {
        level
            .parse::<tracing::level_filters::LevelFilter>()
            .map_err(|_| bad())?;
    }
    let is_bare = matches!(level, "error" | "warn" | "info" | "debug");
    let directives = if is_bare {
        format!("{level},{QUIET}")
    } else {
        level.to_owned()
    };
    EnvFilter::builder().parse(directives).map_err(|_| bad())
}

/// An error with every cause, as `could not start: read control file: No such file`.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// Formats one event.
struct Lines {
    style: Style,
    member: String,
    epoch: Arc<AtomicU64>,
}

/// The fields of one event, in their order.
#[derive(Default)]
struct Fields {
    message: String,
    others: Vec<(&'static str, serde_json::Value)>,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        match field.name() {
            "message" => self.message = text,
            name => self.others.push((name, text.into())),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "message" => value.clone_into(&mut self.message),
            name => self.others.push((name, value.into())),
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.others.push((field.name(), value.into()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.others.push((field.name(), value.into()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.others.push((field.name(), chain(value).into()));
    }
}

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let given = |name: &str| fields.others.iter().any(|(other, _)| *other == name);
        let mut context_fields = Vec::new();
        if !given("member") {
            context_fields.push(("member", serde_json::Value::from(self.member.as_str())));
        }
        if !given("epoch") {
            context_fields.push(("epoch", self.epoch.load(Ordering::Relaxed).into()));
        }
        let spans = spans_of(context);
        if !spans.is_empty() {
            context_fields.push(("span", spans.into()));
        }
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let line = Line {
            time: &time,
            event,
            fields: &fields,
            context: &context_fields,
        };
        match self.style {
            Style::Text => line.write_text(&mut writer),
            Style::Json => line.write_json(&mut writer),
        }
    }
}

/// The spans around an event, outermost first, as `name{fields}:name{fields}`.
fn spans_of<S, N>(context: &FmtContext<'_, S, N>) -> String
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    N: for<'writer> FormatFields<'writer> + 'static,
{
    let mut found = Vec::new();
    if let Some(scope) = context.event_scope() {
        for span in scope.from_root() {
            let extensions = span.extensions();
            let fields = extensions
                .get::<FormattedFields<N>>()
                .map(|f| f.fields.clone());
            match fields.filter(|fields| !fields.is_empty()) {
                Some(fields) => found.push(format!("{}{{{fields}}}", span.name())),
                None => found.push(span.name().to_owned()),
            }
        }
    }
    found.join(":")
}

/// One line about to be written.
struct Line<'a> {
    time: &'a str,
    event: &'a Event<'a>,
    fields: &'a Fields,
    context: &'a [(&'static str, serde_json::Value)],
}

impl Line<'_> {
    fn write_text(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let meta = self.event.metadata();
        write!(
            writer,
            "{} {:>5} {}: ",
            self.time,
            meta.level(),
            meta.target()
        )?;
        // One event is one line, whatever a program printed.
        write!(writer, "{}", self.fields.message.replace('\n', "\\n"))?;
        for (name, value) in self.fields.others.iter().chain(self.context) {
            match value {
                serde_json::Value::String(text) if is_word(text) => {
                    write!(writer, " {name}={text}")?
                }
                other => write!(writer, " {name}={other}")?,
            }
        }
        writeln!(writer)
    }

    fn write_json(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let meta = self.event.metadata();
        let mut object = serde_json::Map::new();
        object.insert("time".to_owned(), self.time.into());
        object.insert("level".to_owned(), meta.level().as_str().into());
        object.insert("target".to_owned(), meta.target().into());
        object.insert("message".to_owned(), self.fields.message.as_str().into());
        for (name, value) in self.fields.others.iter().chain(self.context) {
            object.insert((*name).to_owned(), value.clone());
        }
        writeln!(writer, "{}", serde_json::Value::Object(object))
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == '"')
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;

    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0
                .lock()
                .expect("not poisoned")
                .extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(style: Style, write: impl FnOnce(&Telemetry)) -> String {
        let sink = Sink::default();
        let epoch = Arc::new(AtomicU64::new(0));
        let (filter, handle) = reload::Layer::new(parse_level("info").expect("a level"));
        let writer = sink.clone();
        let layer = tracing_subscriber::fmt::layer()
            .event_format(Lines {
                style,
                member: "n1".into(),
                epoch: Arc::clone(&epoch),
            })
            .with_writer(move || writer.clone());
        let subscriber = tracing_subscriber::registry().with(filter).with(layer);
        let telemetry = Telemetry {
            filter: handle,
            epoch,
            recent: Recent::default(),
        };
        tracing::subscriber::with_default(subscriber, || write(&telemetry));
        let bytes = sink.0.lock().expect("not poisoned").clone();
        String::from_utf8(bytes).expect("text")
    }

    #[test]
    fn a_json_line_carries_member_epoch_and_every_field() {
        let text = logged(Style::Json, |telemetry| {
            telemetry.set_epoch(7);
            tracing::warn!(
                reason = "primary-silent",
                waited_ms = 12_u64,
                "revoking\nnow"
            );
        });
        let line: serde_json::Value = serde_json::from_str(&text).expect("one JSON object");
        assert_eq!(line["member"], "n1");
        assert_eq!(line["epoch"], 7);
        assert_eq!(line["reason"], "primary-silent");
        assert_eq!(line["waited_ms"], 12);
        assert_eq!(line["level"], "WARN");
        assert_eq!(line["message"], "revoking\nnow");
    }

    #[test]
    fn a_text_line_stays_one_line() {
        let text = logged(Style::Text, |_| {
            tracing::info!(why = "a b", epoch = 3_u64, "one\ntwo")
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        assert!(
            text.ends_with("one\\ntwo why=\"a b\" epoch=3 member=n1\n"),
            "{text}"
        );
    }

    #[test]
    fn the_level_changes_while_it_runs() {
        let text = logged(Style::Text, |telemetry| {
            tracing::debug!("before");
            telemetry.set_level("debug").expect("a level");
            tracing::debug!("after");
            telemetry.set_level("error").expect("a level");
            tracing::info!("later");
            assert!(telemetry.set_level("loud").is_err());
            assert!(telemetry.set_level("a=b=c").is_err());
        });
        assert!(text.contains("after") && !text.contains("before") && !text.contains("later"));
    }

    #[test]
    fn the_newest_lines_are_remembered_and_no_more() {
        let mut recent = Recent::default();
        let line = vec![b'x'; 1000];
        for number in 0..1000 {
            let line = [format!("{number} ").as_bytes(), &line[..], b"\n"].concat();
            recent.write_all(&line).expect("never fails");
        }
        let text = recent.text().expect("nobody writes");
        assert!(text.len() <= REMEMBERED && text.len() > REMEMBERED - 2000);
        assert!(text.lines().last().is_some_and(|it| it.starts_with("999 ")));
        let held = recent.0.lock().expect("not poisoned");
        assert_eq!(recent.text(), None, "nobody waits");
        drop(held);
    }

    #[test]
    fn an_error_is_printed_with_its_causes() {
        #[derive(Debug, thiserror::Error)]
        #[error("could not start")]
        struct Outer(#[source] std::io::Error);
        let error = Outer(std::io::Error::other("disk on fire"));
        assert_eq!(chain(&error), "could not start: disk on fire");
    }
}
