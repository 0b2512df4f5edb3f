//! What a sandbox is to look like, and what its child answers: the words between parent and child.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::emulator::Emulator;

/// What a sandbox is to look like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Trees of the layers below, bottom first; at least one, at most 500.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory that the overlay is mounted on.
    pub root: PathBuf,
    pub binds: Vec<Bind>,
    /// Files of the overlay that are moved before the program starts: from, to.
    pub renames: Vec<(String, String)>,
    /// Program and arguments, found in the sandbox.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    pub cwd: String,
    /// When everything in the sandbox is killed.
    pub timeout: Option<Duration>,
    /// Handed out to whoever starts the sandbox, in this order; at most eight.
    pub sockets: Vec<Socket>,
    /// Files of [`SECRETS`], in memory: they are on no disk and in no delta.
    pub secrets: Vec<SecretFile>,
    /// Whether the program gets a terminal of its own, for somebody to sit at.
    pub terminal: bool,
}

/// Where secrets are in the sandbox.
pub const SECRETS: &str = "/run/secrets";

/// Bytes that a program may read and that are kept nowhere.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretFile {
    /// One component.
    pub name: String,
    pub bytes: Vec<u8>,
}

impl std::fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretFile").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A socket on the sandbox's own 127.0.0.1 that is served from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Socket {
    /// Listens for connections on this port.
    Tcp(u16),
    /// Takes datagrams on this port.
    Udp(u16),
}

impl std::fmt::Display for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Socket::Tcp(port) => write!(f, "127.0.0.1:{port}"),
            Socket::Udp(port) => write!(f, "127.0.0.1:{port}/udp"),
        }
    }
}

/// A file or directory of the host's that is seen in the sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    pub from: PathBuf,
    /// Absolute in the sandbox; made where it is not there.
    pub to: String,
    /// Covers what is mounted below it, too.
    pub read_only: bool,
}

/// What the parent sends.
#[derive(Serialize, Deserialize)]
pub(super) struct Order<S> {
    /// Its process id: a child that finds another parent is an orphan already.
    pub parent: u32,
    pub emulator: Option<Emulator>,
    pub spec: S,
}

/// What the child answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Report {
    /// The set-up failed.
    Fault(SetupFault),
    /// The program of an instance was started.
    Running,
    /// The program ended.
    Ended {
        how: Ended,
        /// How often it tried to reach an address that there is no way to.
        unrouted: u64,
    },
}

/// How a program ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself.
    Code(i32),
    Signal(i32),
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ended::Code(code) => write!(f, "exit code {code}"),
            Ended::Signal(signal) => write!(f, "signal {signal}"),
        }
    }
}

impl Ended {
    /// From what waiting for a process answered.
    pub fn of(status: rustix::process::WaitStatus) -> Self {
        match status.exit_status() {
            Some(code) => Ended::Code(code),
            None => Ended::Signal(status.terminating_signal().unwrap_or(0)),
        }
    }

    /// As shells have it.
    pub fn code(self) -> u8 {
        let code = match self {
            Ended::Code(code) => code,
            Ended::Signal(signal) => 128 + signal,
        };
        u8::try_from(code).unwrap_or(255)
    }
}

/// A step of the set-up that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct SetupFault {
    pub step: String,
    pub reason: String,
    /// What the kernel answered.
    pub errno: Option<i32>,
}
