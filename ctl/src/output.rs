//! Writes data to stdout in the wanted format. Talk goes to stderr, elsewhere.

use std::io::{self, IsTerminal as _, Write as _};
use std::ops::ControlFlow;

use comfy_table::presets::ASCII_FULL_CONDENSED;
use comfy_table::{Cell, CellAlignment, LineStyle, Row, Table};
use console::Style;

use crate::args::Format;
use crate::exit::Stop;

/// What a command found, in every form it can be written in.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// For people.
    pub human: String,
    /// For JSON and YAML.
    pub data: serde_json::Value,
    /// For tsv; the first row names the columns.
    pub rows: Vec<Vec<String>>,
}

impl Report {
    /// A single value, such as a connection string: bare for people and in tsv.
    pub fn single(key: &str, value: &str) -> Self {
        Self {
            human: format!("{value}\n"),
            data: serde_json::json!({ key: value }),
            rows: vec![vec![key.to_owned()], vec![value.to_owned()]],
        }
    }

    /// The text in this format, ending with a line break.
    ///
    /// # Errors
    /// YAML cannot express the data.
    pub fn text(&self, format: Format) -> Result<String, Stop> {
        Ok(match format {
            Format::Table => self.human.clone(),
            Format::Json => format!("{:#}\n", self.data),
            Format::Yaml => serde_yaml_ng::to_string(&self.data).map_err(Stop::unexpected)?,
            Format::Tsv => {
                let lines = self.rows.iter().map(|row| {
                    let cells: Vec<String> = row.iter().map(|cell| plain(cell)).collect();
                    format!("{}\n", cells.join("\t"))
                });
                lines.collect()
            }
        })
    }

    /// Writes it to stdout.
    ///
    /// # Errors
    /// stdout cannot be written; a reader that went away is no error.
    pub fn write(&self, format: Format) -> Result<(), Stop> {
        let text = self.text(format)?;
        match print(&text) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Stop::unexpected(error)),
            Ok(()) | Err(_) => Ok(()),
        }
    }
}

/// Writes a part of something that goes on to stdout; breaks off when its reader went away.
///
/// # Errors
/// stdout cannot be written.
pub fn part(text: &str) -> Result<ControlFlow<()>, Stop> {
    match print(text) {
        Ok(()) => Ok(ControlFlow::Continue(())),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        Err(error) => Err(Stop::unexpected(error)),
    }
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush())
}

/// A cell of tsv: a tab or line break would make another cell or line.
fn plain(cell: &str) -> String {
    cell.replace(['\t', '\n', '\r'], " ")
}

/// Colours, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    is_on: bool,
}

impl Paint {
    /// Colours when stdout is a terminal and NO_COLOR is not set.
    pub fn for_stdout() -> Self {
        Self {
            is_on: io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none(),
        }
    }

    /// None.
    pub fn plain() -> Self {
        Self { is_on: false }
    }

    fn with(self, style: Style, text: &str) -> String {
        style.force_styling(self.is_on).apply_to(text).to_string()
    }

    /// A heading.
    pub fn heading(self, text: &str) -> String {
        self.with(Style::new().bold(), text)
    }

    /// As it should be.
    pub fn good(self, text: &str) -> String {
        self.with(Style::new().green(), text)
    }

    /// A person must look.
    pub fn bad(self, text: &str) -> String {
        self.with(Style::new().red().bold(), text)
    }

    /// Odd.
    pub fn warn(self, text: &str) -> String {
        self.with(Style::new().yellow(), text)
    }
}

/// How a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers and positions.
    Right,
}

/// A table with lines; `title` stands in the upper line, as Patroni's users know it. Colours of states
/// are added when painting is on.
pub fn table(title: &str, columns: &[(&str, Align)], rows: &[Vec<String>], paint: Paint) -> String {
    let style = ASCII_FULL_CONDENSED.header_separator(LineStyle::new('+', '-', '+', '+'));
    let mut table = Table::new();
    table.load_style(style).force_no_tty();
    if paint.is_on {
        table.enforce_styling();
    }
    table.set_header(
        columns
            .iter()
            .map(|(name, _)| Cell::new(name))
            .collect::<Vec<_>>(),
    );
    for row in rows {
        let cells = row.iter().map(|text| colour(Cell::new(text), text));
        table.add_row(Row::from(cells.collect::<Vec<_>>()));
    }
    for (column, (_, align)) in table.column_iter_mut().zip(columns) {
        column.set_cell_alignment(match align {
            Align::Left => CellAlignment::Left,
            Align::Right => CellAlignment::Right,
        });
    }
    let mut text: Vec<String> = table.lines().collect();
    if let (false, Some(line)) = (title.is_empty(), text.first_mut()) {
        let head = format!("+ {title} ");
        let rest: String = line.chars().skip(head.chars().count()).collect();
        *line = if rest.is_empty() {
            format!("{head}+")
        } else {
            format!("{head}{rest}")
        };
    }
    text.push(String::new());
    text.join("\n")
}

/// The colour of a state or role, known by its word.
fn colour(cell: Cell, text: &str) -> Cell {
    use comfy_table::Color;
    match text {
        "Primary" | "streaming" | "running" => cell.fg(Color::Green),
        "stopped" | "start failed" | "unresponsive" | "unknown" => cell.fg(Color::Red),
        "starting" | "stopping" | "creating replica" | "uninitialized" => cell.fg(Color::Yellow),
        _ => cell,
    }
}
