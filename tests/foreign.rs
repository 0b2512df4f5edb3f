//! Another platform than this machine's: what is built for it, and what it takes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sbx::platform::Platform;
use serde_json::Value;

use crate::support::deb::Member;
use crate::support::depot::Depot;
use crate::support::oci::Image;
use crate::support::project::{Outcome, Project};
use crate::support::tool;
use crate::support::trixie::patiently;
use crate::support::user::User;

/// A program for arm64 that writes what `uname -m` would say to `/out` and ends well if it may make no
/// user namespace: `openat`, `uname`, `write`, `unshare`, `exit` (elf(5), the Arm ISA's base set).
fn tiny() -> Vec<u8> {
    const CODE: [u32; 24] = [
        // x19 = openat(AT_FDCWD, "/out", O_WRONLY | O_CREAT, 0644)
        0xd280_0708,
        0x9280_0c60,
        0xd280_2001,
        0xf2a0_0801,
        0xd280_0822,
        0xd280_3483,
        0xd400_0001,
        0xaa00_03f3,
        // uname(0x400200)
        0xd280_1408,
        0xd280_4000,
        0xf2a0_0800,
        0xd400_0001,
        // write(x19, its `machine`, 7)
        0xd280_0808,
        0xaa13_03e0,
        0xd280_6081,
        0xf2a0_0801,
        0xd280_00e2,
        0xd400_0001,
        // exit(unshare(CLONE_NEWUSER) + 1): EPERM is -1
        0xd280_0c28,
        0xd2a2_0000,
        0xd400_0001,
        0x9100_0400,
        0xd280_0ba8,
        0xd400_0001,
    ];
    const START: u64 = 0x40_0000;
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2u16, 0xb7] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [START + 120, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // one segment that may be read, written and run
    for word in [1u32, 7] {
        file.extend(word.to_le_bytes());
    }
    for word in [0, START, START, 0x110, 0x1000, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(CODE.iter().flat_map(|word| word.to_le_bytes()));
    file.resize(0x100, 0);
    file.extend(b"/out");
    file.resize(0x110, 0);
    file
}

/// A store that has the emulator, in the directory that Cargo keeps for tests.
fn store() -> &'static Path {
    static FETCHED: OnceLock<PathBuf> = OnceLock::new();
    FETCHED.get_or_init(|| {
        let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("foreign-store");
        let project = over_tiny("file \"/own\" content=\"own\\n\"").store(&store);
        patiently(|| project.sbx(&["fetch", "--platform", "linux/arm64"])).success();
        store
    })
}

/// Sandbox `s` of a layer with these recipes over a base whose shell is [`tiny`].
fn over_tiny(recipes: &str) -> Project {
    let project = Project::new().file(
        "sandboxes.kdl",
        &format!(
            "project \"p\" {{ platforms \"linux/arm64\"; }}\n\
             layer \"base\" {{ from \"oci:base:1\"; }}\n\
             layer \"l\" needs=\"base\" {{ {recipes}; }}\n\
             sandbox \"s\" {{ layers \"l\"; }}\n"
        ),
    );
    let members =
        [Member::dir("./"), Member::dir("bin/"), Member::file("bin/sh", tiny()).mode(0o755)];
    let base = Image { architecture: "arm64", ..Image::new().layer(&members) };
    base.write(&project.dir.path().join("base"), "1");
    project
}

/// With the emulator's package in the project's own store, so that nothing need be fetched.
fn supplied(project: Project) -> Project {
    tool("cp", &["-a", store().to_str().unwrap(), project.cache().to_str().unwrap()]);
    project
}

fn build(project: &Project) -> Outcome {
    project.sbx(&["build", "s", "--platform", "linux/arm64", "--offline", "--json"])
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout).unwrap()
}

/// The last delta of layer `l`, unpacked.
fn delta(project: &Project, answer: &Value) -> tempfile::TempDir {
    let layers = answer["layers"].as_array().unwrap();
    let own = layers.iter().rfind(|layer| layer["name"] == "l").unwrap();
    let digest = own["diff_id"].as_str().unwrap().trim_start_matches("sha256:");
    let blob = project.cache().join("blobs/sha256").join(digest);
    let dir = tempfile::tempdir().unwrap();
    tool("tar", &["-xf", blob.to_str().unwrap(), "-C", dir.path().to_str().unwrap()]);
    dir
}

#[test]
fn a_command_of_another_platform_runs_and_is_as_confined_as_any() {
    let project = supplied(over_tiny("run \"this shell reads nothing\""));
    let answer = json(&build(&project).success());
    assert_eq!(answer["platform"], "linux/arm64");
    let delta = delta(&project, &answer);
    let names: Vec<_> =
        fs::read_dir(delta.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["out"], "the emulator leaves nothing");
    assert_eq!(fs::read_to_string(delta.path().join("out")).unwrap(), "aarch64");
    let user = User::new();
    let theirs = supplied(over_tiny("run \"this shell reads nothing\""));
    let arguments = ["build", "s", "--platform", "linux/arm64", "--offline"];
    let image = theirs.run(&arguments).user(&user).outcome().success();
    assert_eq!(answer["image"], image.answer());
    theirs.run(&["clean", "--all"]).user(&user).outcome().success();
}

#[test]
fn nothing_of_the_emulator_is_left_on_the_machine() {
    let table = Path::new("/proc/sys/fs/binfmt_misc");
    let entries = || {
        let names = fs::read_dir(table).into_iter().flatten();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = entries();
    let project = supplied(over_tiny("run \"this shell reads nothing\""));
    build(&project).success();
    assert_eq!(entries(), before);
}

#[test]
fn content_for_another_platform_takes_no_emulator() {
    let project = over_tiny("file \"/own\" content=\"own\\n\"");
    build(&project).success();
    let tools = fs::read_dir(project.cache().join("tools")).unwrap();
    assert_eq!(tools.count(), 0);
    if Platform::host() == Platform::Amd64 {
        project
            .sbx(&["run", "s"])
            .fails(1, &["`s` is for linux/arm64", "`platforms` in `project`"]);
    }
}

/// Instances have no emulator: what is for another platform is refused, whoever made it.
#[test]
fn what_this_machine_cannot_run_is_not_started_and_it_is_said_how_it_would_be() {
    let host = Platform::host();
    let other = Platform::ALL.into_iter().find(|other| *other != host).unwrap().as_str();
    let declared = "project \"p\" { platforms \"linux/amd64\" \"linux/arm64\"; }\n\
        layer \"l\" { file \"/own\" content=\"own\\n\"; }\n\
        sandbox \"s\" { layers \"l\"; command \"/own\"; }\n";
    let project = Project::new().file("sandboxes.kdl", declared);
    let both = format!("is for {other}, and this machine runs {host}");
    project.sbx(&["run", "s", "--platform", other]).fails(1, &[&both, "leave `--platform` out"]);
    let depot = Depot::start();
    let reference = format!("{}/team/s:1", depot.host);
    project.sbx(&["build", "s", "--platform", other]).success();
    project.sbx(&["push", "s", &reference, "--platform", other]).success();
    project.sbx(&["run", &reference]).fails(1, &["is not in the store", "sbx pull"]);
    project.sbx(&["pull", &reference, "--platform", other]).success();
    let absent = format!("for {host} is not in the store, which has it for {other}");
    let mend = format!("sbx pull {reference} --platform {host}");
    project.sbx(&["run", &reference]).fails(1, &[&absent, &mend]);
    project.sbx(&["run", &reference, "--platform", other]).fails(1, &[&both, &mend]);
}

#[test]
fn what_is_vendored_builds_for_another_platform_without_a_network() {
    let project = supplied(over_tiny("run \"this shell reads nothing\""));
    let image = json(&build(&project).success());
    let vendored = project.dir.path().join("vendored");
    project.sbx(&["vendor", vendored.to_str().unwrap(), "--offline"]).success();
    let bare = over_tiny("run \"this shell reads nothing\"");
    build(&bare).fails(3, &["`qemu-user", "`--offline` refuses the network"]);
    let arguments = ["build", "s", "--platform", "linux/arm64", "--offline", "--mirror"];
    let outcome = bare.sbx(&[&arguments[..], &[vendored.to_str().unwrap()]].concat());
    assert_eq!(outcome.success().answer(), image["image"]);
}

/// Where the kernel gives no user namespaces, as root of one.
fn poor(project: &Project, arguments: &[&str]) -> Outcome {
    let script = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$0\" \"$@\"";
    let plain = project.command(arguments);
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "sh", "-c", script]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.current_dir(project.dir.path()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::new(command.output().unwrap())
}

#[test]
fn where_nothing_can_run_it_that_is_said_and_doctor_says_it_too() {
    if Platform::host() == Platform::Arm64 {
        return eprintln!("not tried: this machine runs it itself");
    }
    let project = supplied(over_tiny("run \"this shell reads nothing\""));
    let arguments = ["build", "s", "--platform", "linux/arm64", "--offline"];
    let texts = ["programs of linux/arm64 cannot be run", "user.max_user_namespaces"];
    poor(&project, &arguments).fails(3, &texts);
    let told = poor(&project, &["doctor", "--json"]);
    let told = json(&told);
    assert_eq!(told["platforms"][0]["by"], Value::Null, "{told}");
    assert!(told["obstacles"].to_string().contains("programs of linux/arm64 cannot be run"));
    let here = json(&project.sbx(&["doctor", "--json"]).success());
    assert_eq!(here["platforms"][0]["by"], "emulator", "{here}");
    let said = project.sbx(&["doctor"]).success().stdout;
    assert!(said.contains("programs of linux/arm64 run through an emulator"), "{said}");
}

/// The real thing: Debian's own packages for arm64, settled, and Python.
const DEBIAN: &str = "project \"p\" { platforms \"linux/arm64\"; }\n\
    layer \"debian\" { debian \"trixie\" { suites \"trixie\"; base \"essential\"; packages \"python3-minimal\"; }; }\n\
    layer \"l\" needs=\"debian\" {\n\
        run #\"python3 -c 'import os, socket; print(os.uname().machine, os.popen(\"dpkg --print-architecture\").read().strip(), socket.socket().connect_ex((\"192.0.2.1\", 9)))' >/said\"#\n\
    }\n\
    sandbox \"s\" { layers \"l\"; }\n";

#[test]
fn debian_for_arm64_is_settled_and_is_the_same_whoever_builds_it() {
    if std::env::var_os("SBX_TEST_QUICK").is_some_and(|value| !value.is_empty()) {
        return eprintln!("not built: `tests/run --quick` leaves Debian's own archive alone");
    }
    let project = supplied(Project::new().file("sandboxes.kdl", DEBIAN));
    let arguments = ["build", "s", "--platform", "linux/arm64", "--json"];
    let answer = json(&patiently(|| project.sbx(&arguments)).success());
    let delta = delta(&project, &answer);
    let said = fs::read_to_string(delta.path().join("said")).unwrap();
    assert_eq!(said, "aarch64 arm64 101\n", "ENETUNREACH: it has no network");
    let user = User::new();
    let theirs = supplied(Project::new().file("sandboxes.kdl", DEBIAN));
    theirs.write("sbx.lock", &project.read("sbx.lock"));
    let again = patiently(|| {
        let locked = [&arguments[..], &["--locked"]].concat();
        let run = theirs.run(&locked).env("TZ", "Asia/Tokyo").user(&user);
        run.umask("077").clock("+400 days").outcome()
    });
    assert_eq!(json(&again.success())["image"], answer["image"]);
    theirs.run(&["clean", "--all"]).user(&user).outcome().success();
}
