//! The child's side: one thread, from the host's view to the sandbox's, then exec.

use std::ffi::CString;
use std::io::Read;
use std::os::fd::AsFd;

use rustix::process::{Pid, Resource, Rlimit, WaitOptions};
use rustix::thread::UnshareFlags;

use super::spawn::{SetupFault, Spec};
use super::{filter, mounts};

/// A step that failed.
pub(super) type Setup<T> = Result<T, SetupFault>;

/// Names the step of an error.
pub(super) trait Step<T> {
    fn step(self, step: impl Into<String>) -> Setup<T>;
}

impl<T, E: std::fmt::Display> Step<T> for Result<T, E> {
    fn step(self, step: impl Into<String>) -> Setup<T> {
        self.map_err(|error| SetupFault { step: step.into(), reason: error.to_string() })
    }
}

/// Exit code when the set-up failed: the parent reads why from stderr.
const SETUP_FAILED: i32 = 125;

pub(super) fn main() -> ! {
    let code = match run() {
        Ok(code) => code,
        Err(fault) => {
            let text = serde_json::to_string(&fault).unwrap_or(fault.reason);
            eprint!("{text}");
            SETUP_FAILED
        }
    };
    std::process::exit(code)
}

fn run() -> Setup<i32> {
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text).step("read the description")?;
    let spec: Spec = serde_json::from_slice(&text).step("read the description")?;
    die_with_parent()?;
    let flags = UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWCGROUP;
    // SAFETY: this process has one thread, and none of the flags shares file descriptors or memory
    unsafe { rustix::thread::unshare_unsafe(flags) }.step("unshare namespaces")?;
    match fork()? {
        // the first process of the new process namespace
        None => init(&spec),
        Some(pid) => {
            close_stdio();
            wait_for(pid)
        }
    }
}

/// Mounts the sandbox, starts its program and reaps until that ends; all others end with this one.
fn init(spec: &Spec) -> Setup<i32> {
    die_with_parent()?;
    mounts::enter(spec)?;
    rustix::system::sethostname(b"sbx").step("set the host name")?;
    raise_loopback()?;
    match fork()? {
        None => exec(spec),
        Some(pid) => {
            close_stdio();
            wait_for(pid)
        }
    }
}

fn exec(spec: &Spec) -> Setup<i32> {
    rustix::process::setsid().step("begin a session")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    let limit = |soft| Rlimit { current: Some(soft), maximum: Some(soft) };
    rustix::process::setrlimit(Resource::Core, limit(0)).step("limit core dumps")?;
    rustix::process::setrlimit(Resource::Nofile, limit(1024)).step("limit open files")?;
    rustix::process::chdir(spec.cwd.as_str()).step(format!("change to {}", spec.cwd))?;
    let null = rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty())
        .step("open /dev/null")?;
    rustix::stdio::dup2_stdin(&null).step("replace stdin")?;
    let strings = |texts: &mut dyn Iterator<Item = String>| {
        texts.map(CString::new).collect::<Result<Vec<_>, _>>().step("read the command")
    };
    let argv = strings(&mut spec.argv.iter().cloned())?;
    let env = strings(&mut spec.env.iter().map(|(name, value)| format!("{name}={value}")))?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    filter::install()?;
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(&argv), pointers(&env));
    let program = argv.first().ok_or("there is none").step("read the command")?;
    // what goes wrong from here is the program's own output; the kept copy tells of a failed exec
    let complaint =
        rustix::io::fcntl_dupfd_cloexec(std::io::stderr().as_fd(), 10).step("keep stderr")?;
    rustix::stdio::dup2_stderr(std::io::stdout().as_fd()).step("join stderr and stdout")?;
    // SAFETY: all strings are NUL-terminated and both arrays end in a null pointer
    unsafe { libc::execve(program.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
    let error = std::io::Error::last_os_error();
    rustix::stdio::dup2_stderr(&complaint).step("restore stderr")?;
    Err(error).step(format!("start {}", program.to_string_lossy()))
}

/// `None` in the child.
fn fork() -> Setup<Option<Pid>> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may
    match unsafe { libc::fork() } {
        -1 => Err(std::io::Error::last_os_error()).step("fork"),
        pid => Ok(Pid::from_raw(pid)),
    }
}

/// Waits for one process, reaping whatever else ends. Answers what `exit` is to be called with.
fn wait_for(pid: Pid) -> Setup<i32> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((ended, status))) if ended == pid => {
                return Ok(status
                    .exit_status()
                    .unwrap_or_else(|| 128 + status.terminating_signal().unwrap_or(0)));
            }
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).step("wait for the sandbox"),
        }
    }
}

/// The pipes belong to the program alone: the parent sees their end when the program's is closed.
fn close_stdio() {
    if let Ok(null) =
        rustix::fs::open("/dev/null", rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty())
    {
        rustix::stdio::dup2_stdin(&null).unwrap_or_default();
        rustix::stdio::dup2_stdout(&null).unwrap_or_default();
        rustix::stdio::dup2_stderr(&null).unwrap_or_default();
    }
}

fn die_with_parent() -> Setup<()> {
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))
        .step("tie the sandbox to its parent")
}

/// Capabilities that dpkg and maintainer scripts need; all others leave the bounding set.
fn drop_capabilities() -> Setup<()> {
    use rustix::thread::CapabilitySet as Set;
    let keep = Set::CHOWN
        | Set::DAC_OVERRIDE
        | Set::FOWNER
        | Set::FSETID
        | Set::KILL
        | Set::SETGID
        | Set::SETUID
        | Set::SETFCAP
        | Set::SYS_CHROOT;
    for capability in Set::all().difference(keep).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // one that this kernel does not know cannot be had either
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).step("drop capabilities"),
        }
    }
    let kept = rustix::thread::CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: Set::empty(),
    };
    rustix::thread::set_capabilities(None, kept).step("drop capabilities")
}

/// Brings the loopback interface up (netdevice(7)): nothing else is in the namespace.
fn raise_loopback() -> Setup<()> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    let socket = socket_with(AddressFamily::INET, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .step("open a socket")?;
    // SAFETY: an all-zero ifreq is valid; it is given the name and the flags of one interface
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (slot, byte) in request.ifr_name.iter_mut().zip(b"lo\0") {
        *slot = byte.cast_signed();
    }
    // the flags fit a short by definition
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    // SAFETY: the descriptor is open and the request outlives the call
    match unsafe { libc::ioctl(fd, libc::SIOCSIFFLAGS, &request) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()).step("raise the loopback interface"),
    }
}
