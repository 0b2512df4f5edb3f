//! An ordinary user's way: a user namespace with subordinate ids (user_namespaces(7), newuidmap(1)).
//!
//! The program starts itself anew in the namespace, where it is uid 0 over ids that are its user's to
//! give; files get other owners, overlays are mounted and dpkg runs as if by root. The process
//! outside only waits, passes signals on and answers with the inner one's status.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, ExitStatus};

use rustix::io::FdFlags;
use rustix::mount::MountPropagationFlags;
use rustix::pipe::PipeFlags;
use rustix::thread::UnshareFlags;

use super::signals::Relay;
use super::subordinate::{GROUPS, Kind, NEEDED, Range, USERS, find_range, mend_range, user_name};
use crate::blame::Blame;

/// Carries to the child the numbers of two pipe ends and its parent's process id.
const MARK: &str = "SBX_USER_NAMESPACE";
/// What the child says when a step succeeded; all else is why it did not.
const READY: &str = "ready";

/// How owners in trees map to the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdMap {
    /// As they are.
    Identity,
    /// Root is this user, others begin at the subordinate id.
    Subordinate { user: u32, first: u32 },
}

impl IdMap {
    /// The map that this process lives under.
    pub fn current() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/uid_map")?))
    }

    fn parse(map: &str) -> Self {
        let rows: Vec<Vec<u32>> = map
            .lines()
            .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
            .collect();
        match rows.as_slice() {
            [first, second, ..] if first.len() == 3 && second.len() == 3 => {
                IdMap::Subordinate { user: first[1], first: second[1] }
            }
            [only] if only.len() == 3 && only[1] != 0 => {
                IdMap::Subordinate { user: only[1], first: only[1] }
            }
            _ => IdMap::Identity,
        }
    }

    /// The name of its directory of trees.
    pub fn name(self) -> String {
        match self {
            IdMap::Identity => "0".to_owned(),
            IdMap::Subordinate { user, first } => format!("u{user}-{first}"),
        }
    }
}

/// Why the namespace cannot be entered, with the command that mends it.
#[derive(Debug, thiserror::Error)]
pub enum UserNamespaceError {
    #[error("this user has fewer than {NEEDED} subordinate ids in `{file}`")]
    NoRange { file: &'static str, mend: String },
    #[error("`{tool}` cannot be run: {source}")]
    Tool { tool: &'static str, source: io::Error, mend: String },
    #[error("`{tool}` refuses: {message}")]
    Refused { tool: &'static str, message: String, mend: String },
    #[error("a user namespace cannot be made: {reason}")]
    Forbidden { reason: String, mend: String },
    #[error("the program cannot be started anew: {0}")]
    Start(io::Error),
}

impl UserNamespaceError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }

    /// The one command that mends it.
    pub fn help(&self) -> Option<&str> {
        match self {
            UserNamespaceError::NoRange { mend, .. }
            | UserNamespaceError::Tool { mend, .. }
            | UserNamespaceError::Refused { mend, .. }
            | UserNamespaceError::Forbidden { mend, .. } => Some(mend),
            UserNamespaceError::Start(_) => None,
        }
    }
}

pub(super) const MEND_TOOL: &str = "run `sudo apt-get install uidmap`";
/// A newuidmap that is there and may not: it lost its setuid bit or its capabilities on the way.
const MEND_RIGHTS: &str = "run `sudo chmod u+s /usr/bin/newuidmap /usr/bin/newgidmap`";

/// Starts `program` with `arguments` anew in a user namespace and waits for its end. The program is
/// to call [`intercept`](super::intercept) first of all. To be called on a thread that lasts, best
/// before there are others: the child is killed when it ends, and signals are taken by it alone.
pub fn run_in_user_namespace(
    program: &Path,
    arguments: &[std::ffi::OsString],
) -> Result<ExitStatus, UserNamespaceError> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let name = user_name(uid);
    let range = |kind: Kind| {
        find_range(kind, uid, &name)
            .filter(|range| range.count >= NEEDED)
            .ok_or_else(|| UserNamespaceError::NoRange { file: kind.file, mend: mend_range(&name) })
    };
    let (uids, gids) = (range(USERS)?, range(GROUPS)?);
    let relay = Relay::begin();
    let (mut child, talk) = start(program, arguments, &relay).map_err(UserNamespaceError::Start)?;
    let pid = child.id();
    let entered = talk
        .hear()
        .map_err(super::probe::forbidden)
        .and_then(|()| write_map("newuidmap", pid, uid, uids))
        .and_then(|()| write_map("newgidmap", pid, gid, gids))
        .and_then(|()| talk.go_on().map_err(super::probe::forbidden));
    // a child that waits for its maps ends when nobody is left to tell it of them
    drop(talk);
    match entered {
        Ok(()) => relay.wait(&mut child).map_err(UserNamespaceError::Start),
        Err(error) => {
            child.wait().map_err(UserNamespaceError::Start)?;
            Err(error)
        }
    }
}

/// The parent's ends of two pipes.
struct Talk {
    hear: OwnedFd,
    tell: OwnedFd,
}

impl Talk {
    /// Whether the child's next step succeeded; why not, if it did not.
    fn hear(&self) -> Result<(), String> {
        let mut bytes = [0; 256];
        let n = rustix::io::read(&self.hear, &mut bytes).unwrap_or(0);
        match String::from_utf8_lossy(&bytes[..n]).as_ref() {
            READY => Ok(()),
            "" => Err("the child ended at once".to_owned()),
            reason => Err(reason.to_owned()),
        }
    }

    fn go_on(&self) -> Result<(), String> {
        // a child that is gone says nothing more
        rustix::io::write(&self.tell, b"g").map(drop).unwrap_or_default();
        self.hear()
    }
}

fn start(
    program: &Path,
    arguments: &[std::ffi::OsString],
    relay: &Relay,
) -> io::Result<(Child, Talk)> {
    let (hear, answer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    let (order, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    for end in [&answer, &order] {
        rustix::io::fcntl_setfd(end, FdFlags::empty())?;
    }
    let mark = format!("{} {} {}", answer.as_raw_fd(), order.as_raw_fd(), std::process::id());
    let mut command = Command::new(program);
    relay.spare(&mut command);
    let child = command.args(arguments).env(MARK, mark).spawn()?;
    Ok((child, Talk { hear, tell }))
}

fn write_map(
    tool: &'static str,
    pid: u32,
    own: u32,
    Range { first, count }: Range,
) -> Result<(), UserNamespaceError> {
    let numbers = [pid, 0, own, 1, 1, first, count.min(NEEDED)];
    let output = Command::new(tool)
        .args(numbers.map(|number| number.to_string()))
        .output()
        .map_err(|source| UserNamespaceError::Tool { tool, source, mend: MEND_TOOL.to_owned() })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(UserNamespaceError::Refused { tool, message, mend: MEND_RIGHTS.to_owned() })
}

/// In a process that was started for it: makes the namespace, waits for its maps.
pub(super) fn finish_entering() {
    let Some(mark) = std::env::var_os(MARK) else { return };
    let mark = mark.to_string_lossy().into_owned();
    let numbers: Vec<i32> = mark.split(' ').filter_map(|word| word.parse().ok()).collect();
    let &[answer, order, parent] = numbers.as_slice() else { return };
    if answer < 3 || order < 3 {
        return;
    }
    // SAFETY: the parent opened both for this process, which has done nothing yet
    let (answer, order) = unsafe { (OwnedFd::from_raw_fd(answer), OwnedFd::from_raw_fd(order)) };
    // SAFETY: `main` has just begun: there is one thread and nobody reads the environment
    unsafe { std::env::remove_var(MARK) };
    if enter(&answer, &order, parent).is_none() {
        std::process::exit(3);
    }
}

fn enter(answer: &OwnedFd, order: &OwnedFd, parent: i32) -> Option<()> {
    // SAFETY: one thread; neither flag shares file descriptors or memory
    let unshared =
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) };
    tell(answer, unshared)?;
    let mut byte = [0; 1];
    if rustix::io::read(order, &mut byte).unwrap_or(0) == 0 {
        return None;
    }
    // what AppArmor restricts is not the namespace, but what may be done in it
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    tell(answer, rustix::mount::mount_change("/", private))?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL)).ok()?;
    let found = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    (found == parent).then_some(())
}

fn tell(answer: &OwnedFd, result: rustix::io::Result<()>) -> Option<()> {
    let message = result.map_or_else(|error| error.to_string(), |()| READY.to_owned());
    // a parent that is gone does not read
    rustix::io::write(answer, message.as_bytes()).ok()?;
    result.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_have_names_that_tell_their_owners_apart() {
        let name = |map| IdMap::parse(map).name();
        assert_eq!(name("         0          0 4294967295\n"), "0");
        assert_eq!(name("0 1000 1\n1 100000 65535\n"), "u1000-100000");
        assert_eq!(name("0 100000 65536\n"), "u100000-100000");
    }
}
