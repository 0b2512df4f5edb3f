//! System calls that an instance's programs may make (seccomp(2)): those that docker's default profile
//! allows a container of its default capabilities. All others are answered with EPERM.
//!
//! Three calls depend on their arguments: clone without namespaces, personality with harmless values,
//! socket of any family but the host's (AF_VSOCK), at `high` of a few families. Newer calls, which a C library tries before it
//! falls back, are answered with ENOSYS.

use std::sync::OnceLock;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompRule,
};
use serde_json::json;

use super::super::child::{Setup, Step};
use super::super::filter::{self, Answer, NAMESPACES, PERSONALITIES};
use super::Tightness;

/// A system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Call {
    name: &'static str,
    number: libc::c_long,
}

macro_rules! calls {
    ($($call:ident),* $(,)?) => {
        &[$(Call { name: stringify!($call).split_at("SYS_".len()).1, number: libc::$call }),*]
    };
}

/// On every architecture.
#[rustfmt::skip]
const ALLOWED: &[Call] = calls![
    SYS_accept, SYS_accept4, SYS_adjtimex, SYS_bind, SYS_brk,
    SYS_capget, SYS_capset, SYS_chdir, SYS_chroot,
    SYS_clock_adjtime, SYS_clock_getres, SYS_clock_gettime,
    SYS_clock_nanosleep, SYS_close, SYS_close_range,
    SYS_connect, SYS_copy_file_range, SYS_dup, SYS_dup3,
    SYS_epoll_create1, SYS_epoll_ctl, SYS_epoll_pwait, SYS_epoll_pwait2,
    SYS_eventfd2, SYS_execve, SYS_execveat, SYS_exit,
    SYS_exit_group, SYS_faccessat, SYS_faccessat2, SYS_fadvise64,
    SYS_fallocate, SYS_fanotify_mark, SYS_fchdir, SYS_fchmod,
    SYS_fchmodat, SYS_fchown, SYS_fchownat, SYS_fcntl,
    SYS_fdatasync, SYS_fgetxattr, SYS_flistxattr, SYS_flock,
    SYS_fremovexattr, SYS_fsetxattr, SYS_fstat, SYS_fstatfs,
    SYS_fsync, SYS_ftruncate, SYS_futex, SYS_futex_waitv,
    SYS_get_robust_list, SYS_getcpu, SYS_getcwd, SYS_getdents64,
    SYS_getegid, SYS_geteuid, SYS_getgid, SYS_getgroups,
    SYS_getitimer, SYS_getpeername, SYS_getpgid, SYS_getpid,
    SYS_getppid, SYS_getpriority, SYS_getrandom, SYS_getresgid,
    SYS_getresuid, SYS_getrlimit, SYS_getrusage, SYS_getsid,
    SYS_getsockname, SYS_getsockopt, SYS_gettid, SYS_gettimeofday,
    SYS_getuid, SYS_getxattr, SYS_inotify_add_watch, SYS_inotify_init1,
    SYS_inotify_rm_watch, SYS_io_cancel, SYS_io_destroy, SYS_io_getevents,
    SYS_io_setup, SYS_io_submit, SYS_ioctl, SYS_ioprio_get,
    SYS_ioprio_set, SYS_kill, SYS_landlock_add_rule,
    SYS_landlock_create_ruleset, SYS_landlock_restrict_self, SYS_lgetxattr,
    SYS_linkat, SYS_listen, SYS_listxattr, SYS_llistxattr,
    SYS_lremovexattr, SYS_lseek, SYS_lsetxattr, SYS_madvise,
    SYS_membarrier, SYS_memfd_create, SYS_memfd_secret, SYS_mincore,
    SYS_mkdirat, SYS_mknodat, SYS_mlock, SYS_mlock2, SYS_mlockall,
    SYS_mmap, SYS_mprotect, SYS_mq_getsetattr, SYS_mq_notify,
    SYS_mq_open, SYS_mq_timedreceive, SYS_mq_timedsend, SYS_mq_unlink,
    SYS_mremap, SYS_mseal, SYS_msgctl, SYS_msgget, SYS_msgrcv,
    SYS_msgsnd, SYS_msync, SYS_munlock, SYS_munlockall, SYS_munmap,
    SYS_name_to_handle_at, SYS_nanosleep, SYS_newfstatat, SYS_openat,
    SYS_openat2, SYS_pidfd_open, SYS_pidfd_send_signal, SYS_pipe2,
    SYS_pkey_alloc, SYS_pkey_free, SYS_pkey_mprotect, SYS_ppoll,
    SYS_prctl, SYS_pread64, SYS_preadv, SYS_preadv2, SYS_prlimit64,
    SYS_process_mrelease, SYS_process_vm_readv, SYS_process_vm_writev,
    SYS_pselect6, SYS_ptrace, SYS_pwrite64, SYS_pwritev,
    SYS_pwritev2, SYS_read, SYS_readahead, SYS_readlinkat,
    SYS_readv, SYS_recvfrom, SYS_recvmmsg, SYS_recvmsg,
    SYS_remap_file_pages, SYS_removexattr, SYS_renameat, SYS_renameat2,
    SYS_restart_syscall, SYS_rseq, SYS_rt_sigaction, SYS_rt_sigpending,
    SYS_rt_sigprocmask, SYS_rt_sigqueueinfo, SYS_rt_sigreturn,
    SYS_rt_sigsuspend, SYS_rt_sigtimedwait, SYS_rt_tgsigqueueinfo,
    SYS_sched_get_priority_max, SYS_sched_get_priority_min,
    SYS_sched_getaffinity, SYS_sched_getattr, SYS_sched_getparam,
    SYS_sched_getscheduler, SYS_sched_rr_get_interval, SYS_sched_setaffinity,
    SYS_sched_setattr, SYS_sched_setparam, SYS_sched_setscheduler,
    SYS_sched_yield, SYS_seccomp, SYS_semctl, SYS_semget, SYS_semop,
    SYS_semtimedop, SYS_sendfile, SYS_sendmmsg, SYS_sendmsg,
    SYS_sendto, SYS_set_robust_list, SYS_set_tid_address, SYS_setfsgid,
    SYS_setfsuid, SYS_setgid, SYS_setgroups, SYS_setitimer,
    SYS_setpgid, SYS_setpriority, SYS_setregid, SYS_setresgid,
    SYS_setresuid, SYS_setreuid, SYS_setrlimit, SYS_setsid,
    SYS_setsockopt, SYS_setuid, SYS_setxattr, SYS_shmat, SYS_shmctl,
    SYS_shmdt, SYS_shmget, SYS_shutdown, SYS_sigaltstack,
    SYS_signalfd4, SYS_socketpair, SYS_splice, SYS_statfs,
    SYS_statx, SYS_symlinkat, SYS_sync, SYS_sync_file_range,
    SYS_syncfs, SYS_sysinfo, SYS_tee, SYS_tgkill, SYS_timer_create,
    SYS_timer_delete, SYS_timer_getoverrun, SYS_timer_gettime,
    SYS_timer_settime, SYS_timerfd_create, SYS_timerfd_gettime,
    SYS_timerfd_settime, SYS_times, SYS_tkill, SYS_truncate,
    SYS_umask, SYS_uname, SYS_unlinkat, SYS_utimensat, SYS_vmsplice,
    SYS_wait4, SYS_waitid, SYS_write, SYS_writev,
];
/// On amd64 only: calls that have better successors, and its own.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const LEGACY: &[Call] = calls![
    SYS_access, SYS_alarm, SYS_arch_prctl, SYS_chmod, SYS_chown,
    SYS_creat, SYS_dup2, SYS_epoll_create, SYS_epoll_ctl_old,
    SYS_epoll_wait, SYS_epoll_wait_old, SYS_eventfd, SYS_fchmodat2,
    SYS_fork, SYS_futimesat, SYS_get_thread_area, SYS_getdents,
    SYS_getpgrp, SYS_inotify_init, SYS_lchown, SYS_link, SYS_lstat,
    SYS_mkdir, SYS_mknod, SYS_modify_ldt, SYS_open, SYS_pause,
    SYS_pipe, SYS_poll, SYS_readlink, SYS_rename, SYS_rmdir,
    SYS_select, SYS_set_thread_area, SYS_signalfd, SYS_stat,
    SYS_symlink, SYS_time, SYS_unlink, SYS_utime, SYS_utimes,
    SYS_vfork,
];
#[cfg(not(target_arch = "x86_64"))]
const LEGACY: &[Call] = &[];

/// Calls that the C library's crate has no names for; one number everywhere.
const UNNAMED: &[Call] = &[
    Call { name: "cachestat", number: 451 },
    Call { name: "map_shadow_stack", number: 453 },
    Call { name: "futex_wake", number: 454 },
    Call { name: "futex_wait", number: 455 },
    Call { name: "futex_requeue", number: 456 },
];

/// What `high` takes away: looking into other processes, pinning memory, and parts of the kernel that
/// few programs use and many holes were found in.
const RISKY: &[Call] = calls![
    SYS_fanotify_mark,
    SYS_memfd_secret,
    SYS_mlockall,
    SYS_mq_notify,
    SYS_mq_open,
    SYS_msgget,
    SYS_name_to_handle_at,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_ptrace,
    SYS_remap_file_pages,
    SYS_semget,
    SYS_shmget,
    SYS_vmsplice,
];

/// The families of sockets that `high` leaves.
const FAMILIES: &[libc::c_int] = &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK];

/// Answered as if the kernel were older, not as if it were forbidden: programs have another way then.
const ABSENT: &[Call] =
    calls![SYS_clone3, SYS_io_uring_enter, SYS_io_uring_register, SYS_io_uring_setup,];

/// Installs the filter for this process and all that come from it.
pub(super) fn install(tightness: Tightness) -> Setup<()> {
    let step = "install the system call filter";
    match tightness {
        Tightness::Low | Tightness::Medium => seccompiler::apply_filter(usual()?).step(step),
        Tightness::High => seccompiler::apply_filter(&program(tightness)?).step(step),
    }
}

/// Makes what most instances' filter is, for those that this process or its children start.
pub fn prepare() {
    // what is wrong with it is said when it is wanted
    drop(usual());
}

fn usual() -> Setup<&'static BpfProgram> {
    static USUAL: OnceLock<BpfProgram> = OnceLock::new();
    match USUAL.get() {
        Some(program) => Ok(program),
        None => program(Tightness::Medium).map(|program| USUAL.get_or_init(|| program)),
    }
}

fn program(tightness: Tightness) -> Setup<BpfProgram> {
    let allowed: Vec<libc::c_long> = unconditional(tightness).map(|call| call.number).collect();
    let absent: Vec<libc::c_long> = ABSENT.iter().map(|call| call.number).collect();
    let answers = [(&*absent, Answer::Error(libc::ENOSYS)), (&*allowed, Answer::Allow)];
    let rules = conditional(tightness).step("write the system call filter")?;
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    let rest = filter::compile(rules.into_iter().collect(), SeccompAction::Allow, refuse)?;
    Ok(filter::decide(&answers, rest))
}

/// Those that may be made whatever their arguments are.
fn unconditional(tightness: Tightness) -> impl Iterator<Item = &'static Call> {
    let refused: &[Call] = if tightness == Tightness::High { RISKY } else { &[] };
    let all = ALLOWED.iter().chain(LEGACY).chain(UNNAMED);
    all.filter(|call| !refused.contains(call))
}

type Rules = Vec<(i64, Vec<SeccompRule>)>;

fn conditional(tightness: Tightness) -> Result<Rules, seccompiler::BackendError> {
    use SeccompCmpArgLen::{Dword, Qword};
    let when = |len, op, value| SeccompRule::new(vec![SeccompCondition::new(0, len, op, value)?]);
    let personalities = PERSONALITIES.iter().map(|value| when(Dword, SeccompCmpOp::Eq, *value));
    let families = match tightness {
        Tightness::High => FAMILIES
            .iter()
            .map(|family| when(Dword, SeccompCmpOp::Eq, u64::from(family.unsigned_abs())))
            .collect::<Result<_, _>>()?,
        Tightness::Low | Tightness::Medium => vec![when(Dword, SeccompCmpOp::Ne, VSOCK)?],
    };
    Ok(vec![
        (libc::SYS_clone, vec![when(Qword, SeccompCmpOp::MaskedEq(NAMESPACES), 0)?]),
        (libc::SYS_personality, personalities.collect::<Result<_, _>>()?),
        (libc::SYS_socket, families),
    ])
}

/// The same rules in the words of the OCI runtime specification (`linux.seccomp`), which docker's
/// profiles share.
pub fn profile_document(tightness: Tightness) -> serde_json::Value {
    let names = |calls: &mut dyn Iterator<Item = &'static Call>| -> Vec<&str> {
        calls.map(|call| call.name).collect()
    };
    let argument = |op: &str, value: u64, value_two: u64| json!([{"index": 0, "value": value, "valueTwo": value_two, "op": op}]);
    let allow = |name: &str, arguments: serde_json::Value| json!({"names": [name], "action": "SCMP_ACT_ALLOW", "args": arguments});
    let mut rules = vec![
        json!({"names": names(&mut unconditional(tightness)), "action": "SCMP_ACT_ALLOW"}),
        json!({
            "names": names(&mut ABSENT.iter()),
            "action": "SCMP_ACT_ERRNO",
            "errnoRet": libc::ENOSYS,
        }),
        allow("clone", argument("SCMP_CMP_MASKED_EQ", NAMESPACES, 0)),
    ];
    match tightness {
        Tightness::High => rules.extend(FAMILIES.iter().map(|family| {
            allow("socket", argument("SCMP_CMP_EQ", family.unsigned_abs().into(), 0))
        })),
        Tightness::Low | Tightness::Medium => {
            rules.push(allow("socket", argument("SCMP_CMP_NE", VSOCK, 0)));
        }
    }
    let personalities = PERSONALITIES.iter();
    rules.extend(
        personalities.map(|value| allow("personality", argument("SCMP_CMP_EQ", *value, 0))),
    );
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": libc::EPERM,
        "architectures": [ARCHITECTURE],
        "syscalls": rules,
    })
}

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: &str = "SCMP_ARCH_X86_64";
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: &str = "SCMP_ARCH_AARCH64";
/// The family of sockets that lead to a virtual machine's host.
const VSOCK: u64 = libc::AF_VSOCK as u64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filter_has_each_call_and_no_other() {
        let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
        for tightness in [Tightness::Low, Tightness::Medium, Tightness::High] {
            let program = program(tightness).unwrap();
            let ask = |number: libc::c_long, first: u64| {
                let number = u32::try_from(number).unwrap();
                filter::ask(&program, number, filter::OWN_ARCHITECTURE, [first, 0, 0, 0, 0, 0])
            };
            let allowed: Vec<i64> = unconditional(tightness).map(|call| call.number).collect();
            let argued = [libc::SYS_clone, libc::SYS_personality, libc::SYS_socket];
            for number in (0..1000).filter(|number| !argued.contains(number)) {
                let expected = match number {
                    _ if allowed.contains(&number) => libc::SECCOMP_RET_ALLOW,
                    _ if ABSENT.iter().any(|call| call.number == number) => errno(libc::ENOSYS),
                    _ => errno(libc::EPERM),
                };
                assert_eq!(ask(number, 0), expected, "{number}");
            }
            let flags = |flags: libc::c_int| u64::from(flags.cast_unsigned());
            assert_eq!(ask(libc::SYS_clone, flags(libc::SIGCHLD)), libc::SECCOMP_RET_ALLOW);
            assert_eq!(ask(libc::SYS_clone, flags(libc::CLONE_NEWNS)), errno(libc::EPERM));
            assert_eq!(ask(libc::SYS_personality, 0x8), libc::SECCOMP_RET_ALLOW);
            assert_eq!(ask(libc::SYS_personality, 0x40000), errno(libc::EPERM));
            assert_eq!(ask(libc::SYS_socket, flags(libc::AF_INET)), libc::SECCOMP_RET_ALLOW);
            assert_eq!(ask(libc::SYS_socket, VSOCK), errno(libc::EPERM));
            let packets = ask(libc::SYS_socket, flags(libc::AF_PACKET)) == libc::SECCOMP_RET_ALLOW;
            assert_eq!(packets, tightness != Tightness::High);
        }
    }

    #[test]
    fn the_document_has_what_the_filter_has() {
        for tightness in [Tightness::Low, Tightness::Medium, Tightness::High] {
            let document = profile_document(tightness);
            let allowed = document["syscalls"][0]["names"].as_array().unwrap();
            assert_eq!(allowed.len(), unconditional(tightness).count());
            let has = |name: &str| allowed.iter().any(|known| known == name);
            assert!(has("openat") && !has("mount") && !has("clone3") && !has("clone"));
            assert_eq!(has("ptrace"), tightness != Tightness::High);
        }
    }
}
