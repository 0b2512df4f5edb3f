//! Launchers beside the embedded one: the same sandboxes, started by Debian's runc and crun, by docker's
//! engine, and as objects of Kubernetes; what each cannot honour is refused.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::launch::{
    Test, copies, exit_codes, killed_caller, killed_first_process, life, names, nothing_is_left,
    one_file, ports, readiness, signals, streams, users, volumes,
};
use crate::support::depot::Depot;
use crate::support::docker::Engine;
use crate::support::launch::{Bench, exists, kill, soon};
use crate::support::project::Outcome;
use crate::support::python::kept_environment;
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
    bench.sbx(&["rm", "-f", "one"]).success();
}

#[test]
fn instances_of_docker() {
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start(home.path());
    let mut bench = Bench::new(None).launcher(&["--launcher", "docker"]);
    bench.set("DOCKER_HOST", engine.host());
    bench.script("s", "true").success().says("bringing sha256:");
    let again = bench.script("s", "true").success();
    assert!(!again.stderr.contains("bringing"), "it is there: {}", again.stderr);
    try_all(&bench, EVERYWHERE);
    removed_by_others(&bench, &engine);
    told(&bench, &engine);
    nothing_is_left(&bench);
    may_use_the_socket(&home, &engine);
    soon("no container left", || engine.docker(&["ps", "--all", "--quiet"]).is_empty());
    drop(engine);
    bench.script("s", "true").fails(3, &["engine does not answer", "systemctl start docker"]);
}

/// An ordinary user who may use the engine's socket starts what nobody need enter.
fn may_use_the_socket(home: &tempfile::TempDir, engine: &Engine) {
    let user = User::new();
    let out = "sandbox \"out\" extends=\"s\" { egress \"any\"; }";
    let mut bench = Bench::declaring(Some(&user), out).launcher(&["--launcher", "docker"]);
    bench.set("DOCKER_HOST", engine.host());
    bench.script("s", "true").fails(3, &["does not answer", "ermission denied"]);
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(engine.host().strip_prefix("unix://").unwrap(), Some(user.id), None).unwrap();
    let tests: &[(&str, Test)] = &[
        ("exit codes", exit_codes),
        ("streams", streams),
        ("signals", signals),
        ("life", life),
        ("names", names),
        ("killed caller", killed_caller),
    ];
    try_all(&bench, tests);
    for (sandbox, what) in [("web", "ports"), ("asks", "`ready`"), ("out", "`egress`")] {
        bench.sbx(&["run", sandbox]).fails(1, &[&format!("cannot honour {what} without root")]);
    }
    bench.detach(&["--name", "one", "s"]);
    kill(bench.number("one", "keeper"), "KILL");
    soon("no container left", || engine.docker(&["ps", "--all", "--quiet"]).is_empty());
    soon("what is true", || bench.status("one").as_deref() == Some("killed"));
    bench.sbx(&["rm", "one"]).success();
    nothing_is_left(&bench);
}

fn removed_by_others(bench: &Bench<'_>, engine: &Engine) {
    let answer = bench.detach(&["--name", "one", "s"]);
    let container = format!("sbx-{}", answer["id"].as_str().unwrap());
    engine.docker(&["rm", "--force", &container]);
    soon("what is true", || bench.status("one").as_deref() == Some("ended"));
    assert_eq!(bench.sbx(&["logs", "one"]).success().stdout, "said\n");
    bench.sbx(&["rm", "one"]).success();
}

/// What the engine was told of an instance.
fn told(bench: &Bench<'_>, engine: &Engine) {
    let shared = bench.project.dir.path().join("given");
    fs::write(&shared, "given\n").unwrap();
    let volume = format!("{}:/given:ro", shared.display());
    let answer = bench.detach(&["--name", "one", "-v", &volume, "limited"]);
    assert_eq!(bench.exec("one", "busybox cat /given").success().answer(), "given");
    bench.exec("one", "echo x >/given").fails(1, &["Read-only"]);
    let container = format!("sbx-{}", answer["id"].as_str().unwrap());
    let found: serde_json::Value =
        serde_json::from_str(&engine.docker(&["inspect", &container])).unwrap();
    let (config, host) = (&found[0]["Config"], &found[0]["HostConfig"]);
    assert_eq!(config["Labels"]["sbx.sandbox"], "limited");
    assert_eq!(config["Labels"]["sbx.instance"], "one");
    assert_eq!(host["NetworkMode"], "none");
    assert_eq!(host["Memory"], 64 << 20);
    assert_eq!(host["NanoCpus"], 1_000_000_000);
    assert_eq!(host["PidsLimit"], 20);
    assert_eq!(found[0]["Image"], answer["image"]);
    bench.sbx(&["rm", "-f", "one"]).success();
}

#[test]
fn what_a_launcher_cannot_honour_is_refused() {
    let bench = Bench::new(None);
    bench.project.write(
        "more.kdl",
        r#"sandbox "udp" extends="s" { port 53 protocol="udp"; }
sandbox "any" extends="s" { egress "any"; }
sandbox "out" extends="s" { egress "example.org:443"; }
"#,
    );
    let all = bench.project.read("sandboxes.kdl");
    bench.project.write("sandboxes.kdl", &format!("include \"more.kdl\"\n{all}"));
    for launcher in ["embedded", "oci", "docker"] {
        let run = |rest: &[&str]| bench.sbx(&[&["run", "--launcher", launcher], rest].concat());
        if launcher != "docker" {
            let named = format!("launcher `{launcher}` cannot honour");
            run(&["udp"]).fails(1, &[&named, "port 53/udp"]);
        }
        run(&["--waive", "pids", "s"]).fails(1, &["for launcher `kubernetes`"]);
    }
    // nobody would serve the way out of what others start
    for (launcher, sandbox) in
        [("oci", "out"), ("oci", "any"), ("docker", "out"), ("docker", "any")]
    {
        let refused = format!("`{launcher}` cannot honour `egress` in what it prints");
        bench.sbx(&["run", "--launcher", launcher, "--print", sandbox]).fails(1, &[&refused]);
    }
    let missing = bench.sbx(&["run", "--launcher", "oci", "--runtime", "runsc", "s"]);
    missing.fails(1, &["no runtime `runsc`", "apt-get install runsc"]);
    bench.sbx(&["run", "--runtime", "runc", "s"]).fails(1, &["`--runtime` is for"]);
    bench.sbx(&["run", "--print", "s"]).fails(1, &["nothing to print", "--launcher"]);
    let image = format!("example.org/s@sha256:{}", "5".repeat(64));
    let cluster = |rest: &[&str]| {
        let words = ["run", "--launcher", "kubernetes", "--print"];
        bench.sbx(&[&words[..], &of(rest, &image)].concat())
    };
    bench.sbx(&["run", "--launcher", "kubernetes", "s"]).fails(1, &["--print", "kubectl apply"]);
    cluster(&["out"]).fails(1, &["`kubernetes` cannot honour", "addresses only"]);
    cluster(&["limited"]).fails(1, &["limits pids=20", "--waive pids"]);
    cluster(&["-v", "/etc:/given", "s"]).fails(1, &["mount `/etc`"]);
    cluster(&["-p", "8080:80", "s"]).fails(1, &["port 8080 of this machine"]);
    cluster(&["--image", "example.org/a:1", "s"]).fails(2, &["no digest", "@sha256:"]);
    let mut away = bench;
    away.set("DOCKER_HOST", "tcp://192.0.2.1:2375");
    let run = ["run", "--launcher", "docker", "s"];
    away.sbx(&run).fails(1, &["not on this machine", "DOCKER_HOST=unix://"]);
    away.set("DOCKER_HOST", "unix:///none.sock");
    away.sbx(&run).fails(3, &["does not answer at /none.sock", "systemctl start docker"]);
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

#[test]
fn an_ordinary_user_is_told_who_needs_root() {
    let user = User::new();
    let bench = Bench::new(Some(&user));
    let other = user.program().with_file_name("other");
    symlink("/usr/sbin/runc", &other).unwrap();
    let other = other.to_str().unwrap();
    let outcome = bench.sbx(&["run", "--launcher", "oci", "--runtime", other, "s"]);
    outcome.fails(1, &["launcher `oci` takes root", "leave `--launcher` out"]);
    let image = format!("example.org/s@sha256:{}", "5".repeat(64));
    let print = ["run", "--launcher", "kubernetes", "--print", "--image", &image, "s"];
    bench.sbx(&print).success();
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

/// The objects, held against the schemas that Kubernetes publishes.
#[test]
fn objects_of_kubernetes_are_valid() {
    let python = kept_environment("kubernetes", &["kubernetes-validate==1.37.0", "pyyaml==6.0.3"]);
    let bench = Bench::new(None);
    bench.project.write(
        "more.kdl",
        r#"sandbox "tight" extends="web" { security-level "high"; user "1000:1000"; workdir "/srv"; limits memory="64MiB" cpus=0.5; env-from-host "SBX_TEST_KEY"; env SHOWN="$(x) yes"; }
sandbox "open" extends="s" { egress "any"; port 53 protocol="udp"; }
"#,
    );
    let all = bench.project.read("sandboxes.kdl");
    bench.project.write("sandboxes.kdl", &format!("include \"more.kdl\"\n{all}"));
    let digest = format!("sha256:{}", "5".repeat(64));
    let image = format!("registry.example.org/team/web@{digest}");
    let cases: &[&[&str]] = &[
        &["web"],
        &["asks"],
        &["never", "--runtime", "gvisor", "--pull-secret", "puller", "--image", &image],
        &["tight", "--name", "Odd.Name_1"],
        &["tight", "--with-secrets", "-e", "SBX_TEST_KEY=told"],
        &["open"],
        &["limited", "--waive", "pids"],
    ];
    for case in cases {
        let printed = |more: &[&str]| {
            let words = ["run", "--launcher", "kubernetes", "--print"];
            bench.sbx(&[&words[..], more, &of(case, &image)].concat()).success().stdout
        };
        let (yaml, json) =
            (bench.project.dir.path().join("o.yaml"), bench.project.dir.path().join("o.json"));
        fs::write(&yaml, printed(&[])).unwrap();
        fs::write(&json, printed(&["--json"])).unwrap();
        let judge = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/launchers/validate.py");
        tool(python.to_str().unwrap(), &[judge, yaml.to_str().unwrap(), json.to_str().unwrap()]);
    }
    said_to_clusters(&bench, &image);
}

/// Of an image that somebody else pushed, where no other is named.
fn of<'a>(case: &[&'a str], image: &'a str) -> Vec<&'a str> {
    let named = case.contains(&"--image");
    case.iter().copied().chain(["--image", image].into_iter().filter(|_| !named)).collect()
}

fn said_to_clusters(bench: &Bench<'_>, image: &str) {
    let objects = |case: &[&str]| -> Vec<serde_json::Value> {
        let words = ["run", "--launcher", "kubernetes", "--print", "--json"];
        let printed = bench.sbx(&[&words[..], &of(case, image)].concat()).success();
        let list: serde_json::Value = serde_json::from_str(&printed.stdout).unwrap();
        list["items"].as_array().unwrap().clone()
    };
    let find = |objects: &[serde_json::Value], kind: &str| {
        objects.iter().find(|object| object["kind"] == kind).cloned().unwrap_or_default()
    };
    // no value of this machine is shown unless it is asked for
    let hidden = objects(&["tight", "-e", "SBX_TEST_KEY=told"]);
    assert!(!serde_json::to_string(&hidden).unwrap().contains("told"));
    let pod = find(&hidden, "Pod");
    let container = &pod["spec"]["containers"][0];
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true);
    assert_eq!(container["resources"]["limits"]["cpu"], "500m");
    assert_eq!(pod["spec"]["securityContext"]["runAsNonRoot"], true);
    let text = serde_json::to_string(container).unwrap();
    assert!(text.contains("$$(x) yes") && text.contains("secretKeyRef"), "{text}");
    let shown = objects(&["tight", "--with-secrets", "-e", "SBX_TEST_KEY=told"]);
    assert_eq!(find(&shown, "Secret")["stringData"]["SBX_TEST_KEY"], "told");
    assert_eq!(find(&objects(&["s"]), "NetworkPolicy")["spec"]["egress"], serde_json::json!([]));
    assert_eq!(
        find(&objects(&["open"]), "NetworkPolicy")["spec"]["egress"],
        serde_json::json!([{}])
    );
    let pinned = find(&objects(&["s"]), "Pod");
    assert_eq!(pinned["spec"]["containers"][0]["image"], image);
}

/// Without an image that is named, it is what was pushed last, by the digest that it has there.
#[test]
fn objects_of_kubernetes_have_the_image_that_was_pushed() {
    let bench = Bench::new(None);
    let print = || bench.sbx(&["run", "--launcher", "kubernetes", "--print", "s"]);
    print().fails(1, &["`s` was not pushed as it is built now", "sbx push s", "--image"]);
    let depot = Depot::start();
    for tag in ["1", "2"] {
        let reference = format!("{}/team/s:{tag}", depot.host);
        let pushed = bench.sbx(&["--json", "push", "s", &reference]).success();
        let pushed: serde_json::Value = serde_json::from_str(&pushed.stdout).unwrap();
        let image = format!("{reference}@{}", pushed["digest"].as_str().unwrap());
        let printed = print().success().stdout;
        assert!(printed.contains(&image), "{image}: {printed}");
    }
    bench.project.write("probe", "another\n");
    print().fails(1, &["`s` was not pushed as it is built now"]);
}
