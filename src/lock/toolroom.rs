//! Where programs resolve at lock time: what a solver asks of the build sandbox, which lies above it.
//!
//! npm, pnpm and uv know their ecosystems' rules better than anybody who writes them again. They are
//! pinned and fetched like any source and run as untrusted programs: over the lock's own Debian and
//! Node, without the host's files, home or network, with a relay to one registry and nothing else.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use super::Lock;
use crate::blame::Blame;
use crate::name::LayerName;
use crate::platform::Platform;
use crate::serve::Registry;

/// A program to be run.
#[derive(Clone, Debug)]
pub struct ToolJob {
    /// Its name, for messages.
    pub tool: String,
    /// It runs over the Debian and Node layers that this layer needs.
    pub layer: LayerName,
    pub platform: Platform,
    /// Program and arguments; it runs in `/work`.
    pub command: Vec<String>,
    /// All of its environment but `PATH`, `TZ`, `LANG` and the like; `{relay}` stands for the
    /// address of the relay, without a slash at its end.
    pub env: Vec<(String, String)>,
    /// Directories of the host, shown read-only at absolute paths of its view.
    pub mounts: Vec<(PathBuf, String)>,
    /// Files below `/work`; `{relay}` is replaced in them, too.
    pub files: BTreeMap<String, Vec<u8>>,
    /// Files below `/work` that are wanted once it is done.
    pub results: Vec<String>,
    /// The one registry that it may ask, through the relay; `None` where it has no network at all.
    pub registry: Option<Registry>,
    pub timeout: Duration,
}

/// What a program left.
#[derive(Clone, Debug, Default)]
pub struct ToolResult {
    /// The files that were wanted and are there.
    pub files: BTreeMap<String, Vec<u8>>,
    /// What it wrote on stdout and stderr.
    pub output: String,
    /// Where files really are that had addresses of the relay's, by those addresses.
    pub origins: BTreeMap<String, Url>,
}

/// Why a program gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    #[error("`{tool}` ended with {status}:\n{output}")]
    Failed { tool: String, status: String, output: String },
    /// Whoever started the build can mend it by doing so again, in a user namespace.
    #[error("programs that resolve need the build sandbox, and this process may not make one")]
    Namespace,
    #[error("`{tool}` cannot run: {reason}")]
    Room { tool: String, reason: String, help: Option<String> },
}

impl ToolError {
    pub fn blame(&self) -> Blame {
        match self {
            ToolError::Failed { .. } => Blame::Input,
            ToolError::Namespace | ToolError::Room { .. } => Blame::World,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<&str> {
        match self {
            ToolError::Namespace | ToolError::Failed { .. } => None,
            ToolError::Room { help, .. } => help.as_deref(),
        }
    }
}

/// Runs programs for solvers.
pub trait Toolroom: Sync {
    /// `lock` has at least the Debian packages and the Node of the layers that the job's needs.
    fn run(&self, lock: &Lock, job: &ToolJob) -> Result<ToolResult, ToolError>;
}
