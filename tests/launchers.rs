//! Launchers beside the embedded one: the same sandboxes, started by Debian's runc and crun, by docker's
//! engine, and as objects of Kubernetes; what each cannot honour is refused.

mod docker;
mod kubernetes;
mod refused;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::launch::{
    Test, copies, exit_codes, killed_caller, killed_first_process, life, names, nothing_is_left,
    one_file, ports, readiness, signals, streams, users, volumes,
};
use crate::support::launch::{Bench, exists, kill, soon};
use crate::support::project::Outcome;
use crate::support::{tool, user::User};

/// What holds whatever starts an instance.
const EVERYWHERE: &[(&str, Test)] = &[
    ("exit codes", exit_codes),
    ("streams", streams),
    ("one file", one_file),
    ("signals", signals),
    ("life", life),
    ("users", users),
    ("ports", ports),
    ("readiness", readiness),
    ("names", names),
    ("copies", copies),
    ("confinement", confinement),
    ("limits", limits),
    ("killed first process", killed_first_process),
    ("killed caller", killed_caller),
    ("killed keeper", killed_keeper),
];

fn try_all(bench: &Bench<'_>, tests: &[(&str, Test)]) {
    for (name, test) in tests {
        println!("{name}");
        test(bench);
    }
}

#[test]
fn instances_of_runc() {
    let out = "sandbox \"out\" extends=\"s\" { egress \"example.org:443\"; }";
    let bench = Bench::declaring(None, out).launcher(&["--launcher", "oci", "--runtime", "runc"]);
    try_all(&bench, EVERYWHERE);
    try_all(&bench, &[("volumes", volumes), ("own ids", own_ids), ("no relay", no_relay)]);
    nothing_is_left(&bench);
}

#[test]
fn instances_of_crun() {
    let bench = Bench::new(None).launcher(&["--launcher", "oci", "--runtime", "crun"]);
    try_all(&bench, EVERYWHERE);
    try_all(&bench, &[("volumes", volumes), ("own ids", own_ids)]);
    nothing_is_left(&bench);
}

/// What a program is refused is the same as in an instance of our own.
fn confinement(bench: &Bench<'_>) {
    let own = |sandbox: &str, words: &[&str]| {
        let arguments = [&["run", "--launcher", "embedded", sandbox, "--"], words].concat();
        let output = bench.plain_command(&arguments).stdin(Stdio::null()).output();
        Outcome::new(output.unwrap()).success().stdout
    };
    // the first process is the program itself there, which may look into itself
    let tried = |text: String| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with("/proc/1/"));
        let refused = |line: &str| match line.rsplit_once(' ') {
            // permission denied, no such file, read-only file system: runtimes differ in which
            Some((path, "2" | "13" | "30")) if path.starts_with('/') => format!("{path} refused"),
            _ => line.to_owned(),
        };
        lines.map(refused).collect()
    };
    // docker's init is its program's equal, which may trace it, and then nobody waits for anybody
    let docker = bench.options().contains(&"docker".to_owned());
    let probe: &[&str] = if docker { &["/bin/probe"] } else { &["/bin/probe", "inside"] };
    for sandbox in ["s", "high", "low"] {
        let theirs = bench.sbx(&[&["run", sandbox, "--"], probe].concat()).success().stdout;
        assert_eq!(tried(theirs), tried(own(sandbox, probe)), "{sandbox}");
        let status = [
            "busybox",
            "grep",
            "-E",
            "Cap(Bnd|Eff|Prm|Inh)|NoNewPrivs|^Seccomp:|SigBlk",
            "/proc/self/status",
        ];
        let theirs = bench.sbx(&[&["run", sandbox, "--"], &status[..]].concat()).success().stdout;
        assert_eq!(theirs, own(sandbox, &status), "{sandbox}");
    }
    let network = bench.script("s", "busybox tail -n +3 /proc/net/dev; busybox ip route").success();
    assert_eq!(network.stdout.lines().count(), 1, "a loopback, no way out: {}", network.stdout);
    let shared = bench.script("s", "busybox df -k /dev/shm | busybox tail -n 1").success();
    assert_eq!(shared.stdout.split_whitespace().nth(1), Some("65536"), "{}", shared.stdout);
    bench.script("high", ">/x").fails(1, &["Read-only"]);
    let written = bench.script("high", ">/workspace/x; >/tmp/x; >/run/x; busybox cat /srv/below");
    assert_eq!(written.success().answer(), "below");
}

fn limits(bench: &Bench<'_>) {
    let answer = bench.detach(&["--name", "limited", "limited"]);
    let bomb = "busybox head -c 100000000 /dev/zero | busybox tail -n 1 | busybox wc -c";
    let outcome = bench.exec("limited", bomb);
    assert_ne!(outcome.answer(), "100000000", "64 MiB hold no hundred");
    let script = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do \
                  busybox sleep 5 & done; exit 0";
    let outcome = bench.exec("limited", script);
    assert!(outcome.stderr.contains("fork"), "a visitor is limited, too: {}", outcome.stderr);
    bench.sbx(&["rm", "-f", "limited"]).success();
    assert_eq!(bench.groups(answer["id"].as_str().unwrap()), Vec::<PathBuf>::new());
}

/// What a runtime or an engine started ends with its keeper, too, and is forgotten at the next look.
fn killed_keeper(bench: &Bench<'_>) {
    bench.detach(&["--name", "web", "web"]);
    let (keeper, first) = (bench.number("web", "keeper"), bench.number("web", "first"));
    kill(keeper, "KILL");
    soon("the end of the instance", || !exists(first));
    soon("what is true", || bench.status("web").as_deref() == Some("killed"));
    bench.sbx(&["exec", "web", "true"]).fails(1, &["does not run"]);
    bench.sbx(&["rm", "web"]).success();
}

/// Root of an instance is nobody else.
fn own_ids(bench: &Bench<'_>) {
    let map = bench.script("s", "busybox cat /proc/self/uid_map").success();
    let words: Vec<&str> = map.stdout.split_whitespace().collect();
    assert_eq!((words[0], words[2]), ("0", "65536"), "{}", map.stdout);
    assert!(words[1].parse::<u32>().unwrap() >= 0x7000_0000, "{}", map.stdout);
    // no layer of the store was written to
    bench.script("s", "echo x >/srv/below").success();
    assert_eq!(bench.script("s", "busybox cat /srv/below").success().answer(), "below");
}

/// A runtime that is not known to share the kernel is spoken to in its own words only.
fn no_relay(bench: &Bench<'_>) {
    let other = bench.project.dir.path().join("other");
    symlink("/usr/sbin/runc", &other).unwrap();
    let other = other.to_str().unwrap();
    let by = |rest: &[&str]| {
        let words = [&["run", "--launcher", "oci", "--runtime", other], rest].concat();
        bench.project.run(&words).outcome()
    };
    by(&["web"]).fails(1, &["`oci`", "ports with runtime `other`"]);
    by(&["out"]).fails(1, &["`oci`", "`egress` with runtime `other`"]);
    by(&["-d", "--name", "one", "s"]).success();
    bench.exec("one", "echo $((6*7)); exit 5").fails(5, &[]);
    let said = bench.sbx(&[
        "exec",
        "-u",
        "1000",
        "-w",
        "/tmp",
        "-e",
        "A=b",
        "one",
        "sh",
        "-c",
        "echo $A; pwd; busybox id -u",
    ]);
    assert_eq!(said.success().stdout, "b\n/tmp\n1000\n");
    bench.sbx(&["exec", "-u", "ann", "one", "true"]).fails(1, &["no number of a user"]);
    bench.sbx(&["cp", "one:/srv", "."]).fails(1, &["runtime `other` shows nobody", "sbx exec -i"]);
    bench.sbx(&["rm", "-f", "one"]).success();
}

/// Runtimes start instances of ordinary users as ours are: in their ids, within their limits.
#[test]
fn instances_of_runc_and_an_ordinary_user() {
    of_an_ordinary_user("runc");
}

#[test]
fn instances_of_crun_and_an_ordinary_user() {
    of_an_ordinary_user("crun");
}

fn of_an_ordinary_user(runtime: &str) {
    let user = User::new();
    let bench = Bench::new(Some(&user)).launcher(&["--launcher", "oci", "--runtime", runtime]);
    let root_only = ["limits"];
    let tests: Vec<(&str, Test)> =
        EVERYWHERE.iter().filter(|(name, _)| !root_only.contains(name)).copied().collect();
    try_all(&bench, &tests);
    try_all(&bench, &[("volumes", volumes), ("user limits", user_limits)]);
    nothing_is_left(&bench);
    let left = bench.project.dir.path().join("state.oci");
    assert_eq!(fs::read_dir(left).unwrap().count(), 0, "the runtime's state is gone");
}

/// Who may make no control groups is told so; processes are counted all the same.
fn user_limits(bench: &Bench<'_>) {
    bench.sbx(&["run", "limited", "--", "true"]).fails(3, &["limits", "--no-limits"]);
    bench.sbx(&["run", "--no-limits", "limited", "--", "true"]).success();
    let script = "n=0; while [ $n -lt 60 ]; do busybox sleep 5 & n=$((n+1)); done; exit 0";
    let outcome = bench.script("few", script);
    assert!(outcome.stderr.contains("fork"), "{}", outcome.stderr);
}

/// What is printed is what a runtime and an engine take.
#[test]
fn what_is_printed_is_taken() {
    let bench = Bench::new(None);
    let dir = bench.project.dir.path();
    let printed =
        bench.sbx(&["run", "--launcher", "oci", "--print", "s", "--", "sh", "-c", "echo hello"]);
    let bundle = dir.join("bundle");
    fs::create_dir_all(bundle.join("rootfs")).unwrap();
    fs::write(bundle.join("config.json"), printed.success().stdout).unwrap();
    let tar = dir.join("s.tar");
    bench.sbx(&["save", "s", "--format", "tar", "-o", tar.to_str().unwrap()]).success();
    tool("tar", &["-xf", tar.to_str().unwrap(), "-C", bundle.join("rootfs").to_str().unwrap()]);
    let state = dir.join("runc");
    let output = Command::new("runc")
        .args(["--root", state.to_str().unwrap(), "run", "--bundle", bundle.to_str().unwrap()])
        .arg(format!("sbx-test-{}", std::process::id()))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "hello\n");
    let ann = bench.sbx(&["run", "--launcher", "oci", "--print", "ann"]);
    ann.fails(1, &["user `ann`, which only the image can tell the number of"]);
    let printed = bench.sbx(&["run", "--launcher", "docker", "--print", "--json", "web"]).success();
    let body: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
    assert_eq!(body["HostConfig"]["CapDrop"][0], "ALL");
}
