//! Images to registries and back: what is missing travels, and nothing else does.

use std::fs;
use std::path::{Path, PathBuf};

use crate::support::deb::Member;
use crate::support::depot::Depot;
use crate::support::oci::{Image, Registry, check_schema};
use crate::support::project::Project;
use crate::support::tool;
use sbx::digest::Digest;
use serde_json::Value;

/// Two layers of files, of which the lower one is compressed while it is sent.
fn project() -> Project {
    let noise: Vec<u8> = (0..200_000u32)
        .flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 31).to_le_bytes())
        .collect();
    let project = Project::new()
        .file(
            "sandboxes.kdl",
            "layer \"lib\" { files \"lib\" into=\"/srv/lib\"; }\n\
             layer \"app\" needs=\"lib\" { files \"app\" into=\"/srv/app\"; }\n\
             sandbox \"s\" { layers \"lib\" \"app\"; command \"/srv/app/run\"; }\n",
        )
        .file("app/run", "#!/bin/sh\necho 1\n");
    for name in 0..8 {
        fs::create_dir_all(project.dir.path().join("lib")).unwrap();
        fs::write(project.dir.path().join(format!("lib/{name}")), &noise).unwrap();
    }
    project
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn push(project: &Project, arguments: &[&str]) -> Value {
    json(&project.sbx(&[&["--json", "push"], arguments].concat()).success().stdout)
}

#[test]
fn what_a_registry_has_is_neither_sent_nor_read() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let reference = format!("{}/team/s:1", depot.host);
    let first = push(&project, &["s", &reference]);
    assert_eq!((&first["blobs"]["sent"], &first["blobs"]["there"]), (&3.into(), &0.into()));
    let manifest = depot.manifest("team/s", "1").unwrap();
    assert_eq!(Digest::of(&manifest).to_string(), first["digest"].as_str().unwrap());

    // the same again is one question, and no twin is needed for it
    depot.forget();
    let twins = json(&String::from_utf8(manifest).unwrap());
    for layer in twins["layers"].as_array().unwrap() {
        let hex = layer["digest"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
        fs::remove_file(project.cache().join("blobs/sha256").join(hex)).unwrap();
    }
    let again = push(&project, &["s", &reference]);
    assert_eq!(again["digest"], first["digest"]);
    let asked: Vec<String> = depot.asked().into_iter().map(|asked| asked.method).collect();
    assert_eq!(asked, ["HEAD"]);

    // under another tag only the manifest travels; in another repository blobs are mounted
    depot.forget();
    push(&project, &["s", &format!("{}/team/s:2", depot.host)]);
    assert_eq!((depot.count("POST", ""), depot.count("PUT", "/manifests/2")), (0, 1));
    let mounted = push(&project, &["s", &format!("{}/other/s:1", depot.host)]);
    assert_eq!((&mounted["blobs"]["mounted"], &mounted["blobs"]["sent"]), (&3.into(), &0.into()));
    // where they cannot be, they are made and sent again
    for status in [401, 403, 404, 405] {
        depot.refuse_mounts(status);
        let sent = push(&project, &["s", &format!("{}/x{status}/s:1", depot.host)]);
        assert_eq!(sent["blobs"]["sent"], 3, "{status}");
        assert_eq!(sent["digest"], first["digest"]);
    }

    // an edit travels alone
    depot.forget();
    project.write("app/run", "#!/bin/sh\necho 2\n");
    project.build();
    let edited = push(&project, &["s", &reference]);
    assert_eq!((&edited["blobs"]["sent"], &edited["blobs"]["there"]), (&2.into(), &1.into()));
    assert_ne!(edited["digest"], first["digest"]);
}

#[test]
fn the_same_image_has_one_digest_wherever_it_is_pushed_from() {
    let (one, two) = (project(), project());
    one.build();
    two.build();
    let depot = Depot::start();
    let reference = |name: &str| format!("{}/{name}:1", depot.host);
    let first = push(&one, &["s", &reference("a")]);
    let second = push(&two, &["--jobs", "1", "s", &reference("b")]);
    assert_eq!(first["digest"], second["digest"]);
    // who comes second finds what is there before it is sent, small as it may be
    let third = self::project();
    third.build();
    let again = push(&third, &["s", &reference("a")]);
    assert!(again["blobs"]["there"].as_u64().unwrap() >= 2, "{again}");
    let zstd = push(&one, &["s", &reference("a"), "--compression", "zstd", "--level", "5"]);
    assert_ne!(zstd["digest"], first["digest"]);
    let manifest = String::from_utf8(depot.manifest("a", "1").unwrap()).unwrap();
    assert_eq!(manifest.matches("tar+zstd").count(), 2, "{manifest}");
    one.sbx(&["push", "s", &reference("a"), "--level", "13"])
        .fails(1, &["level 13 is none of gzip"]);
}

#[test]
fn tokens_are_asked_for_what_is_done_and_go_nowhere_else() {
    let project = project();
    project.build();
    let depot = Depot::start();
    depot.guard("geheim");
    push(&project, &["s", &format!("{}/a:1", depot.host)]);
    let tokens: Vec<String> = depot
        .asked()
        .into_iter()
        .filter(|asked| asked.path == "/token")
        .map(|asked| asked.query)
        .collect();
    assert_eq!(tokens, ["service=depot&scope=repository%3Aa%3Apull%2Cpush"]);
    depot.forget();
    push(&project, &["s", &format!("{}/b:1", depot.host)]);
    let asked = depot.asked().into_iter().find(|asked| asked.path == "/token").unwrap();
    assert!(asked.query.ends_with("&scope=repository%3Aa%3Apull"), "{}", asked.query);
    // an identity token is exchanged, not shown
    let login = format!("{{\"auths\":{{\"{}\":{{\"identitytoken\":\"own\"}}}}}}", depot.host);
    project.write(".docker/config.json", &login);
    depot.forget();
    push(&project, &["s", &format!("{}/c:1", depot.host)]);
    assert_eq!((depot.count("POST", "/token"), depot.count("GET", "/token")), (1, 0));
    assert!(depot.asked().iter().all(|asked| !asked.query.contains("own")));
}

#[test]
fn docker_registry_takes_it_and_others_pull_it() {
    let project = project();
    let image = project.build();
    let registry = Registry::guarded("me", "geheim");
    let reference = format!("{}/team/s:1", registry.host);
    project.sbx(&["push", "s", &reference]).fails(3, &["does not let strangers", "docker login"]);
    let login = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6Z2VoZWlt\"}}}}}}", registry.host);
    project.write(".docker/config.json", &login);
    let pushed = push(&project, &["s", &reference]);
    let from = format!("docker://{reference}");
    let skopeo = ["--tls-verify=false", "--creds", "me:geheim"];
    let config =
        tool("skopeo", &[&["inspect", "--raw", "--config"], &skopeo[..], &[&from]].concat());
    assert_eq!(Digest::of(config.as_bytes()).to_string(), image);
    let raw = tool("skopeo", &[&["inspect", "--raw"], &skopeo[..], &[&from]].concat());
    assert_eq!(Digest::of(raw.as_bytes()).to_string(), pushed["digest"].as_str().unwrap());
    check_schema("image-manifest", &raw);
    check_schema("config", &config);
    let other = format!("{}/team/s:2", registry.host);
    let mounted = push(&project, &["s", &format!("{}/other/s:2", registry.host)]);
    assert_eq!(mounted["blobs"]["sent"], 0, "{mounted}");
    assert_eq!(push(&project, &["s", &other])["blobs"]["sent"], 0);

    // into a store that never saw it
    let home = tempfile::tempdir().unwrap();
    let puller = Project::new().file("sandboxes.kdl", "").file(".docker/config.json", &login);
    let pulled = json(&puller.sbx(&["--json", "pull", &reference]).success().stdout);
    assert_eq!((pulled["image"].as_str(), &pulled["digest"]), (Some(&*image), &pushed["digest"]));
    let again = json(&puller.sbx(&["--json", "pull", &reference]).success().stdout);
    assert_eq!((&again["fetched"], &pulled["fetched"]), (&0.into(), &2.into()));
    let tar = home.path().join("tar");
    puller.sbx(&["save", &reference, "--format", "tar", "-o", tar.to_str().unwrap()]).success();
    assert!(tool("tar", &["-tf", tar.to_str().unwrap()]).contains("srv/app/run\n"));
    let listed =
        tool("skopeo", &["inspect", &format!("oci:{}:{reference}", puller.cache().display())]);
    assert!(
        listed.contains(pushed["digest"].as_str().unwrap()) || listed.contains("sha256"),
        "{listed}"
    );
    let gone = puller.sbx(&["gc", "--json"]).success();
    assert!(gone.stdout.contains("\"removed\":{}"), "{}", gone.stdout);
    puller.sbx(&["save", "team/none:1", "-o", "x"]).fails(1, &["is not in the store", "sbx pull"]);
}

#[test]
fn a_registry_behind_a_company_authority_wants_to_know_its_client() {
    let home = tempfile::tempdir().unwrap();
    let authority = Authority::new(home.path());
    let registry = Registry::tls(&authority.files("registry"), &home.path().join("ca.crt"));
    let project = project();
    project.build();
    let reference = format!("{}/s:1", registry.host);
    // nothing is known of it: it is on loopback, where http is spoken
    project.sbx(&["push", "s", &reference]).fails(3, &["answers 400"]);
    let dir = format!(".config/containers/certs.d/{}", registry.host);
    project
        .write(&format!("{dir}/ca.crt"), &fs::read_to_string(home.path().join("ca.crt")).unwrap());
    project
        .sbx(&["push", "s", &reference])
        .fails(3, &["does not take this machine", "client.cert"]);
    let [cert, key] = authority.files("client");
    for (from, to) in [(cert, "client.cert"), (key, "client.key")] {
        project.write(&format!("{dir}/{to}"), &fs::read_to_string(from).unwrap());
    }
    push(&project, &["s", &reference]);
    project.sbx(&["pull", &reference]).success();
    project.write(&format!("{dir}/ca.crt"), "nothing");
    project.sbx(&["pull", &reference]).fails(1, &["ca.crt", "no certificate"]);
}

/// An authority that makes certificates for a registry and its clients.
struct Authority {
    dir: PathBuf,
}

impl Authority {
    fn new(dir: &Path) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "a company");
        fs::write(dir.join("ca.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        for name in ["registry", "client"] {
            let key = rcgen::KeyPair::generate().unwrap();
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let mut params = rcgen::CertificateParams::new(names).unwrap();
            params.distinguished_name.push(rcgen::DnType::CommonName, name);
            let leaf = params.signed_by(&key, &issuer).unwrap();
            fs::write(dir.join(format!("{name}.pem")), leaf.pem()).unwrap();
            fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        Authority { dir: dir.to_owned() }
    }

    /// Certificate and key.
    fn files(&self, name: &str) -> [PathBuf; 2] {
        ["pem", "key"].map(|extension| self.dir.join(format!("{name}.{extension}")))
    }
}

#[test]
fn several_platforms_are_one_index() {
    let project = project();
    let text = project.read("sandboxes.kdl");
    project.write(
        "sandboxes.kdl",
        &format!("project \"p\" {{ platforms \"linux/amd64\" \"linux/arm64\"; }}\n{text}"),
    );
    project.sbx(&["build", "s", "--platform", "linux/amd64"]).success();
    let depot = Depot::start();
    let reference = format!("{}/s:1", depot.host);
    let one = push(&project, &["s", &reference]);
    assert_eq!(one["images"].as_array().unwrap().len(), 1, "what is built");
    let missing = ["push", "s", &reference, "--platform", "linux/arm64"];
    project.sbx(&missing).fails(1, &["is not built for linux/arm64", "sbx build s --platform"]);
    project.sbx(&["build", "s", "--platform", "linux/arm64"]).success();
    let both = push(&project, &["s", &reference]);
    let index = json(&String::from_utf8(depot.manifest("s", "1").unwrap()).unwrap());
    check_schema("image-index", &index.to_string());
    let entries = index["manifests"].as_array().unwrap();
    let platforms: Vec<&Value> =
        entries.iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(platforms, ["amd64", "arm64"]);
    assert_eq!(entries[0]["digest"], one["digest"], "a manifest does not depend on its siblings");
    depot.forget();
    assert_eq!(push(&project, &["s", &reference])["digest"], both["digest"]);
    assert_eq!((depot.count("PUT", ""), depot.count("POST", "")), (0, 0));
    let other = Project::new().file("sandboxes.kdl", "");
    let pulled = ["--json", "pull", &reference, "--platform", "linux/arm64"];
    let pulled = json(&other.sbx(&pulled).success().stdout);
    assert_eq!(pulled["manifest"], entries[1]["digest"]);
    assert_eq!(pulled["digest"], both["digest"]);
}

#[test]
fn a_base_of_the_same_registry_is_mounted() {
    let home = tempfile::tempdir().unwrap();
    let base = Image::new().layer(&[Member::dir("etc/"), Member::file("etc/base", "base\n")]);
    base.write(home.path(), "1");
    let registry = Registry::start();
    let layout = format!("{}:1", home.path().display());
    let reference = registry.push(&layout, "team/base:1", &[]);
    let project = Project::new().file(
        "sandboxes.kdl",
        &format!(
            "layer \"base\" {{ from \"{reference}\"; }}\n\
             layer \"app\" {{ file \"/etc/own\" content=\"own\\n\"; }}\n\
             sandbox \"s\" {{ layers \"base\" \"app\"; }}\n"
        ),
    );
    project.build();
    let pushed = push(&project, &["s", &format!("{}/team/s:1", registry.host)]);
    assert_eq!((&pushed["blobs"]["mounted"], &pushed["blobs"]["sent"]), (&1.into(), &2.into()));
    // what was pulled is a base for others, and asks for no layer again
    project.sbx(&["pull", &reference]).success();
}

#[test]
fn a_damaged_twin_is_found_and_made_again() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let reference = |name: &str| format!("{}/{name}:1", depot.host);
    push(&project, &["s", &reference("a")]);
    let manifest = json(&String::from_utf8(depot.manifest("a", "1").unwrap()).unwrap());
    let twin = manifest["layers"][0]["digest"].as_str().unwrap().trim_start_matches("sha256:");
    let path = project.cache().join("blobs/sha256").join(twin);
    let mut bytes = fs::read(&path).unwrap();
    bytes[20] ^= 1;
    fs::write(&path, bytes).unwrap();
    depot.refuse_mounts(403);
    project.sbx(&["push", "s", &reference("b")]).fails(3, &["of the store has other bytes"]);
    assert!(depot.manifest("b", "1").is_none());
    push(&project, &["s", &reference("b")]);
    let fetched = depot.blob("b", &format!("sha256:{twin}")).unwrap();
    assert_eq!(Digest::of(&fetched).hex(), twin);
}

#[test]
fn a_disk_that_is_full_leaves_the_store_whole() {
    let project = project();
    project.build();
    let depot = Depot::start();
    let reference = format!("{}/s:1", depot.host);
    push(&project, &["s", &reference]);
    let disk = tempfile::tempdir().unwrap();
    let small = Project::new().file("sandboxes.kdl", "").store(&disk.path().join("cache"));
    let (sbx, dir) = (env!("CARGO_BIN_EXE_sbx"), disk.path().display());
    let script = format!(
        "mount -t tmpfs -o size=3m tmpfs {dir}; {sbx} pull {reference} && exit 9; \
         test $? = 3 || exit 8; ls {dir}/cache/blobs/sha256 {dir}/cache/tmp; \
         mount -o remount,size=64m {dir}; {sbx} -q pull {reference}"
    );
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).current_dir(small.dir.path());
    let known = small.command(&[]);
    command.env_clear().envs(known.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(said.contains("No space left"), "{said}");
}
