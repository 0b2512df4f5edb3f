//! An image in a file: an archive that other tools load, or its file system.
//!
//! Everything streams, in memory that does not grow with the image; equal images give equal bytes.
//! Layers go out as they lie in the store, uncompressed (those of a base as its maker packed them, where
//! an archive may have them so): whoever wants a small file compresses all of it at once, better than
//! layer by layer.

mod archive;
mod disk;
mod flat;

use std::collections::BTreeSet;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::blame::Blame;
use crate::build::unpack::UnpackError;
use crate::digest::Digest;
use crate::fsx::{IoAt, PathIo};
use crate::oci::Packing;
use crate::path::{LayerPath, PathError};
use crate::platform::Platform;
use crate::store::{ImageRecord, Store, StoreError, TreeDraft};
use crate::tarball::TarError;

pub use self::disk::{DiskKind, Mkfs, copy_out};

/// What an archive of an image is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveKind {
    /// An OCI image layout in a tar: skopeo, podman, containerd.
    Oci,
    /// What `docker load` reads, the oldest as well.
    Docker,
    /// The file system alone, as one tar.
    Tar,
}

/// An image of the store, with the names it goes by.
pub struct Saved<'a> {
    pub store: &'a Store,
    pub record: &'a ImageRecord,
    pub platform: Platform,
    /// A registry name, `name` or `name:tag`.
    pub reference: &'a str,
}

/// Why an image cannot be saved.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("the output was not taken whole: {0}")]
    Output(io::Error),
    #[error("layer {layer}: {source}")]
    Tar { layer: Digest, source: TarError },
    #[error("layer {layer}: {source}")]
    Member { layer: Digest, source: UnpackError },
    #[error("layer {layer} links {path} to {target}, which is not there")]
    Link { layer: Digest, path: LayerPath, target: LayerPath },
    #[error(transparent)]
    Path(#[from] PathError),
    #[error("the image's tree: {0}")]
    Unpack(#[from] UnpackError),
    #[error("`{program}` is not on this machine")]
    NoProgram { program: &'static str, package: &'static str },
    #[error("`{program}` failed, {status}:\n{said}")]
    Program { program: &'static str, status: String, said: String },
    #[error("`{}` is no ext4 image as it was asked for: {reason}", path.display())]
    Disk { path: PathBuf, reason: &'static str },
}

impl SaveError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }

    /// The next command.
    pub fn help(&self) -> Option<String> {
        match self {
            SaveError::NoProgram { package, .. } => {
                Some(format!("install it: `apt-get install {package}`"))
            }
            SaveError::Store(error) => error.help().map(str::to_owned),
            _ => None,
        }
    }
}

/// Where the tars of an image's layers are.
struct Tars {
    layers: Vec<(Digest, PathBuf)>,
    aside: Option<TreeDraft>,
}

impl Saved<'_> {
    /// The reference's name and tag.
    pub fn split(&self) -> (&str, &str) {
        archive::split(self.reference)
    }

    /// Writes an archive.
    pub fn write(&self, kind: ArchiveKind, out: &mut dyn Write) -> Result<(), SaveError> {
        match kind {
            ArchiveKind::Oci => archive::write_oci(self, out),
            ArchiveKind::Docker => self.write_docker(&BTreeSet::new(), out),
            ArchiveKind::Tar => {
                let tars = self.tars()?;
                flat::Flat::read(&tars.layers)?.write(out)
            }
        }
    }

    /// Writes an archive for docker that leaves the tars of some layers out: for an engine that has
    /// them.
    pub fn write_docker(
        &self,
        without: &BTreeSet<Digest>,
        out: &mut dyn Write,
    ) -> Result<(), SaveError> {
        let tars = self.tars_but(without)?;
        archive::write_docker(self, &tars.layers, out)
    }

    /// The layers as tars, bottom first. What a base's maker packed is unpacked aside.
    fn tars(&self) -> Result<Tars, SaveError> {
        self.tars_but(&BTreeSet::new())
    }

    fn tars_but(&self, without: &BTreeSet<Digest>) -> Result<Tars, SaveError> {
        let mut tars = Tars { layers: Vec::new(), aside: None };
        for layer in &self.record.layers {
            if without.contains(&layer.diff_id) {
                continue;
            }
            let path = self.store.blob_path(layer.blob());
            let Some(packed) = &layer.packed else {
                tars.layers.push((layer.diff_id, path));
                continue;
            };
            if tars.aside.is_none() {
                tars.aside = Some(self.store.tree_draft()?);
            }
            let aside = tars.aside.as_ref().map_or(Path::new(""), TreeDraft::path);
            let into = aside.join(layer.diff_id.hex());
            let packing = packed.media_type.parse().unwrap_or(Packing::Plain);
            let tar = packing.open(&path).at("open", &path)?;
            let mut file = File::create(&into).at("create", &into)?;
            // one byte more than there may be shows that there are more
            io::copy(&mut tar.take(layer.size + 1), &mut file).at("unpack", &path)?;
            tars.layers.push((layer.diff_id, into));
        }
        Ok(tars)
    }
}

impl fmt::Display for ArchiveKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArchiveKind::Oci => "oci-archive",
            ArchiveKind::Docker => "docker-archive",
            ArchiveKind::Tar => "tar",
        })
    }
}
