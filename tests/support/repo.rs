//! A Debian repository of the tests' own, signed by GnuPG, with real essential packages beside
//! packages that the tests make with dpkg-deb.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use sbx::digest::Digest;

use super::tool;

/// A package to be built with dpkg-deb.
pub struct Deb {
    name: String,
    version: String,
    fields: Vec<(String, String)>,
    files: Vec<(String, u32, Vec<u8>)>,
    control: Vec<(String, String)>,
}

impl Deb {
    pub fn new(name: &str, version: &str) -> Self {
        Deb {
            name: name.into(),
            version: version.into(),
            fields: vec![],
            files: vec![],
            control: vec![],
        }
    }

    pub fn field(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.into(), value.into()));
        self
    }

    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.into(), 0o644, text.into()));
        self
    }

    pub fn program(mut self, path: &str, text: &str) -> Self {
        self.files.push((path.into(), 0o755, text.into()));
        self
    }

    pub fn conffile(self, path: &str, text: &str) -> Self {
        let line = format!("{path}\n");
        self.file(path, text).append("conffiles", &line)
    }

    /// `preinst`, `postinst`, `triggers`, …
    pub fn control(self, name: &str, text: &str) -> Self {
        self.append(name, text)
    }

    fn append(mut self, name: &str, text: &str) -> Self {
        match self.control.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => old.push_str(text),
            None => self.control.push((name.into(), text.into())),
        }
        self
    }

    /// Builds the package into `dir`.
    fn build(&self, dir: &Path) -> PathBuf {
        let tree = tempfile::tempdir().unwrap();
        let root = tree.path();
        fs::set_permissions(root, fs::Permissions::from_mode(0o755)).unwrap();
        let put = |path: &str, mode: u32, bytes: &[u8]| {
            let full = root.join(path.trim_start_matches('/'));
            fs::create_dir_all(full.parent().unwrap()).unwrap();
            fs::write(&full, bytes).unwrap();
            fs::set_permissions(&full, fs::Permissions::from_mode(mode)).unwrap();
        };
        for (path, mode, bytes) in &self.files {
            put(path, *mode, bytes);
        }
        let fields: String =
            self.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let arch = if fields.contains("Architecture:") { "" } else { "Architecture: amd64\n" };
        let control = format!(
            "Package: {}\nVersion: {}\n{arch}Maintainer: Tests <tests@example.org>\n{fields}Description: made by a test\n",
            self.name, self.version
        );
        put("DEBIAN/control", 0o644, control.as_bytes());
        for (name, text) in &self.control {
            let script =
                ["preinst", "postinst", "prerm", "postrm", "config"].contains(&name.as_str());
            put(&format!("DEBIAN/{name}"), if script { 0o755 } else { 0o644 }, text.as_bytes());
        }
        let deb = dir.join(format!("{}_{}.deb", self.name, self.version.replace(':', "%3a")));
        tool(
            "dpkg-deb",
            &[
                "--root-owner-group",
                "-Zgzip",
                "--build",
                root.to_str().unwrap(),
                deb.to_str().unwrap(),
            ],
        );
        deb
    }
}

/// A repository being filled.
pub struct Repo {
    pub dir: tempfile::TempDir,
    stanzas: Vec<(String, String)>,
    pub date: String,
    pub valid_until: Option<String>,
}

/// A key pair for the whole test run.
struct Keys {
    home: tempfile::TempDir,
    public: Vec<u8>,
}

fn keys(name: &'static str) -> &'static Keys {
    static OURS: OnceLock<Keys> = OnceLock::new();
    static STRANGER: OnceLock<Keys> = OnceLock::new();
    let slot = if name == "ours" { &OURS } else { &STRANGER };
    slot.get_or_init(|| {
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let path = home.path().to_str().unwrap();
        let gpg = |arguments: &[&str]| {
            let base = ["--homedir", path, "--batch", "--quiet", "--passphrase", ""];
            tool("gpg", &[&base[..], arguments].concat())
        };
        gpg(&[
            "--quick-generate-key",
            &format!("{name} <{name}@example.org>"),
            "ed25519",
            "sign",
            "never",
        ]);
        let public = gpg(&["--armor", "--export"]).into_bytes();
        Keys { home, public }
    })
}

impl Repo {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("pool")).unwrap();
        let date = "Sat, 21 Nov 2026 09:00:00 UTC".to_owned();
        Repo { dir, stanzas: Vec::new(), date, valid_until: None }
    }

    /// With the essential packages of trixie, which settles run with.
    pub fn with_base() -> Self {
        let mut repo = Repo::new();
        for blob in base_packages() {
            repo.add_file(blob);
        }
        repo
    }

    pub fn add(mut self, deb: Deb) -> Self {
        let built = deb.build(&self.dir.path().join("pool"));
        self.describe(&built, deb.name);
        self
    }

    /// Adds a package of the tests' own making that dpkg-deb would refuse to make.
    pub fn add_raw(mut self, control: &str, bytes: &[u8]) -> Self {
        let name = control.lines().next().unwrap().trim_start_matches("Package: ").to_owned();
        let path = self.dir.path().join("pool").join(format!("{name}.deb"));
        fs::write(&path, bytes).unwrap();
        self.push(&path, name, control);
        self
    }

    fn add_file(&mut self, blob: &Path) {
        let name = tool("dpkg-deb", &["-f", blob.to_str().unwrap(), "Package"]).trim().to_owned();
        let path = self.dir.path().join("pool").join(format!("{name}_base.deb"));
        fs::hard_link(blob, &path).or_else(|_| fs::copy(blob, &path).map(drop)).unwrap();
        self.describe(&path, name);
    }

    fn describe(&mut self, path: &Path, name: String) {
        let control = tool("dpkg-deb", &["-f", path.to_str().unwrap()]);
        self.push(path, name, &control);
    }

    fn push(&mut self, path: &Path, name: String, control: &str) {
        let bytes = fs::read(path).unwrap();
        let file = path.file_name().unwrap().to_str().unwrap();
        let stanza = format!(
            "{}\nFilename: pool/{file}\nSize: {}\nSHA256: {}\n\n",
            control.trim_end(),
            bytes.len(),
            Digest::of(&bytes).hex()
        );
        self.stanzas.push((name, stanza));
    }

    /// Removes a package from the index and the pool, as an archive does.
    pub fn remove(&mut self, name: &str) {
        self.stanzas.retain(|(known, _)| known != name);
        for entry in fs::read_dir(self.dir.path().join("pool")).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with(&format!("{name}_")) {
                fs::remove_file(path).unwrap();
            }
        }
    }

    pub fn add_later(&mut self, deb: Deb) {
        let built = deb.build(&self.dir.path().join("pool"));
        self.describe(&built, deb.name);
    }

    /// Writes and signs the indexes.
    pub fn publish(&self) {
        self.publish_as("ours");
    }

    pub fn publish_as(&self, signer: &'static str) {
        let dists = self.dir.path().join("dists/trixie");
        let packages: String = self.stanzas.iter().map(|(_, stanza)| stanza.as_str()).collect();
        let index = dists.join("main/binary-amd64");
        fs::create_dir_all(&index).unwrap();
        fs::write(index.join("Packages"), &packages).unwrap();
        let digest = Digest::of(packages.as_bytes()).hex();
        let until = self
            .valid_until
            .as_ref()
            .map(|until| format!("Valid-Until: {until}\n"))
            .unwrap_or_default();
        let release = format!(
            "Origin: Tests\nSuite: stable\nCodename: trixie\nDate: {}\n{until}Architectures: amd64\nComponents: main\nSHA256:\n {digest} {} main/binary-amd64/Packages\n",
            self.date,
            packages.len()
        );
        self.sign(&release, signer);
    }

    /// Signs any text as the repository's `InRelease`.
    pub fn sign(&self, release: &str, signer: &'static str) {
        let dists = self.dir.path().join("dists/trixie");
        let plain = dists.join("Release");
        fs::write(&plain, release).unwrap();
        let signed = dists.join("InRelease");
        fs::remove_file(&signed).unwrap_or_default();
        let home = keys(signer).home.path().to_str().unwrap().to_owned();
        let (signed, plain) = (signed.to_str().unwrap(), plain.to_str().unwrap());
        tool(
            "gpg",
            &[
                "--homedir",
                &home,
                "--batch",
                "--quiet",
                "--passphrase",
                "",
                "--output",
                signed,
                "--clearsign",
                plain,
            ],
        );
    }

    pub fn in_release(&self) -> PathBuf {
        self.dir.path().join("dists/trixie/InRelease")
    }

    /// The key that signs.
    pub fn key() -> &'static [u8] {
        &keys("ours").public
    }
}

/// Trixie's essential packages and what they need, fetched once from Debian by sbx itself.
fn base_packages() -> &'static [PathBuf] {
    static BASE: OnceLock<Vec<PathBuf>> = OnceLock::new();
    BASE.get_or_init(|| {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("base");
        fs::create_dir_all(&dir).unwrap();
        let held = fs::File::create(dir.join("held")).unwrap();
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
        let declaration = "layer \"l\" {\n    debian \"trixie\" {\n        base \"essential\"\n        packages \"debconf\" \"mawk\" \"apt\" \"adduser\"\n    }\n}\nsandbox \"s\" { layers \"l\"; }\n";
        fs::write(dir.join("sandboxes.kdl"), declaration).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_sbx"))
            .args(["fetch", "--project", dir.to_str().unwrap(), "--cache", dir.join("cache").to_str().unwrap()])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lock = sbx::lock::Lock::read(&dir.join("sbx.lock")).unwrap();
        lock.pins().map(|pin| dir.join("cache/blobs/sha256").join(pin.digest.hex())).collect()
    })
}
