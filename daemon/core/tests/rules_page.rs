//! `docs/rules.md` says what the code says: every rule of the leader in its order, every reason with
//! its code. The page is generated here; `UPDATE_DOCS=1` writes it, otherwise a stale page fails.
//!
//! It holds no text of its own about a rule: names and meanings come from the decision core.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cluster_core::decide::RULES;
use cluster_core::decide::reason::ALL;

const HEAD: &str = "\
# Rules and reasons

This page is generated from the decision core (`decide/cluster.rs` and `decide/reason.rs` in
`daemon/core/src`). Do not edit it; after a change run

    UPDATE_DOCS=1 cargo test -p cluster-core --test rules_page

";

const RULES_HEAD: &str = "\
## Rules of the leader

The Raft leader asks these rules in this order, and does what the first one says that has an opinion. When none
has, the cluster is `steady`. The name stands in logs as `rule` and in `clusterctl status`.

";

const REASONS_HEAD: &str = "\
## Reasons

Everything that is done, and everything that is waited for, has one of these reasons. The code stands in logs as
`reason` and in `clusterctl status`. It stays the same between releases; the sentence may change. What belongs to one
occurrence only (a member, an epoch, a position) follows the sentence in brackets.

";

fn page() -> String {
    let mut page = HEAD.to_owned() + RULES_HEAD;
    for (rule, place) in RULES.iter().zip(1..) {
        let _ = writeln!(page, "{place}. `{}`", rule.name);
    }
    page.push('\n');
    page.push_str(REASONS_HEAD);
    page.push_str("| code | meaning |\n|---|---|\n");
    for (code, meaning) in ALL {
        let _ = writeln!(page, "| `{code}` | {} |", meaning.replace('|', "\\|"));
    }
    page
}

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/rules.md")
}

#[test]
fn rules_page_says_what_the_code_says() {
    let wanted = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(file(), &wanted).expect("docs/rules.md can be written");
    }
    let found = std::fs::read_to_string(file()).unwrap_or_default();
    let first = wanted
        .lines()
        .zip(found.lines())
        .find(|(wanted, found)| wanted != found);
    assert!(
        wanted == found,
        "docs/rules.md is stale (first difference: {first:?}); \
         run UPDATE_DOCS=1 cargo test -p cluster-core --test rules_page"
    );
}

#[test]
fn every_rule_has_a_name_of_its_own() {
    let mut names: Vec<&str> = RULES.iter().map(|rule| rule.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), RULES.len());
}
