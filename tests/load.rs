//! Images into engines: only what is missing travels, and it runs there.

use std::fs;
use std::path::Path;

use crate::support::deb::{Member, tar_of};
use crate::support::depot::Depot;
use crate::support::docker::Engine;
use crate::support::is_full;
use crate::support::oci::Registry;
use crate::support::podman::Podman;
use crate::support::project::{Project, root};
use crate::support::repo::{Deb, Repo};
use sbx::digest::Digest;
use sbx::engine::EngineAddress;
use sbx::image::save::Saved;
use sbx::image::{ImageLayer, write_image};
use sbx::plan::ImageSpec;
use sbx::platform::Platform;
use sbx::ship::Docker;
use sbx::store::{Key, Store};
use serde_json::{Value, json};

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// Debian's smallest system, so that there is something to run.
fn runnable() -> (Repo, Project) {
    let repo = Repo::with_base().add_all([Deb::new("greeter", "1.0-1")
        .program("/usr/bin/greet", "#!/bin/sh\necho hello from the image\n")]);
    repo.publish();
    let project = Project::from_repo(&repo).debian_layers(&["greeter"]);
    let text = project.read("sandboxes.kdl").replace(
        "layers \"l0\";",
        "layers \"l0\" \"own\"; command \"/usr/bin/greet\"; reference \"tests/pushed:7\";",
    );
    let own = "layer \"own\" needs=\"l0\" { files \"own\" into=\"/srv/own\"; }\n";
    let project = project.file("sandboxes.kdl", &(own.to_owned() + &text)).file("own/a", "a\n");
    (repo, project)
}

#[test]
fn docker_gets_what_it_lacks_and_runs_it() {
    let (_repo, project) = runnable();
    project.build();
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start(home.path());
    let load = || {
        let run = project.run(&["--json", "load", "s"]).env("DOCKER_HOST", engine.host());
        parse(&run.outcome().success().stdout)
    };
    let greet = |image: &str| engine.docker(&["run", "--rm", "--network", "none", image]);
    let first = load();
    let all = first["layers"].as_u64().unwrap();
    assert!(all > 2, "{first}");
    assert_eq!(greet("tests/pushed:7"), "hello from the image\n");
    assert_eq!(load()["way"], "there");
    project.write("own/a", "b\n");
    project.build();
    let edited = load();
    // with it goes what lies above
    assert_eq!(edited["way"], "archive", "{edited}");
    assert!(edited["layers"].as_u64().unwrap() < all && edited["bytes"].as_u64() < Some(10_000));
    let shown = ["run", "--rm", "--network", "none", "tests/pushed:7", "/bin/cat", "/srv/own/a"];
    assert_eq!(engine.docker(&shown), "b\n");

    // and through a registry
    let registry = Registry::start();
    let reference = format!("{}/tests/pushed:8", registry.host);
    project.sbx(&["push", "s", &reference]).success();
    engine.docker(&["rmi", "tests/pushed:7"]);
    engine.docker(&["pull", "--quiet", &reference]);
    assert_eq!(greet(&reference), "hello from the image\n");
    let puller = Project::new().file("sandboxes.kdl", "");
    puller.sbx(&["pull", &reference]).success();
    let said = puller.sbx(&["run", &reference]).success().stdout;
    assert!(said.contains("hello from the image"), "{said}");
    let unpacked = project.unpack();
    assert!(root(&unpacked).join("srv/own/a").exists());

    pulls_from_loopback(&engine, home.path());
    let load = |project: &Project, name: &str| {
        let run = project.run(&["--json", "load", name]).env("DOCKER_HOST", engine.host());
        let answer = parse(&run.outcome().success().stdout);
        answer["reference"].as_str().unwrap().to_owned()
    };
    let id = |name: &str| engine.docker(&["image", "inspect", "--format", "{{.Id}}", name]);
    is_loaded_by_digest(&Depot::start(), load, id);
}

/// As engines on containerd's store do, which are not on every machine.
fn pulls_from_loopback(engine: &Engine, home: &Path) {
    let store = Store::open(&home.join("store")).unwrap();
    let spec = ImageSpec::of_image(Platform::Amd64, &[("cmd", vec!["/bin/sh".to_owned()])]);
    let layer = |name: &str| {
        let tar = tar_of(&[Member::file(name, name)]);
        let diff_id = store.put_blob(&tar).unwrap();
        let record = store.put_layer(&Key(Digest::of(name.as_bytes())), diff_id).unwrap();
        ImageLayer { record, created_by: name.to_owned(), comment: String::new() }
    };
    let address = EngineAddress::of_host(engine.host()).unwrap();
    let docker = Docker::find(&address, &store).unwrap();
    for layers in [vec![layer("a")], vec![layer("a"), layer("b")]] {
        let record = write_image(&store, &spec, &layers).unwrap();
        let (store, platform) = (&store, Platform::Amd64);
        let saved = Saved { store, record: &record, platform, reference: "team/parts:1" };
        docker.load_by_registry(&saved, "geheim").unwrap();
        let format = ["--no-trunc", "--format", "{{.Repository}}:{{.Tag}} {{.ID}}"];
        let listed = engine.docker(&[&["images"], &format[..]].concat());
        assert!(listed.contains(&format!("team/parts:1 {}", record.image)), "{listed}");
        assert!(!listed.contains("/team/parts"), "the name that it was lent under: {listed}");
    }
}

/// What was pulled by its digest moves no tag of the engine's; answers the names that it gets there.
fn is_loaded_by_digest(
    depot: &Depot,
    load: impl Fn(&Project, &str) -> String,
    id: impl Fn(&str) -> String,
) {
    let one = Project::new().file(
        "sandboxes.kdl",
        "layer \"l\" { file \"/a\" content=\"a\"; }\nsandbox \"s\" { layers \"l\"; }\n",
    );
    let name = format!("{}/team/digests", depot.host);
    let push = |text: &str| {
        one.write("sandboxes.kdl", &one.read("sandboxes.kdl").replace("content=\"a\"", text));
        one.build();
        let said = one.sbx(&["--json", "push", "s", &name]).success().stdout;
        parse(&said)["digest"].as_str().unwrap().to_owned()
    };
    let older = push("content=\"a\"");
    push("content=\"b\"");
    let puller = Project::new().file("sandboxes.kdl", "");
    puller.sbx(&["pull", &name]).success();
    load(&puller, &name);
    let latest = id(&format!("{name}:latest"));
    let exactly = format!("{name}@{older}");
    puller.sbx(&["pull", &exactly]).success();
    let named = load(&puller, &exactly);
    assert_eq!(named, format!("{name}:{}", older.trim_start_matches("sha256:")));
    assert_ne!(id(&named), latest);
    assert_eq!(id(&format!("{name}:latest")), latest, "nobody's tag moves");
}

#[test]
fn containerds_store_gets_what_it_lacks_and_docker_runs_it() {
    if !is_full() {
        return eprintln!("not tried: `tests/run --full` makes a system with such a docker");
    }
    let (_repo, project) = runnable();
    let build = || parse(&project.sbx(&["--json", "build", "s"]).success().stdout);
    let built = build();
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start_on_containerd(home.path());
    let load = || {
        let run = project.run(&["--json", "load", "s"]).env("DOCKER_HOST", engine.host());
        parse(&run.outcome().success().stdout)
    };
    let run = |words: &[&str]| {
        let options = ["run", "--rm", "--network", "none", "tests/pushed:7"];
        engine.docker(&[&options, words].concat())
    };
    // it knows an image by its manifest, which names the config
    let is_there = |built: &Value| {
        let known = parse(&engine.docker(&["image", "inspect", "tests/pushed:7"]))[0].take();
        let layers = built["layers"].as_array().unwrap();
        let layers: Vec<&Value> = layers.iter().map(|layer| &layer["diff_id"]).collect();
        assert_eq!(known["RootFS"]["Layers"], json!(layers));
        let manifest = known["Id"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let manifest = project.cache().join("blobs/sha256").join(manifest);
        let manifest = parse(&fs::read_to_string(manifest).unwrap());
        assert_eq!(manifest["config"]["digest"], built["image"]);
    };
    let travelled = |loaded: &Value| {
        (loaded["way"].as_str().unwrap().to_owned(), loaded["layers"].as_u64().unwrap())
    };

    let first = load();
    let all = built["layers"].as_array().unwrap();
    assert_eq!(travelled(&first), ("registry".to_owned(), all.len() as u64));
    let sizes = all.iter().map(|layer| layer["size"].as_u64().unwrap());
    assert_eq!(first["bytes"], json!(sizes.sum::<u64>()));
    is_there(&built);
    assert_eq!(run(&[]), "hello from the image\n");
    assert_eq!(travelled(&load()), ("there".to_owned(), 0));

    project.write("own/a", "b\n");
    let built = build();
    let edited = load();
    assert_eq!(travelled(&edited), ("registry".to_owned(), 1), "the layer of the edit");
    assert!(edited["bytes"].as_u64() < Some(10_000), "{edited}");
    is_there(&built);
    assert_eq!(run(&["/bin/cat", "/srv/own/a"]), "b\n");
    let listed = engine.docker(&["images", "--format", "{{.Repository}}"]);
    assert!(!listed.contains("127.0.0.1"), "the name that it was lent under is gone: {listed}");

    // another platform's comes in as well
    let other = Project::new().file(
        "sandboxes.kdl",
        "project \"p\" { platforms \"linux/arm64\"; }\n\
         layer \"l\" { file \"/a\" content=\"a\"; }\n\
         sandbox \"s\" { layers \"l\"; reference \"tests/other:1\"; }\n",
    );
    let platform = ["--platform", "linux/arm64"];
    other.sbx(&[&["build", "s"], &platform[..]].concat()).success();
    let run = other.run(&[&["--json", "load", "s"], &platform[..]].concat());
    let loaded = parse(&run.env("DOCKER_HOST", engine.host()).outcome().success().stdout);
    assert_eq!(travelled(&loaded), ("registry".to_owned(), 1));
    let format = ["image", "inspect", "--format", "{{.Architecture}}", "tests/other:1"];
    assert_eq!(engine.docker(&format), "arm64\n");

    // an instance's image comes in an archive, of which this store makes a manifest of its own
    engine.docker(&["rmi", "tests/pushed:7"]);
    let instance = project.run(&["run", "--launcher", "docker", "s"]);
    let said = instance.env("DOCKER_HOST", engine.host()).outcome().success();
    assert_eq!(said.stdout, "hello from the image\n");

    // where it does not reach this machine, all of an image goes
    drop(engine);
    let engine = Engine::start_apart(home.path());
    let run = project.run(&["--json", "load", "s"]).env("DOCKER_HOST", engine.host());
    let outcome = run.outcome().success().says("it gets the whole image");
    let layers = built["layers"].as_array().unwrap().len() as u64;
    assert_eq!(travelled(&parse(&outcome.stdout)), ("archive".to_owned(), layers));
    let options = ["run", "--rm", "--network", "none", "tests/pushed:7"];
    assert_eq!(engine.docker(&options), "hello from the image\n");
}

#[test]
fn podman_gets_what_it_lacks_and_runs_it() {
    let (_repo, project) = runnable();
    let image = project.build();
    let home = tempfile::tempdir().unwrap();
    let podman = Podman::new(home.path());
    let loading = |project: &Project, name: &str| {
        let run = project.run(&["--json", "load", name, "--engine", "podman"]);
        run.env("PATH", &podman.path()).outcome()
    };
    let load = || parse(&loading(&project, "s").success().stdout);
    let run = |words: &[&str]| podman.run("localhost/tests/pushed:7", words);
    assert_eq!((&load()["way"], run(&[])), (&"registry".into(), "hello from the image\n".into()));
    let id = podman.podman(&["images", "--no-trunc", "--quiet", "localhost/tests/pushed:7"]);
    assert_eq!(id.trim(), image);
    project.write("own/a", "b\n");
    project.build();
    load();
    assert_eq!(run(&["/bin/cat", "/srv/own/a"]), "b\n");
    let listed = || podman.podman(&["images", "--format", "{{.Repository}}"]);
    assert!(!listed().contains("127.0.0.1"), "the name that it was lent under: {}", listed());

    let registry = Registry::start();
    let reference = format!("{}/tests/pushed:8", registry.host);
    project.sbx(&["push", "s", &reference]).success();
    podman.podman(&["pull", "--quiet", "--tls-verify=false", &reference]);
    assert_eq!(podman.run(&reference, &["/bin/cat", "/srv/own/a"]), "b\n");
    podman.podman(&["rmi", &reference]);

    let load = |project: &Project, name: &str| {
        let answer = parse(&loading(project, name).success().stdout);
        answer["reference"].as_str().unwrap().to_owned()
    };
    let id = |name: &str| podman.podman(&["image", "inspect", "--format", "{{.Id}}", name]);
    let depot = Depot::start();
    is_loaded_by_digest(&depot, load, id);
    podman.podman(&["rmi", "--all", "--force"]);
    podman.break_command("tag");
    loading(&project, "s").fails(3, &["the engine says"]);
    assert_eq!(listed(), "", "what got no name is gone");
}
