//! Images in files: other tools read them, engines run them, kernels' checkers accept them; the same
//! image gives the same bytes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::gc::{noise, put};
use crate::support::deb::{Compression, Member};
use crate::support::docker;
use crate::support::oci::{GZIP, Image, ZSTD};
use crate::support::podman::Podman;
use crate::support::project::{Project, root};
use crate::support::repo::{Deb, Repo};
use crate::support::tool;
use crate::support::user::User;
use rustix::process::{Pid, Signal};
use sbx::digest::Digest;

/// A project, and the repository that it builds from, which goes with it.
fn project() -> (Repo, Project) {
    let repo = Repo::with_base().add_all([Deb::new("greeter", "1.0-1")
        .program("/usr/bin/greet", "#!/bin/sh\necho hello from the image\n")
        .conffile("/etc/greeter.conf", "word=hello\n")
        .dir("/var/lib/greeter", 0o2750)
        .owned(6, 8, 0o2750)]);
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["greeter"]);
    let text = project.read("sandboxes.kdl").replace(
        "layers \"l0\";",
        "layers \"l0\" \"own\"; command \"/usr/bin/greet\"; reference \"tests/greeter:7\";",
    );
    let own = r#"layer "own" needs="l0" {
            files "own" into="/srv/own"
            link "/srv/link" to="own/a"
            run "rm /etc/greeter.conf && echo b >/srv/one && ln /srv/one /srv/two && mkfifo /srv/pipe"
        }
        "#;
    let long = format!("own/{}/{}", "d".repeat(120), "f".repeat(120));
    let project = project.file("sandboxes.kdl", &(own.to_owned() + &text)).file("own/a", "a\n");
    (repo, project.file("own/empty", "").file(&long, "long\n"))
}

/// Saves sandbox `s`; what goes to stdout has the same bytes.
fn save(project: &Project, format: &str) -> PathBuf {
    let path = project.dir.path().join(format!("saved-{format}"));
    project.sbx(&["save", "s", "--format", format, "-o", path.to_str().unwrap()]).success();
    let output = project.command(&["save", "s", "--format", format, "-o", "-"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fs::read(&path).unwrap() == output.stdout, "{format}: stdout gives other bytes");
    path
}

/// A file system as one sees it: kind, owner, mode, time, size or target; names of one file together.
fn survey(root: &Path) -> BTreeMap<PathBuf, String> {
    fn walk(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, String>) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            let kind = meta.file_type();
            let body = match kind {
                _ if kind.is_symlink() => format!("{:?}", fs::read_link(&path).unwrap()),
                _ if kind.is_file() => Digest::of(&fs::read(&path).unwrap()).to_string(),
                _ => format!("{} {}", kind.is_fifo(), meta.rdev()),
            };
            let names = if kind.is_dir() { 0 } else { meta.nlink() };
            // umoci leaves a directory the time at which it last put something in
            let time = if kind.is_dir() { 0 } else { meta.mtime() };
            let (mode, uid, gid) = (meta.mode(), meta.uid(), meta.gid());
            let line = format!("{mode:o} {uid}:{gid} {time} {names} {body}");
            found.insert(path.strip_prefix(root).unwrap().to_owned(), line);
            if kind.is_dir() {
                walk(root, &path, found);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(root, root, &mut found);
    found
}

#[track_caller]
fn same(one: &BTreeMap<PathBuf, String>, two: &BTreeMap<PathBuf, String>) {
    assert!(one.len() > 50, "there is something to compare");
    for path in one.keys().chain(two.keys()) {
        assert_eq!(one.get(path), two.get(path), "{}", path.display());
    }
}

#[test]
fn other_tools_read_what_is_saved() {
    let (_repo, project) = project();
    let image = project.build();
    let home = tempfile::tempdir().unwrap();

    let archive = save(&project, "oci-archive");
    let archive = format!("oci-archive:{}", archive.display());
    let inspected = tool("skopeo", &["inspect", "--raw", "--config", &archive]);
    assert_eq!(Digest::of(inspected.as_bytes()).to_string(), image);
    let layout = home.path().join("layout");
    tool("skopeo", &["copy", "--quiet", &archive, &format!("oci:{}:s", layout.display())]);
    let bundle = home.path().join("bundle");
    let from = format!("{}:s", layout.display());
    tool("umoci", &["unpack", "--image", &from, bundle.to_str().unwrap()]);
    let expected = survey(&bundle.join("rootfs"));

    let unpacked = project.unpack();
    let tree = root(&unpacked);
    same(&survey(&tree), &expected);
    let time = |path: &str| fs::symlink_metadata(tree.join(path)).unwrap().mtime();
    assert_eq!([time("srv"), time("usr/bin")], [sbx::entry::EPOCH; 2]);
    assert!(!tree.join("etc/greeter.conf").exists(), "what a layer deletes is not in the tar");

    let ext4 = save(&project, "ext4");
    tool("e2fsck", &["-f", "-n", ext4.to_str().unwrap()]);
    let dump = home.path().join("dump");
    fs::create_dir(&dump).unwrap();
    let request = format!("rdump / {}", dump.display());
    tool("debugfs", &["-R", &request, ext4.to_str().unwrap()]);
    assert_eq!(fs::read_to_string(dump.join("srv/own/a")).unwrap(), "a\n");
    let stat = tool("debugfs", &["-R", "stat /srv/one", ext4.to_str().unwrap()]);
    assert!(stat.contains("Links: 2") && stat.contains("ctime: 0x67748580"), "{stat}");
    let stat = tool("debugfs", &["-R", "stat /var/lib/greeter", ext4.to_str().unwrap()]);
    assert!(stat.contains("Mode:  02750") && stat.contains("Group:     8"), "{stat}");

    let erofs = save(&project, "erofs");
    tool("fsck.erofs", &[erofs.to_str().unwrap()]);
    let stat = tool("dump.erofs", &["--path=/srv/one", erofs.to_str().unwrap()]);
    assert!(stat.contains("Links: 2") && stat.contains("2025-01-01"), "{stat}");
    assert!(project.drafts().is_empty());
}

#[test]
fn docker_and_podman_load_and_run_what_is_saved() {
    let (_repo, project) = project();
    project.build();
    let archive = save(&project, "docker-archive");
    let home = tempfile::tempdir().unwrap();
    let engine = docker::Engine::start(home.path());
    let said = engine.docker(&["load", "--input", archive.to_str().unwrap()]);
    assert!(said.contains("tests/greeter:7"), "{said}");
    let said = engine.docker(&["run", "--rm", "--network", "none", "tests/greeter:7"]);
    assert_eq!(said, "hello from the image\n");

    let podman = Podman::new(home.path());
    let said = podman.podman(&["load", "--input", archive.to_str().unwrap()]);
    assert!(said.contains("localhost/tests/greeter:7"), "{said}");
    assert_eq!(podman.run("localhost/tests/greeter:7", &[]), "hello from the image\n");
    podman.podman(&["rmi", "localhost/tests/greeter:7"]);
    let archive = save(&project, "oci-archive");
    let said = podman.podman(&["load", "--quiet", "--input", archive.to_str().unwrap()]);
    let name = said.trim().strip_prefix("Loaded image: ").unwrap_or_else(|| panic!("{said}"));
    assert_eq!(podman.run(name, &[]), "hello from the image\n");
}

#[test]
fn an_ordinary_user_saves_what_root_saves() {
    let (_repo, ours) = project();
    ours.build();
    let expected = fs::read(save(&ours, "ext4")).unwrap();
    let user = User::new();
    let (_repo, theirs) = project();
    theirs.run(&["build", "s"]).user(&user).outcome().success();
    let words = ["save", "s", "--format", "ext4", "-o", "saved"];
    let without = theirs.run(&words).mounts("mount --bind /dev/null /etc/subuid").user(&user);
    without.outcome().fails(3, &["fewer than", "help: run `sudo usermod --add-subuids"]);
    let run = |format: &str| {
        let arguments = ["save", "s", "--format", format, "-o", "saved"];
        theirs.run(&arguments).user(&user).outcome().success();
        fs::read(theirs.dir.path().join("saved")).unwrap()
    };
    assert!(run("ext4") == expected, "another user's image has other bytes");
    assert!(run("docker-archive").len() > 1000);
    theirs.run(&["gc", "--cap", "90%"]).user(&user).outcome().success();
    let trees = || fs::read_dir(theirs.cache().join("trees")).unwrap().count();
    assert!(trees() > 0);
    let outcome = theirs.run(&["gc", "--cap", "1MiB"]).user(&user).outcome();
    outcome.fails(3, &["the store is larger than its cap"]);
    let left = fs::read_dir(theirs.cache().join("trees")).unwrap();
    let left: usize = left.map(|map| fs::read_dir(map.unwrap().path()).unwrap().count()).sum();
    assert_eq!(left, 0, "trees of many owners went");
    theirs.run(&["clean", "--all"]).user(&user).outcome().success();
}

#[test]
fn a_reader_that_goes_away_and_an_image_that_is_not_built_are_named() {
    let (_repo, project) = project();
    project.sbx(&["lock"]).success();
    let outcome = project.sbx(&["save", "s", "-o", "x"]);
    outcome.fails(1, &["is not built as it is declared now", "help: run `sbx build s`"]);
    project.build();
    let mut command = project.command(&["save", "s", "--format", "tar", "-o", "-"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 10]).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("the output was not taken whole"), "{said}");
    let outcome = project.sbx(&["save", "s", "--format", "tar", "-o", "none/x"]);
    outcome.fails(1, &["the directory `none` is not there"]);
}

#[test]
fn layers_that_a_bases_maker_packed_are_saved_and_stay_with_their_image() {
    let lower = [
        Member::dir("etc/"),
        Member::file("etc/gone", "gone\n"),
        Member::file("etc/tool", "tool\n").mode(0o4755),
        Member::hardlink("etc/also", "etc/tool"),
        Member::dir("old/"),
        Member::file("old/below", "below\n"),
    ];
    let upper = [
        Member::file("etc/.wh.gone", ""),
        Member::dir("old/"),
        Member::file("old/.wh..wh..opq", ""),
        Member::file("old/above", "above\n").owner(7, 8),
    ];
    let project = Project::new().file(
        "sandboxes.kdl",
        r#"layer "base" { from "oci:images:1"; }
        layer "app" { file "/etc/own" content="own"; }
        sandbox "s" { layers "base" "app"; }
        "#,
    );
    let base = Image::new().layer(&lower).layer_as(&upper, Compression::Zstd, ZSTD);
    base.write(&project.dir.path().join("images"), "1");
    let image = project.build();
    let gone = project.sbx(&["gc", "--json"]).success();
    assert!(gone.stdout.contains("\"removed\":{}"), "{}", gone.stdout);
    let from = format!("oci-archive:{}", save(&project, "oci-archive").display());
    let inspected = tool("skopeo", &["inspect", "--raw", "--config", &from]);
    assert_eq!(Digest::of(inspected.as_bytes()).to_string(), image);
    let tar = save(&project, "tar");
    let listed = tool("tar", &["-tf", tar.to_str().unwrap()]);
    assert_eq!(listed, "etc/\netc/also\netc/own\netc/tool\nold/\nold/above\n");
    let docker = save(&project, "docker-archive");
    let from = format!("docker-archive:{}", docker.display());
    let into = format!("oci:{}:s", project.dir.path().join("copied").display());
    tool("skopeo", &["copy", "--quiet", &from, &into]);
    assert!(project.drafts().is_empty());
    fs::remove_dir_all(project.dir.path().join("images")).unwrap();
    project.sbx(&["gc", "--cap", "70KiB"]);
    assert_eq!(project.build(), image, "nothing of it went");
}

/// What this tree becomes as the only layer of an image of somebody else's, under a layer of our own.
fn over(tree: &Path) -> Project {
    let archived = Command::new("tar")
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "--sort=name", "-cC"])
        .arg(tree)
        .arg(".")
        .output()
        .unwrap();
    let tar = archived.stdout;
    let mut base = Image::new();
    base.diff_ids.push(Digest::of(&tar));
    base.layers.push((Compression::Gzip.apply(&tar), GZIP));
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"base\" { from \"oci:images:1\"; }\n\
         layer \"app\" { file \"/etc/own\" content=\"own\"; }\n\
         sandbox \"s\" { layers \"base\" \"app\"; }\n",
    );
    base.write(&project.dir.path().join("images"), "1");
    project
}

#[test]
fn what_others_say_of_files_is_kept_in_every_format() {
    let home = tempfile::tempdir().unwrap();
    let tree = home.path().join("tree");
    fs::create_dir_all(tree.join("etc/dir")).unwrap();
    fs::write(tree.join("etc/file"), "file\n").unwrap();
    fs::write(tree.join("etc/young"), "young\n").unwrap();
    // bytes put it between the directory and what that holds
    fs::write(tree.join("etc/dir.conf"), "").unwrap();
    fs::write(tree.join("etc/dir/in"), "").unwrap();
    // read and written by 1234, too: version 2 of acl(5)'s attribute
    let entries = [
        (1u16, 6u16, u32::MAX),
        (2, 6, 1234),
        (4, 4, u32::MAX),
        (16, 6, u32::MAX),
        (32, 4, u32::MAX),
    ];
    let entries = entries.iter().flat_map(|(tag, may, id)| {
        [&tag.to_le_bytes()[..], &may.to_le_bytes(), &id.to_le_bytes()].concat()
    });
    let acl: Vec<u8> = [2, 0, 0, 0].into_iter().chain(entries).collect();
    let give = |path: &str, name: &str, value: &[u8]| {
        rustix::fs::setxattr(tree.join(path), name, value, rustix::fs::XattrFlags::empty())
            .unwrap();
    };
    give("etc/file", "user.word", b"file");
    give("etc/file", "system.posix_acl_access", &acl);
    give("etc/dir", "user.word", b"dir");
    give("", "user.word", b"root");
    tool("chown", &["5:6", tree.to_str().unwrap()]);
    tool("chmod", &["1711", tree.to_str().unwrap()]);
    for (path, time) in [
        ("etc/file", "@0"),
        ("etc/young", "@1800000000"),
        ("etc/dir", "@1500000000"),
        ("", "@1400000000"),
    ] {
        tool("touch", &["-d", time, tree.join(path).to_str().unwrap()]);
    }
    let project = over(&tree);
    project.build();

    let tar = save(&project, "tar");
    let again = home.path().join("again");
    fs::create_dir(&again).unwrap();
    let into = again.to_str().unwrap();
    tool("tar", &["--xattrs", "--xattrs-include=*", "-xpf", tar.to_str().unwrap(), "-C", into]);
    let state = |root: &Path, path: &str| {
        let path = root.join(path);
        let meta = fs::metadata(&path).unwrap();
        let value = |name: &str| {
            let mut buffer = [0; 100];
            let size = rustix::fs::getxattr(&path, name, &mut buffer).ok()?;
            Some(buffer[..size].to_vec())
        };
        let attributes = (value("user.word"), value("system.posix_acl_access"));
        (meta.mode(), meta.uid(), meta.gid(), meta.mtime(), attributes)
    };
    for path in ["", "etc/dir", "etc/file", "etc/young"] {
        assert_eq!(state(&again, path), state(&tree, path), "{path}");
    }

    let ext4 = save(&project, "ext4");
    tool("e2fsck", &["-f", "-n", ext4.to_str().unwrap()]);
    let ask = |question: &str| tool("debugfs", &["-R", question, ext4.to_str().unwrap()]);
    for (path, texts) in [
        (
            "/",
            [
                "Mode:  01711",
                "User:     5   Group:     6",
                "mtime: 0x53724e00",
                "word (4) = \"root\"",
            ],
        ),
        ("/etc/dir", ["Mode:  0755", "User:     0", "mtime: 0x59682f00", "word (3) = \"dir\""]),
        (
            "/etc/file",
            ["Mode:  0664", "posix_acl_access (28)", "mtime: 0x00000000", "word (4) = \"file\""],
        ),
        ("/etc/young", ["Mode:  0644", "User:     0", "mtime: 0x6b49d200", ""]),
    ] {
        let said = ask(&format!("stat {path}")) + &ask(&format!("ea_list {path}"));
        texts.iter().for_each(|text| assert!(said.contains(text), "{path}: `{text}` in {said}"));
    }

    let erofs = save(&project, "erofs");
    tool("fsck.erofs", &[erofs.to_str().unwrap()]);
    for (path, texts) in [
        ("/", ["Uid: 5   Gid: 6", "Access: 0711", "2014-05-13"]),
        ("/etc/dir", ["Uid: 0", "Access: 0755", "2017-07-14"]),
        ("/etc/file", ["Uid: 0", "Access: 0664", "1970-01-01"]),
        ("/etc/young", ["Xattr size: 0", "Access: 0644", "2027-01-15"]),
    ] {
        let said = tool("dump.erofs", &[&format!("--path={path}"), erofs.to_str().unwrap()]);
        texts.iter().for_each(|text| assert!(said.contains(text), "{path}: `{text}` in {said}"));
        assert_eq!(said.contains("Xattr size: 0"), path == "/etc/young", "{said}");
    }
}

#[test]
fn what_is_no_regular_file_is_written_to_and_stays_what_it_is() {
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"l\" { file \"/etc/own\" content=\"own\"; }\nsandbox \"s\" { layers \"l\"; }\n",
    );
    project.build();
    let dir = project.dir.path();
    let to = |format: &str, name: &str| project.sbx(&["save", "s", "--format", format, "-o", name]);
    to("tar", "expected").success();
    let expected = fs::read(dir.join("expected")).unwrap();

    tool("mknod", &[dir.join("null").to_str().unwrap(), "c", "1", "3"]);
    let said = to("tar", "null").success();
    assert_eq!(said.answer(), format!("null: {} bytes", expected.len()));
    assert!(fs::symlink_metadata(dir.join("null")).unwrap().file_type().is_char_device());
    tool("mknod", &[dir.join("full").to_str().unwrap(), "c", "1", "7"]);
    to("tar", "full").fails(3, &["No space left"]);

    let fifo = dir.join("fifo");
    tool("mkfifo", &[fifo.to_str().unwrap()]);
    for format in ["tar", "erofs"] {
        let path = fifo.clone();
        let reader = std::thread::spawn(move || fs::read(path).unwrap());
        to(format, "fifo").success();
        let read = reader.join().unwrap();
        assert!(fs::symlink_metadata(&fifo).unwrap().file_type().is_fifo());
        let expected = fs::read(save(&project, format)).unwrap();
        assert!(read == expected, "{format}: a FIFO gets other bytes");
    }
    // stdout by another name, where nothing but the image goes
    let output = project.command(&["save", "s", "--format", "tar", "-o", "/dev/stdout"]).output();
    assert!(output.unwrap().stdout == expected);

    fs::create_dir(dir.join("away")).unwrap();
    fs::write(dir.join("away/old"), "old").unwrap();
    for (link, target) in [("link", "away/old"), ("loose", "away/new")] {
        std::os::unix::fs::symlink(target, dir.join(link)).unwrap();
        to("tar", link).success();
        assert!(fs::symlink_metadata(dir.join(link)).unwrap().is_symlink());
        assert!(fs::read(dir.join(target)).unwrap() == expected);
    }
    assert_eq!(fs::read_dir(dir.join("away")).unwrap().count(), 2, "no draft is left");
    std::os::unix::fs::symlink("round", dir.join("round")).unwrap();
    to("tar", "round").fails(3, &["symbolic links"]);
    to("tar", "away").fails(1, &["`away` is a directory"]);
}

#[test]
fn a_digest_names_no_image_that_is_saved() {
    let project = Project::new().file("sandboxes.kdl", "");
    let name = format!("a/b@{}", Digest::of(b""));
    for command in [&["save", "s", "-o", "x"][..], &["load", "s"]] {
        let outcome = project.sbx(&[command, &["--reference", &name]].concat());
        outcome.fails(2, &["has a digest, and no image can be called so", "name a tag"]);
    }
    let declared = format!(
        "layer \"l\" {{ file \"/a\" content=\"a\"; }}\nsandbox \"s\" {{ layers \"l\"; reference \"{name}\"; }}\n"
    );
    let project = Project::new().file("sandboxes.kdl", &declared);
    project.build();
    project.sbx(&["save", "s", "-o", "x"]).fails(1, &["which has a digest"]);
}

#[test]
fn what_is_interrupted_leaves_no_draft() {
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"l\" { files \"own\" into=\"/srv\"; }\nsandbox \"s\" { layers \"l\"; }\n",
    );
    put(&project, "own/large", &noise(1, 64 << 20));
    project.build();
    let dir = project.dir.path();
    let drafts = || -> Vec<PathBuf> {
        let all = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        all.filter(|path| path.extension().is_some_and(|end| end == "draft")).collect()
    };
    // whatever runs the tests may ignore signals, and what it starts does so, too
    let start = |wrapper: &[&str]| {
        let plain = project.command(&[]);
        let inherited = plain.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let mut command = Command::new(wrapper[0]);
        command.args(&wrapper[1..]).arg(plain.get_program());
        command.args(["save", "s", "--format", "tar", "-o", "x"]).env_clear().envs(inherited);
        command.current_dir(dir).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        while drafts().is_empty() && child.try_wait().unwrap().is_none() {
            std::thread::yield_now();
        }
        child
    };
    // ends it while it writes
    let end = |signal: Signal| loop {
        let mut child = start(&["env", "--default-signal"]);
        let pid = Pid::from_child(&child);
        // it may have ended just now
        rustix::process::kill_process(pid, signal).unwrap_or_default();
        let status = child.wait().unwrap();
        match status.success() {
            true => fs::remove_file(dir.join("x")).unwrap(),
            false => break status,
        }
    };
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130), (Signal::HUP, 129)] {
        assert_eq!(end(signal).code(), Some(code));
        assert!(drafts().is_empty(), "{signal:?}: {:?}", drafts());
        assert!(!dir.join("x").exists());
    }
    let mut deaf = start(&["nohup"]);
    rustix::process::kill_process(Pid::from_child(&deaf), Signal::HUP).unwrap_or_default();
    assert!(deaf.wait().unwrap().success(), "it was told to ignore that");
    fs::remove_file(dir.join("x")).unwrap();
    // nobody can take anything along then: what is left is swept by whoever is alone
    end(Signal::KILL);
    assert_eq!(drafts().len(), 1);
    let company = fs::File::open(dir).unwrap();
    rustix::fs::flock(&company, rustix::fs::FlockOperation::LockShared).unwrap();
    project.sbx(&["save", "s", "-o", "x"]).success();
    assert_eq!(drafts().len(), 1, "it could be somebody's who writes");
    drop(company);
    put(&project, ".y.1.draft", b"another's");
    put(&project, ".x.old.draft", b"another's");
    project.sbx(&["save", "s", "-o", "x"]).success();
    assert_eq!(drafts().len(), 2, "{:?}", drafts());
}
