/* Tries what an instance must not do, harmlessly: with arguments that fail later where it is allowed.
   Prints one line a try: its name and the error's number. With `echo PORT` it is a server instead; with
   `without-links PROGRAM ...` it becomes that, under a kernel that knows no kind of network device. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* Requests to the kernel for links are refused, as by one that knows none of their kind. */
static int without_links(char **argv) {
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendto, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EOPNOTSUPP),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) return 125;
    execv(argv[0], argv);
    return 126;
}

static void try(const char *name, long result) {
    printf("%s %d\n", name, result == -1 ? errno : 0);
    fflush(stdout);
}

/* A server that sends back what it is sent. */
static int echo(int port) {
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_ANY)}};
    int server = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(server, (struct sockaddr *)&at, sizeof at) || listen(server, 100)) return 1;
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int client = accept(server, 0, 0);
        if (client < 0 || fork() != 0) {
            close(client);
            continue;
        }
        char bytes[65536];
        for (ssize_t n; (n = read(client, bytes, sizeof bytes)) > 0;)
            for (ssize_t sent = 0, m; sent < n; sent += m)
                if ((m = write(client, bytes + sent, n - sent)) <= 0) _exit(1);
        _exit(0);
    }
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "echo")) return echo(atoi(argv[2]));
    if (argc >= 3 && !strcmp(argv[1], "without-links")) return without_links(argv + 2);
    errno = 0;
    try("mount", mount("none", "/", "no-such-file-system", 0, 0));
    try("umount", syscall(SYS_umount2, "/no-such-place", 0));
    try("pivot_root", syscall(SYS_pivot_root, "/no-such-place", "/no-such-place"));
    try("fsopen", syscall(SYS_fsopen, "no-such-file-system", 0));
    try("open_tree", syscall(SYS_open_tree, -1, "no-such-place", 0x7fffff00));
    try("unshare", syscall(SYS_unshare, 0x04000000 | 0x1));
    try("setns", syscall(SYS_setns, -1, 0));
    try("keyctl", syscall(SYS_keyctl, 0, -3, 0));
    try("add_key", syscall(SYS_add_key, 0, 0, 0, 0, 0));
    try("bpf", syscall(SYS_bpf, 9999, 0, 0));
    try("perf_event_open", syscall(SYS_perf_event_open, 0, 0, -1, -1, 0));
    try("open_by_handle_at", syscall(SYS_open_by_handle_at, -1, 0, 0));
    try("init_module", syscall(SYS_init_module, 0, 0, 0));
    try("reboot", syscall(SYS_reboot, 0, 0, 0, 0));
    try("kexec_load", syscall(SYS_kexec_load, 0, 1, 0, 0xffff0000));
    try("swapon", syscall(SYS_swapon, 0, 0));
    try("quotactl", syscall(SYS_quotactl, 0xffffff, 0, 0, 0));
    try("raw_socket", socket(AF_INET, SOCK_RAW, 1));
    try("packet_socket", socket(AF_PACKET, SOCK_RAW, 0));
    pid_t child = syscall(SYS_clone, CLONE_NEWUTS | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    try("clone_namespace", child);
    if (child > 0) waitpid(child, 0, 0);
    if (argc < 2) return 0;
    /* of the instance alone */
    try("ptrace_first", ptrace(PTRACE_ATTACH, 1, 0, 0));
    const char *secret[] = {"/proc/1/root/etc", "/proc/1/mem", "/proc/1/environ", "/proc/1/exe", "/proc/1/fd/3"};
    for (unsigned at = 0; at < sizeof secret / sizeof *secret; at++)
        try(secret[at], open(secret[at], O_RDONLY));
    const char *control[] = {"/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/modprobe",
                             "/proc/sys/vm/drop_caches", "/sys/kernel/mm/transparent_hugepage/enabled"};
    for (unsigned at = 0; at < sizeof control / sizeof *control; at++)
        try(control[at], open(control[at], O_WRONLY));
    return 0;
}
