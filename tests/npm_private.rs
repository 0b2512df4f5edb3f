//! Registries of somebody's own: which packages come from where, who sees which credential, and that
//! nothing of it stays behind. The registries are the tests' own.

use std::fs;
use std::path::Path;

use crate::support::http;
use crate::support::project::{Project, root};
use crate::support::registry::{Package, Registry};
use crate::support::trixie::{over_python, patiently};
use serde_json::{Value, json};

const TOKEN: &str = "s3cr3t-t0ken";

/// One for everybody, and one for those who know the token.
fn registries() -> (Registry, Registry) {
    let public = Registry::of([
        Package::new("left", "1.0.0").file("index.js", "left"),
        Package::new("right", "1.0.0").file("index.js", "right").published("2025-01-01"),
        Package::new("right", "1.1.0").file("index.js", "younger").published("2026-01-01"),
    ]);
    let private = Registry::of([Package::new("@acme/tool", "2.0.0")
        .depends("left", "^1.0.0")
        .bin("tool", "tool.js")
        .file("tool.js", "#!/usr/bin/env node\n")]);
    (public, private)
}

fn settings(public: &Registry, private: &Registry, credential: &str) -> String {
    let host = private.url().trim_start_matches("http:").to_owned();
    format!(
        "registry={}\n@acme:registry={}\n{host}:_authToken={credential}\n",
        public.url(),
        private.url()
    )
}

/// What requests to a server have said of who asks.
fn credentials(registry: &Registry) -> Vec<Option<String>> {
    let requests = registry.server.requests();
    let mut said: Vec<_> =
        requests.iter().map(|one| one.header("authorization").map(str::to_owned)).collect();
    said.sort();
    said.dedup();
    said
}

/// Files below a directory that have a text in them.
fn holding(dir: &Path, text: &str, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            holding(&path, text, found);
        } else if kind.is_file() {
            let bytes = fs::read(&path).unwrap();
            if bytes.windows(text.len()).any(|window| window == text.as_bytes()) {
                found.push(path.display().to_string());
            }
        }
    }
}

#[track_caller]
fn kept_nowhere(project: &Project) {
    let mut found = Vec::new();
    holding(project.dir.path(), TOKEN, &mut found);
    assert!(found.is_empty(), "{found:?}");
    assert!(!project.read("sbx.lock").contains("127.0.0.1"), "no line names a host");
}

/// A lock that knows no addresses.
fn lock(public: &Registry, private: &Registry) -> String {
    let integrity = |registry: &Registry, name: &str, version: &str| -> Value {
        registry.integrity(name, version).into()
    };
    json!({
        "lockfileVersion": 3,
        "packages": {
            "": {"dependencies": {"@acme/tool": "2.0.0"}},
            "node_modules/@acme/tool": {
                "version": "2.0.0", "integrity": integrity(private, "@acme/tool", "2.0.0"),
                "dependencies": {"left": "^1.0.0"}, "bin": {"tool": "tool.js"},
            },
            "node_modules/left": {"version": "1.0.0", "integrity": integrity(public, "left", "1.0.0")},
        },
    })
    .to_string()
}

#[test]
fn a_credential_reaches_its_own_registry_and_stays_nowhere() {
    let (public, private) = registries();
    let project = Project::new()
        .var("MY_TOKEN", TOKEN)
        .file(".npmrc", &settings(&public, &private, "${MY_TOKEN}"))
        .file("app/package.json", r#"{"dependencies": {"@acme/tool": "2.0.0"}}"#)
        .file("app/package-lock.json", &lock(&public, &private))
        .file(
            "sandboxes.kdl",
            "layer \"l\" { npm \"app\" at=\"/app\"; }\nsandbox \"s\" { layers \"l\"; }\n",
        );
    project.build();
    let unpacked = project.unpack();
    assert!(root(&unpacked).join("app/node_modules/.bin/tool").exists());
    assert_eq!(credentials(&public), [None]);
    assert_eq!(credentials(&private), [Some(format!("Bearer {TOKEN}"))]);
    kept_nowhere(&project);
    // a variable that is not set sends nothing, and certainly not its name
    private.server.forget_requests();
    fs::remove_dir_all(project.cache()).unwrap();
    project.run(&["build", "s"]).env("MY_TOKEN", "").outcome();
    assert_eq!(credentials(&private), [None]);
}

#[test]
fn a_redirect_to_another_host_goes_without_the_credential() {
    let (public, private) = registries();
    let path = "/@acme/tool/-/tool-2.0.0.tgz";
    let elsewhere = http::Server::start();
    elsewhere.put("/moved.tgz", private.server.body(path));
    let to = elsewhere.url_at("localhost", "/moved.tgz").to_string();
    private.server.always(path, http::Fault::Redirect(to));
    let project = Project::new()
        .file(".npmrc", &settings(&public, &private, TOKEN))
        .file("app/package.json", r#"{"dependencies": {"@acme/tool": "2.0.0"}}"#)
        .file("app/package-lock.json", &lock(&public, &private))
        .file(
            "sandboxes.kdl",
            "layer \"l\" { npm \"app\" at=\"/app\"; }\nsandbox \"s\" { layers \"l\"; }\n",
        );
    project.build();
    let said = elsewhere.requests();
    assert!(!said.is_empty() && said.iter().all(|one| one.header("authorization").is_none()));
    assert_eq!(credentials(&private), [Some(format!("Bearer {TOKEN}"))]);
}

#[test]
fn a_bare_project_is_resolved_from_all_its_registries_and_stays_as_it_is() {
    let (mut public, private) = registries();
    let project = over_python(r#"npm "app" at="/app" as-of="2025-06-01""#)
        .var("MY_TOKEN", TOKEN)
        .file("app/.npmrc", &settings(&public, &private, "${MY_TOKEN}"))
        .file(
            "app/package.json",
            r#"{"workspaces": ["parts/*"], "dependencies": {"@acme/tool": "^2.0.0"}}"#,
        )
        .file(
            "app/parts/one/package.json",
            r#"{"name": "one", "version": "1.0.0", "dependencies": {"right": "*"}}"#,
        );
    let lock = patiently(|| project.sbx(&["lock"])).success();
    assert!(!lock.stderr.contains(TOKEN));
    let text = project.read("sbx.lock");
    for pinned in [" @acme/tool 2.0.0 ", " left 1.0.0 ", " right 1.0.0 ", "npm-link "] {
        assert!(text.contains(pinned), "{pinned}: {text}");
    }
    assert!(!text.contains("right 1.1.0"), "what is younger than the day is not seen");
    assert_eq!(credentials(&public), [None]);
    assert_eq!(credentials(&private), [Some(format!("Bearer {TOKEN}"))]);
    project.build();
    kept_nowhere(&project);
    // what is locked stays, until the declaration or a file of the project's changes
    public.add(Package::new("right", "1.0.1").published("2025-02-01"));
    project.sbx(&["lock"]).success();
    assert_eq!(project.read("sbx.lock"), text);
    project.write(
        "app/parts/one/package.json",
        r#"{"name": "one", "version": "1.0.0", "dependencies": {"right": "^1.0.1"}}"#,
    );
    patiently(|| project.sbx(&["lock"])).success();
    assert!(project.read("sbx.lock").contains(" right 1.0.1 "));
    project.write("app/package.json", r#"{"dependencies": {"right": "7.0.0"}}"#);
    project
        .sbx(&["lock"])
        .fails(1, &["there is no `right` 7.0.0 as of 2025-06-01: the registry has 1.0.1, 1.0.0"]);
}

#[test]
fn a_credential_in_a_file_that_would_be_laid_is_a_fault() {
    let project = Project::new()
        .file("app/.npmrc", "//registry.example.org/:_authToken=s3cr3t-t0ken\n")
        .file("app/package.json", "{}")
        .file(
            "sandboxes.kdl",
            "layer \"l\" { files \"app\" into=\"/app\"; }\nsandbox \"s\" { layers \"l\"; }\n",
        );
    let outcome = project.sbx(&["build", "s"]).fails(1, &["`app/.npmrc` has a credential in it"]);
    assert!(!outcome.stderr.contains(TOKEN), "{}", outcome.stderr);
    project.write("app/.npmrc", "//registry.example.org/:_authToken=${TOKEN}\n");
    project.build();
}
