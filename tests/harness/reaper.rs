//! Leaving nothing behind: a small shell program, started first, that cleans up when the pipe to it
//! closes. The pipe closes when the cluster is dropped, and also when the test is killed in any way.
//!
//! It is the only clean-up there is, so that the way after a crash is the way that always runs.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};

/// `$1` control group, `$2` prefix of namespaces, `$3` folder.
const SCRIPT: &str = r#"
cat >/dev/null
# What writes to a disk that stands still cannot be killed.
grep " $3/" /proc/mounts | cut -d' ' -f2 | while read -r mount; do fsfreeze -u "$mount"; done
if [ -d "$1" ]; then
  turn=0
  while grep -q 'populated 1' "$1/cgroup.events" && [ $turn -lt 400 ]; do
    echo 1 >"$1/cgroup.kill"; sleep 0.05; turn=$((turn + 1))
  done
  find "$1" -depth -type d -exec rmdir {} \;
fi
# What a killed container leaves: its groups in the older tree of a machine that has both, and marks.
older="/sys/fs/cgroup/systemd/$2"
[ -d "$older" ] && find "$older" -depth -type d -exec rmdir {} \;
for root in "$3"/*/root; do
  [ -d "$root" ] && rm -f "/run/systemd/nspawn/locks/inode-$(stat -c %d:%i "$root")"
done
rmdir "/run/systemd/nspawn/propagate/$2"-*
# A killed postmaster leaves its System V segment; line 7 of its file names it.
for file in "$3"/*/volume/data*/postmaster.pid; do
  [ -f "$file" ] && ipcrm -m "$(sed -n 7p "$file" | tr -s ' ' | sed 's/^ //' | cut -d' ' -f2)"
done
for space in $(ip netns list 2>/dev/null | cut -d' ' -f1 | grep "^$2-"); do
  ip netns delete "$space"
done
grep " $3/" /proc/mounts | cut -d' ' -f2 | sort -r | while read -r mount; do umount -l "$mount"; done
case "$3" in */mt[0-9]*) rm -rf "$3" ;; esac
"#;

/// The running cleaner of one cluster.
#[derive(Debug)]
pub struct Reaper {
    child: Child,
}

impl Reaper {
    /// Starts it; nothing is cleaned until it is dropped.
    ///
    /// # Errors
    /// No shell.
    pub fn start(group: &Path, prefix: &str, folder: &Path) -> Result<Self> {
        let child = script(group, prefix, folder)
            .stdin(Stdio::piped())
            .spawn()
            .context("start the cleaner")?;
        Ok(Self { child })
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        // A cleaner that cannot be waited for has ended already.
        let _ = self.child.wait();
    }
}

fn script(group: &Path, prefix: &str, folder: &Path) -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", SCRIPT, "cleaner"])
        .arg(group)
        .arg(prefix)
        .arg(folder);
    // A group of its own: Ctrl-C at the terminal must not reach it.
    command
        .process_group(0)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

/// Cleans up after test processes that are gone and whose cleaner was killed too.
///
/// # Errors
/// No control groups, or no shell.
pub fn sweep() -> Result<()> {
    let root = cgroup_root()?;
    for entry in fs::read_dir(&root)
        .context("list control groups")?
        .flatten()
    {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name
            .strip_prefix("mt")
            .and_then(|rest| rest.split('-').next())
        else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            script(&entry.path(), &name, &scratch().join(&name))
                .stdin(Stdio::null())
                .status()
                .context("run the cleaner")?;
        }
    }
    Ok(())
}

/// Where clusters keep their data: `MATRIARCH_SCRATCH`, else /tmp. Short, because of socket paths.
pub fn scratch() -> PathBuf {
    std::env::var_os("MATRIARCH_SCRATCH").map_or_else(|| "/tmp".into(), PathBuf::from)
}

/// Where cgroup v2 is mounted; on hybrid systems it is one level deeper.
///
/// # Errors
/// This kernel has none that can kill and freeze.
pub fn cgroup_root() -> Result<PathBuf> {
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let place = PathBuf::from(place);
        if place.join("cgroup.controllers").exists() {
            return Ok(place);
        }
    }
    bail!(
        "no cgroup v2 is mounted below /sys/fs/cgroup: hosts cannot be killed or frozen as a whole"
    )
}
