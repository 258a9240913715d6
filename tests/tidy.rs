//! The shape of the repository, held by tests: who may import whom, that every file says what it is
//! for, names nobody may use, and that the map in ARCHITECTURE.md shows folders that exist.
//!
//! The import table is the one of ARCHITECTURE.md; the two change together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What the files below a place must not name in code: modules of their own crate (`crate::x`) or
/// other crates.
struct Border {
    place: &'static str,
    must_not: &'static [&'static str],
}

const BORDERS: &[Border] = &[
    Border {
        place: "daemon/core/src",
        must_not: &[
            "clusterd",
            "clusterd_guard",
            "cluster_proto",
            "tokio",
            "tracing",
            "rustix",
            "nix",
        ],
    },
    Border {
        place: "daemon/core/src/model",
        must_not: &["crate::change", "crate::decide"],
    },
    Border {
        place: "daemon/core/src/change",
        must_not: &["crate::decide"],
    },
    Border {
        place: "daemon/guard/src",
        must_not: &["cluster_core", "cluster_proto", "tokio"],
    },
    Border {
        place: "daemon/backup/src",
        must_not: &["clusterd", "clusterd_guard", "cluster_proto", "openraft"],
    },
    Border {
        place: "daemon/src/backup",
        must_not: &[
            "crate::raft",
            "crate::peers",
            "crate::lease",
            "cluster_proto",
            "openraft",
        ],
    },
    Border {
        place: "daemon/src/callbacks",
        must_not: &[
            "crate::api",
            "crate::board",
            "crate::config",
            "crate::lease",
            "crate::postgres",
            "crate::raft",
            "crate::reconcile",
            "cluster_proto",
        ],
    },
    Border {
        place: "daemon/src/snapshot",
        must_not: &[
            "crate::raft",
            "crate::peers",
            "crate::lease",
            "crate::api",
            "cluster_proto",
            "openraft",
        ],
    },
    Border {
        place: "daemon/src/poolers",
        must_not: &[
            "crate::api",
            "crate::lease",
            "crate::peers",
            "crate::postgres",
            "crate::raft",
            "crate::reconcile",
            "cluster_proto",
        ],
    },
    Border {
        place: "daemon/src/webhooks",
        must_not: &[
            "cluster_core::decide",
            "crate::lease",
            "crate::peers",
            "crate::postgres",
            "crate::raft",
            "crate::reconcile",
        ],
    },
    Border {
        place: "proto/src",
        must_not: &["cluster_core", "clusterd_guard"],
    },
    Border {
        place: "daemon/src/config",
        must_not: &[
            "crate::api",
            "crate::lease",
            "crate::peers",
            "crate::postgres",
            "crate::raft",
            "crate::reconcile",
            "crate::runtime",
            "crate::wire",
            "cluster_proto",
        ],
    },
    Border {
        place: "daemon/src/guard_client.rs",
        must_not: &[
            "crate::api",
            "crate::config",
            "crate::lease",
            "crate::postgres",
            "crate::raft",
            "crate::reconcile",
            "cluster_core",
            "cluster_proto",
        ],
    },
    Border {
        place: "daemon/src/postgres",
        must_not: &[
            "crate::api",
            "crate::config",
            "crate::raft",
            "crate::reconcile",
            "crate::wire",
            "cluster_proto",
            "openraft",
        ],
    },
    Border {
        place: "daemon/src/wire.rs",
        must_not: &[
            "crate::api",
            "crate::config",
            "crate::lease",
            "crate::peers",
            "crate::postgres",
            "crate::raft",
            "crate::reconcile",
            "crate::runtime",
        ],
    },
    Border {
        place: "daemon/src/raft",
        must_not: &[
            "crate::postgres",
            "crate::api",
            "crate::reconcile",
            "crate::config",
        ],
    },
    Border {
        place: "daemon/src/peers.rs",
        must_not: &[
            "crate::raft",
            "crate::postgres",
            "crate::reconcile",
            "openraft",
        ],
    },
    Border {
        place: "daemon/src/lease.rs",
        must_not: &[
            "crate::api",
            "crate::reconcile",
            "crate::postgres",
            "openraft",
            "cluster_proto",
        ],
    },
    Border {
        place: "daemon/src/reconcile",
        must_not: &["crate::api", "openraft", "sled"],
    },
    Border {
        place: "daemon/src/api",
        must_not: &["crate::postgres", "crate::reconcile", "openraft", "sled"],
    },
    Border {
        place: "daemon/src/takeover",
        must_not: &[
            "crate::api",
            "crate::peers",
            "crate::lease",
            "crate::guard_client",
            "openraft",
        ],
    },
    Border {
        place: "ctl/src",
        must_not: &["clusterd", "cluster_core::decide", "cluster_core::change"],
    },
    Border {
        place: "tests/harness",
        must_not: &["clusterd", "cluster_core", "clusterd_guard", "openraft"],
    },
    Border {
        place: "tests/scenarios",
        must_not: &["clusterd", "cluster_core", "clusterd_guard"],
    },
    Border {
        place: "jepsen/src",
        must_not: &["clusterd", "cluster_core", "clusterd_guard"],
    },
];

/// File and folder names that say nothing.
const EMPTY_NAMES: &[&str] = &["utils", "helpers", "common", "manager", "misc", "util"];

/// Larger files are no text of ours.
const LARGEST_TEXT: u64 = 1024 * 1024;

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("tests lies in it")
        .to_path_buf()
}

/// Every file of ours, as paths relative to the repository; built and hidden folders left out.
fn files() -> Vec<PathBuf> {
    fn walk(root: &Path, folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && name != ".git" {
                    walk(root, &path, found);
                }
            } else if let Ok(relative) = path.strip_prefix(root)
                && entry
                    .metadata()
                    .is_ok_and(|entry| entry.len() < LARGEST_TEXT)
            {
                found.push(relative.to_path_buf());
            }
        }
    }
    let (root, mut found) = (repository(), Vec::new());
    walk(&root, &root, &mut found);
    found.sort();
    found
}

fn rust_files() -> Vec<PathBuf> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|end| end == "rs");
    files().into_iter().filter(is_rust).collect()
}

fn read(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(repository().join(path)).unwrap_or_default()).into_owned()
}

/// Names a file imports or writes out: `crate::x`, `crate::x::y` and names of crates with their first
/// path element. Comments and texts do not count.
fn named_paths(source: &str) -> BTreeSet<String> {
    let code: String = source
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let mut found = BTreeSet::new();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (place, _) in code.match_indices("::") {
        let head: String = code[..place]
            .chars()
            .rev()
            .take_while(|c| is_word(*c))
            .collect();
        let head: String = head.chars().rev().collect();
        let before = code[..place - head.len()].trim_end();
        if head.is_empty() || before.ends_with("::") {
            continue;
        }
        found.insert(head.clone());
        let rest = code[place + 2..].trim_start();
        let elements = match rest.strip_prefix('{') {
            Some(group) => group_heads(group),
            None => vec![rest.chars().take_while(|c| is_word(*c)).collect()],
        };
        found.extend(
            elements
                .into_iter()
                .map(|element| format!("{head}::{element}")),
        );
    }
    found
}

/// First path elements inside `{ … }`, one level deep.
fn group_heads(group: &str) -> Vec<String> {
    let (mut depth, mut heads, mut word, mut is_head) = (0, Vec::new(), String::new(), true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                heads.push(std::mem::take(&mut word));
                is_head = true;
            }
            c if is_head && (c.is_alphanumeric() || c == '_') => word.push(c),
            ':' => is_head = false,
            _ => {}
        }
    }
    heads.push(word);
    heads
}

#[test]
fn nobody_imports_across_a_border() {
    let mut wrong = Vec::new();
    for border in BORDERS {
        for file in rust_files()
            .iter()
            .filter(|file| file.starts_with(border.place))
        {
            let named = named_paths(&read(file));
            for forbidden in border.must_not.iter().filter(|path| named.contains(**path)) {
                wrong.push(format!("{}: names {forbidden}", file.display()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "across a border of the import table: {wrong:#?}"
    );
}

#[test]
fn borders_stand_where_there_is_code() {
    // `wire.rs` and `peers.rs` may have grown into folders of the same name.
    let exists = |place: &str| {
        let path = repository().join(place);
        path.exists() || path.with_extension("").exists()
    };
    let gone: Vec<_> = BORDERS
        .iter()
        .map(|border| border.place)
        .filter(|p| !exists(p))
        .collect();
    assert!(
        gone.is_empty(),
        "the import table names places that are gone: {gone:?}"
    );
}

#[test]
fn grouped_imports_are_seen() {
    let named = named_paths("use crate::{raft::Store, api};\nuse a::b; // crate::comment::x");
    for path in ["crate::raft", "crate::api", "a::b", "a"] {
        assert!(named.contains(path), "{path} in {named:?}");
    }
    assert!(!named.contains("crate::comment"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let is_silent = |file: &&PathBuf| !read(file).starts_with("//!");
    let files = rust_files();
    let silent: Vec<_> = files.iter().filter(is_silent).collect();
    assert!(silent.is_empty(), "no //! header: {silent:#?}");
}

#[test]
fn names_say_something() {
    let says_nothing = |file: &PathBuf| {
        file.iter().any(|part| {
            let part = Path::new(part)
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            EMPTY_NAMES.contains(&part.as_str())
        })
    };
    let empty: Vec<_> = rust_files().into_iter().filter(says_nothing).collect();
    assert!(empty.is_empty(), "name the noun they hold: {empty:?}");
}

#[test]
fn nothing_names_the_machine_it_was_written_on() {
    let root = repository().display().to_string();
    let home = std::env::var("HOME").unwrap_or_default();
    let mut forbidden = vec![root, format!("..{}shared", '/')];
    // A home directly below the root is a word of every Linux.
    if home.matches('/').count() > 1 {
        forbidden.push(home);
    }
    let mut wrong = Vec::new();
    for file in files() {
        let text = read(&file);
        for name in forbidden.iter().filter(|name| text.contains(name.as_str())) {
            wrong.push(format!("{}: {name}", file.display()));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn open_ends_have_a_number() {
    let (todo, fix) = (["TO", "DO"].concat(), ["FIX", "ME"].concat());
    let mut wrong = Vec::new();
    for file in rust_files() {
        for (number, line) in read(&file).lines().enumerate() {
            let is_numbered = line
                .split_once(&todo)
                .is_some_and(|(_, rest)| rest.starts_with("(#") || rest.starts_with(" #"));
            let is_open = line.contains(&todo) && !is_numbered;
            if is_open || line.contains(&fix) {
                wrong.push(format!("{}:{}", file.display(), number + 1));
            }
        }
    }
    assert!(wrong.is_empty(), "an issue number is missing: {wrong:?}");
}

#[test]
fn automation_is_rust() {
    let is_script = |file: &PathBuf| {
        file.extension()
            .is_some_and(|end| end == "sh" || end == "py")
            || file.starts_with("scripts")
    };
    let scripts: Vec<_> = files().into_iter().filter(is_script).collect();
    assert!(scripts.is_empty(), "belongs into xtask/: {scripts:?}");
}

#[test]
fn the_map_shows_folders_that_exist() {
    let map = read(Path::new("ARCHITECTURE.md"));
    assert!(map.contains("##"), "there is no ARCHITECTURE.md");
    let mut gone = Vec::new();
    for name in map.split('`').skip(1).step_by(2) {
        let is_path = name.contains('/')
            && !name.starts_with('/')
            && name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
        let top = name.split('/').next().unwrap_or_default();
        // Only paths that begin in this repository: `8008/primary` is not one.
        if is_path && repository().join(top).exists() && !repository().join(name).exists() {
            gone.push(name.to_owned());
        }
    }
    assert!(
        gone.is_empty(),
        "named in ARCHITECTURE.md and gone: {gone:?}"
    );
}

/// The table promises that each of these hazards is shown by a test.
const HAZARDS: &[&str] = &[
    "X1", "X2", "X3", "X4", "X5", "X6", "X7", "X8", "X9", "X10", "X11", "X12", "X13", "X14", "X15",
    "X16", "X17", "X18", "X19", "X20", "X21", "X22", "X23", "X24", "X25", "X26", "X27", "X28",
];

/// The name of every test there is.
fn names_of_tests() -> BTreeSet<String> {
    let mut tests = BTreeSet::new();
    for file in rust_files() {
        let text = read(&file);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (number, line) in lines.iter().enumerate() {
            let is_test = lines[..number]
                .iter()
                .rev()
                .take_while(|before| before.starts_with("#[") || before.starts_with("///"))
                .any(|before| before.starts_with("#[test]") || before.starts_with("#[tokio::test"));
            let name = line
                .trim_start_matches("async ")
                .strip_prefix("fn ")
                .and_then(|rest| rest.split(['(', '<']).next());
            if let (true, Some(name)) = (is_test, name) {
                tests.insert(name.to_owned());
            }
        }
    }
    tests
}

/// A row of docs/parity.md names tests that are there, or says that there is none.
#[test]
fn every_test_that_parity_names_exists() {
    let page = read(Path::new("docs/parity.md"));
    let tests = names_of_tests();
    let mut wrong = Vec::new();
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let last = row
            .trim_end_matches('|')
            .rsplit('|')
            .next()
            .unwrap_or_default();
        for place in last.split(';').filter(|place| place.contains(".rs: ")) {
            for name in place.split('`').skip(1).step_by(2) {
                named += 1;
                if !tests.contains(name) {
                    wrong.push(name.to_owned());
                }
            }
        }
    }
    assert!(named > 200, "{named} names are read");
    assert!(
        wrong.is_empty(),
        "docs/parity.md names what is gone: {wrong:#?}"
    );
}

/// Cells of a table's line, without the frame.
fn cells(line: &str) -> Vec<String> {
    let line = line.replace("\\|", " ");
    let inner = line.trim().trim_matches('|');
    inner.split('|').map(|it| it.trim().to_owned()).collect()
}

/// The summary of docs/parity.md is what its rows come to.
#[test]
fn parity_is_counted_right() {
    const WORDS: [&str; 4] = ["yes", "differently", "partly", "not yet"];
    let page = read(Path::new("docs/parity.md"));
    // Rows, one count for each word, rows with a test.
    let mut counted: BTreeMap<String, [usize; 6]> = BTreeMap::new();
    let mut section = None;
    for line in page.lines() {
        if let Some(heading) = line.strip_prefix("### ") {
            section = Some(heading.trim().to_owned());
        }
        let row = cells(line);
        let word = WORDS
            .iter()
            .position(|word| row.get(1).is_some_and(|it| it == word));
        let (Some(section), Some(word), true) = (&section, word, line.starts_with('|')) else {
            continue;
        };
        let has_test = row.last().is_some_and(|test| test != "no test");
        for name in [section.as_str(), "**all**"] {
            let counts = counted.entry(name.to_owned()).or_default();
            counts[0] += 1;
            counts[1 + word] += 1;
            counts[5] += usize::from(has_test);
        }
    }
    let summary: BTreeMap<String, [usize; 6]> = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .filter_map(|line| {
            let row = cells(line);
            let numbers: Vec<usize> = row[1..]
                .iter()
                .filter_map(|it| it.trim_matches('*').parse().ok())
                .collect();
            Some((row[0].clone(), numbers.try_into().ok()?))
        })
        .collect();
    assert!(counted.len() > 10, "{counted:?}");
    assert_eq!(summary, counted, "the summary (left) and the rows");
}

#[test]
fn every_hazard_is_shown_by_tests_that_exist() {
    let page = read(Path::new("docs/hazards.md"));
    let tests = names_of_tests();
    let mut wrong = Vec::new();
    for row in page.lines().filter(|line| line.starts_with('|')) {
        let last = row.trim_end_matches('|').rsplit('|').next();
        let named: Vec<&str> = last
            .unwrap_or_default()
            .split('`')
            .skip(1)
            .step_by(2)
            .collect();
        let is_heading = row.starts_with("| code") || row.starts_with("| situation");
        if named.is_empty() && !is_heading && !row.starts_with("|-") {
            wrong.push(format!("no test: {row}"));
        }
        let is_gone = |name: &&&str| !tests.contains(**name);
        wrong.extend(named.iter().filter(is_gone).map(|it| format!("gone: {it}")));
    }
    let has_row = |code: &&&str| page.contains(&format!("\n| {code} |"));
    let silent = HAZARDS.iter().filter(|code| !has_row(code));
    wrong.extend(silent.map(|code| format!("no row: {code}")));
    assert!(wrong.is_empty(), "docs/hazards.md: {wrong:#?}");
}
