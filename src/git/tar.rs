//! The canonical archive of a tree: entries by path, each with the one form that `tarball` gives it,
//! modes 0644 or 0755, all of one time. Submodules lie where the tree has them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use super::Workshop;
use super::error::GitError;
use super::objects::{ObjectId, ObjectKind, Objects};
use super::remote::{Remote, Wanted};
use super::submodules;
use super::tree::Mode;
use crate::decl::Picks;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::{IoAt, PathIo};
use crate::path::LayerPath;
use crate::tarball::Writer;

/// Most bytes of a tree.
const LARGEST: u64 = 16 << 30;
/// Longest target of a link, as Linux has it.
const LONGEST_LINK: usize = 4095;
/// How many repositories lie in one another, and how many there are.
const DEEPEST: usize = 16;
const MOST: usize = 1000;

/// Where the bytes of a path are.
pub(super) enum Body {
    Dir,
    /// Of an object of the repository of that number.
    Object {
        repository: usize,
        mode: Mode,
        id: ObjectId,
    },
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// A fetched repository.
pub(super) struct Repository {
    pub remote: Remote,
    pub objects: Objects,
}

/// All that the archive is to have.
pub(super) struct Gathering<'a> {
    workshop: &'a Workshop<'a>,
    pub(super) scratch: &'a Path,
    pub(super) repositories: Vec<Repository>,
    pub(super) bodies: BTreeMap<LayerPath, Body>,
}

/// A tree that is yet to be taken.
struct Next {
    repository: usize,
    at: LayerPath,
    commit: ObjectId,
    depth: usize,
}

impl<'a> Gathering<'a> {
    pub fn new(
        remote: Remote,
        workshop: &'a Workshop<'a>,
        scratch: &'a Path,
    ) -> Result<Self, GitError> {
        let objects = Objects::open(&remote.program)?;
        let repositories = vec![Repository { remote, objects }];
        Ok(Gathering { workshop, scratch, repositories, bodies: BTreeMap::new() })
    }

    /// Takes the tree of a commit, and those of its submodules.
    pub fn take(&mut self, commit: &ObjectId, submodules: bool) -> Result<(), GitError> {
        let at = LayerPath::root();
        let mut next = vec![Next { repository: 0, at, commit: *commit, depth: 0 }];
        while let Some(one) = next.pop() {
            let inner = self.take_tree(&one)?;
            if submodules && !inner.is_empty() {
                next.extend(self.submodules(&one, inner)?);
            }
        }
        Ok(())
    }

    /// Takes one repository's tree; answers where it has others in it.
    fn take_tree(&mut self, one: &Next) -> Result<Vec<(LayerPath, ObjectId)>, GitError> {
        let repository = &mut self.repositories[one.repository];
        let url = repository.remote.program.url.clone();
        let tree = repository.objects.commit(&one.commit, &url)?.tree;
        let mut inner = Vec::new();
        for (path, (mode, id)) in repository.objects.walk(&tree, &url)? {
            let full = one.at.join(path.as_bytes());
            let full = full.map_err(|source| GitError::Path { url: url.clone(), source })?;
            let body = match mode {
                Mode::Dir | Mode::Submodule => Body::Dir,
                mode => Body::Object { repository: one.repository, mode, id },
            };
            if mode == Mode::Submodule {
                inner.push((path, id));
            }
            self.bodies.insert(full, body);
        }
        Ok(inner)
    }

    /// Fetches the repositories that lie in another one.
    fn submodules(
        &mut self,
        above: &Next,
        inner: Vec<(LayerPath, ObjectId)>,
    ) -> Result<Vec<Next>, GitError> {
        let repository = &mut self.repositories[above.repository];
        let (url, base) = (repository.remote.program.url.clone(), repository.remote.url.clone());
        let tree = repository.objects.commit(&above.commit, &url)?.tree;
        let paths = repository.objects.walk(&tree, &url)?;
        let list = LayerPath::root().join(b".gitmodules").ok().and_then(|path| paths.get(&path));
        let text = match list {
            Some((Mode::File | Mode::Program, id)) => {
                repository.objects.read(id, ObjectKind::Blob)?
            }
            _ => Vec::new(),
        };
        let known = submodules::read(&repository.remote.program, &text)?;
        let mut next = Vec::new();
        for (path, commit) in inner {
            let shown = path.to_string();
            let refuse = |reason: String| GitError::Submodule {
                url: url.clone(),
                path: shown.trim_start_matches('/').to_owned(),
                reason,
            };
            if above.depth == DEEPEST || self.repositories.len() == MOST {
                return Err(refuse("is one too many".to_owned()));
            }
            let text = known.get(path.as_bytes());
            let text = text.ok_or_else(|| refuse("has no address in `.gitmodules`".to_owned()))?;
            let address = submodules::address(&base, text).map_err(refuse)?;
            let name = self.repositories.len().to_string();
            let remote = Remote::open(self.scratch, &name, &address, self.workshop)?;
            let rev = commit.to_string();
            remote.fetch(&Wanted {
                rev: &rev,
                locked: Some(&commit),
                depth: Some(1),
                partial: false,
            })?;
            let objects = Objects::open(&remote.program)?;
            let at = above.at.join(path.as_bytes());
            let at = at.map_err(|source| GitError::Path { url: url.clone(), source })?;
            let (repository, depth) = (self.repositories.len(), above.depth + 1);
            next.push(Next { repository, at, commit, depth });
            self.repositories.push(Repository { remote, objects });
        }
        Ok(next)
    }

    /// Drops what is not meant.
    pub fn pick(&mut self, picks: &Picks) {
        self.bodies.retain(|path, body| picks.place(path, matches!(body, Body::Dir)).is_some());
    }

    /// Fetches the files of the main repository that were left out at first.
    pub fn complete(&mut self) -> Result<(), GitError> {
        let ids = self.bodies.values().filter_map(|body| match body {
            Body::Object { repository: 0, id, .. } => Some(*id),
            _ => None,
        });
        let ids: Vec<ObjectId> = ids.collect();
        self.repositories[0].remote.complete(&ids)
    }

    /// Writes the archive.
    pub fn write(&mut self, draft: &mut dyn Write) -> Result<(), GitError> {
        let mut writer = Writer::new(draft);
        for (path, body) in &self.bodies {
            match body {
                Body::Dir => {
                    let entry = entry(path, 0o755, Kind::Dir(Claim::Shipped));
                    writer.header(&entry).map_err(broken)?;
                }
                Body::Object { repository, mode, id } => {
                    write_object(
                        &mut writer,
                        &mut self.repositories[*repository],
                        path,
                        *mode,
                        id,
                    )?;
                }
                Body::Bytes(bytes) => {
                    let size = bytes.len() as u64;
                    let entry = entry(path, 0o644, Kind::File(size));
                    writer.header(&entry).and_then(|()| writer.body(bytes)).map_err(broken)?;
                    writer.pad(size).map_err(broken)?;
                }
                Body::File(file) => write_file(&mut writer, path, file)?,
            }
            if writer.offset() > LARGEST {
                let url = self.repositories[0].remote.program.url.clone();
                let reason = format!("has more than {LARGEST} bytes");
                return Err(GitError::TooLarge { url, reason });
            }
        }
        writer.finish().map_err(broken)?;
        Ok(())
    }
}

fn broken(source: io::Error) -> GitError {
    PathIo { action: "write", path: PathBuf::from("a draft"), source }.into()
}

fn entry(path: &LayerPath, mode: u32, kind: Kind) -> Entry {
    Entry { path: path.clone(), meta: Meta::root(mode), kind }
}

fn write_object<W: Write>(
    writer: &mut Writer<W>,
    repository: &mut Repository,
    path: &LayerPath,
    mode: Mode,
    id: &ObjectId,
) -> Result<(), GitError> {
    if mode == Mode::Link {
        let target = repository.objects.read(id, ObjectKind::Blob)?;
        if target.is_empty() || target.len() > LONGEST_LINK || target.contains(&0) {
            return Err(GitError::Tree {
                url: repository.remote.program.url.clone(),
                path: path.to_string(),
                reason: "is a link to nowhere".to_owned(),
            });
        }
        let entry = entry(path, 0o777, Kind::Symlink(target.into()));
        return writer.header(&entry).map_err(broken);
    }
    let bits = if mode == Mode::Program { 0o755 } else { 0o644 };
    let mut size = 0;
    let start = |writer: &mut Writer<W>, found: u64| {
        size = found;
        writer.header(&entry(path, bits, Kind::File(found))).map_err(broken)
    };
    let piece = |writer: &mut Writer<W>, piece: &[u8]| writer.body(piece).map_err(broken);
    repository.objects.stream(id, ObjectKind::Blob, writer, start, piece)?;
    writer.pad(size).map_err(broken)
}

fn write_file<W: Write>(
    writer: &mut Writer<W>,
    path: &LayerPath,
    from: &Path,
) -> Result<(), GitError> {
    let mut file = File::open(from).at("open", from)?;
    let size = file.metadata().at("stat", from)?.len();
    writer.header(&entry(path, 0o644, Kind::File(size))).map_err(broken)?;
    let mut buffer = vec![0; 1 << 18];
    loop {
        match file.read(&mut buffer).at("read", from)? {
            0 => break,
            n => writer.body(&buffer[..n]).map_err(broken)?,
        }
    }
    writer.pad(size).map_err(broken)
}
