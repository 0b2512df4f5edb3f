//! A room for one program: the build sandbox with the servers that are all its network.
//!
//! What a program could tell time, place and machine from is the same everywhere: host name, time
//! zone, locale, umask, and an environment that nothing of the caller's is in. Names resolve to
//! nothing, and those that were asked for are known afterwards.

use std::collections::BTreeSet;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use super::view::View;
use crate::entry::EPOCH;
use crate::fsx::{IoAt, PathIo, remove_tree};
use crate::jail::{Bind, Jail, JailError, Outcome, SecretFile, Socket, Spec, Terminal};
use crate::path::LayerPath;
use crate::serve::{NAMES_PORT, PORT, Serving, Site, answer_names, serve};

/// Where programs are looked for.
pub(super) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Files that make names resolve as they should, which is not at all; gone afterwards.
const GUARDS: [(&str, &str); 2] = [
    ("etc/hosts", "127.0.0.1 localhost sbx\n::1 localhost\n"),
    ("etc/resolv.conf", "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"),
];

/// Trees to work over, and a directory to work in.
pub(super) struct Room<'a> {
    pub jail: &'a Jail,
    /// Bottom first; may be none.
    pub lowers: &'a [PathBuf],
    /// Gets `upper`, `work`, `root` and more.
    pub scratch: &'a Path,
}

/// What is to be run.
#[derive(Clone, Debug)]
pub(super) struct Visit {
    pub argv: Vec<String>,
    /// Goes before the room's own.
    pub env: Vec<(String, String)>,
    pub cwd: String,
    pub binds: Vec<Bind>,
    pub timeout: Option<Duration>,
    pub secrets: Vec<SecretFile>,
}

/// How it went.
#[derive(Clone, Debug)]
pub(super) struct Stay {
    pub outcome: Outcome,
    /// Names that it tried to resolve.
    pub names: BTreeSet<String>,
}

impl Room<'_> {
    /// Where the delta gathers.
    pub(super) fn upper(&self) -> PathBuf {
        self.scratch.join("upper")
    }

    /// Makes the directories that a visit needs. Once.
    pub(super) fn prepare(&self) -> Result<(), PathIo> {
        for dir in ["upper", "work", "root", "none"] {
            let path = self.scratch.join(dir);
            fs::create_dir(&path).at("create", &path)?;
        }
        Ok(())
    }

    /// Runs a program to its end. `site` answers what it asks of the loopback server.
    pub(super) fn visit(
        &self,
        visit: &Visit,
        site: &dyn Site,
        line: &mut dyn FnMut(&str),
    ) -> Result<Stay, VisitError> {
        self.serving(visit, site, |spec, open| self.jail.run_serving(spec, open, line))
    }

    /// Likewise, with a terminal that somebody sits at.
    pub(super) fn attend(
        &self,
        visit: &Visit,
        site: &dyn Site,
        terminal: &Terminal,
    ) -> Result<Stay, VisitError> {
        self.serving(visit, site, |spec, open| self.jail.run_attended(spec, open, terminal))
    }

    fn serving(
        &self,
        visit: &Visit,
        site: &dyn Site,
        run: impl FnOnce(&Spec, Open<'_>) -> Result<Outcome, JailError>,
    ) -> Result<Stay, VisitError> {
        let spec = self.spec(visit);
        let laid = self.lay_guards(&View::new(&spec.lowers))?;
        let names = Mutex::new(BTreeSet::new());
        let outcome = std::thread::scope(|scope| {
            let open = |sockets: Vec<OwnedFd>| -> std::io::Result<_> {
                let [http, dns]: [OwnedFd; 2] =
                    sockets.try_into().map_err(|_| std::io::ErrorKind::InvalidData)?;
                let http = serve(scope, TcpListener::from(http), site)?;
                Ok([http, answer_names(scope, UdpSocket::from(dns), &names)?])
            };
            run(&spec, Box::new(open))
        })?;
        for name in laid {
            remove_tree(&self.upper().join(name))?;
        }
        let names = names.into_inner().unwrap_or_else(PoisonError::into_inner);
        Ok(Stay { outcome, names })
    }

    pub(super) fn spec(&self, visit: &Visit) -> Spec {
        let mut lowers = self.lowers.to_vec();
        if lowers.is_empty() {
            lowers.push(self.scratch.join("none"));
        }
        let mut env = visit.env.clone();
        for (name, value) in usual() {
            if !env.iter().any(|(known, _)| *known == name) {
                env.push((name, value));
            }
        }
        Spec {
            lowers,
            upper: self.upper(),
            work: self.scratch.join("work"),
            root: self.scratch.join("root"),
            binds: visit.binds.clone(),
            renames: Vec::new(),
            argv: visit.argv.clone(),
            env,
            cwd: visit.cwd.clone(),
            timeout: visit.timeout,
            secrets: visit.secrets.clone(),
            terminal: false,
            sockets: vec![Socket::Tcp(PORT), Socket::Udp(NAMES_PORT)],
        }
    }

    /// Without an `/etc` below there is nothing to guard: a C library that finds no configuration asks
    /// this machine, too.
    fn lay_guards(&self, below: &View) -> Result<Vec<&'static str>, PathIo> {
        let etc = LayerPath::parse_absolute("/etc").ok().and_then(|etc| below.find(&etc));
        let Some(etc) = etc.filter(|etc| etc.is_dir() && !etc.is_symlink()) else {
            return Ok(Vec::new());
        };
        let dir = self.upper().join("etc");
        if !dir.exists() {
            fs::create_dir(&dir).at("create", &dir)?;
            let meta = fs::metadata(&etc).at("stat", &etc)?;
            fs::set_permissions(&dir, meta.permissions()).at("set mode of", &dir)?;
        }
        for (name, text) in GUARDS {
            let path = self.upper().join(name);
            remove_tree(&path)?;
            fs::write(&path, text).at("write", &path)?;
        }
        Ok(GUARDS.map(|(name, _)| name).to_vec())
    }
}

/// Takes a sandbox's sockets, and serves them as long as what it answers is kept.
type Open<'a> = Box<dyn FnOnce(Vec<OwnedFd>) -> std::io::Result<[Serving; 2]> + 'a>;

/// Characters of a line that are shown.
const SHOWN: usize = 1000;

/// A line as people may be shown it: what a program says must not move their cursor, clear their
/// screen or retitle their window, and no line is longer than a screen.
pub(super) fn printable(line: &str) -> String {
    let mut shown = String::new();
    let mut count = 0;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        if count == SHOWN {
            return shown + "…";
        }
        // a sequence of a terminal's ends with a letter (ECMA-48, control sequences)
        if c == '\u{1b}' && chars.next_if_eq(&'[').is_some() {
            while chars.next_if(|c| !('@'..='~').contains(c)).is_some() {}
            chars.next();
        } else if c == '\t' || !c.is_control() {
            shown.push(c);
            count += 1;
        }
    }
    shown
}

/// The environment that every program starts with.
fn usual() -> impl Iterator<Item = (String, String)> {
    let fixed = [
        ("PATH", PATH),
        ("HOME", "/root"),
        ("USER", "root"),
        ("LOGNAME", "root"),
        ("SHELL", "/bin/sh"),
        ("TERM", "dumb"),
        ("LANG", "C.UTF-8"),
        ("LC_ALL", "C.UTF-8"),
        ("TZ", "UTC"),
        ("CI", "1"),
        // order of sets and dictionaries would else be drawn by lot
        ("PYTHONHASHSEED", "0"),
    ];
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let epoch = ("SOURCE_DATE_EPOCH".to_owned(), EPOCH.to_string());
    fixed.map(owned).into_iter().chain([epoch])
}

/// Why a program could not be run.
#[derive(Debug, thiserror::Error)]
pub enum VisitError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Jail(#[from] JailError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_words_are_shown_and_its_orders_to_the_terminal_are_not() {
        assert_eq!(printable("\u{1b}[31mred\u{1b}[0m\tplain"), "red\tplain");
        assert_eq!(printable("\u{1b}]0;title\u{7}\rback\u{8}\u{9b}2J"), "]0;titleback2J");
        assert_eq!(printable("grüße\u{1b}[1"), "grüße");
        assert_eq!(printable(&"ü".repeat(SHOWN)), "ü".repeat(SHOWN));
        assert_eq!(printable(&"ü".repeat(1 << 14)).chars().count(), SHOWN + 1);
    }
}
