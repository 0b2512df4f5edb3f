//! The content of debian layers: where paths are laid.

use std::path::PathBuf;

use sbx::build::content::{Laying, Package, lay};
use sbx::debian::path_filter::PathFilter;
use sbx::digest::Digest;

/// A `.deb` of directories, and one file below each.
fn package(home: &std::path::Path, name: &str, dirs: &[&str]) -> Package {
    let archive = |members: &[(String, &[u8])]| {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, body) in members {
            let mut header = tar::Header::new_gnu();
            let is_dir = path.ends_with('/');
            header.set_entry_type(if is_dir {
                tar::EntryType::Directory
            } else {
                tar::EntryType::Regular
            });
            header.set_mode(0o755);
            header.set_size(body.len() as u64);
            builder.append_data(&mut header, path, *body).unwrap();
        }
        builder.into_inner().unwrap()
    };
    let stanza = format!("Package: {name}\nVersion: 1\nArchitecture: all\n");
    let control = archive(&[("control".to_owned(), stanza.as_bytes())]);
    let data: Vec<(String, &[u8])> = dirs
        .iter()
        .flat_map(|dir| {
            [(format!("{dir}/"), &b""[..]), (format!("{dir}/of-{name}"), name.as_bytes())]
        })
        .collect();
    let mut builder = ar::Builder::new(Vec::new());
    let members = [
        ("debian-binary", b"2.0\n".to_vec()),
        ("control.tar", control),
        ("data.tar", archive(&data)),
    ];
    for (member, bytes) in members {
        let header = ar::Header::new(member.as_bytes().to_vec(), bytes.len() as u64);
        builder.append(&header, &bytes[..]).unwrap();
    }
    let bytes = builder.into_inner().unwrap();
    let blob = home.join(name);
    std::fs::write(&blob, &bytes).unwrap();
    Package { label: format!("{name} 1"), blob, digest: Digest::of(&bytes) }
}

#[test]
fn merged_directories_become_links_though_packages_ship_them_as_directories() {
    let home = tempfile::tempdir().unwrap();
    let tree = home.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let packages = [
        package(home.path(), "base-files", &["bin", "lib", "sbin", "etc"]),
        package(home.path(), "dash", &["bin", "usr/bin"]),
    ];
    let laying = Laying { fresh: true, filter: &PathFilter::default() };
    lay(&packages, laying, &tree, &mut std::io::sink(), &|_| {}).unwrap();
    for name in ["bin", "lib", "sbin"] {
        let target = std::fs::read_link(tree.join(name)).unwrap();
        assert_eq!(target, PathBuf::from(format!("usr/{name}")));
    }
    let read = |name: &str| std::fs::read_to_string(tree.join(name)).unwrap();
    assert_eq!(read("bin/of-base-files"), "base-files");
    assert_eq!(read("usr/bin/of-dash"), "dash");
}
