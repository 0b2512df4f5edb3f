//! What is said to a keeper and by it: its order, its messages, its signals.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::egress::Policy;
use super::held::HeldImage;
use super::probe::Probe;
use super::state::Record;
use crate::jail::cgroup::Quota;
use crate::jail::instance::Cell;
use crate::jail::{Ended, SetupFault};

/// What a keeper is to do.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub record: Record,
    pub cell: Cell,
    /// Limits that a launcher which makes its own groups is to set.
    pub quota: Quota,
    pub dir: PathBuf,
    pub ready: Option<Probe>,
    pub timeout: Duration,
    /// Where it may connect to, if anywhere.
    pub egress: Option<Policy>,
    pub detached: bool,
    pub image: HeldImage,
    /// What `stop` sends to the program.
    pub stop_signal: i32,
}

/// What it says to whoever started it, a line each.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Message {
    /// The program runs; published ports are these, outside and inside.
    Started {
        ports: Vec<(u16, u16)>,
    },
    Ready,
    NotReady,
    PortTaken {
        port: u16,
        reason: String,
    },
    Limits {
        reason: String,
    },
    Fault(SetupFault),
    Ended(Ended),
}

/// Asks a keeper to kill its instance.
pub(super) fn kill_signal() -> i32 {
    libc::SIGRTMIN() + 1
}

/// Asks a keeper to stop its instance as that wants to be.
pub(super) fn stop_signal() -> i32 {
    libc::SIGRTMIN() + 2
}
