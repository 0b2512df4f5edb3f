//! Where answers go: stdout, files, and what is no file; and what they are told of odd names.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileTypeExt;
use std::process::Stdio;

use crate::support::project::{Outcome, Project};
use crate::support::tool;

fn project() -> Project {
    let text =
        "layer \"own\" { files \"own\" into=\"/srv/own\"; }\nsandbox \"s\" { layers \"own\"; }\n";
    Project::new().file("sandboxes.kdl", text).file("own/file", "own\n")
}

#[test]
fn an_answer_that_cannot_be_written_is_no_success() {
    let project = project();
    project.build();
    for words in [&["sbom", "s"][..], &["gc", "--dry-run"], &["show", "s"]] {
        let full = fs::File::options().write(true).open("/dev/full").unwrap();
        let output = project.command(words).stdout(full).output().unwrap();
        Outcome::new(output).fails(3, &["the answer cannot be written: No space left"]);
        // who has read enough, as `head` has, is content
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = project.command(words).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        Outcome::new(output).success();
    }
}

#[test]
fn a_document_goes_through_devices_and_links_and_replaces_files_alone() {
    let project = project();
    project.build();
    let at = |name: &str| project.dir.path().join(name);
    tool("mknod", &["-m", "666", at("null").to_str().unwrap(), "c", "1", "3"]);
    for verb in ["sbom", "provenance"] {
        project.sbx(&[verb, "s", "-o", "null"]).success();
        assert!(fs::metadata(at("null")).unwrap().file_type().is_char_device(), "{verb}");
        fs::write(at("real"), "older").unwrap();
        std::os::unix::fs::symlink("real", at(verb)).unwrap();
        project.sbx(&[verb, "s", "-o", verb]).success();
        assert!(fs::symlink_metadata(at(verb)).unwrap().is_symlink(), "{verb}");
        assert!(fs::read_to_string(at("real")).unwrap().starts_with('{'), "{verb}");
        project.sbx(&[verb, "s", "-o", "own"]).fails(1, &["`own` is a directory"]);
        project.sbx(&[verb, "s", "-o", "/dev/full"]).fails(3, &["/dev/full", "No space left"]);
    }
}

#[test]
fn names_that_are_no_text_are_names() {
    let project = project();
    let odd = project.dir.path().join("own").join(OsStr::from_bytes(b"odd\xff.txt"));
    fs::write(&odd, "odd\n").unwrap();
    let image = project.build();
    assert_eq!(project.build(), image);
    let unpacked = project.unpack_below(&["srv"]);
    let root = crate::support::project::root(&unpacked);
    let laid = root.join("srv/own").join(odd.file_name().unwrap());
    assert_eq!(fs::read_to_string(laid).unwrap(), "odd\n");
    fs::write(&odd, "other\n").unwrap();
    assert_ne!(project.build(), image);
    for words in [&["check"][..], &["sbom", "s"], &["vendor", "sources"], &["show", "s"]] {
        project.sbx(words).success();
    }
}
