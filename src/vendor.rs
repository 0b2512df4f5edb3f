//! Vendoring: a directory, or a repository of a registry, with every source of a lock, for machines that see
//! nothing else.
//!
//! A directory is an OCI image layout: sources are blobs under the digests that the lock has for them, and a
//! manifest per project lists them with their names. So a mirror needs no index to answer for a digest
//! (a web server's static files do), and a store can serve as one. The manifest is an inventory for people and
//! for copying; no build reads it. A registry holds the same manifest, but for the names of its blobs
//! (`registry`).
//!
//! A blob gets its name once its bytes have been hashed, so whatever ends a run, the next one goes on
//! where it ended. What is listed stays listed: that old packages are still there when their archive
//! has dropped them is what the directory is for. What may be deleted, its owner decides.

mod registry;

pub use registry::VendorRepository;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rayon::prelude::*;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::blame::Blame;
use crate::digest::{Digest, Integrity};
use crate::fetch::blob_below;
use crate::fsx::{self, IoAt, PathIo, Presence};
use crate::lock::Source;
use crate::media;
use crate::name::ProjectName;
use crate::oci::{EMPTY, MEDIA_EMPTY, OciError};
use crate::store::Store;

const LAYOUT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// What the manifest is of (OCI image-spec, guidelines for artifacts).
pub const ARTIFACT: &str = "application/vnd.dev.sbx.sources.v1";
const REF_NAME: &str = "org.opencontainers.image.ref.name";
const TITLE: &str = "org.opencontainers.image.title";

/// Tells the drafts of one process apart.
static DRAFTS: AtomicU64 = AtomicU64::new(0);

/// Why a place cannot take sources.
#[derive(Debug, thiserror::Error)]
pub enum VendorError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("{} is neither empty nor a directory of vendored sources", .0.display())]
    Foreign(PathBuf),
    #[error("`{}` is no directory", .0.display())]
    NoDirectory(PathBuf),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{label} of the store has other bytes: expected {expected}, found {found}")]
    Corrupt { label: String, expected: Integrity, found: Integrity },
    #[error(transparent)]
    Oci(#[from] OciError),
    #[error("`{0}` is something else than vendored sources")]
    ForeignTag(String),
    #[error(
        "`{reference}` lists {count} sources, which is more than a registry takes in one manifest"
    )]
    TooMany { reference: String, count: usize },
    #[error("`{0}` is written by others at the same time, and what is listed there does not stay")]
    Contended(String),
}

impl VendorError {
    pub fn blame(&self) -> Blame {
        match self {
            VendorError::Foreign(_)
            | VendorError::NoDirectory(_)
            | VendorError::ForeignTag(_)
            | VendorError::TooMany { .. } => Blame::Input,
            VendorError::Oci(error) => error.blame(),
            _ => Blame::World,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            VendorError::Oci(error) => error.help(),
            VendorError::ForeignTag(_) | VendorError::TooMany { .. } => {
                Some("name another tag".to_owned())
            }
            VendorError::Foreign(_) | VendorError::NoDirectory(_) => {
                Some("name a directory that is empty, or not there yet".to_owned())
            }
            VendorError::Contended(_) => {
                Some("run it again, or name a tag for each project".to_owned())
            }
            _ => None,
        }
    }
}

/// What a directory has of some sources.
#[derive(Debug, Default)]
pub struct Survey<'s> {
    /// Not there, or not whole.
    pub missing: Vec<Source<'s>>,
    /// Blobs that had other bytes than their name says. They have been removed.
    pub damaged: Vec<Integrity>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    artifact_type: Option<String>,
    digest: Integrity,
    size: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u8,
    media_type: String,
    manifests: Vec<Descriptor>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u8,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
}

/// A directory of vendored sources.
#[derive(Debug)]
pub struct VendorDir {
    root: PathBuf,
    presence: Presence,
}

impl VendorDir {
    /// Opens a directory, which is made if it is not there.
    pub fn open(root: &Path) -> Result<Self, VendorError> {
        if root.exists() && !root.is_dir() {
            return Err(VendorError::NoDirectory(root.to_owned()));
        }
        fs::create_dir_all(root).at("create", root)?;
        let mut dir = VendorDir { root: root.to_owned(), presence: Presence::enter(root) };
        let layout = root.join("oci-layout");
        if !layout.exists() {
            // others may just have made it theirs, and begin with the layout
            if dir.has_anything()? && !layout.exists() || Store::is_at(root) {
                return Err(VendorError::Foreign(root.to_owned()));
            }
            fsx::write_atomic(&layout, LAYOUT.as_bytes())?;
        }
        let is_ours = |entry: &Descriptor| entry.artifact_type.as_deref() == Some(ARTIFACT);
        if Store::is_at(root) || !dir.read_index()?.manifests.iter().all(is_ours) {
            return Err(VendorError::Foreign(root.to_owned()));
        }
        dir.presence.sweep(root, fsx::is_draft);
        for algorithm in ["sha1", "sha256", "sha512"] {
            let blobs = root.join("blobs").join(algorithm);
            fs::create_dir_all(&blobs).at("create", &blobs)?;
            dir.presence.sweep(&blobs, is_draft);
        }
        dir.presence.share();
        Ok(dir)
    }

    /// Apart from what file systems have of their own, and from others' drafts.
    fn has_anything(&self) -> Result<bool, VendorError> {
        for entry in fs::read_dir(&self.root).at("list", &self.root)? {
            let name = entry.at("list", &self.root)?.file_name();
            if name != "lost+found" && !name.to_str().is_some_and(fsx::is_draft) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn path(&self, digest: &Integrity) -> PathBuf {
        self.root.join(blob_below(digest))
    }

    /// Hashes what is there of `sources`.
    pub fn survey<'s>(&self, sources: &[Source<'s>]) -> Result<Survey<'s>, VendorError> {
        let look = |source: &Source<'s>| -> Result<Option<(Source<'s>, bool)>, VendorError> {
            let digest = source.integrity();
            let path = self.path(&digest);
            if !path.exists() {
                return Ok(Some((*source, false)));
            }
            if hash(&path, &digest)? == digest {
                return Ok(None);
            }
            fs::remove_file(&path).at("remove", &path)?;
            Ok(Some((*source, true)))
        };
        let found: Vec<_> = sources.par_iter().map(look).collect::<Result<_, _>>()?;
        let mut survey = Survey::default();
        for (source, damaged) in found.into_iter().flatten() {
            survey.missing.push(source);
            survey.damaged.extend(damaged.then(|| source.integrity()));
        }
        Ok(survey)
    }

    /// Takes a source out of a store: its blocks where the file system shares them, its inode where
    /// both lie on one, its bytes elsewhere.
    pub fn add(&self, store: &Store, source: &Source<'_>) -> Result<u64, VendorError> {
        let digest = source.integrity();
        let (from, into) = (store.source_path(&digest), self.path(&digest));
        let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
        let draft = into.with_extension(format!("{}-{number}", std::process::id()));
        let result = place(&from, &draft, &into).map_err(VendorError::from);
        let result = result.and_then(|()| match hash(&draft, &digest)? {
            found if found == digest => Ok(fs::rename(&draft, &into).at("name", &into)?),
            found => {
                let label = format!("{} `{}`", source.kind(), source.label());
                Err(VendorError::Corrupt { label, expected: digest, found })
            }
        });
        // of two links to one file, a rename leaves both
        fs::remove_file(&draft).unwrap_or_default();
        result?;
        Ok(fs::metadata(&into).at("stat", &into)?.len())
    }

    /// Lists sources, all of which are there, beside what was listed for the project before.
    pub fn list(&self, project: &ProjectName, sources: &[Source<'_>]) -> Result<(), VendorError> {
        let _held = self.lock()?;
        let mut index = self.read_index()?;
        let is_ours = |entry: &Descriptor| {
            entry.annotations.get(REF_NAME).is_some_and(|name| name == project.as_str())
        };
        let mut layers = BTreeMap::new();
        for entry in index.manifests.iter().filter(|entry| is_ours(entry)) {
            let manifest: Manifest = self.read(&self.path(&entry.digest))?;
            let still = manifest.layers.into_iter();
            let still = still.filter(|layer| self.path(&layer.digest).exists());
            layers.extend(still.map(|layer| (layer.digest, layer)));
        }
        for source in sources {
            layers.insert(source.integrity(), self.describe(source)?);
        }
        let old: Vec<Integrity> =
            index.manifests.iter().filter(|entry| is_ours(entry)).map(|old| old.digest).collect();
        index.manifests.retain(|entry| !is_ours(entry));
        let manifest = self.put_manifest(layers.into_values().collect())?;
        let annotations = BTreeMap::from([(REF_NAME.to_owned(), project.to_string())]);
        let new = manifest.digest;
        index.manifests.push(Descriptor { annotations, ..manifest });
        let name = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
        index.manifests.sort_by_key(name);
        self.write(&self.root.join("index.json"), &index)?;
        // nobody lists the manifest before any more
        for digest in old.iter().filter(|old| **old != new) {
            fs::remove_file(self.path(digest)).unwrap_or_default();
        }
        Ok(())
    }

    /// Waits until nobody else lists anything.
    fn lock(&self) -> Result<File, VendorError> {
        let layout = self.root.join("oci-layout");
        loop {
            let held = File::open(&layout).at("open", &layout)?;
            rustix::fs::flock(&held, FlockOperation::LockExclusive).at("lock", &layout)?;
            // who began at the same time may have put another in its place
            let now = File::open(&layout).at("open", &layout)?;
            if fsx::inode(&held) == fsx::inode(&now) {
                return Ok(held);
            }
        }
    }

    fn read_index(&self) -> Result<Index, VendorError> {
        let path = self.root.join("index.json");
        match path.exists() {
            true => self.read(&path),
            false => Ok(Index {
                schema_version: 2,
                media_type: media::INDEX.to_owned(),
                manifests: Vec::new(),
            }),
        }
    }

    fn read<T: for<'de> Deserialize<'de>>(&self, path: &Path) -> Result<T, VendorError> {
        let bytes = fs::read(path).at("read", path)?;
        serde_json::from_slice(&bytes).map_err(|error| VendorError::Damaged {
            path: path.to_owned(),
            reason: error.to_string(),
        })
    }

    fn write(&self, path: &Path, value: &impl Serialize) -> Result<u64, VendorError> {
        let bytes = serde_json::to_vec(value).expect("a document has string keys only");
        fsx::write_atomic(path, &bytes)?;
        Ok(bytes.len() as u64)
    }

    fn describe(&self, source: &Source<'_>) -> Result<Descriptor, VendorError> {
        let digest = source.integrity();
        let path = self.path(&digest);
        Ok(Descriptor {
            media_type: media_type(source).to_owned(),
            artifact_type: None,
            digest,
            size: fs::metadata(&path).at("stat", &path)?.len(),
            annotations: BTreeMap::from([(TITLE.to_owned(), title(source))]),
        })
    }

    /// Writes the manifest of an artifact, and the empty config that it has to name.
    fn put_manifest(&self, layers: Vec<Descriptor>) -> Result<Descriptor, VendorError> {
        let manifest = Manifest::new(layers);
        fsx::write_atomic(&self.path(&manifest.config.digest), EMPTY)?;
        let bytes = manifest.to_bytes();
        let mut descriptor = Descriptor::of(media::MANIFEST, &bytes);
        descriptor.artifact_type = Some(ARTIFACT.to_owned());
        fsx::write_atomic(&self.path(&descriptor.digest), &bytes)?;
        Ok(descriptor)
    }
}

impl Descriptor {
    fn of(media_type: &str, bytes: &[u8]) -> Self {
        Descriptor {
            media_type: media_type.to_owned(),
            artifact_type: None,
            digest: Digest::of(bytes).into(),
            size: bytes.len() as u64,
            annotations: BTreeMap::new(),
        }
    }
}

impl Manifest {
    fn new(layers: Vec<Descriptor>) -> Self {
        Manifest {
            schema_version: 2,
            media_type: media::MANIFEST.to_owned(),
            artifact_type: ARTIFACT.to_owned(),
            config: Descriptor::of(MEDIA_EMPTY, EMPTY),
            layers,
        }
    }

    fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a manifest has string keys only")
    }
}

/// Whether a name among blobs is one's that is being written: `HEX.PID-N`, or a document's.
fn is_draft(name: &str) -> bool {
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let of_source = |(hex, rest): (&str, &str)| is_hex(hex) && rest.contains('-');
    fsx::is_draft(name) || name.split_once('.').is_some_and(of_source)
}

/// What fails is said of the name that the draft is to get: it is that directory that is full.
fn place(from: &Path, draft: &Path, into: &Path) -> Result<(), PathIo> {
    let mut bytes = File::open(from).at("open", from)?;
    if fsx::reflink(from, draft).at("write", into)? || fs::hard_link(from, draft).is_ok() {
        return Ok(());
    }
    let mut file = File::create_new(draft).at("write", into)?;
    io::copy(&mut bytes, &mut file).at("write", into).map(drop)
}

fn hash(path: &Path, like: &Integrity) -> Result<Integrity, PathIo> {
    hash_beside(path, like, &mut |_| {})
}

/// Likewise, and hands the bytes on.
fn hash_beside(
    path: &Path,
    like: &Integrity,
    other: &mut dyn FnMut(&[u8]),
) -> Result<Integrity, PathIo> {
    let mut file = File::open(path).at("open", path)?;
    let mut hasher = like.hasher();
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).at("read", path)? {
            0 => return Ok(hasher.finish()),
            count => {
                hasher.update(&buffer[..count]);
                other(&buffer[..count]);
            }
        }
    }
}

fn media_type(source: &Source<'_>) -> &'static str {
    match source {
        Source::Deb(_) => "application/vnd.debian.binary-package",
        Source::Npm(pin) if pin.is_git() => "application/x-tar",
        Source::Npm(_) => "application/gzip",
        Source::Wheel(_) => "application/zip",
        Source::Git(_) => "application/x-tar",
        Source::BaseLayer(pin) => pin.packing.media_type(),
        Source::Archive(_) => "application/octet-stream",
    }
}

/// A name for people, and for a file where somebody unpacks the artifact.
fn title(source: &Source<'_>) -> String {
    match source {
        Source::Deb(pin) => pin.path.rsplit('/').next().unwrap_or_default().to_owned(),
        Source::Archive(pin) => pin.name.to_string(),
        Source::Git(pin) => format!("{}-{}.tar", pin.name.replace('/', "-"), pin.short()),
        Source::BaseLayer(pin) => format!("{}-{}", pin.image.replace('/', "-"), pin.short),
        Source::Npm(pin) if pin.is_git() => {
            format!("{}-{}.tar", pin.name.replace('/', "-"), pin.version)
        }
        Source::Npm(pin) => format!("{}-{}.tgz", pin.name.replace('/', "-"), pin.version),
        Source::Wheel(pin) => pin.file_name.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_directory_is_opened_by_many_at_once() {
        let home = tempfile::tempdir().unwrap();
        for round in 0..50 {
            let root = home.path().join(round.to_string());
            std::thread::scope(|scope| {
                let open = || VendorDir::open(&root).unwrap().lock().unwrap();
                (0..8).for_each(|_| drop(scope.spawn(open)));
            });
        }
    }
}
