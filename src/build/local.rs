//! Local files: which they are, and the digest of what counts about them.
//!
//! A file counts by its path, type, bytes and its owner's x-bit; what git ignores and `exclude` names
//! stays out. Hashing is remembered by the file's stamp, so that a build in which nothing changed
//! reads no file; a stamp as young as the memory itself is not trusted, because a write in the same
//! tick would not show.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use serde::{Deserialize, Serialize};

use crate::blame::Blame;
use crate::decl::{Fault, Faults, Files, Layer, Recipe};
use crate::digest::{Digest, Hasher};
use crate::fetch::{has_credential, public_settings};
use crate::fsx::{self, IoAt, PathIo};
use crate::lock::question::LocalDigests;
use crate::npm::{Manifest, bins, local_dependencies, pnpm_files, workspace_manifests};
use crate::python::beside;
use crate::store::{Stamp, Store};

/// Why local files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Faults(#[from] Faults),
}

impl LocalError {
    pub fn blame(&self) -> Blame {
        match self {
            LocalError::Io(_) => Blame::World,
            LocalError::Faults(_) => Blame::Input,
        }
    }
}

/// One local file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalFile {
    /// Below the recipe's source; empty for a source that is a file itself.
    pub path: PathBuf,
    /// On disk.
    pub full: PathBuf,
    pub kind: LocalKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalKind {
    Dir,
    File { executable: bool },
    Link(PathBuf),
}

/// Digests of files by path, with the stamp they had.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Memory {
    /// Nanoseconds since 1970.
    written: i64,
    files: BTreeMap<PathBuf, (Stamp, Digest)>,
}

impl Memory {
    /// What cannot be remembered costs time, not truth.
    fn write(mut self, path: &Path) {
        // JSON has no word for other paths: their files are hashed every time
        self.files.retain(|path, _| path.to_str().is_some());
        let bytes = serde_json::to_vec(&self).expect("paths are texts");
        fs::create_dir_all(path.parent().unwrap_or(path)).unwrap_or_default();
        fsx::write_atomic(path, &bytes).unwrap_or_default();
    }
}

/// Looks at the local files of layers. `root` is the project's, `now` in nanoseconds since 1970.
pub fn scan(
    store: &Store,
    root: &Path,
    layers: &[&Layer],
    now: i64,
) -> Result<LocalDigests, LocalError> {
    let name = Digest::of(root.as_os_str().as_bytes()).hex();
    let path = store.root().join("stats").join(&name);
    let old: Memory = fs::read(&path)
        .ok()
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .unwrap_or_default();
    let mut scan = Scan { root, old, new: BTreeMap::new(), hashed: false };
    let mut digests = LocalDigests::default();
    let mut faults = Vec::new();
    for layer in layers {
        for (at, recipe) in layer.recipes.iter().enumerate() {
            let Recipe::Files(files) = recipe else { continue };
            match list(root, files)? {
                None => faults.push(missing(root, files)),
                Some(found) => {
                    faults.extend(credential(files, &found));
                    let digest = scan.digest(&found)?;
                    digests.recipes.insert((layer.name.clone(), at), digest);
                }
            }
        }
        for recipe in &layer.recipes {
            for path in recipe.reads() {
                let full = root.join(path);
                if full.is_file() {
                    let mut digest = scan.file(&full)?;
                    if let Recipe::Venv(venv) = recipe
                        && (venv.requirements.iter().chain(&venv.constraints))
                            .any(|one| one == path)
                    {
                        digest = scan.with_included(digest, path)?;
                    }
                    if let Recipe::Npm(npm) = recipe {
                        digest = scan.with_links(digest, &npm.project, path)?;
                    }
                    digests.files.insert(path.to_owned(), digest);
                } else if recipe.needs(path) {
                    let fault = Fault::new(recipe.at(), format!("file `{path}` does not exist"));
                    faults.push(nearest_file(fault, root, Path::new(path)));
                }
            }
        }
    }
    Faults::check(faults)?;
    if scan.hashed {
        Memory { written: now, files: scan.new }.write(&path);
    }
    Ok(digests)
}

/// A credential that would be in the layer for everybody to read.
fn credential(files: &Files, found: &[LocalFile]) -> Option<Fault> {
    let settings = |file: &&LocalFile| file.full.file_name().is_some_and(|name| name == ".npmrc");
    let holds =
        |file: &&LocalFile| fs::read_to_string(&file.full).is_ok_and(|text| has_credential(&text));
    let file = found.iter().filter(settings).find(holds)?;
    let shown = files.from.join(&file.path);
    let fault = Fault::new(&files.at, format!("`{}` has a credential in it", shown.display()));
    let help = "name a variable in its place (`${NPM_TOKEN}`), keep it in your own `~/.npmrc`, or leave the file out: `exclude \".npmrc\"`";
    Some(fault.help(help))
}

fn missing(root: &Path, files: &Files) -> Fault {
    let fault = Fault::new(&files.at, format!("`{}` does not exist", files.from.display()));
    nearest_file(fault, root, &files.from)
}

/// Names what lies beside it and is called almost the same.
fn nearest_file(fault: Fault, root: &Path, path: &Path) -> Fault {
    let parent = root.join(path.parent().unwrap_or(Path::new("")));
    let names: Vec<String> = fs::read_dir(parent)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| path.with_file_name(entry.file_name()).display().to_string())
        .collect();
    fault.nearest(&path.display().to_string(), names.iter().map(String::as_str))
}

/// The files of a recipe, sorted by path; `None` where there is nothing.
pub fn list(root: &Path, files: &Files) -> Result<Option<Vec<LocalFile>>, PathIo> {
    let source = root.join(&files.from);
    let meta = match fs::symlink_metadata(&source) {
        Ok(meta) => meta,
        Err(_) => return Ok(None),
    };
    if !meta.is_dir() {
        let kind = kind(&source, &meta)?;
        let file = LocalFile { path: PathBuf::new(), full: source, kind };
        return Ok(Some(vec![file]));
    }
    let mut overrides = ignore::overrides::OverrideBuilder::new(&source);
    for pattern in &files.exclude {
        // in an override, `!` leaves out
        overrides
            .add(&format!("!{pattern}"))
            .map_err(std::io::Error::other)
            .at("read patterns for", &source)?;
    }
    let overrides =
        overrides.build().map_err(std::io::Error::other).at("read patterns for", &source)?;
    let walk = ignore::WalkBuilder::new(&source)
        .standard_filters(false)
        .git_ignore(files.ignore)
        .parents(files.ignore)
        .require_git(false)
        .overrides(overrides)
        .filter_entry(|entry| entry.file_name() != ".git")
        .build();
    let mut found = Vec::new();
    for entry in walk {
        let entry = entry.map_err(std::io::Error::other).at("list", &source)?;
        let full = entry.into_path();
        let path = full.strip_prefix(&source).unwrap_or(&full).to_owned();
        if path.as_os_str().is_empty() {
            continue;
        }
        let meta = fs::symlink_metadata(&full).at("stat", &full)?;
        let kind = kind(&full, &meta)?;
        found.push(LocalFile { path, full, kind });
    }
    found.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    Ok(Some(found))
}

fn kind(full: &Path, meta: &fs::Metadata) -> Result<LocalKind, PathIo> {
    if meta.is_dir() {
        return Ok(LocalKind::Dir);
    }
    if meta.is_symlink() {
        return fs::read_link(full).at("read link", full).map(LocalKind::Link);
    }
    if !meta.is_file() {
        let error = std::io::Error::other("it is neither a file, a directory nor a link");
        return Err(error).at("use", full);
    }
    Ok(LocalKind::File { executable: meta.permissions().mode() & 0o100 != 0 })
}

struct Scan<'a> {
    root: &'a Path,
    old: Memory,
    new: BTreeMap<PathBuf, (Stamp, Digest)>,
    hashed: bool,
}

impl Scan<'_> {
    /// The digest of a requirements file and of all that it includes.
    fn with_included(&mut self, own: Digest, path: &str) -> Result<Digest, LocalError> {
        let mut all = std::collections::BTreeMap::from([(path.to_owned(), own)]);
        let mut next = vec![path.to_owned()];
        while let Some(path) = next.pop() {
            let full = self.root.join(&path);
            let text = fs::read_to_string(&full).unwrap_or_default();
            // what is wrong with one is said when it is resolved
            let read = crate::python::Requirements::parse(&text).unwrap_or_default();
            for include in read.includes().filter_map(|include| beside(&path, include)) {
                if !all.contains_key(&include) && self.root.join(&include).is_file() {
                    let digest = self.file(&self.root.join(&include))?;
                    all.insert(include.clone(), digest);
                    next.push(include);
                }
            }
        }
        if all.len() == 1 {
            return Ok(own);
        }
        let lines: String = all.iter().map(|(path, digest)| format!("{path} {digest}\n")).collect();
        Ok(Digest::of(lines.as_bytes()))
    }

    /// The digest of a lock of npm's or pnpm's and of what counts about the directories that it links to: what
    /// they say of themselves, and which of their commands are there.
    fn with_links(&mut self, own: Digest, dir: &str, path: &str) -> Result<Digest, LocalError> {
        let text = fs::read_to_string(self.root.join(path)).unwrap_or_default();
        if path.ends_with(".npmrc") {
            // where packages are and how one is known there changes nothing
            return Ok(Digest::of(public_settings(&text).as_bytes()));
        }
        if path.ends_with("package.json") {
            return self.with_beside(own, dir, &text);
        }
        let mut lines = format!("{own}\n");
        if path.ends_with("pnpm-lock.yaml") {
            for file in pnpm_files(&text) {
                let full = self.root.join(dir).join(&file);
                if full.is_file() {
                    lines += &format!("{file} {}\n", self.file(&full)?);
                }
            }
        }
        for target in crate::npm::link_targets(&text) {
            let full = self.root.join(dir).join(&target);
            let manifest = full.join("package.json");
            if !manifest.is_file() {
                continue;
            }
            let digest = self.file(&manifest)?;
            let bytes = fs::read(&manifest).at("read", &manifest)?;
            // what is wrong with one is said when it is locked
            let read = Manifest::parse(&bytes).unwrap_or_default();
            let there = bins(&target, &read.bin).into_iter().map(|(_, file)| file);
            let there: Vec<_> = there.filter(|file| full.join(&**file).exists()).collect();
            lines += &format!("{target} {digest} {there:?}\n");
        }
        if lines.lines().count() == 1 { Ok(own) } else { Ok(Digest::of(lines.as_bytes())) }
    }

    /// The digest of a `package.json` and, where no lock stands beside it, of what npm resolves with it.
    fn with_beside(&mut self, own: Digest, dir: &str, text: &str) -> Result<Digest, LocalError> {
        let root = self.root.join(dir);
        let locks = ["npm-shrinkwrap.json", "package-lock.json", "pnpm-lock.yaml"];
        if locks.iter().any(|name| root.join(name).is_file()) {
            return Ok(own);
        }
        let manifest = Manifest::parse(text.as_bytes()).unwrap_or_default();
        let mut files = workspace_manifests(&root, &manifest);
        for path in local_dependencies(&manifest) {
            files.insert(format!("{path}/package.json"));
            files.insert(path);
        }
        let mut lines = format!("{own}\n");
        for file in files.iter().filter(|file| root.join(file).is_file()) {
            lines += &format!("{file} {}\n", self.file(&root.join(file))?);
        }
        if lines.lines().count() == 1 { Ok(own) } else { Ok(Digest::of(lines.as_bytes())) }
    }

    /// Digest over what counts of a list of files.
    fn digest(&mut self, files: &[LocalFile]) -> Result<Digest, PathIo> {
        let mut hasher = Hasher::new();
        for file in files {
            let path = file.path.as_os_str().as_bytes();
            let (tag, content) = match &file.kind {
                LocalKind::Dir => ('d', Vec::new()),
                LocalKind::Link(target) => ('l', target.as_os_str().as_bytes().to_vec()),
                LocalKind::File { executable } => {
                    let digest = self.file(&file.full)?;
                    (if *executable { 'x' } else { 'f' }, digest.as_bytes().to_vec())
                }
            };
            // lengths keep one field from running into the next
            hasher.update(format!("{tag} {} {}\n", path.len(), content.len()).as_bytes());
            hasher.update(path);
            hasher.update(&content);
        }
        Ok(hasher.finish())
    }

    fn file(&mut self, full: &Path) -> Result<Digest, PathIo> {
        let meta = fs::metadata(full).at("stat", full)?;
        let stamp = Stamp::new(&meta);
        let name = full.strip_prefix(self.root).unwrap_or(full).to_owned();
        let known =
            self.old.files.get(&name).filter(|(old, _)| {
                *old == stamp && stamp.mtime.max(stamp.ctime) < self.old.written
            });
        let digest = match known {
            Some((_, digest)) => *digest,
            None => {
                self.hashed = true;
                let mut hasher = Hasher::new();
                let mut file = fs::File::open(full).at("open", full)?;
                std::io::copy(&mut file, &mut hasher).at("read", full)?;
                hasher.finish()
            }
        };
        self.new.insert(name, (stamp, digest));
        Ok(digest)
    }
}

/// Nanoseconds since 1970 of a time.
pub fn nanos(time: std::time::SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|age| i64::try_from(age.as_nanos()).ok())
        .unwrap_or(0)
}
