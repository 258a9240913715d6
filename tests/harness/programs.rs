//! Where the built programs and the PostgreSQL servers are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A program of ours: beside the running executable, or one folder up for a test executable.
///
/// # Errors
/// Not built; says what builds it.
pub fn ours(name: &str) -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("MATRIARCH_PROGRAMS") {
        return existing(PathBuf::from(folder).join(name));
    }
    let me = std::env::current_exe().context("find the running executable")?;
    let folder = me.parent().context("an executable lies in a folder")?;
    for place in [folder, folder.parent().unwrap_or(folder)] {
        if let Ok(program) = existing(place.join(name)) {
            return Ok(program);
        }
    }
    bail!("{name} is not built (cargo build -p clusterd -p clusterd-guard -p clusterctl)")
}

/// `bin` of a PostgreSQL major; `None` is the distribution's.
///
/// # Errors
/// Not installed; says what installs it.
pub fn postgres_bin(major: Option<u32>) -> Result<PathBuf> {
    let distribution = PathBuf::from("/usr/lib/postgresql");
    let folder = match major {
        None => {
            let mut found: Vec<PathBuf> = std::fs::read_dir(&distribution)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path().join("bin"))
                .filter(|bin| bin.join("postgres").exists())
                .collect();
            found.sort();
            found.pop().unwrap_or(distribution)
        }
        Some(major)
            if distribution
                .join(major.to_string())
                .join("bin/postgres")
                .exists() =>
        {
            distribution.join(major.to_string()).join("bin")
        }
        Some(major) => target_folder()
            .join("postgres")
            .join(major.to_string())
            .join("bin"),
    };
    // User postgres may not be able to follow a link through a closed folder: take its end.
    existing(folder.join("postgres"))
        .and_then(|program| program.canonicalize().context("follow a link"))
        .and_then(|program| program.parent().map(Path::to_path_buf).context("no folder"))
        .context("no PostgreSQL there (cargo xtask setup installs it)")
}

/// Where cargo builds; logs of failed tests are kept below it.
pub fn target_folder() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"),
        PathBuf::from,
    )
}

fn existing(path: PathBuf) -> Result<PathBuf> {
    if path.exists() {
        Ok(path)
    } else {
        bail!("{} does not exist", path.display())
    }
}
