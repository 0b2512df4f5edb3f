//! The program of an instance: what gives up all that it must not have, and becomes it.

use std::ffi::CString;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::super::child::{Setup, Step, fault};
use super::super::passing;
use super::super::program::{bound, set_limits, strings};
use super::super::signals::release_signals;
use super::super::spec::SetupFault;
use super::identity::Identity;
use super::setup::Wires;
use super::{Program, Tightness, landlock, profile};

/// What a program is connected to.
pub(super) struct Ends<'a> {
    pub stdio: [BorrowedFd<'a>; 3],
    pub seat: BorrowedFd<'a>,
}

impl<'a> From<&'a Wires> for Ends<'a> {
    fn from(wires: &'a Wires) -> Self {
        let [input, output, errors] = &wires.stdio;
        Ends { stdio: [input.as_fd(), output.as_fd(), errors.as_fd()], seat: wires.seat.as_fd() }
    }
}

/// Returns only when the program cannot be started, with the reason.
pub(super) fn exec(program: &Program, tightness: Tightness, ends: Ends<'_>) -> SetupFault {
    match prepare(program, tightness, &ends) {
        Ok((argv, env, path)) => start(&argv, &env, &path),
        Err(fault) => fault,
    }
}

/// Tells why there is no program, and ends.
pub(super) fn confess(fault: &SetupFault, tell: OwnedFd) -> ! {
    let text = serde_json::to_vec(fault).expect("a fault has string keys only");
    std::fs::File::from(tell).write_all(&text).unwrap_or_default();
    // SAFETY: nothing of the parent's is to be flushed or run by its copy
    unsafe { libc::_exit(0) }
}

type Command = (Vec<CString>, Vec<CString>, String);

fn prepare(program: &Program, tightness: Tightness, ends: &Ends<'_>) -> Setup<Command> {
    rustix::process::setsid().step("begin a session")?;
    set_limits()?;
    let identity = Identity::find(&program.user, Path::new("/"))?;
    connect(program, ends)?;
    let mut env = program.env.clone();
    if !env.iter().any(|(name, _)| name == "HOME") {
        env.push(("HOME".to_owned(), identity.home.clone()));
    }
    let path = env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.clone());
    let argv = strings(program.argv.iter().cloned())?;
    let env = strings(env.iter().map(|(name, value)| format!("{name}={value}")))?;
    let keep = capabilities(tightness);
    bound(keep)?;
    become_user(&identity)?;
    let had = if identity.uid == 0 { keep } else { CapabilitySet::empty() };
    let sets =
        CapabilitySets { effective: had, permitted: had, inheritable: CapabilitySet::empty() };
    rustix::thread::set_capabilities(None, sets).step("drop capabilities")?;
    rustix::process::chdir(program.cwd.as_str()).step(format!("change to `{}`", program.cwd))?;
    release_signals();
    rustix::thread::set_no_new_privs(true).step("forbid new privileges")?;
    if tightness == Tightness::High {
        landlock::restrict(&program.writable)?;
    }
    profile::install(tightness)?;
    Ok((argv, env, path.unwrap_or_default()))
}

/// Names of the capabilities that root has in an instance, as capabilities(7) has them.
pub fn capability_names(tightness: Tightness) -> Vec<String> {
    capabilities(tightness).iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// Docker's capabilities less those that a sandbox has no use for: device nodes cannot be made here
/// anyway, raw sockets and audit records are nobody's need.
fn capabilities(tightness: Tightness) -> CapabilitySet {
    use CapabilitySet as Set;
    let few = Set::CHOWN
        | Set::DAC_OVERRIDE
        | Set::FOWNER
        | Set::FSETID
        | Set::KILL
        | Set::NET_BIND_SERVICE
        | Set::SETGID
        | Set::SETUID;
    let usual = few | Set::SETFCAP | Set::SETPCAP | Set::SYS_CHROOT;
    match tightness {
        Tightness::High => few,
        Tightness::Medium => usual,
        Tightness::Low => usual | Set::AUDIT_WRITE | Set::MKNOD | Set::NET_RAW,
    }
}

fn connect(program: &Program, ends: &Ends<'_>) -> Setup<()> {
    let terminal = match program.terminal {
        true => Some(passing::pass_terminal_over(ends.seat)?),
        false => None,
    };
    let [input, output, errors] = match &terminal {
        Some(terminal) => [terminal.as_fd(); 3],
        None => ends.stdio,
    };
    rustix::stdio::dup2_stdin(input).step("replace stdin")?;
    rustix::stdio::dup2_stdout(output).step("replace stdout")?;
    rustix::stdio::dup2_stderr(errors).step("replace stderr")?;
    match terminal {
        Some(terminal) => rustix::process::ioctl_tiocsctty(&terminal).step("take the terminal"),
        None => Ok(()),
    }
}

fn become_user(identity: &Identity) -> Setup<()> {
    let (user, group) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    let step = || format!("become user {}:{}", identity.uid, identity.gid);
    rustix::thread::set_thread_groups(&groups).step(step())?;
    rustix::thread::set_thread_res_gid(Some(group), Some(group), Some(group)).step(step())?;
    rustix::thread::set_thread_res_uid(Some(user), Some(user), Some(user)).step(step())
}

/// Looks a program up as a shell does.
fn start(argv: &[CString], env: &[CString], path: &str) -> SetupFault {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (argv_pointers, env_pointers) = (pointers(argv), pointers(env));
    let Some(program) = argv.first() else { return fault("read the command", "there is none") };
    let name = program.to_string_lossy().into_owned();
    let places: Vec<CString> = match name.contains('/') {
        true => vec![program.clone()],
        false => {
            path.split(':').filter_map(|dir| CString::new(format!("{dir}/{name}")).ok()).collect()
        }
    };
    let mut reason = std::io::Error::from_raw_os_error(libc::ENOENT);
    for place in places {
        // SAFETY: all strings are NUL-terminated and both arrays end in a null pointer
        unsafe { libc::execve(place.as_ptr(), argv_pointers.as_ptr(), env_pointers.as_ptr()) };
        let error = std::io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOENT) {
            reason = error;
        }
    }
    let errno = reason.raw_os_error();
    SetupFault { step: format!("start `{name}`"), reason: reason.to_string(), errno }
}
