//! The child's side: one thread, from the host's view to the sandbox's.
//!
//! Three processes: the outer one is killed with its parent and holds the time limit; the init is the
//! first of the new process namespace, sets everything up, and takes all others with it when it
//! ends; the program itself. Only the first two ever write reports, and no program can reach them:
//! it lacks the capabilities that looking into them would take.

use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, WaitOptions};
use rustix::thread::UnshareFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::emulator::Ids;
use super::signals::release_signals;
use super::spec::{Ended, Order, Report, SetupFault, Spec};
use super::{mounts, network, passing, program};

/// A step that failed.
pub type Setup<T> = Result<T, SetupFault>;

/// Names the step of an error.
pub(super) trait Step<T> {
    fn step(self, step: impl Into<String>) -> Setup<T>;
}

impl<T, E: std::error::Error + 'static> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Setup<T> {
        self.map_err(|error| {
            let any = &error as &dyn std::error::Error;
            let io = any.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
            let errno = any.downcast_ref::<rustix::io::Errno>().map(|errno| errno.raw_os_error());
            SetupFault { step: step.into(), reason: error.to_string(), errno: io.or(errno) }
        })
    }
}

/// Exit code when the set-up failed; why is in the report.
const SETUP_FAILED: i32 = 125;

pub(super) fn main() -> ! {
    let code = match run() {
        Ok(()) => 0,
        Err(fault) => {
            report(&Report::Fault(fault));
            SETUP_FAILED
        }
    };
    std::process::exit(code)
}

/// Reports go where a process's errors go: the program gets another stderr.
fn report(report: &Report) {
    eprint!("{}", serde_json::to_string(report).expect("a report has string keys only"));
}

fn run() -> Setup<()> {
    forget_parent()?;
    die_with_parent()?;
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).step("read the description")?;
    let order: Order<Spec> = serde_json::from_slice(&text).step("read the description")?;
    let found = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if found.cast_unsigned() != order.parent {
        return Err(fault("look for the parent", "it is gone"));
    }
    unshare()?;
    let own = open_self()?;
    let ids = order.emulator.as_ref().map(|_| Ids::open()).transpose()?;
    let (mut inner, mut outer) = UnixStream::pair().step("join the two first processes")?;
    match fork()? {
        None => {
            drop((inner, ids));
            init(&order, &own, &mut outer)
        }
        Some(pid) => {
            drop(outer);
            if let Some(timeout) = order.spec.timeout {
                set_alarm(timeout)?;
            }
            close_output();
            if let Some(ids) = ids {
                ids.map(pid, &mut inner)?;
            }
            wait_for(pid).map(drop)
        }
    }
}

/// Mounts the sandbox, starts its program and reaps until that ends; all others end with this one.
fn init(order: &Order<Spec>, parent: &impl AsFd, outer: &mut UnixStream) -> Setup<()> {
    let spec = &order.spec;
    die_with_parent()?;
    let mut gone = [rustix::event::PollFd::new(parent, rustix::event::PollFlags::IN)];
    let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
    if rustix::event::poll(&mut gone, Some(&now)).step("look for the parent")? > 0 {
        return Err(fault("look for the parent", "it is gone"));
    }
    let emulator = order.emulator.as_ref();
    let emulator = emulator.map(|emulator| Ok((emulator, emulator.open()?))).transpose()?;
    mounts::enter(spec)?;
    for (from, to) in &spec.renames {
        rustix::fs::rename(from, to).step(format!("move {from}"))?;
    }
    rustix::system::sethostname(b"sbx").step("set the host name")?;
    rustix::system::setdomainname(b"(none)").step("set the domain name")?;
    network::raise_loopback()?;
    passing::pass_sockets(&spec.sockets)?;
    let entered = emulator.map(|(emulator, file)| emulator.enter(&file, outer));
    // kept until the program has ended
    let _table = entered.transpose()?;
    match fork()? {
        None => program::exec(spec),
        Some(pid) => {
            let hidden = rustix::process::DumpableBehavior::NotDumpable;
            rustix::process::set_dumpable_behavior(hidden).step("hide the first process")?;
            close_output();
            let how = wait_for(pid)?;
            report(&Report::Ended { how, unrouted: network::count_unrouted() });
            Ok(())
        }
    }
}

pub(super) fn fault(step: &str, reason: &str) -> SetupFault {
    SetupFault { step: step.to_owned(), reason: reason.to_owned(), errno: None }
}

/// Nothing of what the parent's surroundings left in this process may reach the program: open files,
/// ignored and blocked signals, umask.
pub fn forget_parent() -> Setup<()> {
    close_above(&[])?;
    // the kernel's struct, all zero: the default action, no flags, nothing blocked meanwhile
    let default = [0u64; 4];
    for signal in 1..=64 {
        // SAFETY: the struct outlives the call; the C library's wrapper would spare two signals that
        // may be ignored here all the same, and for KILL and STOP the kernel refuses
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    release_signals();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    Ok(())
}

/// In a process that was forked for something else than its parent does: keeps these files open, and
/// reads and writes nothing otherwise.
pub fn close_all_but(kept: &[RawFd]) -> Setup<()> {
    let null = std::fs::File::options().read(true).write(true).open("/dev/null");
    let null = null.step("open /dev/null")?;
    rustix::stdio::dup2_stdin(null.as_fd()).step("replace stdin")?;
    rustix::stdio::dup2_stdout(null.as_fd()).step("replace stdout")?;
    rustix::stdio::dup2_stderr(null.as_fd()).step("replace stderr")?;
    drop(null);
    close_above(kept)
}

/// Closes what this process has inherited above stderr.
fn close_above(kept: &[RawFd]) -> Setup<()> {
    // collected first: closing while reading would change the directory
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")
        .step("list open files")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !kept.contains(fd)) {
        // SAFETY: this process opened none of them, and what its parent had open it neither uses nor
        // drops; the directory's own number is closed already
        unsafe { libc::close(fd) };
    }
    Ok(())
}

/// Gives what this process does and starts namespaces of its own, but for that of its owners, which is
/// another's to make.
pub(super) fn unshare() -> Setup<()> {
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    // SAFETY: this process has one thread, and none of the flags shares file descriptors or memory
    unsafe { rustix::thread::unshare_unsafe(flags) }.step("unshare namespaces")
}

/// A handle of this process, by which those it starts see that it is gone.
pub(super) fn open_self() -> Setup<OwnedFd> {
    rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
        .step("open a handle of this process")
}

/// `None` in the child.
pub fn fork() -> Setup<Option<Pid>> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).step("fork"),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Does something in a child of this process, which has one thread, and answers what comes of it. In
/// whatever namespaces the child ends up, nothing of this process moves.
pub fn apart<T: Serialize + DeserializeOwned>(
    step: &str,
    work: impl FnOnce() -> Setup<T>,
) -> Setup<T> {
    let (mut hear, mut tell) = std::io::pipe().step("open a pipe")?;
    let Some(child) = fork()? else {
        drop(hear);
        let answer = die_with_parent().and_then(|()| work());
        let text = serde_json::to_vec(&answer).expect("a fault has string keys only");
        // a parent that is gone does not read
        tell.write_all(&text).unwrap_or_default();
        // SAFETY: nothing of the parent's is to be flushed or run by its copy
        unsafe { libc::_exit(0) }
    };
    drop(tell);
    let mut answer = Vec::new();
    hear.read_to_end(&mut answer).step(step)?;
    rustix::process::waitpid(Some(child), WaitOptions::empty()).step(step)?;
    serde_json::from_slice::<Setup<T>>(&answer)
        .unwrap_or_else(|_| Err(fault(step, "the process that does it is gone")))
}

/// The default action of the alarm ends the outer process, and everything with it.
fn set_alarm(timeout: Duration) -> Setup<()> {
    // a timer of zero would be none
    let timeout = timeout.max(Duration::from_micros(1));
    let value = libc::timeval {
        tv_sec: timeout.as_secs().try_into().unwrap_or(i64::MAX),
        tv_usec: timeout.subsec_micros().into(),
    };
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let timer = libc::itimerval { it_interval: never, it_value: value };
    // SAFETY: the timer outlives the call, and the former one is not asked for
    match unsafe { libc::setitimer(libc::ITIMER_REAL, &timer, std::ptr::null_mut()) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).step("set the time limit"),
    }
}

/// Waits for one process, reaping whatever else ends.
pub(super) fn wait_for(pid: Pid) -> Setup<Ended> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => {
                return Ok(Ended::of(status));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).step("wait for the sandbox"),
        }
    }
}

/// Output belongs to the program alone: the parent sees its end when the last of its writers is gone.
fn close_output() {
    let flags = rustix::fs::OFlags::RDWR | rustix::fs::OFlags::CLOEXEC;
    if let Ok(null) = rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()) {
        rustix::stdio::dup2_stdin(&null).unwrap_or_default();
        rustix::stdio::dup2_stdout(&null).unwrap_or_default();
    }
}

pub fn die_with_parent() -> Setup<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .step("tie the sandbox to its parent")
}
