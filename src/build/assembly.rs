//! Many archives into one tree and one tar.
//!
//! Bodies go straight from their decoders into the tree, in parallel and in any order; the tar is
//! written at the end, in the order of paths, from the tree that is still in the page cache. So each
//! byte is decoded once, memory holds entries and no bodies, and the tar does not depend on who came
//! first: where two archives bring one path, the second body waits in a spill until the caller says
//! whose it is.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use foldhash::HashMap;

use super::listing::Listing;
use super::pack::pack;
use super::tree::{Tree, is_through_link};
use crate::blame::Blame;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::tarball::{Member, TarError};

/// Where bodies wait whose path is taken. Never part of a layer.
const SPILL: &[u8] = b".sbx-spill";

/// Bytes that are read from a body at a time.
const PIECE: usize = 128 << 10;

/// Why an archive cannot be part of a layer.
#[derive(Debug, thiserror::Error)]
pub enum AssemblyError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Path(#[from] crate::path::PathError),
    #[error(transparent)]
    Member(#[from] TarError),
    #[error("{path} lies behind what is no directory")]
    ThroughLink { path: LayerPath },
    #[error("{path} is a directory in one place and none in another")]
    Clash { path: LayerPath },
    #[error("{path} is a hard link to {target}, which is no file before it")]
    Hardlink { path: LayerPath, target: LayerPath },
    #[error("{path} has a name that stands for a deletion in a layer")]
    Whiteout { path: LayerPath },
    #[error("{path} is a device")]
    Device { path: LayerPath },
    #[error("{path} cannot be read: {source}")]
    Body { path: LayerPath, source: io::Error },
    #[error("the layer's archive cannot be written: {0}")]
    Sink(io::Error),
}

impl AssemblyError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// Turns a member of an archive into an entry. `rewrite` gives its place in the image.
pub fn member_entry(
    member: &Member,
    rewrite: impl Fn(LayerPath) -> LayerPath,
) -> Result<Entry, AssemblyError> {
    let mut entry = member.to_entry()?;
    entry.path = rewrite(entry.path);
    match entry.kind {
        Kind::Hardlink(target) => entry.kind = Kind::Hardlink(rewrite(target)),
        Kind::Char { .. } | Kind::Block { .. } => {
            return Err(AssemblyError::Device { path: entry.path });
        }
        _ => {}
    }
    Ok(entry)
}

/// One archive's claim to a path.
struct Claimed {
    origin: u32,
    /// Later claims have greater numbers.
    serial: u64,
    entry: Entry,
    /// Where its body is: at the path itself, or in a spill.
    spill: Option<LayerPath>,
    /// The claim that brought the body: another one's, for a hard link.
    body: u64,
}

/// A layer's tree being put together.
pub struct Assembly {
    tree: Tree,
    slots: Mutex<HashMap<LayerPath, Vec<Claimed>>>,
    serials: AtomicU64,
}

impl Assembly {
    /// Puts together into an empty directory.
    pub fn new(tree: &std::path::Path) -> Result<Self, AssemblyError> {
        let tree = Tree::open(tree)?;
        Ok(Assembly { tree, slots: Mutex::default(), serials: AtomicU64::new(0) })
    }

    /// Adds what archive `origin` has at a path. The entries of one archive come one after another,
    /// in its order; those of several archives may come at the same time.
    pub fn put(&self, origin: u32, entry: Entry, body: &mut dyn Read) -> Result<(), AssemblyError> {
        check_name(&entry)?;
        if let Kind::Dir(_) = entry.kind {
            self.tree.make_dir(&entry.path).map_err(|error| self.judge(error, &entry))?;
            self.slots().entry(entry.path.clone()).or_default().push(Claimed {
                origin,
                serial: self.serials.fetch_add(1, Ordering::Relaxed),
                entry,
                spill: None,
                body: 0,
            });
            return Ok(());
        }
        let place = self.reserve(origin, &entry)?;
        let at = place.spill.as_ref().unwrap_or(&entry.path);
        let written = match (&entry.kind, &place.source) {
            (Kind::File(_), _) => return self.write_file(at, &entry, body),
            (Kind::Hardlink(_), Some(source)) => {
                self.tree.make_other(at, &Kind::Hardlink(source.clone()))
            }
            (kind, _) => self
                .tree
                .make_other(at, kind)
                .and_then(|()| self.tree.finish_other(at, kind, &entry.meta)),
        };
        written.map_err(|error| self.judge(error, &entry))
    }

    /// Takes a path for an archive; a path that is taken gives a spill.
    fn reserve(&self, origin: u32, entry: &Entry) -> Result<Place, AssemblyError> {
        let mut slots = self.slots();
        let serial = self.serials.fetch_add(1, Ordering::Relaxed);
        let mut claimed =
            Claimed { origin, serial, entry: entry.clone(), spill: None, body: serial };
        let mut source = None;
        if let Kind::Hardlink(target) = &entry.kind {
            // the file may lose its path to another archive; what it holds stays this one's
            let file = find_file(&slots, origin, target).ok_or_else(|| {
                AssemblyError::Hardlink { path: entry.path.clone(), target: target.clone() }
            })?;
            source = Some(file.spill.as_ref().unwrap_or(target).clone());
            claimed.body = file.body;
            claimed.entry.kind = file.entry.kind.clone();
            claimed.entry.meta = file.entry.meta.clone();
        }
        let slot = slots.entry(entry.path.clone()).or_default();
        if slot.iter().any(is_dir) {
            return Err(AssemblyError::Clash { path: entry.path.clone() });
        }
        if !slot.is_empty() {
            let spill = LayerPath::parse_member(SPILL)?.join(serial.to_string().as_bytes())?;
            claimed.spill = Some(spill);
        }
        let spill = claimed.spill.clone();
        slot.push(claimed);
        Ok(Place { spill, source })
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<LayerPath, Vec<Claimed>>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an error of the kernel means: most often that a path is a directory here and none there.
    /// Says the same whichever of the two came first.
    fn judge(&self, error: PathIo, entry: &Entry) -> AssemblyError {
        let in_the_way = is_through_link(&error.source)
            || matches!(
                error.source.kind(),
                io::ErrorKind::AlreadyExists | io::ErrorKind::IsADirectory
            );
        if !in_the_way {
            return AssemblyError::Io(error);
        }
        let slots = self.slots();
        let no_dir =
            |path: &LayerPath| slots.get(path).is_some_and(|slot| !slot.iter().all(is_dir));
        let path = entry.path.ancestors().find(no_dir).unwrap_or_else(|| entry.path.clone());
        AssemblyError::Clash { path }
    }

    fn write_file(
        &self,
        at: &LayerPath,
        entry: &Entry,
        body: &mut dyn Read,
    ) -> Result<(), AssemblyError> {
        let mut file = self.tree.create(at).map_err(|error| self.judge(error, entry))?;
        // large enough to read past the decoder's own buffer, no larger than the body
        let size = if let Kind::File(size) = entry.kind { size } else { 0 };
        let mut buffer = vec![0; usize::try_from(size).unwrap_or(PIECE).clamp(1, PIECE)];
        let mut written = 0;
        loop {
            let n = body
                .read(&mut buffer)
                .map_err(|source| AssemblyError::Body { path: entry.path.clone(), source })?;
            if n == 0 {
                break;
            }
            file.write_all(&buffer[..n]).at("write", entry.path.to_string())?;
            written += n as u64;
        }
        if written != size {
            let message = format!("it has {written} bytes, expected {size}");
            let source = io::Error::new(io::ErrorKind::InvalidData, message);
            return Err(AssemblyError::Body { path: entry.path.clone(), source });
        }
        Ok(self.tree.finish_file(&file, at, &entry.meta)?)
    }

    /// Paths that several archives bring, none of them as a directory, with the archives.
    pub fn contested(&self) -> Vec<(LayerPath, Vec<u32>)> {
        let slots = self.slots();
        let mut contested: Vec<(LayerPath, Vec<u32>)> = slots
            .iter()
            .filter(|(_, claims)| claims.len() > 1 && !is_dir(&claims[0]))
            .map(|(path, claims)| {
                let origins: std::collections::BTreeSet<u32> =
                    claims.iter().map(|claimed| claimed.origin).collect();
                (path.clone(), origins.into_iter().collect())
            })
            .collect();
        contested.sort();
        contested
    }

    pub fn has(&self, path: &LayerPath) -> bool {
        self.slots().contains_key(path)
    }

    /// Whether anything lies below a path.
    pub fn has_below(&self, path: &LayerPath) -> bool {
        let slots = self.slots();
        slots.keys().any(|other| other != path && other.starts_with(path))
    }

    /// Settles who gets each path, finishes the tree and writes the tar. `winner` is asked for two
    /// archives that bring one path.
    pub fn finish<E: From<AssemblyError>>(
        self,
        mut winner: impl FnMut(&LayerPath, u32, u32) -> Result<u32, E>,
        tar: &mut dyn Write,
    ) -> Result<Listing, E> {
        let slots = self.slots.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut winners = BTreeMap::new();
        // in the order of paths, so that of several faults the same one is reported
        for (path, claims) in slots.into_iter().collect::<BTreeMap<_, _>>() {
            let claimed = settle(&self.tree, &path, claims, &mut winner)?;
            winners.insert(path, claimed);
        }
        crate::fsx::remove_tree(&self.tree.path().join(".sbx-spill"))
            .map_err(AssemblyError::from)?;
        let listing = complete(name_bodies(winners))?;
        finish_dirs(&self.tree, &listing)?;
        pack(&self.tree, &listing, tar)?;
        Ok(listing)
    }
}

/// Where a claim's body is to be written, and what it is a link to.
struct Place {
    spill: Option<LayerPath>,
    source: Option<LayerPath>,
}

fn is_dir(claimed: &Claimed) -> bool {
    matches!(claimed.entry.kind, Kind::Dir(_))
}

/// The file that an archive brought at a path.
fn find_file<'s>(
    slots: &'s HashMap<LayerPath, Vec<Claimed>>,
    origin: u32,
    path: &LayerPath,
) -> Option<&'s Claimed> {
    let of_origin = slots.get(path)?.iter().filter(|claimed| claimed.origin == origin);
    of_origin
        .max_by_key(|claimed| claimed.serial)
        .filter(|claimed| matches!(claimed.entry.kind, Kind::File(_)))
}

/// Of the paths that share a body, the first is its file and the others are links to it.
fn name_bodies(winners: BTreeMap<LayerPath, Claimed>) -> BTreeMap<LayerPath, Entry> {
    let mut files: HashMap<u64, LayerPath> = HashMap::default();
    let name = |(path, claimed): (LayerPath, Claimed)| {
        let mut entry = claimed.entry;
        if let Kind::File(_) = entry.kind {
            match files.get(&claimed.body) {
                Some(first) => entry.kind = Kind::Hardlink(first.clone()),
                None => drop(files.insert(claimed.body, path.clone())),
            }
        }
        (path, entry)
    };
    winners.into_iter().map(name).collect()
}

fn check_name(entry: &Entry) -> Result<(), AssemblyError> {
    let reserved =
        entry.path.as_bytes().split(|c| *c == b'/').any(|part| part.starts_with(b".wh."));
    let spill = entry.path.as_bytes().starts_with(SPILL);
    if reserved || spill {
        return Err(AssemblyError::Whiteout { path: entry.path.clone() });
    }
    Ok(())
}

/// Of all claims to a path, the one that holds; its body comes to its place.
fn settle<E: From<AssemblyError>>(
    tree: &Tree,
    path: &LayerPath,
    claims: Vec<Claimed>,
    winner: &mut impl FnMut(&LayerPath, u32, u32) -> Result<u32, E>,
) -> Result<Claimed, E> {
    let dirs = claims.iter().filter(|claimed| is_dir(claimed)).count();
    if dirs > 0 && dirs < claims.len() {
        return Err(AssemblyError::Clash { path: path.clone() }.into());
    }
    let mut claims = claims;
    // in one order, whoever was faster
    claims.sort_by_key(|claimed| (claimed.origin, claimed.serial));
    let mut rest = claims.into_iter();
    let mut best = rest.next().ok_or_else(|| AssemblyError::Clash { path: path.clone() })?;
    for other in rest {
        if dirs > 0 {
            let set = |claimed: &Claimed| matches!(claimed.entry.kind, Kind::Dir(Claim::Set));
            if set(&other) {
                best = other;
            }
            continue;
        }
        // the later of two entries of one archive counts, as for tar
        let other_wins =
            best.origin == other.origin || winner(path, best.origin, other.origin)? == other.origin;
        let (won, lost) = if other_wins { (other, best) } else { (best, other) };
        let at = lost.spill.as_ref().unwrap_or(path);
        tree.remove(at).map_err(AssemblyError::from)?;
        best = won;
    }
    if let Some(spill) = &best.spill {
        tree.rename(spill, path).map_err(AssemblyError::from)?;
    }
    Ok(best)
}

/// Adds implied parents, and makes the first path of each group of hard links its file.
pub(super) fn complete(mut entries: BTreeMap<LayerPath, Entry>) -> Result<Listing, AssemblyError> {
    let mut parents = BTreeMap::new();
    for path in entries.keys() {
        for parent in path.ancestors() {
            match entries.get(&parent).map(|entry| &entry.kind) {
                Some(Kind::Dir(_)) => {}
                Some(_) => return Err(AssemblyError::Clash { path: parent }),
                None => drop(parents.insert(parent.clone(), implied(parent))),
            }
        }
    }
    entries.extend(parents);
    let mut groups: BTreeMap<LayerPath, Vec<LayerPath>> = BTreeMap::new();
    for entry in entries.values() {
        if let Kind::Hardlink(target) = &entry.kind {
            let file = follow(&entries, &entry.path, target)?;
            groups.entry(file).or_default().push(entry.path.clone());
        }
    }
    for (file, links) in groups {
        let (meta, kind) = match entries.get(&file) {
            Some(entry) => (entry.meta.clone(), entry.kind.clone()),
            None => continue,
        };
        let all: std::collections::BTreeSet<LayerPath> = links.into_iter().chain([file]).collect();
        let Some(first) = all.first().cloned() else { continue };
        for path in all {
            let kind = if path == first { kind.clone() } else { Kind::Hardlink(first.clone()) };
            entries.insert(path.clone(), Entry { path, meta: meta.clone(), kind });
        }
    }
    Ok(Listing { entries: entries.into_values().collect() })
}

fn follow(
    entries: &BTreeMap<LayerPath, Entry>,
    path: &LayerPath,
    target: &LayerPath,
) -> Result<LayerPath, AssemblyError> {
    let mut at = target;
    // a chain of links is no longer than there are entries
    for _ in 0..entries.len() {
        match entries.get(at).map(|entry| &entry.kind) {
            Some(Kind::File(_)) => return Ok(at.clone()),
            Some(Kind::Hardlink(next)) => at = next,
            _ => break,
        }
    }
    Err(AssemblyError::Hardlink { path: path.clone(), target: target.clone() })
}

pub(super) fn implied(path: LayerPath) -> Entry {
    Entry { path, meta: Meta::root(0o755), kind: Kind::Dir(Claim::Implied) }
}

/// Directories get their metadata last and from the bottom up: a file written later would change
/// their time, and their own mode may forbid to write.
fn finish_dirs(tree: &Tree, listing: &Listing) -> Result<(), AssemblyError> {
    let root = Entry { meta: Meta::root(0o755), ..implied(LayerPath::root()) };
    let owned = listing.entries.iter().any(|entry| entry.path.is_root());
    let root = (!owned).then_some(&root);
    for entry in root.into_iter().chain(&listing.entries).collect::<Vec<_>>().into_iter().rev() {
        if let Kind::Dir(_) = entry.kind {
            tree.finish_other(&entry.path, &entry.kind, &entry.meta)?;
        }
    }
    Ok(())
}
