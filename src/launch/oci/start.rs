//! The keeper's side: from an order to a process that a runtime started.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::FileType;
use rustix::process::{Pid, PidfdFlags};
use serde::Deserialize;

use super::super::order::Order;
use super::super::undertaker;
use super::Runtime;
use super::config::document;
use crate::jail::instance::{Started, Wires, lay_root};
use crate::jail::{Setup, SetupFault, apart, receive, send};

/// In the bundle, by names that are short wherever the bundle lies.
const CONSOLE: &str = "console";
const LOG: &str = "log";
const PID: &str = "pid";

fn failed<T, E: std::fmt::Display>(step: &str) -> impl FnOnce(E) -> Setup<T> {
    move |error| Err(SetupFault { step: step.to_owned(), reason: error.to_string(), errno: None })
}

impl Runtime {
    /// Has the runtime make the instance, then start it. The caller has one thread, and becomes the
    /// parent of what comes of it.
    pub(in super::super) fn start(&self, order: &Order, wires: &Wires) -> Setup<Started> {
        let step = "become the instance's parent";
        rustix::process::set_child_subreaper(rustix::process::Pid::from_raw(1))
            .or_else(failed(step))?;
        let first: i32 = apart("make the instance", || self.make(order, wires))?;
        let first = Pid::from_raw(first).ok_or("it has no number").or_else(failed("start"))?;
        let handle = rustix::process::pidfd_open(first, PidfdFlags::empty())
            .or_else(failed("open a handle of the instance"))?;
        undertaker::send(&handle, || {})?;
        if let (Some(gate), Some(over)) = (&order.cell.gate, &wires.gate) {
            gate.open_beside(handle.as_fd(), over.as_fd())?;
        }
        let bundle = Bundle { dir: order.dir.join("bundle"), program: &order.cell.program.argv[0] };
        let mut command = self.command();
        command.args(["start", &Self::id(&order.record)]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let output = command.output().or_else(failed("start the instance"))?;
        if !output.status.success() {
            return Err(bundle.explain(&String::from_utf8_lossy(&output.stderr)));
        }
        Ok(Started { first, handle })
    }

    /// In a process of its own, whose view of the file systems ends with it.
    fn make(&self, order: &Order, wires: &Wires) -> Setup<i32> {
        let id = Self::id(&order.record);
        let bundle = Bundle { dir: order.dir.join("bundle"), program: &order.cell.program.argv[0] };
        fs::create_dir(&bundle.dir).or_else(failed("make the bundle"))?;
        let laid = lay_root(&order.cell)?;
        let text = document(&order.cell, order.quota, &id, &laid);
        fs::write(bundle.dir.join("config.json"), text).or_else(failed("write the bundle"))?;
        // names that are short wherever the bundle lies: sockets have a hundred bytes for theirs
        rustix::process::chdir(&bundle.dir).or_else(failed("enter the bundle"))?;
        let console = match order.cell.program.terminal {
            true => Some(UnixListener::bind(CONSOLE).or_else(failed("open the console"))?),
            false => None,
        };
        let mut command = self.command();
        command.arg("--log").arg(bundle.dir.join(LOG)).args(["--log-format", "json"]);
        command.args(["create", "--bundle", ".", "--pid-file", PID]);
        if console.is_some() {
            command.args(["--console-socket", CONSOLE]);
        }
        let own = |fd: &std::os::fd::OwnedFd| fd.try_clone().or_else(failed("copy a descriptor"));
        let [input, output, errors] = &wires.stdio;
        let input = no_device(own(input)?).or_else(failed("open a pipe"))?;
        command.arg(&id).stdin(input).stdout(own(output)?).stderr(own(errors)?);
        let status = command.status().or_else(failed("start the runtime"))?;
        if !status.success() {
            return Err(bundle.explain(&format!("`{}`: {status}", self.name())));
        }
        if let Some(console) = console {
            let (stream, _) = console.accept().or_else(failed("take the terminal"))?;
            let far = receive(stream.as_fd()).or_else(failed("take the terminal"))?;
            let far: Vec<_> = far.iter().map(AsFd::as_fd).collect();
            send(wires.seat.as_fd(), &far).or_else(failed("hand the terminal on"))?;
        }
        let number = fs::read_to_string(PID).or_else(failed("read the instance's number"))?;
        number.trim().parse().or_else(failed("read the instance's number"))
    }
}

/// crun gives its program's stdin to the instance's root, were it this machine's `/dev/null`; a pipe
/// that has ended says as much.
fn no_device(input: OwnedFd) -> io::Result<OwnedFd> {
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&input)?.st_mode);
    if kind != FileType::CharacterDevice {
        return Ok(input);
    }
    let (ended, _) = io::pipe()?;
    Ok(ended.into())
}

/// What a runtime is given, and where it complains.
struct Bundle<'a> {
    dir: PathBuf,
    program: &'a str,
}

/// A line of a runtime's log.
#[derive(Deserialize)]
struct Complaint {
    level: String,
    msg: String,
}

impl Bundle<'_> {
    /// Why there is no instance: what the runtime said last, or else `otherwise`.
    fn explain(&self, otherwise: &str) -> SetupFault {
        let said = read(&self.dir.join(LOG));
        let last = said.lines().rev().find_map(|line| {
            let complaint: Complaint = serde_json::from_str(line).ok()?;
            (complaint.level == "error").then_some(complaint.msg)
        });
        let reason = last.unwrap_or_else(|| otherwise.trim().to_owned());
        // the runtime looks the program up before it starts it, and says so in words only
        let errno = match reason.to_lowercase() {
            text if text.contains("not found") || text.contains("no such file") => {
                Some(libc::ENOENT)
            }
            text if text.contains("permission denied") => Some(libc::EACCES),
            _ => None,
        };
        let step = match errno {
            // crun does not name it
            Some(_) if reason.contains(self.program) || reason.contains("executable") => {
                format!("start `{}`", self.program)
            }
            _ => "make the instance".to_owned(),
        };
        SetupFault { step, reason, errno }
    }
}

/// Whatever can be read of a file.
fn read(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(file) = File::open(path) {
        file.take(1 << 20).read_to_end(&mut text).map(drop).unwrap_or_default();
    }
    String::from_utf8_lossy(&text).into_owned()
}
