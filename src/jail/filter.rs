//! System calls that no build step needs (seccomp(2)).

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
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
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
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
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

/// The bit that marks the x32 calls of amd64, which would pass a list of the others.
#[cfg(target_arch = "x86_64")]
const X32: std::ops::Range<libc::c_long> = 0x4000_0000..0x4000_0000 + 548;

/// Installs the filters for this process and all that come from it.
pub(super) fn install() -> Setup<()> {
    for program in [refused()?, absent()?] {
        seccompiler::apply_filter(&program).step("install the system call filter")?;
    }
    Ok(())
}

fn compile(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: i32) -> Setup<BpfProgram> {
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
    compile(rules, libc::EPERM)
}

/// Answered with ENOSYS, as an older kernel would: the C library then uses clone, whose flags can be
/// looked at.
fn absent() -> Setup<BpfProgram> {
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(unused_mut, reason = "x32 exists on amd64 only")
    )]
    let mut rules = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    #[cfg(target_arch = "x86_64")]
    rules.extend(X32.map(|call| (call, Vec::new())));
    compile(rules, libc::ENOSYS)
}
