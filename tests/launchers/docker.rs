//! Instances of docker's engine: root's, and those of an ordinary user who may use its socket.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};

use super::{EVERYWHERE, try_all};
use crate::launch::{Test, exit_codes, killed_caller, life, names, nothing_is_left, signals, streams};
use crate::support::docker::Engine;
use crate::support::launch::{Bench, kill, soon};
use crate::support::user::User;

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
