//! The parent's side: describes a sandbox, starts the child, hears how it went.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{ChildStdout, Command, ExitStatus, Stdio};

use serde::{Deserialize, Serialize};

use super::CHILD_ARGUMENT;
use crate::blame::Blame;

/// What a sandbox is to look like.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Spec {
    /// Trees of the layers below, bottom first.
    pub lowers: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
    /// An empty directory that the overlay is mounted on.
    pub root: PathBuf,
    pub binds: Vec<Bind>,
    /// Program and arguments, found in the sandbox.
    pub argv: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    pub cwd: String,
}

/// A file or directory of the host's that is seen in the sandbox.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bind {
    pub from: PathBuf,
    /// Absolute in the sandbox; made where it is not there.
    pub to: String,
    pub read_only: bool,
}

/// How a sandbox ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    /// The last lines of output.
    pub tail: Vec<String>,
}

/// Why there was no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("the build sandbox cannot be started: {0}")]
    Spawn(std::io::Error),
    #[error("the build sandbox cannot be set up: {step}: {reason}")]
    Setup { step: String, reason: String },
}

impl JailError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

/// What the child says when a step of its set-up fails.
#[derive(Serialize, Deserialize)]
pub(super) struct SetupFault {
    pub step: String,
    pub reason: String,
}

/// Starts sandboxes.
#[derive(Clone, Debug)]
pub struct Jail {
    /// This program.
    pub program: PathBuf,
}

/// How many lines of output an outcome keeps.
const TAIL: usize = 60;

impl Jail {
    /// Runs a sandbox to its end. Every line of its output goes to `line`.
    pub fn run(&self, spec: &Spec, line: &mut dyn FnMut(&str)) -> Result<Outcome, JailError> {
        clear_volatile(spec);
        let mut child = Command::new(&self.program)
            .arg(CHILD_ARGUMENT)
            .env_clear()
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(JailError::Spawn)?;
        let text = serde_json::to_vec(spec).expect("a spec has string keys only");
        if let Some(mut stdin) = child.stdin.take() {
            // a child that died early says why on its other end
            stdin.write_all(&text).unwrap_or_default();
        }
        let mut fault = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            stderr.read_to_string(&mut fault).unwrap_or_default();
        }
        let mut tail = std::collections::VecDeque::with_capacity(TAIL);
        for raw in lines(child.stdout.take()) {
            let text = String::from_utf8_lossy(&raw).trim_end().to_owned();
            line(&text);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text);
        }
        let status = child.wait().map_err(JailError::Spawn)?;
        match serde_json::from_str::<SetupFault>(&fault) {
            Ok(SetupFault { step, reason }) => Err(JailError::Setup { step, reason }),
            Err(_) if !fault.is_empty() => {
                Err(JailError::Setup { step: "start".to_owned(), reason: fault.trim().to_owned() })
            }
            Err(_) => Ok(Outcome { status, tail: tail.into() }),
        }
    }
}

/// Lines of output, whatever their encoding.
fn lines(output: Option<ChildStdout>) -> impl Iterator<Item = Vec<u8>> {
    output.into_iter().flat_map(|output| BufReader::new(output).split(b'\n').map_while(Result::ok))
}

/// An overlay that was mounted `volatile` refuses its upper directory a second time, until its mark is
/// gone. The mark guards against a crash of the machine, after which nothing of a draft is used.
fn clear_volatile(spec: &Spec) {
    // there is none on the first run
    crate::fsx::remove_tree(&spec.work.join("work/incompat")).unwrap_or_default();
}

impl Outcome {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// `exit code 1`, `signal 9`.
    pub fn reason(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "an unknown end".to_owned(),
        }
    }
}
