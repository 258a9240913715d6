//! The programs of the newest earlier commit that has others than this tree, for the rolling upgrade.
//!
//! They are built below the target folder, in a folder of their own, so that nothing is mixed. The
//! surprise: that folder begins with what is already compiled of foreign crates, because compiling them a
//! second time would take minutes and give the same.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::run::{cargo, repository, run, target_folder};

/// What the programs are made of.
const SOURCES: &[&str] = &[
    "Cargo.lock",
    "ctl/src",
    "daemon/backup/src",
    "daemon/core/src",
    "daemon/guard/src",
    "daemon/src",
    "proto",
];

const PROGRAMS: &[&str] = &["clusterd", "clusterd-guard", "clusterctl"];

/// The earlier programs, or why there are none.
pub enum Previous {
    /// The folder they are in.
    Built(PathBuf),
    /// A sentence: this checkout does not have an earlier commit.
    NotThere(String),
}

/// Builds them, unless they are there.
///
/// # Errors
/// The earlier commit does not build.
pub fn build() -> Result<Previous> {
    let commit = match find()? {
        Some(commit) => commit,
        None => {
            let why = "no earlier commit with other programs is in this checkout (a shallow clone, or the first commit)";
            return Ok(Previous::NotThere(why.to_owned()));
        }
    };
    let folder = target_folder().join("previous");
    let (programs, stamp) = (folder.join("programs"), folder.join("commit"));
    let is_there = PROGRAMS.iter().all(|name| programs.join(name).exists())
        && fs::read_to_string(&stamp).is_ok_and(|built| built == commit);
    if !is_there {
        eprintln!("xtask: builds the programs of commit {commit} for the rolling upgrade");
        take_out(&commit, &folder)?;
        seed(&folder.join("build"));
        compile(&folder)?;
        fs::create_dir_all(&programs).context("make a folder for programs")?;
        for name in PROGRAMS {
            let built = folder.join("build/debug").join(name);
            fs::copy(&built, programs.join(name))
                .with_context(|| format!("copy {}", built.display()))?;
        }
        fs::write(&stamp, &commit).context("note which commit it is")?;
    }
    Ok(Previous::Built(programs))
}

/// The newest commit of this line whose programs differ from those of the tree as it is now.
fn find() -> Result<Option<String>> {
    let mut list = git(&["rev-list", "--first-parent", "--max-count=200", "HEAD"]);
    let answer = list.output().context("start git")?;
    let text = String::from_utf8_lossy(&answer.stdout).into_owned();
    for commit in text.lines() {
        let differs = git(&["diff", "--quiet", commit, "--"])
            .args(SOURCES)
            .status()
            .context("start git")?;
        // 0: the same; 1: not the same; anything else: it cannot be told.
        if differs.code() == Some(1) {
            return Ok(Some(commit.to_owned()));
        }
    }
    Ok(None)
}

fn git(arguments: &[&str]) -> Command {
    let mut command = Command::new("git");
    command.args(arguments).current_dir(repository());
    command
}

fn take_out(commit: &str, folder: &Path) -> Result<()> {
    let (source, archive) = (folder.join("source"), folder.join("source.tar"));
    if source.exists() {
        fs::remove_dir_all(&source).with_context(|| format!("empty {}", source.display()))?;
    }
    fs::create_dir_all(&source).with_context(|| format!("make {}", source.display()))?;
    let mut pack = git(&["archive", "--format=tar", "--output"]);
    pack.arg(&archive).arg(commit);
    run(pack)?;
    let mut unpack = Command::new("tar");
    // New times (-m), or cargo would take what it built of another commit for newer.
    unpack.arg("-xmf").arg(&archive).arg("-C").arg(&source);
    run(unpack)?;
    fs::remove_file(&archive).context("remove the archive")
}

fn compile(folder: &Path) -> Result<()> {
    // The same features of foreign crates as in this tree, so that those are not compiled again.
    let mut build = cargo(&["build", "--locked", "--workspace"]);
    for program in PROGRAMS {
        build.args(["--bin", program]);
    }
    build
        .current_dir(folder.join("source"))
        .env("CARGO_TARGET_DIR", folder.join("build"))
        .env("CARGO_INCREMENTAL", "0");
    run(build).context("the earlier commit does not build")
}

/// Begins the folder with what is compiled of foreign crates already. Whatever of this fails costs time
/// and nothing else: cargo compiles what it does not find.
fn seed(build: &Path) {
    let (from, to) = (target_folder().join("debug"), build.join("debug"));
    if to.exists() || !from.exists() {
        return;
    }
    let _ = fs::create_dir_all(&to);
    // Cargo writes into these files: a copy, with the times that tell it what is fresh.
    let mut copy = Command::new("cp");
    copy.arg("--archive")
        .args([from.join(".fingerprint"), from.join("build")]);
    let _ = copy.arg(&to).status();
    let _ = seed_libraries(&from.join("deps"), &to.join("deps"));
}

/// Libraries are never written into, only replaced: links are enough.
fn seed_libraries(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let (path, place) = (entry.path(), to.join(entry.file_name()));
        match path.extension().and_then(|end| end.to_str()) {
            Some("rlib" | "rmeta" | "so") => fs::hard_link(&path, &place)?,
            Some("d") => {
                let time = entry.metadata()?.modified()?;
                fs::copy(&path, &place)?;
                fs::File::options()
                    .write(true)
                    .open(&place)?
                    .set_modified(time)?;
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}
