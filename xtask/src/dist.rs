//! A release as one file: programs, units, sample configuration, documentation, checksums.
//!
//! The same tree, compiler and machine give the same bytes: entries are sorted, belong to nobody, and
//! have the time of the commit. The surprise: a tree with changes that are not committed is refused,
//! because nobody could tell later what is in the file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::run::{cargo, repository, run, target_folder};

/// What a host needs.
const PROGRAMS: &[&str] = &[
    "clusterctl",
    "clusterd",
    "clusterd-backup",
    "clusterd-guard",
];

/// What else is in the file, as it lies in the repository.
const FILES: &[&str] = &["README.md", "CHANGELOG.md", "ARCHITECTURE.md"];
const FOLDERS: &[&str] = &["config", "docs"];

/// Builds and packs a release; says where it lies.
///
/// # Errors
/// The tree has changes, it does not build, or a file cannot be written.
pub fn make(allow_changes: bool) -> Result<()> {
    let changes = git(&["status", "--porcelain"])?;
    if !changes.is_empty() && !allow_changes {
        bail!(
            "the tree has changes that are not committed (--allow-changes packs them too):\n{changes}"
        );
    }
    let commit = git(&["rev-parse", "HEAD"])?;
    let time = git(&["show", "--no-patch", "--format=%ct", "HEAD"])?;
    let name = format!("matriarch-{}-{}", env!("CARGO_PKG_VERSION"), host()?);
    build(&time)?;
    let folder = target_folder().join("dist");
    let stage = folder.join(&name);
    if stage.exists() {
        fs::remove_dir_all(&stage).with_context(|| format!("empty {}", stage.display()))?;
    }
    fill(&stage)?;
    let mark = if changes.is_empty() {
        ""
    } else {
        " with changes"
    };
    write(&stage.join("COMMIT"), &format!("{commit}{mark}\n"))?;
    let sums = checksums(&stage)?;
    write(&stage.join("SHA256SUMS"), &sums)?;
    let file = folder.join(format!("{name}.tar.gz"));
    pack(&folder, &name, &file, &time)?;
    let sum = sha256(&folder, &format!("{name}.tar.gz"))?;
    write(&folder.join(format!("{name}.tar.gz.sha256")), &sum)?;
    println!("{}", file.display());
    print!("{sum}");
    Ok(())
}

/// Where the release is built: in a place of its own, because its flags would make every other release
/// build begin anew.
fn build_folder() -> PathBuf {
    target_folder().join("dist").join("build")
}

/// The release programs, without this machine's folders in them.
fn build(time: &str) -> Result<()> {
    let mut build = cargo(&["build", "--release", "--locked"]);
    for program in ["clusterd", "clusterd-guard", "clusterctl", "cluster-backup"] {
        build.args(["-p", program]);
    }
    let mut flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    flags += &format!(" --remap-path-prefix={}=.", repository().display());
    if let Some(home) = cargo_home() {
        flags += &format!(" --remap-path-prefix={}=cargo", home.display());
    }
    build.env("RUSTFLAGS", flags.trim());
    build.env("CARGO_TARGET_DIR", build_folder());
    build.env("SOURCE_DATE_EPOCH", time);
    run(build).context("the release does not build")
}

fn cargo_home() -> Option<PathBuf> {
    let set = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    set.or_else(|| Some(Path::new(&std::env::var_os("HOME")?).join(".cargo")))
}

/// Everything the file holds, in its place.
fn fill(stage: &Path) -> Result<()> {
    for program in PROGRAMS {
        let built = build_folder().join("release").join(program);
        copy(&built, &stage.join("bin").join(program), 0o755)?;
    }
    for file in FILES {
        copy(&repository().join(file), &stage.join(file), 0o644)?;
    }
    for folder in FOLDERS {
        for file in files_below(&repository().join(folder))? {
            let place = stage.join(file.strip_prefix(repository())?);
            copy(&file, &place, 0o644)?;
        }
    }
    Ok(())
}

/// Every file below a folder, sorted.
fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let entries = fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files_below(&path)?);
        } else {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn copy(from: &Path, to: &Path, mode: u32) -> Result<()> {
    if let Some(folder) = to.parent() {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    fs::copy(from, to).with_context(|| format!("copy {}", from.display()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(mode))
        .with_context(|| format!("set the mode of {}", to.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// A line for each file, as `sha256sum --check` reads it.
fn checksums(stage: &Path) -> Result<String> {
    let mut sums = String::new();
    for file in files_below(stage)? {
        let name = file.strip_prefix(stage)?.display().to_string();
        sums += &sha256(stage, &name)?;
    }
    Ok(sums)
}

fn sha256(folder: &Path, name: &str) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.arg(name).current_dir(folder);
    answer(command)
}

/// Sorted, owned by nobody in particular, with one time, and packed without a name or a time.
fn pack(folder: &Path, name: &str, file: &Path, time: &str) -> Result<()> {
    let mut tar = Command::new("tar");
    tar.args(["--create", "--sort=name", "--format=gnu"])
        .args(["--owner=0", "--group=0", "--numeric-owner"])
        .args(["--mode=u=rwX,go=rX", &format!("--mtime=@{time}")])
        .args(["--use-compress-program", "gzip --no-name --best"])
        .arg("--file")
        .arg(file)
        .arg("--directory")
        .arg(folder)
        .arg(name);
    run(tar)
}

/// The target the compiler builds for, as rustc names it.
fn host() -> Result<String> {
    let mut rustc = Command::new("rustc");
    rustc.arg("-vV");
    let said = answer(rustc)?;
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .context("rustc does not say its host")
}

fn git(arguments: &[&str]) -> Result<String> {
    let mut git = Command::new("git");
    git.args(arguments).current_dir(repository());
    Ok(answer(git)?.trim().to_owned())
}

fn answer(mut command: Command) -> Result<String> {
    let shown = crate::run::show(&command);
    let answer = command
        .output()
        .with_context(|| format!("could not start `{shown}`"))?;
    let said = String::from_utf8_lossy(&answer.stderr).into_owned();
    ensure!(answer.status.success(), "`{shown}`: {said}");
    Ok(String::from_utf8_lossy(&answer.stdout).into_owned())
}
