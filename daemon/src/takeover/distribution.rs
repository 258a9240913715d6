//! What would start the old server again behind our back: a systemd unit that is enabled or restarts
//! it, Debian's `start.conf`. Reads files only.

use std::fs;
use std::path::{Path, PathBuf};

/// Something that starts the old server by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Starter {
    /// What it is.
    pub what: String,
    /// How it is kept from doing so.
    pub cure: String,
}

/// Where systemd looks for units, most important first. Source: systemd.unit(5).
const UNIT_PLACES: [&str; 4] = [
    "etc/systemd/system",
    "run/systemd/system",
    "usr/lib/systemd/system",
    "lib/systemd/system",
];

/// Every starter; `root` is `/` outside tests.
pub fn starters(root: &Path, unit: Option<&str>, config_file: &Path) -> Vec<Starter> {
    let mut found = Vec::new();
    if let Some(unit) = unit {
        if let Some(wanted_by) = enabled_in(root, unit) {
            found.push(Starter {
                what: format!("systemd starts {unit} at boot ({})", wanted_by.display()),
                cure: format!("systemctl disable {unit} (the server goes on)"),
            });
        }
        if let Some(value) = restarts(root, unit) {
            found.push(Starter {
                what: format!("{unit} has Restart={value}: systemd would start it again at once"),
                cure: format!(
                    "systemctl edit {unit}, with Restart=no under [Service] (the server goes on)"
                ),
            });
        }
    }
    if let Some(directory) = config_file.parent() {
        let file = directory.join("start.conf");
        let word = fs::read_to_string(&file).unwrap_or_default();
        let mut lines = word.lines().map(str::trim);
        if lines.any(|line| line == "auto") {
            found.push(Starter {
                what: format!(
                    "{} says `auto`: postgresql.service starts it at boot",
                    file.display()
                ),
                cure: format!("echo manual > {}", file.display()),
            });
        }
    }
    found
}

/// The symbolic link by which the unit is enabled.
fn enabled_in(root: &Path, unit: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(root.join("etc/systemd/system")).ok()?;
    entries
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "wants" || end == "requires")
        })
        .map(|path| path.join(unit))
        .find(|link| link.symlink_metadata().is_ok())
}

/// `Restart=` of the unit and its drop-ins, when it covers a clean end.
fn restarts(root: &Path, unit: &str) -> Option<String> {
    let template = unit
        .split_once('@')
        .map(|(name, _)| format!("{name}@.service"));
    let names: Vec<&str> = std::iter::once(unit).chain(template.as_deref()).collect();
    let mut texts = Vec::new();
    let unit_file = names
        .iter()
        .flat_map(|name| UNIT_PLACES.map(|place| root.join(place).join(name)))
        .find_map(|path| fs::read_to_string(path).ok());
    texts.extend(unit_file);
    for name in names.iter().rev() {
        for place in UNIT_PLACES.iter().rev() {
            texts.extend(drop_ins(&root.join(place).join(format!("{name}.d"))));
        }
    }
    texts
        .iter()
        .flat_map(|text| text.lines())
        .filter_map(|line| line.trim().strip_prefix("Restart="))
        .next_back()
        .filter(|value| ["always", "on-success"].contains(value))
        .map(str::to_owned)
}

fn drop_ins(directory: &Path) -> Vec<String> {
    let mut paths: Vec<PathBuf> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|end| end == "conf"))
        .collect();
    paths.sort();
    paths
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn an_enabled_unit_that_restarts_and_an_automatic_cluster_are_found() {
        let place = tempfile::tempdir().expect("a directory");
        let root = place.path();
        let unit = "postgresql@15-main.service";
        let config = root.join("etc/postgresql/15/main/postgresql.conf");
        assert_eq!(starters(root, Some(unit), &config), []);
        write(
            root,
            "etc/systemd/system/multi-user.target.wants/postgresql@15-main.service",
            "",
        );
        write(
            root,
            "lib/systemd/system/postgresql@.service",
            "[Service]\nRestart=always\n",
        );
        write(
            root,
            "etc/postgresql/15/main/start.conf",
            "# comment\nauto\n",
        );
        let found = starters(root, Some(unit), &config);
        let cures: Vec<&str> = found.iter().map(|it| it.cure.as_str()).collect();
        assert!(cures[0].starts_with("systemctl disable postgresql@15-main.service"));
        assert!(cures[1].starts_with("systemctl edit"));
        assert!(cures[2].starts_with("echo manual > "));
        write(
            root,
            "etc/systemd/system/postgresql@15-main.service.d/override.conf",
            "[Service]\nRestart=no\n",
        );
        assert_eq!(starters(root, Some(unit), &config).len(), 2);
        write(root, "etc/postgresql/15/main/start.conf", "manual\n");
        assert_eq!(starters(root, None, &config), []);
    }

    #[test]
    fn a_unit_that_restarts_only_after_a_crash_is_no_obstacle() {
        let place = tempfile::tempdir().expect("a directory");
        write(
            place.path(),
            "usr/lib/systemd/system/pg.service",
            "Restart=on-failure\n",
        );
        assert_eq!(
            starters(place.path(), Some("pg.service"), Path::new("/x/y")),
            []
        );
    }
}
