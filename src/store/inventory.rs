//! All that is in a store, and what it takes of the disk.

use std::collections::BTreeMap;
use std::fs::{self, DirEntry, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::FlockOperation;
use serde::Serialize;

use super::mark::{Mark, Marks, Standing};
use super::seal::SEAL;
use super::vouched::UNVOUCHED;
use super::{DIRS, StoreError};
use crate::fsx::IoAt;

/// What something in a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// Layers and documents of images.
    Image,
    /// Layers that no image ships, but its build wants to find.
    Layer,
    /// Compressed layers.
    Twin,
    /// What was fetched.
    Source,
    /// Unpacked layers.
    Tree,
    /// Unpacked programs that resolve.
    Tool,
    /// Beginnings of downloads.
    Part,
    /// Records, listings, logs.
    Record,
    /// What processes that run are writing.
    Draft,
}

/// Things that come and go together.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) paths: Vec<PathBuf>,
    /// Bytes on the disk.
    pub(super) size: u64,
    name: Name,
    time: i64,
}

/// What an item is called where it may be needed.
#[derive(Debug)]
enum Name {
    /// `ALGORITHM/HEX`.
    Blob(String),
    /// By the first 32 digits of the layer's digest; `whole` where it is known what it holds.
    Tree {
        layer: String,
        whole: bool,
    },
    /// `HEX-HEX`, of a layer whose blob is called otherwise.
    Listing(String),
    Part(String),
    Record(&'static str, String),
    Tool(String),
    Stat(String),
    Log,
}

/// How long a log stays for people to read.
const LOG: Duration = Duration::from_secs(24 * 60 * 60);

/// A draft of a record that is this old belongs to nobody.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// What a store holds.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    pub(super) items: Vec<Item>,
    /// Bytes of what always stays: directories, the index, locks.
    pub(super) fixed: u64,
}

impl Inventory {
    pub(super) fn take(root: &Path) -> Result<Self, StoreError> {
        let mut inventory = Inventory::default();
        for name in DIRS.iter().chain(&["", "blobs", "index.json", "oci-layout", SEAL, UNVOUCHED]) {
            inventory.fixed += fs::symlink_metadata(root.join(name)).map_or(0, |meta| disk(&meta));
        }
        inventory.list_blobs(root)?;
        inventory.list_trees(root)?;
        for kind in ["facts", "images", "keys", "twins"] {
            inventory.list(root, kind, |name| Name::Record(kind, name))?;
        }
        inventory.list(root, "parts", Name::Part)?;
        inventory.list(root, "stats", Name::Stat)?;
        inventory.list(root, "logs", |_| Name::Log)?;
        for entry in entries(&root.join("tools"))? {
            let (path, name) = (entry.path(), name_of(&entry));
            inventory.push(vec![path.clone()], measure(&path), Name::Tool(name), &entry);
        }
        for dir in ["locks", "projects", "pushes"] {
            let sizes = entries(&root.join(dir))?.into_iter();
            let sizes = sizes.map(|entry| entry.metadata().map_or(0, |meta| disk(&meta)));
            inventory.fixed += sizes.sum::<u64>();
        }
        Ok(inventory)
    }

    /// Blobs with their listings, and listings of layers whose blobs are called otherwise.
    fn list_blobs(&mut self, root: &Path) -> Result<(), StoreError> {
        let mut listed = Inventory::default();
        listed.list(root, "listings", Name::Listing)?;
        let mut listings: BTreeMap<String, Vec<Item>> = BTreeMap::new();
        for item in listed.items {
            let Name::Listing(name) = &item.name else { continue };
            let layer = name.split('-').next().unwrap_or_default().to_owned();
            listings.entry(layer).or_default().push(item);
        }
        for algorithm in entries(&root.join("blobs"))? {
            let name = name_of(&algorithm);
            if !DIRS.contains(&&*format!("blobs/{name}")) {
                self.fixed += algorithm.metadata().map_or(0, |meta| disk(&meta));
            }
            for entry in entries(&algorithm.path())? {
                let mut paths = vec![entry.path()];
                let hex = name_of(&entry);
                let mut size = entry.metadata().map_or(0, |meta| disk(&meta));
                let own = listings.remove(&hex).filter(|_| name == "sha256");
                for listing in own.into_iter().flatten() {
                    size += listing.size;
                    paths.extend(listing.paths);
                }
                self.push(paths, size, Name::Blob(format!("{name}/{hex}")), &entry);
            }
        }
        self.items.extend(listings.into_values().flatten());
        Ok(())
    }

    /// Trees by what was measured once: walking them takes longer than all else.
    fn list_trees(&mut self, root: &Path) -> Result<(), StoreError> {
        let listings: Vec<String> = entries(&root.join("listings"))?.iter().map(name_of).collect();
        let whole: std::collections::BTreeSet<&str> =
            listings.iter().filter_map(|hex| hex.get(..32)).collect();
        for map in entries(&root.join("trees"))? {
            self.fixed += map.metadata().map_or(0, |meta| disk(&meta));
            for entry in entries(&map.path())? {
                let layer = name_of(&entry);
                let memo = root.join("sizes").join(format!("{}-{layer}", name_of(&map)));
                let known = fs::read_to_string(&memo).ok().and_then(|text| text.parse().ok());
                let size = known.unwrap_or_else(|| {
                    let size = measure(&entry.path());
                    // what cannot be remembered is measured again
                    fs::write(&memo, size.to_string()).unwrap_or_default();
                    size
                });
                let size = size + fs::symlink_metadata(&memo).map_or(0, |meta| disk(&meta));
                let name = Name::Tree { whole: whole.contains(&*layer), layer };
                self.push(vec![entry.path(), memo], size, name, &entry);
            }
        }
        let trees = root.join("trees");
        self.list(root, "sizes", |_| Name::Stat(String::new()))?;
        self.items.retain(|item| match &item.name {
            Name::Stat(name) if name.is_empty() => {
                let name = item.paths[0].file_name().unwrap_or_default().to_string_lossy();
                !name.rsplit_once('-').is_some_and(|(map, hex)| trees.join(map).join(hex).exists())
            }
            _ => true,
        });
        Ok(())
    }

    fn list(
        &mut self,
        root: &Path,
        dir: &str,
        name: impl Fn(String) -> Name,
    ) -> Result<(), StoreError> {
        for entry in entries(&root.join(dir))? {
            let size = entry.metadata().map_or(0, |meta| disk(&meta));
            self.push(vec![entry.path()], size, name(name_of(&entry)), &entry);
        }
        Ok(())
    }

    fn push(&mut self, paths: Vec<PathBuf>, size: u64, name: Name, entry: &DirEntry) {
        // reading a source is using it, and most file systems remember that day by day
        let time = entry.metadata().map_or(0, |meta| meta.mtime().max(meta.atime()));
        self.items.push(Item { paths, size, name, time });
    }
}

impl Item {
    /// Its name among blobs, `ALGORITHM/HEX`; of a tree the beginning of its layer's.
    pub(super) fn blob(&self) -> Option<String> {
        match &self.name {
            Name::Blob(name) => Some(name.clone()),
            Name::Tree { layer, .. } => Some(format!("sha256/{layer}")),
            _ => None,
        }
    }

    pub(super) fn mark(&self, marks: &Marks) -> Mark {
        let mark =
            |standing, class| Mark { standing, class: Some(class), used: self.time, turn: 0 };
        let known = |known: Mark, class| Mark {
            class: known.class.or(Some(class)),
            used: known.used.max(self.time),
            ..known
        };
        match &self.name {
            Name::Blob(name) => known(marks.blob(name), Class::Source),
            Name::Tree { layer, whole } => {
                let of = marks.layer(layer);
                let standing = match of.standing {
                    Standing::Held => Standing::Held,
                    _ if !whole => Standing::Loose,
                    standing => standing.min(Standing::Rebuildable),
                };
                Mark { used: of.used.max(self.time), ..mark(standing, Class::Tree) }
            }
            Name::Listing(hex) => {
                let of = marks.layer(hex.get(..32).unwrap_or_default());
                mark(of.standing, Class::Record)
            }
            Name::Part(name) => mark(self.part(marks, name), Class::Part),
            Name::Record(kind, name) => Mark {
                class: Some(Class::Record),
                ..known(marks.record(kind, name), Class::Record)
            },
            Name::Tool(name) if marks.holdings.tools.contains(name) => {
                mark(Standing::Held, Class::Tool)
            }
            Name::Tool(_) => mark(Standing::Rebuildable, Class::Tool),
            Name::Stat(name) if marks.knows_project(name) => mark(Standing::Kept, Class::Record),
            Name::Log if is_younger(&self.paths[0], LOG) => mark(Standing::Kept, Class::Record),
            Name::Stat(_) | Name::Log => mark(Standing::Loose, Class::Record),
        }
    }

    /// A part whose download runs is locked, or held by whoever is about to go on with it.
    fn part(&self, marks: &Marks, name: &str) -> Standing {
        let hex = name.split('.').next().unwrap_or_default();
        let of = ["sha256", "sha512", "sha1"].map(|kind| marks.blob(&format!("{kind}/{hex}")));
        let locked = fs::File::open(&self.paths[0]).is_ok_and(|file| {
            rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_err()
        });
        let standing = of.iter().map(|mark| mark.standing).max().unwrap_or_default();
        if locked { Standing::Held } else { standing }
    }
}

fn is_younger(path: &Path, age: Duration) -> bool {
    let time = fs::symlink_metadata(path).and_then(|meta| meta.modified());
    time.ok().and_then(|time| time.elapsed().ok()).is_none_or(|past| past < age)
}

/// What is in a directory that may not be there; drafts of records that are being written are not.
fn entries(dir: &Path) -> Result<Vec<DirEntry>, StoreError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.at("list", dir)?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.at("list", dir)?;
        let hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        if !hidden || !is_younger(&entry.path(), ABANDONED) {
            found.push(entry);
        }
    }
    Ok(found)
}

fn name_of(entry: &DirEntry) -> String {
    entry.file_name().to_string_lossy().into_owned()
}

/// Bytes that a file takes of the disk.
fn disk(meta: &Metadata) -> u64 {
    meta.blocks() * 512
}

/// Bytes that a tree takes of the disk. What goes meanwhile counts nothing.
pub(super) fn measure(path: &Path) -> u64 {
    let Ok(meta) = fs::symlink_metadata(path) else { return 0 };
    let mut sum = disk(&meta);
    if meta.is_dir() {
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        sum += entries.map(|entry| measure(&entry.path())).sum::<u64>();
    }
    sum
}
