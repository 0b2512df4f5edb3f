//! Another program in an instance that runs: in all its namespaces and groups, and confined alike.

use std::io::{Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::WaitOptions;
use rustix::thread::ThreadNameSpaceType;
use serde::{Deserialize, Serialize};

use super::super::cgroup::Cgroup;
use super::super::child::{Setup, Step, die_with_parent, fault, forget_parent, fork};
use super::super::spec::{Ended, Order, Report, SetupFault};
use super::super::{ENTER_ARGUMENT, passing, sealed};
use super::program::{self, Ends};
use super::{Program, Tightness, ids};

/// What goes into an instance, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Visitor {
    pub program: Program,
    pub tightness: Tightness,
    pub cgroup: Cgroup,
}

/// A program that was started in an instance.
#[derive(Debug)]
pub struct Entered {
    child: Child,
    talk: UnixStream,
    seat: UnixStream,
}

/// Starts a program in the instance of that keeper and first process. It is killed when the caller ends.
pub fn enter(
    sbx: &Path,
    keeper: u32,
    first: BorrowedFd<'_>,
    stdio: [BorrowedFd<'_>; 3],
    visitor: &Visitor,
) -> std::io::Result<Entered> {
    let (mut talk, input) = UnixStream::pair()?;
    let child = Command::new(sbx)
        .arg(ENTER_ARGUMENT)
        .arg(keeper.to_string())
        .env_clear()
        .stdin(Stdio::from(OwnedFd::from(input)))
        .stdout(Stdio::null())
        .stderr(Stdio::inherit())
        .spawn()?;
    let [input, output, errors] = stdio;
    let (seat, far) = UnixStream::pair()?;
    passing::send(talk.as_fd(), &[first, input, output, errors, far.as_fd()])?;
    let order = Order { parent: std::process::id(), emulator: None, spec: visitor };
    let text = serde_json::to_vec(&order).expect("an order has string keys only");
    talk.write_all(&text)?;
    talk.shutdown(std::net::Shutdown::Write)?;
    Ok(Entered { child, talk, seat })
}

impl Entered {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The far end of its terminal, if it was to have one.
    pub fn terminal(&self) -> std::io::Result<Option<OwnedFd>> {
        Ok(passing::receive(self.seat.as_fd())?.into_iter().next())
    }

    /// How it ended, or why it did not begin.
    pub fn wait(mut self) -> std::io::Result<Result<Ended, SetupFault>> {
        let mut answer = Vec::new();
        self.talk.read_to_end(&mut answer)?;
        let status = self.child.wait()?;
        Ok(match serde_json::from_slice(&answer) {
            Ok(Report::Ended { how, .. }) => Ok(how),
            Ok(Report::Fault(fault)) => Err(fault),
            Ok(Report::Running) | Err(_) => {
                Err(fault("enter the instance", &format!("the process that does it: {status}")))
            }
        })
    }
}

/// In the process that goes in.
pub(in super::super) fn main(keeper: Option<u32>) -> ! {
    let control = std::io::stdin();
    let sealed = match keeper {
        // root's file is nobody's inside
        Some(keeper) if !rustix::process::geteuid().is_root() => {
            sealed::restart_beside(keeper, ENTER_ARGUMENT).step("enter the keeper's namespaces")
        }
        _ => Ok(()),
    };
    let report = match sealed.and_then(|()| visit(control.as_fd())) {
        Ok(how) => Report::Ended { how, unrouted: 0 },
        Err(fault) => Report::Fault(fault),
    };
    let text = serde_json::to_vec(&report).expect("a report has string keys only");
    rustix::io::write(control.as_fd(), &text).unwrap_or_default();
    std::process::exit(0)
}

fn visit(control: BorrowedFd<'_>) -> Setup<Ended> {
    forget_parent()?;
    let passed = passing::receive(control).step("take what is passed")?;
    let [first, input, output, errors, seat]: [OwnedFd; 5] =
        passed.try_into().map_err(|_| fault("take what is passed", "something is missing"))?;
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).step("read the order")?;
    let Order { parent, spec, .. }: Order<Visitor> =
        serde_json::from_slice(&text).step("read the order")?;
    // the parent's number is another namespace's: whether it is there, its end of the socket says
    let _ = parent;
    go_in(first.as_fd(), &spec.cgroup)?;
    run_inside(&spec, [input.as_fd(), output.as_fd(), errors.as_fd()], seat.as_fd())
}

/// Moves this process, which has one thread, into all namespaces of an instance, and its children
/// into its process namespace. It is tied to its parent again.
pub fn go_in(first: BorrowedFd<'_>, cgroup: &Cgroup) -> Setup<()> {
    // nobody in there looks into a process on its way in
    let hidden = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(hidden).step("hide this process")?;
    cgroup.join().step("join the control groups")?;
    let all = ThreadNameSpaceType::USER
        | ThreadNameSpaceType::MOUNT
        | ThreadNameSpaceType::PROCESS_ID
        | ThreadNameSpaceType::NETWORK
        | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
        | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
        | ThreadNameSpaceType::CONTROL_GROUP;
    move_into(first, all)?;
    ids::become_root()?;
    die_with_parent()
}

/// Moves this process into the user and network namespaces only, and takes every right from it.
pub fn go_into_network(first: BorrowedFd<'_>) -> Setup<()> {
    move_into(first, ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK)?;
    become_nobody()
}

/// Likewise, with the rights of the network's owner.
pub(super) fn go_into_network_as_root(first: BorrowedFd<'_>) -> Setup<()> {
    move_into(first, ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK)?;
    ids::become_root()
}

/// Takes every right from this process, and ties it to its parent.
pub fn become_nobody() -> Setup<()> {
    use rustix::process::{Gid, Uid};
    let (user, group) = (Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY)));
    rustix::thread::set_thread_groups(&[]).step("leave all groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).step("become nobody")?;
    rustix::thread::set_thread_res_uid(user, user, user).step("become nobody")?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    die_with_parent()
}

/// An engine's container may be in the caller's own user namespace, which nobody enters a second time
/// (setns(2), EINVAL).
fn move_into(first: BorrowedFd<'_>, wanted: ThreadNameSpaceType) -> Setup<()> {
    let others = wanted.difference(ThreadNameSpaceType::USER);
    match rustix::thread::move_into_thread_name_spaces(first, wanted) {
        Err(rustix::io::Errno::INVAL) => {
            rustix::thread::move_into_thread_name_spaces(first, others)
        }
        result => result,
    }
    .step("enter the instance")
}

/// Debian's `nobody`.
const NOBODY: u32 = 65_534;

/// In a process that went in: starts a program and waits for its end.
pub fn run_inside(
    spec: &Visitor,
    stdio: [BorrowedFd<'_>; 3],
    seat: BorrowedFd<'_>,
) -> Setup<Ended> {
    let (mut hear, tell) = std::io::pipe().step("open a pipe")?;
    let Some(child) = fork()? else {
        drop(hear);
        let fault = match die_with_parent() {
            Ok(()) => program::exec(&spec.program, spec.tightness, Ends { stdio, seat }),
            Err(fault) => fault,
        };
        program::confess(&fault, tell.into());
    };
    drop(tell);
    let mut answer = Vec::new();
    hear.read_to_end(&mut answer).step("wait for the program")?;
    if let Ok(fault) = serde_json::from_slice::<SetupFault>(&answer) {
        return Err(fault);
    }
    loop {
        match rustix::process::waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Ok(Ended::of(status)),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).step("wait for the program"),
        }
    }
}
