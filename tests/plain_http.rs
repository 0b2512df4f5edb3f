//! Registries without TLS that are not on this machine: spoken to where somebody says so, and only there.

use std::fs;

use crate::support::depot::Depot;
use crate::support::project::{Outcome, Project};

const NAME: &str = "registry.test";

/// A machine on which that name is the depot's.
fn machine(depot: &Depot) -> (Project, String) {
    let text = "project \"p\"\n\
        layer \"own\" { files \"own\" into=\"/srv/own\"; }\n\
        layer \"far\" { archive \"far.tar\" digest=\"DIGEST\" into=\"/far\"; }\n\
        sandbox \"s\" { layers \"own\" \"far\"; }\n";
    let tar = tar::Builder::new(Vec::new()).into_inner().unwrap();
    let digest = sbx::digest::Digest::of(&tar).to_string();
    let machine = Project::new()
        .file("sandboxes.kdl", &text.replace("DIGEST", &digest))
        .file("own/file", "own\n")
        .file("hosts", &format!("127.0.0.1 localhost {NAME}\n"));
    fs::write(machine.dir.path().join("far.tar"), tar).unwrap();
    let port = depot.host.rsplit_once(':').unwrap().1;
    let host = format!("{NAME}:{port}");
    (machine, host)
}

fn run(machine: &Project, arguments: &[&str]) -> Outcome {
    let hosts = machine.dir.path().join("hosts");
    machine.run(arguments).mounts(&format!("mount --bind {} /etc/hosts", hosts.display())).outcome()
}

#[test]
fn plain_http_is_spoken_where_somebody_says_so() {
    let depot = Depot::start();
    let (machine, host) = machine(&depot);
    machine.build();
    let image = format!("{host}/team/s:1");
    run(&machine, &["push", "s", &image]).fails(3, &["https://registry.test"]);
    assert_eq!(depot.asked().len(), 0, "nothing is said in the clear");
    run(&machine, &["push", "s", &image, "--plain-http"]).success();
    run(&machine, &["pull", &image, "--plain-http"]).success();
    let sources = format!("oci://{host}/team/sources");
    run(&machine, &["vendor", &sources, "--plain-http"]).success();

    // for every command, and what has no such option
    let cache = format!("{host}/team/cache");
    let fill = ["build", "s", "--cache-to", &cache];
    run(&machine, &fill).success().says("https://registry.test");
    let settings = machine.dir.path().join(".config/sbx/settings.kdl");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, format!("plain-http \"{host}\"\n")).unwrap();
    run(&machine, &["pull", &image]).success();
    run(&machine, &fill).success();
    assert!(depot.tags("team/cache").iter().any(|tag| tag.starts_with("key-")));
    fs::remove_file(machine.dir.path().join("far.tar")).unwrap();
    fs::remove_dir_all(machine.cache()).unwrap();
    run(&machine, &["fetch", "s", "--locked"]).fails(1, &["far.tar"]);
    run(&machine, &["fetch", "s", "--locked", "--mirror", &sources]).success();

    fs::write(&settings, "plain-http \"http://registry.test/\"\n").unwrap();
    run(&machine, &["pull", &image]).fails(1, &["is no registry: `HOST` or `HOST:PORT`"]);
}
