//! The last process: gives up what the program must not have, and becomes it.

use std::ffi::CString;
use std::os::fd::AsFd;

use rustix::process::{Gid, Resource, Rlimit, Uid};

use super::child::{Setup, Step, fault};
use super::spec::Spec;
use super::{filter, passing};

/// Open files: the soft limit that programs which close all of them expect, and room to raise it.
const OPEN_FILES: (u64, u64) = (1024, 65_536);

/// Returns only when the program cannot be started.
pub(super) fn exec(spec: &Spec) -> Setup<()> {
    rustix::process::setsid().step("begin a session")?;
    set_limits()?;
    be_root()?;
    rustix::process::chdir(spec.cwd.as_str()).step(format!("change to `{}`", spec.cwd))?;
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC;
    let null =
        rustix::fs::open("/dev/null", flags, rustix::fs::Mode::empty()).step("open /dev/null")?;
    let terminal = match spec.terminal {
        true => Some(passing::pass_terminal()?),
        false => None,
    };
    let input = terminal.as_ref().unwrap_or(&null);
    rustix::stdio::dup2_stdin(input).step("replace stdin")?;
    if let Some(terminal) = &terminal {
        rustix::process::ioctl_tiocsctty(terminal).step("take the terminal")?;
        rustix::stdio::dup2_stdout(terminal).step("replace stdout")?;
    }
    let argv = strings(spec.argv.iter().cloned())?;
    let env = strings(spec.env.iter().map(|(name, value)| format!("{name}={value}")))?;
    drop_capabilities()?;
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    filter::install()?;
    start(&argv, &env)
}

pub(super) fn strings(texts: impl Iterator<Item = String>) -> Setup<Vec<CString>> {
    texts.map(CString::new).collect::<Result<_, _>>().step("read the command")
}

fn start(argv: &[CString], env: &[CString]) -> Setup<()> {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(argv), pointers(env));
    let program = argv.first().ok_or_else(|| fault("read the command", "there is none"))?;
    // what goes wrong from here is the program's own output; the kept copy tells of a failed exec
    let complaint =
        rustix::io::fcntl_dupfd_cloexec(std::io::stderr().as_fd(), 10).step("keep stderr")?;
    rustix::stdio::dup2_stderr(std::io::stdout().as_fd()).step("join stderr and stdout")?;
    // SAFETY: all strings are NUL-terminated and both arrays end in a null pointer
    unsafe { libc::execve(program.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
    let error = std::io::Error::last_os_error();
    rustix::stdio::dup2_stderr(&complaint).step("restore stderr")?;
    Err(error).step(format!("start `{}`", program.to_string_lossy()))
}

/// The soft limit of open files, and the hard one.
pub fn open_files() -> (u64, u64) {
    let (soft, hard) = OPEN_FILES;
    // raising what the host limits lower is not this process's to do
    let hard = rustix::process::getrlimit(Resource::Nofile).maximum.unwrap_or(hard).min(hard);
    (soft.min(hard), hard)
}

pub(super) fn set_limits() -> Setup<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    rustix::process::setrlimit(Resource::Core, none).step("limit core dumps")?;
    let (soft, hard) = open_files();
    let files = Rlimit { current: Some(soft), maximum: Some(hard) };
    rustix::process::setrlimit(Resource::Nofile, files).step("limit open files")
}

/// Root and nothing but root: the groups of whoever started the build stay outside.
fn be_root() -> Setup<()> {
    let (user, group) = (Some(Uid::ROOT), Some(Gid::ROOT));
    rustix::thread::set_thread_groups(&[]).step("leave all groups")?;
    rustix::thread::set_thread_res_gid(group, group, group).step("become the root group")?;
    rustix::thread::set_thread_res_uid(user, user, user).step("become root")
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
    bound(keep)?;
    let kept = rustix::thread::CapabilitySets {
        effective: keep,
        permitted: keep,
        inheritable: Set::empty(),
    };
    rustix::thread::set_capabilities(None, kept).step("drop capabilities")
}

/// Takes all other capabilities out of the bounding set, for good.
pub(super) fn bound(keep: rustix::thread::CapabilitySet) -> Setup<()> {
    for capability in rustix::thread::CapabilitySet::all().difference(keep).iter() {
        match rustix::thread::remove_capability_from_bounding_set(capability) {
            // one that this kernel does not know cannot be had either
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error).step("drop capabilities"),
        }
    }
    Ok(())
}
