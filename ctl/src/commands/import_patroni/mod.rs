//! `import-patroni`: a member's config from its Patroni file, and what could not be carried over.

mod source;
mod translate;

use std::fmt::Write as _;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use cluster_core::model::MemberName;

pub use source::Source;
pub use translate::{FOLDER, Listed, Translated, our_name, translate};

use crate::args::ImportPatroni;
use crate::exit::{Kind, Stop};
use crate::output::Report;

/// Where a member's gRPC listens unless it is said.
const PORT: &str = "8009";

/// Reads, translates, and writes a new folder; touches nothing else.
///
/// # Errors
/// A file cannot be read, the folder is there already, or the config would not do.
pub fn run(args: &ImportPatroni) -> Result<Report, Stop> {
    let mut problems = Vec::new();
    let file = read(&args.file, &mut problems);
    let dynamic = args.dynamic.as_deref().map(|it| read(it, &mut problems));
    let members = listed(&args.members, &mut problems);
    if args.folder.exists() {
        problems.push(format!(
            "--folder: {} is there already (a new folder)",
            args.folder.display()
        ));
    }
    stop_at(&problems)?;
    let translated = translate(file, dynamic, &members);
    stop_at(&translated.problems)?;
    write(&args.folder, &translated)?;
    Ok(report(&args.folder, &translated))
}

fn stop_at(problems: &[String]) -> Result<(), Stop> {
    if problems.is_empty() {
        return Ok(());
    }
    Err(Stop::new(Kind::Usage, problems.join("\n")))
}

fn read(path: &Path, problems: &mut Vec<String>) -> Source {
    let text = fs::read_to_string(path).map_err(|error| error.to_string());
    match text.and_then(|text| Source::read(&text)) {
        Ok(source) => source,
        Err(why) => {
            problems.push(format!("{}: {why}", path.display()));
            Source::default()
        }
    }
}

/// `NAME=HOST`, `NAME=HOST:PORT`, and `NAME=HOST:witness` or `NAME=HOST:PORT:witness`.
pub fn listed(words: &[String], problems: &mut Vec<String>) -> Vec<Listed> {
    let mut found: Vec<Listed> = Vec::new();
    for word in words {
        let Some((name, place)) = word.split_once('=') else {
            problems.push(format!("--members: `{word}` is not NAME=HOST"));
            continue;
        };
        let name: MemberName = match our_name(name).parse() {
            Ok(name) => name,
            Err(why) => {
                problems.push(format!("--members: `{name}`: {why}"));
                continue;
            }
        };
        let (place, is_witness) = match place.strip_suffix(":witness") {
            Some(place) => (place, true),
            None => (place, false),
        };
        if place.is_empty() || found.iter().any(|it| it.name == name) {
            problems.push(format!(
                "--members: `{word}` has no host, or is given twice"
            ));
            continue;
        }
        let has_port = place
            .rsplit_once(':')
            .is_some_and(|(_, port)| !port.is_empty() && port.chars().all(|c| c.is_ascii_digit()));
        let peer = if has_port {
            place.to_owned()
        } else {
            format!("{place}:{PORT}")
        };
        found.push(Listed {
            name,
            peer,
            is_witness,
        });
    }
    found
}

fn write(folder: &Path, translated: &Translated) -> Result<(), Stop> {
    fs::create_dir(folder).map_err(|error| failed(folder, &error))?;
    put(folder, "clusterd.toml", &config(translated), 0o644)?;
    for (name, secret) in &translated.secrets {
        put(folder, name, &format!("{secret}\n"), 0o600)?;
    }
    put(folder, "not-carried-over.txt", &left(translated), 0o644)
}

fn put(folder: &Path, name: &str, text: &str, mode: u32) -> Result<(), Stop> {
    let path = folder.join(name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&path)
        .map_err(|error| failed(&path, &error))?;
    file.write_all(text.as_bytes())
        .map_err(|error| failed(&path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Stop {
    Stop::new(Kind::Unexpected, format!("{}: {error}", path.display()))
}

/// The config file's text.
pub fn config(translated: &Translated) -> String {
    format!(
        "# Made from a Patroni file by `clusterctl import-patroni`; every key: config/clusterd.toml.\n\
         # Check it with: clusterd --config {FOLDER}/clusterd.toml --check-config\n\n{}",
        toml::to_string(&translated.config).unwrap_or_default()
    )
}

/// What is to be done by hand.
pub fn left(translated: &Translated) -> String {
    let mut text = String::from("Not carried over:\n");
    for (place, what) in &translated.left {
        let _ = writeln!(text, "  {place}: {what}");
    }
    if translated.left.is_empty() {
        text.push_str("  nothing\n");
    }
    if !translated.commands.is_empty() {
        text.push_str("Once the cluster has formed:\n");
        for command in &translated.commands {
            let _ = writeln!(text, "  {command}");
        }
    }
    text
}

fn report(folder: &Path, translated: &Translated) -> Report {
    let mut human = format!("Written: {}\n", folder.display());
    for name in translated.secrets.keys() {
        let _ = writeln!(human, "  {name} (mode 0600) goes to {FOLDER}/{name}");
    }
    let _ = writeln!(
        human,
        "  clusterd.toml goes to {FOLDER}/clusterd.toml, beside cluster-secret and admin-token, which you \
         make once for all members\n  (head -c 32 /dev/urandom | base64)\n{}How to move: \
         docs/migrate-from-patroni.md",
        left(translated)
    );
    human.push('\n');
    let mut rows = vec![vec!["place".to_owned(), "what".to_owned()]];
    let lines = translated.left.iter();
    rows.extend(lines.map(|(place, what)| vec![place.clone(), what.clone()]));
    let places: Vec<serde_json::Value> = translated
        .left
        .iter()
        .map(|(place, what)| serde_json::json!({"place": place, "what": what}))
        .collect();
    Report {
        human,
        data: serde_json::json!({
            "folder": folder.display().to_string(),
            "secrets": translated.secrets.keys().collect::<Vec<_>>(),
            "not_carried_over": places,
            "commands": translated.commands,
        }),
        rows,
    }
}
