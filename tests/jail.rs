//! The build sandbox as root: what is seen inside, what is refused, how it ends.

#[path = "support/jail.rs"]
mod support;

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sbx::jail::{Bind, End, Jail, JailError, SecretFile, Socket, Spec};
use support::{open_dir, run, spec};
use tempfile::TempDir;

const SBX: &str = env!("CARGO_BIN_EXE_sbx");

fn shell(script: &str) -> (TempDir, Spec) {
    let home = tempfile::tempdir().unwrap();
    let spec = spec(home.path(), &["/bin/sh", "-c", script]);
    (home, spec)
}

/// What a script says that ends well.
#[track_caller]
fn output(script: &str) -> String {
    let (_home, spec) = shell(script);
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert!(outcome.as_ref().is_ok_and(|outcome| outcome.success()), "{outcome:?}: {said}");
    said
}

#[track_caller]
fn end(script: &str) -> End {
    let (_home, spec) = shell(script);
    run(Path::new(SBX), &spec).0.unwrap().end
}

/// What perl's `syscall` answers, in a sandbox of its own: `0` or the error's name.
fn syscall(number: libc::c_long, arguments: &str) -> String {
    let script = format!(
        "use Errno; my $r = syscall({number}{arguments}); \
         print $r == -1 ? (grep {{ $!{{$_}} }} keys %!)[0] : 0"
    );
    output(&format!("perl -e '{script}'")).trim().to_owned()
}

#[test]
fn writes_and_removals_land_in_the_upper_directory_alone() {
    let (home, spec) = shell("echo new >/srv/new; echo more >>/srv/below; rm /srv/doomed");
    assert!(run(Path::new(SBX), &spec).0.unwrap().success());
    let upper = |name: &str| home.path().join("upper/srv").join(name);
    assert_eq!(fs::read_to_string(upper("new")).unwrap(), "new\n");
    assert_eq!(fs::read_to_string(upper("below")).unwrap(), "below\nmore\n");
    let whiteout = fs::symlink_metadata(upper("doomed")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(fs::read_to_string(home.path().join("base/srv/below")).unwrap(), "below\n");
}

#[test]
fn the_only_network_is_loopback() {
    assert_eq!(output("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '"), "lo\n");
    let connect = |to: &str| {
        format!(
            "perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); \
             connect(S, sockaddr_in(9, inet_aton(\"{to}\"))); print $!'"
        )
    };
    assert_eq!(output(&connect("192.0.2.1")), "Network is unreachable\n");
    let unrouted = |script: &str| {
        let (_home, spec) = shell(script);
        run(Path::new(SBX), &spec).0.unwrap().unrouted
    };
    let six = "perl -MSocket -e 'socket(S, PF_INET6, SOCK_STREAM, 0); connect(S, pack_sockaddr_in6(9, Socket::inet_pton(PF_INET6, \"2001:db8::1\"))); print $!'";
    assert_eq!(unrouted(&format!("{}; {six}", connect("192.0.2.1"))), 2, "attempts are counted");
    assert_eq!(unrouted(&connect("127.0.0.1")), 0);
    assert_eq!(output(&connect("127.0.0.1")), "Connection refused\n", "loopback is up");
}

/// Asks a port for a line, with perl alone.
fn ask(port: u16) -> String {
    format!(
        "perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0); \
         connect(S, sockaddr_in({port}, inet_aton(\"127.0.0.1\"))) or die $!; print <S>'"
    )
}

#[test]
fn a_socket_of_the_inside_is_served_from_the_outside() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    let (_home, mut spec) = shell(&format!("{}; {} 2>&1", ask(81), ask(port)));
    spec.sockets = vec![Socket::Udp(53), Socket::Tcp(81)];
    let serve = |sockets: Vec<OwnedFd>| {
        let [_, listener] = <[OwnedFd; 2]>::try_from(sockets).unwrap();
        let (mut stream, _) = TcpListener::from(listener).accept().unwrap();
        stream.write_all(b"hello\n").unwrap();
    };
    let mut said = String::new();
    // the program has not started while `serve` runs: it has to go on beside it
    let serve = |sockets| std::thread::spawn(move || serve(sockets));
    let jail = Jail { program: SBX.into(), emulator: None };
    let outcome = jail.run_serving(&spec, serve, &mut |line| said.push_str(line)).unwrap();
    assert_eq!(outcome.end, End::Code(111), "{said}");
    assert!(said.starts_with("helloConnection refused"), "the host's own ports are not: {said}");
}

#[test]
fn other_processes_are_not_seen() {
    let seen =
        output("ls /proc | grep -c '^[0-9]'; cat /proc/1/comm; readlink /proc/1/exe || true");
    let mut lines = seen.lines();
    let count: usize = lines.next().unwrap().parse().unwrap();
    assert!(count <= 4, "{seen}");
    assert!(
        !lines.any(|line| line.starts_with('/')),
        "the first process shows its program: {seen}"
    );
}

#[test]
fn capabilities_are_what_dpkg_needs() {
    let status = output("cat /proc/self/status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().to_owned()
    };
    // chown, dac_override, fowner, fsetid, kill, setgid, setuid, sys_chroot, setfcap
    let kept = (0..32).filter(|bit| [0, 1, 3, 4, 5, 6, 7, 18, 31].contains(bit));
    let kept: u64 = kept.map(|bit| 1u64 << bit).sum();
    for name in ["CapBnd:", "CapPrm:", "CapEff:"] {
        assert_eq!(u64::from_str_radix(&field(name), 16).unwrap(), kept, "{name}");
    }
    assert_eq!(field("CapInh:"), "0000000000000000");
    assert_eq!(field("CapAmb:"), "0000000000000000");
    assert_eq!(field("NoNewPrivs:"), "1");
    assert_eq!(field("Seccomp:"), "2");
    assert_eq!(field("Uid:"), "0");
    assert!(status.lines().any(|line| line.trim_end() == "Groups:"), "{status}");
}

#[test]
fn ways_out_are_refused() {
    assert_eq!(syscall(libc::SYS_mount, ", 0, 0, 0, 0, 0"), "EPERM");
    assert_eq!(syscall(libc::SYS_unshare, ", 0x10000000"), "EPERM");
    assert_eq!(syscall(libc::SYS_keyctl, ", 0, 0, 0"), "EPERM");
    assert_eq!(syscall(libc::SYS_ptrace, ", 0, 0, 0, 0"), "EPERM");
    assert_eq!(syscall(libc::SYS_bpf, ", 0, 0, 0"), "EPERM");
    assert_eq!(syscall(libc::SYS_clone, ", 0x10000011, 0, 0, 0, 0"), "EPERM", "a user namespace");
    assert_eq!(syscall(libc::SYS_clone3, ", 0, 0"), "ENOSYS");
    assert_eq!(syscall(libc::SYS_personality, ", 0x20000"), "0");
    assert_eq!(syscall(libc::SYS_personality, ", 0x400000"), "EPERM");
    #[cfg(target_arch = "x86_64")]
    assert_eq!(syscall(0x4000_0000 + libc::SYS_getpid, ""), "ENOSYS", "an x32 call");
    let mknod = output("mknod /tmp/disk b 8 0 2>&1 || true");
    assert!(mknod.contains("Operation not permitted"), "{mknod}");
}

#[test]
fn device_nodes_of_an_image_are_dead() {
    let (home, spec) = shell("cat /srv/null");
    let node = home.path().join("base/srv/null");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &node,
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::from_raw_mode(0o666),
        rustix::fs::makedev(1, 3),
    )
    .unwrap();
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert_eq!(outcome.unwrap().end, End::Code(1));
    assert!(said.contains("Permission denied"), "{said}");
}

#[test]
fn proc_and_sys_tell_nothing_of_the_machine_and_change_nothing() {
    for name in ["kcore", "keys", "kallsyms", "kmsg", "cmdline", "timer_list"] {
        assert_eq!(
            output(&format!("[ ! -e /proc/{name} ] || head -c 9 /proc/{name}")),
            "",
            "{name}"
        );
    }
    assert_eq!(
        output("ls -A /sys /proc/scsi /proc/acpi 2>/dev/null | grep -v : || true").trim(),
        ""
    );
    for name in ["sys/kernel/hostname", "sys/kernel/core_pattern", "sys/vm/drop_caches"] {
        let said = output(&format!("( echo b >/proc/{name} ) 2>&1 || true"));
        assert!(said.contains("Read-only file system"), "{name}: {said}");
    }
    assert!(!output("cat /proc/self/mountinfo").contains("/upper"), "the host's paths are seen");
}

#[test]
fn devices_are_the_harmless_ones() {
    let seen = output("cd /dev; ls | tr '\\n' ' '; test -c null && head -c 2 zero | od -An -tx1");
    assert_eq!(
        seen,
        "fd full null ptmx pts random shm stderr stdin stdout tty urandom zero  00 00\n"
    );
    let said =
        output("echo lost >/dev/null; echo lost >/dev/shm/x; ( echo lost >/dev/nul ) 2>&1 || true");
    assert!(said.contains("/dev/nul: Read-only file system"), "{said}");
}

#[test]
fn nothing_of_the_callers_surroundings_comes_in() {
    let said = output("hostname; umask; pwd; env | grep -v ^PWD= | sort");
    assert_eq!(said, "sbx\n0022\n/\nGREETING=hi\nPATH=/usr/bin:/usr/sbin\n");
    assert_eq!(output("cat; ulimit -c; ulimit -Sn"), "0\n1024\n", "stdin is empty");
}

#[test]
fn open_files_and_ignored_signals_do_not_come_in() {
    let file = fs::File::open("/etc/passwd").unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    assert_eq!(output("ls /proc/self/fd | tr '\\n' ' '"), "0 1 2 3\n", "3 is the listing's own");
    drop(file);
    let signals = output("grep ^Sig[BI] /proc/self/status | cut -f2");
    assert_eq!(signals, "0000000000000000\n0000000000000000\n");
}

#[test]
fn modes_do_not_follow_the_callers_umask() {
    let home = tempfile::tempdir().unwrap();
    let driver = std::env::current_exe().unwrap();
    let command = "umask 077; exec \"$0\" --exact runs_with_another_umask --ignored";
    let output = Command::new("sh")
        .args(["-c", command])
        .arg(driver)
        .env("SBX_TEST_HOME", home.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    for name in ["upper", "upper/fresh", "upper/fresh/etc"] {
        let mode = fs::metadata(home.path().join(name)).unwrap().mode() & 0o777;
        assert_eq!(mode, 0o755, "{name}");
    }
}

#[test]
#[ignore = "what `modes_do_not_follow_the_callers_umask` runs"]
fn runs_with_another_umask() {
    let home = PathBuf::from(std::env::var_os("SBX_TEST_HOME").unwrap());
    let mut spec = spec(&home, &["/bin/true"]);
    spec.binds.push(Bind { from: "/etc".into(), to: "/fresh/etc".into(), read_only: true });
    assert!(run(Path::new(SBX), &spec).0.unwrap().success());
}

#[test]
fn binds_are_as_writable_as_they_say() {
    let host = tempfile::tempdir().unwrap();
    let (_home, mut spec) = shell("echo x >/mnt/rw/x; ( echo x >/mnt/ro/x ) 2>&1 || true");
    for (to, read_only) in [("/mnt/rw", false), ("/mnt/ro", true)] {
        spec.binds.push(Bind { from: host.path().to_owned(), to: to.into(), read_only });
    }
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert!(outcome.unwrap().success());
    assert!(said.contains("Read-only file system"), "{said}");
    assert!(host.path().join("x").exists());
}

#[test]
fn secrets_are_in_memory_only() {
    let (home, mut spec) = shell("cat /run/secrets/*; ( echo x >/run/secrets/token ) 2>&1 || true");
    spec.secrets = vec![SecretFile { name: "token".into(), bytes: b"s3cret\n".into() }];
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert!(outcome.unwrap().success());
    assert!(said.starts_with("s3cret\n") && said.contains("Read-only file system"), "{said}");
    assert_eq!(fs::read_dir(home.path().join("upper/run/secrets")).unwrap().count(), 0);
    assert!(!format!("{spec:?}").contains("115"), "a description is shown without them");
}

#[test]
fn a_bind_does_not_follow_the_images_links() {
    let (home, mut spec) = shell("true");
    std::os::unix::fs::symlink("/etc", home.path().join("base/trap")).unwrap();
    spec.binds.push(Bind { from: "/srv".into(), to: "/trap/x".into(), read_only: false });
    let error = run(Path::new(SBX), &spec).0.unwrap_err();
    assert!(error.to_string().contains("`/trap/x`: the path leads through a link"), "{error}");
}

#[test]
fn ends_are_told_apart() {
    assert_eq!(end("exit 0"), End::Code(0));
    assert_eq!(end("exit 7"), End::Code(7));
    assert_eq!(end("exit 137"), End::Code(137));
    assert_eq!(end("kill -9 $$"), End::Signal(9));
    assert_eq!(end("kill -TERM $$"), End::Signal(15));
    // what runs on in the background ends with the program
    let begin = Instant::now();
    assert_eq!(end("sleep 60 & exit 3"), End::Code(3));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn output_is_kept_whole_whatever_it_is() {
    assert_eq!(
        output("echo out; echo err >&2; printf '\\377no end'"),
        "out\nerr\n\u{fffd}no end\n"
    );
    let (_home, spec) = shell("head -c 1000000 /dev/zero | tr '\\0' x; seq 100");
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert_eq!(said.matches('x').count(), 1_000_000);
    let tail = outcome.unwrap().tail;
    assert_eq!((tail.len(), tail.last().unwrap().as_str()), (60, "100"));
}

#[test]
fn a_timeout_kills_everything() {
    let (_home, mut spec) = shell("setsid sleep 61.25 & trap '' TERM ALRM; echo up; sleep 61.25");
    spec.timeout = Some(Duration::from_millis(300));
    let begin = Instant::now();
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert_eq!(outcome.unwrap().end, End::Timeout);
    assert_eq!(said, "up\n");
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert!(is_gone("61.25"));
}

/// Waits until no process has this word in its command line.
fn is_gone(word: &str) -> bool {
    let begin = Instant::now();
    loop {
        let running = fs::read_dir("/proc").unwrap().flatten().any(|entry| {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            command.split(|byte| *byte == 0).any(|argument| argument == word.as_bytes())
        });
        if !running || begin.elapsed() > Duration::from_secs(10) {
            return !running;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn killing_the_parent_kills_everything_inside() {
    let home = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "runs_until_killed", "--ignored", "--nocapture"])
        .env("SBX_TEST_HOME", home.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !home.path().join("upper/tmp/up").exists() {
        assert!(begin.elapsed() < Duration::from_secs(20), "the sandbox did not start");
        std::thread::sleep(Duration::from_millis(10));
    }
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(is_gone("62.25"));
}

#[test]
#[ignore = "the parent that `killing_the_parent_kills_everything_inside` kills"]
fn runs_until_killed() {
    let home = PathBuf::from(std::env::var_os("SBX_TEST_HOME").unwrap());
    let script = "setsid sleep 62.25 & echo >/tmp/up; sleep 62.25";
    run(Path::new(SBX), &spec(&home, &["/bin/sh", "-c", script])).0.unwrap();
}

#[test]
fn two_hundred_layers_with_long_paths_are_one_view() {
    let home = tempfile::tempdir().unwrap();
    let mut spec = spec(home.path(), &["/bin/sh", "-c", "ls /layers | wc -l; cat /top"]);
    for number in 0..200 {
        // no path may be too long, nor mean anything to the mount options
        let lower =
            home.path().join("x".repeat(200)).join("a:b,c=\\".repeat(20)).join(number.to_string());
        fs::create_dir_all(lower.join("layers")).unwrap();
        fs::write(lower.join("layers").join(number.to_string()), "").unwrap();
        fs::write(lower.join("top"), format!("{number}\n")).unwrap();
        spec.lowers.push(lower);
    }
    let (outcome, said) = run(Path::new(SBX), &spec);
    assert!(outcome.as_ref().is_ok_and(|outcome| outcome.success()), "{outcome:?}");
    assert_eq!(said, "200\n199\n", "the last is on top");
}

#[test]
fn an_upper_directory_serves_twice() {
    let (_home, mut spec) = shell("echo 1 >>/srv/count");
    for _ in 0..3 {
        assert!(run(Path::new(SBX), &spec).0.unwrap().success());
    }
    spec.argv[2] = "wc -l </srv/count".into();
    assert_eq!(run(Path::new(SBX), &spec).1.trim(), "3");
}

#[track_caller]
fn setup_fault(change: impl FnOnce(&mut Spec, &Path)) -> (String, Option<i32>, Option<String>) {
    let (home, mut spec) = shell("true");
    change(&mut spec, home.path());
    match run(Path::new(SBX), &spec).0 {
        Err(JailError::Setup { step, errno, mend, .. }) => {
            (step.replace(&*home.path().to_string_lossy(), "HOME"), errno, mend)
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn faults_of_the_setup_name_step_path_and_cause() {
    let (step, errno, _) = setup_fault(|spec, home| spec.lowers.push(home.join("absent")));
    assert_eq!((step.as_str(), errno), ("open `HOME/absent`", Some(libc::ENOENT)));
    let (step, errno, _) = setup_fault(|spec, _| spec.argv[0] = "/bin/absent".into());
    assert_eq!((step.as_str(), errno), ("start `/bin/absent`", Some(libc::ENOENT)));
    let (step, errno, _) = setup_fault(|spec, _| spec.cwd = "/absent".into());
    assert_eq!((step.as_str(), errno), ("change to `/absent`", Some(libc::ENOENT)));
    let (step, errno, _) = setup_fault(|spec, _| spec.binds[0].from = "/absent".into());
    assert_eq!((step.as_str(), errno), ("bind `/absent` to `HOME/root/usr`", Some(libc::ENOENT)));
    let (step, ..) = setup_fault(|spec, _| spec.argv.clear());
    assert_eq!(step, "read the command");
}

#[test]
fn an_overlay_on_an_overlay_names_what_mends_it() {
    let (home, spec) = shell("true");
    // an overlay of the host's, in a mount namespace that ends with its shell
    let on_overlay = open_dir(home.path().join("on"));
    for dir in ["u", "w"] {
        fs::create_dir(home.path().join(dir)).unwrap();
    }
    let driver = std::env::current_exe().unwrap();
    let script = format!(
        "mount -t overlay overlay -o lowerdir={base},upperdir={home}/u,workdir={home}/w {on} && \
         mkdir {on}/upper {on}/work && exec {driver} --exact runs_on_an_overlay --ignored --nocapture",
        base = spec.lowers[0].display(),
        home = home.path().display(),
        on = on_overlay.display(),
        driver = driver.display(),
    );
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script])
        .env("SBX_TEST_HOME", home.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        said.contains("mount the overlay"),
        "{said}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(said.contains("SBX_CACHE"), "{said}");
}

#[test]
#[ignore = "what `an_overlay_on_an_overlay_names_what_mends_it` runs on one"]
fn runs_on_an_overlay() {
    let home = PathBuf::from(std::env::var_os("SBX_TEST_HOME").unwrap());
    let spec = Spec {
        lowers: vec![home.join("base")],
        upper: home.join("on/upper"),
        work: home.join("on/work"),
        root: home.join("root"),
        binds: Vec::new(),
        renames: Vec::new(),
        argv: vec!["/bin/true".into()],
        env: Vec::new(),
        cwd: "/".into(),
        timeout: None,
        sockets: Vec::new(),
        secrets: Vec::new(),
        terminal: false,
    };
    let error = run(Path::new(SBX), &spec).0.unwrap_err();
    println!("{error}\n{}", error.help().unwrap());
}
