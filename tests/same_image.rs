//! The image is a function of what is declared and locked: not of who builds it, where, how often, at
//! once with whom, or after how many accidents. (`debian.rs` turns the clock, the locale and the like.)

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::project::{Project, Run};
use crate::support::repo;
use crate::support::repo::{Deb, Repo};
use crate::support::user::User;
use sbx::digest::Digest;

fn repo() -> Repo {
    Repo::with_base().add_all([
        Deb::new("greeter", "1.0-1")
            .program("/usr/bin/greet", "#!/bin/sh\n")
            .conffile("/etc/greeter.conf", "word=hello\n")
            .dir("/var/lib/greeter", 0o2750)
            .owned(6, 8, 0o2750),
        Deb::new("daemon", "1.0-1")
            .depends("adduser")
            .script("postinst", "adduser --system --group --home /var/lib/daemon daemon-user"),
    ])
}

fn project(repo: &Repo) -> Project {
    Project::from_repo(repo)
        .debian_layers(&["greeter", "daemon"])
        .file("layers/files.kdl", "layer \"files\" { files \"tree\" into=\"/srv/tree\"; }\n")
        .file("tree/a", "a\n")
        .file("tree/b/c", "c\n")
}

#[test]
fn an_ordinary_user_builds_what_root_builds() {
    let repo = repo();
    repo.publish();
    let image = project(&repo).build();
    let user = User::new();
    let theirs = project(&repo);
    let outcome = theirs.run(&["build", "s"]).user(&user).outcome().success();
    assert_eq!(outcome.answer(), image);
    let again = theirs.run(&["build", "s", "--offline", "--locked"]).user(&user).outcome();
    assert_eq!(again.success().answer(), image);
    theirs.run(&["clean", "--all"]).user(&user).outcome().success();
}

#[test]
fn the_order_of_an_archive_and_the_place_of_a_project_do_not_show() {
    let mut repo = repo();
    repo.publish();
    let image = project(&repo).build();
    repo.reverse();
    repo.packed = vec![repo::Compression::Xz, repo::Compression::Gzip];
    repo.by_hash = true;
    repo.publish();
    let elsewhere = project(&repo);
    let deep = elsewhere.dir.path().join("a/very deep/place");
    fs::create_dir_all(&deep).unwrap();
    for name in ["sandboxes.kdl", "key.asc", "layers", "tree"] {
        fs::rename(elsewhere.dir.path().join(name), deep.join(name)).unwrap();
    }
    let deep = deep.to_str().unwrap();
    let outcome = elsewhere.sbx(&["build", "s", "--project", deep]).success();
    assert_eq!(outcome.answer(), image);
}

#[test]
fn a_store_that_others_use_gives_the_same_image() {
    let repo = repo();
    repo.publish();
    let image = project(&repo).build();
    let home = tempfile::tempdir().unwrap();
    let store = home.path().join("store");
    let first = project(&repo).store(&store);
    assert_eq!(first.build(), image);
    let second = project(&repo).store(&store);
    second.sbx(&["lock"]).success();
    second.server().forget();
    assert_eq!(second.build(), image);
    assert_eq!(second.server().count("pool/"), 0, "the first project had fetched it all");
}

/// Every blob of the store has the bytes of its name.
fn check_store(store: &Path) {
    for entry in fs::read_dir(store.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.len() == 64 {
            assert_eq!(Digest::of(&fs::read(&path).unwrap()).hex().to_string(), name);
        }
    }
}

fn start(run: &Run<'_>) -> Child {
    let mut command: Command = run.command();
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

#[test]
fn builds_that_are_killed_leave_a_store_that_is_whole() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project.sbx(&["lock"]).success();
    let whole = Project::from_repo(&repo);
    for name in ["sandboxes.kdl", "sbx.lock", "layers/files.kdl", "tree/a", "tree/b/c"] {
        whole.write(name, &project.read(name));
    }
    let started = Instant::now();
    let image = whole.build();
    let time = started.elapsed();
    for round in 1..=20 {
        let mut child = start(&project.run(&["build", "s"]));
        std::thread::sleep(time * round / 21);
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let (one, two) = (project.run(&["build", "s"]), project.run(&["build", "s"]));
    let children = [start(&one), start(&two)];
    for child in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), image);
    }
    check_store(&project.cache());
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(project.drafts(), Vec::<std::path::PathBuf>::new(), "what the killed left is swept");
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(project.dir.path().to_str().unwrap()), "no mount stays behind");
}

#[test]
fn a_disk_that_fills_up_loses_nothing() {
    let repo = repo();
    repo.publish();
    let image = project(&repo).build();
    let project = project(&repo);
    project.sbx(&["fetch"]).success();
    let store = project.cache();
    let store = store.to_str().unwrap();
    // all that was fetched fits, and little more
    let full = format!(
        "mkdir -p {store}-full && mount -t tmpfs -o size=60m none {store}-full && cp -a {store}/. {store}-full/ && mount --move {store}-full {store}"
    );
    let outcome = project.run(&["build", "s"]).mounts(&full).outcome();
    outcome.fails(3, &["No space left on device"]);
    assert_eq!(project.build(), image);
    check_store(&project.cache());
}

#[test]
fn a_read_only_store_serves_what_it_has_and_says_what_it_cannot() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    let image = project.build();
    let store = project.cache();
    let only = format!("mount --bind {0} {0} && mount -o remount,bind,ro {0}", store.display());
    let served = project.run(&["build", "s", "--locked"]).mounts(&only).outcome();
    assert!(
        served.code == Some(0) && served.answer() == image || served.code == Some(3),
        "{}",
        served.stderr
    );
    project.write(
        "sandboxes.kdl",
        &(project.read("sandboxes.kdl") + "sandbox \"t\" { layers \"l1\" \"files\"; }\n"),
    );
    let outcome = project.run(&["build", "t"]).mounts(&only).outcome();
    outcome.fails(3, &[store.to_str().unwrap()]);
    assert_eq!(project.build(), image);
    check_store(&store);
}

#[test]
fn damaged_packages_are_found_and_fetched_again() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project.sbx(&["fetch"]).success();
    let digest = Digest::of(&fs::read(repo.file_of("greeter")).unwrap()).hex();
    let blob = project.cache().join("blobs/sha256").join(digest);
    let mut bytes = fs::read(&blob).unwrap();
    let at = bytes.len() / 2;
    bytes[at] ^= 0xff;
    fs::write(&blob, &bytes).unwrap();
    let outcome = project.sbx(&["build", "s"]).success().says("`greeter 1.0-1`");
    let fresh = self::project(&repo);
    assert_eq!(fresh.build(), outcome.answer());
    check_store(&project.cache());
}

#[test]
fn what_the_store_has_of_other_layers_with_the_same_bytes_does_not_show() {
    // the same tar, in which one means its directory and the other only stands in it
    let text = "layer \"in\" { files \"z\" into=\"/etc/app\"; }\n\
                layer \"means\" { dir \"/etc/app\"; files \"z\" into=\"/etc/app\"; }\n\
                layer \"own\" { dir \"/etc/app\" mode=0o700; }\n\
                sandbox \"in\" { layers \"in\"; }\nsandbox \"means\" { layers \"means\"; }\n\
                sandbox \"closed\" { layers \"own\" \"in\"; }\nsandbox \"open\" { layers \"own\" \"means\"; }\n";
    let built = |names: &[&str]| {
        let project = Project::new().file("sandboxes.kdl", text).file("z/file", "z\n");
        let build = |name: &&str| project.sbx(&["build", name]).success().answer().to_owned();
        names.iter().map(build).collect::<Vec<_>>()
    };
    let [closed, open] = ["closed", "open"].map(|name| built(&[name]).remove(0));
    assert_ne!(closed, open);
    assert_eq!(built(&["in", "means", "closed", "open"])[2..], [closed.clone(), open.clone()]);
    assert_eq!(built(&["means", "in", "open", "closed"])[2..], [open, closed]);
}
