//! `settings edit`: the document as lines of `KEY = VALUE` in an editor. What is taken out gets its default.

use std::fmt::Write as _;
use std::process::Command;

use cluster_proto::v1;

use super::Context;
use crate::args::Change;
use crate::ask::by;
use crate::confirm;
use crate::exit::{Kind, Stop};

/// Opened in the editor until it will do or is given up.
///
/// # Errors
/// No editor, not confirmed, refused, unreachable, or unknown.
pub async fn edit(context: &Context, change: &Change) -> Result<(), Stop> {
    confirm::possible(false, "settings edit")?;
    let reply = super::settings(context).await?;
    let before = text(&reply);
    let mut file = tempfile::Builder::new()
        .prefix("clusterctl-settings-")
        .suffix(".conf")
        .tempfile()
        .map_err(Stop::unexpected)?;
    std::io::Write::write_all(&mut file, before.as_bytes()).map_err(Stop::unexpected)?;
    loop {
        open(file.path())?;
        let after = std::fs::read_to_string(file.path()).map_err(Stop::unexpected)?;
        if after == before {
            return Err(Stop::new(Kind::Usage, "nothing was changed"));
        }
        let tried = match assignments(&after) {
            Ok(assignments) => {
                let message = v1::ChangeSettingsRequest {
                    assignments,
                    by: by(change.reason.as_deref()),
                    dry_run: change.dry_run,
                    replaces: true,
                    expected_revision: Some(reply.revision),
                    restore_revision: None,
                };
                super::change(context, message, "settings edit").await
            }
            Err(problems) => Err(Stop::new(Kind::Refused, problems.join("\n"))),
        };
        match tried {
            Err(stop) if stop.kind == Kind::Refused => {
                confirm::ask(&format!("{}\nBack to the editor.", stop.text))?;
            }
            done => return done,
        }
    }
}

fn open(path: &std::path::Path) -> Result<(), Stop> {
    let chosen = ["VISUAL", "EDITOR"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|it| !it.trim().is_empty()));
    let editor = chosen.unwrap_or_else(|| "vi".to_owned());
    let mut words = editor.split_whitespace();
    let program = words.next().unwrap_or("vi");
    let status = Command::new(program).args(words).arg(path).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Stop::new(
            Kind::Usage,
            format!("the editor `{editor}` ended with {status}; nothing was asked"),
        )),
        Err(error) => Err(Stop::new(
            Kind::Usage,
            format!("the editor `{editor}` could not be started ({error}); set EDITOR"),
        )),
    }
}

/// The document to edit.
pub fn text(reply: &v1::SettingsReply) -> String {
    let mut text = format!(
        "# Settings of the cluster, revision {}. One KEY = VALUE a line; a line that is taken out gets its\n\
         # default. Keys: clusterctl settings set --help\n",
        reply.revision
    );
    for row in &reply.rows {
        let _ = writeln!(text, "{} = {}", row.key, row.value);
    }
    text
}

/// The assignments of an edited document.
///
/// # Errors
/// Every line that is none.
pub fn assignments(text: &str) -> Result<Vec<v1::Assignment>, Vec<String>> {
    let (mut found, mut problems) = (Vec::new(), Vec::new());
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((key, value)) = line.split_once('=') else {
            problems.push(format!("line {}: `{line}` is not KEY = VALUE", number + 1));
            continue;
        };
        let (key, value) = (key.trim(), value.trim().to_owned());
        let of_member = key
            .strip_prefix("members.")
            .and_then(|rest| rest.split_once('.'));
        let (member, key) = of_member.unwrap_or(("", key));
        found.push(v1::Assignment {
            key: key.to_owned(),
            value,
            member: member.to_owned(),
        });
    }
    if problems.is_empty() {
        Ok(found)
    } else {
        Err(problems)
    }
}
