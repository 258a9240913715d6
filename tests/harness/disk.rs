//! Disks of members that are not the machine's own: small ones that can be filled, and real ones that can
//! be made to stand still.
//!
//! What writes to a disk that stands still cannot be killed; the cleaner lets all disks go on first.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::host::Host;
use crate::member::{Member, give_to_postgres};

/// What a member's volume lies on.
#[derive(Clone, Copy, Debug)]
pub enum Disk {
    /// A file system in memory. Unit: megabytes.
    InMemory(u32),
    /// A file system on a block device. Unit: megabytes.
    Block(u32),
}

impl Member {
    /// Fills its volume to the last byte; the file to remove to make room again.
    ///
    /// # Errors
    /// The volume has no limit of its own: see [`crate::Wanted::small_disks`].
    pub fn fill_disk(&self) -> Result<PathBuf> {
        let volume = self.own_volume()?;
        let ballast = volume.join("ballast");
        let file = fs::File::create(&ballast).context("make a file on the volume")?;
        let block = [0_u8; 4096];
        let mut written = std::io::BufWriter::with_capacity(4096, &file);
        while std::io::Write::write_all(&mut written, &block).is_ok() {}
        // What did not fit is thrown away with the buffer.
        let _ = written.into_parts();
        Ok(ballast)
    }

    /// Nothing is written to its volume any more, and whoever tries waits; reading goes on.
    ///
    /// # Errors
    /// The volume is no block device: see [`crate::Wanted::block_disks`].
    pub fn freeze_disk(&self) -> Result<()> {
        self.fsfreeze("--freeze")
    }

    /// Lets everybody write on.
    ///
    /// # Errors
    /// It does not stand still.
    pub fn thaw_disk(&self) -> Result<()> {
        self.fsfreeze("--unfreeze")
    }

    fn fsfreeze(&self, what: &str) -> Result<()> {
        let mut fsfreeze = Command::new("fsfreeze");
        fsfreeze.arg(what).arg(self.own_volume()?);
        Host::run(fsfreeze).map(drop)
    }

    /// The volume, if it is not the machine's own disk.
    fn own_volume(&self) -> Result<PathBuf> {
        let mounts = fs::read_to_string("/proc/mounts").context("read mounts")?;
        let volume = self.volume();
        if !mounts.contains(&format!(" {} ", volume.display())) {
            bail!("{} is on the machine's own disk", volume.display());
        }
        Ok(volume)
    }

    /// Puts a file system of limited size where its snapshots lie.
    ///
    /// # Errors
    /// Not root.
    pub fn limit_snapshots(&self, megabytes: u32) -> Result<()> {
        let place = self.state_dir().join("snapshots");
        fs::create_dir_all(&place).context("make the folder of snapshots")?;
        mount_tmpfs(&place, megabytes)
    }

    /// Puts a file system of its own under the volume.
    ///
    /// # Errors
    /// Not root, or no loop device.
    pub(crate) fn mount_disk(&self, disk: Disk) -> Result<()> {
        match disk {
            Disk::InMemory(megabytes) => mount_tmpfs(&self.volume(), megabytes),
            Disk::Block(megabytes) => {
                mount_block(&self.folder.join("disk"), &self.volume(), megabytes)
            }
        }
    }
}

/// It belongs to user postgres.
fn mount_tmpfs(place: &Path, megabytes: u32) -> Result<()> {
    let mut mount = Command::new("mount");
    mount.args([
        "-t",
        "tmpfs",
        "-o",
        &format!("size={megabytes}m,mode=0755"),
        "matriarch-test",
    ]);
    mount.arg(place);
    Host::run(mount)?;
    give_to_postgres(place)
}

/// The device goes away with the mount.
fn mount_block(file: &Path, place: &Path, megabytes: u32) -> Result<()> {
    let disk = fs::File::create_new(file).context("make the file of a disk")?;
    disk.set_len(u64::from(megabytes) << 20)
        .context("make the file of a disk as large as the disk")?;
    let mut format = Command::new("mkfs.ext4");
    format.arg("-q").arg(file);
    Host::run(format)?;
    let mut mount = Command::new("mount");
    mount.args(["-o", "loop,noatime"]).arg(file).arg(place);
    Host::run(mount)?;
    give_to_postgres(place)
}
