//! An ordinary user's way: a user namespace with subordinate ids (user_namespaces(7), newuidmap(1)).
//!
//! The program starts itself anew in the namespace, where it is uid 0 over ids that are its user's to
//! give; files get other owners, overlays are mounted and dpkg runs as if by root.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitStatus};

use rustix::pipe::PipeFlags;
use rustix::thread::UnshareFlags;

/// Carries the numbers of two pipe ends to the child.
const MARK: &str = "SBX_USER_NAMESPACE";

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
        let map = fs::read_to_string("/proc/self/uid_map")?;
        let rows: Vec<Vec<u32>> = map
            .lines()
            .map(|line| line.split_whitespace().filter_map(|word| word.parse().ok()).collect())
            .collect();
        Ok(match rows.as_slice() {
            [first, second, ..] if first.len() == 3 && second.len() == 3 => {
                IdMap::Subordinate { user: first[1], first: second[1] }
            }
            [only] if only.len() == 3 && only[1] != 0 => {
                IdMap::Subordinate { user: only[1], first: only[1] }
            }
            _ => IdMap::Identity,
        })
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
    #[error("this user has no subordinate ids in `{file}`")]
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

/// The first subordinate range of a user in `/etc/subuid` or `/etc/subgid` (subuid(5)).
pub(super) fn find_range(file: &str, uid: u32, name: &str) -> Option<(u32, u32)> {
    let text = fs::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.trim().parse().ok()?);
        (owner == name || owner == uid.to_string()).then_some((first, count))
    })
}

/// The name of a user in `/etc/passwd`, or its number.
pub(super) fn user_name(uid: u32) -> String {
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    name.unwrap_or_else(|| uid.to_string())
}

pub(super) fn mend_range(user: &str) -> String {
    format!("run `sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}`")
}

pub(super) const MEND_TOOL: &str = "run `sudo apt-get install uidmap`";

/// Starts `program` with `arguments` anew in a user namespace and waits for its end.
pub fn run_in_user_namespace(
    program: &Path,
    arguments: &[std::ffi::OsString],
) -> Result<ExitStatus, UserNamespaceError> {
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let name = user_name(uid);
    let range = |file: &'static str| {
        find_range(file, uid, &name)
            .ok_or_else(|| UserNamespaceError::NoRange { file, mend: mend_range(&name) })
    };
    let (uids, gids) = (range("/etc/subuid")?, range("/etc/subgid")?);
    let pipe = || {
        rustix::pipe::pipe_with(PipeFlags::empty())
            .map_err(|error| UserNamespaceError::Start(error.into()))
    };
    let ((ready_out, ready_in), (go_out, go_in)) = (pipe()?, pipe()?);
    let mut child = Command::new(program)
        .args(arguments)
        .env(MARK, format!("{} {}", ready_in.as_raw_fd(), go_out.as_raw_fd()))
        .spawn()
        .map_err(UserNamespaceError::Start)?;
    drop((ready_in, go_out));
    let mut byte = [0; 64];
    let n = rustix::io::read(&ready_out, &mut byte).unwrap_or(0);
    if byte.get(..n) != Some(b"ready") {
        child.wait().map_err(UserNamespaceError::Start)?;
        let reason = String::from_utf8_lossy(&byte[..n]).into_owned();
        return Err(super::probe::forbidden(reason));
    }
    let maps = write_map("newuidmap", child.id(), uid, uids)
        .and_then(|()| write_map("newgidmap", child.id(), gid, gids));
    if let Err(error) = maps {
        drop(go_in);
        child.wait().map_err(UserNamespaceError::Start)?;
        return Err(error);
    }
    // a child that is gone shows in its status
    rustix::io::write(&go_in, b"go").map(drop).unwrap_or_default();
    drop(go_in);
    child.wait().map_err(UserNamespaceError::Start)
}

fn write_map(
    tool: &'static str,
    pid: u32,
    own: u32,
    (first, count): (u32, u32),
) -> Result<(), UserNamespaceError> {
    let numbers = [pid, 0, own, 1, 1, first, count.min(65_535)];
    let output = Command::new(tool)
        .args(numbers.map(|number| number.to_string()))
        .output()
        .map_err(|source| UserNamespaceError::Tool { tool, source, mend: MEND_TOOL.to_owned() })?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(UserNamespaceError::Refused { tool, message, mend: MEND_TOOL.to_owned() })
}

/// In a process that was started for it: makes the namespace, waits for its maps.
pub(super) fn finish_entering() {
    let Some(mark) = std::env::var_os(MARK) else { return };
    let mark = mark.to_string_lossy().into_owned();
    let mut numbers = mark.split(' ').filter_map(|word| word.parse::<i32>().ok());
    let (Some(ready), Some(go)) = (numbers.next(), numbers.next()) else { return };
    // SAFETY: the parent opened both for this process, which has done nothing yet
    let (ready, go) = unsafe { (OwnedFd::from_raw_fd(ready), OwnedFd::from_raw_fd(go)) };
    // SAFETY: `main` has just begun: there is one thread and nobody reads the environment
    unsafe { std::env::remove_var(MARK) };
    // SAFETY: one thread; neither flag shares file descriptors or memory
    let entered =
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER | UnshareFlags::NEWNS) };
    let message = entered.map_or_else(|error| error.to_string(), |()| "ready".to_owned());
    // a parent that is gone does not read
    rustix::io::write(&ready, message.as_bytes()).map(drop).unwrap_or_default();
    drop(ready);
    let mut byte = [0; 2];
    let told = rustix::io::read(&go, &mut byte).unwrap_or(0);
    if entered.is_err() || told == 0 {
        std::process::exit(3);
    }
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .unwrap_or_default();
}
