//! Instances from start to end: as root and as an ordinary user, killed at any moment, and with input
//! that is wrong.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, symlink};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::launch::{Bench, exists, free_port, kill, soon};
use crate::support::project::Outcome;
use crate::support::user::User;

pub type Test = fn(&Bench<'_>);

/// What holds for everybody.
const EVERYBODY: &[(&str, Test)] = &[
    ("exit codes", exit_codes),
    ("signals of its own", own_signals),
    ("streams", streams),
    ("one file", one_file),
    ("signals", signals),
    ("life", life),
    ("users", users),
    ("ports", ports),
    ("readiness", readiness),
    ("names", names),
    ("volumes", volumes),
    ("copies", copies),
    ("killed keeper", killed_keeper),
    ("killed first process", killed_first_process),
    ("killed caller", killed_caller),
    ("bad input", bad_input),
];

#[test]
fn instances_of_root() {
    let bench = Bench::new(None);
    for (name, test) in EVERYBODY {
        println!("{name}");
        test(&bench);
    }
    nothing_is_left(&bench);
}

#[test]
fn instances_of_an_ordinary_user() {
    let user = User::new();
    let bench = Bench::new(Some(&user));
    for (name, test) in EVERYBODY {
        println!("{name}");
        test(&bench);
    }
    bench.sbx(&["run", "limited", "--", "true"]).fails(3, &["limits", "--no-limits"]);
    bench.sbx(&["run", "--no-limits", "limited", "--", "true"]).success();
    nothing_is_left(&bench);
}

pub fn nothing_is_left(bench: &Bench<'_>) {
    soon("an empty directory of instances", || {
        bench.ps().is_empty() && fs::read_dir(bench.state()).unwrap().count() == 0
    });
}

pub fn exit_codes(bench: &Bench<'_>) {
    assert_eq!(bench.script("s", "exit 7").code, Some(7));
    bench.sbx(&["run", "s", "--", "no-such-program"]).fails(127, &["no-such-program"]);
    bench.sbx(&["run", "s", "--", "/etc/passwd"]).fails(126, &["/etc/passwd"]);
    bench.sbx(&["run", "s", "--", "true"]).success();
}

fn own_signals(bench: &Bench<'_>) {
    assert_eq!(bench.script("s", "kill -9 $$").code, Some(137));
}

pub fn streams(bench: &Bench<'_>) {
    let outcome = bench.script("s", "echo out; echo err >&2; echo again >/dev/stdout").success();
    assert_eq!(outcome.stdout, "out\nagain\n");
    outcome.says("err");
    let mut child = bench
        .command(&["run", "-i", "s", "--", "busybox", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 3 << 20]).unwrap();
    let outcome = Outcome::new(child.wait_with_output().unwrap());
    assert_eq!(outcome.answer(), (3 << 20).to_string());
    assert_eq!(bench.script("s", "busybox wc -c").answer(), "0", "without -i nothing is read");
    let given = bench.project.dir.path().join("given-in");
    fs::write(&given, "seven\n").unwrap();
    let owners =
        || ["/dev/null".as_ref(), given.as_path()].map(|path| fs::metadata(path).unwrap().uid());
    let before = owners();
    let mut command = bench.command(&["run", "-i", "s", "--", "busybox", "wc", "-c"]);
    let outcome = command.stdin(fs::File::open(&given).unwrap()).output().unwrap();
    assert_eq!(Outcome::new(outcome).answer(), "6");
    bench.script("s", "true").success();
    assert_eq!(owners(), before, "what was lent to an instance is not its own");
    let many = bench.script("s", "busybox head -c 5000000 /dev/zero").success();
    assert_eq!(many.stdout.len(), 5_000_000);
}

/// Both streams in one file that is not appended to: neither writes over the other.
pub fn one_file(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    let path = bench.project.dir.path().join("both");
    let script = "n=0; while [ $n -lt 300 ]; do echo out $n; echo err $n >&2; n=$((n+1)); done";
    for words in [&["run", "s", "--"][..], &["exec", "one"]] {
        let file = fs::File::create(&path).unwrap();
        let mut command = bench.command(&[words, &["sh", "-c", script]].concat());
        command.stdin(Stdio::null()).stdout(file.try_clone().unwrap()).stderr(file);
        assert!(command.status().unwrap().success());
        let text = fs::read_to_string(&path).unwrap();
        for stream in ["out", "err"] {
            let lines: Vec<&str> = text.lines().filter(|line| line.starts_with(stream)).collect();
            let wanted: Vec<String> = (0..300).map(|n| format!("{stream} {n}")).collect();
            assert_eq!(lines, wanted, "{words:?}");
        }
    }
    bench.sbx(&["rm", "-f", "one"]).success();
}

pub fn signals(bench: &Bench<'_>) {
    let script = "trap 'echo term; exit 3' TERM; echo here; while :; do busybox sleep 0.05; done";
    let mut child = bench.spawn(&["run", "s", "--", "sh", "-c", script]);
    let mut out = child.stdout.take().unwrap();
    let mut first = [0; 5];
    out.read_exact(&mut first).unwrap();
    kill(child.id(), "TERM");
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), &*rest), (Some(3), "term\n"));
    // what handles nothing ends by it, and what ignores it goes on
    for (ignored, signal, code) in [("QUIT", "INT", 130), ("INT", "TERM", 143)] {
        let script = format!("trap '' {ignored}; echo here; exec busybox sleep 300");
        let mut child = bench.spawn(&["run", "s", "--", "sh", "-c", &script]);
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        kill(child.id(), ignored);
        std::thread::sleep(Duration::from_millis(200));
        assert_eq!(child.try_wait().unwrap(), None, "{ignored} is ignored");
        kill(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{signal}");
    }
    bench.detach(&["--name", "one", "s"]);
    bench.sbx(&["stop", "-t", "60", "one"]).success();
    assert_eq!(bench.ps()[0]["code"], 143);
    bench.sbx(&["rm", "one"]).success();
    // orphans are reaped, and end with the program
    bench.script("s", "(busybox sleep 300 &) ; exit 0").success();
}

pub fn life(bench: &Bench<'_>) {
    let answer = bench.detach(&["--name", "one", "s"]);
    assert_eq!(answer["name"], "one");
    assert!(answer["image"].as_str().unwrap().starts_with("sha256:"));
    assert_eq!(bench.status("one").as_deref(), Some("running"));
    assert_eq!(bench.exec("one", "echo $((6*7)); exit 5").fails(5, &[]).answer(), "42");
    let id = answer["id"].as_str().unwrap();
    assert_eq!(bench.exec(&id[..8], "busybox hostname").success().answer(), "one");
    let confined = "busybox grep -E 'CapBnd|NoNewPrivs|^Seccomp:' /proc/self/status";
    let visitor = bench.exec("one", confined).success().stdout;
    assert_eq!(
        visitor,
        bench.script("s", confined).success().stdout,
        "a visitor is confined alike"
    );
    assert!(visitor.contains("Seccomp:\t2"), "{visitor}");
    // not through a pipe, whose other end may not be there yet when `ps` looks
    let count =
        || bench.exec("one", "busybox ps >/tmp/ps; busybox wc -l </tmp/ps").success().stdout;
    let before = count();
    bench.exec("one", "exit 0").success();
    assert_eq!(before, count());
    assert_eq!(bench.sbx(&["logs", "one"]).success().stdout, "said\n");
    bench.sbx(&["rm", "one"]).fails(1, &["runs", "sbx stop one"]);
    bench.sbx(&["stop", "-t", "1", "one"]).success();
    assert_eq!(bench.status("one").as_deref(), Some("ended"));
    bench.sbx(&["exec", "one", "true"]).fails(1, &["does not run"]);
    assert_eq!(bench.sbx(&["logs", "-f", "one"]).success().stdout, "said\n");
    bench.sbx(&["rm", "one"]).success();
    assert_eq!(bench.status("one"), None);
    bench.sbx(&["logs", "one"]).fails(1, &["no instance `one`", "sbx ps"]);
}

pub fn users(bench: &Bench<'_>) {
    let script =
        "busybox id -u; busybox id -g; pwd; echo $HOME; busybox grep CapEff /proc/self/status";
    let said = bench.script("ann", script).success().stdout;
    assert_eq!(said, "1000\n1000\n/tmp\n/home/ann\nCapEff:\t0000000000000000\n");
    let said =
        bench.script("s", "busybox touch /x; busybox chown 33:44 /x; busybox stat -c %u:%g /x");
    assert_eq!(said.success().answer(), "33:44");
}

fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

pub fn ports(bench: &Bench<'_>) {
    let answer = bench.detach(&["--name", "web", "web"]);
    let port = u16::try_from(answer["ports"]["80"].as_u64().unwrap()).unwrap();
    assert_eq!(answer["url"], format!("http://127.0.0.1:{port}"));
    let token = answer["token"].as_str().unwrap();
    assert_eq!(token.len(), 32);
    std::thread::scope(|scope| {
        for _ in 0..40 {
            scope.spawn(|| {
                let text = get(port, "/index.html").unwrap();
                assert!(text.starts_with("HTTP/1.1 200") && text.contains(token), "{text}");
            });
        }
    });
    let row = &bench.ps()[0];
    assert_eq!((&row["ports"]["80"], &row["token"]), (&answer["ports"]["80"], &answer["token"]));
    bench.sbx(&["rm", "-f", "web"]).success();
    assert!(get(port, "/index.html").is_err(), "the port is free again");
    // one that is asked for, and streams both ways at once
    let port = free_port();
    let publish = format!("{port}:9000");
    bench.detach(&["--name", "echo", "-p", &publish, "s", "--", "/bin/probe", "echo", "9000"]);
    soon("an echo", || echoes(port));
    let taken = bench.sbx(&["run", "-p", &publish, "s", "--", "true"]);
    taken.fails(3, &[&port.to_string(), "listened on"]);
    bench.sbx(&["rm", "-f", "echo"]).success();
    drop(TcpListener::bind(("127.0.0.1", port)).expect("nobody holds it"));
}

/// Whether a megabyte comes back as it was sent.
fn echoes(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let sent: Vec<u8> = (0..1u32 << 20).map(|at| (at % 251) as u8).collect();
    let mut far = stream.try_clone().unwrap();
    let copy = sent.clone();
    let writer = std::thread::spawn(move || far.write_all(&copy).is_ok());
    let mut back = vec![0; sent.len()];
    let whole = stream.read_exact(&mut back).is_ok() && back == sent;
    drop(stream.shutdown(std::net::Shutdown::Both));
    writer.join().unwrap() && whole
}

pub fn readiness(bench: &Bench<'_>) {
    let begun = Instant::now();
    let outcome = bench.sbx(&["run", "-d", "--timeout", "1", "--name", "late", "never"]);
    outcome.fails(3, &["log: the reason", "not ready after 1 s", "--timeout"]);
    assert!(begun.elapsed() > Duration::from_secs(1));
    assert_eq!(bench.status("late"), None, "it is removed");
    let begun = Instant::now();
    bench.sbx(&["run", "-d", "dies"]).fails(3, &["log: the reason", "exit code 9"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "an end is noticed at once");
    bench.detach(&["--name", "asks", "asks"]);
    bench.exec("asks", "test -e /made").success();
    bench.sbx(&["rm", "-f", "asks"]).success();
}

pub fn names(bench: &Bench<'_>) {
    bench.detach(&["--name", "same", "s"]);
    bench
        .sbx(&["run", "-d", "--name", "same", "s"])
        .fails(1, &["`same` already", "sbx rm -f same"]);
    assert_eq!(bench.status("same").as_deref(), Some("running"));
    bench.sbx(&["rm", "-f", "same"]).success();
    bench.sbx(&["run", "--name", "../x", "s"]).fails(2, &["no name of an instance"]);
}

pub fn volumes(bench: &Bench<'_>) {
    let dir = bench.project.dir.path();
    let shared = dir.join("shared");
    fs::create_dir_all(&shared).unwrap();
    fs::write(shared.join("given"), "given\n").unwrap();
    let owner = fs::metadata(dir).unwrap().uid();
    for name in [shared.clone(), shared.join("given")] {
        std::os::unix::fs::chown(name, Some(owner), Some(owner)).unwrap();
    }
    let source = shared.to_str().unwrap();
    let run = |volume: &str, script: &str| {
        bench.sbx(&["run", "-v", volume, "s", "--", "sh", "-c", script])
    };
    let script = "busybox cat /workspace/given; echo made >/workspace/made; busybox stat -c %u /workspace/made";
    assert_eq!(run(&format!("{source}:/workspace"), script).success().stdout, "given\n0\n");
    let made = fs::metadata(shared.join("made")).unwrap();
    assert_eq!(made.uid(), owner, "what the instance's root writes is the directory's owner's");
    let outcome = run(&format!("{source}:/new/place:ro"), "echo x >/new/place/given");
    outcome.fails(1, &["Read-only"]);
    run(&format!("{source}/none:/workspace"), "true").fails(1, &["No such file"]);
    symlink("/etc", shared.join("link")).unwrap();
    run(&format!("{source}/link:/workspace"), "true").fails(1, &["a link to `/etc`"]);
    run(&format!("{source}:/proc/1"), "true").fails(2, &["is no mount"]);
    // a link of the image's does not lead out
    let outcome = run(&format!("{source}:/bin/sh"), "true");
    outcome.fails(3, &["through a link"]);
    fs::remove_dir_all(shared).unwrap();
}

pub fn copies(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    let dir = bench.project.dir.path();
    let own = fs::metadata(dir).unwrap().uid();
    let give =
        |path: &std::path::Path| std::os::unix::fs::chown(path, Some(own), Some(own)).unwrap();
    let (tree, out) = (dir.join("tree"), dir.join("out"));
    for path in [&tree, &out, &tree.join("deep")] {
        fs::create_dir(path).unwrap();
        give(path);
    }
    fs::write(tree.join("deep/file"), "text\n").unwrap();
    symlink("deep/file", tree.join("link")).unwrap();
    let (tree, out) = (tree.to_str().unwrap(), out.to_str().unwrap());
    bench.sbx(&["cp", tree, "one:/tmp"]).success();
    let look = "busybox cat /tmp/tree/link; busybox stat -c %u /tmp/tree /tmp/tree/deep/file";
    assert_eq!(bench.exec("one", look).success().stdout, "text\n0\n0\n");
    bench.sbx(&["cp", "one:/tmp/tree", out]).success();
    assert_eq!(fs::read_to_string(format!("{out}/tree/link")).unwrap(), "text\n");
    // links of the instance's lead nowhere outside of it
    bench.exec("one", "busybox ln -s /etc /tmp/etc; busybox ln -s /etc/passwd /tmp/link").success();
    bench.sbx(&["cp", "one:/tmp/etc/passwd", out]).success();
    assert!(fs::read_to_string(format!("{out}/passwd")).unwrap().contains("/home/ann"));
    bench.sbx(&["cp", "one:/tmp/link", out]).success();
    assert!(fs::symlink_metadata(format!("{out}/link")).unwrap().is_symlink());
    let before = fs::read("/etc/passwd").unwrap();
    bench.sbx(&["cp", &format!("{tree}/deep/file"), "one:/tmp/etc/passwd"]).success();
    assert_eq!(fs::read("/etc/passwd").unwrap(), before);
    assert_eq!(bench.exec("one", "busybox cat /etc/passwd").success().stdout, "text\n");
    bench.sbx(&["cp", "one:/none", out]).fails(3, &["/none"]);
    bench.sbx(&["cp", tree, out]).fails(1, &["INSTANCE:/PATH"]);
    bench.sbx(&["rm", "-f", "one"]).success();
    fs::remove_dir_all(tree).unwrap();
    fs::remove_dir_all(out).unwrap();
}

fn killed_keeper(bench: &Bench<'_>) {
    let answer = bench.detach(&["--name", "web", "web"]);
    let port = u16::try_from(answer["ports"]["80"].as_u64().unwrap()).unwrap();
    let (keeper, first) = (bench.number("web", "keeper"), bench.number("web", "first"));
    kill(keeper, "KILL");
    soon("the end of the instance", || !exists(first));
    assert_eq!(bench.status("web").as_deref(), Some("killed"));
    soon("a free port", || TcpListener::bind(("127.0.0.1", port)).is_ok());
    assert_eq!(bench.groups(answer["id"].as_str().unwrap()), Vec::<std::path::PathBuf>::new());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(bench.state().to_str().unwrap()), "{mounts}");
    bench.sbx(&["rm", "web"]).success();
}

pub fn killed_first_process(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    kill(bench.number("one", "first"), "KILL");
    soon("its end", || bench.status("one").as_deref() == Some("ended"));
    assert_eq!(bench.ps()[0]["code"], 137);
    bench.sbx(&["rm", "one"]).success();
}

pub fn killed_caller(bench: &Bench<'_>) {
    let mut child = bench.spawn(&["run", "--name", "one", "s"]);
    soon("the instance", || bench.status("one").as_deref() == Some("running"));
    let first = bench.number("one", "first");
    kill(child.id(), "KILL");
    child.wait().unwrap();
    soon("the end of the instance", || !exists(first));
    soon("nothing left", || bench.ps().is_empty());
}

pub fn bad_input(bench: &Bench<'_>) {
    bench.sbx(&["run", "absent"]).fails(1, &["no sandbox `absent`"]);
    bench.sbx(&["run", "huge"]).fails(1, &["cpus=4096", "processors", "--no-limits"]);
    bench.sbx(&["run", "secret"]).fails(1, &["SBX_TEST_SECRET", "export"]);
    let passed = bench.sbx(&[
        "run",
        "-e",
        "SBX_TEST_SECRET=x",
        "secret",
        "--",
        "sh",
        "-c",
        "echo $SBX_TEST_SECRET",
    ]);
    assert_eq!(passed.success().answer(), "x");
    bench.sbx(&["run", "-p", "80:80:80:80", "s"]).fails(2, &["is no port"]);
    bench.sbx(&["run", "-it", "s"]).fails(1, &["no terminal"]);
    bench.sbx(&["exec", "absent", "true"]).fails(1, &["no instance `absent`", "sbx ps"]);
    bench.sbx(&["stop", "absent"]).fails(1, &["no instance"]);
    assert_eq!(bench.ps(), Vec::<serde_json::Value>::new());
}
