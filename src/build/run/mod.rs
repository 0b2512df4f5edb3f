//! Commands as steps: run in a room over what they see, their traces captured as a delta.
//!
//! A step has no network. What it asks of the loopback server or of a name server is answered from
//! the lock or not at all, and a failure says what was reached for. Everything that would tell when,
//! where and by whom it was run is the same everywhere or removed afterwards; a program that writes
//! chance into its files is caught by building twice, not here.

mod scrub;
mod secret;

pub use self::secret::Vault;

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::secret::{Needles, Scan, SecretError};
use super::capture::{CaptureError, capture};
use super::listing::Listing;
use super::log::Log;
use super::room::{Room, Stay, Visit, VisitError, printable};
use super::view::View;
use crate::blame::Blame;
use crate::decl::Leftover;
use crate::entry::{Claim, Kind};
use crate::fsx::{IoAt, PathIo};
use crate::jail::{Bind, Jail, JailError, Terminal};
use crate::lock::Pin;
use crate::path::LayerPath;
use crate::plan::RunWork;
use crate::serve::{Shelf, Shelved, Shelving, address, python_index};
use crate::store::Store;

/// Debian's database, which is one for all layers of an image.
const DPKG: &str = "/var/lib/dpkg";

/// The attribute that gives a program rights as its mode's setuid bit does.
const CAPABILITY: &[u8] = b"security.capability";

/// Lines of output that an error shows.
const SHOWN: usize = 25;

/// What every Debian has a description of.
const TERMINAL: &str = "xterm-256color";

/// What happens when a command fails.
#[derive(Clone, Copy, Default)]
pub enum OnFailure<'a> {
    #[default]
    End,
    /// A shell is opened where it failed, before the build ends.
    Shell(&'a dyn Seat),
}

/// Somebody who may sit at a terminal.
pub trait Seat: Sync {
    /// The terminal, at which nothing else is shown from now on; `None` where there is none.
    fn take(&self) -> Option<Terminal>;
}

/// A command to be run.
pub struct RunJob<'a> {
    pub work: &'a RunWork,
    /// Trees that it sees, bottom first.
    pub lowers: &'a [PathBuf],
    pub jail: &'a Jail,
    pub vault: &'a dyn Vault,
    /// Answers what it asks of the loopback server.
    pub shelf: &'a Shelf,
    /// An empty directory to work in; `upper` of it is the finished tree.
    pub scratch: &'a Path,
    /// Where the output is kept.
    pub log: &'a Path,
    pub on_failure: OnFailure<'a>,
    pub dress: Dress,
}

/// What a command is shown beside the layers that it sees.
pub struct Dress {
    pub binds: Vec<Bind>,
    /// Works on what it left, once it is done.
    pub finish: Finish,
}

/// Given the upper directory of a step.
pub type Finish = Box<dyn Fn(&Path) -> Result<(), PathIo>>;

impl Default for Dress {
    fn default() -> Self {
        Dress { binds: Vec::new(), finish: Box::new(|_| Ok(())) }
    }
}

/// Why a command gave no layer.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Visit(#[from] VisitError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error(
        "`{command}` ended with {reason}{}{}\nthe output is in {}",
        indented(tail), reached(asked), log.display()
    )]
    Failed {
        command: String,
        reason: String,
        /// The last lines of its output.
        tail: Vec<String>,
        /// What it asked of a network: names, packages.
        asked: Vec<String>,
        log: PathBuf,
    },
    #[error("`{command}` cannot be started: {reason}")]
    Start { command: String, reason: String },
    #[error("`{command}` leaves {path}, {what}")]
    Leftover { command: String, path: LayerPath, what: &'static str, allow: Option<&'static str> },
    #[error("`{command}` changes {path}, which {why}")]
    Denied { command: String, path: LayerPath, why: &'static str },
}

fn indented(lines: &[String]) -> String {
    let start = if lines.is_empty() { "" } else { ":" };
    let lines = lines.iter().map(|line| format!("\n  {line}"));
    std::iter::once(start.to_owned()).chain(lines).collect()
}

/// How many of the things that were asked for an error names.
const NAMED: usize = 8;

fn reached(asked: &[String]) -> String {
    if asked.is_empty() {
        return String::new();
    }
    let more = asked.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let named = asked[..asked.len().min(NAMED)].join(", ");
    format!("\nit reached for the network ({named}{more}), and a step has none")
}

impl RunError {
    pub fn blame(&self) -> Blame {
        match self {
            RunError::Io(_) | RunError::Visit(_) => Blame::World,
            RunError::Capture(error) => error.blame(),
            RunError::Secret(_)
            | RunError::Start { .. }
            | RunError::Failed { .. }
            | RunError::Leftover { .. }
            | RunError::Denied { .. } => Blame::Input,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            RunError::Failed { asked, .. } if !asked.is_empty() => {
                Some("declare what it fetches (`npm`, `venv`, `git`, `archive`), so that it is locked and lies below the step".to_owned())
            }
            RunError::Failed { .. } => {
                Some("`sbx build --shell-on-failure` opens a shell where it failed".to_owned())
            }
            RunError::Leftover { allow, .. } => {
                allow.map(|allow| format!("if it is meant, say `allow {allow:?}` in `run`"))
            }
            RunError::Visit(VisitError::Jail(error)) => error.help().map(str::to_owned),
            _ => None,
        }
    }
}

impl RunJob<'_> {
    /// Runs the command and writes its delta; `line` hears what it says.
    pub fn run(
        &self,
        tar: &mut dyn Write,
        line: &mut dyn FnMut(&str),
    ) -> Result<Listing, RunError> {
        let room = Room { jail: self.jail, lowers: self.lowers, scratch: self.scratch };
        room.prepare()?;
        let below = View::new(self.lowers);
        let secrets = secret::read(&self.work.secrets, self.vault)?;
        let needles = Needles::of(&secrets);
        let visit = Visit {
            argv: vec![self.work.shell.clone(), "-c".to_owned(), self.work.command.clone()],
            env: environment(self.work, &below),
            cwd: self.work.cwd.clone(),
            binds: self.dress.binds.clone(),
            timeout: self.work.timeout.map(|seconds| Duration::from_secs(seconds.into())),
            secrets,
        };
        self.visit(&room, &visit, &needles, line)?;
        let upper = room.upper();
        (self.dress.finish)(&upper)?;
        scrub::scrub(&upper)?;
        self.check_sockets(&upper, &LayerPath::root())?;
        let mut scan = Scan::new(tar, &needles);
        let listing = capture(&upper, &below, &mut scan)?;
        if let Some(name) = scan.found() {
            return Err(secret::locate(&upper, &listing, &needles, name)?.into());
        }
        self.check(&listing)?;
        Ok(listing)
    }

    fn visit(
        &self,
        room: &Room<'_>,
        visit: &Visit,
        needles: &Needles,
        line: &mut dyn FnMut(&str),
    ) -> Result<(), RunError> {
        let mut log = Log::create(self.log)?;
        let mut hear = |text: &str| {
            let text = needles.hide(text);
            log.add(&text);
            line(&printable(&text));
        };
        let stay = room.visit(visit, self.shelf, &mut hear).map_err(|error| self.explain(error))?;
        for asked in self.asked(&stay) {
            hear(&format!("sbx: it asked for {asked}, and a step has no network"));
        }
        match stay.outcome.success() {
            true => Ok(()),
            false => {
                self.open_shell(room, visit)?;
                Err(self.failure(&stay, needles))
            }
        }
    }

    /// Where the command failed, with all that it saw and left.
    fn open_shell(&self, room: &Room<'_>, visit: &Visit) -> Result<(), RunError> {
        let OnFailure::Shell(seat) = self.on_failure else { return Ok(()) };
        let Some(terminal) = seat.take() else { return Ok(()) };
        let mut shell = visit.clone();
        shell.argv = vec![self.work.shell.clone(), "-i".to_owned()];
        shell.env.push(("TERM".to_owned(), TERMINAL.to_owned()));
        shell.timeout = None;
        room.attend(&shell, self.shelf, &terminal)?;
        Ok(())
    }

    /// What the declaration is to blame for, of what a sandbox cannot do.
    fn explain(&self, error: VisitError) -> RunError {
        match error {
            VisitError::Jail(JailError::Setup { step, reason, .. })
                if step.starts_with("change to `") || step.starts_with("start `") =>
            {
                RunError::Start { command: self.command(), reason: format!("{step}: {reason}") }
            }
            error => error.into(),
        }
    }

    fn failure(&self, stay: &Stay, needles: &Needles) -> RunError {
        let tail = &stay.outcome.tail;
        let skip = tail.len().saturating_sub(SHOWN);
        RunError::Failed {
            command: self.command(),
            reason: stay.outcome.reason(),
            tail: tail.iter().skip(skip).map(|line| printable(&needles.hide(line))).collect(),
            asked: self.asked(stay),
            log: self.log.to_owned(),
        }
    }

    /// What it wanted of a network.
    fn asked(&self, stay: &Stay) -> Vec<String> {
        let names = stay.names.iter().map(|name| format!("`{name}`"));
        let addresses = match stay.outcome.unrouted {
            0 => None,
            1 => Some("an address of another machine".to_owned()),
            times => Some(format!("addresses of other machines, {times} times")),
        };
        names.chain(self.shelf.missed()).chain(addresses).collect()
    }

    /// The command as an error shows it.
    fn command(&self) -> String {
        let line = self.work.command.trim();
        let first = line.lines().next().unwrap_or_default();
        if first == line { line.to_owned() } else { format!("{first} …") }
    }

    /// Sockets are in no tar, so they are looked for where they are.
    fn check_sockets(&self, upper: &Path, dir: &LayerPath) -> Result<(), RunError> {
        if self.work.allow.contains(&Leftover::Socket) {
            return Ok(());
        }
        let full = upper.join(dir.as_path());
        for entry in fs::read_dir(&full).at("list", &full)? {
            let entry = entry.at("list", &full)?;
            let kind = entry.file_type().at("stat", entry.path())?;
            let name = entry.file_name();
            let path = dir
                .join(std::os::unix::ffi::OsStrExt::as_bytes(name.as_os_str()))
                .map_err(CaptureError::from)?;
            if kind.is_dir() {
                self.check_sockets(upper, &path)?;
            } else if kind.is_socket() {
                let what = "a socket that nobody listens to any more";
                return Err(self.leftover(path, what, Some("socket")));
            }
        }
        Ok(())
    }

    fn leftover(
        &self,
        path: LayerPath,
        what: &'static str,
        allow: Option<&'static str>,
    ) -> RunError {
        RunError::Leftover { command: self.command(), path, what, allow }
    }

    fn check(&self, listing: &Listing) -> Result<(), RunError> {
        let own = self.work.deny.iter().map(|path| (path.as_str(), "its `deny` forbids"));
        let dpkg = (DPKG, "belongs to `debian` recipes");
        let denied: Vec<(LayerPath, &str)> = own
            .chain([dpkg])
            .filter_map(|(path, why)| Some((LayerPath::parse_absolute(path).ok()?, why)))
            .collect();
        for entry in &listing.entries {
            if entry.kind == Kind::Dir(Claim::Implied) {
                continue;
            }
            let path = entry.path.clone();
            if let Some((_, why)) = denied.iter().find(|(above, _)| path.starts_with(above)) {
                return Err(RunError::Denied { command: self.command(), path, why });
            }
            let what = match entry.kind {
                Kind::File(_) if entry.meta.mode & 0o6000 != 0 => {
                    "which runs with its owner's or its group's rights"
                }
                Kind::File(_) if entry.meta.xattrs.contains_key(CAPABILITY) => {
                    "which runs with capabilities of its own"
                }
                _ => continue,
            };
            if !self.work.allow.contains(&Leftover::Setuid) {
                return Err(self.leftover(path, what, Some("setuid")));
            }
        }
        Ok(())
    }
}

/// A pin as a step finds it on its shelf; `None` for what no registry has.
pub(super) fn shelve(pin: &Pin, store: &Store) -> Option<Shelved> {
    match pin {
        Pin::Archive(_)
        | Pin::Base(_)
        | Pin::BaseLayer(_)
        | Pin::BasePart(_)
        | Pin::Git(_)
        | Pin::Laid(_)
        | Pin::NpmPart(_)
        | Pin::Python(_) => None,
        // a tree of git's is no tarball
        Pin::Npm(pin) if pin.is_git() => None,
        Pin::Npm(pin) => Some(Shelved {
            kind: Shelving::Npm,
            name: pin.name.to_string(),
            version: pin.version.to_string(),
            integrity: pin.integrity,
            file_name: String::new(),
            path: store.source_path(&pin.integrity),
        }),
        Pin::Wheel(pin) => Some(Shelved {
            kind: Shelving::Wheel,
            name: pin.name.to_string(),
            version: pin.version.to_string(),
            integrity: pin.digest.into(),
            file_name: pin.file_name.to_string(),
            path: store.blob_path(&pin.digest),
        }),
    }
}

/// Caches go where they are not kept; nothing calls home, nothing waits for a network.
const QUIET: &[(&str, &str)] = &[
    ("PYTHONDONTWRITEBYTECODE", "1"),
    ("PIP_DISABLE_PIP_VERSION_CHECK", "1"),
    ("PIP_NO_CACHE_DIR", "1"),
    ("PIP_RETRIES", "0"),
    ("UV_CACHE_DIR", "/tmp/uv"),
    ("UV_HTTP_RETRIES", "0"),
    ("npm_config_audit", "false"),
    ("npm_config_cache", "/tmp/npm"),
    ("npm_config_fetch_retries", "0"),
    ("npm_config_fund", "false"),
    // the pnpm that is there is the one that runs, whatever a project would rather fetch
    ("npm_config_manage_package_manager_versions", "false"),
    // wherever a lock says that a tarball is, it is on the shelf
    ("npm_config_replace_registry_host", "always"),
    ("npm_config_update_notifier", "false"),
    // pnpm takes workspaces in the order in which it has read their settings, and hoists by it: with
    // several threads that read, one build in ten hoists another version
    ("UV_THREADPOOL_SIZE", "1"),
];

/// Where Node's headers may be.
const PREFIXES: [&str; 2] = ["/usr/local", "/usr"];

fn environment(work: &RunWork, below: &View) -> Vec<(String, String)> {
    let mut env = work.env.clone();
    let mut usual = |name: &str, value: &str| {
        if !env.iter().any(|(known, _)| known == name) {
            env.push((name.to_owned(), value.to_owned()));
        }
    };
    for (name, value) in QUIET {
        usual(name, value);
    }
    for name in ["PIP_INDEX_URL", "UV_DEFAULT_INDEX"] {
        usual(name, &python_index());
    }
    usual("npm_config_registry", &format!("{}/", address()));
    // add-ons are compiled against the headers of the image's own Node, which lie on its disk
    let headers = |prefix: &&&str| {
        let header = LayerPath::parse_absolute(&format!("{prefix}/include/node/node.h"));
        header.is_ok_and(|header| below.resolve(&header).is_some())
    };
    if let Some(prefix) = PREFIXES.iter().find(headers) {
        usual("npm_config_nodedir", prefix);
    }
    env
}
