//! A signed Debian repository of the tests' own: packages that they make, beside real essential ones.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sbx::digest::Digest;

pub use super::deb::{Compression, Deb, Member};
pub use super::keys::Signer;

/// What essential packages do not need themselves and the tests' packages do.
pub const BASE_EXTRA: [&str; 4] = ["debconf", "mawk", "apt", "adduser"];

/// A package in an index.
#[derive(Clone, Debug)]
struct Listed {
    suite: String,
    component: String,
    name: String,
    arch: String,
    stanza: String,
    file: PathBuf,
}

/// A repository being filled.
pub struct Repo {
    pub dir: tempfile::TempDir,
    listed: Vec<Listed>,
    pub date: String,
    pub valid_until: Option<String>,
    /// How `Packages` stands there beside the plain one.
    pub packed: Vec<Compression>,
    pub by_hash: bool,
    pub architectures: Vec<String>,
}

impl Repo {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pool")).unwrap();
        Repo {
            dir,
            listed: Vec::new(),
            date: "Sat, 21 Nov 2026 09:00:00 UTC".to_owned(),
            valid_until: None,
            packed: Vec::new(),
            by_hash: false,
            architectures: vec!["amd64".to_owned()],
        }
    }

    /// With the essential packages of trixie, which settles run with.
    pub fn with_base() -> Self {
        let mut repo = Repo::new();
        for (blob, control) in base_packages() {
            let path = repo.dir.path().join("pool").join(blob.file_name().unwrap());
            fs::hard_link(blob, &path).or_else(|_| fs::copy(blob, &path).map(drop)).unwrap();
            repo.list("trixie", "main", control, &path);
        }
        repo
    }

    pub fn add(mut self, deb: Deb) -> Self {
        self.add_later(deb);
        self
    }

    pub fn add_all(self, debs: impl IntoIterator<Item = Deb>) -> Self {
        debs.into_iter().fold(self, Repo::add)
    }

    pub fn add_later(&mut self, deb: Deb) {
        self.add_to("trixie", "main", deb);
    }

    pub fn add_to(&mut self, suite: &str, component: &str, deb: Deb) {
        let path = self.dir.path().join("pool").join(deb.file_name());
        fs::write(&path, deb.build()).unwrap();
        self.list(suite, component, &deb.stanza(), &path);
    }

    /// Puts a package under another name into the pool.
    pub fn add_as(mut self, file: &str, deb: &Deb) -> Self {
        let path = self.dir.path().join("pool").join(file);
        fs::write(&path, deb.build()).unwrap();
        self.list("trixie", "main", &deb.stanza(), &path);
        self
    }

    /// Lists any bytes under this stanza, whether they are a package or not.
    pub fn add_raw(mut self, control: &str, bytes: &[u8]) -> Self {
        let name = field(control, "Package").unwrap();
        let path = self.dir.path().join("pool").join(format!("{name}_raw.deb"));
        fs::write(&path, bytes).unwrap();
        self.list("trixie", "main", control, &path);
        self
    }

    fn list(&mut self, suite: &str, component: &str, control: &str, path: &Path) {
        let bytes = fs::read(path).unwrap();
        let stanza = format!(
            "{}\nFilename: pool/{}\nSize: {}\nSHA256: {}\n\n",
            control.trim_end(),
            path.file_name().unwrap().to_str().unwrap(),
            bytes.len(),
            Digest::of(&bytes).hex()
        );
        self.listed.push(Listed {
            suite: suite.to_owned(),
            component: component.to_owned(),
            name: field(control, "Package").unwrap(),
            arch: field(control, "Architecture").unwrap(),
            stanza,
            file: path.to_owned(),
        });
    }

    /// Removes a package from the indexes and the pool, as an archive does.
    pub fn remove(&mut self, name: &str) {
        for gone in self.listed.extract_if(.., |listed| listed.name == name) {
            fs::remove_file(gone.file).unwrap();
        }
    }

    /// The file of a package in the pool.
    pub fn file_of(&self, name: &str) -> PathBuf {
        self.listed.iter().find(|listed| listed.name == name).unwrap().file.clone()
    }

    /// Lists the packages in the opposite order.
    pub fn reverse(&mut self) {
        self.listed.reverse();
    }

    /// Writes and signs the indexes.
    pub fn publish(&self) {
        self.publish_as(Signer::Archive);
    }

    pub fn publish_as(&self, signer: Signer) {
        let suites: BTreeSet<&str> =
            self.listed.iter().map(|listed| &*listed.suite).chain(["trixie"]).collect();
        for suite in suites {
            let release = self.write_indexes(suite);
            self.sign(suite, &release, signer);
        }
    }

    /// Writes a suite's indexes and answers its `Release`.
    fn write_indexes(&self, suite: &str) -> String {
        let dists = self.dir.path().join("dists").join(suite);
        let of_suite = || self.listed.iter().filter(|listed| listed.suite == suite);
        let mut components: BTreeSet<&str> = of_suite().map(|listed| &*listed.component).collect();
        components.insert("main");
        let mut files = String::new();
        for component in &components {
            for arch in &self.architectures {
                let text: String = of_suite()
                    .filter(|listed| listed.component == *component)
                    .filter(|listed| listed.arch == *arch || listed.arch == "all")
                    .map(|listed| &*listed.stanza)
                    .collect();
                let dir = format!("{component}/binary-{arch}");
                for compression in [Compression::None].iter().chain(&self.packed) {
                    let bytes = compression.apply(text.as_bytes());
                    let path = format!("{dir}/Packages{}", compression.ending());
                    let digest = Digest::of(&bytes).hex();
                    files += &format!(" {digest} {} {path}\n", bytes.len());
                    put(&dists.join(&path), &bytes);
                    if self.by_hash {
                        put(&dists.join(format!("{dir}/by-hash/SHA256/{digest}")), &bytes);
                    }
                }
            }
        }
        let until = self.valid_until.iter().map(|until| format!("Valid-Until: {until}\n"));
        format!(
            "Origin: Tests\nSuite: {}\nCodename: {suite}\nDate: {}\n{}{}Architectures: {}\nComponents: {}\nSHA256:\n{files}",
            if suite == "trixie" { "stable" } else { suite },
            self.date,
            until.collect::<String>(),
            if self.by_hash { "Acquire-By-Hash: yes\n" } else { "" },
            self.architectures.join(" "),
            components.into_iter().collect::<Vec<_>>().join(" "),
        )
    }

    /// Publishes any text as the one index of the suite.
    pub fn publish_index(&self, packages: &str) {
        let path = "main/binary-amd64/Packages";
        put(&self.dir.path().join("dists/trixie").join(path), packages.as_bytes());
        let digest = Digest::of(packages.as_bytes()).hex();
        let release = format!(
            "Suite: stable\nCodename: trixie\nDate: {}\nArchitectures: amd64\nComponents: main\nSHA256:\n {digest} {} {path}\n",
            self.date,
            packages.len()
        );
        self.sign("trixie", &release, Signer::Archive);
    }

    /// Signs any text as a suite's `Release`.
    pub fn sign(&self, suite: &str, release: &str, signer: Signer) {
        let dists = self.dir.path().join("dists").join(suite);
        put(&dists.join("Release"), release.as_bytes());
        put(&dists.join("Release.gpg"), signer.sign_detached(release).as_bytes());
        put(&dists.join("InRelease"), signer.sign_inline(release).as_bytes());
    }

    pub fn in_release(&self) -> PathBuf {
        self.dir.path().join("dists/trixie/InRelease")
    }

    /// The key that signs, armored.
    pub fn key() -> String {
        Signer::Archive.public()
    }
}

fn put(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

fn field(stanza: &str, name: &str) -> Option<String> {
    let prefix = format!("{name}: ");
    stanza.lines().find_map(|line| line.strip_prefix(&prefix)).map(str::to_owned)
}

/// Trixie's essential packages and what they need, with their stanzas; fetched once from Debian by
/// sbx itself, and kept beside the build.
fn base_packages() -> &'static [(PathBuf, String)] {
    static BASE: OnceLock<Vec<(PathBuf, String)>> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("base");
        fs::create_dir_all(&dir).unwrap();
        // other runs of the tests may be at it
        let held = fs::File::create(dir.join("held")).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        fetch_base(&dir);
        let lock = sbx::lock::Lock::read(&dir.join("sbx.lock")).unwrap();
        let store = sbx::store::Store::open(&dir.join("cache")).unwrap();
        lock.sources(|_, _| true)
            .iter()
            .map(|source| store.source_path(&source.integrity()))
            .map(|path| (path.clone(), control_of(&path)))
            .collect()
    })
}

fn fetch_base(dir: &Path) {
    let extra = BASE_EXTRA.map(|name| format!(" \"{name}\"")).concat();
    let declaration = format!(
        "layer \"l\" {{ debian \"trixie\" {{ base \"essential\"; packages{extra}; }}; }}\nsandbox \"s\" {{ layers \"l\"; }}\n"
    );
    fs::write(dir.join("sandboxes.kdl"), declaration).unwrap();
    let mut said = String::new();
    for _ in 0..3 {
        let output = Command::new(env!("CARGO_BIN_EXE_sbx"))
            .args(["fetch", "--project", dir.to_str().unwrap()])
            .args(["--cache", dir.join("cache").to_str().unwrap()])
            .output()
            .unwrap();
        if output.status.success() {
            return;
        }
        said = String::from_utf8_lossy(&output.stderr).into_owned();
        // a package that left the archive is not worth keeping
        drop(fs::remove_file(dir.join("sbx.lock")));
    }
    panic!("the essential packages cannot be fetched: {said}");
}

/// The stanza in a package's control archive.
fn control_of(path: &Path) -> String {
    let mut archive = ar::Archive::new(fs::File::open(path).unwrap());
    while let Some(entry) = archive.next_entry() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8_lossy(entry.header().identifier()).into_owned();
        if !name.starts_with("control.tar") {
            continue;
        }
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        let mut plain = Vec::new();
        let mut decoder: Box<dyn Read + '_> = match name.rsplit('.').next().unwrap() {
            "xz" => Box::new(liblzma::read::XzDecoder::new(&bytes[..])),
            "gz" => Box::new(flate2::read::GzDecoder::new(&bytes[..])),
            "zst" => Box::new(zstd::Decoder::new(&bytes[..]).unwrap()),
            _ => Box::new(&bytes[..]),
        };
        decoder.read_to_end(&mut plain).unwrap();
        let mut tar = tar::Archive::new(&plain[..]);
        for member in tar.entries().unwrap() {
            let mut member = member.unwrap();
            if member.path().unwrap().file_name().is_some_and(|name| name == "control") {
                let mut text = String::new();
                member.read_to_string(&mut text).unwrap();
                return text;
            }
        }
    }
    panic!("{} has no control archive", path.display());
}
