//! Registries without TLS that are not on this machine: spoken to where somebody says so, and only there.

use std::fs;

use crate::support::depot::Depot;
use crate::support::project::{Outcome, Project};

const NAME: &str = "registry.test";

/// A machine on which that name is the depot's.
fn machine(depot: &Depot) -> (Project, String) {
    let machine = Project::new()
        .file(
            "sandboxes.kdl",
            "layer \"own\" { files \"own\" into=\"/srv/own\"; }\nsandbox \"s\" { layers \"own\"; }\n",
        )
        .file("own/file", "own\n")
        .file("hosts", &format!("127.0.0.1 localhost {NAME}\n"));
    let port = depot.host.rsplit_once(':').unwrap().1;
    (machine, format!("{NAME}:{port}"))
}

fn run(machine: &Project, arguments: &[&str]) -> Outcome {
    let hosts = machine.dir.path().join("hosts");
    machine.run(arguments).mounts(&format!("mount --bind {} /etc/hosts", hosts.display())).outcome()
}

#[test]
fn plain_http_is_spoken_where_somebody_says_so() {
    let depot = Depot::start();
    let (machine, host) = machine(&depot);
    let (image, cache) = (format!("{host}/team/s:1"), format!("{host}/team/cache"));
    let take = ["--json", "build", "s", "--cache-from", &cache, "--trust-cache"];
    run(&machine, &take).success().says("https://registry.test");
    assert_eq!(depot.asked().len(), 0, "nothing is said in the clear");
    let id = machine.build();
    run(&machine, &["push", "s", &image, "--plain-http"]).success();
    run(&machine, &["pull", &image, "--plain-http"]).success();

    // for every command, those included that have no such option
    let settings = machine.dir.path().join(".config/sbx/settings.kdl");
    fs::create_dir_all(settings.parent().unwrap()).unwrap();
    fs::write(&settings, format!("plain-http \"{host}\"\n")).unwrap();
    run(&machine, &["pull", &image]).success();
    run(&machine, &["build", "s", "--cache-to", &cache]).success();
    fs::remove_dir_all(machine.cache()).unwrap();
    let said = run(&machine, &take).success().stdout;
    let answer: serde_json::Value = serde_json::from_str(&said).unwrap();
    assert_eq!((answer["image"].as_str(), &answer["cache"]["taken"]), (Some(&*id), &1.into()));

    fs::write(&settings, "plain-http \"http://registry.test/\"\n").unwrap();
    run(&machine, &["pull", &image]).fails(1, &["is no registry: `HOST` or `HOST:PORT`"]);
}
