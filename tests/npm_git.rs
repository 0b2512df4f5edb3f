//! Packages that a lock of npm's takes from git: what is packed of a commit is what the pinned npm packs
//! of it, out of repositories that a daemon of the tests' own serves.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::support::git::{Daemon, Repository};
use crate::support::npm::npm;
use crate::support::project::{Project, root};
use crate::support::registry::{Package, Registry};
use crate::support::survey::Survey;
use crate::support::tool;

/// Repositories below one directory, a registry, and a project.
struct World {
    home: tempfile::TempDir,
    daemon: Daemon,
    registry: Registry,
    project: Project,
}

impl World {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let daemon = Daemon::serve(home.path());
        let left = Package::new("left", "1.0.0").bin("left", "cli.js").file("cli.js", "x");
        let registry = Registry::of([left]);
        let text =
            "layer \"l\" { files \"app\" into=\"/app\"; npm; }\nsandbox \"s\" { layers \"l\"; }\n";
        let project =
            Project::new().file("sandboxes.kdl", text).var("SBX_MIRROR_NPM", &registry.url());
        World { home, daemon, registry, project }
    }

    /// Commits files to a repository of that name; answers the commit.
    fn commit(&self, name: &str, manifest: &Value, files: &[(&str, &str)]) -> String {
        let repository = Repository::new();
        let text = serde_json::to_string_pretty(manifest).unwrap();
        repository.commit(&[&[("package.json", text.as_str())], files].concat());
        std::os::unix::fs::symlink("package.json", repository.path().join("link.js")).unwrap();
        if let Some((program, _)) = files.iter().find(|(path, _)| path.ends_with(".sh")) {
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(repository.path().join(program), mode).unwrap();
        }
        let commit = repository.commit(&[]);
        let into = self.home.path().join(name);
        drop(fs::remove_dir_all(&into));
        let from = repository.path().to_str().unwrap();
        tool("cp", &["-a", from, into.to_str().unwrap()]);
        commit
    }

    /// Writes the project's `package.json` and has npm make its lock.
    fn lock(&self, dependencies: Value) {
        let manifest = json!({"name": "app", "version": "1.0.0", "dependencies": dependencies});
        self.project.write("app/package.json", &manifest.to_string());
        self.npm(&self.project.dir.path().join("app"), &["install", "--package-lock-only"]);
    }

    fn npm(&self, dir: &Path, words: &[&str]) {
        let mut command = npm();
        command.args(words).args(["--ignore-scripts", "--no-audit", "--no-fund"]);
        command.env("npm_config_registry", self.registry.url()).env("HOME", self.home.path());
        let output = command.current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn by_npm(&self) -> Survey {
        let copy = self.home.path().join("copy");
        let app = self.project.dir.path().join("app");
        tool("cp", &["-a", app.to_str().unwrap(), copy.to_str().unwrap()]);
        self.npm(&copy, &["ci"]);
        Survey::of(&copy).without(&["/node_modules/.package-lock.json"])
    }

    fn by_sbx(&self) -> Survey {
        self.project.build();
        let image = self.project.unpack();
        Survey::of(&root(&image).join("app"))
    }

    fn url(&self, name: &str) -> String {
        self.daemon.url(name)
    }

    /// A lock with one package, as npm would have made it.
    fn write_lock(&self, name: &str, resolved: &str) {
        let manifest = json!({"name": "app", "version": "1.0.0", "dependencies": {name: resolved}});
        let place = format!("node_modules/{name}");
        let lock = json!({"name": "app", "version": "1.0.0", "lockfileVersion": 3, "packages": {
            "": manifest, place: {"version": "2.0.0", "resolved": resolved}}});
        self.project.write("app/package.json", &manifest.to_string());
        let text = serde_json::to_string_pretty(&lock).unwrap();
        self.project.write("app/package-lock.json", &text);
    }

    /// The line of a package in the project's lock.
    fn pin(&self, name: &str) -> String {
        let lock = self.project.read("sbx.lock");
        let own = |line: &&str| line.starts_with("npm ") && line.split(' ').nth(2) == Some(name);
        lock.lines().find(own).unwrap().to_owned()
    }
}

/// Files that every rule of packing has an opinion on.
const ODD: [(&str, &str); 34] = [
    ("README.md", "r"),
    ("readme", "r"),
    ("docs/README.md", "r"),
    ("LICENCE.txt", "l"),
    ("copying~", "c"),
    (".gitignore", "*.log\n/build/\n!keep.log\n# words\n"),
    (".npmrc", "x=y\n"),
    (".gitattributes", "hidden export-ignore\n"),
    ("hidden", "h"),
    ("package-lock.json", "{}"),
    ("sub/package-lock.json", "{}"),
    ("yarn.lock", ""),
    ("index.js", "module.exports = 1\n"),
    ("cli.js", "#!/usr/bin/env node\r\nconsole.log(1)\r\n"),
    ("tool.sh", "#!/bin/sh\n"),
    ("lib/a.js", "a"),
    ("lib/a.ts", "a"),
    ("lib/deep/a.js", "a"),
    ("lib/deep/b.spec.js", "b"),
    ("lib/.npmignore", "*.ts\n"),
    ("lib/.gitignore", "*.js\n"),
    ("dist/x.js", "x"),
    ("dist/x.js.orig", "x"),
    ("dist/._x", "x"),
    ("dist/sub/.hidden.js", "x"),
    ("dist/sub/no.js", "x"),
    ("one/two/three.txt", "3"),
    ("one/two/four.txt", "4"),
    ("one/three.txt", "5"),
    ("test/t.js", "t"),
    ("test/fixtures/f{1}.json", "{}"),
    ("odd*name.js", "o"),
    ("Src/Upper.js", "u"),
    (".github/workflows/x.yml", "y"),
];

#[test]
fn what_is_packed_of_a_commit_is_what_npm_packs() {
    let world = World::new();
    let sub =
        world.commit("inner", &json!({"name": "inner", "version": "1.0.0"}), &[("i.js", "i")]);
    assert_eq!(sub.len(), 40);
    world.commit(
        "listed",
        &json!({"name": "listed", "version": "2.0.0", "bin": "cli.js", "main": "lib/a",
            "browser": "./hidden", "dependencies": {"left": "^1.0.0"},
            "files": ["dist/", "./lib/*.js", "one/two/three.txt", "!dist/sub/no.js", "src/**", "link.js",
                "missing", "docs/{a,README}.md"]}),
        &ODD,
    );
    let ignored =
        [&ODD[..], &[(".npmignore", "test\n*.ts\n/one/two/*\n!/one/two/four.txt\nSRC\n")]];
    world.commit(
        "ignored",
        &json!({"name": "@scope/ignored", "version": "2.0.0-rc.1", "bin": {"a": "./tool.sh", "b": "cli.js"},
            "main": "test/t.js"}),
        &ignored.concat(),
    );
    // npm installs what this one is developed with, and packs what is there anyway
    world.commit(
        "plain",
        &json!({"name": "plain", "version": "0.0.1", "scripts": {"build": "exit 1"},
            "devDependencies": {"left": "1.0.0"}, "main": "./build/m.js"}),
        &ODD,
    );
    let listed = world.url("listed");
    let outer = json!({"name": "outer", "version": "1.0.0", "files": ["*.js", "lib"],
        "dependencies": {"listed": listed, "left": "*"}});
    world.commit("outer", &outer, &ODD);
    let ignored = format!("{}#main", world.url("ignored"));
    world.lock(json!({"outer": world.url("outer"), "plain": world.url("plain"),
        "@scope/ignored": ignored, "renamed": world.url("inner")}));
    let (ours, theirs) = (world.by_sbx(), world.by_npm());
    assert!(theirs.len() > 60, "{} paths", theirs.len());
    let differences = ours.differences(&theirs);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    // one repository, one tree, wherever it is laid
    let pin = world.pin("listed");
    assert!(pin.contains(&format!(" git+{listed}#")) && pin.contains(" sha256:"), "{pin}");
}

#[test]
fn submodules_come_along() {
    let world = World::new();
    world.commit(
        "inner",
        &json!({"name": "inner"}),
        &[("i.js", "i"), (".npmignore", "*.md\n"), ("i.md", "")],
    );
    world.commit("with", &json!({"name": "with", "version": "2.0.0"}), &[("a.js", "a")]);
    let with = world.home.path().join("with");
    let mut command = crate::support::git::git(&with);
    let inner = world.home.path().join("inner");
    command.args(["submodule", "-q", "add", inner.to_str().unwrap(), "vendor/inner"]);
    assert!(command.status().unwrap().success());
    let list = fs::read_to_string(with.join(".gitmodules")).unwrap();
    fs::write(with.join(".gitmodules"), list.replace(inner.to_str().unwrap(), "../inner")).unwrap();
    let mut command = crate::support::git::git(&with);
    assert!(command.args(["commit", "-q", "-a", "-m", "words"]).status().unwrap().success());
    world.lock(json!({"with": world.url("with")}));
    let (ours, theirs) = (world.by_sbx(), world.by_npm());
    let differences = ours.differences(&theirs);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    let image = world.project.unpack();
    let laid = root(&image).join("app/node_modules/with");
    assert!(laid.join("vendor/inner/i.js").exists() && !laid.join("vendor/inner/i.md").exists());
}

#[test]
fn a_host_that_npm_knows_is_asked_by_https_and_then_by_ssh() {
    let world = World::new();
    let commit = world.commit("r.git", &json!({"name": "r", "version": "2.0.0"}), &[("a.js", "a")]);
    world.write_lock("r", &format!("git+ssh://git@github.com/o/r.git#{commit}"));
    let key = format!("url.{}.insteadOf", world.daemon.url(""));
    let nowhere = "url.file:///nonexistent/.insteadOf";
    let (https, ssh) = ("https://github.com/o/", "ssh://git@github.com/o/");
    let reached = |project: Project, pairs: &[(&str, &str)]| {
        let count = pairs.len().to_string();
        let project = project.var("GIT_CONFIG_COUNT", &count);
        pairs.iter().enumerate().fold(project, |project, (at, (key, value))| {
            let project = project.var(&format!("GIT_CONFIG_KEY_{at}"), key);
            project.var(&format!("GIT_CONFIG_VALUE_{at}"), value)
        })
    };
    let World { project, .. } = world;
    let project = reached(project, &[(&key, ssh), (nowhere, https)]);
    project.build();
    let lock = project.read("sbx.lock");
    assert!(lock.contains(&format!(" git+https://github.com/o/r.git#{commit}\n")), "{lock}");
    fs::remove_dir_all(project.cache()).unwrap();
    let project = reached(project, &[(&key, https), (nowhere, ssh)]);
    project.sbx(&["fetch", "s", "--locked"]).success();
    let project = reached(project, &[(nowhere, https), (nowhere, ssh)]);
    fs::remove_dir_all(project.cache()).unwrap();
    project
        .sbx(&["fetch", "s"])
        .fails(3, &["npm package `r 2.0.0`", "https://github.com/o/r.git: `git"]);
}

#[test]
fn a_commit_that_is_gone_and_a_tree_that_changed_are_errors() {
    let world = World::new();
    let commit = world.commit("r", &json!({"name": "r", "version": "2.0.0"}), &[("a.js", "a")]);
    let url = world.url("r");
    world.write_lock("r", &format!("git+{url}#{commit}"));
    let project = &world.project;
    project.sbx(&["lock"]).success();
    let lock = project.read("sbx.lock");
    let digest = lock.split_once("sha256:").unwrap().1.split(' ').next().unwrap().to_owned();
    project.write("sbx.lock", &lock.replace(&digest, &"0".repeat(64)));
    let changed = ["commit", &commit, "gives another tree than was locked: expected sha256:000"];
    project.sbx(&["fetch", "s"]).fails(3, &changed);
    // what is in the store is not asked for again
    project.write("sbx.lock", &lock);
    let other = world.commit("r", &json!({"name": "r", "version": "2.0.0"}), &[("b.js", "b")]);
    project.sbx(&["build", "s"]).success();
    fs::remove_dir_all(project.cache()).unwrap();
    let gone = format!("does not have commit {commit} any more: `main` is at {other}");
    project.sbx(&["fetch", "s"]).fails(3, &["npm package `r 2.0.0`", &gone]);
    project.sbx(&["lock", "--update"]).fails(
        1,
        &[
            "`app/package-lock.json`: `node_modules/r` comes from git",
            &gone,
            "npm install --package-lock-only",
        ],
    );
}

#[test]
fn what_would_be_built_is_refused_unless_it_needs_no_building() {
    let world = World::new();
    let manifest = json!({"name": "r", "version": "2.0.0", "scripts": {"prepare": "tsc -p ."}});
    let commit = world.commit("r", &manifest, &[("a.js", "a")]);
    let resolved = format!("git+{}#{commit}", world.url("r"));
    world.write_lock("r", &resolved);
    let project = &world.project;
    project.sbx(&["lock"]).fails(
        1,
        &["`node_modules/r` comes from git", "run its prepare (`tsc -p .`)", "`unprepared \"r\"`"],
    );
    let text = project.read("sandboxes.kdl");
    project.write("sandboxes.kdl", &text.replace("npm;", "npm unprepared=\"q\";"));
    project.sbx(&["lock"]).fails(1, &["`unprepared` names `q`, which is no package from git"]);
    project.write("sandboxes.kdl", &text.replace("npm;", "npm { unprepared \"r\"; };"));
    project.build();
    let image = project.unpack();
    assert!(root(&image).join("app/node_modules/r/a.js").exists());
    project.write("sandboxes.kdl", &text);
    for (change, said) in [
        (json!({"workspaces": ["a"]}), "comes from git and has workspaces"),
        (json!({"bundleDependencies": ["b"]}), "bundles its dependencies"),
        (json!({"files": ["+(a|b)"]}), "the pattern `!+(a|b)` has a list in parentheses"),
    ] {
        let mut manifest = json!({"name": "r", "version": "2.0.0"});
        manifest.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let commit = world.commit("r", &manifest, &[]);
        world.write_lock("r", &format!("git+{}#{commit}", world.url("r")));
        project.sbx(&["lock"]).fails(1, &["`app/package-lock.json`: ", said]);
    }
    let secret = format!("git+https://u:word@h.example.org/r.git#{commit}");
    world.write_lock("r", &secret);
    let outcome = project.sbx(&["lock"]).fails(1, &["line ", "has a credential in its address"]);
    assert!(!outcome.stderr.contains("word@"), "{}", outcome.stderr);
    world.write_lock("r", &format!("git+{}#main", world.url("r")));
    project.sbx(&["lock"]).fails(1, &["is not at a commit of 40 hex digits"]);
}

#[test]
fn vendored_and_reported_with_its_commit() {
    let world = World::new();
    let manifest = json!({"name": "r", "version": "2.0.0", "license": "MIT"});
    let commit = world.commit("r", &manifest, &[("a.js", "a")]);
    let url = world.url("r");
    world.write_lock("r", &format!("git+{url}#{commit}"));
    let project = &world.project;
    let image = project.build();
    let sbom = project.sbx(&["sbom", "s"]).success().stdout;
    let sbom: Value = serde_json::from_str(&sbom).unwrap();
    let packages = sbom["packages"].as_array().unwrap();
    let own = packages.iter().find(|one| one["name"] == "r").unwrap();
    assert_eq!(own["licenseDeclared"], "MIT");
    let purl = own["externalRefs"][0]["referenceLocator"].as_str().unwrap();
    assert!(purl.starts_with("pkg:npm/r@2.0.0?vcs_url=git%2Bgit"), "{purl}");
    assert!(purl.contains(&commit), "{purl}");
    let dir = world.home.path().join("vendor");
    project.sbx(&["vendor", dir.to_str().unwrap()]).success();
    // another machine, which reaches neither repository nor registry
    fs::remove_dir_all(world.home.path().join("r")).unwrap();
    fs::remove_dir_all(project.cache()).unwrap();
    let build = ["build", "s", "--locked", "--offline"];
    project.sbx(&build).fails(3, &["npm package `r 2.0.0`", "`sbx vendor`"]);
    let mirrored = [&build[..], &["--mirror", dir.to_str().unwrap()]].concat();
    assert_eq!(project.sbx(&mirrored).success().answer(), image);
}
