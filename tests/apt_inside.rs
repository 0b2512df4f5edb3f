//! apt in a finished image: it upgrades and installs as on any Debian, without a question, from an
//! archive it trusts, and its sources are the public ones whatever mirror built it.

use std::fs;
use std::path::Path;

use crate::support::project::{Project, chroot, root};
use crate::support::repo::{Deb, Repo};
use crate::support::tool;

fn editor(version: &str) -> Deb {
    Deb::new("editor", version)
        .conffile("/etc/editor.conf", &format!("version={version}\n"))
        .conffile("/etc/editor.keep", &format!("keep={version}\n"))
        .program("/usr/bin/editor-version", &format!("#!/bin/sh\necho {version}\n"))
}

/// Makes `repo` the only archive that apt in `root` knows, reached without a network.
fn point_at(repo: &Repo, root: &Path) {
    let inside = root.join("srv/archive");
    fs::create_dir_all(root.join("srv")).unwrap();
    if inside.exists() {
        fs::remove_dir_all(&inside).unwrap();
    }
    tool("cp", &["-a", repo.dir.path().to_str().unwrap(), inside.to_str().unwrap()]);
    fs::write(root.join("etc/apt/keyrings-test.asc"), Repo::key()).unwrap();
    fs::remove_dir_all(root.join("etc/apt/sources.list.d")).unwrap();
    fs::create_dir(root.join("etc/apt/sources.list.d")).unwrap();
    let source = "deb [signed-by=/etc/apt/keyrings-test.asc] file:///srv/archive trixie main\n";
    fs::write(root.join("etc/apt/sources.list"), source).unwrap();
}

#[test]
fn apt_upgrades_and_installs_without_a_question() {
    let mut repo = Repo::with_base().add(editor("1.0-1")).add(
        Deb::new("extra", "1.0-1")
            .depends("editor (>= 2)")
            .script("postinst", "editor-version > /var/lib/extra-saw"),
    );
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["", "editor"]);
    project.build();
    let image = project.unpack();
    let root = root(&image);
    let sources = fs::read_to_string(root.join("etc/apt/sources.list.d/debian.sources")).unwrap();
    assert!(!sources.contains("127.0.0.1") && sources.contains("Suites: trixie"), "{sources}");
    assert_eq!(chroot(&root, "apt-mark showmanual | grep editor"), "editor\n");

    repo.remove("editor");
    repo.add_later(editor("2.0-1"));
    repo.publish();
    point_at(&repo, &root);
    fs::write(root.join("etc/editor.keep"), "mine\n").unwrap();
    let apt = "unset LC_ALL; export DEBIAN_FRONTEND=noninteractive LANG=C.UTF-8; exec </dev/null; apt-get -q";
    chroot(&root, &format!("{apt} update"));
    chroot(&root, &format!("{apt} -y -o Dpkg::Options::=--force-confold upgrade"));
    assert_eq!(chroot(&root, "editor-version"), "2.0-1\n");
    let read = |name: &str| fs::read_to_string(root.join("etc").join(name)).unwrap();
    assert_eq!(read("editor.conf"), "version=2.0-1\n", "nobody had edited it");
    assert_eq!(read("editor.keep"), "mine\n");
    chroot(&root, &format!("{apt} -y install extra"));
    assert_eq!(fs::read_to_string(root.join("var/lib/extra-saw")).unwrap(), "2.0-1\n");
    assert_eq!(chroot(&root, "dpkg --audit"), "");
    chroot(&root, &format!("{apt} -y purge extra"));
    assert_eq!(chroot(&root, "apt-get -q check >/dev/null && echo sound"), "sound\n");
}
