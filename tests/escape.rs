//! What a hostile program in an instance tries, refused; the same tried outside, to show that each
//! could succeed.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use crate::support::launch::{self, Bench, soon};
use crate::support::tool;
use crate::support::user::User;

const EPERM: &str = "1";

fn lines(text: &str) -> Vec<(String, String)> {
    let pair = |line: &str| {
        let (name, code) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), code.to_owned())
    };
    text.lines().map(pair).collect()
}

type Test = fn(&Bench<'_>);

const EVERYBODY: &[(&str, Test)] = &[
    ("calls", calls),
    ("levels", levels),
    ("locks", locks),
    ("layers", layers),
    ("others", others),
    ("host", host),
    ("disk", disk),
    ("processes", processes),
];

#[test]
fn nothing_escapes_from_roots_instances() {
    let bench = Bench::new(None);
    let outside = Command::new(bench.project.dir.path().join("probe")).output().unwrap();
    for (name, code) in lines(&String::from_utf8(outside.stdout).unwrap()) {
        assert_ne!(code, EPERM, "{name}: root may outside, so the test shows something");
    }
    EVERYBODY.iter().for_each(|(name, test)| {
        println!("{name}");
        test(&bench);
    });
    ids(&bench);
}

#[test]
fn nothing_escapes_from_an_ordinary_users_instances() {
    let user = User::new();
    let bench = Bench::new(Some(&user));
    EVERYBODY.iter().for_each(|(name, test)| {
        println!("{name}");
        test(&bench);
    });
    own_file(&bench);
}

fn calls(bench: &Bench<'_>) {
    for sandbox in ["s", "high"] {
        let tried =
            lines(&bench.sbx(&["run", sandbox, "--", "/bin/probe", "inside"]).success().stdout);
        assert!(tried.len() > 25, "{tried:?}");
        for (name, code) in tried {
            let refused: &[&str] = match name.as_str() {
                // permission denied, no such file, read-only file system
                path if path.starts_with('/') => &["1", "2", "13", "30"],
                _ => &[EPERM],
            };
            assert!(refused.contains(&&*code), "{sandbox}: {name} is answered with {code}");
        }
    }
}

fn levels(bench: &Bench<'_>) {
    let tried = bench.sbx(&["run", "low", "--", "/bin/probe"]).success().stdout;
    assert!(tried.contains("raw_socket 0\n"), "`low` has raw sockets of its own network: {tried}");
    let script = "echo x >/made; echo x >/tmp/made && echo x >/workspace/made && echo x >/run/made";
    bench.script("high", script).success().says("Read-only file system");
    bench.script("s", "echo x >/made").success();
}

/// Landlock at `high`: what mounts would let through is refused, for visitors, too.
fn locks(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "high"]);
    let may = "echo x >/dev/null && echo x >/tmp/a && echo x >/workspace/a && echo x >/dev/shm/a && busybox ls / >/dev/null";
    let may_not = "echo 0 >/proc/self/oom_score_adj";
    bench.exec("one", may).success();
    bench.exec("one", may_not).fails(1, &["Permission denied"]);
    bench.script("high", may).success();
    bench.script("high", may_not).fails(1, &["Permission denied"]);
    bench.script("s", may_not).success();
    bench.sbx(&["rm", "-f", "one"]).success();
}

/// A disk that is filled is the instance's own share of it.
fn disk(bench: &Bench<'_>) {
    let fill = "busybox dd if=/dev/zero of=/tmp/big bs=1M count=64 2>&1; busybox du -m /tmp/big; busybox rm /tmp/big; echo again >/tmp/small && busybox cat /srv/below";
    let outcome = bench.script("small", fill).success();
    assert!(outcome.stdout.contains("No space left"), "{}", outcome.stdout);
    assert!(outcome.stdout.ends_with("below\n"), "{}", outcome.stdout);
    let many = "at=0; while [ $at -lt 20000 ] && true >/tmp/$at; do at=$((at+1)); done 2>/dev/null; echo $at";
    let made: u32 = bench.script("small", many).answer().parse().unwrap();
    assert!(made < 20_000, "empty files are limited, too: {made}");
    bench.sbx(&["run", "vast"]).fails(1, &["limit disk=", "bytes of memory", "--no-limits"]);
    bench.sbx(&["run", "--no-limits", "vast", "--", "true"]).success();
}

/// A fork bomb goes off inside, with limits that are declared and with those that are not.
fn processes(bench: &Bench<'_>) {
    let bomb = |most: u32| {
        format!(
            "at=0; while [ $at -lt {most} ]; do busybox sleep 60 >/dev/null 2>&1 & at=$((at+1)); done; echo all"
        )
    };
    let outcome = bench.script("few", &bomb(60));
    outcome.says("can't fork");
    bench.script("few", &format!("{}; exit 0", bomb(20))).success();
    assert_eq!(bench.script("s", "exit 0").code, Some(0), "others are not hindered");
}

/// What is written to an image's files is seen by no other instance, nor in the store.
fn layers(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    bench.exec("one", "echo evil >/srv/below; busybox rm /etc/passwd /bin/probe").success();
    assert_eq!(bench.script("s", "busybox cat /srv/below").success().answer(), "below");
    let trees = bench.project.cache().join("trees");
    let maps = fs::read_dir(trees).unwrap().map(|map| map.unwrap().path());
    let layers = maps.flat_map(|map| fs::read_dir(map).unwrap());
    let files: Vec<_> = layers
        .map(|layer| layer.unwrap().path().join("srv/below"))
        .filter(|file| file.exists())
        .collect();
    assert_eq!(files.len(), 1);
    assert_eq!(fs::read_to_string(&files[0]).unwrap(), "below\n");
    bench.sbx(&["rm", "-f", "one"]).success();
}

/// Two instances see nothing of each other.
fn others(bench: &Bench<'_>) {
    bench.detach(&[
        "--name",
        "one",
        "s",
        "--",
        "sh",
        "-c",
        "echo mine >/tmp/secret; exec busybox sleep 4321",
    ]);
    bench.detach(&["--name", "two", "s"]);
    let script = "busybox ps; busybox find / -xdev -name 'secre?'; busybox ls /dev/shm /dev/mqueue; busybox cat /proc/sysvipc/shm";
    let seen = bench.exec("two", script).success().stdout;
    assert!(!seen.contains("4321") && !seen.contains("secret"), "{seen}");
    let seen = bench.exec("one", "busybox ps").success().stdout;
    assert!(seen.contains("4321"), "its own it does see: {seen}");
    let visible = bench.exec("two", &format!("busybox ls {}", bench.state().display()));
    assert_ne!(visible.code, Some(0));
    bench.sbx(&["rm", "-f", "one", "two"]).success();
}

/// Neither the host's loopback nor any other address is reached.
fn host(bench: &Bench<'_>) {
    let listener = TcpListener::bind("0.0.0.0:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let addresses = tool("hostname", &["-I"]);
    let all = addresses.split_whitespace().filter(|address| !address.contains(':'));
    for address in all.chain(["127.0.0.1", "169.254.169.254"]) {
        let script = format!("busybox nc -w 1 {address} {port} </dev/null");
        assert_ne!(bench.script("s", &script).code, Some(0), "{address}");
    }
    assert!(listener.accept().is_err(), "nobody came");
    drop(std::net::TcpStream::connect(("127.0.0.1", port)).unwrap());
    assert!(listener.accept().is_ok(), "who can, does");
    let devices =
        bench.script("s", "busybox ls /sys/class/net; busybox wc -l </proc/net/dev").success();
    assert_eq!(devices.stdout, "lo\n3\n");
}

/// A program that is a script for `/proc/self/exe` would get hold of this program's file, which may be
/// the user's own: an ordinary user's instances run from a read-only mount of it.
fn own_file(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    let read_only = |pid: u32| {
        let stat = rustix::fs::statvfs(format!("/proc/{pid}/exe")).unwrap();
        stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY)
    };
    assert!(read_only(bench.number("one", "first")), "of the first process");
    let mut caller = bench.spawn(&["exec", "one", "busybox", "sleep", "300"]);
    soon("a visitor from a read-only file", || {
        let children = format!("/proc/{0}/task/{0}/children", caller.id());
        let children = fs::read_to_string(children).unwrap_or_default();
        children.split_whitespace().any(|child| read_only(child.parse().unwrap()))
    });
    launch::kill(caller.id(), "KILL");
    caller.wait().unwrap();
    bench.sbx(&["rm", "-f", "one"]).success();
}

/// As root: an instance's root is nobody outside, and no other instance's root.
fn ids(bench: &Bench<'_>) {
    bench.detach(&["--name", "one", "s"]);
    bench.detach(&["--name", "two", "s"]);
    let owner = |name: &str| {
        let status =
            fs::read_to_string(format!("/proc/{}/status", bench.number(name, "first"))).unwrap();
        let line = status.lines().find(|line| line.starts_with("Uid:")).unwrap().to_owned();
        line.split_whitespace().nth(1).unwrap().parse::<u32>().unwrap()
    };
    let (one, two) = (owner("one"), owner("two"));
    assert!(one >= 0x7000_0000 && two >= 0x7000_0000 && one != two, "{one} {two}");
    bench.sbx(&["rm", "-f", "one", "two"]).success();
}

#[test]
fn bombs_go_off_inside() {
    let bench = Bench::new(None);
    let answer = bench.detach(&["--name", "bomb", "limited"]);
    let many = "at=0; while [ $at -lt 60 ]; do busybox sleep 60 >/dev/null 2>&1 & at=$((at+1)); done; echo all";
    bench.exec("bomb", many).says("can't fork");
    let groups = bench.groups(answer["id"].as_str().unwrap());
    assert!(!groups.is_empty());
    let peak = |group: &std::path::PathBuf| fs::read_to_string(group.join("pids.current")).ok();
    let count: u32 = groups.iter().find_map(peak).unwrap().trim().parse().unwrap();
    assert!(count <= 20, "{count}");
    bench.sbx(&["rm", "-f", "bomb"]).success();
    assert_eq!(bench.groups(answer["id"].as_str().unwrap()), Vec::<std::path::PathBuf>::new());
    let hungry = bench.script("limited", "busybox tail /dev/zero; echo $?");
    assert!(hungry.code == Some(137) || hungry.answer() == "137", "{:?}", hungry.code);
    bench
        .script("limited", "busybox head -c 1000000 /dev/zero | busybox tail >/dev/null")
        .success();
}
