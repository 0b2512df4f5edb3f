//! System calls that no build step needs (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, sock_filter,
};

use super::child::{Setup, Step};

/// Refused with EPERM: mounts, namespaces, keys, kernel modules, tracing, clocks, and the ways around.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_adjtimex,
    libc::SYS_bpf,
    libc::SYS_clock_adjtime,
    libc::SYS_clock_settime,
    libc::SYS_delete_module,
    libc::SYS_fanotify_init,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kcmp,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mbind,
    libc::SYS_migrate_pages,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_pidfd_getfd,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_process_madvise,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_ptrace,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_settimeofday,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Flags of clone(2) that make namespaces.
pub(super) const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// personality(2) as Docker allows it: the query, plain Linux, its 32-bit form, and either without
/// address randomisation of the kernel's.
pub(super) const PERSONALITIES: &[u64] = &[0xffff_ffff, 0, 0x8, 0x2_0000, 0x2_0008];

/// Installs the filters for this process and all that come from it.
pub(super) fn install() -> Setup<()> {
    for program in [refused()?, absent()?, unsynced()?, foreign()] {
        seccompiler::apply_filter(&program).step("install the system call filter")?;
    }
    Ok(())
}

/// The x32 calls of amd64 carry a bit of their own and would pass a list of the others.
pub(super) fn foreign() -> BpfProgram {
    let code = |code: u32| code as u16;
    let number =
        sock_filter { code: code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), jt: 0, jf: 0, k: 0 };
    let is_foreign = sock_filter {
        code: code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K),
        jt: 0,
        jf: 1,
        k: 0x4000_0000,
    };
    let answer = |k| sock_filter { code: code(libc::BPF_RET | libc::BPF_K), jt: 0, jf: 0, k };
    let absent = libc::SECCOMP_RET_ERRNO | libc::ENOSYS.unsigned_abs();
    vec![number, is_foreign, answer(absent), answer(libc::SECCOMP_RET_ALLOW)]
}

pub(super) fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Setup<BpfProgram> {
    let action = SeccompAction::Errno(errno.unsigned_abs());
    let arch = std::env::consts::ARCH.try_into().step("find the architecture")?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, action, arch)
        .step("write the system call filter")?;
    filter.try_into().step("compile the system call filter")
}

fn refused() -> Setup<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let bits = (0..64).map(|bit| 1u64 << bit).filter(|bit| NAMESPACES & bit != 0);
    let namespaces: Result<Vec<SeccompRule>, _> = bits
        .map(|bit| {
            let flag = SeccompCondition::new(
                0,
                SeccompCmpArgLen::Qword,
                SeccompCmpOp::MaskedEq(bit),
                bit,
            )?;
            SeccompRule::new(vec![flag])
        })
        .collect();
    rules.insert(libc::SYS_clone, namespaces.step("write the system call filter")?);
    let other: Result<Vec<SeccompCondition>, _> = PERSONALITIES
        .iter()
        .map(|allowed| {
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *allowed)
        })
        .collect();
    let other = other.and_then(SeccompRule::new).step("write the system call filter")?;
    rules.insert(libc::SYS_personality, vec![other]);
    compile(rules, libc::EPERM)
}

/// Waits for the disk, answered at once: what a step writes counts only when the store has named it,
/// and a crash in between loses the step whole.
const UNSYNCED: &[libc::c_long] = &[
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_sync,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
];

fn unsynced() -> Setup<BpfProgram> {
    compile(UNSYNCED.iter().map(|call| (*call, Vec::new())).collect(), 0)
}

/// Answered with ENOSYS, as an older kernel would: the C library then uses clone, whose flags can be
/// looked at.
fn absent() -> Setup<BpfProgram> {
    compile(BTreeMap::from([(libc::SYS_clone3, Vec::new())]), libc::ENOSYS)
}
