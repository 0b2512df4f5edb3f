//! Credential helpers: somebody else's programs, which are asked who one is.
//!
//! One gets a name, half a minute, and a process group of its own, which ends with it: a child that it
//! leaves behind holds up nobody. Neither what it answers nor what it complains of is ever shown.

use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;

use super::credentials::{Credential, CredentialError};

/// How long a helper may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long its output may stay open after its end.
const GRACE: Duration = Duration::from_millis(500);
/// Longest answer of a helper that is read.
const LONGEST: usize = 1 << 20;
/// How often it is looked after.
const LOOK: Duration = Duration::from_millis(5);

/// What a helper answers, in the words of `docker-credential-helpers`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: String,
    secret: String,
}

/// Asks a helper; `None` where it knows nothing.
pub(super) fn ask(helper: &str, name: &str) -> Result<Option<Credential>, CredentialError> {
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| CredentialError::Helper { program: program.clone(), reason };
    if helper.contains('/') {
        return Err(failed("is no name of a program".to_owned()));
    }
    let mut command = Command::new(&program);
    command.arg("get");
    converse(command, name, PATIENCE).map_err(failed)
}

fn converse(
    mut command: Command,
    name: &str,
    patience: Duration,
) -> Result<Option<Credential>, String> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).process_group(0);
    let child = command.spawn().map_err(|error| format!("cannot be started: {error}"))?;
    let mut running = Running { child, over: false };
    if let Some(mut input) = running.child.stdin.take() {
        // one that does not listen is judged by its end
        input.write_all(name.as_bytes()).unwrap_or_default();
    }
    let (text, status) = running.hear(patience)?;
    if !status.success() {
        let unknown = String::from_utf8_lossy(&text).contains("credentials not found");
        return if unknown { Ok(None) } else { Err(format!("ended with {status}")) };
    }
    if text.len() > LONGEST {
        return Err(format!("gave more than {LONGEST} bytes"));
    }
    let answer: Answer = serde_json::from_slice(&text)
        .map_err(|_| "gave an answer that cannot be read".to_owned())?;
    Ok(Some(Credential::new(&answer.username, &answer.secret)))
}

/// A helper and all that it started.
struct Running {
    child: Child,
    /// Whether nothing is left to be ended.
    over: bool,
}

impl Running {
    /// What it says and how it ends, or that it does not.
    fn hear(mut self, patience: Duration) -> Result<(Vec<u8>, ExitStatus), String> {
        let mut until = Instant::now() + patience;
        let pieces = self.child.stdout.take().map(read).ok_or("has no output")?;
        let (mut text, mut ended) = (Vec::new(), false);
        let is_silent = loop {
            match pieces.recv_timeout(LOOK) {
                Ok(piece) => text.extend(piece),
                Err(RecvTimeoutError::Disconnected) if ended || self.has_ended() => break true,
                Err(RecvTimeoutError::Disconnected) => std::thread::sleep(LOOK),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if text.len() > LONGEST {
                return Err(format!("gave more than {LONGEST} bytes"));
            }
            if !ended && self.has_ended() {
                // whoever holds its output now is somebody that it left behind
                (ended, until) = (true, Instant::now() + GRACE);
            }
            if Instant::now() >= until {
                match ended {
                    true => break false,
                    false => return Err(format!("gave no answer within {patience:?}")),
                }
            }
        };
        if !is_silent {
            self.end_group();
        }
        self.over = true;
        let status = self.child.wait().map_err(|error| format!("cannot be waited for: {error}"))?;
        Ok((text, status))
    }

    /// Whether it has ended. Its number stays its own until it is waited for.
    fn has_ended(&self) -> bool {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_child(&self.child)), options).is_ok_and(|one| one.is_some())
    }

    fn end_group(&self) {
        // there may be nobody left in it
        kill_process_group(Pid::from_child(&self.child), Signal::KILL).unwrap_or_default();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !self.over {
            self.end_group();
            drop(self.child.wait());
        }
    }
}

/// Reads on a thread of its own, which nobody waits for.
fn read(mut output: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, pieces) = channel();
    std::thread::spawn(move || {
        let mut piece = vec![0; 16 << 10];
        while let Ok(count @ 1..) = output.read(&mut piece) {
            if sender.send(piece[..count].to_vec()).is_err() {
                return;
            }
        }
    });
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "echo '{\"Username\":\"me\",\"Secret\":\"geheim\"}'";

    fn hear(script: &str, patience: Duration) -> Result<Option<Credential>, String> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        converse(command, "registry.example.org", patience)
    }

    fn known() -> Option<Credential> {
        let (user, password) = ("me".to_owned(), "geheim".to_owned());
        Some(Credential::Password { user, password })
    }

    #[test]
    fn a_helper_is_given_a_name_and_answers() {
        let script = format!("read -r host; test $host = registry.example.org && {ANSWER}");
        // what is asked ends with the input, not with a line
        assert_eq!(hear(&script.replace("read -r host", "host=$(cat)"), PATIENCE), Ok(known()));
        assert_eq!(hear("echo credentials not found in store; exit 1", PATIENCE), Ok(None));
    }

    #[test]
    fn one_that_hangs_ends_with_all_that_it_started() {
        let dir = tempfile::tempdir().unwrap();
        let pid = dir.path().join("pid");
        let script = format!("sleep 600 & echo $! > {}; wait", pid.display());
        let begun = Instant::now();
        let told = hear(&script, Duration::from_millis(300)).unwrap_err();
        assert_eq!(told, "gave no answer within 300ms");
        assert!(begun.elapsed() < Duration::from_secs(10));
        let child = std::fs::read_to_string(pid).unwrap();
        // it is not waited for here, so a dead one may still have its number
        let status = || std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        let gone = || status().map_or(true, |text| text.contains(") Z "));
        for _ in 0..200 {
            if gone() {
                return;
            }
            std::thread::sleep(LOOK);
        }
        panic!("the helper's child lives on");
    }

    #[test]
    fn a_child_that_holds_the_output_holds_up_nobody() {
        let begun = Instant::now();
        assert_eq!(hear(&format!("sleep 600 & {ANSWER}"), PATIENCE), Ok(known()));
        assert!(begun.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn what_is_no_answer_is_not_shown() {
        for script in
            ["echo geheim", "echo '{\"Username\":\"geheim\"}'", "printf '\\377geheim'", ":"]
        {
            let told = hear(script, PATIENCE).unwrap_err();
            assert_eq!(told, "gave an answer that cannot be read", "{script}");
        }
        let told = hear("exec yes geheim", PATIENCE).unwrap_err();
        assert_eq!(told, "gave more than 1048576 bytes");
        let told = hear("echo geheim; exit 3", PATIENCE).unwrap_err();
        assert_eq!(told, "ended with exit status: 3");
    }
}
