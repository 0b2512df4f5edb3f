//! Packages that try something, in an archive that is signed: each build ends with a message that
//! names the package and the reason, and leaves nothing behind, inside the store or outside.

use std::fs;

use crate::support::deb::{ar_of, tar_of};
use crate::support::project::{Outcome, Project};
use crate::support::repo::{Deb, Member, Repo};
use sbx::digest::Digest;

fn thing() -> Deb {
    Deb::new("thing", "1.0-1").file("/usr/share/thing/sound", "sound\n")
}

/// Builds a sandbox of the one package `thing`, which the archive says these bytes are.
#[track_caller]
fn build(bytes: &[u8]) -> Outcome {
    let repo = Repo::new().add_raw(&thing().stanza(), bytes);
    repo.publish();
    let text = "layer \"l\" { debian \"trixie\" { suites \"trixie\"; base \"none\"; key \"key.asc\"; packages \"thing\"; }; }\nsandbox \"s\" { layers \"l\"; }\n";
    let project = Project::from_repo(&repo).file("sandboxes.kdl", text);
    project.sbx(&["fetch"]).success();
    let outcome = project.sbx(&["build", "s"]);
    assert_eq!(project.drafts(), Vec::<std::path::PathBuf>::new(), "nothing half-written stays");
    let kept = project.cache().join("blobs/sha256").join(Digest::of(bytes).hex());
    assert_eq!(fs::metadata(kept).unwrap().len(), bytes.len() as u64, "what was fetched stays");
    assert!(
        !project.dir.path().join("beside").exists() && !project.cache().join("beside").exists()
    );
    outcome
}

/// It is refused with these words, and the package is named.
#[track_caller]
fn refused(deb: &Deb, texts: &[&str]) {
    refused_bytes(&deb.build(), texts);
}

#[track_caller]
fn refused_bytes(bytes: &[u8], texts: &[&str]) {
    build(bytes).fails(3, &[&["layer `l`", "package `thing 1.0-1`"], texts].concat());
}

#[test]
fn members_cannot_leave_the_layer() {
    refused(&thing().member(Member::file("../beside", "x")), &["`../beside`", "`..`"]);
    refused(&thing().member(Member::file("./usr/../../beside", "x")), &["/../../beside`", "`..`"]);
    refused(
        &thing().member(Member::file("/tmp/sbx-beside", "x")),
        &["`/tmp/sbx-beside`", "absolute"],
    );
    let through = thing()
        .member(Member::symlink("./usr/share/out", "/tmp"))
        .member(Member::file("./usr/share/out/sbx-beside", "x"));
    refused(&through, &["/usr/share/out"]);
    let climbing = thing()
        .member(Member::symlink("./out", "../../.."))
        .member(Member::file("./out/beside", "x"));
    refused(&climbing, &["/out"]);
    assert!(!std::path::Path::new("/tmp/sbx-beside").exists());
}

#[test]
fn hard_links_stay_among_the_files_of_their_package() {
    let out = "../../../../../../etc/passwd";
    refused(&thing().member(Member::hardlink("./usr/share/x", out)), &["hard link", out]);
    refused(&thing().member(Member::hardlink("./x", "/etc/passwd")), &["hard link", "/etc/passwd"]);
    refused(&thing().member(Member::hardlink("./x", "./y")), &["hard link", "/y"]);
    let over_link = thing()
        .member(Member::symlink("./usr/share/link", "/etc/passwd"))
        .member(Member::hardlink("./usr/share/x", "./usr/share/link"));
    // a second name for a link is a link, and reaches nothing
    let outcome = build(&over_link.build());
    assert_ne!(outcome.code, Some(0), "{}", outcome.stderr);
}

#[test]
fn devices_and_forged_deletions_are_refused() {
    refused(&thing().member(Member::device("./dev/sda", 8, 0)), &["/dev/sda is a device"]);
    refused(&thing().member(Member::device("./usr/gone", 0, 0)), &["/usr/gone is a device"]);
    refused(&thing().member(Member::file("./usr/.wh.bin", "")), &["/usr/.wh.bin"]);
    refused(&thing().member(Member::file("./usr/.wh..wh..opq", "")), &["/usr/.wh..wh..opq"]);
}

#[test]
fn a_path_is_one_thing_only() {
    refused(&thing().file("/usr/share/thing/sound/below", "x"), &["/usr/share/thing/sound"]);
}

#[test]
fn control_archives_are_whole_and_small() {
    let deb = thing();
    let data = tar_of(&deb.data_members());
    refused_bytes(&deb.assemble(&tar_of(&[Member::dir("./")]), &data), &["has no `control`"]);
    refused_bytes(&deb.assemble(&[], &data), &["control archive"]);
    let members: Vec<Member> =
        deb.control_members().into_iter().chain([Member::file("./sub/postinst", "x")]).collect();
    refused_bytes(&deb.assemble(&tar_of(&members), &data), &["sub/postinst"]);
    let huge = deb.clone().control_bytes("postinst", &vec![b' '; 80 << 20]);
    refused(&huge, &["control archive", "unpacks to more than"]);
    let binary = Member::file("./control", &b"Package: thing\xff\n"[..]);
    refused_bytes(&deb.assemble(&tar_of(&[binary]), &data), &["`control` is not UTF-8"]);
    let other = tar_of(&Deb::new("other", "1.0-1").control_members());
    refused_bytes(&deb.assemble(&other, &data), &["names another package"]);
}

#[test]
fn what_is_no_package_is_said_to_be_none() {
    let sound = thing().build();
    refused_bytes(b"", &["too short"]);
    refused_bytes(b"<html>Not Found</html>", &["no ar archive"]);
    refused_bytes(&sound[..70], &["it"]);
    refused_bytes(&sound[..sound.len() - 40], &["data archive"]);
    let version = ar_of(&[("debian-binary", b"3.0\n")]);
    refused_bytes(&version, &["`debian-binary` 2"]);
    let alone = ar_of(&[("debian-binary", b"2.0\n")]);
    refused_bytes(&alone, &["ends too soon"]);
    let mut damaged = sound.clone();
    let at = damaged.len() - 60;
    damaged[at] ^= 0xff;
    refused_bytes(&damaged, &["data archive"]);
}

#[test]
fn a_package_that_unpacks_to_more_than_its_header_says_is_cut_short() {
    // a header that promises 8 GiB less one byte, and a few bytes
    let mut tar = tar_of(&thing().data_members());
    let at = (0..tar.len())
        .step_by(512)
        .find(|at| tar[*at..].starts_with(b"./usr/share/thing/sound"))
        .unwrap();
    tar[at + 124..at + 135].copy_from_slice(b"77777777777");
    tar[at + 148..at + 156].copy_from_slice(b"        ");
    let sum: u32 = tar[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
    tar[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let deb = thing();
    refused_bytes(&deb.assemble(&tar_of(&deb.control_members()), &tar), &["ends in the middle"]);
}
