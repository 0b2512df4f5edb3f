//! Debian's own packages, by the hundreds: every set settles, an image is what mmdebstrap makes, and
//! three layers hold what one holds.
//!
//! All of it is hundreds of megabytes a set and takes the better part of an hour: `tests/run --full`.
//! Otherwise a few sets stand for all, and the test says which.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::support::apt::mmdebstrap;
use crate::support::project::{Project, root};
use crate::support::sets::{Set, find, sets};
use crate::support::survey::Survey;
use crate::support::{is_full, tool};

/// Which sets to build of a release.
fn chosen(codename: &str, few: &[&str]) -> Vec<Set> {
    let quick = std::env::var_os("SBX_TEST_QUICK").is_some_and(|value| !value.is_empty());
    if quick {
        eprintln!("none built: `tests/run --quick` leaves Debian's own archive alone");
        return Vec::new();
    }
    if is_full() {
        return sets(codename);
    }
    eprintln!("of {codename} only {few:?}: `tests/run --full` builds all");
    few.iter().map(|name| find(codename, name)).collect()
}

fn quoted(packages: &str) -> String {
    packages.split_whitespace().map(|name| format!(" \"{name}\"")).collect()
}

/// A project of one debian layer for each of `layers`, the later on top of the earlier.
fn project(codename: &str, recommends: bool, layers: &[String]) -> Project {
    let mut text = String::new();
    for (at, packages) in layers.iter().enumerate() {
        let names = quoted(packages);
        text += &match at {
            0 => format!(
                "layer \"l0\" {{ debian \"{codename}\" {{ recommends #{recommends}; packages{names}; }}; }}\n"
            ),
            _ => format!(
                "layer \"l{at}\" needs=\"l{}\" {{ debian {{ recommends #{recommends}; packages{names}; }}; }}\n",
                at - 1
            ),
        };
    }
    text += &format!("sandbox \"s\" {{ layers \"l{}\"; }}\n", layers.len() - 1);
    Project::new().file("sandboxes.kdl", &text)
}

/// dpkg's database of the finished image, put together from its layers' trees.
fn database(project: &Project) -> tempfile::TempDir {
    let answer = project.sbx(&["build", "s", "--json"]).success().stdout;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let trees = project.cache().join("trees");
    let maps: Vec<_> = fs::read_dir(&trees).unwrap().map(|entry| entry.unwrap().path()).collect();
    let whole = tempfile::tempdir().unwrap();
    for layer in answer["layers"].as_array().unwrap() {
        let digest = layer["diff_id"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let tree = maps.iter().map(|map| map.join(&digest[..32])).find(|tree| tree.is_dir());
        let admin = tree.unwrap().join("var/lib/dpkg/.");
        if admin.is_dir() {
            tool("cp", &["-a", admin.to_str().unwrap(), whole.path().to_str().unwrap()]);
        }
    }
    whole
}

/// What dpkg has to say about a database, and packages that are in any state but installed.
fn complaints(database: &Path) -> String {
    let audit = tool("dpkg", &[&format!("--admindir={}", database.display()), "--audit"]);
    let status = fs::read_to_string(database.join("status")).unwrap();
    assert!(status.matches("\nStatus: ").count() > 60, "there is a whole system");
    let odd = |line: &&str| {
        line.starts_with("Triggers-")
            || line.strip_prefix("Status: ").is_some_and(|state| state != "install ok installed")
    };
    audit + &status.lines().filter(odd).collect::<Vec<_>>().join("\n")
}

fn settle_all(codename: &str, few: &[&str]) {
    let mut faults = Vec::new();
    for set in chosen(codename, few) {
        let project = project(codename, set.recommends, &[set.packages.to_owned()]);
        let outcome = project.sbx(&["build", "s"]);
        if outcome.code != Some(0) {
            faults.push(format!("{codename} {}:\n{}", set.name, outcome.stderr));
            continue;
        }
        let found = complaints(database(&project).path());
        if !found.is_empty() {
            faults.push(format!("{codename} {}: {found}", set.name));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn sets_of_trixie_settle() {
    settle_all("trixie", &["web server"]);
}

#[test]
fn sets_of_bookworm_settle() {
    settle_all("bookworm", &["database server"]);
}

/// Left behind by running apt and dpkg, and by the moment they ran (see `docs/architecture.md`).
const TRACES: [&str; 20] = [
    "/dev",
    "/etc/group-",
    "/etc/gshadow-",
    "/etc/hostname",
    "/etc/machine-id",
    "/etc/passwd-",
    "/etc/resolv.conf",
    "/etc/shadow-",
    "/etc/subgid-",
    "/etc/subuid-",
    "/run",
    "/var/cache/apt",
    "/var/cache/debconf/config.dat-old",
    "/var/cache/debconf/templates.dat-old",
    "/var/cache/ldconfig",
    "/var/lib/apt",
    "/var/lib/dpkg/diversions-old",
    "/var/lib/dpkg/status-old",
    "/var/lib/dbus/machine-id",
    "/var/log",
];

/// Where the tools mean different things: apt's sources, and files that mmdebstrap makes itself.
const MEANT: [&str; 6] = [
    "/etc/apt/apt.conf.d/99mmdebstrap",
    "/etc/apt/sources.list",
    "/etc/apt/sources.list.d/debian.sources",
    "/etc/fstab",
    "/var/lib/dpkg/arch",
    "/var/lib/dpkg/statoverride",
];

/// What `root` holds; ids that adduser gave out by name, and lists without an order in order.
fn survey(root: &Path) -> Survey {
    for (path, lines) in [
        ("etc/shells", 1),
        ("var/lib/dpkg/diversions", 3),
        ("var/lib/dpkg/triggers/File", 1),
        ("var/lib/ucf/hashfile", 1),
        ("var/lib/ucf/registry", 1),
    ] {
        edit(root, path, |text| sorted(text, lines));
    }
    forget_font_times(root);
    let names = Names::read(root);
    let survey = Survey::of(root).named(&names.users, &names.groups);
    for path in ["etc/passwd", "etc/group", "etc/shadow", "etc/gshadow"] {
        edit(root, path, Names::without_ids);
    }
    let accounts = ["/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"];
    let edited = Survey::of(&root.join("etc")).within("/etc").only(&accounts);
    // what the files were before each call, in the order of the calls
    let older: Vec<String> = (0..10)
        .flat_map(|n| ["hashfile", "registry"].map(|name| format!("/var/lib/ucf/{name}.{n}")))
        .collect();
    let older: Vec<&str> = older.iter().map(String::as_str).collect();
    survey.without(&older).without(&TRACES).without(&MEANT).without(&accounts).with(edited)
}

/// fontconfig's cache of a directory holds the time of the directory, at 48 of `struct _FcCache`. Under
/// `SOURCE_DATE_EPOCH` it removes those of directories that were made since: the empty one that
/// fontconfig-config makes, whose cache says nothing.
fn forget_font_times(root: &Path) {
    let Ok(caches) = fs::read_dir(root.join("var/cache/fontconfig")) else { return };
    for cache in caches.map(|entry| entry.unwrap().path()) {
        let mut bytes = fs::read(&cache).unwrap();
        if bytes.windows(22).any(|dir| dir == b"/usr/local/share/fonts") {
            fs::remove_file(&cache).unwrap();
        } else if bytes.len() > 64 && cache.extension().is_some_and(|name| name == "cache-9") {
            bytes[48..64].fill(0);
            fs::write(&cache, bytes).unwrap();
        }
    }
}

fn edit(root: &Path, path: &str, change: impl FnOnce(&str) -> String) {
    let path = root.join(path);
    if let Ok(text) = fs::read_to_string(&path) {
        fs::write(&path, change(&text)).unwrap();
    }
}

/// Sorts records of so many lines.
fn sorted(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    let mut records: Vec<&[&str]> = all.chunks(lines).collect();
    records.sort();
    records.concat().join("\n") + "\n"
}

/// Names of ids: adduser gives them out in the order in which packages are configured.
struct Names {
    users: BTreeMap<u32, String>,
    groups: BTreeMap<u32, String>,
}

impl Names {
    fn read(root: &Path) -> Self {
        let of = |file: &str| {
            let text = fs::read_to_string(root.join(file)).unwrap();
            let entry = |line: &str| {
                let fields: Vec<&str> = line.split(':').collect();
                (fields[2].parse().unwrap(), fields[0].to_owned())
            };
            text.lines().map(entry).collect()
        };
        Names { users: of("etc/passwd"), groups: of("etc/group") }
    }

    /// The lines in order, without ids and without the day of the last change of a password.
    fn without_ids(text: &str) -> String {
        let line = |line: &str| {
            let mut fields: Vec<&str> = line.split(':').collect();
            let ids = if fields.len() == 7 { 2..4 } else { 2..3 };
            fields[ids].fill("");
            let mut members: Vec<&str> = fields.last().unwrap().split(',').collect();
            members.sort_unstable();
            let members = members.join(",");
            *fields.last_mut().unwrap() = &members;
            fields.join(":") + "\n"
        };
        let mut lines: Vec<String> = text.lines().map(line).collect();
        lines.sort();
        lines.concat()
    }
}

/// Sets whose file systems are compared.
fn compared() -> Vec<Set> {
    let names = ["compilers", "web server", "agent sandbox"];
    let mut sets = chosen("trixie", &names[..1]);
    sets.retain(|set| names.contains(&set.name));
    sets
}

#[test]
fn an_image_is_what_mmdebstrap_makes_of_the_same_packages_and_three_layers_hold_the_same() {
    for set in compared() {
        let other = tempfile::tempdir().unwrap();
        let theirs = other.path().join("root");
        mmdebstrap("trixie", set.packages, set.recommends, &theirs);
        let theirs = survey(&theirs);
        drop(other);
        let mut packages: Vec<&str> = set.packages.split_whitespace().collect();
        if set.name == "agent sandbox" {
            // the special first: a layer that knows less would choose others for what they provide
            packages.reverse();
        }
        let thirds: Vec<String> =
            packages.chunks(packages.len().div_ceil(3)).map(|third| third.join(" ")).collect();
        let whole = [set.packages.to_owned()];
        let [one, three] = [&whole[..], &thirds].map(|layers| {
            let project = project("trixie", set.recommends, layers);
            project.build();
            let image = project.unpack();
            survey(&root(&image))
        });
        for (other, whose) in [(theirs, "theirs"), (three, "three")] {
            let found = one.differences(&other);
            assert!(found.is_empty(), "{}: one | {whose}\n{}", set.name, found.join("\n"));
        }
    }
}
