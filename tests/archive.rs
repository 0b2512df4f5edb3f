//! `archive`: what is taken of an archive and where it lies, in every packing; and what an archive may
//! try.

use std::fs;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::support::project::{Project, root};
use crate::support::server::Server;
use sbx::digest::Digest;

/// A member of an archive: name, kind as tar writes it, mode, and body or target.
type Raw<'a> = (&'a str, u8, u32, &'a str);

const TOOL: &[Raw<'_>] = &[
    ("tool-1.0/", b'5', 0o777, ""),
    ("tool-1.0/bin/", b'5', 0o775, ""),
    ("tool-1.0/bin/tool", b'0', 0o4775, "#!/bin/sh\n"),
    ("tool-1.0/lib/data.txt", b'0', 0o664, "data\n"),
    ("tool-1.0/lib/data.md", b'0', 0o600, "words\n"),
    ("tool-1.0/lib/again.txt", b'1', 0o664, "tool-1.0/lib/data.txt"),
    ("tool-1.0/latest", b'2', 0o777, "lib/data.txt"),
];

fn tar(members: &[Raw<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, kind, mode, text) in members {
        let mut header = tar::Header::new_ustar();
        let is_link = matches!(kind, b'1' | b'2');
        let body = if is_link { "" } else { text };
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        if is_link {
            header.as_mut_bytes()[157..157 + text.len()].copy_from_slice(text.as_bytes());
        }
        header.set_entry_type(tar::EntryType::new(*kind));
        header.set_mode(*mode);
        header.set_uid(1000);
        header.set_gid(1000);
        header.set_mtime(1_600_000_000);
        header.set_size(body.len() as u64);
        header.set_cksum();
        builder.append(&header, body.as_bytes()).unwrap();
    }
    builder.into_inner().unwrap()
}

fn zip(members: &[Raw<'_>]) -> Vec<u8> {
    let mut writer = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, _, mode, text) in members.iter().filter(|member| member.1 == b'0') {
        let options = zip::write::SimpleFileOptions::default().unix_permissions(*mode);
        writer.start_file(*name, options).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
    }
    writer.finish().unwrap().into_inner()
}

fn packed(bytes: &[u8], how: &str) -> Vec<u8> {
    match how {
        "gz" => {
            let mut encoder =
                flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "xz" => {
            let mut encoder = liblzma::write::XzEncoder::new(Vec::new(), 1);
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "bz2" => {
            let mut encoder = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        }
        "zst" => zstd::encode_all(bytes, 1).unwrap(),
        _ => bytes.to_vec(),
    }
}

/// A project with an archive of its own, taken as `how` says.
fn project(bytes: &[u8], how: &str) -> Project {
    let digest = Digest::of(bytes);
    let text = format!(
        "layer \"l\" {{ archive \"vendor/tool\" digest=\"{digest}\" into=\"/opt/tool\" {how}; }}\nsandbox \"s\" {{ layers \"l\"; }}\n"
    );
    let project = Project::new().file("sandboxes.kdl", &text).file("vendor/none", "");
    fs::write(project.dir.path().join("vendor/tool"), bytes).unwrap();
    project
}

fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut next = vec![root.to_owned()];
    while let Some(dir) = next.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            let meta = fs::symlink_metadata(&path).unwrap();
            if meta.is_dir() {
                next.push(path);
                continue;
            }
            let name = path.strip_prefix(root).unwrap().display();
            found.push(format!("{name} {:o} {}", meta.mode() & 0o7777, meta.uid()));
        }
    }
    found.sort();
    found
}

#[test]
fn archives_of_every_packing_are_laid_the_same() {
    let plain = tar(TOOL);
    let mut images = Vec::new();
    for how in ["", "gz", "xz", "zst", "bz2"] {
        let project = project(&packed(&plain, how), "strip=1");
        project.build();
        let image = project.unpack();
        let expected = [
            "bin/tool 755 0",
            "latest 777 0",
            "lib/again.txt 644 0",
            "lib/data.md 644 0",
            "lib/data.txt 644 0",
        ];
        assert_eq!(files(&root(&image).join("opt/tool")), expected, "{how}");
        let read = fs::read_to_string(root(&image).join("opt/tool/latest")).unwrap();
        assert_eq!(read, "data\n");
        let answer = project.sbx(&["build", "s", "--json"]).success().stdout;
        let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
        let layers = answer.pointer("/layers").or(answer.pointer("/0/layers")).unwrap();
        images.push(layers[0]["diff_id"].as_str().unwrap().to_owned());
    }
    assert!(images.windows(2).all(|pair| pair[0] == pair[1]), "{images:?}");
    let zipped = project(&zip(TOOL), "strip=1");
    zipped.build();
    let found = files(&root(&zipped.unpack()).join("opt/tool"));
    assert_eq!(found, ["bin/tool 755 0", "lib/data.md 644 0", "lib/data.txt 644 0"]);
}

#[test]
fn parts_are_taken_by_directory_and_pattern_and_given_to_somebody() {
    let bytes = packed(&tar(TOOL), "gz");
    let taken = |how: &str| {
        let project = project(&bytes, how);
        project.build();
        files(&root(&project.unpack()).join("opt"))
    };
    let found = taken("strip=1 subdirectory=\"lib\" owner=\"33:33\" { exclude \"*.md\"; }");
    assert_eq!(found, ["tool/again.txt 644 33", "tool/data.txt 644 33"]);
    let found = taken("mode=0o600 { include \"*.md\"; }");
    assert_eq!(found, ["tool/tool-1.0/lib/data.md 600 0"]);
    // a file that is meant itself gets the name that it is to have
    assert_eq!(taken("strip=1 subdirectory=\"bin/tool\""), ["tool 755 0"]);
    let project = project(&bytes, "subdirectory=\"nowhere\"");
    project.sbx(&["build", "s"]).fails(1, &["`tool` has nothing of what is meant"]);
}

#[test]
fn an_archive_comes_from_its_address_once() {
    let home = tempfile::tempdir().unwrap();
    let bytes = packed(&tar(TOOL), "gz");
    fs::write(home.path().join("tool-1.0.tar.gz"), &bytes).unwrap();
    let server = Server::serve(home.path());
    let declare = |digest: Digest| {
        let url = server.url("tool-1.0.tar.gz");
        format!(
            "layer \"l\" {{ archive {url:?} digest=\"{digest}\" into=\"/opt\"; }}\nsandbox \"s\" {{ layers \"l\"; }}\n"
        )
    };
    let project = Project::new().file("sandboxes.kdl", &declare(Digest::of(&bytes)));
    project.sbx(&["lock"]).success();
    let lock = project.read("sbx.lock");
    assert!(lock.contains("tool-1.0.tar.gz") && !lock.contains("127.0.0.1"), "{lock}");
    let first = project.build();
    assert_eq!(server.count("tool"), 1);
    project.sbx(&["build", "s", "--offline", "--locked"]).success();
    // damaged in the store, it is fetched again; elsewhere, its layer is the same
    let blob = project.cache().join("blobs/sha256").join(Digest::of(&bytes).hex());
    fs::write(&blob, &bytes[1..]).unwrap();
    fs::remove_dir_all(project.cache().join("keys")).unwrap();
    fs::remove_dir_all(project.cache().join("images")).unwrap();
    assert_eq!(project.build(), first);
    assert_eq!(server.count("tool"), 2);
    let other = Project::new().file("sandboxes.kdl", &declare(Digest::of(b"else")));
    other.sbx(&["lock"]).fails(3, &["tool-1.0.tar.gz", &Digest::of(b"else").to_string()]);
}

#[test]
fn what_a_declaration_gets_wrong_is_said_with_its_text() {
    let bytes = tar(TOOL);
    let digest = Digest::of(&bytes);
    let fails = |node: &str, texts: &[&str]| {
        let text = format!("layer \"l\" {{ {node}; }}\nsandbox \"s\" {{ layers \"l\"; }}\n");
        Project::new().file("sandboxes.kdl", &text).sbx(&["check"]).fails(1, texts);
    };
    fails("archive \"a.tar\" into=\"/a\"", &["`archive` needs a digest", "sha256sum"]);
    fails(
        &format!("archive \"../a.tar\" digest=\"{digest}\" into=\"/a\""),
        &["leaves the project"],
    );
    fails(
        &format!("archive \"ftp://h.example.org/a\" digest=\"{digest}\" into=\"/a\""),
        &["no address"],
    );
    fails(
        &format!("archive \"a.tar\" digest=\"{digest}\" into=\"/a\""),
        &["`a.tar` does not exist"],
    );
    fails("files \"x\" from=\"pypi:tool\" into=\"/a\"", &["pypi:NAME==VERSION"]);
    let text = format!(
        "layer \"l\" {{ archive \"vendor/tool\" digest=\"{}\" into=\"/a\"; }}\nsandbox \"s\" {{ layers \"l\"; }}\n",
        Digest::of(b"")
    );
    let project = project(&bytes, "").file("sandboxes.kdl", &text);
    project.sbx(&["lock"]).fails(1, &["`vendor/tool`", &digest.to_string()]);
}

#[test]
fn what_an_archive_may_try_is_refused_by_name() {
    let fails = |members: &[Raw<'_>], text: &str| {
        let project = project(&tar(members), "");
        project.sbx(&["build", "s"]).fails(1, &["layer `l`", "`tool`", text]);
    };
    fails(&[("../out", b'0', 0o644, "x")], "../out");
    fails(&[("a/../../out", b'0', 0o644, "x")], "a/../../out");
    fails(&[("a/link", b'2', 0o777, "../../out")], "`../../out`");
    fails(&[("link", b'2', 0o777, "/etc/passwd")], "`/etc/passwd`");
    fails(&[("d", b'2', 0o777, "e"), ("d/file", b'0', 0o644, "x")], "/opt/tool/d");
    fails(&[("twice", b'0', 0o644, "x"), ("twice", b'0', 0o644, "y")], "is in it twice");
    fails(&[("hard", b'1', 0o644, "elsewhere")], "hard link");
    fails(&[("null", b'3', 0o644, "")], "a device or a pipe");
    let project = project(b"#!/bin/sh\nno archive", "");
    project.sbx(&["build", "s"]).fails(1, &["`tool` is no archive"]);
}
