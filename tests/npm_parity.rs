//! Trees of well-known packages, installed by npm's clean installation and built by sbx out of the same
//! lock: the same paths, the same bytes, the same modes, the same links. The locks are made by npm, and
//! the tarballs come from the public registry.
//!
//! What differs on purpose: `node_modules/.package-lock.json` is npm's own memory of the lock, and is
//! left out; so are the empty directories (`@scope`, `node_modules`) that npm makes for packages which it
//! leaves out then. Files of the project itself get the modes that `files` gives.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::npm;
use crate::support::npm::{BEFORE, npm};
use crate::support::project::{Project, root};
use crate::support::survey::Survey;
use crate::support::tool;

/// A project with its lock, made by npm.
struct Set {
    project: Project,
}

impl Set {
    /// Of files by path.
    fn of(files: &[(&str, &str)]) -> Self {
        let project = Project::new();
        for (path, text) in files {
            project.write(&format!("app/{path}"), text);
        }
        let set = Set { project };
        set.npm(&set.app(), &["install", "--package-lock-only", "--before", BEFORE]);
        set
    }

    /// Of a directory with a lock.
    fn at(dir: &str) -> Self {
        let project = Project::new();
        tool("cp", &["-r", dir, project.dir.path().join("app").to_str().unwrap()]);
        Set { project }
    }

    fn app(&self) -> PathBuf {
        self.project.dir.path().join("app")
    }

    fn npm(&self, dir: &Path, words: &[&str]) {
        let mut command = npm();
        command.args(words).args(["--ignore-scripts", "--no-audit", "--no-fund"]);
        let output = command.current_dir(dir).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// What npm leaves of a copy.
    fn by_npm(&self, omit: &[&str]) -> Survey {
        let copy = self.project.dir.path().join("copy");
        tool("cp", &["-a", self.app().to_str().unwrap(), copy.to_str().unwrap()]);
        let omit: Vec<String> = omit.iter().map(|kind| format!("--omit={kind}")).collect();
        let words = omit.iter().map(String::as_str);
        self.npm(&copy, &["ci"].into_iter().chain(words).collect::<Vec<_>>());
        let survey = Survey::of(&copy);
        fs::remove_dir_all(copy).unwrap();
        survey
    }

    fn by_sbx(&self, omit: &[&str]) -> Survey {
        let kinds: String = omit.iter().map(|kind| format!(" \"{kind}\"")).collect();
        let omit = if kinds.is_empty() { String::new() } else { format!("omit{kinds};") };
        let text = format!(
            "layer \"l\" {{ files \"app\" into=\"/app\"; npm {{ {omit} }}; }}\n\
             sandbox \"s\" {{ layers \"l\"; }}\n"
        );
        self.project.write("sandboxes.kdl", &text);
        self.project.build();
        let unpacked = self.project.unpack();
        Survey::of(&root(&unpacked).join("app"))
    }

    #[track_caller]
    fn equal(&self, omit: &[&str], least: usize) {
        let own = ["/node_modules/.package-lock.json"];
        let rest = |name: &str| name.starts_with('@') || name == "node_modules";
        let theirs = self.by_npm(omit).without(&own).without_empty(rest);
        let ours = self.by_sbx(omit);
        assert!(theirs.len() > least, "{} paths", theirs.len());
        let differences = ours.differences(&theirs);
        assert!(differences.is_empty(), "{}", differences.join("\n"));
    }
}

#[test]
fn workspaces_with_commands_and_versions_of_their_own() {
    let set = Set::of(&[
        (
            "package.json",
            r#"{"name": "root", "version": "1.0.0", "private": true,
                "workspaces": ["packages/*", "!packages/none", "tools/*"],
                "dependencies": {"semver": "^7.0.0", "local": "file:local"},
                "devDependencies": {"rimraf": "^5.0.0"}}"#,
        ),
        (
            "local/package.json",
            r#"{"name": "local", "version": "0.0.1", "dependencies": {"minimist": "1.2.8"}}"#,
        ),
        (
            "packages/a/package.json",
            r#"{"name": "@root/a", "version": "1.0.0", "bin": "./cli.js",
                "dependencies": {"semver": "^5.0.0", "@root/b": "*"}}"#,
        ),
        ("packages/a/cli.js", "#!/usr/bin/env node\n"),
        (
            "packages/b/package.json",
            r#"{"name": "@root/b", "version": "2.0.0", "bin": {"b": "bin/b.js", "not-there": "lib/x.js"},
                "dependencies": {"mkdirp": "^0.5.0"}, "devDependencies": {"mkdirp": "^0.5.0", "uuid": "^8.0.0"}}"#,
        ),
        ("packages/b/bin/b.js", "#!/usr/bin/env node\n"),
        (
            "tools/c/package.json",
            r#"{"name": "c", "version": "1.0.0", "dependencies": {"uuid": "^9.0.0", "glob": "^8.0.0"}}"#,
        ),
    ]);
    // npm makes commands of workspaces executable, which are files of the project's own
    for path in ["app/packages/a/cli.js", "app/packages/b/bin/b.js"] {
        tool("chmod", &["755", set.project.dir.path().join(path).to_str().unwrap()]);
    }
    set.equal(&[], 300);
    set.equal(&["dev"], 100);
}

#[test]
fn native_add_ons_for_this_platform_only() {
    let set = Set::of(&[(
        "package.json",
        r#"{"name": "native", "version": "1.0.0", "dependencies": {
            "esbuild": "0.21.5", "sharp": "0.33.5", "better-sqlite3": "11.3.0", "@swc/core": "1.7.26",
            "chokidar": "3.6.0", "classic-level": "1.4.1", "node-pty": "1.0.0", "bcrypt": "5.1.1"},
            "optionalDependencies": {"fsevents": "1.2.13", "cpu-features": "0.0.10"}}"#,
    )]);
    set.equal(&[], 2000);
    set.equal(&["optional"], 1500);
}

#[test]
fn bundled_dependencies_and_their_commands() {
    let set = Set::of(&[(
        "package.json",
        r#"{"name": "bundled", "version": "1.0.0", "bundleDependencies": ["ms"], "dependencies": {
            "npm": "10.8.3", "ms": "2.1.3", "@tailwindcss/oxide": "4.1.13"}}"#,
    )]);
    set.equal(&[], 2000);
}

#[test]
fn aliases_peers_and_addresses_of_their_own() {
    let set = Set::of(&[(
        "package.json",
        r#"{"name": "odd", "version": "1.0.0", "dependencies": {
            "lodash4": "npm:lodash@4.17.21", "@me/chalk": "npm:chalk@4.1.2", "glob": "10.4.5",
            "react-dom": "18.3.1", "JSONStream": "1.3.5", "uglify-js": "2.8.29"},
            "devDependencies": {"typescript": "5.5.4", "eslint": "8.57.0", "eslint-plugin-react": "7.35.0",
                "@typescript-eslint/eslint-plugin": "7.18.0", "jest": "29.7.0", "mocha": "10.7.3"},
            "overrides": {"minimatch": "3.1.2", "glob": {"minimatch": "9.0.5"}}}"#,
    )]);
    set.equal(&[], 6000);
    set.equal(&["dev"], 500);
    set.equal(&["peer"], 6000);
    set.equal(&["dev", "optional", "peer"], 300);
}

#[test]
fn tarballs_of_the_project_and_locks_of_the_second_version() {
    let project = Project::new();
    let text = r#"{"name": "packed", "version": "3.0.0", "bin": {"packed": "run.js"}, "directories": {"bin": "bin"}}"#;
    project.write("packed/package.json", text);
    project.write("packed/run.js", "#!/usr/bin/env node\r\nconsole.log('packed');\r\n");
    project.write("packed/bin/other.js", "#!/usr/bin/env node\n");
    let set = Set { project };
    fs::create_dir_all(set.app().join("vendor")).unwrap();
    let packed = set.project.dir.path().join("packed");
    set.npm(&packed, &["pack", "--pack-destination", "../app/vendor"]);
    set.project.write(
        "app/package.json",
        r#"{"name": "app", "version": "1.0.0", "dependencies": {"packed": "file:vendor/packed-3.0.0.tgz",
            "express": "4.19.2"}}"#,
    );
    set.npm(
        &set.app(),
        &["install", "--package-lock-only", "--lockfile-version", "2", "--before", BEFORE],
    );
    let lock = fs::read_to_string(set.app().join("package-lock.json")).unwrap();
    assert!(lock.contains("\"lockfileVersion\": 2") && lock.contains("file:vendor/packed"));
    set.equal(&[], 300);
}

/// Where npm keeps what it fetched.
#[test]
fn the_npm_of_the_tests_is_the_pinned_one() {
    let mut command: Command = npm();
    let output = command.arg("--version").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), npm::VERSION);
}

/// A trial: `SBX_TRIAL_NPM=DIR cargo test --profile checks npm_parity -- --ignored`.
#[test]
#[ignore = "SBX_TRIAL_NPM names a project with a package-lock.json"]
fn somebody_elses_project() {
    let dir = std::env::var("SBX_TRIAL_NPM").expect("SBX_TRIAL_NPM names a project");
    Set::at(&dir).equal(&["dev"], 100);
}
