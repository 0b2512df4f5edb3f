//! Deltas on top of each other: what may not meet, and what directories must look like in the end.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use foldhash::{HashMap, HashMapExt, HashSet};

use super::assembly::{Assembly, AssemblyError};
use super::listing::Listing;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::path::LayerPath;

/// What kind of step gave a delta: who may lay what over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// Debian packages, whose conflicts are dpkg's business.
    Content,
    /// A step that saw all that lies below and changed it on purpose.
    Step,
    /// A command, which saw some of what lies below.
    Run,
    /// Files of a layer that needs nothing but itself.
    Files,
}

/// A delta of an image.
pub struct Delta<'a> {
    pub layer: &'a str,
    pub origin: Origin,
    pub listing: &'a Listing,
    /// The delta's tree, if it is there.
    pub tree: &'a Path,
    /// Paths that may replace what lies below (`replace=#true`).
    pub replaces: &'a [LayerPath],
    /// Deltas below that a command saw, by their place.
    pub sees: &'a [usize],
}

/// Two deltas that cannot be in one image.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    #[error("layers `{one}` and `{two}` both bring {path}, with different contents")]
    Clash { one: String, two: String, path: LayerPath },
    #[error("{path} is a directory in layer `{dir}` and none in layer `{other}`")]
    Type { path: LayerPath, dir: String, other: String },
    #[error("layer `{layer}` removes what {path} of layer `{other}` lies in, and has not seen it")]
    Hidden { layer: String, other: String, path: LayerPath },
    #[error("the tree of layer {0} is not there")]
    NoTree(usize),
    #[error(transparent)]
    Io(#[from] crate::fsx::PathIo),
    #[error(transparent)]
    Assembly(#[from] AssemblyError),
}

impl ComposeError {
    pub fn blame(&self) -> crate::blame::Blame {
        match self {
            ComposeError::Clash { .. }
            | ComposeError::Type { .. }
            | ComposeError::Hidden { .. } => crate::blame::Blame::Input,
            _ => crate::blame::Blame::World,
        }
    }

    pub fn help(&self) -> Option<&'static str> {
        match self {
            ComposeError::Clash { .. } => Some(
                "say `replace=#true` in the layer that is to win; a layer with `run` has to need the other",
            ),
            ComposeError::Hidden { .. } => Some("let the one need the other"),
            _ => None,
        }
    }
}

impl Delta<'_> {
    /// Whether it was made over the delta at this place.
    fn saw(&self, place: usize) -> bool {
        match self.origin {
            Origin::Step => true,
            Origin::Run => self.sees.contains(&place),
            Origin::Content | Origin::Files => false,
        }
    }
}

/// A path as the deltas so far have left it.
struct Seen {
    delta: usize,
    entry: usize,
}

/// Checks the deltas of an image, bottom first, and answers the directories whose metadata the order
/// of the layers gets wrong: in an overlay the topmost layer that has a directory decides, while a
/// directory is to look as its lowest owner made it, or as somebody set it on purpose.
pub fn compose(deltas: &[Delta<'_>]) -> Result<Vec<Entry>, ComposeError> {
    let count = deltas.iter().map(|delta| delta.listing.entries.len()).sum();
    let mut files: HashMap<&LayerPath, Seen> = HashMap::with_capacity(count);
    let mut dirs: BTreeMap<&LayerPath, DirState> = BTreeMap::new();
    for (number, delta) in deltas.iter().enumerate() {
        for (at, entry) in delta.listing.entries.iter().enumerate() {
            match &entry.kind {
                Kind::Dir(claim) => {
                    if let Some(seen) = files.get(&entry.path) {
                        if !delta.saw(seen.delta) {
                            let other = deltas[seen.delta].layer.to_owned();
                            let (path, dir) = (entry.path.clone(), delta.layer.to_owned());
                            return Err(ComposeError::Type { path, dir, other });
                        }
                        files.remove(&entry.path);
                    }
                    dirs.entry(&entry.path).or_default().claim(*claim, &entry.meta);
                }
                Kind::Whiteout => {
                    files.remove(&entry.path);
                    dirs.retain(|path, _| !path.starts_with(&entry.path));
                }
                Kind::Opaque => {
                    if let Some(dir) = entry.path.parent() {
                        dirs.retain(|path, _| **path == dir || !path.starts_with(&dir));
                    }
                }
                _ => {
                    if dirs.contains_key(&entry.path) {
                        let mut below = (0..number).rev().filter(|owner| !delta.saw(*owner));
                        if let Some(owner) =
                            below.find(|owner| has_dir(&deltas[*owner], &entry.path))
                        {
                            let dir = deltas[owner].layer.to_owned();
                            let (path, other) = (entry.path.clone(), delta.layer.to_owned());
                            return Err(ComposeError::Type { path, dir, other });
                        }
                        dirs.retain(|path, _| !path.starts_with(&entry.path));
                    }
                    if let Some(seen) = files.get(&entry.path) {
                        check_clash(deltas, seen, number, entry)?;
                    }
                    files.insert(&entry.path, Seen { delta: number, entry: at });
                }
            }
        }
        check_hidden(deltas, number, &files)?;
    }
    Ok(dirs.into_iter().filter_map(|(path, state)| state.restated(path)).collect())
}

/// A command that removes a directory means the files that it saw there.
fn check_hidden(
    deltas: &[Delta<'_>],
    number: usize,
    files: &HashMap<&LayerPath, Seen>,
) -> Result<(), ComposeError> {
    let delta = &deltas[number];
    let gone = |entry: &Entry| match entry.kind {
        Kind::Whiteout => Some(entry.path.clone()),
        Kind::Opaque => entry.path.parent(),
        _ => None,
    };
    let gone: HashSet<LayerPath> = match delta.origin {
        Origin::Run => delta.listing.entries.iter().filter_map(gone).collect(),
        Origin::Content | Origin::Step | Origin::Files => return Ok(()),
    };
    if gone.is_empty() {
        return Ok(());
    }
    let unseen = |seen: &Seen| seen.delta != number && !delta.saw(seen.delta);
    let hidden = files
        .iter()
        .filter(|(path, seen)| unseen(seen) && path.ancestors().any(|above| gone.contains(&above)));
    match hidden.min_by_key(|(path, _)| *path) {
        None => Ok(()),
        Some((path, seen)) => Err(ComposeError::Hidden {
            layer: delta.layer.to_owned(),
            other: deltas[seen.delta].layer.to_owned(),
            path: (*path).clone(),
        }),
    }
}

fn has_dir(delta: &Delta<'_>, path: &LayerPath) -> bool {
    let entries = &delta.listing.entries;
    entries
        .binary_search_by(|entry| entry.path.cmp(path))
        .is_ok_and(|at| matches!(entries[at].kind, Kind::Dir(_)))
}

fn check_clash(
    deltas: &[Delta<'_>],
    seen: &Seen,
    number: usize,
    entry: &Entry,
) -> Result<(), ComposeError> {
    let (above, below) = (&deltas[number], &deltas[seen.delta]);
    let debian = above.origin == Origin::Content && below.origin != Origin::Files;
    let allowed = above.replaces.iter().any(|path| entry.path.starts_with(path));
    if above.saw(seen.delta) || debian || allowed {
        return Ok(());
    }
    let other = &below.listing.entries[seen.entry];
    let meta = |entry: &Entry| (entry.meta.mode, entry.meta.uid, entry.meta.gid);
    let same = meta(entry) == meta(other)
        && match (&entry.kind, &other.kind) {
            (Kind::File(one), Kind::File(two)) if one == two => {
                let places = [number, seen.delta];
                if let Some(at) = places.into_iter().find(|at| !deltas[*at].tree.is_dir()) {
                    return Err(ComposeError::NoTree(at));
                }
                super::capture::same_bytes(
                    &above.tree.join(entry.path.as_path()),
                    &below.tree.join(entry.path.as_path()),
                )?
            }
            (one, two) => one == two,
        };
    match same {
        true => Ok(()),
        false => Err(ComposeError::Clash {
            one: below.layer.to_owned(),
            two: above.layer.to_owned(),
            path: entry.path.clone(),
        }),
    }
}

/// What a directory looks like, and what it should look like.
#[derive(Default)]
struct DirState {
    wanted: Option<(Claim, Meta)>,
    shown: Option<Meta>,
}

impl DirState {
    fn claim(&mut self, claim: Claim, meta: &Meta) {
        let stronger = match &self.wanted {
            None => true,
            Some((Claim::Implied, _)) => claim > Claim::Implied,
            Some(_) => claim == Claim::Set,
        };
        if stronger {
            self.wanted = Some((claim, meta.clone()));
        }
        self.shown = Some(meta.clone());
    }

    fn restated(self, path: &LayerPath) -> Option<Entry> {
        let (wanted, shown) = (self.wanted?.1, self.shown?);
        let look = |meta: &Meta| (meta.mode, meta.uid, meta.gid);
        (look(&wanted) != look(&shown)).then(|| Entry {
            path: path.clone(),
            meta: wanted,
            kind: Kind::Dir(Claim::Set),
        })
    }
}

/// Writes the layer that restates directories.
pub fn restate(
    dirs: Vec<Entry>,
    tree: &Path,
    tar: &mut dyn Write,
) -> Result<Listing, ComposeError> {
    let assembly = Assembly::new(tree)?;
    for entry in dirs {
        assembly.put(0, entry, &mut std::io::empty())?;
    }
    assembly.finish(|_, one, _| Ok::<_, ComposeError>(one), tar)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(entries: &[(&str, Kind, u32)]) -> Listing {
        let entry = |(path, kind, mode): &(&str, Kind, u32)| Entry {
            path: LayerPath::parse_absolute(path).unwrap(),
            meta: Meta::root(*mode),
            kind: kind.clone(),
        };
        Listing { entries: entries.iter().map(entry).collect() }
    }

    fn compose_all(listings: &[(Origin, Listing)]) -> Result<Vec<(String, u32)>, ComposeError> {
        let deltas: Vec<Delta<'_>> = listings
            .iter()
            .map(|(origin, listing)| Delta {
                layer: "l",
                origin: *origin,
                listing,
                tree: Path::new("/nonexistent"),
                replaces: &[],
                sees: &[],
            })
            .collect();
        let dirs = compose(&deltas)?;
        Ok(dirs.into_iter().map(|entry| (entry.path.to_string(), entry.meta.mode)).collect())
    }

    #[test]
    fn a_directory_looks_as_its_lowest_owner_made_it() {
        let base = listing(&[("/root", Kind::Dir(Claim::Shipped), 0o700)]);
        let app =
            listing(&[("/root", Kind::Dir(Claim::Implied), 0o755), ("/root/x", Kind::Fifo, 0o644)]);
        let both = [(Origin::Content, base.clone()), (Origin::Files, app)];
        assert_eq!(compose_all(&both).unwrap(), [("/root".to_owned(), 0o700)]);
        let set = listing(&[("/root", Kind::Dir(Claim::Set), 0o711)]);
        assert_eq!(compose_all(&[(Origin::Content, base), (Origin::Files, set)]).unwrap(), []);
    }

    #[test]
    fn different_things_at_one_path_are_refused() {
        let one = listing(&[("/etc/motd", Kind::Fifo, 0o644)]);
        let two = listing(&[("/etc/motd", Kind::Symlink(b"x"[..].into()), 0o777)]);
        let dir = listing(&[("/etc/motd", Kind::Dir(Claim::Shipped), 0o755)]);
        let with = |other: Listing, origin| {
            compose_all(&[(Origin::Content, one.clone()), (origin, other)])
        };
        assert!(matches!(with(two.clone(), Origin::Files), Err(ComposeError::Clash { .. })));
        assert!(matches!(with(dir, Origin::Files), Err(ComposeError::Type { .. })));
        assert!(with(two, Origin::Step).is_ok(), "a step changes what it sees");
        assert!(with(one.clone(), Origin::Files).is_ok(), "the same twice is no clash");
    }
}
