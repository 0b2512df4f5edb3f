//! A cache of layers that machines share: who comes second makes nothing; and nobody is made to believe
//! in a layer, or to fail, by what such a cache says.

mod bills;
mod faults;
mod signers;
mod together;

use std::fs;
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};

use crate::support::deb::{Deb, Member, tar_of};
use crate::support::depot::Depot;
use crate::support::oci::{Registry, check_schema};
use crate::support::project::{Outcome, Project};
use crate::support::repo::Repo;
use crate::support::server::Server;
use sbx::digest::Digest;
use sbx::report::sign::{Envelope, PrivateKey};

const KEY: &str = "-----BEGIN PRIVATE KEY-----\n\
    MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgA7fxTbaCurRqYEY9\n\
    EHQZfETWQFU//HTOmwh5VOYBcdKhRANCAASmOTtSt5XBsLV73/GWDQznjIiHaTZ+\n\
    ltsFNmkyfRFwTaoCE6RwpphMu09+9U8/25VHJo/1b4KolxZVH+l1IcAi\n\
    -----END PRIVATE KEY-----\n";
const STATEMENT: &str = "dev.sbx.layer.statement";
const TYPE: &str = "application/vnd.sbx.layer.v1+json";

/// Where the archive is that all machines' layers are made of.
struct Origin {
    server: Server,
    _dir: tempfile::TempDir,
    digest: Digest,
}

impl Origin {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let noise: Vec<u8> =
            (0..100_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
        let members = [Member::dir("tool"), Member::file("tool/noise", noise)];
        let bytes = tar_of(&members);
        fs::write(dir.path().join("tool.tar"), &bytes).unwrap();
        Origin { server: Server::serve(dir.path()), digest: Digest::of(&bytes), _dir: dir }
    }

    /// A machine with a store of its own: two layers, of which one has a source.
    fn machine(&self) -> Project {
        let (url, digest) = (self.server.url("tool.tar"), &self.digest);
        let text = format!(
            "layer \"tool\" {{ archive \"{url}\" digest=\"{digest}\" into=\"/opt/tool\" strip=1; }}\n\
             layer \"app\" needs=\"tool\" {{ files \"app\" into=\"/srv/app\"; }}\n\
             sandbox \"s\" {{ layers \"app\"; command \"/srv/app/run\"; }}\n"
        );
        let machine = Project::new().file("sandboxes.kdl", &text).file("app/run", "#!/bin/sh\n");
        with_keys(&machine);
        machine
    }

    /// A machine that has the lock of another.
    fn second(&self, first: &Project) -> Project {
        self.machine().file("sbx.lock", &first.read("sbx.lock"))
    }
}

fn with_keys(machine: &Project) {
    machine.write("key.pem", KEY);
    machine.write("key.pub", &PrivateKey::parse(KEY, None).unwrap().public().to_pem());
    let other = p256::SecretKey::from_slice(&[7; 32]).unwrap();
    let other = p256::pkcs8::EncodePrivateKey::to_pkcs8_pem(&other, Default::default()).unwrap();
    machine.write("other.pem", &other);
    machine.write("other.pub", &PrivateKey::parse(&other, None).unwrap().public().to_pem());
}

fn build(machine: &Project, arguments: &[&str]) -> (Value, Outcome) {
    let outcome = machine.sbx(&[&["--json", "build", "s"], arguments].concat()).success();
    (serde_json::from_str(&outcome.stdout).unwrap(), outcome)
}

/// Where no build sandbox can be had: root without the right to mount.
fn without_sandbox(machine: &Project, arguments: &[&str]) -> Outcome {
    let plain = machine.command(arguments);
    let mut command = Command::new("setpriv");
    command.args(["--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin"]);
    command.arg(plain.get_program()).args(plain.get_args());
    command.current_dir(machine.dir.path()).env_clear();
    command.envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Outcome::new(command.output().unwrap())
}

/// Fills a cache, signed by the machine's key.
fn fill(machine: &Project, cache: &str) -> Value {
    build(machine, &["--cache-to", cache, "--cache-key", "key.pem"]).0
}

fn traffic(answer: &Value) -> (u64, u64) {
    let count = |what: &str| answer["cache"][what].as_u64().unwrap();
    (count("taken"), count("given"))
}

fn forget_store(machine: &Project) {
    fs::remove_dir_all(machine.cache()).unwrap();
}

/// The statement of an entry.
fn statement(manifest: &[u8]) -> Value {
    let manifest: Value = serde_json::from_slice(manifest).unwrap();
    let envelope: Value =
        serde_json::from_str(manifest["annotations"][STATEMENT].as_str().unwrap()).unwrap();
    let payload = BASE64_STANDARD.decode(envelope["payload"].as_str().unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

/// An entry that says something else, signed all the same.
fn signed_anew(manifest: &[u8], change: impl Fn(&mut Value)) -> Vec<u8> {
    let mut said = statement(manifest);
    change(&mut said);
    let key = PrivateKey::parse(KEY, None).unwrap();
    let envelope = Envelope::sign(&key, TYPE, said.to_string().as_bytes()).to_bytes();
    let mut manifest: Value = serde_json::from_slice(manifest).unwrap();
    manifest["annotations"][STATEMENT] = json!(String::from_utf8(envelope).unwrap());
    manifest.to_string().into_bytes()
}

/// The tag whose entry is of the layer with a source, which is the larger one.
fn tag_of_tool(depot: &Depot, repository: &str) -> String {
    let size = |tag: &String| {
        statement(&depot.manifest(repository, tag).unwrap())["size"].as_u64().unwrap()
    };
    depot.tags(repository).into_iter().max_by_key(size).unwrap()
}

#[test]
fn who_comes_second_makes_nothing_and_fetches_no_source() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/team/cache", depot.host);
    let first = origin.machine();
    let made = fill(&first, &cache);
    assert_eq!(traffic(&made), (0, 2));
    for tag in depot.tags("team/cache") {
        check_schema(
            "image-manifest",
            &String::from_utf8(depot.manifest("team/cache", &tag).unwrap()).unwrap(),
        );
    }
    let second = origin.second(&first);
    depot.forget();
    let fetched = origin.server.count("tool.tar");
    let trusted = ["--locked", "--cache-from", &cache, "--cache-trust", "key.pub"];
    let (taken, said) = build(&second, &trusted);
    assert_eq!((traffic(&taken), &taken["image"]), ((2, 0), &made["image"]));
    assert!(!said.stderr.contains("building"), "{}", said.stderr);
    said.says("2 layers from the cache");
    assert_eq!(origin.server.count("tool.tar"), fetched, "no source is needed");
    assert!(taken["layers"].as_array().unwrap().iter().all(|layer| layer["cached"] == true));
    let (manifests, blobs) = (depot.count("GET", "/manifests/"), depot.count("GET", "/blobs/"));
    assert_eq!((manifests, blobs, depot.asked().len()), (2, 4, 6), "one question for each Key");

    // what it took is whole: its trees, and a push that finds the layers where the cache is
    let tar = second.dir.path().join("tar");
    second.sbx(&["save", "s", "--format", "tar", "-o", tar.to_str().unwrap()]).success();
    depot.forget();
    let pushed = second.sbx(&["--json", "push", "s", &format!("{}/team/s:1", depot.host)]);
    let pushed: Value = serde_json::from_str(&pushed.success().stdout).unwrap();
    assert_eq!(
        (&pushed["blobs"]["mounted"], &pushed["blobs"]["sent"]),
        (&2.into(), &1.into()),
        "{pushed}"
    );

    // an edit makes its own layer, and no other
    second.write("app/run", "#!/bin/sh\necho 2\n");
    forget_store(&second);
    let (edited, _) = build(&second, &trusted);
    assert_eq!(traffic(&edited), (1, 0));
    assert_eq!(origin.server.count("tool.tar"), fetched);
}

#[test]
fn an_entry_is_written_once_and_by_whoever_has_the_layer() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/cache", depot.host);
    let first = origin.machine();
    build(&first, &[]);
    // what the store had before is put there, too
    assert_eq!(traffic(&fill(&first, &cache)), (0, 2));
    depot.forget();
    assert_eq!(traffic(&fill(&first, &cache)), (0, 0));
    assert_eq!((depot.count("PUT", ""), depot.count("POST", "")), (0, 0));
    let second = origin.second(&first);
    let both = ["--cache-from", &cache, "--cache-to", &cache, "--cache-key", "key.pem"];
    depot.forget();
    assert_eq!(traffic(&build(&second, &both).0), (2, 0), "one's own key is trusted");
    assert_eq!((depot.count("PUT", ""), depot.count("POST", "")), (0, 0));

    // layers that were pushed are mounted, not sent again
    let third = origin.second(&first);
    build(&third, &[]);
    third.sbx(&["push", "s", &format!("{}/team/s:1", depot.host)]).success();
    depot.forget();
    let other = format!("{}/other/cache", depot.host);
    assert_eq!(traffic(&fill(&third, &other)), (0, 2));
    let mounted = depot.asked().iter().filter(|one| one.query.contains("mount=")).count();
    assert_eq!(mounted, 2);
}

#[test]
fn what_is_not_what_it_says_is_refused_and_made_here() {
    let (origin, depot) = (Origin::new(), Depot::start());
    let cache = format!("{}/c", depot.host);
    let first = origin.machine();
    let made = fill(&first, &cache);
    let tag = tag_of_tool(&depot, "c");
    let good = depot.manifest("c", &tag).unwrap();
    let other = depot.tags("c").into_iter().find(|one| *one != tag).unwrap();
    let second = origin.second(&first);
    fs::create_dir_all(second.cache()).unwrap();
    let trusted = ["--cache-from", &cache, "--cache-trust", "key.pub"];
    let refused = |why: &str| {
        forget_store(&second);
        let (answer, said) = build(&second, &trusted);
        assert_eq!((traffic(&answer), &answer["image"]), ((1, 0), &made["image"]), "{why}");
        said.says(&format!("cache `{cache}` has layer `tool`, not taken: ")).says(why);
        // the next build has nothing to mend
        build(&second, &["--offline"]).1
    };
    depot.put("c", &tag, depot.manifest("c", &other).unwrap());
    refused("is an entry of Key sha256:");
    depot.put("c", &tag, b"{\"layers\":[]}".to_vec());
    refused("is no entry of a cache");
    let lies = |change: &dyn Fn(&mut Value)| depot.put("c", &tag, signed_anew(&good, change));
    // signed, and wrong: by a machine that is broken, or a key that is stolen
    lies(&|said| said["diffId"] = json!(Digest::of(b"other")));
    refused("its tar has other bytes than were promised");
    lies(&|said| said["size"] = json!(1024));
    refused("its tar has other bytes than were promised");
    lies(&|said| said["size"] = json!(1u64 << 50));
    refused("it is to unpack from");
    lies(&|said| said["platform"] = json!("linux/arm64"));
    refused("is an entry of linux/arm64");
    let small = statement(&depot.manifest("c", &other).unwrap());
    lies(&|said| said["layer"] = small["layer"].clone());
    refused("its tar has other bytes than were promised");
    lies(&|said| said["listing"] = small["listing"].clone());
    refused("disagree at");
    // more than the tar can hold, and less than would be read
    let mark = [&[1, 0, 0, 0, b'a'][..], &[0; 24], b"w"].concat();
    let bytes = [&b"sbxlst1\n"[..], &mark.repeat(10_000)].concat();
    let packed = zstd::encode_all(&*bytes, 3).unwrap();
    depot.put_blob("c", &Digest::of(&packed).to_string(), &packed);
    lies(&|said| {
        said["listing"]["digest"] = json!(Digest::of(&packed));
        said["listing"]["size"] = json!(packed.len());
    });
    refused("its listing is damaged");
    // whoever may write mends it
    forget_store(&second);
    let writing = ["--cache-to", &cache, "--cache-key", "key.pem"];
    let (mended, _) = build(&second, &[&trusted[..], &writing].concat());
    assert_eq!(traffic(&mended), (1, 1));
    assert_eq!(depot.manifest("c", &tag).unwrap(), good);
    depot.spoil("c", statement(&good)["layer"]["digest"].as_str().unwrap());
    refused("expected sha256:");
}

#[test]
fn who_may_not_write_reads_and_docker_registry_serves() {
    let origin = Origin::new();
    let registry = Registry::guarded("me", "geheim");
    let cache = format!("{}/team/cache", registry.host);
    let project = format!(
        "project \"p\" {{ cache-from \"{cache}\" key=\"key.pub\"; cache-to \"{cache}\"; }}\n"
    );
    let first = origin.machine();
    first.write("sandboxes.kdl", &(project.clone() + &first.read("sandboxes.kdl")));
    let (made, said) = build(&first, &["--cache-key", "key.pem"]);
    assert_eq!(traffic(&made), (0, 0));
    said.says("does not let strangers read there").says("does not let strangers write there");
    let login = format!("{{\"auths\":{{\"{}\":{{\"auth\":\"bWU6Z2VoZWlt\"}}}}}}", registry.host);
    first.write(".docker/config.json", &login);
    assert_eq!(traffic(&build(&first, &["--cache-key", "key.pem"]).0), (0, 2));
    let second = origin.second(&first).file(".docker/config.json", &login);
    second.write("sandboxes.kdl", &first.read("sandboxes.kdl"));
    let (taken, _) = build(&second, &["--locked"]);
    assert_eq!((traffic(&taken), &taken["image"]), ((2, 0), &made["image"]));
    // who has no key writes nothing
    second.write("app/run", "#!/bin/sh\necho 2\n");
    assert_eq!(traffic(&build(&second, &[]).0), (0, 0));
}

#[test]
fn settles_and_commands_come_from_the_cache_with_what_they_saw() {
    let repo = Repo::with_base().add(Deb::new("greeter", "1.0-1").file("/etc/greeting", "hello\n"));
    repo.publish();
    let depot = Depot::start();
    let cache = format!("{}/cache", depot.host);
    let machine = || {
        let machine = Project::from_repo(&repo).debian_layers(&["greeter"]);
        let layers = "layer \"stage\" needs=\"l0\" ship=#false { run \"cp /etc/greeting /built\"; }\n\
             layer \"app\" needs=\"stage\" { run \"cat /built >/made\"; }\n\
             sandbox \"t\" { layers \"l0\" \"app\"; }\n";
        let text = machine.read("sandboxes.kdl").replace("sandbox \"s\"", "sandbox \"l\"");
        machine.write("sandboxes.kdl", &(text + &layers.replace("\"t\"", "\"s\"")));
        with_keys(&machine);
        machine
    };
    let first = machine();
    let made = fill(&first, &cache);
    // content, settle, the stage that nobody ships, and the command
    assert_eq!(traffic(&made), (0, 4));
    let second = machine().file("sbx.lock", &first.read("sbx.lock"));
    let before = second.server().count("");
    let trusted = ["--locked", "--cache-from", &cache, "--cache-trust", "key.pub"];
    let arguments = [&["--json", "build", "s"], &trusted[..]].concat();
    let said = without_sandbox(&second, &arguments).success();
    let taken: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!((traffic(&taken), &taken["image"]), ((3, 0), &made["image"]));
    assert!(!said.stderr.contains("building"), "{}", said.stderr);
    assert_eq!(second.server().count(""), before, "nothing is fetched");

    // what the cache does not have is made, which takes a sandbox
    let third = machine().file("sbx.lock", &first.read("sbx.lock"));
    assert_eq!(without_sandbox(&third, &["build", "s"]).code, Some(3));

    // a new command over layers that were never made here
    let text = second.read("sandboxes.kdl").replace("cat /built >/made", "cat /built >/other");
    second.write("sandboxes.kdl", &text);
    let (edited, said) = build(&second, &trusted);
    assert_eq!(traffic(&edited), (1, 0), "{}", said.stderr);
    assert_eq!(second.server().count(""), before, "nothing is fetched");
    let image = second.unpack();
    let other = crate::support::project::root(&image).join("other");
    assert_eq!(fs::read_to_string(other).unwrap(), "hello\n");
}

#[test]
fn a_project_says_where_its_cache_is() {
    let project = |text: &str| {
        Project::new().file("sandboxes.kdl", &format!("project \"p\" {{ {text}; }}\n"))
    };
    let refused = |text: &str, why: &str| {
        project(text).sbx(&["check"]).fails(1, &[why]);
    };
    refused("cache-from \"r.example.org/c:1\"", "leave tag and digest out");
    refused("cache-from \"R/c/\"", "is no reference");
    refused("cache-from", "`cache-from` needs repositories of registries");
    refused("cache-to \"a/b\" \"c/d\"", "`cache-to`");
    refused("cache-from \"a/b\" keys=\"k\"", "keys");
    refused("cache-from \"a/b\"; cache-from \"a/b\"", "cache `a/b` is declared twice");
    refused("cache-to \"a/b\"; cache-to \"a/c\"", "`cache-to` is declared twice");
    refused("cache-form \"a/b\"", "cache-from");
    let origin = Origin::new();
    let machine = origin.machine();
    let fails = |arguments: &[&str], why: &[&str]| {
        machine.sbx(&[&["build", "s"], arguments].concat()).fails(1, why);
    };
    fails(&["--cache-key", "key.pem"], &["none is named", "`--cache-to`"]);
    fails(&["--cache-from", "a/b", "--cache-trust", "none"], &["key none: "]);
    fails(&["--cache-to", "a/b", "--cache-key", "key.pub"], &["it is no private key"]);
    let nowhere = "says whose layers are taken out of a cache, and none is named";
    fails(&["--cache-trust", "key.pub"], &["`--cache-trust`", nowhere, "`--cache-from`"]);
    fails(&["--trust-cache"], &["`--trust-cache`", nowhere, "`cache-from` in `project`"]);
    // a key that is not there is a mistake, and of no weight where no cache is asked
    let image = machine.build();
    let text = machine.read("sandboxes.kdl");
    let named = "project \"p\" { cache-from \"127.0.0.1:1/c\" key=\"keys/gone.pub\"; }\n";
    machine.write("sandboxes.kdl", &(named.to_owned() + &text));
    fails(&[], &["keys/gone.pub: "]);
    machine.sbx(&["check"]).fails(1, &["keys/gone.pub: "]);
    assert_eq!(machine.sbx(&["build", "s", "--offline"]).success().answer(), image);
    // its caches count
    machine.write("sandboxes.kdl", &(named.replace("gone", "cache") + &text));
    machine.write("keys/cache.pub", &machine.read("key.pub"));
    machine.sbx(&["build", "s", "--cache-trust", "other.pub"]).success();
    machine.sbx(&["check"]).success();
    machine.sbx(&["build", "s", "--cache-to", "a/b:1"]).fails(2, &["leave tag and digest out"]);
}
