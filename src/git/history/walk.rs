//! What a commit reaches, in an order that follows from the objects alone.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use super::{GitError, ObjectId, Objects};
use crate::git::objects::ObjectKind;
use crate::git::tree::{Commit, Mode, parse};

/// An object of a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    pub id: ObjectId,
    pub kind: ObjectKind,
    /// Tells the versions of one path.
    pub group: u32,
}

/// A history.
pub(super) struct Reached {
    /// By kind and path, of each path the youngest version first.
    pub objects: Vec<Found>,
    /// Commits whose parents are left out, sorted.
    pub cut: BTreeSet<ObjectId>,
}

/// Walks back from a commit, `depth` commits far.
pub(super) fn walk(
    objects: &mut Objects,
    url: &str,
    from: &ObjectId,
    depth: Option<u32>,
    shallow: &[ObjectId],
) -> Result<Reached, GitError> {
    let (commits, cut) = commits(objects, url, from, depth, shallow)?;
    let mut trees = Trees::default();
    for (_, commit) in &commits {
        trees.add(objects, url, &commit.tree)?;
    }
    let commits = commits.iter().enumerate();
    let mut found: Vec<Found> = commits
        .map(|(at, (id, _))| Found {
            id: *id,
            kind: ObjectKind::Commit,
            // two commits have little in common
            group: u32::try_from(at).unwrap_or(u32::MAX),
        })
        .collect();
    found.extend(trees.in_order());
    Ok(Reached { objects: found, cut })
}

type Dated = (ObjectId, Commit);

/// Commits, the youngest first; and those that the walk ended at though they have parents.
fn commits(
    objects: &mut Objects,
    url: &str,
    from: &ObjectId,
    depth: Option<u32>,
    shallow: &[ObjectId],
) -> Result<(Vec<Dated>, BTreeSet<ObjectId>), GitError> {
    let mut seen = HashSet::from([*from]);
    let mut next = VecDeque::from([(*from, 1)]);
    let (mut commits, mut cut) = (Vec::new(), BTreeSet::new());
    // level by level, so that each commit is met by its shortest way
    while let Some((id, level)) = next.pop_front() {
        let commit = objects.commit(&id, url)?;
        if depth == Some(level) {
            if !commit.parents.is_empty() {
                cut.insert(id);
            }
        } else if shallow.contains(&id) && !commit.parents.is_empty() {
            return Err(GitError::Shallow { url: url.to_owned(), commit: id });
        } else {
            let new = commit.parents.iter().filter(|parent| seen.insert(**parent));
            next.extend(new.map(|parent| (*parent, level + 1)));
        }
        commits.push((id, commit));
    }
    commits.sort_by_key(|(id, commit)| (Reverse(commit.time), *id));
    Ok((commits, cut))
}

/// Trees and blobs by the path that they are met at first.
#[derive(Default)]
struct Trees {
    seen: HashSet<ObjectId>,
    paths: HashMap<Vec<u8>, u32>,
    /// By path, in the order in which they are met.
    found: Vec<(u32, ObjectKind, ObjectId)>,
}

impl Trees {
    fn group(&mut self, path: &[u8]) -> u32 {
        if let Some(group) = self.paths.get(path) {
            return *group;
        }
        let group = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        self.paths.insert(path.to_vec(), group);
        group
    }

    fn add(&mut self, objects: &mut Objects, url: &str, tree: &ObjectId) -> Result<(), GitError> {
        let mut next = vec![(Vec::new(), *tree)];
        while let Some((path, id)) = next.pop() {
            if !self.seen.insert(id) {
                continue;
            }
            let group = self.group(&path);
            self.found.push((group, ObjectKind::Tree, id));
            let bytes = objects.read(&id, ObjectKind::Tree)?;
            let names = parse(&bytes).map_err(|reason| GitError::Object {
                url: url.to_owned(),
                id,
                reason,
            })?;
            for named in names {
                let mut below = path.clone();
                below.push(b'/');
                below.extend_from_slice(named.name);
                match named.mode {
                    Mode::Submodule => {}
                    Mode::Dir => next.push((below, named.id)),
                    Mode::File | Mode::Program | Mode::Link => {
                        if self.seen.insert(named.id) {
                            let group = self.group(&below);
                            self.found.push((group, ObjectKind::Blob, named.id));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Sorted by kind and path; the versions of one path stay in the order in which they were met.
    fn in_order(self) -> Vec<Found> {
        let mut names: Vec<(Vec<u8>, u32)> = self.paths.into_iter().collect();
        names.sort();
        let mut ranks = vec![0; names.len()];
        for (rank, (_, group)) in (0..).zip(&names) {
            ranks[*group as usize] = rank;
        }
        let found = self.found.into_iter();
        let mut found: Vec<Found> = found
            .map(|(group, kind, id)| Found { id, kind, group: ranks[group as usize] })
            .collect();
        found.sort_by_key(|one| (one.kind, one.group));
        found
    }
}
