//! An index of several platforms' images, each built here or pulled from where another machine pushed it.

use std::fs;
use std::path::Path;

use crate::support::deb::{Compression, Member};
use crate::support::depot::Depot;
use crate::support::oci::{Image, Registry, ZSTD, check_schema};
use crate::support::project::Project;
use crate::support::tool;
use sbx::digest::Digest;
use serde_json::{Value, json};

const ARM: &str = "linux/arm64";
const AMD: &str = "linux/amd64";

/// A machine that has the sandbox built for these platforms, with a file that says whose it is.
fn machine(platforms: &[&str]) -> Project {
    let project = Project::new().file(
        "sandboxes.kdl",
        "project \"p\" { platforms \"linux/amd64\" \"linux/arm64\"; }\n\
         layer \"app\" { files \"app\" into=\"/srv/app\"; }\n\
         sandbox \"s\" { layers \"app\"; command \"/srv/app/run\"; }\n",
    );
    project.write("app/run", &format!("#!/bin/sh\necho {}\n", platforms.join(" ")));
    for platform in platforms {
        project.sbx(&["build", "s", "--platform", platform]).success();
    }
    project
}

fn answer(project: &Project, arguments: &[&str]) -> Value {
    let said = project.sbx(&[&["--json"], arguments].concat()).success().stdout;
    serde_json::from_str(&said).unwrap()
}

fn push(project: &Project, reference: &str, more: &[&str]) -> Value {
    answer(project, &[&["push", "s", reference], more].concat())
}

fn pull(project: &Project, reference: &str, platform: &str) -> Value {
    answer(project, &["pull", reference, "--platform", platform])
}

fn raw(reference: &str) -> Value {
    let from = format!("docker://{reference}");
    let text = tool("skopeo", &["inspect", "--raw", "--tls-verify=false", &from]);
    check_schema("image-index", &text);
    serde_json::from_str(&text).unwrap()
}

/// Architecture and digest of each image of an index.
fn entries(index: &Value) -> Value {
    let entries = index["manifests"].as_array().unwrap().iter();
    entries.map(|entry| json!([entry["platform"]["architecture"], entry["digest"]])).collect()
}

#[test]
fn what_another_machine_pushed_is_one_half_of_the_index() {
    let registry = Registry::start();
    let host = &registry.host;
    let (theirs, ours) = (format!("{host}/team/arm:1"), format!("{host}/team/s:1"));
    let (arm, amd) = (machine(&[ARM]), machine(&[AMD]));
    let half = push(&arm, &theirs, &["--compression", "zstd"]);
    let pulled = pull(&amd, &theirs, ARM);
    let both = push(&amd, &ours, &["--with", &theirs]);
    let index = raw(&ours);
    let (own, other) = (&both["images"][0], &both["images"][1]);
    let expected = json!([["amd64", own["manifest"]], ["arm64", half["digest"]]]);
    assert_eq!(entries(&index), expected);
    assert_eq!((&other["image"], &other["pulled"]), (&pulled["image"], &theirs.as_str().into()));
    assert_eq!(own["pulled"], Value::Null);
    // what was pulled is there already, in another repository: it is mounted, and only our own travels
    assert_eq!((&both["blobs"]["mounted"], &both["blobs"]["sent"]), (&2.into(), &2.into()));
    let again = push(&amd, &ours, &["--with", &theirs]);
    assert_eq!((&again["digest"], &again["blobs"]["sent"]), (&both["digest"], &0.into()));

    // on a third machine, which built neither, the same index is made, also elsewhere
    let third = machine(&[]);
    for (platform, image) in [(AMD, own), (ARM, other)] {
        let pulled = pull(&third, &ours, platform);
        assert_eq!((&pulled["image"], &pulled["manifest"]), (&image["image"], &image["manifest"]));
    }
    let elsewhere = Registry::start();
    let there = format!("{}/s:1", elsewhere.host);
    let copied = push(&third, &there, &["--with", &ours]);
    assert_eq!((&copied["digest"], &copied["blobs"]["sent"]), (&both["digest"], &4.into()));
    assert_eq!(raw(&there), index);
    // and the machine of the other half makes it, too
    pull(&arm, &ours, AMD);
    let turned = push(&arm, &ours, &["--compression", "zstd", "--with", &format!("{AMD}={ours}")]);
    assert_eq!((&turned["digest"], &turned["blobs"]["sent"]), (&both["digest"], &0.into()));
}

#[test]
fn the_image_of_another_tool_goes_as_it_came() {
    let home = tempfile::tempdir().unwrap();
    let mut image = Image { architecture: "arm64", ..Image::new() }
        .layer(&[Member::dir("etc/"), Member::file("etc/a", "a\n")])
        .layer_as(&[Member::file("etc/b", "b\n")], Compression::Zstd, ZSTD);
    image.config = format!("{},\"variant\":\"v8\"", image.config);
    image.write(home.path(), "1");
    let registry = Registry::start();
    let host = &registry.host;
    let layout = format!("{}:1", home.path().display());
    let theirs = registry.push(&layout, "others/oci:1", &[]);
    let amd = machine(&[AMD]);
    let manifest = pull(&amd, &theirs, ARM)["manifest"].clone();
    assert_eq!(manifest, Digest::of(&image.manifest_bytes()).to_string());
    // where nothing of it is, all of it is sent
    let elsewhere = Registry::start();
    let ours = format!("{}/s:1", elsewhere.host);
    let both = push(&amd, &ours, &["--with", &theirs]);
    assert_eq!((&both["blobs"]["mounted"], &both["blobs"]["sent"]), (&0.into(), &5.into()));
    let index = raw(&ours);
    assert_eq!(index["manifests"][1]["digest"], manifest);
    assert_eq!(index["manifests"][1]["platform"]["variant"], "v8");

    // docker's own form, which an index may list as well
    let old = Image { architecture: "arm64", ..Image::new() }
        .layer(&[Member::dir("etc/"), Member::file("etc/c", "c\n")]);
    let old_home = tempfile::tempdir().unwrap();
    old.write(old_home.path(), "1");
    let layout = format!("{}:1", old_home.path().display());
    let theirs = registry.push(&layout, "others/docker:1", &["--format", "v2s2"]);
    pull(&amd, &theirs, ARM);
    let ours = format!("{host}/team/s:2");
    push(&amd, &ours, &["--with", &theirs]);
    let listed = &raw(&ours)["manifests"][1];
    assert_eq!(listed["mediaType"], "application/vnd.docker.distribution.manifest.v2+json");
    let to = format!("oci:{}:s", home.path().join("copy").display());
    let from = format!("docker://{ours}");
    let plain = ["--insecure-policy", "--override-arch", "arm64", "copy", "--src-tls-verify=false"];
    tool("skopeo", &[&plain[..], &[&from, &to]].concat());
}

#[test]
fn a_platform_that_is_left_out_is_told_of() {
    let registry = Registry::start();
    let reference = format!("{}/team/left:1", registry.host);
    let machine = machine(&[AMD, ARM]);
    let whole = machine.sbx(&["push", "s", &reference]).success();
    assert!(!whole.stderr.contains("without"), "{}", whole.stderr);
    machine.write("app/run", "#!/bin/sh\necho other\n");
    machine.sbx(&["build", "s", "--platform", AMD]).success();
    let half = machine.sbx(&["push", "s", &reference]).success();
    half.says("without linux/arm64, for which `s` is not built")
        .says("sbx build s --platform linux/arm64");
    let named = machine.sbx(&["push", "s", &reference, "--platform", AMD]).success();
    assert!(!named.stderr.contains("without"), "{}", named.stderr);
}

#[test]
fn a_platform_has_one_image_and_what_is_not_there_is_told() {
    let depot = Depot::start();
    let place = |name: &str| format!("{}/{name}:1", depot.host);
    let both = machine(&[AMD, ARM]);
    push(&both, &place("both"), &[]);
    let amd = machine(&[AMD]);
    let ours = place("s");
    let with =
        |project: &Project, more: &[&str]| project.sbx(&[&["push", "s", &ours], more].concat());
    let all = place("both");
    let help = format!("run `sbx pull {all} --platform {ARM}`");
    with(&amd, &["--with", &all]).fails(1, &["is not in the store", &help]);
    pull(&amd, &all, AMD);
    let only = format!("{ARM}={all}");
    with(&amd, &["--with", &only]).fails(1, &["for linux/arm64 is not in the store", &help]);
    let twice = ["two images for linux/amd64", "`s` as it is built here", "as it was pulled"];
    with(&amd, &["--with", &all]).fails(1, &twice);
    pull(&amd, &all, ARM);
    with(&amd, &["--with", &all]).fails(1, &[&twice[..], &["--with OS/ARCH=REF"]].concat());
    assert!(depot.tags("s").is_empty(), "nothing was pushed");
    with(&amd, &["--with", &only]).success();

    // of what is built, `--platform` says what is meant; two that were pulled clash as well
    push(&both, &place("arm"), &["--platform", ARM]);
    pull(&both, &place("arm"), ARM);
    with(&both, &["--with", &place("arm")]).fails(1, &["two images for linux/arm64"]);
    with(&both, &["--platform", AMD, "--with", &place("arm")]).success();
    pull(&amd, &place("arm"), ARM);
    let clash = ["--with", &only, "--with", &place("arm")];
    with(&amd, &clash).fails(1, &["two images for linux/arm64", "/arm:1` as it was pulled"]);
    with(&amd, &["--with", "linux/mips=a:1"]).fails(2, &["unknown platform `linux/mips`"]);
    with(&amd, &["--with", "a b"]).fails(2, &["is no reference"]);

    // what is not built is told as long as nothing that was pulled stands for it
    let none = machine(&[]);
    pull(&none, &place("arm"), ARM);
    with(&none, &["--with", &place("arm")]).fails(1, &["`s` is not built for linux/amd64"]);
}

#[test]
fn what_was_pulled_and_is_damaged_does_not_go_out() {
    let depot = Depot::start();
    let theirs = format!("{}/arm:1", depot.host);
    push(&machine(&[ARM]), &theirs, &[]);
    let manifest = depot.manifest("arm", "1").unwrap();
    let manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let layer = manifest["layers"][0]["digest"].as_str().unwrap().to_owned();
    let amd = machine(&[AMD]);
    pull(&amd, &theirs, ARM);
    spoil(&amd.cache().join("blobs/sha256").join(layer.trim_start_matches("sha256:")));
    let other = Depot::start();
    let ours = format!("{}/s:1", other.host);
    let pushed = || amd.sbx(&["push", "s", &ours, "--with", &theirs]);
    pushed().fails(1, &["is not in the store", "sbx pull"]);
    assert!(other.manifest("s", "1").is_none());
    pull(&amd, &theirs, ARM);
    pushed().success();
    assert_eq!(Digest::of(&other.blob("s", &layer).unwrap()).to_string(), layer);
}

fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn signatures_are_of_all_and_attestations_of_what_was_made_here() {
    let depot = Depot::start();
    let theirs = format!("{}/arm:1", depot.host);
    push(&machine(&[ARM]), &theirs, &[]);
    let amd = machine(&[AMD]);
    tool(
        "openssl",
        &[
            "genpkey",
            "-algorithm",
            "EC",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-out",
            amd.dir.path().join("key.pem").to_str().unwrap(),
        ],
    );
    let key = sbx::report::sign::PrivateKey::parse(&amd.read("key.pem"), None).unwrap();
    pull(&amd, &theirs, ARM);
    let ours = format!("{}/s:1", depot.host);
    let more = ["--with", &theirs, "--attest", "--key", "key.pem"];
    let said = amd.sbx(&[&["push", "s", &ours], &more[..]].concat()).success();
    said.says(&format!("nothing is attested of `{theirs}`"));
    let other = Project::new().file("sandboxes.kdl", "").file("key.pub", &key.public().to_pem());
    for (platform, attested) in [(AMD, 3), (ARM, 0)] {
        let pull = ["pull", &ours, "--platform", platform, "--verify", "key.pub"];
        let pulled = answer(&other, &pull);
        assert_eq!(pulled["attested"].as_array().unwrap().len(), attested, "{platform}");
    }
}
