//! Images that the lock expects: recorded on demand, held by `--locked`, never claimed of what changed.

use crate::support::project::Project;

fn project() -> Project {
    Project::new()
        .file(
            "sandboxes.kdl",
            "layer \"common\" { files \"common\" into=\"/common\"; }\n\
             layer \"own\" needs=\"common\" { files \"own\" into=\"/own\"; }\n\
             sandbox \"one\" { layers \"common\"; }\n\
             sandbox \"two\" { layers \"own\"; }\n",
        )
        .file("common/a", "a")
        .file("own/b", "b")
}

/// The lock's lines of images, by sandbox.
fn recorded(project: &Project) -> Vec<(String, String)> {
    let lock = project.read("sbx.lock");
    let images = lock.lines().filter(|line| line.starts_with("image "));
    let pair = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        (words[1].to_owned(), words[4].to_owned())
    };
    images.map(pair).collect()
}

fn names(project: &Project) -> Vec<String> {
    recorded(project).into_iter().map(|(name, _)| name).collect()
}

#[test]
fn a_recorded_image_is_held_on_every_machine() {
    let project = project();
    let built = project.sbx(&["build", "--all", "--record"]).success();
    let images: Vec<&str> = built.stdout.lines().collect();
    let expected =
        [("one".to_owned(), images[0].to_owned()), ("two".to_owned(), images[1].to_owned())];
    assert_eq!(recorded(&project), expected);
    let elsewhere = tempfile::tempdir().unwrap();
    let cache = elsewhere.path().to_str().unwrap();
    let again = project.sbx(&["build", "--all", "--locked", "--cache", cache]).success();
    assert_eq!(again.stdout, built.stdout);
    assert_eq!(again.stderr.matches("note").count(), 0, "{}", again.stderr);
    // what is recorded already changes nothing
    let lock = project.read("sbx.lock");
    project.sbx(&["build", "--all", "--record"]).success();
    assert_eq!(project.read("sbx.lock"), lock);
}

#[test]
fn another_image_is_refused_with_both_ids_before_it_gets_its_name() {
    let project = project();
    let image = project.sbx(&["build", "one", "--record"]).success().answer().to_owned();
    let other = format!("sha256:{}", "0".repeat(64));
    project.write("sbx.lock", &project.read("sbx.lock").replace(&image, &other));
    let elsewhere = tempfile::tempdir().unwrap();
    let cache = elsewhere.path().to_str().unwrap();
    for store in [project.cache().to_str().unwrap(), cache, cache] {
        let outcome = project.sbx(&["build", "one", "--locked", "--cache", store]);
        outcome.fails(1, &[&image, &other, "sbx build one --record", "store or cache"]);
    }
    let index = std::fs::read_to_string(elsewhere.path().join("index.json")).unwrap_or_default();
    assert!(!index.contains("\"one\""), "{index}");
    // who does not ask for it is not held to it, and who records says what was there
    project.sbx(&["build", "one"]).success();
    project.sbx(&["build", "one", "--record"]).success().says(&other);
    project.sbx(&["build", "one", "--locked"]).success();
}

#[test]
fn what_was_changed_is_expected_to_be_nothing() {
    let project = project();
    project.sbx(&["build", "--all", "--record"]).success();
    project.write("own/b", "c");
    // a line of what was is no lie about what is
    let outcome = project.sbx(&["build", "--all", "--locked"]).success();
    outcome.says("note: the lock expects nothing of `two`").says("--record");
    assert_eq!(names(&project), ["one", "two"]);
    project.sbx(&["lock"]).success();
    assert_eq!(names(&project), ["one"]);
    project.sbx(&["build", "two", "--record"]).success();
    assert_eq!(names(&project), ["one", "two"]);
    // what is not declared any more is not expected either
    let less = "layer \"common\" { files \"common\" into=\"/common\"; }\n\
                sandbox \"one\" { layers \"common\"; }\n";
    project.write("sandboxes.kdl", less);
    project.sbx(&["lock"]).success();
    assert_eq!(names(&project), ["one"]);
    project.sbx(&["build", "one", "--locked", "--record"]).fails(2, &["--record"]);
}
