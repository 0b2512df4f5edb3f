//! Environments from an index of the tests' own: what is chosen, what the lock says, who sees which
//! credential, and what a failure says. Debian's Python is the public archive's.

use std::fs;

use crate::support::git::Repository;
use crate::support::project::{Outcome, Project, root};
use crate::support::pypi::{Form, Index, Package};
use crate::support::trixie::{declared, over_python, patiently};

/// The versions that `sbx lock` has chosen, as `name version`, sorted.
fn wheels(project: &Project) -> Vec<String> {
    let text = project.read("sbx.lock");
    let words = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut wheels: Vec<String> = words
        .filter(|words| words[0] == "wheel")
        .map(|words| format!("{} {}", words[2], words[3]))
        .collect();
    wheels.sort();
    wheels
}

fn locked(project: &Project) -> Outcome {
    patiently(|| project.sbx(&["lock"]))
}

fn at(index: &Index, nodes: &str) -> Project {
    over_python(nodes).var("UV_DEFAULT_INDEX", &index.url())
}

#[test]
fn both_forms_of_an_index_give_the_same_environment() {
    let project = |form| {
        let mut index = Index::start(form);
        index.add(
            Package::new("Top_Level", "1.0")
                .requires("under.neath>=1,<3")
                .script("top", "top_level:main"),
        );
        for version in ["1.0", "2.5", "3.0"] {
            index.add(Package::new("under-neath", version));
        }
        let project = at(&index, "venv \"/opt/venv\" { packages \"top-level\"; }");
        locked(&project).success();
        assert_eq!(wheels(&project), ["top-level 1.0", "under-neath 2.5"]);
        let image = project.build();
        let downloads = index.downloads("top-level");
        index.server.forget_requests();
        assert_eq!(project.build(), image);
        assert_eq!(index.server.total_hits(), 0, "what is locked and stored asks nobody");
        (project, image, downloads)
    };
    let ((json, image, downloads), (html, other, _)) = (project(Form::Json), project(Form::Html));
    assert_eq!(image, other);
    // without metadata beside it, the resolver looks into the wheel
    assert_eq!(downloads, 1, "each wheel is fetched once");
    let lock = json.read("sbx.lock");
    // an HTML page says no sizes
    assert_eq!(wheels(&html), wheels(&json));
    assert!(!lock.contains("127.0.0.1"), "{lock}");
    let dir = json.unpack_below(&["opt/venv"]);
    let packages = root(&dir).join("opt/venv/lib/python3.13/site-packages");
    assert!(fs::read_to_string(packages.join("under_neath/__init__.py")).unwrap().contains("2.5"));
    assert!(root(&dir).join("opt/venv/bin/top").exists());
}

#[test]
fn what_is_left_out_is_neither_there_nor_recorded() {
    let index = Index::of([Package::new("top", "1.0").script("top", "top:main")]);
    let project = at(&index, "venv \"/opt/venv\" { packages \"top\"; }");
    locked(&project).success();
    let (lock, whole) = (project.read("sbx.lock"), project.build());
    let less = project.read("sandboxes.kdl").replace(
        "packages \"top\";",
        "packages \"top\"; exclude \"bin/top\" \"**/top/\" \"*.dist-info/\";",
    );
    project.write("sandboxes.kdl", &less);
    assert_ne!(project.build(), whole);
    assert_eq!(project.read("sbx.lock"), lock, "what is left out is no question of the lock's");
    let dir = project.unpack_below(&["opt/venv"]);
    let venv = root(&dir).join("opt/venv");
    let packages = venv.join("lib/python3.13/site-packages");
    assert!(!venv.join("bin/top").exists() && !packages.join("top").exists());
    let info = packages.join("top-1.0.dist-info");
    assert!(fs::read_to_string(info.join("METADATA")).unwrap().contains("Name: top"));
    let record = fs::read_to_string(info.join("RECORD")).unwrap();
    assert!(record.contains("METADATA") && !record.contains("__init__.py"), "{record}");
    assert!(!record.contains("bin/top"), "{record}");
}

#[test]
fn the_nearest_as_of_counts() {
    let index = Index::of([
        Package::new("a", "1").uploaded("2025-01-01"),
        Package::new("a", "2").uploaded("2025-02-01"),
        Package::new("a", "3").uploaded("2025-03-01"),
        Package::new("a", "4").uploaded("2025-04-01"),
    ]);
    let chosen = |project: &str, layer: &str, recipe: &str| {
        let project = declared(&format!(
            "project \"p\" {{ {project} }}\nlayer \"l\" needs=\"debian\" {{ {layer}\nvenv \"/v\" {recipe} {{ packages \"a\"; }}; }}\n\
             sandbox \"s\" {{ layers \"l\"; }}\n"
        ));
        let project = project.var("UV_DEFAULT_INDEX", &index.url());
        locked(&project).success();
        wheels(&project).concat()
    };
    let project = "as-of \"2025-03-15\" \"pypi\";";
    assert_eq!(chosen("", "", ""), "a 4");
    assert_eq!(chosen(project, "", ""), "a 3");
    assert_eq!(chosen(project, "as-of \"2025-02-15\"", ""), "a 2");
    assert_eq!(chosen(project, "as-of \"2025-02-15\" \"npm\"", ""), "a 3");
    assert_eq!(chosen(project, "as-of \"2025-02-15\"", "as-of=\"2025-01-15\""), "a 1");
}

#[test]
fn a_withdrawn_version_comes_only_where_it_is_meant() {
    let index = Index::of([Package::new("a", "1"), Package::new("a", "2").yanked("it is broken")]);
    let chosen = |package: &str| {
        let project = at(&index, &format!("venv \"/v\" {{ packages \"{package}\"; }}"));
        let said = locked(&project).success().stderr;
        (
            wheels(&project).concat(),
            said.contains("layer `l`: `a==2` is yanked (reason: \"it is broken\")"),
        )
    };
    assert_eq!(chosen("a"), ("a 1".to_owned(), false));
    assert_eq!(chosen("a==2"), ("a 2".to_owned(), true));
}

#[test]
fn what_cannot_be_had_is_said_with_what_can() {
    let index = Index::of([
        Package::new("a", "1"),
        Package::new("a", "1.5").yanked("bad"),
        Package::new("a", "2"),
        Package::new("s", "1").source_only(),
        Package::new("w", "1").tag("cp312-cp312-win_amd64"),
    ]);
    let refused =
        |package: &str| locked(&at(&index, &format!("venv \"/v\" {{ packages \"{package}\"; }}")));
    refused("a==3")
        .fails(1, &["there is no `a` ==3: the index has 2, 1", "declare one that is left: `a==2`"]);
    refused("absent").fails(1, &["no index has a project `absent`"]);
    refused("w").fails(
        1,
        &[
            "package `w` 1 has no wheel for Python 3.13 on x86_64 with glibc 2.41: there is `w-1-cp312-cp312-win_amd64.whl`",
            "take another version of `w`",
        ],
    );
    let hashed =
        "a==1 --hash=sha256:0000000000000000000000000000000000000000000000000000000000000000\n";
    let project = at(&index, "venv \"/v\" requirements=\"r.txt\"").file("r.txt", hashed);
    locked(&project).fails(
        1,
        &[
            "wheel `a-1-py3-none-any.whl` has digest sha256:",
            "and the requirements ask for another",
        ],
    );
    refused("s")
        .fails(1, &["`s` 1 has a source archive only, no wheel", "sbx installs wheels only"]);
}

#[test]
fn a_credential_goes_to_its_own_host_and_nowhere_else() {
    let (mut index, elsewhere) = (Index::start(Form::Json), Index::of([Package::new("b", "1")]));
    index.add(Package::new("a", "1"));
    // the page of `b` leads to another server's file
    let page = elsewhere.page("b");
    let files = elsewhere.server.url("/files/").to_string();
    index.server.put("/simple/b/", page.replace("../../files/", &files));
    let basic = "Basic dXNlcjpzM2NyZXQ=";
    let check = |project: Project| {
        index.server.forget_requests();
        let said = locked(&project).success();
        assert_eq!(wheels(&project), ["a 1", "b 1"]);
        let store = project.dir.path().join("own-store");
        let built =
            project.run(&["build", "s"]).env("SBX_CACHE", store.to_str().unwrap()).outcome();
        for text in [&said.stderr, &project.read("sbx.lock"), &built.stderr] {
            assert!(!text.contains("s3cret") && !text.contains("dXNlcjpzM2NyZXQ"), "{text}");
        }
        let asked = index.server.requests();
        let known = |path: &str| {
            asked
                .iter()
                .filter(|one| one.path().starts_with(path))
                .all(|one| one.header("authorization") == Some(basic))
        };
        assert!(asked.len() >= 2 && known("/simple/") && known("/files/"));
    };
    let nodes = "venv \"/v\" bytecode=#false { packages \"a\" \"b\"; }";
    check(over_python(nodes).var("UV_DEFAULT_INDEX", &index.url_as("user", "s3cret")));
    let netrc = over_python(nodes)
        .file(".netrc", "machine 127.0.0.1 login user password s3cret\n")
        .var("PIP_INDEX_URL", &index.url());
    check(netrc);
    let others = elsewhere.server.requests();
    assert!(others.iter().any(|one| one.path().starts_with("/files/b-1")));
    assert!(
        others.iter().all(|one| one.header("authorization").is_none()),
        "another port is another origin"
    );
}

#[test]
fn a_lock_without_addresses_is_answered_by_name_and_digest() {
    let index = Index::of([Package::new("a", "1")]);
    let page: serde_json::Value = serde_json::from_str(&index.page("a")).unwrap();
    let hex = page["files"][0]["hashes"]["sha256"].as_str().unwrap();
    let lock = format!(
        "lock-version = \"1.0\"\ncreated-by = \"t\"\n[[packages]]\nname = \"a\"\nversion = \"1\"\n\
         wheels = [{{ name = \"a-1-py3-none-any.whl\", hashes = {{ sha256 = \"{hex}\" }} }}]\n"
    );
    let project = at(&index, "venv \"/opt/venv\" lock=\"pylock.toml\"").file("pylock.toml", &lock);
    locked(&project).success();
    project.build();
    assert_eq!(index.downloads("a"), 1);
    let wrong = lock.replace(hex, &"0".repeat(64));
    let project = at(&index, "venv \"/opt/venv\" lock=\"pylock.toml\"").file("pylock.toml", &wrong);
    project.sbx(&["build", "s"]).fails(
        3,
        &[
            "wheel `a 1`: nowhere to fetch it from; what the index has as `a-1-py3-none-any.whl` are other bytes",
            "let what locked it name one that is left",
        ],
    );
    let gone = lock.replace("a-1-py3", "a-0.9-py3").replace("version = \"1\"", "version = \"0.9\"");
    let project = at(&index, "venv \"/opt/venv\" lock=\"pylock.toml\"")
        .file("pylock.toml", &gone.replace(hex, &"1".repeat(64)));
    project
        .sbx(&["build", "s"])
        .fails(3, &["wheel `a 0.9`: nowhere to fetch it from; the index has 1"]);
    let other = lock.replace("py3-none-any", "cp312-cp312-win_amd64");
    let project = at(&index, "venv \"/opt/venv\" lock=\"pylock.toml\"").file("pylock.toml", &other);
    project.sbx(&["build", "s"]).fails(1, &["`a` 1 has no wheel for Python 3.13 on x86_64"]);
}

#[test]
fn a_wheel_that_tries_something_is_refused_by_name_and_nothing_is_left() {
    let built = |package: Package| {
        let index = Index::of([package]);
        let project = at(&index, "venv \"/v\" { packages \"a\"; }");
        locked(&project).success();
        (project.sbx(&["build", "s"]), project.drafts())
    };
    let (outcome, drafts) = built(Package::new("a", "1").file("../x", ""));
    outcome.fails(1, &["a-1-py3-none-any.whl", "member `../x` leads out of its directory"]);
    assert!(drafts.is_empty());
    let twins = Package::new("a", "1").file("a/One.py", "").file("a/one.py", "");
    built(twins).0.fails(1, &["`a/One.py` and `a/one.py` differ in case only"]);
}

#[test]
fn a_wheel_that_has_moved_is_found_by_its_digest() {
    let mut index = Index::of([Package::new("a", "1")]);
    let project = at(&index, "venv \"/opt/venv\" { packages \"a\"; }");
    locked(&project).success();
    let lock = project.read("sbx.lock");
    project.write("sbx.lock", &lock.replace(" files/a-1", " gone/a-1"));
    index.add(Package::new("a", "2"));
    let store = project.dir.path().join("own-store");
    let fetched =
        || project.run(&["fetch", "s"]).env("SBX_CACHE", store.to_str().unwrap()).outcome();
    patiently(fetched).success();
    assert_eq!(index.downloads("a"), 1);
}

#[test]
fn an_update_changes_what_it_names_and_the_difference_is_shown() {
    let mut index = Index::of([Package::new("a", "1"), Package::new("b", "1")]);
    let project = at(&index, "venv \"/v\" { packages \"a\" \"b\"; }");
    locked(&project).success();
    index.add(Package::new("a", "2"));
    index.add(Package::new("b", "2"));
    let before = project.read("sbx.lock");
    let shown = project.sbx(&["lock", "--update", "a", "--diff"]).success();
    assert!(
        shown.stdout.contains("~ a 1 → 2") && !shown.stdout.contains(" b "),
        "{}",
        shown.stdout
    );
    assert_eq!(project.read("sbx.lock"), before, "a difference changes nothing");
    project.sbx(&["lock", "--update", "a"]).success();
    assert_eq!(wheels(&project), ["a 2", "b 1"]);
}

const PROJECT: &str = "[project]\nname = \"My.App\"\nversion = \"1.0\"\ndependencies = [\"a>=1\", \"my-app[more]\"]\n\
    [project.optional-dependencies]\nmore = [\"b\"]\n[project.scripts]\nstart = \"my_app:main\"\n";

#[test]
fn a_project_of_the_layer_is_installed_where_it_lies() {
    let index = Index::of([Package::new("a", "1"), Package::new("b", "2")]);
    let source = "import a, b\ndef main(): print('first', a.version, b.version)\n";
    let recipe = "files \"app\" into=\"/srv/app\"; venv \"/v\" { editable \"/srv/app\"; extras \"more\"; };\n\
                  run \"/v/bin/start >/said; /v/bin/python -c 'import importlib.metadata as m; print(m.version(\\\"my-app\\\"))' >>/said\"";
    let project =
        at(&index, recipe).file("app/pyproject.toml", PROJECT).file("app/src/my_app.py", source);
    locked(&project).success();
    patiently(|| project.sbx(&["build", "s"])).success();
    assert_eq!(wheels(&project), ["a 1", "b 2"]);
    let dir = project.unpack_below(&["v"]);
    let said = || fs::read_to_string(root(&project.unpack_below(&["said"])).join("said")).unwrap();
    assert_eq!(said(), "first 1 2\n1.0\n");
    let packages = root(&dir).join("v/lib/python3.13/site-packages");
    let path = fs::read_to_string(packages.join("__editable__.my_app-1.0.pth")).unwrap();
    assert_eq!(path, "/srv/app/src\n");
    let lock = project.read("sbx.lock");
    project.write("app/src/my_app.py", &source.replace("first", "second"));
    let edited = project.sbx(&["build", "s"]).success();
    assert!(!edited.stderr.contains("building venv"), "an edit touches no environment");
    assert_eq!(said(), "second 1 2\n1.0\n");
    project.write("app/pyproject.toml", &PROJECT.replace("\"1.0\"", "\"1.1\""));
    project.sbx(&["build", "s"]).success();
    assert_eq!(said(), "second 1 2\n1.1\n");
    assert_eq!(project.read("sbx.lock"), lock, "a version asks for nothing else");
    let refused = |recipe: &str, text: &str| {
        at(&index, recipe).file("app/pyproject.toml", text).sbx(&["check"])
    };
    let dynamic = PROJECT.replace("version = \"1.0\"", "dynamic = [\"version\"]");
    refused(recipe, &dynamic).fails(1, &["`pyproject.toml` of /srv/app: its `version` is dynamic"]);
    refused(&recipe.replace("\"more\"", "\"less\""), PROJECT)
        .fails(1, &["no `editable` has an extra `less`"]);
    refused("venv \"/v\" { editable \"/srv/app\"; }", PROJECT)
        .fails(1, &["no `files` lays /srv/app before", "lay the project by `files`"]);
}

#[test]
fn requirements_are_read_out_of_what_the_layer_lays() {
    let mut index = Index::start(Form::Json);
    for name in ["one", "two"] {
        index.add(Package::new(name, "1.0"));
        index.add(Package::new(name, "2.0"));
    }
    let repository = Repository::new();
    repository.commit(&[
        ("app/requirements.txt", "-r more/two.in\none==1.0\n"),
        ("app/more/two.in", "two<2\n"),
        ("app/large.bin", "x"),
    ]);
    let nodes = format!(
        "git {:?} rev=\"main\" into=\"/srv\"\nvenv \"/opt/venv\" requirements=\"/srv/app/requirements.txt\"",
        repository.url()
    );
    let project = at(&index, &nodes)
        .var("GIT_CONFIG_COUNT", "1")
        .var("GIT_CONFIG_KEY_0", "safe.directory")
        .var("GIT_CONFIG_VALUE_0", "*");
    locked(&project).success();
    assert_eq!(wheels(&project), ["one 1.0", "two 1.0"]);
    project.build();
    // a branch that moves takes what was read of it along
    repository.commit(&[("app/requirements.txt", "one==2.0\n")]);
    let name = repository.path().file_name().unwrap().to_str().unwrap();
    project.sbx(&["lock", "--update", name]).success();
    assert_eq!(wheels(&project), ["one 2.0"]);
    project.sbx(&["build", "s", "--locked"]).success();
    let text = project.read("sandboxes.kdl");
    project.write("sandboxes.kdl", &text.replace("/srv/app/req", "/opt/app/req"));
    project.sbx(&["check"]).fails(1, &["no recipe before lays /opt/app/requirements.txt"]);
    project.write("sandboxes.kdl", &text.replace("requirements.txt", "absent.txt"));
    project.sbx(&["lock"]).fails(1, &["/app/absent.txt` does not exist"]);
}
