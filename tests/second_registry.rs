//! A registry that others wrote beside Debian's: `container-registry`, a small one that says only at its root
//! what it wants to see, takes no blob in the request that ends a session, mounts nothing and knows neither
//! indexes nor referrers.

use std::fs;
use std::sync::Arc;

use container_registry::ContainerRegistry;
use container_registry::auth::{Anonymous, AuthProvider, Permissions};

use crate::support::http::{Fault, Server};
use crate::support::oci::check_schema;
use crate::support::project::Project;
use crate::support::tool;
use sbx::digest::Digest;
use serde_json::Value;

/// A running registry; its threads end with the tests.
struct Small {
    host: String,
    _runtime: tokio::runtime::Runtime,
    _storage: tempfile::TempDir,
}

impl Small {
    /// For whoever shows a name and a password.
    fn start() -> Self {
        Self::with(Arc::new(Permissions::ReadWrite))
    }

    /// For strangers as well, who may do that much.
    fn open(strangers: Permissions) -> Self {
        Self::with(Arc::new(Anonymous::new(strangers, Permissions::ReadWrite)))
    }

    fn with(auth: Arc<dyn AuthProvider>) -> Self {
        let storage = tempfile::tempdir().unwrap();
        let registry = ContainerRegistry::builder().storage(storage.path());
        let registry = registry.auth_provider(auth).build().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread();
        let runtime = { runtime }.worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
        let host = listener.local_addr().unwrap().to_string();
        runtime.spawn(async move { axum::serve(listener, registry.make_router()).await });
        Small { host, _runtime: runtime, _storage: storage }
    }

    /// Who one is there.
    fn log_in(&self, project: &Project) {
        let login = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6Z2VoZWlt\"}}}}}}", self.host);
        project.write(".docker/config.json", &login);
    }
}

fn project() -> Project {
    let project = Project::new().file(
        "sandboxes.kdl",
        "layer \"lib\" { files \"lib\" into=\"/srv/lib\"; }\n\
         layer \"app\" needs=\"lib\" { files \"app\" into=\"/srv/app\"; }\n\
         sandbox \"s\" { layers \"lib\" \"app\"; command \"/srv/app/run\"; }\n",
    );
    // more than goes up in one request, whatever it is compressed to
    let noise: Vec<u8> = (0..600_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes())
        .collect();
    fs::create_dir_all(project.dir.path().join("lib")).unwrap();
    fs::write(project.dir.path().join("lib/noise"), noise).unwrap();
    project.file("app/run", "#!/bin/sh\necho 1\n")
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn push(project: &Project, reference: &str) -> Value {
    json(&project.sbx(&["--json", "push", "s", reference]).success().stdout)
}

#[test]
fn an_image_goes_to_a_registry_of_the_plainest_kind_and_back() {
    let (project, registry) = (project(), Small::start());
    let image = project.build();
    let reference = format!("{}/team/s:1", registry.host);
    project.sbx(&["push", "s", &reference]).fails(3, &["does not let strangers", "docker login"]);
    registry.log_in(&project);
    let pushed = push(&project, &reference);
    assert_eq!(pushed["blobs"]["sent"], 3, "{pushed}");
    let again = push(&project, &reference);
    assert_eq!((&again["digest"], &again["blobs"]["sent"]), (&pushed["digest"], &0.into()));
    // a mount is not known there: what it answers is a session, and what it has is found before
    let other = push(&project, &format!("{}/other/s:1", registry.host));
    assert_eq!((&other["digest"], &other["blobs"]["sent"]), (&pushed["digest"], &0.into()));
    project.write("app/run", "#!/bin/sh\necho 2\n");
    project.build();
    let edited = push(&project, &format!("{}/team/s:2", registry.host));
    assert_eq!(edited["blobs"]["sent"], 2, "{edited}");

    let from = format!("docker://{reference}");
    let plain = ["--tls-verify=false", "--creds", "me:geheim"];
    let raw = tool("skopeo", &[&["inspect", "--raw"], &plain[..], &[&from]].concat());
    assert_eq!(Digest::of(raw.as_bytes()).to_string(), pushed["digest"].as_str().unwrap());
    check_schema("image-manifest", &raw);
    let home = tempfile::tempdir().unwrap();
    let to = format!("oci:{}:s", home.path().join("copy").display());
    let plain = ["--src-tls-verify=false", "--src-creds", "me:geheim"];
    tool("skopeo", &[&["--insecure-policy", "copy"], &plain[..], &[&from, &to]].concat());

    let puller = Project::new().file("sandboxes.kdl", "");
    registry.log_in(&puller);
    let pulled = json(&puller.sbx(&["--json", "pull", &reference]).success().stdout);
    assert_eq!((pulled["image"].as_str(), &pulled["fetched"]), (Some(&*image), &2.into()));
    // what refers to an image has no tag, and what has none is not taken there, which is said
    let attested = project.sbx(&["push", "s", &reference, "--attest"]);
    attested.fails(3, &["/manifests/sha256:", "answers 400"]);
}

#[test]
fn strangers_do_there_what_they_may() {
    let project = project();
    let image = project.build();
    let open = Small::open(Permissions::ReadWrite);
    let reference = format!("{}/team/s:1", open.host);
    let pushed = push(&project, &reference);
    assert_eq!(pushed["blobs"]["sent"], 3, "{pushed}");
    let puller = Project::new().file("sandboxes.kdl", "");
    let pulled = json(&puller.sbx(&["--json", "pull", &reference]).success().stdout);
    assert_eq!(pulled["image"].as_str(), Some(&*image));
    // what may be read is not written
    let readable = Small::open(Permissions::ReadOnly);
    let reference = format!("{}/team/s:1", readable.host);
    project.sbx(&["push", "s", &reference]).fails(3, &["does not let"]);
}

#[test]
fn sources_are_kept_there_as_well() {
    let bytes = b"bytes of a source";
    let files = Server::start();
    files.put("/a.tar", bytes.as_slice());
    let declared = format!(
        "layer \"a\" {{ archive \"{}\" digest=\"{}\" into=\"/a\"; }}\nsandbox \"s\" {{ layers \"a\"; }}\n",
        files.url("/a.tar"),
        Digest::of(bytes)
    );
    let project = Project::new().file("sandboxes.kdl", &declared);
    let registry = Small::start();
    registry.log_in(&project);
    let place = format!("oci://{}/team/sources", registry.host);
    let said = project.sbx(&["vendor", &place]).success().stdout;
    assert!(said.starts_with("vendored 1 files, 1 of them now"), "{said}");
    let said = project.sbx(&["vendor", &place]).success().stdout;
    assert!(said.starts_with("vendored 1 files, 0 of them now"), "{said}");
    // the blob is the first that is asked for, and refused without a word
    files.always("/a.tar", Fault::Status(410));
    let alone = Project::new().file("sandboxes.kdl", &declared);
    registry.log_in(&alone);
    alone.write("sbx.lock", &project.read("sbx.lock"));
    alone.sbx(&["fetch", "s", "--locked"]).fails(3, &["410"]);
    alone.sbx(&["fetch", "s", "--locked", "--mirror", &place]).success();
}
