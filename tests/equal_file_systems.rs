//! Our image against what mmdebstrap makes of the same packages, and one layer against three: equal in
//! everything but what builds leave behind by accident.

use std::fs;
use std::path::Path;

use crate::support::project::{Project, root};
use crate::support::repo::{BASE_EXTRA, Deb, Repo};
use crate::support::survey::Survey;
use crate::support::{server::Server, tool};

const THIRDS: [&str; 3] = ["greeter collector owner", "loud-greeter piece editor", "daemon setup"];

fn repo() -> Repo {
    let repo = Repo::with_base().add_all([
        Deb::new("greeter", "1.0-1")
            .program("/usr/bin/greet", "#!/bin/sh\necho plain\n")
            .conffile("/etc/greeter.conf", "word=hello\n")
            .dir("/var/lib/greeter", 0o2750)
            .owned(0, 8, 0o2750),
        Deb::new("collector", "1.0-1")
            .file("/usr/share/collector/README", "r\n")
            .control("triggers", "interest-noawait /usr/share/collected\n")
            .script("postinst", "mkdir -p /var/lib/collector; ls /usr/share/collected 2>/dev/null | sort > /var/lib/collector/list || true"),
        Deb::new("owner", "1:1.0-1").file("/usr/share/owned/file", "old\n").hardlink("/usr/share/owned/twin", "/usr/share/owned/file"),
        Deb::new("loud-greeter", "1.0-1")
            .depends("greeter")
            .program("/usr/bin/greet", "#!/bin/sh\necho LOUD\n")
            .script("preinst", "dpkg-divert --package loud-greeter --add --rename --divert /usr/bin/greet.plain /usr/bin/greet"),
        Deb::new("piece", "1.0-1").file("/usr/share/collected/a", "a\n").symlink("/usr/share/collected/b", "a"),
        Deb::new("editor", "1.0-1").program("/usr/bin/edit-a", "#!/bin/sh\n").script(
            "postinst",
            "update-alternatives --install /usr/bin/edit edit /usr/bin/edit-a 10",
        ),
        Deb::new("daemon", "1.0-1").depends("adduser").script(
            "postinst",
            "adduser --system --group --home /var/lib/daemon daemon-user",
        ),
        Deb::new("setup", "1.0-1").program("/usr/bin/setuid", "x").owned(0, 42, 0o2755),
    ]);
    repo.publish();
    repo
}

/// Left behind by running apt and dpkg; an image of ours has none of them.
const TRACES: [&str; 12] = [
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/passwd-",
    "/etc/shadow-",
    "/var/cache/apt/archives/lock",
    "/var/cache/debconf/config.dat-old",
    "/var/cache/debconf/templates.dat-old",
    "/var/lib/apt/lists/lock",
    "/var/lib/dpkg/diversions-old",
    "/var/lib/dpkg/status-old",
    "/var/log",
    "/dev",
];

/// Where the tools mean different things: the other one's apt sources are the test's own, it copies
/// the host's name and resolver, it has apt make directories from outside and dpkg list the
/// architecture, and it calls nothing automatic that came before apt.
const MEANT: [&str; 9] = [
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/debian.sources",
    "/etc/fstab",
    "/etc/hostname",
    "/etc/resolv.conf",
    "/var/cache/apt/archives/partial",
    "/var/lib/apt",
    "/var/lib/dpkg/arch",
    "/var/lib/dpkg/statoverride",
];

/// What `root` holds, with lists whose order says nothing in order and no day of change in `shadow`.
fn survey(root: &Path) -> Survey {
    sort(root, "etc/shells", 1);
    sort(root, "var/lib/dpkg/diversions", 3);
    sort(root, "var/lib/dpkg/triggers/File", 1);
    edit(root, "etc/shadow", |text| {
        let line = |line: &str| {
            let mut fields: Vec<&str> = line.split(':').collect();
            fields[2] = "";
            fields.join(":") + "\n"
        };
        text.lines().map(line).collect()
    });
    Survey::of(root)
}

fn edit(root: &Path, path: &str, change: impl FnOnce(String) -> String) {
    let path = root.join(path);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, change(text)).unwrap();
}

/// Sorts a file's records of so many lines.
fn sort(root: &Path, path: &str, lines: usize) {
    edit(root, path, |text| {
        let all: Vec<&str> = text.lines().collect();
        let mut records: Vec<&[&str]> = all.chunks(lines).collect();
        records.sort();
        records.concat().join("\n") + "\n"
    });
}

fn mmdebstrap(repo: &Repo, into: &Path, options: &[&str]) {
    let server = Server::serve(repo.dir.path());
    let include = [BASE_EXTRA.join(","), THIRDS.join(" ").replace(' ', ",")].join(",");
    let source = format!("deb [trusted=yes] {} trixie main", server.url(""));
    let include = format!("--include={include}");
    let into = into.to_str().unwrap();
    let fixed = [
        "--quiet",
        "--mode=root",
        "--variant=essential",
        "--architectures=amd64",
        "--format=directory",
        &include,
    ];
    tool("mmdebstrap", &[&fixed, options, &["trixie", into, &source]].concat());
}

#[test]
fn an_image_is_what_mmdebstrap_makes_of_the_same_packages() {
    let repo = repo();
    let other = tempfile::tempdir().unwrap();
    let other = other.path().join("root");
    mmdebstrap(&repo, &other, &[]);
    let project = Project::from_repo(&repo).debian_layers(&[&THIRDS.join(" ")]);
    project.build();
    let image = project.unpack();
    let [ours, theirs] = [root(&image), other].map(|root| {
        let survey = survey(&root).without(&TRACES).without(&MEANT);
        assert!(survey.len() > 2000, "there is a whole system");
        survey
    });
    let found = ours.differences(&theirs);
    assert!(found.is_empty(), "ours | theirs\n{}", found.join("\n"));
}

#[test]
fn what_is_left_out_of_packages_is_what_dpkg_leaves_out() {
    let repo = repo();
    let home = tempfile::tempdir().unwrap();
    let other = home.path().join("root");
    let options = [
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
    ];
    mmdebstrap(&repo, &other, &options);
    let project = Project::from_repo(&repo).debian_layers(&[&THIRDS.join(" ")]);
    let rules = "path-exclude \"/usr/share/doc/*\" \"/usr/share/man/*\"; path-include \"/usr/share/doc/*/copyright\"; key";
    project.write("sandboxes.kdl", &project.read("sandboxes.kdl").replacen("key", rules, 1));
    project.build();
    let image = project.unpack();
    let image = root(&image);
    assert!(image.join("usr/share/doc/bash/copyright").exists());
    assert!(!image.join("usr/share/man/man1").exists());
    let told = image.join("etc/dpkg/dpkg.cfg.d/paths");
    assert_eq!(fs::read_to_string(&told).unwrap().lines().count(), 3);
    // each tells dpkg in a file of its own
    fs::remove_file(told).unwrap();
    fs::remove_file(other.join("etc/dpkg/dpkg.cfg.d/99mmdebstrap")).unwrap();
    let [ours, theirs] = [image, other].map(|root| survey(&root).without(&TRACES).without(&MEANT));
    let found = ours.differences(&theirs);
    assert!(found.is_empty(), "ours | theirs\n{}", found.join("\n"));
}

#[test]
fn three_layers_hold_what_one_holds() {
    let repo = repo();
    let one = Project::from_repo(&repo).debian_layers(&[&THIRDS.join(" ")]);
    one.build();
    let three = Project::from_repo(&repo).debian_layers(&THIRDS);
    three.build();
    let (one, three) = (one.unpack(), three.unpack());
    let found = Survey::of(&root(&one)).differences(&Survey::of(&root(&three)));
    assert!(found.is_empty(), "one | three\n{}", found.join("\n"));
}
