//! The keeper's side: attaches to a container, starts it, and finds its first process.

use std::io::{Read, Write};
use std::os::fd::AsFd;

use bollard::Docker;
use bollard::errors::Error;
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, InspectContainerOptions, ResizeContainerTTYOptionsBuilder,
    StartContainerOptions,
};
use rustix::process::{Pid, PidfdFlags};

use super::super::error::LaunchError;
use super::super::order::Order;
use super::super::undertaker;
use super::Engine;
use super::pump::{Ends, Streams, pump};
use crate::jail::instance::{Started, Wires};
use crate::jail::{Setup, SetupFault, apart, die_with_parent, fork, pass_terminal_over};

fn fault(step: &str, reason: impl ToString, errno: Option<i32>) -> SetupFault {
    SetupFault { step: step.to_owned(), reason: reason.to_string(), errno }
}

impl Engine {
    /// Starts the container of an order. The caller has one thread.
    pub(in super::super) fn start(&self, order: &Order, wires: &Wires) -> Setup<Started> {
        if let (Some(gate), Some(over)) = (&order.cell.gate, &wires.gate) {
            self.hold(order, gate, over)?;
        }
        self.attach(order, wires)?;
        let started = self.begin(&Self::container(&order.record), &order.cell.program.argv[0])?;
        undertaker::send(&started.handle, || self.clean_up(&order.record))?;
        Ok(started)
    }

    /// Starts a container, and finds its first process. The engine is asked by processes that end: what
    /// asks it leaves files open for good, and whoever is forked later closes all that is not its own.
    pub(super) fn begin(&self, name: &str, program: &str) -> Setup<Started> {
        let (pid, id) = apart("start the container", || self.start_container(name, program))?;
        let Some(first) = Pid::from_raw(pid) else {
            return ended_already();
        };
        match rustix::process::pidfd_open(first, PidfdFlags::empty()) {
            Ok(handle) if is_of_container(first, &id) => return Ok(Started { first, handle }),
            _ => {}
        }
        let step = "find the container's first process";
        let running = || {
            let running = self.ask(async |docker| is_running(&docker, name).await);
            running.map_err(|error| fault(step, error, None))
        };
        match apart(step, running)? {
            false => ended_already(),
            true => Err(fault(step, "the engine's containers are not on this machine", None)),
        }
    }

    /// Answers its first process, 0 where that has ended, and its id.
    fn start_container(&self, name: &str, program: &str) -> Setup<(i32, String)> {
        let found = self.ask(async |docker| {
            docker.start_container(name, None::<StartContainerOptions>).await?;
            docker.inspect_container(name, None::<InspectContainerOptions>).await
        });
        let found = found.map_err(|error| explain(&error, program))?;
        let pid = found.state.and_then(|state| state.pid).unwrap_or_default();
        Ok((i32::try_from(pid).unwrap_or_default(), found.id.unwrap_or_default()))
    }

    /// Leaves a process that carries what the container reads and says; answers once it listens.
    fn attach(&self, order: &Order, wires: &Wires) -> Setup<()> {
        let step = "attach to the container";
        let io = |error: std::io::Error| fault(step, &error, error.raw_os_error());
        let (mut hear, tell) = std::io::pipe().map_err(io)?;
        if fork()?.is_none() {
            drop(hear);
            let carried = die_with_parent().and_then(|()| self.carry(order, wires, &tell));
            if let Err(fault) = carried {
                let text = serde_json::to_vec(&fault).expect("a fault has string keys only");
                (&tell).write_all(&text).unwrap_or_default();
            }
            // SAFETY: nothing of the keeper's is to be flushed or run by its copy
            unsafe { libc::_exit(0) }
        }
        drop(tell);
        let mut answer = vec![0];
        hear.read_exact(&mut answer).map_err(io)?;
        if answer == LISTENING {
            return Ok(());
        }
        hear.read_to_end(&mut answer).map_err(io)?;
        Err(serde_json::from_slice(&answer)
            .unwrap_or_else(|_| fault(step, "the process that does it is gone", None)))
    }

    fn carry(&self, order: &Order, wires: &Wires, tell: &std::io::PipeWriter) -> Setup<()> {
        let step = "attach to the container";
        let io = |error: std::io::Error| fault(step, &error, error.raw_os_error());
        let ends = match order.cell.program.terminal {
            true => Ends::of_terminal(pass_terminal_over(wires.seat.as_fd())?).map_err(io)?,
            false => {
                let [input, output, errors] = &wires.stdio;
                let copy = |fd: &std::os::fd::OwnedFd| fd.try_clone().map_err(io);
                Ends::of([copy(input)?, copy(output)?, copy(errors)?])
            }
        };
        let name = Self::container(&order.record);
        let options = AttachContainerOptionsBuilder::default();
        let options = options.stream(true).stdin(true).stdout(true).stderr(true).build();
        let carried = self.ask(async |docker| {
            let attached = docker.attach_container(&name, Some(options)).await?;
            (&*tell).write_all(LISTENING).unwrap_or_default();
            let streams = Streams { output: attached.output, input: attached.input };
            pump(streams, ends, async |rows, columns| {
                let size = ResizeContainerTTYOptionsBuilder::default();
                let size = size.h(rows.into()).w(columns.into()).build();
                docker.resize_container_tty(&name, size).await.is_ok()
            })
            .await
        });
        carried.map_err(|error| fault(step, error, None))
    }
}

async fn is_running(docker: &Docker, name: &str) -> Result<bool, Error> {
    let found = docker.inspect_container(name, None::<InspectContainerOptions>).await?;
    Ok(found.state.and_then(|state| state.running) == Some(true))
}

/// In place of a process that is gone before it was seen: another one that is. How the container ended,
/// the engine is asked.
fn ended_already() -> Setup<Started> {
    let Some(first) = fork()? else {
        // SAFETY: nothing of the keeper's is to be flushed or run by its copy
        unsafe { libc::_exit(0) }
    };
    let handle = rustix::process::pidfd_open(first, PidfdFlags::empty());
    let step = "open a handle of a child";
    let handle = handle.map_err(|error| fault(step, error, Some(error.raw_os_error())))?;
    Ok(Started { first, handle })
}

/// What is said once the container is listened to; no fault begins so.
const LISTENING: &[u8] = b"\n";

/// Whether a number that the engine named is a process of its container on this machine.
fn is_of_container(first: Pid, id: &str) -> bool {
    let path = format!("/proc/{}/cgroup", first.as_raw_nonzero());
    !id.is_empty() && std::fs::read_to_string(path).is_ok_and(|groups| groups.contains(id))
}

/// The engine looks the program up when it starts it, and says so in words only.
fn explain(error: &LaunchError, program: &str) -> SetupFault {
    let reason = error.to_string();
    let errno = match reason.to_lowercase() {
        text if text.contains("not found") || text.contains("no such file") => Some(libc::ENOENT),
        text if text.contains("permission denied") => Some(libc::EACCES),
        _ => None,
    };
    match errno {
        Some(_) if reason.contains(program) => fault(&format!("start `{program}`"), reason, errno),
        _ => fault("start the container", reason, None),
    }
}
