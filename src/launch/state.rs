//! What is known of instances, on disk: one directory each, named as the instance is.
//!
//! ```text
//! NAME/lock          held by the keeper as long as it lives
//! NAME/record        what was started, and what is to be cleaned up
//! NAME/ended         how it ended
//! NAME/log           what it said, where it is detached
//! NAME/data/         upper directory and mount points
//! ```
//!
//! The lock tells the truth: it goes with the keeper however that ends, and the instance goes with
//! the keeper. A record is written before what it names is made, so whatever is killed when, the next
//! `ps` finds what to clean up.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags};
use serde::{Deserialize, Serialize};

use super::error::LaunchError;
use super::launcher::Launcher;
use super::order::{kill_signal, stop_signal};
use super::slots;
use crate::fsx::{self, IoAt};
use crate::jail::cgroup::Cgroup;
use crate::jail::instance::{Ids, Program, Tightness};
use crate::jail::{Ended, Held};

/// A name of an instance; a file's, too.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InstanceName(String);

impl FromStr for InstanceName {
    type Err = LaunchError;

    fn from_str(text: &str) -> Result<Self, LaunchError> {
        let word = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
        let sound = !text.is_empty()
            && text.len() <= 60
            && text.as_bytes()[0].is_ascii_alphanumeric()
            && text.bytes().all(word);
        if sound { Ok(Self(text.to_owned())) } else { Err(LaunchError::Name(text.to_owned())) }
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl InstanceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What was started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    pub id: String,
    pub name: InstanceName,
    pub sandbox: String,
    pub image: String,
    pub token: Option<String>,
    /// Outside and inside.
    pub ports: Vec<(u16, u16)>,
    /// Seconds since 1970.
    pub started: u64,
    /// Of the keeper and of the first process, once they are there.
    pub keeper: Option<u32>,
    pub first: Option<u32>,
    pub cgroup: Cgroup,
    pub ids: Ids,
    pub tightness: Tightness,
    /// What a visitor's surroundings are.
    pub program: Program,
    #[serde(default)]
    pub launcher: Launcher,
    /// Whether nothing is kept once it has ended.
    pub fleeting: bool,
}

/// How an instance is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Starting,
    Running,
    Ended(Ended),
    /// Its keeper was killed, and it with the keeper.
    Lost,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Status::Starting => f.write_str("starting"),
            Status::Running => f.write_str("running"),
            Status::Ended(how) => write!(f, "ended ({})", how.code()),
            Status::Lost => f.write_str("killed"),
        }
    }
}

/// An instance and where it is.
#[derive(Clone, Debug)]
pub struct Instance {
    pub record: Record,
    pub status: Status,
    pub dir: PathBuf,
}

/// A name that was taken for a new instance.
#[derive(Debug)]
pub(super) struct Claim {
    pub dir: PathBuf,
    pub lock: File,
}

/// The directory of all instances of a user.
#[derive(Clone, Debug)]
pub struct State {
    root: PathBuf,
}

impl State {
    pub fn open(root: &Path) -> Result<Self, LaunchError> {
        if !root.is_dir() {
            fs::create_dir_all(root).at("create", root)?;
            // what instances hold is nobody else's
            let private = rustix::fs::Mode::RWXU;
            rustix::fs::chmod(root, private).at("set the mode of", root)?;
        }
        Ok(State { root: root.to_owned() })
    }

    /// Where runtimes keep what they know: not with the instances, which are renamed when they go.
    pub(super) fn runtimes(&self, ids: Ids) -> PathBuf {
        match ids {
            // gone with the instances when the machine starts anew
            Ids::Own { .. } => PathBuf::from("/run/sbx/oci"),
            Ids::Shared => self.root.with_added_extension("oci"),
        }
    }

    /// Takes a name. One that is left over from something killed is taken over.
    pub(super) fn claim(&self, name: &InstanceName) -> Result<Claim, LaunchError> {
        let dir = self.root.join(name.as_str());
        let taken = || LaunchError::NameTaken(name.to_string());
        match fs::create_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                if self.list()?.iter().any(|one| one.dir == dir) {
                    return Err(taken());
                }
                fs::create_dir(&dir).map_err(|_| taken())?;
            }
            result => result.at("create", &dir)?,
        }
        let path = dir.join("lock");
        let lock = File::create(&path).at("create", &path)?;
        // somebody who looks may hold it for a moment
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).at("lock", &path)?;
        Ok(Claim { dir, lock })
    }

    /// All instances, by name. What is left of those that were killed is cleaned up.
    pub fn list(&self) -> Result<Vec<Instance>, LaunchError> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.root).at("list", &self.root)? {
            let dir = entry.at("list", &self.root)?.path();
            if dir.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".")) {
                sweep_gone(&dir);
            } else if let Some(instance) = read(&dir)? {
                found.push(instance);
            }
        }
        found.sort_by(|a, b| a.record.name.cmp(&b.record.name));
        Ok(found)
    }

    /// Whether something is left that only the root of the instances' namespace can remove.
    pub fn has_leftovers(&self) -> Result<bool, LaunchError> {
        let entries = fs::read_dir(&self.root).at("list", &self.root)?;
        let hidden = |entry: io::Result<fs::DirEntry>| {
            entry.is_ok_and(|entry| entry.file_name().as_encoded_bytes().starts_with(b"."))
        };
        Ok(entries.into_iter().any(hidden))
    }

    /// The instance of that name, or whose id begins so.
    pub fn get(&self, name: &str) -> Result<Instance, LaunchError> {
        let unknown = || LaunchError::Unknown(name.to_owned());
        if let Ok(sound) = name.parse::<InstanceName>() {
            let dir = self.root.join(sound.as_str());
            if dir.is_dir()
                && let Some(instance) = read(&dir)?
            {
                return Ok(instance);
            }
        }
        let mut found = self.list()?.into_iter().filter(|one| one.record.id.starts_with(name));
        match (found.next(), found.next()) {
            (Some(only), None) if name.len() >= 4 => Ok(only),
            _ => Err(unknown()),
        }
    }

    /// Likewise, if it runs.
    pub fn get_running(&self, name: &str) -> Result<Instance, LaunchError> {
        let found = self.get(name)?;
        match (found.status, found.record.first) {
            (Status::Running | Status::Starting, Some(_)) => Ok(found),
            _ => Err(LaunchError::NotRunning(name.to_owned())),
        }
    }
}

/// `None` for what is no instance, and for what is left of a fleeting one, which goes.
fn read(dir: &Path) -> Result<Option<Instance>, LaunchError> {
    let Ok(lock) = File::open(dir.join("lock")) else {
        sweep_abandoned(dir);
        return Ok(None);
    };
    let alive = rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err();
    let record = fs::read(dir.join("record")).ok();
    let Some(record) = record.and_then(|text| serde_json::from_slice::<Record>(&text).ok()) else {
        if !alive {
            sweep_abandoned(dir);
        }
        return Ok(None);
    };
    let ended = fs::read(dir.join("ended")).ok();
    let ended = ended.and_then(|text| serde_json::from_slice(&text).ok());
    let status = match (ended, alive) {
        (Some(how), _) => Status::Ended(how),
        (None, true) if record.first.is_some() => Status::Running,
        (None, true) => Status::Starting,
        (None, false) => Status::Lost,
    };
    let instance = Instance { record, status, dir: dir.to_owned() };
    if !alive {
        if status == Status::Lost {
            instance.record.launcher.clean_up(&instance.record);
        }
        let emptied = instance.record.cgroup.remove();
        if instance.record.fleeting {
            // what has processes yet is looked at again
            if emptied {
                instance.discard();
            }
            return Ok(None);
        }
    }
    Ok(Some(instance))
}

/// A directory whose maker was killed before it wrote a record; the maker has a minute.
fn sweep_abandoned(dir: &Path) {
    let age = fs::metadata(dir).and_then(|meta| meta.modified()).ok();
    let age = age.and_then(|time| time.elapsed().ok());
    if age.is_some_and(|age| age > Duration::from_secs(60)) {
        fsx::remove_tree(dir).unwrap_or_default();
    }
}

/// What a killed removal left.
fn sweep_gone(dir: &Path) {
    fsx::remove_tree(dir).unwrap_or_default();
}

impl Record {
    /// The groups that a visitor joins: our own, or those that somebody else made.
    pub fn groups(&self) -> io::Result<Cgroup> {
        match (&self.launcher, self.ids, self.first) {
            (Launcher::Oci(_), Ids::Own { .. }, Some(first))
            | (Launcher::Docker(_), _, Some(first)) => Cgroup::of_process(first),
            _ => Ok(self.cgroup.clone()),
        }
    }

    /// Whole or not at all. It need not survive a crash of the machine: no instance does.
    pub(super) fn write(&self, dir: &Path) -> io::Result<()> {
        write(dir, "record", &serde_json::to_vec(self)?)
    }
}

pub(super) fn write_ended(dir: &Path, how: Ended) -> io::Result<()> {
    write(dir, "ended", &serde_json::to_vec(&how)?)
}

fn write(dir: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let draft = dir.join(format!(".{name}"));
    fs::write(&draft, bytes)?;
    fs::rename(&draft, dir.join(name))
}

impl Instance {
    /// Removes all that is left of one that has ended; `false` where its owner's rights did not do.
    pub fn discard(&self) -> bool {
        discard_all(&self.dir, &self.record)
    }

    /// A handle of its first process, which is the one that was meant: the keeper, whose child it is,
    /// is there after the handle was opened.
    pub fn handle(&self) -> Result<OwnedFd, LaunchError> {
        let gone = || LaunchError::NotRunning(self.record.name.to_string());
        let first = self.record.first.and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let handle = rustix::process::pidfd_open(first.ok_or_else(gone)?, PidfdFlags::empty());
        let handle = handle.map_err(|_| gone())?;
        if self.wait_ended(Duration::ZERO) { Err(gone()) } else { Ok(handle) }
    }

    /// Has the program asked to end, in the way it wants to be.
    pub fn ask_to_stop(&self) {
        self.signal(stop_signal());
    }

    /// Ends all of it at once.
    pub fn kill(&self) {
        self.signal(kill_signal());
    }

    fn signal(&self, signal: i32) {
        // a keeper that holds the lock has that number; one that does not is gone
        if !self.wait_ended(Duration::ZERO)
            && let Some(keeper) = self.record.keeper
        {
            Held::pass(signal, keeper);
        }
    }

    /// Waits until it has ended; `false` if it has not by then.
    pub fn wait_ended(&self, timeout: Duration) -> bool {
        let end = std::time::Instant::now() + timeout;
        loop {
            // one that is gone altogether has ended, too
            let alive = File::open(self.dir.join("lock")).is_ok_and(|lock| {
                rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared).is_err()
            });
            if !alive {
                return true;
            }
            if std::time::Instant::now() >= end {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Removes what a record names, and its directory.
pub(super) fn discard_all(dir: &Path, record: &Record) -> bool {
    record.launcher.clean_up(record);
    record.cgroup.remove();
    discard(dir, record.ids)
}

/// Takes a directory out of view at once, then removes it.
pub(super) fn discard(dir: &Path, ids: Ids) -> bool {
    let gone = hide(dir);
    let removed = fsx::remove_tree(&gone).is_ok();
    if let Ids::Own { first } = ids {
        slots::give_back(first);
    }
    removed
}

/// A name that no instance has.
pub(super) fn hide(dir: &Path) -> PathBuf {
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let gone = dir.with_file_name(format!(".{name}.{}", std::process::id()));
    match fs::rename(dir, &gone) {
        Ok(()) => gone,
        Err(_) => dir.to_owned(),
    }
}
