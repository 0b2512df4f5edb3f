//! `npm` over a project that an earlier recipe lays, and files out of npm's packages.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use serde_json::{Value, json};

use crate::support::git::Repository;
use crate::support::project;
use crate::support::project::{Project, root};
use crate::support::registry::{Package, Registry};
use crate::support::tool;

fn registry() -> Registry {
    Registry::of([
        Package::new("left", "1.0.0").bin("left", "cli.js").file("cli.js", "#!/bin/sh\n"),
        Package::new("left", "1.1.0").file("index.js", "newer\n"),
        Package::new("@s/assets", "2.0.0").file("css/a.css", "a {}\n").file("b.txt", "b\n"),
    ])
}

/// What the registry says of a version's tarball.
fn integrity(registry: &Registry, name: &str, version: &str) -> String {
    let text = get_text(&format!("{}{name}", registry.url()));
    let document: Value = serde_json::from_str(&text).unwrap();
    document["versions"][version]["dist"]["integrity"].as_str().unwrap().to_owned()
}

/// The body of a small document.
fn get_text(url: &str) -> String {
    String::from_utf8(get(url)).unwrap()
}

fn get(url: &str) -> Vec<u8> {
    let client = sbx::fetch::Client::new(sbx::fetch::ClientConfig::default());
    client.get("a document", &[url.parse().unwrap()], 1 << 20).unwrap().bytes
}

/// A project with a workspace that asks for `left`.
fn files(registry: &Registry, version: &str) -> Vec<(String, String)> {
    let manifest = json!({"name": "top", "version": "1.0.0", "workspaces": ["packages/*"],
        "dependencies": {"left": version}});
    let inner = json!({"name": "w", "version": "1.0.0", "bin": {"w": "w.js"}});
    let bin = json!({"left": "cli.js"});
    let lock = json!({"name": "top", "version": "1.0.0", "lockfileVersion": 3, "packages": {
        "": manifest,
        "node_modules/left": {"version": version, "bin": bin,
            "integrity": integrity(registry, "left", version)},
        "node_modules/w": {"resolved": "packages/w", "link": true},
        "packages/w": {"version": "1.0.0", "bin": {"w": "w.js"}},
    }});
    let text = |value: &Value| serde_json::to_string_pretty(value).unwrap();
    vec![
        ("app/package.json".to_owned(), text(&manifest)),
        ("app/package-lock.json".to_owned(), text(&lock)),
        ("app/packages/w/package.json".to_owned(), text(&inner)),
        ("app/packages/w/w.js".to_owned(), "#!/bin/sh\n".to_owned()),
    ]
}

fn commit(repository: &Repository, files: &[(String, String)]) -> String {
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    repository.commit(&files)
}

fn project(registry: &Registry, recipes: &str) -> Project {
    let text = format!("layer \"l\" {{ {recipes} }}\nsandbox \"s\" {{ layers \"l\"; }}\n");
    Project::new()
        .file("sandboxes.kdl", &text)
        .var("SBX_MIRROR_NPM", &registry.url())
        .var("GIT_CONFIG_COUNT", "1")
        .var("GIT_CONFIG_KEY_0", "safe.directory")
        .var("GIT_CONFIG_VALUE_0", "*")
}

fn check(laid: &Path) {
    assert!(laid.join("node_modules/left/package.json").is_file());
    let link = fs::read_link(laid.join("node_modules/w")).unwrap();
    assert_eq!(link, Path::new("../packages/w"));
    assert!(laid.join("node_modules/w/w.js").is_file());
    let command = fs::read_link(laid.join("node_modules/.bin/w")).unwrap();
    assert_eq!(command, Path::new("../w/w.js"));
}

#[test]
fn the_lock_of_a_fetched_project_is_read_out_of_its_tree() {
    let registry = registry();
    let repository = Repository::new();
    commit(&repository, &files(&registry, "1.0.0"));
    let url = repository.url();
    let whole = format!("git {url:?} rev=\"main\" into=\"/srv\"; npm at=\"/srv/app\";");
    let part = format!(
        "git {url:?} rev=\"main\" into=\"/srv/app\" subdirectory=\"app\"; npm omit=\"dev\";"
    );
    for recipes in [&whole, &part] {
        let project = project(&registry, recipes);
        project.build();
        check(&root(&project.unpack()).join("srv/app"));
    }
    // a branch that moves takes what was read of it along
    let project = project(&registry, &whole);
    project.build();
    commit(&repository, &files(&registry, "1.1.0"));
    project.sbx(&["lock", "--update", "app"]).fails(1, &["`app`"]);
    let name = repository.path().file_name().unwrap().to_str().unwrap();
    project.sbx(&["lock", "--update", name]).success();
    assert!(project.read("sbx.lock").contains(" left 1.1.0 "), "{}", project.read("sbx.lock"));
    project.sbx(&["build", "s", "--locked"]).success();
    let missing = format!("git {url:?} rev=\"main\" into=\"/srv\"; npm;");
    let fails = self::project(&registry, &missing);
    fails.sbx(&["lock"]).fails(1, &["/package.json` does not exist"]);
    let outside = format!("git {url:?} rev=\"main\" into=\"/srv\"; npm at=\"/opt\";");
    self::project(&registry, &outside).sbx(&["check"]).fails(1, &["no recipe before lays"]);
}

#[test]
fn a_digest_that_a_lock_does_not_say_is_asked_for_once_and_pinned() {
    let registry = registry();
    let repository = Repository::new();
    let mut files = files(&registry, "1.0.0");
    let digest = integrity(&registry, "left", "1.0.0");
    let edit = |text: &str, edit: &dyn Fn(&mut Value)| {
        let mut lock: Value = serde_json::from_str(text).unwrap();
        edit(&mut lock["packages"]["node_modules/left"]);
        lock.to_string()
    };
    files[1].1 = edit(&files[1].1, &|left| drop(left.as_object_mut().unwrap().remove("integrity")));
    commit(&repository, &files);
    let url = repository.url();
    let project = project(
        &registry,
        &format!("git {url:?} rev=\"main\" into=\"/srv\"; npm at=\"/srv/app\";"),
    );
    project.sbx(&["lock"]).success().says("1 packages of the lock have no `integrity`");
    let pinned = sbx::digest::Integrity::parse_sri(&digest).unwrap().to_string();
    assert!(project.read("sbx.lock").contains(&format!(" left 1.0.0 {pinned} ")));
    project.build();
    check(&root(&project.unpack()).join("srv/app"));
    files[1].1 = edit(&files[1].1, &|left| left["version"] = json!("1.0.9"));
    commit(&repository, &files);
    project.sbx(&["lock", "--update"]).fails(1, &["no `left` 1.0.9", "1.1.0"]);
}

#[test]
fn the_lock_of_an_archives_project_is_read_out_of_it() {
    let registry = registry();
    let home = tempfile::tempdir().unwrap();
    for (path, text) in files(&registry, "1.0.0") {
        let full = home.path().join("top").join(path);
        fs::create_dir_all(full.parent().unwrap()).unwrap();
        fs::write(full, text).unwrap();
    }
    let tar = home.path().join("t.tgz");
    let dir = home.path().to_str().unwrap();
    tool("tar", &["-C", dir, "-czf", tar.to_str().unwrap(), "top"]);
    let bytes = fs::read(&tar).unwrap();
    let digest = sbx::digest::Digest::of(&bytes);
    let recipes = format!(
        "archive \"t.tgz\" digest=\"{digest}\" into=\"/srv/app\" strip=1 subdirectory=\"app\"; npm;"
    );
    let project = project(&registry, &recipes).file("none", "");
    fs::write(project.dir.path().join("t.tgz"), bytes).unwrap();
    project.build();
    check(&root(&project.unpack()).join("srv/app"));
}

#[test]
fn a_tarball_in_a_laid_project_is_taken_out_of_its_source() {
    let registry = registry();
    let packed = get(registry.server.url("/@s/assets/-/assets-2.0.0.tgz").as_str());
    let manifest = json!({"name": "top", "version": "1.0.0",
        "dependencies": {"@s/assets": "file:vendor/a.tgz"}});
    let lock = json!({"name": "top", "version": "1.0.0", "lockfileVersion": 3, "packages": {
        "": manifest,
        "node_modules/@s/assets": {"version": "2.0.0", "resolved": "file:vendor/a.tgz",
            "integrity": integrity(&registry, "@s/assets", "2.0.0")},
    }});
    let repository = Repository::new();
    fs::create_dir_all(repository.path().join("app/vendor")).unwrap();
    fs::write(repository.path().join("app/vendor/a.tgz"), packed).unwrap();
    let files = [("app/package.json", manifest), ("app/package-lock.json", lock)];
    let files = files.map(|(path, value)| (path.to_owned(), value.to_string()));
    commit(&repository, &files);
    let recipes = format!(
        "git {:?} rev=\"main\" into=\"/srv/app\" strip=1 {{ exclude \"/vendor\"; }}; npm;",
        repository.url()
    );
    // what is not taken of the source, the project does not have
    self::project(&registry, &recipes)
        .sbx(&["lock"])
        .fails(1, &["`vendor/a.tgz`", "which the source of the project does not have"]);
    let recipes = recipes.replace(" { exclude \"/vendor\"; }", "");
    let project = project(&registry, &recipes);
    let image = project.build();
    let check = |project: &Project| {
        let unpacked = project.unpack();
        let laid = root(&unpacked).join("srv/app/node_modules/@s/assets/css/a.css");
        assert_eq!(fs::read_to_string(laid).unwrap(), "a {}\n");
    };
    check(&project);
    assert!(project.read("sbx.lock").contains("/app/vendor/a.tgz"), "{}", project.read("sbx.lock"));
    // the lock alone says where it is
    fs::remove_dir_all(project.cache()).unwrap();
    assert_eq!(project.sbx(&["build", "s", "--locked"]).success().answer(), image);
    check(&project);
}

#[test]
fn files_come_out_of_npms_packages() {
    let registry = registry();
    let recipes = "files \"css\" from=\"npm:@s/assets@2.0.0\" into=\"/www\";";
    let project = project(&registry, recipes);
    project.build();
    let image = project.unpack();
    assert_eq!(fs::read_to_string(root(&image).join("www/a.css")).unwrap(), "a {}\n");
    assert!(!root(&image).join("www/b.txt").exists());
    let gone = "files \".\" from=\"npm:@s/assets@3.0.0\" into=\"/www\";";
    self::project(&registry, gone).sbx(&["lock"]).fails(1, &["@s/assets", "3.0.0", "2.0.0"]);
    let git = "files \".\" from=\"git:x\" into=\"/www\";";
    self::project(&registry, git).sbx(&["check"]).fails(1, &["npm:NAME@VERSION", "`git`"]);
}

#[test]
fn files_come_out_of_another_layer() {
    let text = "layer \"low\" ship=#false { file \"/opt/low\" content=\"low\\n\" mode=0o755; file \"/opt/both\" content=\"low\\n\"; }
layer \"stage\" needs=\"low\" ship=#false { file \"/opt/both\" content=\"high\\n\" replace=#true; file \"/opt/t.txt\" content=\"t\\n\"; link \"/opt/to\" to=\"/opt/both\"; }
layer \"l\" { needs \"stage\"; files \"/opt\" from=\"layer:stage\" into=\"/srv\" owner=\"33:33\" { exclude \"*.txt\"; }; files \"/opt/t.txt\" from=\"layer:stage\" into=\"/etc/name\"; }
sandbox \"s\" { layers \"l\"; }\n";
    let project = Project::new().file("sandboxes.kdl", text);
    project.build();
    let unpacked = project.unpack();
    let root = root(&unpacked);
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!((read("srv/low"), read("srv/both")), ("low\n".to_owned(), "high\n".to_owned()));
    assert_eq!(fs::read_link(root.join("srv/to")).unwrap(), Path::new("/opt/both"));
    assert_eq!(read("etc/name"), "t\n");
    assert!(!root.join("srv/t.txt").exists() && !root.join("opt").exists());
    let meta = fs::metadata(root.join("srv/low")).unwrap();
    assert_eq!((meta.permissions().mode() & 0o7777, meta.uid()), (0o755, 33));
    // an edit of the stage is an edit of what comes out of it
    project.write("sandboxes.kdl", &text.replace("high", "higher"));
    project.build();
    let again = project.unpack();
    let both = project::root(&again).join("srv/both");
    assert_eq!(fs::read_to_string(both).unwrap(), "higher\n");
    let fails = |how: &str, texts: &[&str]| {
        let text = text.replace("layer \"l\" { needs \"stage\"; files \"/opt\"", how);
        Project::new().file("sandboxes.kdl", &text).sbx(&["build", "s"]).fails(1, texts);
    };
    fails("layer \"l\" { files \"/opt\"", &["does not need `stage`"]);
    fails("layer \"l\" { needs \"stage\"; files \"opt\"", &["is not absolute"]);
    fails("layer \"l\" { needs \"stage\"; files \"/nowhere\"", &["has nothing of what is meant"]);
}
