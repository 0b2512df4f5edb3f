//! What a file system holds, for comparing two of them: everything but times.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use sbx::digest::Digest;

/// Absolute path → kind, mode, owner, and what it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey(BTreeMap<String, String>);

/// Where a target lies in a system of merged directories: who makes a link to a unit of systemd's,
/// and so by which name, depends on whether systemd was configured before.
fn merged(target: &Path) -> PathBuf {
    match target.starts_with("/lib") {
        true => Path::new("/usr").join(target.strip_prefix("/").unwrap()),
        false => target.to_owned(),
    }
}

/// Bytecode without its source's time (PEP 552), which is a time like any other.
fn untimed(path: &Path, mut bytes: Vec<u8>) -> Vec<u8> {
    if path.extension().is_some_and(|extension| extension == "pyc") && bytes.len() > 16 {
        bytes[8..12].fill(0);
    }
    bytes
}

impl Survey {
    /// Looks at everything below `root`.
    pub fn of(root: &Path) -> Self {
        let mut survey = Survey::default();
        let mut links = BTreeMap::new();
        survey.visit(root, root, &mut links);
        for paths in links.into_values().filter(|paths: &Vec<String>| paths.len() > 1) {
            for path in &paths {
                survey.0.get_mut(path).unwrap().push_str(&format!(" linked {}", paths.join(" ")));
            }
        }
        survey
    }

    fn visit(&mut self, root: &Path, path: &Path, links: &mut BTreeMap<u64, Vec<String>>) {
        let meta = fs::symlink_metadata(path).unwrap();
        let name = format!("/{}", path.strip_prefix(root).unwrap().display());
        let kind = meta.file_type();
        let what = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {}", merged(&fs::read_link(path).unwrap()).display())
        } else if kind.is_file() {
            format!("file {}", Digest::of(&untimed(path, fs::read(path).unwrap())).hex())
        } else if kind.is_char_device() {
            format!("device {}", meta.rdev())
        } else {
            "special".to_owned()
        };
        let mode = meta.mode() & 0o7777;
        self.0.insert(name.clone(), format!("{mode:04o} {}:{} {what}", meta.uid(), meta.gid()));
        if kind.is_file() && meta.nlink() > 1 {
            links.entry(meta.ino()).or_default().push(name);
        }
        if kind.is_dir() {
            let mut inner: Vec<PathBuf> =
                fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            inner.sort();
            inner.iter().for_each(|path| self.visit(root, path, links));
        }
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Forgets these paths and all below them.
    pub fn without(mut self, paths: &[&str]) -> Self {
        self.0.retain(|name, _| {
            !paths.iter().any(|path| {
                name.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            })
        });
        self
    }

    /// Forgets directories of such names that hold nothing but one another.
    pub fn without_empty(mut self, is_such: impl Fn(&str) -> bool) -> Self {
        let held: BTreeSet<PathBuf> = self
            .0
            .keys()
            .filter(|name| !is_such(name.rsplit('/').next().unwrap_or_default()))
            .flat_map(|name| Path::new(name).ancestors().map(Path::to_owned).collect::<Vec<_>>())
            .collect();
        self.0.retain(|name, what| !what.ends_with(" directory") || held.contains(Path::new(name)));
        self
    }

    /// Keeps these paths and nothing else.
    pub fn only(mut self, paths: &[&str]) -> Self {
        self.0.retain(|name, _| paths.contains(&&**name));
        self
    }

    /// The same below a directory.
    pub fn within(self, dir: &str) -> Self {
        let below = |(name, what): (String, String)| (format!("{dir}{name}"), what);
        Survey(self.0.into_iter().map(below).collect())
    }

    /// With what the other one holds.
    pub fn with(mut self, other: Survey) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Owners by name.
    pub fn named(mut self, users: &BTreeMap<u32, String>, groups: &BTreeMap<u32, String>) -> Self {
        let name = |names: &BTreeMap<u32, String>, id: &str| {
            names.get(&id.parse().unwrap()).cloned().unwrap_or_else(|| id.to_owned())
        };
        for what in self.0.values_mut() {
            let mut words = what.splitn(3, ' ');
            let (mode, owner, rest) =
                (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
            let (user, group) = owner.split_once(':').unwrap();
            *what = format!("{mode} {}:{} {rest}", name(users, user), name(groups, group));
        }
        self
    }

    /// A line for each path that is not the same in both.
    pub fn differences(&self, other: &Survey) -> Vec<String> {
        let names: BTreeSet<&String> = self.0.keys().chain(other.0.keys()).collect();
        let show = |survey: &Survey, name: &str| {
            survey.0.get(name).map_or("nothing", |line| &**line).to_owned()
        };
        names
            .into_iter()
            .filter(|name| self.0.get(*name) != other.0.get(*name))
            .map(|name| format!("{name}: {} | {}", show(self, name), show(other, name)))
            .collect()
    }
}
