//! The files of a project that a recipe reads when it is locked: of a directory below the project's
//! own, or of the source that an earlier recipe of the layer lays. Whoever reads them need not know
//! which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use super::{Ask, SolveError, Solver};
use crate::decl::{LaidProject, Picks, Take};
use crate::digest::Integrity;
use crate::fsx::{IoAt, PathIo};
use crate::lock::Pin;
use crate::lock::question::recipe_request;
use crate::npm::{Manifest, matching_manifests, workspace_manifests};
use crate::path::LayerPath;
use crate::tarball::{MemberKind, Reader, TarError, unpacked};
use crate::zipfile::{ZipFile, ZipFileError};

/// Most bytes that a source may unpack to, and that one of the files that are read has.
pub(super) const LARGEST: u64 = 16 << 30;
const LARGEST_READ: u64 = 256 << 20;

/// Files by their path below the directory of what is locked.
pub(super) enum ProjectFiles {
    /// Of this directory; its path below the project is for messages.
    Local { dir: PathBuf, shown: String },
    /// Of a source: every path below the project's directory.
    Laid { source: Integrity, label: String, paths: BTreeMap<String, Member> },
}

/// What a source has at a path.
pub(super) struct Member {
    /// What the source itself calls it; empty where that is no text.
    name: String,
    /// Of a file that may be read.
    bytes: Option<Vec<u8>>,
}

/// A source that cannot be looked into.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    #[error(transparent)]
    Tar(#[from] TarError),
    #[error(transparent)]
    Zip(#[from] ZipFileError),
    #[error(transparent)]
    Io(#[from] PathIo),
}

impl ProjectFiles {
    /// Those of a directory below the project's; empty for itself.
    pub(super) fn local(solver: &Solver<'_>, dir: &str) -> Self {
        ProjectFiles::Local { dir: solver.project.root.join(dir), shown: dir.to_owned() }
    }

    /// A file as messages call it.
    pub(super) fn label(&self, path: &str) -> String {
        match self {
            ProjectFiles::Local { shown, .. } if shown.is_empty() => path.to_owned(),
            ProjectFiles::Local { shown, .. } => format!("{shown}/{path}"),
            ProjectFiles::Laid { label, .. } => format!("{label}/{path}"),
        }
    }

    /// The bytes of a file that is there.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, SolveError> {
        match self {
            ProjectFiles::Local { dir, .. } => {
                let full = dir.join(path);
                Ok(fs::read(&full).at("read", &full)?)
            }
            ProjectFiles::Laid { paths, .. } => {
                let found = paths.get(&clean(path)).and_then(|member| member.bytes.clone());
                let path = self.label(path);
                found.ok_or(SolveError::NotThere { path })
            }
        }
    }

    pub(super) fn is_file(&self, path: &str) -> bool {
        match self {
            ProjectFiles::Local { dir, .. } => dir.join(path).is_file(),
            ProjectFiles::Laid { paths, .. } => {
                paths.get(&clean(path)).is_some_and(|member| member.bytes.is_some())
            }
        }
    }

    /// Whether there is anything of that name.
    pub(super) fn exists(&self, path: &str) -> bool {
        match self {
            ProjectFiles::Local { dir, .. } => dir.join(path).exists(),
            ProjectFiles::Laid { paths, .. } => {
                let (path, below) = (clean(path), clean(path) + "/");
                paths.contains_key(&path)
                    || paths
                        .range(below.clone()..)
                        .next()
                        .is_some_and(|(one, _)| one.starts_with(&below))
            }
        }
    }

    /// What the workspaces of a project say of themselves: their files.
    pub(super) fn workspace_manifests(&self, manifest: &Manifest) -> BTreeSet<String> {
        match self {
            ProjectFiles::Local { dir, .. } => workspace_manifests(dir, manifest),
            ProjectFiles::Laid { paths, .. } => {
                let there = paths.iter().filter(|(_, member)| member.bytes.is_some());
                let dirs = there.filter_map(|(path, _)| path.strip_suffix("/package.json"));
                let of_package = |dir: &&str| !dir.split('/').any(|part| part == "node_modules");
                matching_manifests(dirs.filter(of_package), manifest)
            }
        }
    }

    /// What a source calls the file at a path, if there is one.
    pub(super) fn member(&self, path: &str) -> Option<&str> {
        match self {
            ProjectFiles::Local { .. } => None,
            ProjectFiles::Laid { paths, .. } => {
                let name = paths.get(&clean(path)).map(|member| member.name.as_str());
                name.filter(|name| !name.is_empty())
            }
        }
    }

    /// The source that they are of; `None` for local ones.
    pub(super) fn source(&self) -> Option<Integrity> {
        match self {
            ProjectFiles::Local { .. } => None,
            ProjectFiles::Laid { source, .. } => Some(*source),
        }
    }

    /// Those of what an earlier recipe of the layer lays, which has been answered by now. Of files
    /// whose name `reads` does not know, only that they are there is remembered.
    pub(super) fn laid(
        solver: &Solver<'_>,
        ask: &Ask<'_>,
        laid: &LaidProject,
        reads: &dyn Fn(&str) -> bool,
    ) -> Result<Self, SolveError> {
        let Solver { project, store, client, progress, local, .. } = *solver;
        let no_source = || SolveError::Declaration {
            layer: ask.layer.name.clone(),
            reason: "the recipe that lays the project has no source".to_owned(),
        };
        let request = recipe_request(project, ask.layer, laid.recipe, ask.platform, local);
        let pins = request.and_then(|request| ask.lock.answer(&request)).unwrap_or_default();
        let source = pins.iter().find_map(Pin::source).ok_or_else(no_source)?;
        let take = ask.layer.recipes.get(laid.recipe).and_then(|recipe| recipe.take());
        let take = take.ok_or_else(no_source)?;
        let places = solver.places();
        if !places.has(&source) {
            let failed = places.fetch(client, &[source], progress)?.pop_first();
            failed.map_or(Ok(()), |(_, error)| Err(error))?;
        }
        let (digest, label) = (source.integrity(), source.label());
        let mut looking = Looking { dir: clean(&laid.dir), reads, paths: BTreeMap::new() };
        looking.look(&store.source_path(&digest), take).map_err(|error| {
            SolveError::Declaration {
                layer: ask.layer.name.clone(),
                reason: format!("`{label}`: {error}"),
            }
        })?;
        Ok(ProjectFiles::Laid { source: digest, label, paths: looking.paths })
    }
}

/// A path without `.`, and without a slash too many.
fn clean(path: &str) -> String {
    path.split('/').filter(|part| !matches!(*part, "" | ".")).collect::<Vec<_>>().join("/")
}

/// What a member of an archive is called, in one way.
pub(super) fn plain(name: &[u8]) -> Option<String> {
    let path = LayerPath::parse_member(name).ok()?;
    String::from_utf8(path.as_bytes().to_vec()).ok()
}

/// A source that is being looked through.
struct Looking<'a> {
    /// The project's directory, below where the source is laid.
    dir: String,
    reads: &'a dyn Fn(&str) -> bool,
    paths: BTreeMap<String, Member>,
}

impl Looking<'_> {
    fn look(&mut self, blob: &Path, take: &Take) -> Result<(), LookError> {
        let Take { strip, subdirectory, include, exclude, .. } = take;
        let picks = Picks::new(*strip, subdirectory, include, exclude)
            .map_err(std::io::Error::other)
            .at("pick from", blob)?;
        let mut file = BufReader::new(File::open(blob).at("open", blob)?);
        if std::io::BufRead::fill_buf(&mut file).at("read", blob)?.starts_with(b"PK\x03\x04") {
            return self.look_zip(blob, &picks);
        }
        let mut reader = Reader::new(unpacked(file).at("read", blob)?, LARGEST);
        while let Some(member) = reader.next_member()? {
            let is_dir = member.kind == MemberKind::Dir;
            let Some(path) = self.place(&member.path, is_dir, &picks) else { continue };
            let bytes = match member.kind == MemberKind::File && self.wants(&path, member.size) {
                true => {
                    let mut bytes = Vec::new();
                    reader.read_to_end(&mut bytes).at("read", blob)?;
                    Some(bytes)
                }
                false => None,
            };
            let name = match member.kind == MemberKind::File {
                true => plain(&member.path).unwrap_or_default(),
                false => String::new(),
            };
            self.paths.insert(path, Member { name, bytes });
        }
        Ok(())
    }

    fn look_zip(&mut self, blob: &Path, picks: &Picks) -> Result<(), LookError> {
        let mut zip = ZipFile::open(blob, |_| {})?;
        for member in zip.members()? {
            let Some(path) = self.place(member.name.as_bytes(), false, picks) else { continue };
            let bytes = match self.wants(&path, member.size) {
                true => Some(zip.text(&member)?.into_bytes()),
                false => None,
            };
            let name = plain(member.name.as_bytes()).unwrap_or_default();
            self.paths.insert(path, Member { name, bytes });
        }
        Ok(())
    }

    fn wants(&self, path: &str, size: u64) -> bool {
        (self.reads)(path.rsplit('/').next().unwrap_or(path)) && size <= LARGEST_READ
    }

    /// Where a member is below the project's directory.
    fn place(&self, name: &[u8], is_dir: bool, picks: &Picks) -> Option<String> {
        let path = LayerPath::parse_member(name).ok()?;
        let path = String::from_utf8(picks.place(&path, is_dir)?).ok()?;
        match self.dir.is_empty() {
            true => Some(path),
            false => path.strip_prefix(&*self.dir)?.strip_prefix('/').map(str::to_owned),
        }
    }
}
