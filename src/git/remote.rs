//! A repository somewhere else, and the bare one that its objects are fetched into.
//!
//! One commit is asked for alone and shallow, by its name where it is known; servers that refuse that,
//! and abbreviations, which only a whole history can tell apart, cost all branches and tags.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::Workshop;
use super::error::GitError;
use super::objects::ObjectId;
use super::program::Program;
use crate::decl::GitUrl;
use crate::fsx::IoAt;

/// What the fetched commit is called in the bare repository.
const NAME: &str = "refs/sbx/wanted";
const EVERYTHING: [&str; 2] = ["+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*"];
/// How everything is fetched.
const FETCH: [&str; 6] =
    ["fetch", "--progress", "--no-tags", "--no-recurse-submodules", "--force", "--refmap="];
/// How many files are asked for at once, on a command line.
const AT_ONCE: usize = 500;
/// How many names a message lists.
const LISTED: usize = 5;

/// Which commit is wanted, and how much of what is before it.
pub(super) struct Wanted<'a> {
    pub rev: &'a str,
    pub locked: Option<&'a ObjectId>,
    /// In commits; `None` for all.
    pub depth: Option<u32>,
    /// Whether files may be left out for now, if the server knows how.
    pub partial: bool,
}

/// A remote repository with its local bare one.
pub(super) struct Remote {
    pub url: GitUrl,
    pub program: Program,
}

/// Branches and tags of a repository: what each name stands for in the end.
type Refs = BTreeMap<String, String>;

impl Remote {
    /// Makes a bare repository called `name` in `home`. The address, which may hold a credential, goes
    /// into its configuration and onto no command line.
    pub fn open(
        home: &Path,
        name: &str,
        url: &GitUrl,
        workshop: &Workshop<'_>,
    ) -> Result<Self, GitError> {
        let dir = home.join(name);
        for below in ["objects", "refs"] {
            fs::create_dir_all(dir.join(below)).at("create", &dir)?;
        }
        let full = match url.is_path() {
            true => PathBuf::from(workshop.root).join(url.secret()).display().to_string(),
            false => url.secret().to_owned(),
        };
        let quoted = full.replace('\\', "\\\\").replace('"', "\\\"");
        let config = format!(
            "[core]\n\trepositoryformatversion = 0\n\tbare = true\n[remote \"origin\"]\n\turl = \"{quoted}\"\n"
        );
        let path = dir.join("config");
        fs::write(&path, "").at("write", &path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).at("set mode of", &path)?;
        fs::write(&path, config).at("write", &path)?;
        let head = dir.join("HEAD");
        fs::write(&head, "ref: refs/heads/none\n").at("write", &head)?;
        let program = Program { dir, url: url.to_string(), stall: workshop.stall };
        let url = full.parse().unwrap_or_else(|_| url.clone());
        Ok(Remote { url, program })
    }

    fn shown(&self) -> String {
        self.program.url.clone()
    }

    /// Fetches the commit that is wanted and answers its name.
    pub fn fetch(&self, wanted: &Wanted<'_>) -> Result<ObjectId, GitError> {
        if let Some(commit) = wanted.locked {
            return self.fetch_commit(commit, wanted);
        }
        if let Ok(commit) = wanted.rev.parse::<ObjectId>() {
            return self.fetch_commit(&commit, wanted);
        }
        if wanted.rev == "HEAD" || wanted.rev.starts_with("refs/") {
            self.narrow(wanted.rev, wanted)?;
            return self.peel(NAME, wanted.rev);
        }
        let refs = self.refs()?;
        let rev = wanted.rev;
        let found = ["refs/tags/", "refs/heads/"].map(|space| format!("{space}{rev}"));
        if let Some(name) = found.iter().find(|name| refs.contains_key(*name)) {
            self.narrow(name, wanted)?;
            return self.peel(NAME, rev);
        }
        let abbreviated = rev.len() >= 4 && rev.bytes().all(|c| c.is_ascii_hexdigit());
        if abbreviated {
            self.run(&EVERYTHING, None, wanted.partial)?;
            let spec = format!("{rev}^{{commit}}");
            let said =
                self.program.try_run(&["rev-parse", "--verify", "--end-of-options", &spec], b"")?;
            if let Ok(id) = String::from_utf8_lossy(&said.stdout).trim().parse() {
                return Ok(id);
            }
            if said.stderr.contains("ambiguous") {
                let (url, rev) = (self.shown(), rev.to_owned());
                let what = "the beginning of several objects".to_owned();
                return Err(GitError::NotCommit { url, rev, what });
            }
        }
        let (url, near) = (self.shown(), near(&refs, rev));
        Err(GitError::NoRevision { url, rev: rev.to_owned(), near })
    }

    /// Fetches a commit by its name.
    fn fetch_commit(&self, commit: &ObjectId, wanted: &Wanted<'_>) -> Result<ObjectId, GitError> {
        let name = commit.to_string();
        match self.narrow(&name, wanted) {
            Ok(()) => return self.peel(NAME, &name),
            Err(error @ (GitError::Missing | GitError::Stalled { .. } | GitError::Io(_))) => {
                return Err(error);
            }
            // refused, or not there; a repository that cannot be reached fails again below
            Err(_) => {}
        }
        let refs = self.refs()?;
        self.run(&EVERYTHING, None, wanted.partial)?;
        let probe = self.program.try_run(&["cat-file", "-e", &name], b"")?;
        if probe.status.success() {
            return self.peel(&name, &name);
        }
        let moved = ["refs/tags/", "refs/heads/"].iter().find_map(|space| {
            refs.get(&format!("{space}{}", wanted.rev))
                .map(|at| format!(": `{}` is at {at} now", wanted.rev))
        });
        let near = moved.unwrap_or_else(|| ends(&refs));
        Err(match wanted.locked {
            Some(_) => GitError::NoCommit { url: self.shown(), commit: name, near },
            None => GitError::NoRevision { url: self.shown(), rev: name, near },
        })
    }

    /// Fetches one thing under the name that is looked for.
    fn narrow(&self, what: &str, wanted: &Wanted<'_>) -> Result<(), GitError> {
        let spec = format!("+{what}:{NAME}");
        match (self.run(&[&spec], wanted.depth, wanted.partial), wanted.depth) {
            // old ways of serving cannot leave anything out
            (Err(GitError::Failed { reason, .. }), Some(_)) if reason.contains("shallow") => {
                self.run(&[&spec], None, false)
            }
            (result, _) => result,
        }
    }

    fn run(&self, specs: &[&str], depth: Option<u32>, partial: bool) -> Result<(), GitError> {
        let depth = depth.map(|depth| format!("--depth={depth}"));
        let mut arguments = FETCH.to_vec();
        arguments.extend(depth.as_deref());
        arguments.extend(partial.then_some("--filter=blob:none"));
        arguments.push("origin");
        arguments.extend(specs);
        self.program.run(&arguments, b"").map(drop)
    }

    /// Fetches those of some files that were left out.
    pub fn complete(&self, files: &[ObjectId]) -> Result<(), GitError> {
        let asked: String = files.iter().map(|id| format!("{id}\n")).collect();
        let answer = self.program.run(&["cat-file", "--batch-check"], asked.as_bytes())?;
        let answer = String::from_utf8_lossy(&answer);
        let missing: Vec<&str> =
            answer.lines().filter_map(|line| line.strip_suffix(" missing")).collect();
        for some in missing.chunks(AT_ONCE) {
            // a server that hears what is here would leave out all that this reaches
            let mut arguments = vec!["-c", "fetch.negotiationAlgorithm=noop"];
            arguments.extend(FETCH.iter().chain(&["--filter=blob:none", "origin"]));
            arguments.extend(some);
            self.program.run(&arguments, b"")?;
        }
        Ok(())
    }

    /// Follows tags to what they are of.
    fn peel(&self, name: &str, rev: &str) -> Result<ObjectId, GitError> {
        let spec = format!("{name}^{{commit}}");
        let said =
            self.program.try_run(&["rev-parse", "--verify", "--end-of-options", &spec], b"")?;
        if let Ok(id) = String::from_utf8_lossy(&said.stdout).trim().parse() {
            return Ok(id);
        }
        let kind = self.program.run(&["cat-file", "-t", name], b"")?;
        let what = format!("a {}", String::from_utf8_lossy(&kind).trim());
        Err(GitError::NotCommit { url: self.shown(), rev: rev.to_owned(), what })
    }

    fn refs(&self) -> Result<Refs, GitError> {
        let listed = self.program.run(&["ls-remote", "--heads", "--tags", "origin"], b"")?;
        let text = String::from_utf8_lossy(&listed);
        let mut refs = Refs::new();
        for line in text.lines() {
            let Some((id, name)) = line.split_once('\t') else { continue };
            // of an annotated tag, the commit comes second
            let name = name.strip_suffix("^{}").unwrap_or(name);
            refs.insert(name.to_owned(), id.to_owned());
        }
        Ok(refs)
    }

    /// Commits whose parents were not fetched.
    pub fn shallow(&self) -> Result<Vec<ObjectId>, GitError> {
        let path = self.program.dir.join("shallow");
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().filter_map(|line| line.trim().parse().ok()).collect()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(Err::<(), _>(error).at("read", &path).unwrap_err().into()),
        }
    }
}

fn short(name: &str) -> &str {
    name.trim_start_matches("refs/").split_once('/').map_or(name, |(_, short)| short)
}

/// Names like one that is not there.
fn near(refs: &Refs, rev: &str) -> String {
    let mut names: Vec<&str> = refs.keys().map(|name| short(name)).collect();
    names.sort_by_key(|name| (strsim::osa_distance(name, rev), *name));
    names.dedup();
    names.truncate(LISTED);
    match names.is_empty() {
        true => ": it has no branches and tags at all".to_owned(),
        false => format!(": near it are `{}`", names.join("`, `")),
    }
}

/// Where the branches are.
fn ends(refs: &Refs) -> String {
    let heads = refs.iter().filter(|(name, _)| name.starts_with("refs/heads/")).take(LISTED);
    let heads: Vec<String> =
        heads.map(|(name, id)| format!("`{}` is at {id}", short(name))).collect();
    match heads.is_empty() {
        true => ": it has no branches".to_owned(),
        false => format!(": {}", heads.join(", ")),
    }
}
