//! Instances with a terminal, which somebody sits at: a window's size, ctrl-C, what is typed, exit codes,
//! and the terminal's own modes afterwards.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use crate::support::docker::Engine;
use crate::support::launch::Bench;
use crate::support::user::User;

/// Somebody who sits at a terminal, and the program that has it.
struct Sitter {
    far: OwnedFd,
    near: OwnedFd,
    before: Termios,
    seen: String,
    child: Child,
}

fn window(rows: u16, columns: u16) -> Winsize {
    Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 }
}

impl Sitter {
    fn sit(bench: &Bench<'_>, arguments: &[&str]) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let far = openpt(flags).unwrap();
        grantpt(&far).unwrap();
        unlockpt(&far).unwrap();
        let near = ioctl_tiocgptpeer(&far, flags).unwrap();
        tcsetwinsize(&far, window(33, 101)).unwrap();
        let before = tcgetattr(&near).unwrap();
        let mut command = bench.command(arguments);
        let end = || Stdio::from(near.try_clone().unwrap());
        command.stdin(end()).stdout(end()).stderr(end());
        // SAFETY: both calls are plain system calls
        unsafe {
            command.pre_exec(|| {
                rustix::process::setsid()?;
                rustix::process::ioctl_tiocsctty(std::io::stdin())?;
                Ok(())
            });
        }
        let child = command.spawn().unwrap();
        Sitter { far, near, before, seen: String::new(), child }
    }

    fn type_in(&self, text: &str) {
        File::from(self.far.try_clone().unwrap()).write_all(text.as_bytes()).unwrap();
    }

    /// Reads until this was shown.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        let mut file = File::from(self.far.try_clone().unwrap());
        while !self.seen.contains(text) {
            let mut polled = [rustix::event::PollFd::new(&self.far, rustix::event::PollFlags::IN)];
            let wait = rustix::event::Timespec { tv_sec: 1, tv_nsec: 0 };
            if rustix::event::poll(&mut polled, Some(&wait)).unwrap() > 0 {
                let mut bytes = [0; 4096];
                let n = file.read(&mut bytes).unwrap_or(0);
                self.seen.push_str(&String::from_utf8_lossy(&bytes[..n]));
            }
            assert!(Instant::now() < end, "`{text}` was not shown: {}", self.seen);
        }
    }

    /// The program's exit code; the terminal has the modes that it had.
    fn leaves(mut self) -> Option<i32> {
        let code = self.child.wait().unwrap().code();
        let after = tcgetattr(&self.near).unwrap();
        assert_eq!(after.local_modes, self.before.local_modes);
        assert_eq!(after.input_modes, self.before.input_modes);
        code
    }
}

/// Two ways to a program with a terminal.
fn both(bench: &Bench<'_>, script: &str, test: impl Fn(Sitter)) {
    // whose first process is the program, as a runtime's is, has it end on signals that it handles
    let handled = format!("trap 'exit 130' INT; {script}");
    let script = if bench.options().contains(&"oci".to_owned()) { &handled } else { script };
    test(Sitter::sit(bench, &["run", "-it", "s", "--", "sh", "-c", script]));
    test(Sitter::sit(bench, &["exec", "-it", "one", "sh", "-c", script]));
}

fn typing(bench: &Bench<'_>) {
    let script = "busybox tty; echo ready; read x; echo \"got <$x>\"; exit 7";
    both(bench, script, |mut sitter| {
        sitter.sees("ready");
        sitter.type_in("some words\n");
        sitter.sees("got <some words>");
        assert!(sitter.seen.contains("/dev/pts/"), "{}", sitter.seen);
        assert_eq!(sitter.leaves(), Some(7));
    });
}

fn interrupting(bench: &Bench<'_>) {
    let script =
        "trap 'echo interrupted; exit 3' INT; echo ready; while :; do busybox sleep 0.05; done";
    both(bench, script, |mut sitter| {
        sitter.sees("ready");
        sitter.type_in("\x03");
        sitter.sees("interrupted");
        assert_eq!(sitter.leaves(), Some(3));
    });
    // with nobody who minds, it ends the program as in any terminal
    both(bench, "echo ready; while :; do busybox sleep 0.05; done", |mut sitter| {
        sitter.sees("ready");
        sitter.type_in("\x03");
        assert_eq!(sitter.leaves(), Some(130));
    });
}

fn resizing(bench: &Bench<'_>) {
    let script = "trap 'busybox stty size' WINCH; busybox sleep 0.5; echo first; busybox stty size; while :; do busybox sleep 0.05; done";
    both(bench, script, |mut sitter| {
        sitter.sees("first");
        sitter.sees("33 101");
        tcsetwinsize(&sitter.far, window(12, 34)).unwrap();
        sitter.sees("12 34");
        sitter.type_in("\x03");
        assert_eq!(sitter.leaves(), Some(130));
    });
}

fn all(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    typing(bench);
    interrupting(bench);
    resizing(bench);
    bench.sbx(&["rm", "-f", "one"]).success();
    assert_eq!(bench.ps(), Vec::<serde_json::Value>::new());
}

#[test]
fn somebody_sits_before_roots_instance() {
    all(&Bench::new(None));
}

#[test]
fn somebody_sits_before_an_instance_of_runc() {
    all(&Bench::new(None).launcher(&["--launcher", "oci", "--runtime", "runc"]));
}

#[test]
fn somebody_sits_before_an_instance_of_crun() {
    all(&Bench::new(None).launcher(&["--launcher", "oci", "--runtime", "crun"]));
}

#[test]
fn somebody_sits_before_an_instance_of_docker() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start(home.path());
    let mut bench = Bench::new(None).launcher(&["--launcher", "docker"]);
    bench.set("DOCKER_HOST", engine.host());
    all(&bench);
}

#[test]
fn somebody_sits_before_an_ordinary_users_instance() {
    let user = User::new();
    all(&Bench::new(Some(&user)));
}
