//! `sbom` and `provenance`: what they say of an image, that others' validators accept it, and that
//! scanners find the same packages in the image itself.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::support::deb::Deb;
use crate::support::project::{Project, root};
use crate::support::pypi::{self, Index};
use crate::support::python::kept_environment;
use crate::support::registry::{self, Registry};
use crate::support::repo::Repo;
use crate::support::tool;
use crate::support::trixie::{over_python, patiently};
use serde_json::Value;

/// Whoever judges.
const VALIDATORS: [&str; 6] = [
    "spdx-tools==0.8.5",
    "cyclonedx-python-lib[json-validation]==11.12.0",
    "in-toto-attestation==0.9.3",
    "pynacl==1.6.2",
    "cryptography==50.0.2",
    "sigstore-models==0.0.6",
];

#[track_caller]
pub fn judge(kind: &str, file: &Path) {
    let python = kept_environment("report-validators", &VALIDATORS);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/report/judge.py");
    let words = [script.to_str().unwrap(), kind, file.to_str().unwrap()];
    tool(python.to_str().unwrap(), &words);
}

/// A report of sandbox `s`, judged by others.
fn report(project: &Project, kind: &str, arguments: &[&str]) -> Value {
    let file = project.dir.path().join(format!("{kind}.json"));
    let output = ["-o", file.to_str().unwrap()];
    project.sbx(&[arguments, &output[..]].concat()).success();
    judge(kind, &file);
    let bytes = fs::read(&file).unwrap();
    let again = project.sbx(arguments).success().stdout;
    assert_eq!(String::from_utf8_lossy(&bytes), again, "the same image, the same bytes");
    serde_json::from_slice(&bytes).unwrap()
}

fn spdx(project: &Project) -> Value {
    report(project, "spdx", &["sbom", "s"])
}

fn cyclonedx(project: &Project) -> Value {
    report(project, "cyclonedx", &["sbom", "s", "--format", "cyclonedx"])
}

fn list<'v>(value: &'v Value, name: &str) -> &'v [Value] {
    value[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Package URLs and declared licences of what an SPDX document lists.
fn licences(document: &Value) -> Vec<String> {
    let packages = list(document, "packages").iter().filter_map(|package| {
        let purl = list(package, "externalRefs").first()?["referenceLocator"].as_str()?;
        Some(format!("{purl} {}", package["licenseDeclared"].as_str()?))
    });
    packages.collect()
}

const COPYRIGHT: &str = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\n\
     Files: *\nCopyright: me\nLicense: GPL-2+\n\nFiles: x\nCopyright: me\nLicense: Expat or odd\n";

#[test]
fn debian_packages_are_listed_with_what_their_own_files_say() {
    let tool = Deb::new("tool", "1:1.2-3")
        .field("Source", "toolbox (1.2-3)")
        .file("/usr/share/doc/tool/copyright", COPYRIGHT);
    let data = Deb::new("tool-data", "1:1.2-3")
        .arch("all")
        .depends("tool")
        .symlink("/usr/share/doc/tool-data", "tool");
    let free = Deb::new("free", "1").file("/usr/share/doc/free/copyright", "Do what you like.\n");
    let repo = Repo::with_base().add_all([tool, data, free]);
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["", "tool-data free"]);
    project.sbx(&["sbom", "s"]).fails(1, &["layer `l0` for linux/amd64 is not in the lock"]);
    project.sbx(&["lock"]).success();
    project
        .sbx(&["sbom", "s"])
        .fails(1, &["sandbox `s` is not built for linux/amd64", "run `sbx build` first"]);
    let image = project.build();
    let document = spdx(&project);
    let listed = licences(&document);
    let ours = ["/free@", "/tool"];
    let ours = listed.iter().filter(|line| ours.iter().any(|name| line.contains(name)));
    let ours: Vec<&str> = ours.map(String::as_str).collect();
    insta::assert_snapshot!(ours.join("\n"), @r"
    pkg:deb/debian/free@1?arch=amd64&distro=debian-13 NOASSERTION
    pkg:deb/debian/tool-data@1:1.2-3?arch=all&distro=debian-13 GPL-2.0-or-later AND (LicenseRef-odd OR MIT)
    pkg:deb/debian/tool@1:1.2-3?arch=amd64&distro=debian-13&upstream=toolbox%401.2-3 GPL-2.0-or-later AND (LicenseRef-odd OR MIT)
    ");
    let lock = project.read("sbx.lock");
    let pins = lock.lines().filter(|line| line.starts_with("deb ")).count();
    assert_eq!(listed.len(), pins, "every pin, once");
    for line in lock.lines().filter(|line| line.starts_with("deb ")) {
        let digest = line.split("sha256:").nth(1).unwrap().split(' ').next().unwrap();
        assert!(document.to_string().contains(digest), "{line}");
    }
    let described = &list(&document, "packages")[0];
    assert_eq!(described["versionInfo"].as_str().unwrap(), image);
    let relation = |one: &str, kind: &str, other: &str| {
        list(&document, "relationships").iter().any(|relation| {
            relation["spdxElementId"] == one
                && relation["relationshipType"] == kind
                && relation["relatedSpdxElement"] == other
        })
    };
    assert!(relation("SPDXRef-DOCUMENT", "DESCRIBES", "SPDXRef-image"));
    assert!(relation("SPDXRef-image", "CONTAINS", "SPDXRef-layer-2"));
    assert!(relation("SPDXRef-layer-2", "DEPENDS_ON", "SPDXRef-layer-0"));
    let id = list(&document, "packages").iter().find(|package| package["name"] == "tool").unwrap();
    assert!(relation("SPDXRef-layer-2", "CONTAINS", id["SPDXID"].as_str().unwrap()));
    // by what scanners know whose packages these are, and what they are made of
    let system = list(&document, "packages").iter().find(|one| one["name"] == "debian").unwrap();
    assert_eq!(system["SPDXID"], "SPDXRef-OperatingSystem");
    assert_eq!(system["primaryPackagePurpose"], "OPERATING-SYSTEM");
    assert_eq!(system["versionInfo"], "13");
    assert!(relation("SPDXRef-image", "CONTAINS", "SPDXRef-OperatingSystem"));
    assert_eq!(id["sourceInfo"], "built package from: toolbox 1.2-3");
    let components = cyclonedx(&project);
    let mut components = list(&components, "components").iter();
    let tool = components.find(|one| one["name"] == "tool").unwrap().to_string();
    for (name, value) in [("SrcName", "toolbox"), ("SrcVersion", "1.2-3")] {
        let property = format!("{{\"name\":\"aquasecurity:trivy:{name}\",\"value\":\"{value}\"}}");
        assert!(tool.contains(&property), "{tool}");
    }
    // what has been read is remembered: the sources may go
    let before = fs::read(project.dir.path().join("spdx.json")).unwrap();
    for line in lock.lines().filter(|line| line.starts_with("deb ")) {
        let digest = line.split("sha256:").nth(1).unwrap().split(' ').next().unwrap();
        fs::remove_file(project.cache().join("blobs/sha256").join(digest)).unwrap();
    }
    assert_eq!(project.sbx(&["sbom", "s"]).success().stdout.as_bytes(), before);
    fs::remove_dir_all(project.cache().join("facts")).unwrap();
    project.sbx(&["sbom", "s"]).fails(1, &["is not in the store", "run `sbx fetch`"]);
}

#[test]
fn documents_of_one_image_that_differ_have_identifiers_of_their_own() {
    let text = "layer \"l\" { dir \"/d\"; }\nsandbox \"s\" { layers \"l\"; }\n";
    let project = Project::new().file("sandboxes.kdl", text);
    let image = project.build();
    let identifiers = || {
        let name = |document: &Value, name: &str| document[name].as_str().unwrap().to_owned();
        [name(&spdx(&project), "documentNamespace"), name(&cyclonedx(&project), "serialNumber")]
    };
    let before = identifiers();
    let named = format!("project \"p\" {{ reference \"r.example.org/{{sandbox}}\"; }}\n{text}");
    project.write("sandboxes.kdl", &named);
    assert_eq!(project.build(), image);
    let after = identifiers();
    for (before, after) in before.iter().zip(&after) {
        assert_ne!(before, after);
        assert!(after.starts_with("urn:uuid:"), "{after}");
    }
}

/// An image of all ecosystems, over the public Debian's Python.
fn of_all() -> &'static Project {
    static BUILT: OnceLock<(Project, Index, Registry)> = OnceLock::new();
    let (project, ..) = BUILT.get_or_init(|| {
        let index = Index::of([
            pypi::Package::new("Top_Level", "1.0").requires("under").field("License-Expression: MIT OR Zlib"),
            pypi::Package::new("under", "2.0").field("Classifier: License :: OSI Approved :: Apache Software License"),
        ]);
        let inner = r#"{"name": "inner", "version": "0.1.0", "license": "ISC"}"#;
        let registry = Registry::of([
            registry::Package::new("@acme/tool", "1.0.0")
                .depends("left", "^2")
                .licence("BSD-3-Clause")
                .file("node_modules/inner/package.json", inner)
                .file("test/package.json", r#"{"name": "none", "version": "1.0.0"}"#),
            registry::Package::new("left", "2.1.0")
                .licence("SEE LICENSE IN x")
                .file("node_modules/inner/package.json", inner),
        ]);
        let nodes = "venv \"/opt/venv\" { packages \"top-level\"; }\nnpm-tools \"@acme/tool@1.0.0\" into=\"/opt/tools\"";
        let project = over_python(nodes)
            .var("UV_DEFAULT_INDEX", &index.url())
            .var("SBX_MIRROR_NPM", &registry.url());
        patiently(|| project.sbx(&["lock"])).success();
        project.build();
        (project, index, registry)
    });
    project
}

#[test]
fn packages_of_every_ecosystem_are_listed_and_validators_accept_the_bills() {
    let project = of_all();
    let listed = licences(&spdx(project));
    let ours: Vec<&str> =
        listed.iter().map(String::as_str).filter(|line| !line.starts_with("pkg:deb")).collect();
    insta::assert_snapshot!(ours.join("\n"), @r"
    pkg:npm/%40acme/tool@1.0.0 BSD-3-Clause
    pkg:npm/inner@0.1.0 ISC
    pkg:npm/left@2.1.0 LicenseRef-SEE-LICENSE-IN-x-5cd0a628e64e
    pkg:pypi/top-level@1.0?file_name=top_level-1.0-py3-none-any.whl MIT OR Zlib
    pkg:pypi/under@2.0?file_name=under-2.0-py3-none-any.whl Apache-2.0
    ");
    assert!(
        listed.iter().any(|line| line.starts_with("pkg:deb/debian/python3@3.13")),
        "{listed:?}"
    );
    let document = cyclonedx(project);
    let components = list(&document, "components");
    let find = |name: &str| components.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(find("debian")["version"], "13");
    assert_eq!(find("tool")["group"], "@acme");
    assert_eq!(find("tool")["licenses"][0]["license"]["id"], "BSD-3-Clause");
    assert_eq!(find("left")["licenses"][0]["license"]["name"], "SEE LICENSE IN x");
    assert_eq!(find("top-level")["licenses"][0]["expression"], "MIT OR Zlib");
    assert_eq!(find("left")["hashes"][0]["alg"], "SHA-512");
    let layer = find("left")["properties"][0]["value"].as_str().unwrap();
    assert!(layer.starts_with("sha256:") && layer.ends_with(" l"), "{layer}");
    for parent in ["tool", "left"] {
        let parent = &find(parent)["bom-ref"];
        let bundles = list(&document, "dependencies").iter().find(|one| one["ref"] == *parent);
        assert_eq!(bundles.unwrap()["dependsOn"][0], find("inner")["bom-ref"], "{parent}");
    }
}

#[test]
fn the_bill_of_the_program_itself_is_accepted() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = env!("CARGO_BIN_EXE_sbx");
    let bill =
        tool(here.join("release/bill").to_str().unwrap(), &["x86_64-unknown-linux-musl", program]);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &bill).unwrap();
    judge("cyclonedx", file.path());
    let bill: Value = serde_json::from_str(&bill).unwrap();
    let own = &bill["metadata"]["component"]["hashes"][0]["content"];
    assert_eq!(*own, sbx::digest::Digest::of(&fs::read(program).unwrap()).hex());
    let names: Vec<&str> =
        list(&bill, "components").iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"rustls") && names.contains(&"kdl"), "{names:?}");
    assert!(
        !names.contains(&"insta") && !names.contains(&"axum"),
        "what is for tests is not in it"
    );
}

#[test]
fn scanners_find_the_packages_in_the_image_itself() {
    let dir = of_all().unpack();
    let root = root(&dir);
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    let status = read("var/lib/dpkg/status");
    let stanza = status.split("\n\n").find(|stanza| stanza.starts_with("Package: python3\n"));
    assert!(stanza.unwrap().contains("\nStatus: install ok installed\n"));
    assert!(root.join("var/lib/dpkg/info/python3.list").exists());
    assert!(read("etc/os-release").contains("VERSION_ID=\"13\""));
    let manifest: Value =
        serde_json::from_str(&read("opt/tools/node_modules/@acme/tool/package.json")).unwrap();
    assert_eq!(manifest["license"], "BSD-3-Clause");
    assert!(
        root.join("opt/tools/node_modules/@acme/tool/node_modules/inner/package.json").exists()
    );
    let info = "opt/venv/lib/python3.13/site-packages/top_level-1.0.dist-info";
    assert!(read(&format!("{info}/METADATA")).contains("License-Expression: MIT OR Zlib"));
    assert!(root.join(info).join("RECORD").exists());
}

#[test]
fn provenance_names_the_lock_every_source_and_every_key() {
    let project = of_all();
    let statement = report(project, "provenance", &["provenance", "s"]);
    let image = project.build();
    let subjects = list(&statement, "subject");
    assert_eq!(format!("sha256:{}", subjects[1]["digest"]["sha256"].as_str().unwrap()), image);
    let definition = &statement["predicate"]["buildDefinition"];
    let lock = project.read("sbx.lock");
    let digest = sbx::digest::Digest::of(lock.as_bytes());
    assert_eq!(definition["externalParameters"]["lock"]["sha256"], digest.hex());
    assert_eq!(definition["externalParameters"]["sandbox"], "s");
    let sources = definition["resolvedDependencies"].to_string();
    for kind in ["deb debian ", "wheel ", "npm "] {
        let pins = lock.lines().filter(|line| line.starts_with(kind));
        let digests = pins.filter_map(|line| line.split(' ').find(|word| word.starts_with("sha")));
        let digests: Vec<&str> =
            digests.filter_map(|word| word.split_once(':')).map(|(_, hex)| hex).collect();
        assert!(!digests.is_empty(), "{kind}");
        assert!(digests.iter().all(|hex| sources.contains(hex)), "{kind}");
    }
    let shown = project.sbx(&["check", "s", "--json"]).success().stdout;
    let planned: Value = serde_json::from_str(&shown).unwrap();
    let keys = definition["internalParameters"]["steps"].to_string();
    for step in list(&planned[0], "steps") {
        assert!(keys.contains(step["key"].as_str().unwrap()), "{step}");
    }
    let other = report(
        project,
        "provenance",
        &["provenance", "s", "--builder", "https://ci.example.org/1"],
    );
    assert_eq!(other["predicate"]["runDetails"]["builder"]["id"], "https://ci.example.org/1");
    let odd = ["provenance", "s", "--builder", "my machine"];
    project.sbx(&odd).fails(2, &["it is no URI"]);
}

#[test]
fn signatures_of_either_form_of_a_key_are_verified_by_others() {
    let project = of_all();
    let home = tempfile::tempdir().unwrap();
    let at = |name: &str| home.path().join(name);
    judge("key", &at("key"));
    let key = |name: &str| at(name).to_str().unwrap().to_owned();
    let sign = |name: &str, to: &str, password: Option<&str>| {
        let to = at(to);
        let words = ["provenance", "s", "--key", &key(name), "-o", to.to_str().unwrap()];
        let run = project.run(&words);
        password.into_iter().fold(run, |run, word| run.env("COSIGN_PASSWORD", word)).outcome()
    };
    sign("key.pem", "plain.json", None).success();
    judge("envelope", &at("plain.json"));
    sign("key.key", "cosign.json", Some("secret")).success();
    let envelopes = ["plain.json", "cosign.json"].map(|name| fs::read(at(name)).unwrap());
    assert_eq!(envelopes[0], envelopes[1], "one key, one signature");
    let bill = at("bill.json");
    let words = ["sbom", "s", "--key", &key("key.pem"), "-o", bill.to_str().unwrap()];
    project.sbx(&words).success();
    judge("envelope", &bill);
    sign("key.key", "none.json", None).fails(1, &["protected by a password", "COSIGN_PASSWORD"]);
    sign("key.key", "none.json", Some("guess")).fails(1, &["the password does not open it"]);
    sign("key.pub", "none.json", None).fails(1, &["it is no private key of ECDSA P-256"]);
    assert!(!at("none.json").exists());
}
