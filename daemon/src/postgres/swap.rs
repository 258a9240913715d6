//! Puts a finished copy in the place of what is there, and keeps what was there.
//!
//! The old directories stay, renamed and with their links corrected, until `discard_old`
//! (hazards D10). The surprise: where a place is a mount point, nothing can be renamed over it, so
//! contents are moved inside it.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use super::{Error, Postgres, durable_file};

/// How many unconfirmed old directories are kept at most.
const OLD_KEPT: u32 = 2;

/// Copies inside a PGDATA that is a mount point: basebackups leave names with this prefix out.
const INSIDE: &str = "pgsql_tmp_clusterd_";

/// One directory that is swapped: data, WAL or a tablespace.
pub(super) struct Place {
    pub current: PathBuf,
    pub clone: PathBuf,
    pub old: PathBuf,
}

impl Place {
    /// Where the directories lie that earlier clones have replaced here.
    pub(super) fn olds(&self) -> Vec<PathBuf> {
        (1..=OLD_KEPT)
            .map(|number| numbered(&self.old, number))
            .collect()
    }
}

/// Everything that a clone replaces.
pub(super) struct Places {
    pub data: Place,
    pub wal: Option<Place>,
    pub tablespaces: Vec<Place>,
}

impl Places {
    /// Data, WAL, tablespaces.
    pub(super) fn all(&self) -> impl Iterator<Item = &Place> {
        let own = std::iter::once(&self.data).chain(&self.wal);
        own.chain(&self.tablespaces)
    }
}

impl Postgres {
    /// Removes the directories that clones have replaced; called once the new one is proven.
    pub async fn discard_old(&self) -> Result<(), Error> {
        let _turn = self.inner.change.lock().await;
        let mut places = self.tablespace_places()?;
        places.push(self.data_place()?);
        if let Some(dir) = &self.options().wal_dir {
            places.push(self.place(dir)?);
        }
        for place in places {
            for old in place.olds() {
                remove_tree(&old)?;
            }
        }
        Ok(())
    }

    pub(super) fn data_place(&self) -> Result<Place, Error> {
        let data_dir = &self.options().data_dir;
        durable_file::make_directory(data_dir, self.owner())?;
        self.place(data_dir)
    }

    /// Where clone and old directory of `current` lie: beside it, or inside it when it cannot be renamed.
    pub(super) fn place(&self, current: &Path) -> Result<Place, Error> {
        if is_mount_point(current) {
            let inside = |name: &str| current.join(name);
            return Ok(Place {
                current: current.to_owned(),
                clone: inside(&format!("{INSIDE}clone")),
                old: inside(&format!("{INSIDE}old")),
            });
        }
        let beside = |suffix: &str| {
            let mut name = current.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        Ok(Place {
            current: current.to_owned(),
            clone: beside(".clone-new"),
            old: beside(".old"),
        })
    }

    /// The tablespaces that the present directory links to.
    pub(super) fn tablespace_places(&self) -> Result<Vec<Place>, Error> {
        let Ok(links) = fs::read_dir(self.data_path("pg_tblspc")) else {
            return Ok(Vec::new());
        };
        let targets = links
            .flatten()
            .filter_map(|link| fs::read_link(link.path()).ok());
        let mut places = Vec::new();
        for target in targets.filter(|target| target.is_absolute() && target.is_dir()) {
            // Contents of a tablespace directory belong to one version directory; the directory
            // itself may be a mount point like any other.
            places.push(self.place(&target)?);
        }
        Ok(places)
    }

    /// Swaps every place, data last, and makes the links of both copies name their own parts.
    pub(super) fn swap_in(
        &self,
        data: &Place,
        wal: Option<&Place>,
        tablespaces: &[Place],
    ) -> Result<(), Error> {
        // What each path that a link may name is called afterwards: of the copy, and of the old one.
        let mut renamed = Vec::new();
        let mut outdated = Vec::new();
        for place in tablespaces.iter().chain(wal) {
            let old = self.swap(place)?;
            renamed.push((place.clone.clone(), place.current.clone()));
            outdated.extend(old.map(|old| (place.current.clone(), old)));
        }
        relink(&data.clone, &renamed)?;
        match self.swap(data)? {
            Some(old) => relink(&old, &outdated),
            None => Ok(()),
        }
    }

    /// Puts the clone in the place of what is there; answers where the latter is kept.
    fn swap(&self, place: &Place) -> Result<Option<PathBuf>, Error> {
        let is_new = is_nothing(&place.current);
        let old = (1..=OLD_KEPT)
            .map(|number| numbered(&place.old, number))
            .find(|path| !path.exists())
            .filter(|_| !is_new);
        if place.clone.starts_with(&place.current) {
            self.swap_inside(place, old.as_deref(), is_new)?;
        } else {
            match &old {
                Some(old) => {
                    fs::rename(&place.current, old).map_err(file("rename", &place.current))?
                }
                None => remove_tree(&place.current)?,
            }
            fs::rename(&place.clone, &place.current).map_err(file("rename", &place.clone))?;
        }
        let parent = place.current.parent().unwrap_or(Path::new("/"));
        durable_file::sync_directory(parent).map_err(file("make durable", parent))?;
        Ok(old)
    }

    fn swap_inside(&self, place: &Place, old: Option<&Path>, is_new: bool) -> Result<(), Error> {
        let doomed = numbered(&place.old, OLD_KEPT + 1);
        if !is_new {
            let old = old.unwrap_or(&doomed);
            durable_file::make_directory(old, self.owner())?;
            move_contents(&place.current, old).map_err(file("move", &place.current))?;
        }
        move_contents(&place.clone, &place.current).map_err(file("move", &place.clone))?;
        fs::remove_dir(&place.clone).map_err(file("remove", &place.clone))?;
        remove_tree(&doomed)
    }
}

fn file<'a>(verb: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> Error + use<'a> {
    move |source| Error::File {
        verb,
        path: path.to_owned(),
        source,
    }
}

/// Corrects `pg_wal` and the links in `pg_tblspc` of a data directory; both hold absolute paths.
fn relink(data_dir: &Path, renamed: &[(PathBuf, PathBuf)]) -> Result<(), Error> {
    let mut links = vec![data_dir.join("pg_wal")];
    if let Ok(entries) = fs::read_dir(data_dir.join("pg_tblspc")) {
        links.extend(entries.flatten().map(|entry| entry.path()));
    }
    for link in links {
        let Ok(target) = fs::read_link(&link) else {
            continue;
        };
        if let Some((_, now)) = renamed.iter().find(|(was, _)| *was == target) {
            fs::remove_file(&link)
                .and_then(|()| symlink(now, &link))
                .map_err(file("link", &link))?;
        }
    }
    Ok(())
}

/// Empties a directory that was made by us; the directory itself stays.
pub(super) fn empty_directory(path: &Path) -> Result<(), Error> {
    let Ok(entries) = fs::read_dir(path) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        if entry.file_name() != "lost+found" {
            remove_tree(&entry.path())?;
        }
    }
    Ok(())
}

pub(super) fn remove_tree(path: &Path) -> Result<(), Error> {
    let removed = match path.symlink_metadata() {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|source| Error::File {
        verb: "remove",
        path: path.to_owned(),
        source,
    })
}

fn numbered(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!("-{number}"));
    PathBuf::from(name)
}

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| path.metadata().map(|meta| meta.dev()).ok();
    match (device(path), path.parent().and_then(device)) {
        (Some(own), Some(parents)) => own != parents,
        _ => false,
    }
}

/// Whether a directory is not there or holds nothing worth keeping.
pub(super) fn is_nothing(path: &Path) -> bool {
    match fs::read_dir(path) {
        Ok(entries) => entries
            .flatten()
            .map(|entry| entry.file_name())
            .all(|name| name == "lost+found" || name.to_string_lossy().starts_with(INSIDE)),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

/// Moves everything but the places of other copies.
fn move_contents(from: &Path, to: &Path) -> io::Result<()> {
    for entry in fs::read_dir(from)?.flatten() {
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if text == "lost+found" || text.starts_with(INSIDE) {
            continue;
        }
        fs::rename(entry.path(), to.join(&name))?;
    }
    durable_file::sync_directory(to)
}
