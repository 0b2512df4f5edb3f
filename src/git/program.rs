//! The machine's `git`: started with as little as it needs, watched while it runs.

use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use super::error::GitError;
use crate::decl::redact;

/// Variables of whoever calls that would make git work on something else, or talk too much.
const UNSET: &[&str] = &[
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_ATTR_SOURCE",
    "GIT_COMMON_DIR",
    "GIT_CURL_VERBOSE",
    "GIT_DIR",
    "GIT_INDEX_FILE",
    "GIT_NAMESPACE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_PREFIX",
    "GIT_QUARANTINE_PATH",
    "GIT_SHALLOW_FILE",
    "GIT_TRACE",
    "GIT_TRACE2",
    "GIT_TRACE2_EVENT",
    "GIT_TRACE2_PERF",
    "GIT_TRACE_CURL",
    "GIT_TRACE_PACKET",
    "GIT_WORK_TREE",
];

/// What no configuration may say otherwise.
const SETTINGS: &[&str] = &[
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "fetch.recurseSubmodules=false",
    "fetch.writeCommitGraph=false",
    "gc.auto=0",
    "maintenance.auto=false",
    "protocol.ext.allow=never",
];

/// How often it is looked whether a program that keeps its pipes open is gone.
const GLANCE: Duration = Duration::from_millis(200);
/// How long such pipes are waited for.
const GRACE: Duration = Duration::from_secs(2);
/// Most bytes of an answer, and of complaints.
const ANSWER: usize = 256 << 20;
const COMPLAINTS: usize = 64 << 10;

/// Git on one repository, for one address.
#[derive(Clone)]
pub(super) struct Program {
    pub dir: std::path::PathBuf,
    /// As messages show it.
    pub url: String,
    pub stall: Duration,
}

/// What a program said.
pub(super) struct Said {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
}

impl Program {
    /// `git VERB …` on the repository.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("git");
        for name in UNSET {
            command.env_remove(name);
        }
        command.env("GIT_DIR", &self.dir).env("GIT_TERMINAL_PROMPT", "0").env("LC_ALL", "C");
        command.env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_NO_LAZY_FETCH", "1");
        for setting in SETTINGS {
            command.args(["-c", setting]);
        }
        let seconds = self.stall.as_secs().max(1);
        command.args(["-c", "http.lowSpeedLimit=1", "-c"]);
        command.arg(format!("http.lowSpeedTime={seconds}"));
        command.args(arguments).current_dir(Path::new("/"));
        command
    }

    pub fn failed(&self, verb: &str, reason: impl Into<String>) -> GitError {
        GitError::Failed { url: self.url.clone(), verb: verb.to_owned(), reason: reason.into() }
    }

    /// Runs to the end; what git complains of is the error.
    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>, GitError> {
        let said = self.try_run(arguments, input)?;
        if said.status.success() {
            return Ok(said.stdout);
        }
        Err(self.failed(verb(arguments), complaint(&said)))
    }

    /// Runs to the end, whatever that is.
    pub fn try_run(&self, arguments: &[&str], input: &[u8]) -> Result<Said, GitError> {
        let verb = verb(arguments);
        let mut command = self.command(arguments);
        // a group of its own, so that what it started ends with it
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.start(command.process_group(0), verb)?;
        if let Some(mut stdin) = child.stdin.take() {
            let input = input.to_vec();
            // beside the reading, lest both wait; whoever ends without reading says why elsewhere
            thread::spawn(move || stdin.write_all(&input).unwrap_or_default());
        }
        let watched = watch(&mut child, self.stall);
        let ended = match watched {
            Some(said) => said,
            None => {
                end(&mut child);
                let (url, verb) = (self.url.clone(), verb.to_owned());
                return Err(GitError::Stalled { url, verb, seconds: self.stall.as_secs() });
            }
        };
        let status = child.wait().map_err(|error| self.failed(verb, error.to_string()))?;
        let (stdout, stderr) = ended;
        let stderr = redact(&String::from_utf8_lossy(&stderr));
        Ok(Said { status, stdout, stderr })
    }

    pub fn start(&self, command: &mut Command, verb: &str) -> Result<Child, GitError> {
        command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => GitError::Missing,
            _ => self.failed(verb, error.to_string()),
        })
    }
}

/// The word that says what git is to do, behind its settings.
fn verb<'a>(arguments: &[&'a str]) -> &'a str {
    arguments
        .iter()
        .find(|word| !word.starts_with('-') && !word.contains('='))
        .copied()
        .unwrap_or("")
}

/// The lines that say what is wrong, without progress.
fn complaint(said: &Said) -> String {
    let lines = said.stderr.lines().map(|line| line.rsplit('\r').next().unwrap_or_default());
    let lines: Vec<&str> = lines.map(str::trim).filter(|line| !line.is_empty()).collect();
    let telling = |line: &&&str| {
        let marks = ["fatal:", "error:", "ERROR:", "remote: error", "ssh:"];
        marks.iter().any(|mark| line.starts_with(mark))
    };
    let found: Vec<&str> = lines.iter().filter(telling).copied().collect();
    match (found.is_empty(), lines.last()) {
        (false, _) => found.join("; "),
        (true, Some(_)) => lines[lines.len().saturating_sub(4)..].join("; "),
        (true, None) => format!("it ended with {}", said.status),
    }
}

/// A pipe's news.
enum News {
    Bytes,
    End(bool, Vec<u8>),
}

/// Reads both pipes to their ends; `None` where nothing came for too long.
fn watch(child: &mut Child, stall: Duration) -> Option<(Vec<u8>, Vec<u8>)> {
    let (sender, news) = channel();
    let stdout = child.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
    let stderr = child.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>);
    for (pipe, is_answer) in [(stdout, true), (stderr, false)] {
        let (sender, pipe) = (sender.clone(), pipe?);
        thread::spawn(move || drain(pipe, is_answer, &sender));
    }
    let (mut answer, mut complaints) = (None, None);
    let (mut last, mut gone) = (Instant::now(), None);
    while answer.is_none() || complaints.is_none() {
        match news.recv_timeout(GLANCE) {
            Ok(News::Bytes) => last = Instant::now(),
            Ok(News::End(true, bytes)) => answer = Some(bytes),
            Ok(News::End(false, bytes)) => complaints = Some(bytes),
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                // something that it left behind may hold on to a pipe
                if gone.is_none() && matches!(child.try_wait(), Ok(Some(_))) {
                    gone = Some(Instant::now());
                }
                if gone.is_some_and(|gone| gone.elapsed() > GRACE) {
                    break;
                }
                if last.elapsed() > stall {
                    return None;
                }
            }
        }
    }
    Some((answer.unwrap_or_default(), complaints.unwrap_or_default()))
}

fn drain(mut pipe: Box<dyn Read + Send>, is_answer: bool, sender: &Sender<News>) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        match pipe.read(&mut buffer) {
            Ok(0) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
            Ok(n) => {
                bytes.extend_from_slice(&buffer[..n]);
                match is_answer {
                    true if bytes.len() > ANSWER => break,
                    true => {}
                    // of complaints the last ones count
                    false => drop(bytes.drain(..bytes.len().saturating_sub(COMPLAINTS))),
                }
                // nobody listens any more where the program was ended
                sender.send(News::Bytes).unwrap_or_default();
            }
        }
    }
    sender.send(News::End(is_answer, bytes)).unwrap_or_default();
}

/// Ends a program and all that it started.
fn end(child: &mut Child) {
    let group = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
    if let Some(group) = group {
        // it may have ended by itself
        rustix::process::kill_process_group(group, rustix::process::Signal::KILL)
            .unwrap_or_default();
    }
    drop(child.wait());
}
