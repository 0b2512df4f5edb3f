//! The resolver's one figure of merit: what it chooses is what apt chooses.
//!
//! An apt root of its own (empty status, one architecture, the archive that this system's apt is
//! configured for) downloads the real indexes; each set is then asked of apt's simulation and of
//! [`sbx::debian::resolve`], over the very same files. Judged against apt 2.6: from apt 3.0 on
//! `apt-get` can be told to use another solver, which this test does not ask for.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::apt::mirrors;
use crate::support::sets::{Set, sets};
use jiff::Timestamp;
use sbx::debian::keyring::Keyring;
use sbx::debian::packages::Index;
use sbx::debian::release::Release;
use sbx::debian::resolve::{Request, Wanted, resolve};
use sbx::debian::universe::{Member, Universe};
use sbx::digest::Digest;

const ARCH: &str = "amd64";

/// What mmdebstrap's `minbase` installs, as apt's pattern.
const BASE: &str = "?or(?essential,?priority(required),?exact-name(apt))";

/// Name and version.
type Chosen = BTreeMap<String, String>;

#[test]
fn trixie_is_resolved_as_apt_resolves_it() {
    compare("trixie");
}

#[test]
fn bookworm_is_resolved_as_apt_resolves_it() {
    compare("bookworm");
}

fn compare(codename: &str) {
    let apt = Apt::new(codename);
    let universe = apt.universe();
    // builds apt's cache file once, for all simulations after
    apt.run(&["check"]);
    let cases = sets(codename);
    let answers: Vec<Chosen> = thread::scope(|scope| {
        let halves = cases.chunks(cases.len().div_ceil(2));
        let threads: Vec<_> = halves
            .map(|half| {
                let apt = &apt;
                scope.spawn(move || half.iter().map(|case| apt.simulate(case)).collect::<Vec<_>>())
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let differences: Vec<String> = cases
        .iter()
        .zip(&answers)
        .filter_map(|(case, theirs)| difference(codename, case, theirs, &ours(&universe, case)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn difference(codename: &str, case: &Set, theirs: &Chosen, ours: &Chosen) -> Option<String> {
    assert!(theirs.len() > 60, "apt chose {} packages only", theirs.len());
    let list = |a: &Chosen, b: &Chosen| -> Vec<String> {
        let missing = a.iter().filter(|(name, version)| b.get(*name) != Some(version));
        missing.map(|(name, version)| format!("{name}={version}")).collect()
    };
    let (missing, surplus) = (list(theirs, ours), list(ours, theirs));
    let name = case.name;
    eprintln!("{codename} {name}: {} packages", theirs.len());
    (missing != surplus)
        .then(|| format!("{codename} {name}:\n  only apt: {missing:?}\n  only we: {surplus:?}"))
}

fn ours(universe: &Universe, case: &Set) -> Chosen {
    let request = Request {
        packages: case.packages.split_whitespace().map(Wanted::named).collect(),
        recommends: case.recommends,
        ..Request::default()
    };
    let chosen = resolve(universe, &request).unwrap_or_else(|e| panic!("{}: {e}", case.name));
    chosen
        .iter()
        .map(|chosen| universe.get(chosen.id))
        .map(|package| (package.name().to_owned(), package.version().to_owned()))
        .collect()
}

/// An apt root of its own.
struct Apt {
    root: tempfile::TempDir,
}

impl Apt {
    fn new(codename: &str) -> Self {
        let root = tempfile::tempdir().unwrap();
        let dirs = ["etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d"];
        for dir in dirs.into_iter().chain(["state/lists/partial", "cache/archives/partial"]) {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        fs::write(root.path().join("status"), "").unwrap();
        let (archive, security) = mirrors();
        let keyring = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("src/debian/keyrings/debian-archive-keyring.pgp");
        let line = |uri: &str, suite: &str| {
            format!("deb [signed-by={}] {uri} {suite} main\n", keyring.display())
        };
        let sources = [
            line(&archive, codename),
            line(&archive, &format!("{codename}-updates")),
            line(&security, &format!("{codename}-security")),
        ];
        fs::write(root.path().join("etc/sources.list"), sources.concat()).unwrap();
        let apt = Apt { root };
        for pause in [2, 5, 15] {
            let output = apt.try_run(&["update", "-o", "APT::Update::Error-Mode=any"]);
            if output.status.success() {
                return apt;
            }
            eprintln!("apt-get update: {}", String::from_utf8_lossy(&output.stderr));
            thread::sleep(Duration::from_secs(pause));
        }
        panic!("apt cannot fetch the indexes of {codename}");
    }

    fn try_run(&self, arguments: &[&str]) -> Output {
        let at = |path: &str| self.root.path().join(path).display().to_string();
        let options = [
            format!("Dir::Etc={}", at("etc")),
            format!("Dir::State={}", at("state")),
            format!("Dir::State::status={}", at("status")),
            format!("Dir::Cache={}", at("cache")),
            // container images configure these away; a simulation then takes seconds
            "Dir::Cache::pkgcache=pkgcache.bin".to_owned(),
            "Dir::Cache::srcpkgcache=srcpkgcache.bin".to_owned(),
            format!("APT::Architecture={ARCH}"),
            format!("APT::Architectures={ARCH}"),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::GzipIndexes=false".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
        ];
        let mut command = Command::new("apt-get");
        command.env("LC_ALL", "C.UTF-8").arg("-q=2");
        for option in options {
            command.args(["-o", &option]);
        }
        command.args(arguments).output().unwrap()
    }

    fn run(&self, arguments: &[&str]) -> String {
        let output = self.try_run(arguments);
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {complaint}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What apt would install: `Inst NAME (VERSION …)`.
    fn simulate(&self, case: &Set) -> Chosen {
        let recommends =
            if case.recommends { "--install-recommends" } else { "--no-install-recommends" };
        let mut arguments = vec!["--simulate", recommends, "install", BASE];
        arguments.extend(case.packages.split_whitespace());
        let text = self.run(&arguments);
        let parse = |line: &str| {
            let (name, rest) = line.strip_prefix("Inst ")?.split_once(" (")?;
            Some((name.to_owned(), rest.split(' ').next()?.to_owned()))
        };
        text.lines().filter_map(parse).collect()
    }

    /// The indexes that apt downloaded; what it verified, we verify too.
    fn universe(&self) -> Universe {
        let format = "$(FILENAME)\t$(RELEASE)";
        let targets = self.run(&["indextargets", "--format", format, "Created-By: Packages"]);
        let keyring = Keyring::debian().unwrap();
        let member = |line: &str| {
            let (file, suite) = line.split_once('\t').unwrap();
            let (stem, _) = file.split_once("_main_binary-").unwrap();
            let signed = fs::read(format!("{stem}_InRelease")).unwrap();
            let release = Release::read(&signed, &keyring, suite, Timestamp::now(), None).unwrap();
            let text = fs::read(file).unwrap();
            let listed = release.find_packages("main", ARCH).unwrap();
            assert_eq!(Some(Digest::of(&text)), listed.plain.map(|(_, digest)| digest), "{file}");
            let index = Index::parse(text).unwrap();
            let (archive, suite) = (release.label.clone(), suite.to_owned());
            Member { index, archive, suite, priority: release.priority() }
        };
        Universe::new(targets.lines().map(member).collect(), ARCH)
    }
}
