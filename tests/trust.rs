//! What an archive, a mirror, a lock or a store may try: each gets a clear error, and loses nothing.

use std::fs;
use std::time::Duration;

use crate::support::project::Project;
use crate::support::repo::{Deb, Repo, Signer};
use crate::support::server::{Fault, Server};

fn repo() -> Repo {
    Repo::new().add(Deb::new("thing", "1.0-1").file("/usr/share/thing/x", &"x".repeat(5000)))
}

/// A project whose only package needs no settling to be fetched.
fn project(repo: &Repo) -> Project {
    let text = "layer \"l\" { debian \"trixie\" { suites \"trixie\"; base \"none\"; key \"key.asc\"; packages \"thing\"; }; }\nsandbox \"s\" { layers \"l\"; }\n";
    Project::from_repo(repo).file("sandboxes.kdl", text)
}

#[test]
fn an_archive_must_be_signed_by_its_key() {
    let repo = repo();
    repo.publish();
    project(&repo).sbx(&["lock"]).success();
    repo.publish_as(Signer::Stranger);
    project(&repo)
        .sbx(&["lock"])
        .fails(3, &["`debian` `trixie`", "which the keyring does not hold"]);
    let release = fs::read_to_string(repo.dir.path().join("dists/trixie/Release")).unwrap();
    fs::write(repo.in_release(), &release).unwrap();
    project(&repo).sbx(&["lock"]).fails(3, &["it is not signed"]);
    repo.publish();
    let signed = fs::read_to_string(repo.in_release()).unwrap();
    fs::write(repo.in_release(), signed.replace("Components: main", "Components: evil")).unwrap();
    project(&repo).sbx(&["lock"]).fails(3, &["was changed after it was signed"]);
}

#[test]
fn a_release_must_be_fresh_and_no_older_than_the_locked_one() {
    let mut repo = repo();
    repo.valid_until = Some("Sun, 22 Nov 2020 09:00:00 UTC".into());
    repo.publish();
    project(&repo).sbx(&["lock"]).fails(3, &["it was valid until 2020-11-22T09:00:00Z"]);
    repo.valid_until = None;
    repo.publish();
    let project = project(&repo);
    project.sbx(&["lock"]).success();
    repo.date = "Fri, 20 Nov 2026 09:00:00 UTC".into();
    repo.publish();
    project.sbx(&["lock", "--update"]).fails(3, &["older than the one of 2026-11-21T09:00:00Z"]);
}

#[test]
fn an_index_must_be_what_release_says() {
    let repo = repo();
    repo.publish();
    let index = repo.dir.path().join("dists/trixie/main/binary-amd64/Packages");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("thing", "thong")).unwrap();
    project(&repo)
        .sbx(&["lock"])
        .fails(3, &["index of `debian` `trixie` main", "gave other bytes"]);
}

#[test]
fn an_unknown_package_gets_the_nearest_name() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project
        .write("sandboxes.kdl", &project.read("sandboxes.kdl").replace("\"thing\"", "\"thign\""));
    project.sbx(&["lock"]).fails(1, &["there is no package `thign`", "did you mean `thing`?"]);
}

#[test]
fn a_mirror_that_fails_is_asked_again_and_resumed() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project.sbx(&["lock"]).success();
    project.server().fail("thing_1.0-1_amd64.deb", Fault::Half);
    project.sbx(&["fetch"]).success();
    assert_eq!(project.server().ranges(), 1, "the second half was asked for, not the whole");
    fs::remove_dir_all(project.cache()).unwrap();
    project.server().fail("thing_1.0-1_amd64.deb", Fault::Status(503, 2));
    project.sbx(&["fetch"]).success();
}

#[test]
fn a_mirror_that_lies_is_found_out() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project.sbx(&["lock"]).success();
    let size =
        fs::metadata(repo.dir.path().join("pool/thing_1.0-1_amd64.deb")).unwrap().len() as usize;
    project.server().fail("thing_1.0-1_amd64.deb", Fault::Body(vec![b'x'; size]));
    project
        .sbx(&["fetch"])
        .fails(3, &["package `thing 1.0-1`", "gave other bytes", "expected sha256:"]);
    project.server().fail("thing_1.0-1_amd64.deb", Fault::Body(vec![b'x'; size * 2]));
    project.sbx(&["fetch"]).fails(3, &["bytes, expected"]);
    let blobs: Vec<_> =
        fs::read_dir(project.cache().join("blobs/sha256")).unwrap().flatten().collect();
    assert!(
        blobs
            .iter()
            .all(|blob| blob.metadata().unwrap().len() < 5000 || blob.path().extension().is_none())
    );
}

#[test]
fn names_in_the_pool_are_asked_for_as_they_are() {
    let repo = Repo::new().add_as("thing_1%3a1.0-1+b1?.deb", &Deb::new("thing", "1:1.0-1"));
    repo.publish();
    project(&repo).sbx(&["fetch"]).success();
}

#[test]
fn an_index_cannot_send_to_another_host() {
    let other = repo();
    other.publish();
    let other = Server::serve(other.dir.path());
    let repo = repo();
    let stanza = Deb::new("thing", "1.0-1").stanza();
    for host in [other.url("pool/thing_1.0-1_amd64.deb"), other.url("x")[5..].to_owned()] {
        let packages = format!("{stanza}Filename: {host}\nSize: 4\nSHA256: {}\n\n", "0".repeat(64));
        repo.publish_index(&packages);
        project(&repo).sbx(&["fetch"]).fails(3, &["`thing 1.0-1`"]);
    }
    assert_eq!(other.count(""), 0);
}

#[test]
fn offline_and_locked_say_what_mends_them() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    let checked = project.sbx(&["check"]).success().stdout;
    assert!(checked.contains("not locked yet: l ("), "{checked}");
    project.sbx(&["build", "s", "--locked"]).fails(1, &["`--locked` refuses", "run `sbx lock`"]);
    project.sbx(&["lock", "--check"]).fails(1, &["run `sbx lock`"]);
    project.sbx(&["lock", "--offline"]).fails(3, &["`--offline` refuses the network"]);
    project.sbx(&["lock"]).success();
    project.sbx(&["lock", "--check"]).success();
    project.sbx(&["fetch", "--offline"]).fails(3, &["package `thing 1.0-1`", "run `sbx fetch`"]);
}

#[test]
fn an_edited_or_unmerged_lock_is_refused_with_its_line() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project.sbx(&["lock"]).success();
    let lock = project.read("sbx.lock");
    project.write("sbx.lock", &lock.replacen("deb l", "<<<<<<< ours\ndeb l", 1));
    project.sbx(&["build", "s"]).fails(1, &["sbx.lock:2", "merge conflict"]);
    project.write("sbx.lock", &lock.replacen("sha256:", "sha255:", 1));
    project.sbx(&["build", "s"]).fails(1, &["sbx.lock:2", "the digest is wrong"]);
}

#[test]
fn a_lock_names_no_host_and_answers_its_declaration() {
    let repo = repo();
    repo.publish();
    let project = project(&repo);
    project.sbx(&["lock"]).success();
    assert!(!project.read("sbx.lock").contains("127.0.0.1"));
    project.write("sandboxes.kdl", &format!("// a comment\n\n{}", project.read("sandboxes.kdl")));
    project.sbx(&["lock", "--check"]).success();
    project.write(
        "sandboxes.kdl",
        &project.read("sandboxes.kdl").replace("\"thing\"", "\"thing\" \"other\""),
    );
    project.sbx(&["lock", "--check"]).fails(1, &["`l` for linux/amd64"]);
}

#[test]
fn a_read_only_store_is_named() {
    let project = Project::new()
        .file("sandboxes.kdl", "layer \"l\" { dir \"/x\"; }\nsandbox \"s\" { layers \"l\"; }\n");
    project.sbx(&["build", "s", "--cache", "/proc/cache"]).fails(3, &["/proc/cache"]);
}

const FILES: &str = "layer \"a\" { files \"a\" into=\"/srv\"; own \"/srv\" owner=\"www-data\"; }\nlayer \"b\" { file \"/srv/x\" content=\"b\"; }\nsandbox \"one\" { layers \"a\"; }\nsandbox \"two\" { layers \"a\" \"b\"; }\nsandbox \"s\" { layers \"a\"; }\n";

#[test]
fn two_layers_with_one_path_are_refused() {
    let project = Project::new().file("sandboxes.kdl", FILES).file("a/x", "a\n");
    project.sbx(&["build", "one"]).success();
    project.sbx(&["build", "two"]).fails(1, &["`a` and `b` both bring /srv/x", "replace=#true"]);
    project.write("sandboxes.kdl", &FILES.replace("content=\"b\"", "content=\"b\" replace=#true"));
    project.sbx(&["build", "two"]).success();
}

#[test]
fn an_edit_of_a_file_builds_its_layer_and_nothing_else() {
    let project = Project::new().file("sandboxes.kdl", FILES).file("a/x", "1\n");
    let first = project.build();
    assert_eq!(project.build(), first);
    project.write("a/x", "2\n");
    let second = project.build();
    assert_ne!(second, first);
    project.write("a/x", "1\n");
    assert_eq!(project.build(), first, "the same bytes are the same image");
}

#[test]
fn a_damaged_layer_is_found_named_and_built_again() {
    let project = Project::new().file("sandboxes.kdl", FILES).file("a/x", &"1\n".repeat(1000));
    let image = project.build();
    let largest = fs::read_dir(project.cache().join("blobs/sha256"))
        .unwrap()
        .flatten()
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    std::thread::sleep(Duration::from_millis(20));
    fs::write(largest.path(), "damage").unwrap();
    let outcome = project.sbx(&["build", "s"]).success();
    assert_eq!(outcome.stdout.trim(), image);
    assert!(outcome.stderr.contains("was damaged"), "{}", outcome.stderr);
    assert!(fs::metadata(largest.path()).unwrap().len() > 1000);
}

#[test]
fn kills_at_any_moment_and_two_builds_at_once_leave_the_store_whole() {
    let project = Project::new().file("sandboxes.kdl", FILES);
    for n in 0..200 {
        project.write(&format!("a/f{n}"), &format!("{n}\n").repeat(2000));
    }
    let other = Project::new().file("sandboxes.kdl", FILES);
    for n in 0..200 {
        other.write(&format!("a/f{n}"), &format!("{n}\n").repeat(2000));
    }
    let image = other.build();
    for round in 0..20u64 {
        let mut child = project
            .command(&["build", "s", "--quiet"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(round * 3));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let two: Vec<_> = (0..2)
        .map(|_| {
            project
                .command(&["build", "s", "--quiet"])
                .stdout(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in two {
        let output = child.wait_with_output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), image);
    }
    let drafts = fs::read_dir(project.cache().join("tmp")).unwrap().count();
    assert_eq!(drafts, 0, "drafts of the killed are swept");
}
