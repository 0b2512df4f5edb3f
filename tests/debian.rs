//! Debian layers over a signed repository of the tests' own: what dpkg would have done.

use std::fs;

use crate::support::project::{self, Project, chroot, root};
use crate::support::repo::{Deb, Repo};

/// Packages that use what makes settling hard.
fn packages() -> Vec<Deb> {
    vec![
        Deb::new("greeter", "1.0-1")
            .program("/usr/bin/greet", "#!/bin/sh\necho plain\n")
            .conffile("/etc/greeter.conf", "word=hello\n"),
        // renames the greeter's program away before its own is laid
        Deb::new("loud-greeter", "1.0-1")
            .field("Depends", "greeter")
            .program("/usr/bin/greet", "#!/bin/sh\necho LOUD\n")
            .control("preinst", "#!/bin/sh\nset -e\ndpkg-divert --package loud-greeter --add --rename --divert /usr/bin/greet.plain /usr/bin/greet\n"),
        Deb::new("collector", "1.0-1")
            .file("/usr/share/collector/README", "r\n")
            .control("triggers", "interest-noawait /usr/share/collected\n")
            .control("postinst", "#!/bin/sh\nset -e\nmkdir -p /var/lib/collector\nls /usr/share/collected 2>/dev/null | sort > /var/lib/collector/list\necho \"$1\" > /var/lib/collector/why\n"),
        Deb::new("piece-a", "1.0-1").file("/usr/share/collected/a", "a\n"),
        Deb::new("piece-b", "1.0-1").file("/usr/share/collected/b", "b\n"),
        Deb::new("old-owner", "1.0-1").file("/usr/share/owned/file", "old\n").file("/usr/share/owned/kept", "k\n"),
        Deb::new("new-owner", "2.0-1")
            .field("Replaces", "old-owner (<< 2)")
            .field("Depends", "old-owner")
            .file("/usr/share/owned/file", "new\n"),
        Deb::new("editor-a", "1.0-1").program("/usr/bin/edit-a", "#!/bin/sh\necho a\n").control(
            "postinst",
            "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/edit edit /usr/bin/edit-a 10\n",
        ),
        Deb::new("editor-b", "1.0-1").program("/usr/bin/edit-b", "#!/bin/sh\necho b\n").control(
            "postinst",
            "#!/bin/sh\nset -e\nupdate-alternatives --install /usr/bin/edit edit /usr/bin/edit-b 20\n",
        ),
        Deb::new("daemon", "1.0-1").field("Depends", "adduser").control(
            "postinst",
            "#!/bin/sh\nset -e\nadduser --system --group --home /var/lib/daemon daemon-user\n",
        ),
        Deb::new("prepared", "1.0-1").file("/usr/share/prepared/x", "x\n").control(
            "preinst",
            "#!/bin/sh\nset -e\n[ \"$1\" = install ]\nmkdir -p /var/lib/prepared\necho \"$DPKG_MAINTSCRIPT_PACKAGE\" > /var/lib/prepared/who\n",
        ),
    ]
}

fn repo() -> Repo {
    let repo = packages().into_iter().fold(Repo::with_base(), Repo::add);
    repo.publish();
    repo
}

const LOWER: &str = "greeter collector piece-a old-owner editor-a";
const UPPER: &str = "loud-greeter piece-b new-owner editor-b daemon prepared";

fn check_image(project: &Project) {
    let image = project.unpack();
    let root = root(&image);
    let read = |path: &str| {
        fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    };
    assert_eq!(
        chroot(&root, "greet; greet.plain"),
        "LOUD\nplain\n",
        "the diversion moved the lower file"
    );
    assert_eq!(
        chroot(&root, "dpkg-divert --list | grep greet"),
        "diversion of /usr/bin/greet to /usr/bin/greet.plain by loud-greeter\n"
    );
    assert_eq!(read("var/lib/collector/list"), "a\nb\n", "the trigger saw all pieces");
    assert_eq!(read("usr/share/owned/file"), "new\n");
    assert_eq!(
        chroot(&root, "dpkg -S /usr/share/owned/file /usr/share/owned/kept"),
        "new-owner: /usr/share/owned/file\nold-owner: /usr/share/owned/kept\n"
    );
    assert_eq!(chroot(&root, "edit"), "b\n", "the alternative of higher priority");
    assert!(read("etc/passwd").contains("daemon-user:x:"));
    assert_eq!(read("var/lib/prepared/who"), "prepared\n");
    assert_eq!(chroot(&root, "dpkg --audit; dpkg --verify greeter new-owner"), "");
    let status = chroot(&root, "dpkg -s greeter | sed -n '/Conffiles/,/^[A-Z]/p' | sed -n 2p");
    assert!(
        status.starts_with(" /etc/greeter.conf ") && !status.contains("newconffile"),
        "{status}"
    );
    assert_eq!(
        chroot(&root, "apt-mark showauto | grep -x greeter || true"),
        "",
        "it was asked for"
    );
}

#[test]
fn one_debian_layer_is_settled_as_dpkg_would() {
    let repo = repo();
    let project = Project::from_repo(&repo).debian_layers(&[&format!("{LOWER} {UPPER}")]);
    project.build();
    check_image(&project);
}

#[test]
fn two_debian_layers_on_top_of_each_other_are_settled_as_dpkg_would() {
    let repo = repo();
    let project = Project::from_repo(&repo).debian_layers(&[LOWER, UPPER]);
    project.build();
    check_image(&project);
}

#[test]
fn a_second_build_asks_the_network_for_nothing() {
    let repo = repo();
    let project = Project::from_repo(&repo).debian_layers(&[LOWER]);
    let first = project.build();
    project.server().forget();
    assert_eq!(project.build(), first);
    assert_eq!(project.server().count(""), 0);
    fs::remove_dir_all(project.cache().join("images")).unwrap();
    fs::create_dir(project.cache().join("images")).unwrap();
    assert_eq!(
        project.sbx(&["build", "s", "--offline", "--locked"]).success().stdout.trim(),
        first
    );
}

#[test]
fn the_image_is_the_same_whoever_builds_it_and_when() {
    let repo = repo();
    let build = |wrap: &[&str], arguments: &[&str], variables: &[(&str, &str)]| {
        let project = Project::from_repo(&repo).debian_layers(&[LOWER, UPPER]);
        project.sbx(&["lock"]).success();
        let inner = project.command(&[&["build", "s"], arguments].concat());
        let mut command = std::process::Command::new(wrap[0]);
        command.args(&wrap[1..]).arg(inner.get_program()).args(inner.get_args());
        command.current_dir(project.dir.path()).env_clear();
        for (name, value) in inner.get_envs() {
            command.env(name, value.unwrap());
        }
        command.envs(variables.iter().copied());
        project::Outcome::new(command.output().unwrap()).success().stdout
    };
    let plain = build(&["env"], &[], &[]);
    assert_eq!(build(&["env"], &[], &[]), plain, "twice");
    assert_eq!(
        build(&["env"], &["--jobs", "1"], &[("TZ", "Asia/Tokyo"), ("LC_ALL", "tr_TR.UTF-8")]),
        plain
    );
    assert_eq!(build(&["sh", "-c", "umask 077; exec \"$0\" \"$@\""], &["--jobs", "8"], &[]), plain);
    assert_eq!(
        build(&["unshare", "--uts", "sh", "-c", "hostname other; exec \"$0\" \"$@\""], &[], &[]),
        plain
    );
    assert_eq!(build(&["faketime", "+400 days"], &[], &[]), plain);
}

#[test]
fn a_package_that_left_the_archive_is_resolved_again_and_said() {
    let mut repo = repo();
    let project = Project::from_repo(&repo).debian_layers(&[LOWER]);
    project.sbx(&["lock"]).success();
    let before = project.read("sbx.lock");
    repo.remove("piece-a");
    repo.add_later(Deb::new("piece-a", "1.1-1").file("/usr/share/collected/a", "new\n"));
    repo.date = "Sun, 22 Nov 2026 09:00:00 UTC".into();
    repo.publish();
    project
        .sbx(&["build", "s", "--locked"])
        .fails(3, &["`piece-a 1.0-1`", "sbx lock --update piece-a"]);
    assert_eq!(project.read("sbx.lock"), before, "`--locked` changes nothing");
    let outcome = project.sbx(&["build", "s"]).success();
    assert!(outcome.stderr.contains("piece-a left the archive"), "{}", outcome.stderr);
    let changed: Vec<String> = project
        .read("sbx.lock")
        .lines()
        .filter(|line| line.starts_with("deb ") && !before.contains(line))
        .map(|line| line.split(' ').nth(3).unwrap().to_owned())
        .collect();
    assert_eq!(changed, ["piece-a"], "every other pin is kept");
}

#[test]
fn a_script_that_fails_is_shown() {
    let repo = Repo::with_base().add(
        Deb::new("broken", "1.0-1")
            .control("postinst", "#!/bin/sh\necho the reason is this\nexit 7\n"),
    );
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["broken"]);
    project
        .sbx(&["build", "s"])
        .fails(1, &["layer `l0`", "the reason is this", "status 7", "the output is in"]);
    assert!(
        project.cache().join("tmp").read_dir().unwrap().next().is_none(),
        "nothing half-written stays"
    );
}

#[test]
fn two_packages_with_one_file_are_refused() {
    let repo = Repo::with_base()
        .add(Deb::new("one", "1").file("/usr/share/x", "1\n"))
        .add(Deb::new("two", "1").file("/usr/share/x", "2\n"));
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["one two"]);
    project.sbx(&["build", "s"]).fails(1, &["`one 1`", "`two 1`", "/usr/share/x"]);
    let project = Project::from_repo(&repo).debian_layers(&["one", "two"]);
    project.sbx(&["build", "s"]).fails(1, &["`one`", "`two`", "/usr/share/x"]);
}
