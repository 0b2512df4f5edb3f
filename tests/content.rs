//! The content of debian layers: where paths are laid; and, from real packages, how fast and in how
//! much memory.

use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

use sbx::build::content::{Package, lay};
use sbx::digest::{Digest, Hasher};

/// Hashes and stores, as a draft of the store does.
struct Sink(std::fs::File, Hasher);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.1.update(bytes);
        self.0.write_all(bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn packages(dir: &str) -> Vec<Package> {
    let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut blobs: Vec<PathBuf> =
        names.filter(|path| path.extension().is_some_and(|end| end == "deb")).collect();
    blobs.sort();
    let package = |blob: PathBuf| {
        let name = blob.file_stem().unwrap().to_string_lossy().into_owned();
        let digest = Digest::of(&std::fs::read(&blob).unwrap());
        Package { label: name.replacen('_', " ", 1), blob, digest }
    };
    blobs.into_iter().map(package).collect()
}

/// `SBX_BENCH_DEBS=DIR SBX_BENCH_OUT=DIR cargo test --release --test content -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: needs a directory of packages"]
fn many_packages_become_one_layer() {
    let packages = packages(&std::env::var("SBX_BENCH_DEBS").unwrap());
    let out = tempfile::tempdir_in(std::env::var("SBX_BENCH_OUT").unwrap()).unwrap();
    let tree = out.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let mut sink = Sink(std::fs::File::create(out.path().join("tar")).unwrap(), Hasher::new());
    let start = Instant::now();
    let last = std::sync::Mutex::new(start);
    let listing = lay(&packages, true, &tree, &mut sink, &|_| {
        *last.lock().unwrap() = Instant::now();
    })
    .unwrap();
    let decoded = last.into_inner().unwrap() - start;
    let all = start.elapsed();
    let remembered = out.path().join("listing");
    listing.write(&remembered).unwrap();
    let start = Instant::now();
    sbx::build::listing::Listing::read(&remembered).unwrap();
    let loaded = start.elapsed();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    eprintln!(
        "{} packages, {} entries, {} bytes, {}: decoded in {decoded:.2?}, all in {all:.2?}, listing read in {loaded:.2?}, {peak}",
        packages.len(),
        listing.entries.len(),
        sink.1.len(),
        sink.1.clone().finish(),
    );
}

/// `SBX_BENCH_TAR=FILE cargo test --release --test content -- --ignored --nocapture twin`
#[test]
#[ignore = "a measurement: needs a layer"]
fn a_layer_gets_its_compressed_twin() {
    let Ok(path) = std::env::var("SBX_BENCH_TAR") else { return };
    let mut input = std::fs::File::open(&path).unwrap();
    let size = input.metadata().unwrap().len();
    for level in [1, 4, 6] {
        std::io::Seek::rewind(&mut input).unwrap();
        let mut output = Hasher::new();
        let start = Instant::now();
        let level_of = sbx::build::deflate::Level::new(level).unwrap();
        let written = sbx::build::deflate::deflate(&mut input, &mut output, level_of).unwrap();
        let rate = size as f64 / start.elapsed().as_secs_f64() / 1e6;
        eprintln!("level {level}: {size} to {written} bytes, {rate:.0} MB/s");
    }
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    eprintln!("{}", status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default());
}

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
    lay(&packages, true, &tree, &mut std::io::sink(), &|_| {}).unwrap();
    for name in ["bin", "lib", "sbin"] {
        let target = std::fs::read_link(tree.join(name)).unwrap();
        assert_eq!(target, PathBuf::from(format!("usr/{name}")));
    }
    let read = |name: &str| std::fs::read_to_string(tree.join(name)).unwrap();
    assert_eq!(read("bin/of-base-files"), "base-files");
    assert_eq!(read("usr/bin/of-dash"), "dash");
}
