//! What a manifest of a repository lists is not asked for blob by blob; and where a registry lacks what one
//! lists, it is sent all the same.

use crate::support::depot::Depot;
use crate::support::project::Project;
use serde_json::Value;

const LAYERS: usize = 12;

/// A machine with a sandbox of many layers, each with its file.
fn machine(depot: &Depot) -> Project {
    let layer = |at: usize| format!("layer \"l{at}\" {{ files \"l{at}\" into=\"/srv/{at}\"; }}\n");
    let names: String = (0..LAYERS).map(|at| format!(" \"l{at}\"")).collect();
    let layers: String = (0..LAYERS).map(layer).collect();
    let sandbox = format!("sandbox \"s\" {{ layers{names}; reference \"{}/s:1\"; }}\n", depot.host);
    let project = "project \"p\" { platforms \"linux/amd64\" \"linux/arm64\"; }\n";
    let machine = Project::new().file("sandboxes.kdl", &format!("{project}{layers}{sandbox}"));
    (0..LAYERS).for_each(|at| machine.write(&format!("l{at}/file"), &format!("{at}\n")));
    machine.sbx(&["build", "s", "--platform", "linux/amd64"]).success();
    machine
}

fn edit(machine: &Project, text: &str) {
    machine.write("l3/file", text);
    machine.sbx(&["build", "s", "--platform", "linux/amd64"]).success();
}

/// Pushes, and answers what was there, sent, and asked for by its digest.
fn push(machine: &Project, depot: &Depot, more: &[&str]) -> (u64, u64, usize) {
    depot.forget();
    let said = machine.sbx(&[&["--json", "push", "s"], more].concat()).success().stdout;
    let answer: Value = serde_json::from_str(&said).unwrap();
    let count = |what: &str| answer["blobs"][what].as_u64().unwrap();
    (count("there"), count("sent"), depot.count("HEAD", "/blobs/"))
}

#[test]
fn after_an_edit_only_what_is_new_is_asked_for() {
    let depot = Depot::start();
    let (one, all) = (machine(&depot), LAYERS as u64 + 1);
    assert_eq!(push(&one, &depot, &[]), (0, all, LAYERS + 1));
    let others = all - 2;
    // the tag still names what was there before
    edit(&one, "edit 2\n");
    assert_eq!(push(&one, &depot, &[]), (others, 2, 2));
    assert_eq!(depot.count("GET", "/manifests/"), 1);
    // another tag names nothing yet, but something went there before
    edit(&one, "edit 3\n");
    assert_eq!(push(&one, &depot, &[&format!("{}/s:2", depot.host)]), (others, 2, 2));
    // another machine sees what the tag names, and nothing of what went to another one
    let two = machine(&depot);
    edit(&two, "edit 4\n");
    assert_eq!(push(&two, &depot, &["--compression", "zstd"]), (0, all, LAYERS + 1));
    edit(&two, "edit 5\n");
    assert_eq!(push(&two, &depot, &["--compression", "zstd"]), (others, 2, 2));
    let three = machine(&depot);
    edit(&three, "edit 6\n");
    assert_eq!(push(&three, &depot, &[&format!("{}/s:3", depot.host)]).2, LAYERS + 1);
}

#[test]
fn an_index_lists_what_its_images_do() {
    let depot = Depot::start();
    let one = machine(&depot);
    one.sbx(&["build", "s", "--platform", "linux/arm64"]).success();
    push(&one, &depot, &[]);
    edit(&one, "edit 2\n");
    one.sbx(&["build", "s", "--platform", "linux/arm64"]).success();
    // one layer for both, and a config for each; the second image finds the layer there
    let layers = LAYERS as u64;
    assert_eq!(push(&one, &depot, &[]), (2 * layers - 1, 3, 4));
    assert_eq!(depot.count("GET", "/manifests/"), 3);
    assert_eq!(push(&one, &depot, &[]), (0, 0, 0));
    assert_eq!(depot.count("PUT", "") + depot.count("POST", ""), 0);
}

#[test]
fn what_is_listed_and_gone_is_sent_again() {
    let depot = Depot::start();
    let one = machine(&depot);
    push(&one, &depot, &[]);
    let manifest: Value = serde_json::from_slice(&depot.manifest("s", "1").unwrap()).unwrap();
    let gone = manifest["layers"][7]["digest"].as_str().unwrap();
    depot.drop_blob("s", gone);
    edit(&one, "edit 2\n");
    let (there, sent, asked) = push(&one, &depot, &[]);
    assert_eq!((there, sent, asked), (LAYERS as u64 - 1, 3, 2 + LAYERS + 1));
    assert!(depot.blob("s", gone).is_some());
    assert_eq!(depot.count("PUT", "/manifests/"), 2);
    // what a tag names may be anything
    for odd in ["", "{}", "{\"layers\":[{\"digest\":1}]}", "{\"layers\":[]}"] {
        depot.put("s", "1", odd.into());
        edit(&one, odd);
        assert_eq!(push(&one, &depot, &[]).2, LAYERS + 1, "{odd}");
    }
}
