//! Trees: what a commit has at which path. Nothing of a repository is believed: names that git
//! itself would not check out are errors, whoever wrote them.

use std::collections::{BTreeMap, BTreeSet};

use super::error::GitError;
use super::objects::{ObjectId, ObjectKind, Objects};
use crate::path::LayerPath;

/// Most paths of a tree.
const MOST: usize = 1_000_000;

/// What lies at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Dir,
    File,
    Program,
    Link,
    Submodule,
}

impl Mode {
    fn parse(octal: &[u8]) -> Option<Self> {
        Some(match octal {
            b"40000" | b"040000" => Mode::Dir,
            // group-writable files are what git wrote in its first weeks
            b"100644" | b"100664" => Mode::File,
            b"100755" => Mode::Program,
            b"120000" => Mode::Link,
            b"160000" => Mode::Submodule,
            _ => return None,
        })
    }
}

/// One name of a tree object.
pub(super) struct Named<'a> {
    pub name: &'a [u8],
    pub mode: Mode,
    pub id: ObjectId,
}

/// Parses a tree object: `MODE NAME\0ID`, repeated.
pub(super) fn parse(mut bytes: &[u8]) -> Result<Vec<Named<'_>>, String> {
    let mut found = Vec::new();
    let mut names = BTreeSet::new();
    while !bytes.is_empty() {
        let parts = (|| {
            let space = bytes.iter().position(|byte| *byte == b' ')?;
            let end = bytes.iter().position(|byte| *byte == 0)?;
            let id = bytes.get(end + 1..end + 21)?.try_into().ok()?;
            Some((bytes.get(..space)?, bytes.get(space + 1..end)?, ObjectId::from_bytes(id), end))
        })();
        let (mode, name, id, end) = parts.ok_or("is damaged")?;
        let shown = String::from_utf8_lossy(name);
        let mode = Mode::parse(mode)
            .ok_or_else(|| format!("has `{shown}` of mode {}", mode.escape_ascii()))?;
        let is_odd = name.is_empty() || matches!(name, b"." | b"..") || name.contains(&b'/');
        if is_odd || name.eq_ignore_ascii_case(b".git") {
            return Err(format!("has the name `{shown}`, which no checkout may make"));
        }
        if !names.insert(name) {
            return Err(format!("has the name `{shown}` twice"));
        }
        found.push(Named { name, mode, id });
        bytes = &bytes[end + 21..];
    }
    Ok(found)
}

/// What a commit says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    pub tree: ObjectId,
    pub parents: Vec<ObjectId>,
    /// When it was committed, in seconds since 1970; zero where that is not said.
    pub time: i64,
}

impl Commit {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut commit = None::<Commit>;
        for line in bytes.split(|byte| *byte == b'\n').take_while(|line| !line.is_empty()) {
            let Some(space) = line.iter().position(|byte| *byte == b' ') else { continue };
            let (word, rest) = (&line[..space], &line[space + 1..]);
            let id = || std::str::from_utf8(rest).ok()?.parse().ok();
            match (word, &mut commit) {
                (b"tree", None) => {
                    commit = Some(Commit { tree: id()?, parents: Vec::new(), time: 0 });
                }
                (b"parent", Some(commit)) => commit.parents.push(id()?),
                (b"committer", Some(commit)) => commit.time = time(rest).unwrap_or_default(),
                _ => {}
            }
        }
        commit
    }
}

/// `NAME <ADDRESS> SECONDS ZONE`.
fn time(line: &[u8]) -> Option<i64> {
    let after = &line[line.iter().rposition(|byte| *byte == b'>')? + 1..];
    std::str::from_utf8(after).ok()?.split_whitespace().next()?.parse().ok()
}

impl Objects {
    pub fn commit(&mut self, id: &ObjectId, url: &str) -> Result<Commit, GitError> {
        let bytes = self.read(id, ObjectKind::Commit)?;
        Commit::parse(&bytes).ok_or_else(|| GitError::Object {
            url: url.to_owned(),
            id: *id,
            reason: "is a damaged commit".to_owned(),
        })
    }

    /// Every path of a tree, directories included.
    pub fn walk(
        &mut self,
        tree: &ObjectId,
        url: &str,
    ) -> Result<BTreeMap<LayerPath, (Mode, ObjectId)>, GitError> {
        let mut paths = BTreeMap::new();
        let mut next = vec![(LayerPath::root(), *tree)];
        while let Some((dir, id)) = next.pop() {
            let bytes = self.read(&id, ObjectKind::Tree)?;
            let names = parse(&bytes).map_err(|reason| GitError::Tree {
                url: url.to_owned(),
                path: dir.to_string(),
                reason,
            })?;
            for named in names {
                let path = dir
                    .join(named.name)
                    .map_err(|source| GitError::Path { url: url.to_owned(), source })?;
                if named.mode == Mode::Dir {
                    next.push((path.clone(), named.id));
                }
                paths.insert(path, (named.mode, named.id));
            }
            // a few small trees that name one another could unfold to any number
            if paths.len() > MOST || next.len() > MOST {
                let reason = format!("has more than {MOST} paths");
                return Err(GitError::TooLarge { url: url.to_owned(), reason });
            }
        }
        Ok(paths)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(mode: &str, name: &str) -> Vec<u8> {
        [mode.as_bytes(), b" ", name.as_bytes(), b"\0", &[7; 20]].concat()
    }

    #[test]
    fn names_that_no_checkout_may_make_are_refused() {
        for name in ["..", ".", "", ".git", ".GIT", "a/b"] {
            assert!(parse(&entry("100644", name)).is_err(), "{name}");
        }
        let twice = [entry("100644", "a"), entry("40000", "a")].concat();
        assert!(parse(&twice).err().unwrap().contains("twice"));
        assert!(parse(&entry("100600", "a")).err().unwrap().contains("100600"));
        assert!(parse(b"100644 a\0short").is_err());
        assert_eq!(parse(&entry("100755", ".gitignore")).unwrap()[0].mode, Mode::Program);
    }

    #[test]
    fn a_commit_says_its_tree_its_parents_and_its_time() {
        let id = "0123456789abcdef0123456789abcdef01234567";
        let text = format!(
            "tree {id}\nparent {id}\nauthor A <a@b> 5 +0000\ncommitter > <c@d> 77 +0100\ngpgsig x\n tree {id}\n\nparent {id}\n"
        );
        let commit = Commit::parse(text.as_bytes()).unwrap();
        assert_eq!((commit.parents.len(), commit.time), (1, 77));
        assert_eq!(Commit::parse(b"parent x\n"), None);
    }
}
