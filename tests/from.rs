//! `from`: an image of others below everything, its layers as they are.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::deb::{Compression, Deb, Member};
use crate::support::http::{Fault, Server};
use crate::support::oci::{CONFIG, GZIP, INDEX, Image, MANIFEST, Registry, ZSTD, descriptor};
use crate::support::project::{Project, chroot, root};
use crate::support::repo::Repo;
use crate::support::tool;
use sbx::digest::Digest;
use serde_json::Value;

/// Two layers that use all that layers may say.
pub fn image() -> Image {
    let lower = [
        Member::dir("./"),
        Member::dir("etc/"),
        Member::file("etc/kept", "kept\n"),
        Member::file("etc/gone", "gone\n"),
        Member::dir("var/"),
        Member::dir("var/old/"),
        Member::file("var/old/below", "below\n"),
        Member::file("etc/tool", "tool\n").mode(0o4755),
        Member::hardlink("etc/also", "etc/tool"),
    ];
    let upper = [
        Member::dir("etc/").mode(0o711),
        Member::file("etc/.wh.gone", ""),
        Member::dir("var/old/"),
        Member::file("var/old/.wh..wh..opq", ""),
        Member::file("var/old/above", "above\n").owner(7, 8),
        Member::symlink("etc/link", "kept"),
    ];
    Image::new().layer(&lower).layer_as(&upper, Compression::Zstd, ZSTD)
}

/// Serves an image as a registry does, at `a:1`.
pub fn serve(image: &Image) -> (Server, String) {
    let server = Server::start();
    let manifest = image.manifest_bytes();
    for (bytes, _) in &image.layers {
        server.put(&format!("/v2/a/blobs/{}", Digest::of(bytes)), bytes.clone());
    }
    let config = image.config_bytes();
    server.put(&format!("/v2/a/blobs/{}", Digest::of(&config)), config);
    server.put(&format!("/v2/a/manifests/{}", Digest::of(&manifest)), manifest.clone());
    server.put("/v2/a/manifests/1", manifest);
    let reference = format!("{}/a:1", server.address());
    (server, reference)
}

pub fn project(reference: &str, more: &str) -> Project {
    Project::new().file(
        "sandboxes.kdl",
        &format!(
            "layer \"base\" {{ from \"{reference}\"; }}\n\
             layer \"app\" {{ file \"/etc/own\" content=\"own\\n\"; {more} }}\n\
             sandbox \"s\" {{ layers \"base\" \"app\"; env OWN=\"2\"; }}\n"
        ),
    )
}

/// The manifest that the store lists for sandbox `s`.
fn manifest(project: &Project) -> Value {
    let index: Value = json(&project.read("cache/index.json"));
    let first = index["manifests"][0]["digest"].as_str().unwrap().to_owned();
    let document = blob(project, &first);
    match document["manifests"][0]["digest"].as_str() {
        Some(inner) => blob(project, inner),
        None => document,
    }
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn blob(project: &Project, digest: &str) -> Value {
    json(&project.read(&format!("cache/blobs/sha256/{}", digest.trim_start_matches("sha256:"))))
}

fn layers(manifest: &Value) -> Vec<String> {
    let layers = manifest["layers"].as_array().unwrap();
    layers.iter().map(|layer| layer["digest"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn layers_of_a_base_are_reused_as_they_are_and_its_config_is_inherited() {
    let image = image();
    let home = tempfile::tempdir().unwrap();
    image.write(home.path(), "1");
    let registry = Registry::start();
    let layout = format!("{}:1", home.path().display());
    let reference = registry.push(&layout, "team/base:1", &[]);
    let project = project(&reference, "");
    let id = project.build();
    let lock = project.read("sbx.lock");
    assert!(lock.contains("team/base:1") && !lock.contains("127.0.0.1"), "{lock}");
    let manifest = manifest(&project);
    let base: Vec<String> =
        image.layers.iter().map(|(bytes, _)| Digest::of(bytes).to_string()).collect();
    assert_eq!(layers(&manifest)[..2], base);
    assert_eq!(manifest["layers"][1]["mediaType"], ZSTD);
    let config = blob(&project, manifest["config"]["digest"].as_str().unwrap());
    let ids: Vec<String> = image.diff_ids.iter().map(Digest::to_string).collect();
    let found = config["rootfs"]["diff_ids"].as_array().unwrap();
    assert!(found.iter().zip(&ids).all(|(found, id)| found == id), "{found:?}");
    let process = &config["config"];
    assert_eq!(process["Env"], serde_json::json!(["PATH=/opt/bin:/usr/bin", "BASE=1", "OWN=2"]));
    assert_eq!(process["Cmd"], serde_json::json!(["/bin/sh"]));
    assert_eq!((&process["WorkingDir"], &process["Labels"]["a"]), (&"/srv".into(), &"b".into()));

    // others find the image whole
    let inspected = tool("skopeo", &["inspect", &format!("oci:{}:s", project.cache().display())]);
    assert!(inspected.contains(&base[0]), "{inspected}");
    let copy = home.path().join("copy");
    let from = format!("oci:{}:s", project.cache().display());
    tool("skopeo", &["--insecure-policy", "copy", &from, &format!("oci:{}:s", copy.display())]);

    // the same elsewhere, and what would be pushed names the base's own blobs
    let compressed = project.sbx(&["--json", "build", "s", "--compress"]).success();
    let pushed = blob(&project, json(&compressed.stdout)["manifest"].as_str().unwrap());
    assert_eq!(layers(&pushed)[..2], base);
    let other = self::project(&reference, "");
    other.write("sbx.lock", &lock);
    assert_eq!(other.sbx(&["build", "s", "--locked"]).success().answer(), id);
}

#[test]
fn trees_of_a_base_are_what_its_layers_say() {
    let (_server, reference) = serve(&image());
    let project = project(&reference, "");
    project.build();
    let tree = |diff_id: &Digest| {
        let digest = diff_id.hex();
        let trees = fs::read_dir(project.cache().join("trees")).unwrap();
        let maps = trees.map(|entry| entry.unwrap().path().join(&digest[..32]));
        maps.into_iter().find(|path| path.is_dir()).unwrap()
    };
    let (lower, upper) = (tree(&image().diff_ids[0]), tree(&image().diff_ids[1]));
    let meta = |path: &std::path::Path| fs::symlink_metadata(path).unwrap();
    assert_eq!(meta(&lower.join("etc/tool")).ino(), meta(&lower.join("etc/also")).ino());
    assert_eq!(meta(&lower.join("etc/tool")).permissions().mode() & 0o7777, 0o4755);
    assert_eq!(meta(&lower.join("etc/kept")).mtime(), 1_600_000_000);
    assert_eq!(meta(&upper.join("etc/gone")).rdev(), 0);
    assert_eq!(meta(&upper.join("etc")).permissions().mode() & 0o7777, 0o711);
    let above = meta(&upper.join("var/old/above"));
    assert_eq!((above.uid(), above.gid()), (7, 8));
    // the base's last word on a directory stands, whatever is laid into it
    let last: Digest = layers(&manifest(&project)).last().unwrap().parse().unwrap();
    assert_eq!(meta(&tree(&last).join("etc")).permissions().mode() & 0o7777, 0o711);
    assert!(!tree(&last).join("var").exists(), "nothing else is restated");
}

#[test]
fn what_is_known_asks_nothing_of_the_registry() {
    let (server, reference) = serve(&image());
    let project = project(&reference, "");
    let id = project.build();
    let blobs = server.requests().iter().filter(|one| one.path().contains("/blobs/")).count();
    assert_eq!(blobs, 3, "a config and two layers, each once");
    server.forget_requests();
    assert_eq!(project.build(), id);
    project.sbx(&["lock"]).success();
    let text = project.read("sandboxes.kdl");
    project.write("sandboxes.kdl", &text.replace("content=\"own", "content=\"new"));
    assert_ne!(project.build(), id, "a file was edited");
    project.sbx(&["--offline", "build", "s"]).success();
    assert_eq!(server.total_hits(), 0, "{:?}", server.requests());
}

#[test]
fn a_tag_moves_when_it_is_told_to() {
    let (server, reference) = serve(&image());
    let project = project(&reference, "");
    let id = project.build();
    let moved = Image::new().layer(&[Member::file("etc/new", "new\n")]);
    let now = Digest::of(&moved.manifest_bytes()).to_string();
    for version in ["1", &now] {
        server.put(&format!("/v2/a/manifests/{version}"), moved.manifest_bytes());
    }
    for bytes in [moved.config_bytes(), moved.layers[0].0.clone()] {
        server.put(&format!("/v2/a/blobs/{}", Digest::of(&bytes)), bytes);
    }
    assert_eq!(project.build(), id, "the lock holds");
    project.sbx(&["lock", "--check"]).success().says("has moved").says(&now);
    project.sbx(&["lock", "--update", "base"]).success();
    assert_ne!(project.build(), id);
    assert!(project.read("sbx.lock").contains(&now));
    let outcome = project.sbx(&["lock", "--check"]).success();
    assert!(!outcome.stderr.contains("has moved"), "{}", outcome.stderr);
    let pinned = self::project(&format!("{}/a@{now}", server.address()), "");
    pinned.build();
}

#[test]
fn an_image_of_a_layout_on_disk_is_a_base_too() {
    let project = project("oci:images:1", "");
    image().write(&project.dir.path().join("images"), "1");
    project.build();
    assert!(project.read("sbx.lock").contains("oci:images:1"));
    project.write("sandboxes.kdl", &project.read("sandboxes.kdl").replace("images:1", "images:2"));
    project.sbx(&["lock"]).fails(1, &["image `oci:images:2`: the layout has images of the tags 1"]);
}

#[test]
fn a_registry_lets_in_who_has_logged_in() {
    let home = tempfile::tempdir().unwrap();
    image().write(home.path(), "1");
    let registry = Registry::guarded("me", "geheim");
    let layout = format!("{}:1", home.path().display());
    let reference = registry.push(&layout, "a:1", &["--dest-creds", "me:geheim"]);
    let project = project(&reference, "");
    let denied = "does not let strangers have it";
    project.sbx(&["build", "s"]).fails(3, &[denied, "run `docker login"]);
    let login =
        |auth: &str| format!("{{\"auths\":{{\"{}\":{{\"auth\":\"{auth}\"}}}}}}", registry.host);
    project.write(".docker/config.json", &login("bWU6d3Jvbmc="));
    project.sbx(&["build", "s"]).fails(3, &["does not let this user have it"]);
    project.write(".docker/config.json", &login("bWU6Z2VoZWlt"));
    let outcome = project.sbx(&["build", "s"]).success();
    assert!(!outcome.stderr.contains("geheim") && !project.read("sbx.lock").contains("geheim"));
}

#[test]
fn credential_helpers_are_asked_and_not_heard() {
    let home = tempfile::tempdir().unwrap();
    image().write(home.path(), "1");
    let registry = Registry::guarded("me", "geheim");
    let layout = format!("{}:1", home.path().display());
    let reference = registry.push(&layout, "a:1", &["--dest-creds", "me:geheim"]);
    let project = project(&reference, "").file(".docker/config.json", "{\"credsStore\":\"test\"}");
    let helper = home.path().join("docker-credential-test");
    let path = format!("{}:{}", home.path().display(), std::env::var("PATH").unwrap());
    let put = |text: &str| {
        fs::write(&helper, format!("#!/bin/sh\nread -r host; {text}\n")).unwrap();
        fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    };
    put("echo geheim; echo geheim >&2; exit 3");
    let outcome = project.run(&["build", "s"]).env("PATH", &path).outcome();
    let outcome = outcome.fails(3, &["the credential helper `docker-credential-test` ended with"]);
    assert!(!outcome.stderr.contains("geheim"), "{}", outcome.stderr);
    put("echo '{\"Username\":\"me\",\"Secret\":\"geheim\"}'");
    project.run(&["build", "s"]).env("PATH", &path).outcome().success();
}

#[test]
fn a_token_is_for_the_registry_and_for_no_host_that_it_sends_to() {
    let image = image();
    let (server, reference) = serve(&image);
    let (other, _) = serve(&image);
    let realm = format!("Bearer realm=\"{}\",service=\"s\"", server.url("/token"));
    server.put("/token", br#"{"token":"geheim"}"#.to_vec());
    server.script("/v2/a/manifests/1", [Fault::Challenge(realm.clone())]);
    let path = format!("/v2/a/blobs/{}", Digest::of(&image.layers[0].0));
    server.always(&path, Fault::Redirect(other.url(&path).to_string()));
    let project = project(&reference, "");
    project.sbx(&["lock"]).success();
    let asked = server.requests().into_iter().find(|one| one.path() == "/token").unwrap();
    assert!(asked.target.contains("scope=repository%3Aa%3Apull"), "{}", asked.target);
    let config = format!("/v2/a/blobs/{}", Digest::of(&image.config_bytes()));
    let config = server.requests().into_iter().find(|one| one.path() == config).unwrap();
    assert_eq!(config.header("authorization"), Some("Bearer geheim"));
    // at the build, the first blob is what asks for a token
    let second = format!("/v2/a/blobs/{}", Digest::of(&image.layers[1].0));
    server.script(&second, [Fault::Challenge(realm)]);
    project.build();
    assert!(other.total_hits() > 0);
    let leaked = other.requests().into_iter().find(|one| one.header("authorization").is_some());
    assert!(leaked.is_none(), "{leaked:?}");
}

#[test]
fn images_that_are_not_what_they_should_be_are_refused_by_name() {
    let lock = |change: &dyn Fn(&Server, &Image)| {
        let image = image();
        let (server, reference) = serve(&image);
        change(&server, &image);
        project(&reference, "").sbx(&["lock"])
    };
    let served = |text: String| {
        lock(&move |server, _| server.put("/v2/a/manifests/1", text.clone().into_bytes()))
    };
    let manifest = String::from_utf8(image().manifest_bytes()).unwrap();
    let at = "/v2/a/manifests/1";
    lock(&|server, _| server.always(at, Fault::Status(404)))
        .fails(1, &["a:1`", "does not have it"]);
    for status in [401, 403] {
        lock(&|server, _| server.always(at, Fault::Status(status)))
            .fails(3, &["a:1`", "does not let strangers have it", "docker login"]);
    }
    served(manifest.replace(MANIFEST, INDEX))
        .fails(3, &["a:1`", "its manifest says", "and is none"]);
    served(manifest.replace(CONFIG, "application/x-chart")).fails(3, &["an artifact of type"]);
    served("{\"schemaVersion\":1,\"fsLayers\":[]}".to_owned()).fails(3, &["of schema 1"]);
    served("<html>".to_owned()).fails(3, &["a:1`", "no document that can be read"]);
    let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
    served(manifest.replace(GZIP, foreign)).fails(3, &["may not be distributed"]);
    served(manifest.replace(GZIP, "application/x-tar")).fails(3, &["of the unknown form"]);
    let config = Digest::of(&image().config_bytes());
    lock(&|server, _| server.put(&format!("/v2/a/blobs/{config}"), b"{}".to_vec()))
        .fails(3, &["a:1`", "the config has 2 bytes"]);
    let platforms: Vec<String> = ["s390x", "arm"]
        .iter()
        .map(|arch| {
            let entry = descriptor(MANIFEST, manifest.as_bytes());
            entry.replace(
                '}',
                &format!(",\"platform\":{{\"os\":\"linux\",\"architecture\":\"{arch}\"}}}}"),
            )
        })
        .collect();
    served(format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"{INDEX}\",\"manifests\":[{}]}}",
        platforms.join(",")
    ))
    .fails(1, &["not for linux/amd64; there are: linux/arm, linux/s390x"]);
    let (_server, reference) = serve(&Image { architecture: "arm64", ..image() });
    project(&reference, "")
        .sbx(&["lock"])
        .fails(1, &["it is for linux/arm64, not for linux/amd64"]);
}

#[test]
fn layers_that_are_not_what_they_should_be_are_refused_by_name() {
    let build = |image: &Image, change: &dyn Fn(&Server, &str)| {
        let (server, reference) = serve(image);
        change(&server, &format!("/v2/a/blobs/{}", Digest::of(&image.layers[0].0)));
        let project = project(&reference, "");
        let outcome = project.sbx(&["build", "s"]);
        assert!(project.drafts().iter().all(|path| !path.exists()), "nothing is left half made");
        outcome
    };
    let good = image();
    let same_size = vec![0; good.layers[0].0.len()];
    build(&good, &|server, path| server.always(path, Fault::Bytes(same_size.clone())))
        .fails(3, &["base layer `a:1", "gave other bytes"]);
    build(&good, &|server, path| server.always(path, Fault::Bytes(b"short".to_vec())))
        .fails(3, &["base layer `a:1", "gave 5 bytes, expected"]);
    build(&good, &|server, path| server.always(path, Fault::Status(404)))
        .fails(3, &["base layer `a:1", "answers 404"]);
    let mut liar = image();
    liar.diff_ids[0] = Digest::of(b"something else");
    build(&liar, &|_, _| ()).fails(3, &["base layer `a:1", "other bytes than its config says"]);
    for (members, words) in [
        (vec![Member::file("../out", "x")], "out"),
        (vec![Member::symlink("a", "/etc"), Member::file("a/x", "x")], "/a/x"),
        (vec![Member::hardlink("a", "../etc/passwd")], "hard link"),
        (vec![Member::device("null", 0, 0)], "stands for a deletion"),
    ] {
        let hostile = Image::new().layer(&members);
        build(&hostile, &|_, _| ()).fails(3, &["base layer `a:1", words]);
    }
}

#[test]
fn bases_stand_below_everything_and_alone() {
    let faults = |text: &str| {
        let project = Project::new().file("sandboxes.kdl", text);
        project.sbx(&["check"]).fails(1, &[]).stderr
    };
    let two = "layer \"a\" { from \"x\"; }\nlayer \"b\" { from \"y\"; }\nsandbox \"s\" { layers \"a\" \"b\"; }";
    assert!(faults(two).contains("stands on two bases"), "{}", faults(two));
    let above = "layer \"a\" { dir \"/x\"; from \"x\"; }\nsandbox \"s\" { layers \"a\"; }";
    assert!(faults(above).contains("is not the lowest of all"), "{}", faults(above));
    let beside = "layer \"a\" { from \"x\"; }\nlayer \"d\" { debian \"trixie\" { packages \"git\"; }; }\nsandbox \"s\" { layers \"a\" \"d\"; }";
    assert!(faults(beside).contains("let it need layer `a`"), "{}", faults(beside));
    let bad = "layer \"a\" { from \"http://x/y\"; }";
    assert!(faults(bad).contains("no reference to an image"), "{}", faults(bad));
}

#[test]
fn packages_need_a_base_that_has_some_and_is_merged() {
    let (_server, reference) = serve(&image());
    let repo = Repo::new().add(Deb::new("git", "1"));
    repo.publish();
    let text = format!(
        "layer \"base\" {{ from \"{reference}\"; }}\n\
         layer \"d\" needs=\"base\" {{ debian \"trixie\" {{ suites \"trixie\"; key \"key.asc\"; packages \"git\"; }}; }}\n\
         sandbox \"s\" {{ layers \"d\"; }}\n"
    );
    let project = Project::from_repo(&repo).file("sandboxes.kdl", &text);
    project.sbx(&["lock"]).fails(1, &["has no packages of Debian's", "/var/lib/dpkg/status"]);
    let status = "Package: bash\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\n";
    let split = [
        Member::dir("bin/"),
        Member::file("bin/sh", ""),
        Member::dir("usr/"),
        Member::file("var/lib/dpkg/status", status),
    ];
    let (_server, old) = serve(&Image::new().layer(&split));
    project.write("sandboxes.kdl", &text.replace(&reference, &old));
    let said =
        ["/bin is a directory of its own", "Debian's own images are merged from release 12 on"];
    project.sbx(&["lock"]).fails(1, &said);
}

#[test]
fn debian_packages_are_added_to_those_of_a_base() {
    let mut repo = Repo::with_base();
    for deb in [
        Deb::new("hello", "1.0")
            .depends("libhello (>= 1)")
            .conffile("/etc/hello.conf", "greeting=hi\n")
            .program("/bin/hello", "#!/bin/sh\ncat /etc/hello.conf\n")
            .script("postinst", "echo configured > /var/lib/hello"),
        Deb::new("libhello", "1.2").file("/usr/lib/libhello", "lib\n"),
        Deb::new("newer", "1").depends("bash (>= 99)"),
        Deb::new("more", "1").depends("libhello"),
        Deb::new("sourced", "1+b1").field("Source", "source (1)"),
    ] {
        repo.add_later(deb);
    }
    repo.publish();
    let lower = Project::from_repo(&repo).debian_layers(&["", "sourced"]);
    lower.build();
    let registry = Registry::start();
    let layout = format!("{}:s", lower.cache().display());
    let reference = registry.push(&layout, "debian:trixie", &["--format", "v2s2"]);
    let declare = |packages: &str| {
        format!(
            "layer \"base\" {{ from \"{reference}\"; }}\n\
             layer \"d\" needs=\"base\" {{ debian {{ suites \"trixie\"; key \"key.asc\"; packages {packages}; }}; }}\n\
             layer \"r\" needs=\"d\" {{ run \"hello > /said\"; }}\n\
             sandbox \"s\" {{ layers \"d\" \"r\"; }}\n"
        )
    };
    let project = Project::from_repo(&repo).file("sandboxes.kdl", &declare("\"hello\""));
    let id = project.build();
    let lock = project.read("sbx.lock");
    let added: Vec<&str> = lock.lines().filter(|line| line.starts_with("deb ")).collect();
    assert_eq!(added.len(), 2, "{added:?}");
    assert!(lock.lines().any(|line| line.starts_with("base-deb ") && line.contains(" bash ")));
    assert_eq!(project.build(), id);
    let bill = project.sbx(&["sbom", "s"]).success().stdout;
    let deb = "pkg:deb/debian/sourced@1%2Bb1?arch=amd64&distro=debian-13&upstream=source%401";
    assert!(bill.contains(deb) && bill.contains("built package from: source 1\""), "{bill}");
    let said = project.sbx(&["provenance", "s"]).success().stdout;
    let base = lock.lines().find(|line| line.starts_with("base ")).unwrap();
    let manifest = base.split(' ').find(|word| word.starts_with("sha256:")).unwrap();
    let host = reference.split('/').next().unwrap();
    let image = format!("pkg:oci/debian@{manifest}?arch=amd64&repository_url={host}%2Fdebian");
    assert!(said.contains(&image), "{image} is not in {said}");

    let unpacked = project.unpack();
    let rootfs = root(&unpacked);
    let run = |script: &str| chroot(&rootfs, script);
    assert_eq!(run("dpkg --audit"), "");
    assert_eq!(
        run("dpkg-query -W -f '${Status}' hello bash"),
        "install ok installedinstall ok installed"
    );
    assert_eq!(run("hello; cat /said /var/lib/hello"), "greeting=hi\ngreeting=hi\nconfigured\n");
    assert_eq!(run("apt-mark showauto libhello"), "libhello\n");
    run(
        "apt-get check && apt-get -y remove hello && dpkg --purge hello && test ! -e /etc/hello.conf",
    );

    // what was read once is known: neither registry nor layers are asked again
    drop(registry);
    project.write("sandboxes.kdl", &declare("\"hello\" \"more\""));
    project.sbx(&["lock"]).success();
    project.write("sandboxes.kdl", &declare("\"newer\""));
    project.sbx(&["lock"]).fails(1, &["`newer`", "bash"]);
}
