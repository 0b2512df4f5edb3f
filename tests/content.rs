//! The content of debian layers, from real packages: how fast, and how much memory.

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
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or_default();
    eprintln!(
        "{} packages, {} entries, {} bytes, {}: decoded in {decoded:.2?}, all in {:.2?}, {peak}",
        packages.len(),
        listing.entries.len(),
        sink.1.len(),
        sink.1.clone().finish(),
        start.elapsed(),
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
