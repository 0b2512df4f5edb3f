//! The first process of an instance: mounts what is its own, starts the program, reaps, passes
//! signals on, and takes all others with it when the program ends.

use std::io::Read;
use std::os::fd::AsFd;

use rustix::process::{Pid, WaitOptions};

use super::super::child::{Setup, Step, die_with_parent, fault, fork};
use super::super::network;
use super::super::signals::Held;
use super::super::spec::{Ended, Report, SetupFault};
use super::setup::Wires;
use super::{Cell, mounts, program};

pub(super) fn main(cell: &Cell, wires: &Wires, keeper: &impl AsFd) -> ! {
    let report = match run(cell, wires, keeper) {
        // attempts to reach others are the gate's to tell of
        Ok(how) => Report::Ended { how, unrouted: 0 },
        Err(fault) => Report::Fault(fault),
    };
    wires.say(&report);
    // SAFETY: nothing of the keeper's is to be flushed or run by its copy
    unsafe { libc::_exit(0) }
}

fn run(cell: &Cell, wires: &Wires, keeper: &impl AsFd) -> Setup<Ended> {
    // after all changes of identity, which would undo it
    die_with_parent()?;
    let mut gone = [rustix::event::PollFd::new(keeper, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::event::poll(&mut gone, Some(&now)).step("look for the keeper")? > 0 {
        return Err(fault("look for the keeper", "it is gone"));
    }
    rustix::system::sethostname(cell.host_name.as_bytes()).step("set the host name")?;
    rustix::system::setdomainname(b"(none)").step("set the domain name")?;
    network::raise_loopback()?;
    mounts::within(cell)?;
    if let (Some(gate), Some(over)) = (&cell.gate, &wires.gate) {
        gate.open(over.as_fd())?;
    }
    let held = Held::all();
    let child = begin(cell, wires)?;
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(hidden).step("hide the first process")?;
    // what the program holds open must end with it
    for fd in [0, 1, 2] {
        // SAFETY: the wires are duplicates of numbers above; nothing here reads or prints
        unsafe { libc::close(fd) };
    }
    close_stdio(wires);
    wires.say(&Report::Running);
    Ok(watch(child, &held))
}

fn close_stdio(wires: &Wires) {
    for fd in &wires.stdio {
        // SAFETY: this process ends by _exit and never drops or uses these
        unsafe { libc::close(std::os::fd::AsRawFd::as_raw_fd(fd)) };
    }
}

/// Starts the program; answers once it is the program.
fn begin(cell: &Cell, wires: &Wires) -> Setup<Pid> {
    let (mut hear, tell) = std::io::pipe().step("open a pipe")?;
    let Some(child) = fork()? else {
        drop(hear);
        let fault = program::exec(&cell.program, cell.tightness, wires.into());
        program::confess(&fault, tell.into());
    };
    drop(tell);
    let mut answer = Vec::new();
    hear.read_to_end(&mut answer).step("wait for the program")?;
    match serde_json::from_slice::<SetupFault>(&answer) {
        Ok(fault) => Err(fault),
        // the pipe was closed by exec
        Err(_) => Ok(child),
    }
}

/// Until the program ends.
fn watch(child: Pid, held: &Held) -> Ended {
    loop {
        while let Ok(Some((ended, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            if ended == child {
                end_all();
                return Ended::of(status);
            }
        }
        match held.next() {
            libc::SIGCHLD | 0 => {}
            signal => pass_on(child, signal),
        }
    }
}

/// All that is left in the namespace of processes: whoever hears of the program's end may count on it.
fn end_all() {
    // SAFETY: numbers; from here the signal goes to everything but this process
    unsafe { libc::kill(-1, libc::SIGKILL) };
    while rustix::process::wait(WaitOptions::empty()).is_ok() {}
}

fn pass_on(child: Pid, signal: libc::c_int) {
    // SAFETY: a number and a signal; a child that has just ended needs none
    unsafe { libc::kill(child.as_raw_nonzero().get(), signal) };
}
