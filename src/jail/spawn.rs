//! The parent's side: starts the child, hears how it went.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use super::emulator::Emulator;
use super::spec::{Ended, Order, Report, SetupFault, Spec};
use super::terminal::Terminal;
use super::{CHILD_ARGUMENT, passing, probe};
use crate::blame::Blame;

/// How a sandbox ended.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub end: End,
    /// The last lines of output.
    pub tail: Vec<String>,
    /// How often the program tried to reach an address other than its own; 0 where that is not known.
    pub unrouted: u64,
}

/// How the program of a sandbox ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Code(i32),
    Signal(i32),
    /// The sandbox was killed at its timeout.
    Timeout,
}

/// Why there was no sandbox.
#[derive(Debug, thiserror::Error)]
pub enum JailError {
    #[error("the build sandbox cannot be started: {0}")]
    Spawn(std::io::Error),
    #[error("the build sandbox cannot be set up: {step}: {reason}")]
    Setup {
        step: String,
        reason: String,
        /// What the kernel answered.
        errno: Option<i32>,
        /// The one command that mends it, where there is one.
        mend: Option<String>,
    },
    #[error("the build sandbox was killed from outside ({0}); is there enough memory?")]
    Killed(ExitStatus),
}

impl JailError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }

    /// The one command that mends it.
    pub fn help(&self) -> Option<&str> {
        match self {
            JailError::Setup { mend, .. } => mend.as_deref(),
            JailError::Spawn(_) | JailError::Killed(_) => None,
        }
    }

    fn setup(fault: SetupFault, spec: &Spec) -> Self {
        let mend = probe::find_mend(&fault, spec);
        let SetupFault { step, reason, errno } = fault;
        JailError::Setup { step, reason, errno, mend }
    }
}

/// Starts sandboxes.
#[derive(Clone, Debug)]
pub struct Jail {
    /// This program.
    pub program: PathBuf,
    /// Runs what is not this machine's own.
    pub emulator: Option<Emulator>,
}

/// How many lines of output an outcome keeps.
const TAIL: usize = 60;
/// A longer line is taken in pieces of this many bytes.
const LONGEST_LINE: u64 = 16 << 10;

impl Jail {
    /// Runs a sandbox to its end. Every line of its output goes to `line`. All of it is killed when
    /// the calling thread ends.
    pub fn run(&self, spec: &Spec, line: &mut dyn FnMut(&str)) -> Result<Outcome, JailError> {
        self.run_serving(spec, drop, line)
    }

    /// Likewise, with the sockets that the description asks for: `serve` gets them before the program
    /// starts, and what it answers is dropped once the program has ended.
    pub fn run_serving<G>(
        &self,
        spec: &Spec,
        serve: impl FnOnce(Vec<OwnedFd>) -> G,
        line: &mut dyn FnMut(&str),
    ) -> Result<Outcome, JailError> {
        let (mut child, talk, served) = self.begin(spec, serve)?;
        drop(talk);
        let mut tail = std::collections::VecDeque::with_capacity(TAIL);
        each_line(child.stdout.take(), |text| {
            line(text);
            if tail.len() == TAIL {
                tail.pop_front();
            }
            tail.push_back(text.to_owned());
        });
        let (end, unrouted) = finish(child, spec)?;
        drop(served);
        Ok(Outcome { end, tail: tail.into(), unrouted })
    }

    /// Likewise, with a terminal that somebody sits at.
    pub fn run_attended<G>(
        &self,
        spec: &Spec,
        serve: impl FnOnce(Vec<OwnedFd>) -> G,
        terminal: &Terminal,
    ) -> Result<Outcome, JailError> {
        let spec = Spec { terminal: true, ..spec.clone() };
        let (child, talk, served) = self.begin(&spec, serve)?;
        let passed = passing::receive(talk.as_fd());
        drop(talk);
        if let Some(far) = passed.into_iter().flatten().next() {
            // whoever sits there sees what went wrong, or is gone
            terminal.join(&far).unwrap_or_default();
        }
        let (end, unrouted) = finish(child, &spec)?;
        drop(served);
        Ok(Outcome { end, tail: Vec::new(), unrouted })
    }

    /// Starts the child and has its sockets served.
    fn begin<G>(
        &self,
        spec: &Spec,
        serve: impl FnOnce(Vec<OwnedFd>) -> G,
    ) -> Result<(Child, UnixStream, Option<G>), JailError> {
        clear_volatile(spec);
        let (child, talk) = self.spawn(spec)?;
        let sockets = match spec.sockets.is_empty() {
            true => Vec::new(),
            false => {
                passing::receive(talk.as_fd()).map_err(|error| JailError::Spawn(error.into()))?
            }
        };
        // without all of them the set-up failed, and the report says why
        let served = (sockets.len() == spec.sockets.len()).then(|| serve(sockets));
        Ok((child, talk, served))
    }

    /// The child, and the other end of its standard input.
    fn spawn(&self, spec: &Spec) -> Result<(Child, UnixStream), JailError> {
        let (mut talk, input) = UnixStream::pair().map_err(JailError::Spawn)?;
        let child = Command::new(&self.program)
            .arg(CHILD_ARGUMENT)
            .env_clear()
            .stdin(Stdio::from(OwnedFd::from(input)))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(JailError::Spawn)?;
        let order = Order { parent: std::process::id(), emulator: self.emulator.clone(), spec };
        let text = serde_json::to_vec(&order).expect("an order has string keys only");
        // a child that died early says why in its report
        talk.write_all(&text).unwrap_or_default();
        talk.shutdown(std::net::Shutdown::Write).unwrap_or_default();
        Ok((child, talk))
    }
}

/// Waits for the end of a sandbox; answers how often it reached for what it has no way to.
fn finish(mut child: Child, spec: &Spec) -> Result<(End, u64), JailError> {
    let mut answer = String::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_string(&mut answer).unwrap_or_default();
    }
    let status = child.wait().map_err(JailError::Spawn)?;
    match read_report(&answer) {
        Some(Report::Fault(fault)) => Err(JailError::setup(fault, spec)),
        Some(Report::Ended { how: Ended::Code(code), unrouted }) => Ok((End::Code(code), unrouted)),
        Some(Report::Ended { how: Ended::Signal(signal), unrouted }) => {
            Ok((End::Signal(signal), unrouted))
        }
        Some(Report::Running) => unreachable!("only an instance's first process says that"),
        None if status.signal() == Some(libc::SIGALRM) => Ok((End::Timeout, 0)),
        None if status.signal().is_some() => Err(JailError::Killed(status)),
        None => {
            let reason = format!("{status} {}", answer.trim());
            let fault = SetupFault { step: "start".to_owned(), reason, errno: None };
            Err(JailError::setup(fault, spec))
        }
    }
}

/// The first report counts: what comes after a fault is its echo.
fn read_report(answer: &str) -> Option<Report> {
    serde_json::Deserializer::from_str(answer).into_iter().next()?.ok()
}

/// Lines of output, whatever their encoding and length.
fn each_line(output: Option<ChildStdout>, mut line: impl FnMut(&str)) {
    let Some(output) = output else { return };
    let mut output = BufReader::new(output);
    let mut raw = Vec::new();
    // an error is the end of the program's output, too
    while (&mut output).take(LONGEST_LINE).read_until(b'\n', &mut raw).is_ok_and(|n| n > 0) {
        line(String::from_utf8_lossy(&raw).trim_end());
        raw.clear();
    }
}

/// An overlay that was mounted `volatile` refuses its upper directory a second time, until its mark is
/// gone. The mark guards against a crash of the machine, after which nothing of a draft is used.
fn clear_volatile(spec: &Spec) {
    // there is none on the first run
    crate::fsx::remove_tree(&spec.work.join("work/incompat")).unwrap_or_default();
}

impl Outcome {
    pub fn success(&self) -> bool {
        self.end == End::Code(0)
    }

    /// `exit code 1`, `signal 9`, `a timeout`.
    pub fn reason(&self) -> String {
        match self.end {
            End::Code(code) => format!("exit code {code}"),
            End::Signal(signal) => format!("signal {signal}"),
            End::Timeout => "a timeout".to_owned(),
        }
    }
}
