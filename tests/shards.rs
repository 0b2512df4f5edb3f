//! `build --shard I/N`: machines that know nothing of each other divide a project's images between them.

use std::collections::BTreeSet;

use crate::support::project::Project;
use crate::support::user::User;
use serde_json::Value;

/// Three families, each over layers of its own: all steps weigh alike, so most of an image is its family's.
fn project() -> Project {
    let mut text = String::new();
    for family in ["a", "b", "c"] {
        for at in 0..4 {
            text += &format!("layer \"{family}{at}\" {{ dir \"/{family}{at}\"; }}\n");
        }
        for member in ["x", "y"] {
            text += &format!(
                "layer \"{family}-{member}\" {{ files \"own\" into=\"/{family}/{member}\"; }}\n\
                 sandbox \"{family}{member}\" {{ layers \"{family}0\" \"{family}1\" \"{family}2\" \"{family}3\" \"{family}-{member}\"; }}\n"
            );
        }
    }
    let project = Project::new().file("sandboxes.kdl", &text).file("own/f", "f");
    project.sbx(&["lock"]).success();
    project
}

/// The sandboxes that a share builds, in an empty store.
fn share(project: &Project, shard: &str) -> BTreeSet<String> {
    let store = tempfile::tempdir().unwrap();
    let cache = store.path().to_str().unwrap();
    let arguments = ["build", "--all", "--locked", "--json", "--shard", shard, "--cache", cache];
    sandboxes(&project.sbx(&arguments).success().stdout).into_iter().collect()
}

fn sandboxes(said: &str) -> Vec<String> {
    let answers = serde_json::Deserializer::from_str(said).into_iter::<Value>();
    answers.map(|answer| answer.unwrap()["sandbox"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn every_image_is_built_by_one_machine_and_families_stay_together() {
    let project = project();
    let shares: Vec<BTreeSet<String>> =
        ["1/3", "2/3", "3/3"].map(|shard| share(&project, shard)).into();
    let families: BTreeSet<Vec<String>> =
        shares.iter().map(|share| share.iter().cloned().collect()).collect();
    let expected = ["a", "b", "c"].map(|family| vec![format!("{family}x"), format!("{family}y")]);
    assert_eq!(families, BTreeSet::from(expected));
    let elsewhere = self::project();
    assert_eq!(share(&elsewhere, "2/3"), shares[1], "another machine deals alike");
    assert_eq!(share(&project, "1/1").len(), 6);
}

#[test]
fn a_share_may_be_empty_and_says_so() {
    let project = Project::new()
        .file("sandboxes.kdl", "sandbox \"s\" { layers \"l\"; }\nlayer \"l\" { dir \"/d\"; }\n");
    let outcome = project.sbx(&["build", "--all", "--shard", "2/2"]).success();
    assert_eq!(outcome.answer(), "");
    outcome.says("nothing falls to share 2/2");
    assert!(
        project
            .sbx(&["build", "--all", "--shard", "1/2"])
            .success()
            .answer()
            .starts_with("sha256:")
    );
}

#[test]
fn what_is_no_share_is_a_wrong_command_line() {
    let project = Project::new().file("sandboxes.kdl", "sandbox \"s\" { }\n");
    for bad in ["0/2", "3/2", "1", "1/0", "x/y", "1/2/3", ""] {
        project.sbx(&["build", "--all", "--shard", bad]).fails(2, &["I/N"]);
    }
}

#[test]
fn an_ordinary_user_is_answered_once() {
    let text: String = ["s", "t", "u"]
        .map(|name| {
            format!("layer \"{name}\" {{ dir \"/{name}\"; }}\nsandbox \"{name}\" {{ layers \"{name}\"; }}\n")
        })
        .concat();
    let project = Project::new().file("sandboxes.kdl", &text);
    let user = User::new();
    project.run(&["build", "s"]).user(&user).outcome().success();
    // what is built is found at once, what is missing takes another process
    let build = |what: &[&str]| {
        let words = [&["--json", "build"], what].concat();
        sandboxes(&project.run(&words).by(&user).outcome().success().stdout)
    };
    assert_eq!(build(&["s", "t"]), ["s", "t"]);
    assert_eq!(build(&["--all", "--shard", "1/1"]), ["s", "t", "u"]);
    assert_eq!(build(&["--all"]), ["s", "t", "u"]);
    project.run(&["clean", "--all"]).user(&user).outcome().success();
}
