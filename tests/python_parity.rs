//! Environments of well-known packages, installed by `uv` and by sbx at one place, one after the
//! other: the same paths, the same bytes, the same modes. The wheels come from the public index.
//!
//! What differs on purpose: who installed (`INSTALLER`, and with it its line in `RECORD`), and the
//! bare environment (`pyvenv.cfg` without uv's version, activation scripts of sbx's own for the shells
//! of Linux, links to the interpreter by its full name, no lock file).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use sbx::build::wheels::{WheelFile, lay};
use sbx::fetch::{Client, ClientConfig, Login, NoProgress, Want};
use sbx::lock::WheelPin;
use sbx::path::LayerPath;
use sbx::plan::WheelsWork;
use sbx::platform::Platform;
use sbx::python::{Chosen, Interpreter, Pylock};

use crate::support::survey::Survey;
use crate::support::tool;

const DAY: &str = "2026-11-20";

/// Native code, and what it needs of C libraries.
const NATIVE: &[&str] =
    &["numpy==2.3.1", "greenlet==3.2.3", "pillow==11.3.0", "cryptography==45.0.5"];
/// `.data` directories: configuration, manual pages, kernels, scripts that Python is to start.
const DATA: &[&str] =
    &["jupyterlab==4.4.4", "ipykernel==6.29.5", "awscli==1.41.2", "nbconvert==7.16.6"];
/// Many parts of few names.
const NAMESPACES: &[&str] = &[
    "google-cloud-storage==3.2.0",
    "zope.interface==7.2",
    "sphinx==8.2.3",
    "azure-storage-blob==12.25.1",
];
/// Thousands of files of pure Python.
const LARGE: &[&str] =
    &["django==5.2.4", "sympy==1.14.0", "ansible-core==2.18.7", "twisted==25.5.0"];
/// What every sandbox type of AgentScope Runtime asks for.
const CONTRACT: &[&str] = &[
    "ipython==8.31.0",
    "fastapi==0.115.6",
    "uvicorn==0.34.0",
    "pydantic==2.10.5",
    "requests==2.32.3",
    "mcp==1.9.0",
    "aiofiles",
    "uv",
    "gitpython",
];

/// Paths of the bare environment that differ.
const BARE: &[&str] = &[
    "/.lock",
    "/pyvenv.cfg",
    "/bin/activate",
    "/bin/activate.bat",
    "/bin/activate.csh",
    "/bin/activate.fish",
    "/bin/activate.nu",
    "/bin/activate.ps1",
    "/bin/activate.xsh",
    "/bin/activate_this.py",
    "/bin/deactivate.bat",
    "/bin/pydoc.bat",
    "/bin/python",
];

/// Wheels at hand, for the machine's own Python.
struct Set {
    home: tempfile::TempDir,
    uv: PathBuf,
    interpreter: Interpreter,
    chosen: Vec<Chosen>,
    files: Vec<WheelFile>,
}

/// Of a Python that tells of itself.
fn interpreter() -> Interpreter {
    let say =
        "import platform, sys; print(*sys.version_info[:3], *platform.libc_ver()[1].split('.'))";
    let told = tool("/usr/bin/python3", &["-c", say]);
    let numbers: Vec<u16> = told.split_whitespace().map(|word| word.parse().unwrap()).collect();
    let [major, minor, micro, c_major, c_minor] = numbers[..] else { panic!("{told}") };
    Interpreter {
        version: (major, minor),
        full_version: format!("{major}.{minor}.{micro}").into(),
        program: LayerPath::parse_absolute(&format!("/usr/bin/python{major}.{minor}")).unwrap(),
        platform: Platform::host(),
        glibc: (c_major, c_minor),
    }
}

/// The `uv` of the test set-up (tests/run).
fn uv() -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("uv-0.13.9");
    if !dir.join("bin/uv").exists() {
        let into = dir.to_str().unwrap();
        tool(
            "python3",
            &["-m", "pip", "install", "--quiet", "--target", into, "--upgrade", "uv==0.13.9"],
        );
    }
    dir.join("bin/uv")
}

impl Set {
    fn of(requirements: &[&str]) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (uv, interpreter) = (uv(), interpreter());
        fs::write(home.path().join("in.txt"), requirements.join("\n")).unwrap();
        let known = interpreter.glibc.1.min(40);
        let platform = format!("{}-manylinux_2_{known}", interpreter.machine());
        let output = Command::new(&uv)
            .args([
                "pip",
                "compile",
                "--quiet",
                "in.txt",
                "--format",
                "pylock.toml",
                "-o",
                "pylock.toml",
            ])
            .args(["--no-build", "--exclude-newer", DAY, "--python-version", &interpreter.short()])
            .args(["--python-platform", &platform])
            .current_dir(home.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let lock = fs::read_to_string(home.path().join("pylock.toml")).unwrap();
        let chosen = Pylock::parse(&lock).unwrap().choose(&interpreter, &[], &[]).unwrap();
        let mut set = Set { home, uv, interpreter, chosen, files: Vec::new() };
        set.files = set.fetch();
        set
    }

    fn fetch(&self) -> Vec<WheelFile> {
        let dir = self.home.path().join("wheels");
        fs::create_dir(&dir).unwrap();
        let want = |one: &Chosen| Want {
            label: one.file_name.clone(),
            urls: vec![one.url.as_ref().unwrap().parse().unwrap()],
            size: one.size,
            digest: one.digest.into(),
            is_pinned: true,
            login: Login::Nobody,
            part: dir.join(format!("{}.part", one.file_name)),
            into: dir.join(&one.file_name),
        };
        let client = Client::new(ClientConfig::default());
        let failures =
            client.fetch_all(self.chosen.iter().map(want).collect(), &NoProgress).unwrap();
        assert!(failures.is_empty(), "{failures:?}");
        let file = |one: &Chosen| WheelFile {
            blob: dir.join(&one.file_name),
            file_name: one.file_name.clone(),
            digest: one.digest,
        };
        self.chosen.iter().map(file).collect()
    }

    fn prefix(&self) -> PathBuf {
        self.home.path().join("venv")
    }

    fn work(&self) -> WheelsWork {
        let pin = |one: &Chosen| WheelPin {
            name: one.project.as_str().into(),
            version: one.version.as_str().into(),
            file_name: one.file_name.as_str().into(),
            size: one.size,
            digest: one.digest,
            path: "".into(),
        };
        WheelsWork {
            exclude: Vec::new(),
            prefix: LayerPath::parse_absolute(self.prefix().to_str().unwrap()).unwrap(),
            interpreter: self.interpreter.clone(),
            wheels: self.chosen.iter().map(pin).collect(),
            programs: Vec::new(),
            editables: Vec::new(),
        }
    }

    /// Installs by uv, out of its own warm cache, and answers what is there and how long it took.
    fn by_uv(&self) -> (Survey, f64) {
        let (prefix, cache) = (self.prefix(), self.home.path().join("cache"));
        let run = |words: &[&str]| {
            let mut command = Command::new(&self.uv);
            command.args(words).env("UV_CACHE_DIR", &cache).env("UV_LINK_MODE", "copy");
            let output = command.current_dir(self.home.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let python = self.interpreter.program.to_string();
        let place = prefix.to_str().unwrap();
        let install: &[&str] = &[
            "pip",
            "install",
            "--quiet",
            "--no-build",
            "--no-deps",
            "--python",
            place,
            "-r",
            "pylock.toml",
        ];
        run(&["venv", "--quiet", "--python", &python, place]);
        run(install);
        fs::remove_dir_all(&prefix).unwrap();
        run(&["venv", "--quiet", "--python", &python, place]);
        let start = Instant::now();
        run(install);
        let took = start.elapsed().as_secs_f64();
        (Survey::of(&prefix), took)
    }

    fn by_sbx(&self) -> (Survey, f64, Vec<String>) {
        let tree = self.home.path().join("tree");
        fs::create_dir(&tree).unwrap();
        let mut notes = Vec::new();
        let mut note = |text: &str| notes.push(text.to_owned());
        let start = Instant::now();
        let listing =
            lay(&self.work(), &self.files, &tree, &mut std::io::sink(), &mut note).unwrap();
        let took = start.elapsed().as_secs_f64();
        assert!(listing.entries.len() > self.files.len());
        let below = self.prefix();
        (Survey::of(&tree.join(below.strip_prefix("/").unwrap())), took, notes)
    }
}

/// INSTALLER is another, and so is its line; the rest of every RECORD must be the same.
fn records(root: &Path) -> BTreeMap<PathBuf, Vec<String>> {
    let mut found = BTreeMap::new();
    for library in fs::read_dir(root.join("lib")).unwrap() {
        for entry in fs::read_dir(library.unwrap().path().join("site-packages")).unwrap() {
            let path = entry.unwrap().path();
            let Ok(text) = fs::read_to_string(path.join("RECORD")) else { continue };
            let lines = text.lines().filter(|line| !line.contains("/INSTALLER,"));
            found.insert(
                path.strip_prefix(root).unwrap().to_owned(),
                lines.map(str::to_owned).collect(),
            );
        }
    }
    found
}

#[track_caller]
fn equal(requirements: &[&str]) {
    let set = Set::of(requirements);
    let (theirs, uv_took) = set.by_uv();
    let their_records = records(&set.prefix());
    let (ours, took, notes) = set.by_sbx();
    let root = set.home.path().join("tree").join(set.prefix().strip_prefix("/").unwrap());
    let our_records = records(&root);
    assert_eq!(our_records.len(), set.files.len());
    for (path, lines) in &their_records {
        assert_eq!(our_records.get(path), Some(lines), "RECORD of {}", path.display());
    }
    let mut own: Vec<String> = Vec::new();
    for path in their_records.keys() {
        own.extend(["RECORD", "INSTALLER"].map(|name| format!("/{}/{name}", path.display())));
    }
    let except: Vec<&str> = own.iter().map(String::as_str).chain(BARE.iter().copied()).collect();
    let (ours, theirs) = (ours.without(&except), theirs.without(&except));
    assert!(ours.len() > 200, "{} paths", ours.len());
    let differences = ours.differences(&theirs);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    println!(
        "{} wheels, {} paths: sbx {took:.2} s, uv {uv_took:.2} s; {} notes",
        set.files.len(),
        ours.len(),
        notes.len()
    );
}

#[test]
fn the_environment_that_every_sandbox_type_asks_for() {
    equal(CONTRACT);
}

#[test]
fn native_code() {
    equal(NATIVE);
}

#[test]
fn data_scripts_and_manual_pages() {
    equal(DATA);
}

#[test]
fn namespaces_of_many_parts() {
    equal(NAMESPACES);
}

#[test]
fn large_pure_packages() {
    equal(LARGE);
}
