//! Layers laid over each other: one file system, as one tar.
//!
//! Whiteouts hide what lower layers hold, whatever their place in the tar (OCI image-spec, whiteouts);
//! a directory over a directory keeps what is in it and changes its metadata; anything else over
//! anything else replaces it, a link on the way to a file included: as an overlay of the layers shows
//! it. Names of one file stay names of one file. Only names and metadata are kept in memory; bodies are
//! read where they lie when the tar is written.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;
use std::rc::Rc;

use super::SaveError;
use super::archive::copy;
use crate::build::unpack::decode_whiteout;
use crate::digest::Digest;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::IoAt;
use crate::path::LayerPath;
use crate::tarball::{Limits, Reader, Writer};

/// Where a body lies: the layer, and the offset in its tar. Also what makes two names one file.
type Place = (usize, u64);

#[derive(Clone, Debug)]
struct Node {
    meta: Meta,
    kind: Kind,
    place: Place,
}

/// The file system of an image.
#[derive(Debug, Default)]
pub(super) struct Flat {
    nodes: BTreeMap<LayerPath, Node>,
    layers: Vec<PathBuf>,
}

/// What a file system takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) nodes: u64,
    /// Bytes of all bodies and directories, in whole blocks.
    pub(super) bytes: u64,
}

/// Counts what is read of a layer.
struct Counted<R> {
    inner: R,
    at: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.at.set(self.at.get() + count as u64);
        Ok(count)
    }
}

impl Flat {
    /// Lays layers over each other, bottom first.
    pub(super) fn read(layers: &[(Digest, PathBuf)]) -> Result<Self, SaveError> {
        let mut flat = Flat::default();
        for (layer, path) in layers {
            let found = read_layer(layer, path)?;
            for (entry, _) in &found {
                match entry.kind {
                    Kind::Whiteout => flat.remove(&entry.path, true),
                    Kind::Opaque => flat.remove(&entry.path.parent().unwrap_or_default(), false),
                    _ => {}
                }
            }
            let number = flat.layers.len();
            for (entry, offset) in found {
                if !matches!(entry.kind, Kind::Whiteout | Kind::Opaque) {
                    flat.put(layer, entry, (number, offset))?;
                }
            }
            flat.layers.push(path.clone());
        }
        Ok(flat)
    }

    /// Removes what is below a path, and the path itself if that is `whole`.
    fn remove(&mut self, path: &LayerPath, whole: bool) {
        let below: Vec<LayerPath> = self
            .nodes
            .range(path..)
            .map(|(name, _)| name)
            .take_while(|name| name.as_bytes().starts_with(path.as_bytes()))
            .filter(|name| name.starts_with(path) && (whole || *name != path))
            .cloned()
            .collect();
        for name in below {
            self.nodes.remove(&name);
        }
    }

    fn put(&mut self, layer: &Digest, entry: Entry, place: Place) -> Result<(), SaveError> {
        let Entry { path, meta, kind } = entry;
        let mut node = Node { meta, kind, place };
        if let Kind::Hardlink(target) = &node.kind {
            let found = self.nodes.get(target).cloned();
            node = found.ok_or_else(|| SaveError::Link {
                layer: *layer,
                path: path.clone(),
                target: target.clone(),
            })?;
        }
        for above in path.ancestors() {
            let is_dir = |node: &Node| matches!(node.kind, Kind::Dir(_));
            if !self.nodes.get(&above).is_some_and(is_dir) {
                let (meta, kind) = (Meta::root(0o755), Kind::Dir(Claim::Implied));
                self.nodes.insert(above, Node { meta, kind, place });
            }
        }
        if !matches!(node.kind, Kind::Dir(_)) {
            self.remove(&path, false);
        }
        self.nodes.insert(path, node);
        Ok(())
    }

    /// Writes the tar, what a directory holds right behind it: GNU tar gives a directory its time when it
    /// leaves it, and `X.conf` between `X` and `X/in` would make it leave too early.
    pub(super) fn write(&self, out: &mut dyn Write) -> Result<(), SaveError> {
        let mut tar = Writer::new(out);
        let mut files = Vec::new();
        for path in &self.layers {
            files.push(File::open(path).at("open", path)?);
        }
        let mut first: HashMap<Place, &LayerPath> = HashMap::new();
        let mut nodes: Vec<(&LayerPath, &Node)> = self.nodes.iter().collect();
        nodes.sort_by(|(one, _), (two, _)| by_components(one).cmp(by_components(two)));
        for (path, node) in nodes {
            let Node { meta, kind, place } = node;
            let mut kind = kind.clone();
            if let Kind::File(_) = kind {
                match first.get(place) {
                    Some(known) => kind = Kind::Hardlink((*known).clone()),
                    None => drop(first.insert(*place, path)),
                }
            }
            let entry = Entry { path: path.clone(), meta: meta.clone(), kind };
            tar.header(&entry).map_err(SaveError::Output)?;
            if let Kind::File(size) = entry.kind {
                let (layer, offset) = *place;
                let from = &self.layers[layer];
                files[layer].seek(SeekFrom::Start(offset)).at("read", from)?;
                copy(&mut files[layer], size, &mut tar, from)?;
            }
        }
        tar.finish().and_then(|out| out.flush()).map_err(SaveError::Output)
    }

    /// What the image says of its root, where it does.
    pub(super) fn root(&self) -> Option<&Meta> {
        self.nodes.get(&LayerPath::root()).map(|node| &node.meta)
    }

    /// The latest time of anything in it.
    pub(super) fn newest(&self) -> Option<i64> {
        self.nodes.values().map(|node| node.meta.mtime).max()
    }

    pub(super) fn extent(&self) -> Extent {
        let mut places = std::collections::HashSet::new();
        let mut extent = Extent::default();
        for node in self.nodes.values() {
            extent.nodes += 1;
            extent.bytes += match &node.kind {
                Kind::File(size) if places.insert(node.place) => size.next_multiple_of(4096),
                Kind::Dir(_) => 4096,
                // a long target does not fit into its inode
                Kind::Symlink(target) if target.len() >= 60 => 4096,
                _ => 0,
            };
        }
        extent
    }
}

/// What paths are ordered by, component by component; there is no NUL in a path.
fn by_components(path: &LayerPath) -> impl Iterator<Item = u8> {
    path.as_bytes().iter().map(|byte| if *byte == b'/' { 0 } else { *byte })
}

/// The entries of a layer with the offsets of their bodies.
fn read_layer(layer: &Digest, path: &PathBuf) -> Result<Vec<(Entry, u64)>, SaveError> {
    let file = File::open(path).at("open", path)?;
    let size = file.metadata().at("stat", path)?.len();
    let at = Rc::new(Cell::new(0));
    let input = Counted { inner: BufReader::with_capacity(1 << 18, file), at: Rc::clone(&at) };
    // no layer holds more than its tar
    let mut reader = Reader::new(input, Limits { bytes: size, members: size / 512 });
    let failed = |source| SaveError::Tar { layer: *layer, source };
    let mut found = Vec::new();
    while let Some(member) = reader.next_member().map_err(failed)? {
        let mut entry = member.to_entry().map_err(failed)?;
        // nothing of it is lost, whoever made it
        entry.meta.mtime = member.mtime;
        entry.meta.xattrs = member.xattrs;
        let entry =
            decode_whiteout(entry).map_err(|source| SaveError::Member { layer: *layer, source })?;
        found.push((entry, at.get()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: LayerPath::parse_absolute(path).unwrap(), meta: Meta::root(0o755), kind }
    }

    fn layer(dir: &std::path::Path, name: &str, entries: &[(Entry, &[u8])]) -> (Digest, PathBuf) {
        let mut tar = Writer::new(Vec::new());
        for (entry, body) in entries {
            tar.header(entry).unwrap();
            tar.body(body).unwrap();
            tar.pad(body.len() as u64).unwrap();
        }
        let bytes = tar.finish().unwrap();
        std::fs::write(dir.join(name), &bytes).unwrap();
        (Digest::of(&bytes), dir.join(name))
    }

    fn shown(flat: &Flat) -> Vec<String> {
        let mut bytes = Vec::new();
        flat.write(&mut bytes).unwrap();
        let mut reader = Reader::new(&bytes[..], 1 << 20);
        let mut lines = Vec::new();
        while let Some(member) = reader.next_member().unwrap() {
            let mut body = String::new();
            reader.read_to_string(&mut body).unwrap();
            let link = String::from_utf8_lossy(&member.link).into_owned();
            lines.push(format!("{} {:?} {body}{link}", member.label(), member.kind));
        }
        lines
    }

    #[test]
    fn what_is_hidden_is_gone_and_names_of_one_file_stay_so() {
        let home = tempfile::tempdir().unwrap();
        let dir = || Kind::Dir(Claim::Shipped);
        let path = |text| LayerPath::parse_absolute(text).unwrap();
        let lower = layer(
            home.path(),
            "lower",
            &[
                (entry("/d", dir()), b""),
                (entry("/d/old", Kind::File(3)), b"old"),
                (entry("/d-e", Kind::File(1)), b"-"),
                (entry("/gone", dir()), b""),
                (entry("/gone/x", Kind::File(1)), b"x"),
                (entry("/one", Kind::File(3)), b"abc"),
                (entry("/two", Kind::Hardlink(path("/one"))), b""),
                (entry("/wall", dir()), b""),
                (entry("/wall/in", Kind::File(2)), b"in"),
            ],
        );
        let upper = layer(
            home.path(),
            "upper",
            &[
                (entry("/d/.wh..wh..opq", Kind::Opaque), b""),
                (entry("/d/new", Kind::File(3)), b"new"),
                (entry("/gone", Kind::Whiteout), b""),
                (entry("/one", Kind::File(1)), b"1"),
                (entry("/wall", Kind::Symlink(b"d"[..].into())), b""),
            ],
        );
        let flat = Flat::read(&[lower, upper]).unwrap();
        let expected = [
            "d/ Dir ",
            "d/new File new",
            "d-e File -",
            "one File 1",
            "two File abc",
            "wall Symlink d",
        ];
        assert_eq!(shown(&flat), expected);
        assert_eq!(flat.extent(), Extent { nodes: 6, bytes: 5 * 4096 });
    }

    #[test]
    fn a_link_to_nothing_is_named() {
        let home = tempfile::tempdir().unwrap();
        let target = LayerPath::parse_absolute("/none").unwrap();
        let one = layer(home.path(), "one", &[(entry("/a", Kind::Hardlink(target)), b"")]);
        let error = Flat::read(&[one]).unwrap_err().to_string();
        assert!(error.contains("links /a to /none"), "{error}");
    }
}
