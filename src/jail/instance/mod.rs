//! The sandbox of an instance: what a build sandbox is, and more, for a program that lives long and
//! may be hostile.
//!
//! It is always in a user namespace of its own. As root its ids are a range that nobody else has,
//! and the layers' trees are shown to it through idmapped mounts (mount_setattr(2), Linux 5.19 below
//! an overlay): uid 0 inside owns nothing outside. An ordinary user's instances have that user's
//! subordinate ids.
//!
//! The overlay is mounted by whoever owns the trees, in a mount namespace that the instance then gets
//! a locked copy of. Who starts all this is the *keeper*, a process with one thread; it forks a guide
//! that goes down into the namespaces and gives the keeper a child there, the first process, which
//! mounts the rest, starts the program, reaps and passes signals on. The program gets what docker's
//! gets at most: capabilities, system calls, /proc.

mod enter;
mod first;
mod gate;
mod identity;
mod ids;
mod landlock;
mod mounts;
mod outline;
mod profile;
mod program;
mod setup;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use super::program::open_files;
pub use enter::{Entered, Visitor, become_nobody, enter, go_in, go_into_network, run_inside};
pub use gate::{CABLE, Gate, GateSockets, NEAR, lacks_cables};
pub use identity::Identity;
pub use ids::{COUNT, Ids, Row};
pub use landlock::UNLOCKED;
pub use outline::{Laid, lay_root, masked_paths, read_only_paths};
pub use profile::{prepare, profile_document};
pub use program::capability_names;
pub use setup::{Started, Wires, start};

pub(super) use enter::main as enter_main;
pub(super) use ids::change as change_mount;

use super::cgroup::Cgroup;

/// What an instance is to look like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cell {
    pub host_name: String,
    /// Trees of the layers, bottom first.
    pub lowers: Vec<PathBuf>,
    /// Has the empty directories `upper`, `work` and `shelf`.
    pub dir: PathBuf,
    pub ids: Ids,
    pub volumes: Vec<Volume>,
    /// The way out, where there is one.
    pub gate: Option<Gate>,
    pub tightness: Tightness,
    /// Size of /dev/shm in bytes.
    pub shared_memory: u64,
    /// Directories that stay writable where the root is not.
    pub writable: Vec<String>,
    /// Bytes that may be written to its own files, which are in memory then.
    pub disk: Option<u64>,
    /// Processes and threads, where no control group counts them.
    pub processes: Option<u32>,
    pub cgroup: Cgroup,
    pub program: Program,
}

/// What is started in an instance.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Program {
    /// The first is looked for in the instance's PATH.
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// `name`, `uid`, either with `:group`; empty for root.
    pub user: String,
    /// Whether it gets a terminal of its own.
    pub terminal: bool,
    /// Where it may write if it is confined most tightly.
    pub writable: Vec<String>,
}

/// A directory or file of the host's in an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Absolute, through no link.
    pub from: PathBuf,
    /// Absolute in the instance.
    pub to: String,
    pub read_only: bool,
}

/// How tightly a program is confined; what each means is in `docs/run.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Tightness {
    Low,
    Medium,
    High,
}
