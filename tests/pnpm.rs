//! Projects of pnpm's: what is pinned, what runs, and what a lock that cannot be installed is told.

use std::fs;
use std::path::PathBuf;

use crate::support::project::{Project, root};
use crate::support::registry::{Package, Registry};
use crate::support::trixie::{declared, patiently};

/// A lock of one package, with what is given for parts of it.
fn lock(version: &str, resolution: &str) -> String {
    format!(
        "lockfileVersion: '{version}'\n\nimporters:\n\n  .:\n    dependencies:\n      a:\n        specifier: ^1.0.0\n        version: 1.0.0\n\n\
         packages:\n\n  a@1.0.0:\n    resolution: {resolution}\n\nsnapshots:\n\n  a@1.0.0: {{}}\n"
    )
}

fn project(manifest: &str, lock: &str) -> Project {
    Project::new().file("app/package.json", manifest).file("app/pnpm-lock.yaml", lock).file(
        "sandboxes.kdl",
        "layer \"l\" { files \"app\" into=\"/app\"; npm; }\nsandbox \"s\" { layers \"l\"; }\n",
    )
}

const SOUND: &str = "{integrity: sha512-RJlIHRueQgwWitWgF8OdFYGZX328Ax5BCemNGlqHfplnRT9ESi8JkFlvaVYbS+UubVY6dpv87Fs2u5M29iNFVQ==}";
const ASKS: &str = r#"{"dependencies": {"a": "^1.0.0"}}"#;

#[test]
fn a_lock_that_cannot_be_installed_says_why_and_what_is_next() {
    let bring = "bring it up to date: `pnpm install --lockfile-only`";
    let fails = |manifest: &str, lock: &str, texts: &[&str]| {
        project(manifest, lock).sbx(&["lock"]).fails(1, texts);
    };
    let anew = "make it anew with pnpm 8 or later";
    fails(ASKS, "lockfileVersion: 5.4\n", &["`app/pnpm-lock.yaml`: it is of version 5.4", anew]);
    fails(ASKS, "settings: {}\n", &["it has no `lockfileVersion`", bring]);
    fails(ASKS, "lockfileVersion: '9.0'\n  x: [\n", &["it is damaged", bring]);
    let conflict = format!("<<<<<<< ours\n{}", lock("9.0", SOUND));
    fails(ASKS, &conflict, &["it has an unresolved merge conflict", bring]);
    let other = r#"{"dependencies": {"a": "^2.0.0"}}"#;
    let said = "`a`: package.json asks for `^2.0.0`, the lock was made for `^1.0.0`";
    fails(other, &lock("9.0", SOUND), &[said, bring]);
    fails("{}", &lock("9.0", SOUND), &["`a`: package.json asks for nothing of it", bring]);
    let git = "{tarball: https://codeload.github.com/x/a/tar.gz/0123}";
    fails(ASKS, &lock("9.0", git), &["`a@1.0.0` comes from git", "declare it there"]);
    fails(ASKS, &lock("9.0", "{}"), &["`a@1.0.0` has no `integrity`"]);
    fails(ASKS, &lock("9.0", SOUND), &["pnpm runs on Node", "`node \"22\"`"]);
    let peers = project(ASKS, &lock("9.0", SOUND));
    let text = peers.read("sandboxes.kdl").replace("npm;", "npm omit=\"peer\";");
    peers.write("sandboxes.kdl", &text);
    peers.sbx(&["lock"]).fails(1, &["pnpm cannot leave out `peer`"]);
}

/// Over the public Node and the pinned pnpm; packages of `@acme` are this registry's.
fn over_node(registry: &Registry, recipes: &str) -> Project {
    let node = "layer \"node\" needs=\"debian\" { node \"22\"; }\n";
    let layer = format!("layer \"l\" needs=\"node\" {{\n{recipes}\n}}\n");
    declared(&format!("{node}{layer}sandbox \"s\" {{ layers \"l\"; }}\n"))
        .var("npm_config_@acme:registry", &registry.url())
}

fn registry() -> Registry {
    Registry::of([
        Package::new("@acme/build", "1.0.0")
            .script(
                "postinstall",
                "echo \"$npm_package_name $npm_lifecycle_event\" >built; under >>built",
            )
            .script("preinstall", "pwd >where")
            .depends("@acme/under", "^1.0.0"),
        Package::new("@acme/under", "1.0.0")
            .bin("under", "under.js")
            .script("install", "exit 7")
            .file("under.js", "#!/usr/bin/env node\nconsole.log('under')\n"),
    ])
}

fn app(project: Project, registry: &Registry, version: &str, form: &str) -> Project {
    let built = registry.integrity("@acme/build", "1.0.0");
    let under = registry.integrity("@acme/under", "1.0.0");
    let elsewhere = registry.server.url("/elsewhere/under.tgz");
    registry
        .server
        .put("/elsewhere/under.tgz", registry.server.body("/@acme/under/-/under-1.0.0.tgz"));
    let importers = "importers:\n\n  .:\n    dependencies:\n      '@acme/build':\n        specifier: ^1.0.0\n        version: 1.0.0\n\n";
    let lock = match form {
        "6" => format!(
            "lockfileVersion: '6.0'\n\nsettings:\n  autoInstallPeers: true\n  excludeLinksFromLockfile: false\n\n\
             dependencies:\n  '@acme/build':\n    specifier: ^1.0.0\n    version: 1.0.0\n\npackages:\n\n\
             \x20 /@acme/build@1.0.0:\n    resolution: {{integrity: {built}}}\n    requiresBuild: true\n    dependencies:\n      '@acme/under': 1.0.0\n    dev: false\n\n\
             \x20 /@acme/under@1.0.0:\n    resolution: {{integrity: {under}, tarball: {elsewhere}}}\n    hasBin: true\n    requiresBuild: true\n    dev: false\n"
        ),
        _ => format!(
            "lockfileVersion: '9.0'\n\nsettings:\n  autoInstallPeers: true\n  excludeLinksFromLockfile: false\n\n{importers}packages:\n\n\
             \x20 '@acme/build@1.0.0':\n    resolution: {{integrity: {built}}}\n\n\
             \x20 '@acme/under@1.0.0':\n    resolution: {{integrity: {under}, tarball: {elsewhere}}}\n    hasBin: true\n\nsnapshots:\n\n\
             \x20 '@acme/build@1.0.0':\n    dependencies:\n      '@acme/under': 1.0.0\n\n  '@acme/under@1.0.0': {{}}\n"
        ),
    };
    let manifest = format!(
        r#"{{"name": "app", "packageManager": "pnpm@{version}", "scripts": {{"preinstall": "exit 9", "hello": "under"}}, "dependencies": {{"@acme/build": "^1.0.0"}}}}"#
    );
    project.file("app/package.json", &manifest).file("app/pnpm-lock.yaml", &lock)
}

fn built(project: &Project) -> (tempfile::TempDir, PathBuf) {
    patiently(|| project.sbx(&["build", "s"])).success();
    let dir = project.unpack();
    let root = root(&dir);
    (dir, root)
}

#[test]
fn scripts_run_where_they_are_named_and_nothing_of_the_machine_stays() {
    for (version, form) in [("8.15.9", "6"), ("9.15.9", "9"), ("10.34.8", "9")] {
        let registry = registry();
        let recipes = "files \"app\" into=\"/app\"; npm scripts=\"@acme/build\"";
        let project = app(over_node(&registry, recipes), &registry, version, form);
        let mut outcome = patiently(|| project.sbx(&["build", "s"])).success();
        if form == "6" {
            outcome = outcome.says("install scripts that do not run");
        }
        let image = outcome.answer().to_owned();
        let (_dir, root) = built(&project);
        let place = root.join("app/node_modules/.pnpm/@acme+build@1.0.0/node_modules/@acme/build");
        assert_eq!(
            fs::read_to_string(place.join("built")).unwrap(),
            "@acme/build postinstall\nunder\n"
        );
        let modules = fs::read_to_string(root.join("app/node_modules/.modules.yaml")).unwrap();
        assert!(!modules.contains("127.0.0.1") && modules.contains("01 Jan 2025"), "{modules}");
        let current = fs::read_to_string(root.join("app/node_modules/.pnpm/lock.yaml")).unwrap();
        assert!(current.contains("/elsewhere/under.tgz") && !current.contains("4873"), "{current}");
        assert!(!root.join("root/.local").exists() && !root.join("run/sbx").exists());
        assert!(!project.read("sbx.lock").contains("127.0.0.1"), "no line names a host");
        // again, from nothing but the lock
        let again = app(over_node(&registry, recipes), &registry, version, form);
        again.write("sbx.lock", &project.read("sbx.lock"));
        let outcome = again.run(&["build", "s", "--locked"]).clock("+400 days").outcome();
        assert_eq!(outcome.success().answer(), image);
    }
}

#[test]
fn files_that_no_layer_lays_are_lent() {
    let registry = registry();
    let project =
        app(over_node(&registry, "npm \"app\" at=\"/srv/app\""), &registry, "10.34.8", "9");
    let (_dir, root) = built(&project);
    let found: Vec<_> = fs::read_dir(root.join("srv/app")).unwrap().collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(root.join("srv/app/node_modules/@acme/build/package.json").exists());
}

#[test]
fn a_pnpm_that_does_not_read_the_lock_is_an_error() {
    let registry = registry();
    let project =
        app(over_node(&registry, "files \"app\" into=\"/app\"; npm"), &registry, "9.15.9", "6");
    patiently(|| project.sbx(&["lock"]))
        .fails(1, &["`packageManager` is pnpm 9.15.9, which does not read a lock of version 6"]);
}
