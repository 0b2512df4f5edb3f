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
    KEXEC_FILE_LOAD,
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

/// kexec_file_load(2), which libc leaves out for arm64 with musl (asm-generic/unistd.h has it).
const KEXEC_FILE_LOAD: libc::c_long = if cfg!(target_arch = "x86_64") { 320 } else { 294 };

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

/// Installs the filter for this process and all that come from it.
pub(super) fn install() -> Setup<()> {
    let answers: [(&[libc::c_long], _); 3] = [
        (REFUSED, Answer::Error(libc::EPERM)),
        (UNSYNCED, Answer::Error(0)),
        // as an older kernel would: the C library then uses clone, whose flags can be looked at
        (&[libc::SYS_clone3], Answer::Error(libc::ENOSYS)),
    ];
    seccompiler::apply_filter(&decide(&answers, dangerous()?))
        .step("install the system call filter")
}

/// What is answered to a call whatever its arguments are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Allow,
    Error(i32),
}

impl Answer {
    fn code(self) -> u32 {
        match self {
            Answer::Allow => libc::SECCOMP_RET_ALLOW,
            Answer::Error(errno) => libc::SECCOMP_RET_ERRNO | errno.unsigned_abs(),
        }
    }
}

/// Where a program finds what it looks at (`struct seccomp_data`, seccomp(2)).
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
/// The x32 calls of amd64 carry a bit of their own and would pass a list of the others.
const FOREIGN: u32 = 0x4000_0000;

#[cfg(target_arch = "x86_64")]
pub(super) const OWN_ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
pub(super) const OWN_ARCHITECTURE: u32 = 0xc000_00b7;

/// A program that answers those calls, and leaves all others to the `rest`. Numbers that follow one
/// another are one comparison: a comparison for each takes the kernel a millisecond at every start, and
/// a filter beside it more.
pub(super) fn decide(answers: &[(&[libc::c_long], Answer)], rest: BpfProgram) -> BpfProgram {
    let numbers = answers.iter().flat_map(|(calls, answer)| {
        calls.iter().filter_map(|call| Some((u32::try_from(*call).ok()?, answer.code())))
    });
    // of two answers to one call the first counts
    let mut known = BTreeMap::new();
    for (number, answer) in numbers {
        known.entry(number).or_insert(answer);
    }
    let mut ranges: Vec<(u32, u32, u32)> = Vec::new();
    for (number, answer) in known {
        match ranges.last_mut() {
            Some((_, last, same)) if *last + 1 == number && *same == answer => *last = number,
            _ => ranges.push((number, number, answer)),
        }
    }
    let mut program = vec![
        load(ARCHITECTURE),
        jump(libc::BPF_JEQ, OWN_ARCHITECTURE, 1, 0),
        answer(libc::SECCOMP_RET_KILL_PROCESS),
        load(NUMBER),
        jump(libc::BPF_JGE, FOREIGN, 0, 1),
        answer(Answer::Error(libc::ENOSYS).code()),
    ];
    for (first, last, code) in ranges {
        program.push(jump(libc::BPF_JGT, last, 2, 0));
        program.push(jump(libc::BPF_JGE, first, 0, 1));
        program.push(answer(code));
    }
    program.extend(rest);
    program
}

fn instruction(code: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: code as u16, jt, jf, k }
}

fn load(offset: u32) -> sock_filter {
    instruction(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset, 0, 0)
}

fn jump(test: u32, value: u32, jt: u8, jf: u8) -> sock_filter {
    instruction(libc::BPF_JMP | test | libc::BPF_K, value, jt, jf)
}

fn answer(code: u32) -> sock_filter {
    instruction(libc::BPF_RET | libc::BPF_K, code, 0, 0)
}

/// What rules say of calls whose arguments matter: `matched` where one holds, `else_` for all others.
pub(super) fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    matched: SeccompAction,
    else_: SeccompAction,
) -> Setup<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().step("find the architecture")?;
    let filter =
        SeccompFilter::new(rules, else_, matched, arch).step("write the system call filter")?;
    filter.try_into().step("compile the system call filter")
}

/// Namespaces and strange personalities.
fn dangerous() -> Setup<BpfProgram> {
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
    let namespaces = namespaces.step("write the system call filter")?;
    let other: Result<Vec<SeccompCondition>, _> = PERSONALITIES
        .iter()
        .map(|allowed| {
            SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, *allowed)
        })
        .collect();
    let other = other.and_then(SeccompRule::new).step("write the system call filter")?;
    let rules =
        BTreeMap::from([(libc::SYS_clone, namespaces), (libc::SYS_personality, vec![other])]);
    let refuse = SeccompAction::Errno(libc::EPERM.unsigned_abs());
    compile(rules, refuse, SeccompAction::Allow)
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

/// What a program answers, for tests: to a call by its number, architecture and arguments.
#[cfg(test)]
pub(super) fn ask(
    program: &BpfProgram,
    number: u32,
    architecture: u32,
    arguments: [u64; 6],
) -> u32 {
    let words = |value: u64| [value as u32, (value >> 32) as u32];
    let data: Vec<u32> = [number, architecture, 0, 0]
        .into_iter()
        .chain(arguments.into_iter().flat_map(words))
        .collect();
    let (mut at, mut accumulator) = (0, 0u32);
    loop {
        let sock_filter { code, jt, jf, k } = program[at];
        let code = u32::from(code);
        at += 1;
        match code & 0x07 {
            libc::BPF_LD => accumulator = data[k as usize / 4],
            libc::BPF_ALU => accumulator &= k,
            libc::BPF_RET => return k,
            _ => {
                let holds = match code & 0xf0 {
                    libc::BPF_JA => {
                        at += k as usize;
                        continue;
                    }
                    libc::BPF_JEQ => accumulator == k,
                    libc::BPF_JGT => accumulator > k,
                    libc::BPF_JGE => accumulator >= k,
                    other => panic!("instruction {other:#x} is not expected"),
                };
                at += usize::from(if holds { jt } else { jf });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_has_its_answer() {
        let rest = vec![answer(libc::SECCOMP_RET_ALLOW)];
        let answers: [(&[libc::c_long], _); 3] = [
            (&[7, 5, 6, 100], Answer::Error(libc::EPERM)),
            (&[8, 101, 6], Answer::Error(libc::ENOSYS)),
            (&[300], Answer::Allow),
        ];
        let program = decide(&answers, vec![answer(Answer::Error(1234).code())]);
        let asked = |number| ask(&program, number, OWN_ARCHITECTURE, [0; 6]);
        for number in 0..1000 {
            let expected = match number {
                5..=7 | 100 => Answer::Error(libc::EPERM),
                8 | 101 => Answer::Error(libc::ENOSYS),
                300 => Answer::Allow,
                _ => Answer::Error(1234),
            };
            assert_eq!(asked(number), expected.code(), "{number}");
        }
        assert_eq!(asked(FOREIGN + 300), Answer::Error(libc::ENOSYS).code());
        assert_eq!(ask(&program, 300, 0x4000_0003, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
        let empty = decide(&[], rest);
        assert_eq!(ask(&empty, 300, OWN_ARCHITECTURE, [0; 6]), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn a_build_may_clone_but_not_make_namespaces() {
        let program = decide(&[], dangerous().unwrap());
        let clone = |flags: libc::c_int| {
            let number = u32::try_from(libc::SYS_clone).unwrap();
            ask(
                &program,
                number,
                OWN_ARCHITECTURE,
                [u64::from(flags.cast_unsigned()), 0, 0, 0, 0, 0],
            )
        };
        assert_eq!(clone(libc::SIGCHLD), libc::SECCOMP_RET_ALLOW);
        assert_eq!(clone(libc::CLONE_NEWUSER), Answer::Error(libc::EPERM).code());
    }
}
