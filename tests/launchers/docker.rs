//! Instances of docker's engine: root's, and those of an ordinary user who may use its socket.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};

use super::{EVERYWHERE, limits, try_all};
use crate::launch::{
    Test, copies, exit_codes, killed_caller, life, names, nothing_is_left, one_file, signals,
    streams, users,
};
use crate::support::docker::Engine;
use crate::support::launch::{Bench, kill, soon};
use crate::support::{tool, user::User};

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
    bench.script("s", "true").fails(3, &["does not answer", "ermission denied", "usermod"]);
    fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
    chown(engine.host().strip_prefix("unix://").unwrap(), Some(user.id), None).unwrap();
    let tests: &[(&str, Test)] = &[
        ("exit codes", exit_codes),
        ("streams", streams),
        ("one file", one_file),
        ("signals", signals),
        ("life", life),
        ("users", users),
        ("names", names),
        ("copies", copies),
        ("copies by the engine", copies_by_the_engine),
        ("limits", limits),
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

/// Where nobody looks into the instance, the engine copies: as everywhere, or not at all.
fn copies_by_the_engine(bench: &Bench<'_>) {
    let here = bench.project.dir.path();
    let own = fs::metadata(here).unwrap().uid();
    let dir = here.join("given");
    fs::create_dir_all(dir.join("deep/empty")).unwrap();
    let long = "n".repeat(200);
    fs::write(dir.join("deep").join(&long), vec![b'x'; 1 << 20]).unwrap();
    fs::write(dir.join("run"), "#!/bin/sh\necho ran\n").unwrap();
    fs::set_permissions(dir.join("run"), PermissionsExt::from_mode(0o4755)).unwrap();
    fs::set_permissions(dir.join("deep/empty"), PermissionsExt::from_mode(0o500)).unwrap();
    tool("chown", &["-R", &own.to_string(), dir.to_str().unwrap()]);
    let (given, out) = (dir.to_str().unwrap(), here.join("back"));
    let out = out.to_str().unwrap();
    bench.detach(&["--name", "one", "s"]);
    // under another name, and over one that is there
    for _ in 0..2 {
        bench.sbx(&["cp", given, "one:/srv/other"]).success();
        bench.exec("one", "busybox rm -r /srv/given; busybox mv /srv/other /srv/given").success();
    }
    let look = format!(
        "/srv/given/run; busybox stat -c '%u:%g %a' /srv/given/run /srv/given/deep/empty; \
         busybox wc -c </srv/given/deep/{long}"
    );
    let said = bench.exec("one", &look).success().stdout;
    assert_eq!(said, "ran\n0:0 755\n0:0 500\n1048576\n");
    let age =
        bench.exec("one", "echo $(($(busybox date +%s) - $(busybox stat -c %Y /srv/given/run)))");
    assert!(age.success().answer().parse::<u32>().unwrap() < 300, "as old as the copy");
    // a file of two names is two files, and all of it is whose it comes to
    bench.exec("one", "busybox ln /srv/given/run /srv/given/second").success();
    bench.sbx(&["cp", "one:/srv/given", out]).success();
    let back = |path: &str| fs::metadata(format!("{out}/{path}")).unwrap();
    assert_eq!((back("run").uid(), back("run").mode() & 0o7777), (own, 0o755));
    assert_eq!((back("second").nlink(), back("second").len()), (1, back("run").len()));
    assert_eq!(back("deep/empty").mode() & 0o777, 0o500);
    assert_eq!(back(&format!("deep/{long}")).len(), 1 << 20);
    // what is neither file, directory nor link, and names that are taken by something else
    bench.exec("one", "busybox mkdir /srv/odd; busybox mkfifo /srv/odd/pipe").success();
    bench.sbx(&["cp", "one:/srv/odd", out]).fails(3, &["pipe"]);
    bench.sbx(&["cp", &format!("{given}/run"), "one:/srv/odd/run"]).success();
    bench.sbx(&["cp", given, "one:/srv/odd/run"]).fails(3, &["run"]);
    bench.sbx(&["cp", given, "one:/none/below"]).fails(3, &["/none", "entity not found"]);
    bench.sbx(&["cp", given, "one:/etc/passwd/below"]).fails(3, &["/etc/passwd", "not a dir"]);
    for place in ["/dev/shm", "/proc/given", "/sys"] {
        bench.sbx(&["cp", given, &format!("one:{place}")]).fails(1, &["nobody but root"]);
    }
    bench.exec("one", "busybox ln -s /dev/shm /srv/shared").success();
    bench.sbx(&["cp", "one:/srv/shared/x", out]).fails(1, &["in `/dev`", "run it as root"]);
    bench.sbx(&["rm", "-f", "one"]).success();
    bench.detach(&["--name", "one", "high"]);
    bench.sbx(&["cp", &format!("{given}/run"), "one:/workspace"]).success();
    assert_eq!(bench.exec("one", "sh /workspace/run").success().answer(), "ran");
    bench.sbx(&["cp", given, "one:/tmp"]).fails(1, &["in `/tmp`"]);
    bench.sbx(&["cp", given, "one:/srv"]).fails(3, &["read-only"]);
    bench.sbx(&["rm", "-f", "one"]).success();
    fs::remove_dir_all(dir).unwrap();
    fs::remove_dir_all(out).unwrap();
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
