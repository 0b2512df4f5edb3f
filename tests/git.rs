//! `git`: what is laid of a commit, its history, and what a repository may try.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::support::git::{Daemon, Repository, git, repacked};
use crate::support::project::{Project, root};

/// A project whose sandbox has one `git` recipe.
fn project(node: &str) -> Project {
    // repositories of the tests belong to whoever runs them; projects have a home of their own
    Project::new()
        .file("sandboxes.kdl", &declared(node))
        .var("GIT_CONFIG_COUNT", "1")
        .var("GIT_CONFIG_KEY_0", "safe.directory")
        .var("GIT_CONFIG_VALUE_0", "*")
}

fn declared(node: &str) -> String {
    format!("layer \"l\" {{ {node}; }}\nsandbox \"s\" {{ layers \"l\"; }}\n")
}

fn pinned(project: &Project) -> Vec<String> {
    let lock = project.read("sbx.lock");
    let line = lock.lines().find(|line| line.starts_with("git ")).unwrap();
    line.split(' ').map(str::to_owned).collect()
}

fn sample() -> (Repository, String) {
    let repository = Repository::new();
    repository.commit(&[("a.txt", "first\n"), ("src/n", "1\n2\n3\n")]);
    std::os::unix::fs::symlink("../outside", repository.path().join("link")).unwrap();
    let program = repository.path().join("run.sh");
    fs::write(&program, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let commit = repository.commit(&[
        (".gitattributes", "hidden export-ignore\n*.txt eol=crlf filter=nasty ident\n"),
        ("hidden", "x\n"),
        ("b.txt", "$Id$\n"),
        ("Case", "1"),
        ("case", "2"),
    ]);
    (repository, commit)
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_commit_is_laid_with_the_bytes_of_its_own_blobs() {
    let (repository, commit) = sample();
    let marker = repository.path().join("../was-run");
    let nasty = format!("touch {}", marker.display());
    repository.git(&["config", "filter.nasty.smudge", &nasty]);
    let url = repository.url();
    let project = project(&format!("git {url:?} rev={commit:?} into=\"/srv/x\""));
    project.build();
    let image = project.unpack();
    let laid = root(&image).join("srv/x");
    assert_eq!(fs::read_to_string(laid.join("a.txt")).unwrap(), "first\n");
    assert_eq!(fs::read_to_string(laid.join("b.txt")).unwrap(), "$Id$\n");
    assert_eq!(fs::read_link(laid.join("link")).unwrap(), Path::new("../outside"));
    assert_eq!((mode(&laid.join("run.sh")), mode(&laid.join("a.txt"))), (0o755, 0o644));
    assert!(
        laid.join("hidden").exists() && laid.join("Case").exists() && laid.join("case").exists()
    );
    assert!(!laid.join(".git").exists() && !marker.exists());
    let pin = pinned(&project);
    assert_eq!(pin[3], commit);
    assert!(!project.read("sbx.lock").contains("file:"));
    let said = project.sbx(&["provenance", "s"]).success().stdout;
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let source = &said["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!(source["digest"]["gitCommit"], commit.as_str());
}

#[test]
fn names_and_abbreviations_mean_commits_and_branches_move_on_demand() {
    let (repository, first) = sample();
    repository.git(&["tag", "light"]);
    repository.git(&["tag", "-a", "-m", "words", "heavy"]);
    repository.git(&["tag", "nested/heavy", "heavy"]);
    let url = repository.url();
    for rev in ["light", "heavy", "nested/heavy", "main", "HEAD", &first[..9], "refs/heads/main"] {
        let project = project(&format!("git {url:?} rev={rev:?} into=\"/x\""));
        project.sbx(&["lock"]).success();
        assert_eq!(pinned(&project)[3], first, "{rev}");
    }
    let branch = project(&format!("git {url:?} rev=\"main\" into=\"/x\""));
    let tag = project(&format!("git {url:?} rev=\"light\" into=\"/x\""));
    branch.sbx(&["lock"]).success();
    tag.sbx(&["lock"]).success();
    let second = repository.commit(&[("a.txt", "second\n")]);
    repository.git(&["tag", "-f", "light"]);
    branch.sbx(&["lock"]).success();
    branch.sbx(&["lock", "--check"]).success();
    assert_eq!(pinned(&branch)[3], first);
    branch.sbx(&["lock", "--update"]).success();
    assert_eq!(pinned(&branch)[3], second);
    // locked, a commit is built though its tag has moved; anew, the move is told
    tag.build();
    tag.sbx(&["lock", "--update", "l"]).success().says("`light` of").says(&first).says(&second);
}

#[test]
fn another_machine_makes_the_same_tree_or_says_why_not() {
    let (repository, commit) = sample();
    let url = repository.url();
    let project = project(&format!("git {url:?} rev=\"main\" into=\"/x\""));
    let image = project.build();
    let forget = || fs::remove_dir_all(project.cache()).unwrap();
    forget();
    project.sbx(&["fetch", "--locked", "--offline"]).fails(3, &["--offline", "sbx fetch"]);
    project.sbx(&["fetch", "--locked"]).success();
    let built = project.sbx(&["build", "s", "--locked", "--offline"]).success();
    assert_eq!(built.answer(), image);
    // other bytes than were locked
    let lock = project.read("sbx.lock");
    let pin = pinned(&project);
    let other = format!("sha256:{}", "0".repeat(64));
    project.write("sbx.lock", &lock.replace(&pin[4], &other));
    forget();
    project.sbx(&["build", "s"]).fails(3, &["another tree than was locked", &other, &pin[4]]);
    // a commit that is gone
    project.write("sbx.lock", &lock);
    repository.git(&["checkout", "-q", "--orphan", "new"]);
    let new = repository.commit(&[("z", "z")]);
    repository.git(&["branch", "-f", "main", "new"]);
    repository.git(&["reflog", "expire", "--expire=all", "--all"]);
    repository.git(&["gc", "-q", "--prune=now"]);
    forget();
    let said =
        ["does not have commit", &commit, &format!("`main` is at {new} now"), "sbx lock --update"];
    project.sbx(&["fetch", "--locked"]).fails(3, &said);
}

#[test]
fn what_is_not_there_is_said_with_what_is() {
    let (repository, _) = sample();
    repository.git(&["tag", "v1.0"]);
    let url = repository.url();
    let fails = |rev: &str, texts: &[&str]| {
        let project = project(&format!("git {url:?} rev={rev:?} into=\"/x\""));
        project.sbx(&["lock"]).fails(1, texts);
        assert!(!project.dir.path().join("sbx.lock").exists());
    };
    fails("v1.1", &[&url, "no commit, tag or branch `v1.1`", "`v1.0`"]);
    fails(&"1".repeat(40), &["1111", "`main` is at"]);
    fails("deadbeef", &["`deadbeef`"]);
    let tree = repository.git(&["rev-parse", "HEAD^{tree}"]);
    fails(&tree, &["is a tree, not a commit"]);
    let nowhere = project("git \"/nonexistent/x.git\" rev=\"v1\" into=\"/x\"");
    nowhere.sbx(&["lock"]).fails(3, &["/nonexistent/x.git", "does not appear to be"]);
    let faults = |node: &str, text: &str| drop(project(node).sbx(&["check"]).fails(1, &[text]));
    faults("git \"ext::sh -c x\" rev=\"v1\" into=\"/x\"", "would run the program");
    faults("git \"-u./x\" rev=\"v1\" into=\"/x\"", "begins with `-`");
    faults("git \"https://h/x\" rev=\"--upload-pack=x\" into=\"/x\"", "is no commit");
    faults("git \"https://h/x\" rev=\"v1\" into=\"/x\" depth=3", "history=#true");
    faults("git \"https://h/x\" rev=\"v1\" into=\"/x\" history=#true strip=1", "a whole tree");
}

#[test]
fn credentials_are_in_no_lock_log_or_error() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://user:hunter2@127.0.0.1:{closed}/x.git?token=hunter2");
    let project = project(&format!("git {url:?} rev=\"v1\" into=\"/x\""));
    let outcome = project.sbx(&["lock"]).fails(3, &["127.0.0.1"]);
    assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.stderr);
    let empty = tempfile::tempdir().unwrap();
    let missing = project.run(&["lock"]).env("PATH", empty.path().to_str().unwrap()).outcome();
    missing.fails(3, &["`git` is not installed", "apt-get install git"]);
}

#[test]
fn a_daemon_that_serves_commits_by_name_and_one_that_says_nothing() {
    let (repository, commit) = sample();
    repository.commit(&[("later", "x")]);
    let daemon = Daemon::serve(repository.path().parent().unwrap());
    let name = repository.path().file_name().unwrap().to_str().unwrap();
    let url = daemon.url(&format!("{name}/.git"));
    let built = |url: &str| {
        let project = project(&format!("git {url:?} rev={commit:?} into=\"/x\""));
        project.build();
        pinned(&project)[3..].join(" ")
    };
    assert_eq!(built(&url), built(&repository.url()));
    // an old server that names no commit but those that its branches end at
    repository.git(&["config", "uploadpack.allowAnySHA1InWant", "false"]);
    let old = project(&format!("git {url:?} rev={commit:?} into=\"/x\""))
        .var("GIT_CONFIG_COUNT", "1")
        .var("GIT_CONFIG_KEY_0", "protocol.version")
        .var("GIT_CONFIG_VALUE_0", "0");
    old.sbx(&["lock"]).success();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let store = sbx::store::Store::open(&old.cache()).unwrap();
    let address = format!("git://{}/x", silent.local_addr().unwrap());
    let text = declared(&format!("git {address:?} rev=\"v1\" into=\"/x\""));
    let quiet = Project::new().file("sandboxes.kdl", &text);
    let declared = sbx::decl::read_project(quiet.dir.path()).unwrap();
    let layer = declared.layers.values().next().unwrap();
    let sbx::decl::Recipe::Git(recipe) = &layer.recipes[0] else { panic!("it is one of git's") };
    let stall = Duration::from_secs(1);
    let workshop = sbx::git::Workshop { store: &store, root: quiet.dir.path(), stall };
    let error = workshop.make(recipe, None).unwrap_err().to_string();
    assert!(error.contains("said nothing for 1 seconds"), "{error}");
}

#[test]
fn submodules_come_from_beside_their_repository_and_from_nowhere_else() {
    let home = tempfile::tempdir().unwrap();
    let (inner, outer) = (home.path().join("inner"), home.path().join("outer"));
    let run = |dir: &Path, arguments: &[&str]| {
        let output = git(dir).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    for dir in [&inner, &outer] {
        fs::create_dir(dir).unwrap();
        run(dir, &["init", "-q", "-b", "main"]);
        fs::write(dir.join("file"), "words\n").unwrap();
        run(dir, &["add", "--all"]);
        run(dir, &["commit", "-q", "-m", "words"]);
    }
    run(&outer, &["submodule", "--quiet", "add", inner.to_str().unwrap(), "deep/sub"]);
    let set = |url: &str| {
        run(&outer, &["config", "--file", ".gitmodules", "submodule.deep/sub.url", url]);
        run(&outer, &["commit", "-q", "-a", "--allow-empty", "-m", "words"]);
    };
    set("../inner");
    let url = format!("file://{}", outer.display());
    let with = project(&format!("git {url:?} rev=\"main\" into=\"/x\" submodules=#true"));
    with.build();
    let image = with.unpack();
    assert_eq!(fs::read_to_string(root(&image).join("x/deep/sub/file")).unwrap(), "words\n");
    let without = project(&format!("git {url:?} rev=\"main\" into=\"/x\" history=#true"));
    without.build();
    let image = without.unpack();
    let laid = root(&image).join("x");
    assert_eq!(fs::read_dir(laid.join("deep/sub")).unwrap().count(), 0);
    assert_eq!(run(&laid, &["status", "--porcelain"]), "");
    for bad in ["ext::sh -c x", "-u./x", "ssh://-oProxyCommand=x/y", "http://h.example.org/x"] {
        set(bad);
        with.sbx(&["lock", "--update"]).fails(1, &["submodule `deep/sub`"]);
    }
}

#[test]
fn hostile_trees_are_refused_by_name() {
    for (name, how) in [("..", "100644"), (".git", "100644"), (".GIT", "100644"), ("a/b", "100644")]
    {
        let repository = Repository::new();
        let commit = repository.hostile(name, how);
        // what git itself would refuse to hand out is no test of this program
        let node = format!("git {:?} rev={commit:?} into=\"/x\"", repository.url());
        project(&node).sbx(&["lock"]).fails(1, &[&format!("`{name}`"), "no checkout may make"]);
    }
    let odd = Repository::new();
    let commit = odd.hostile("pipe", "10644");
    let node = format!("git {:?} rev={commit:?} into=\"/x\"", odd.url());
    project(&node).sbx(&["lock"]).fails(1, &["`pipe` of mode 10644"]);
}

#[test]
fn a_history_is_the_same_bytes_however_a_server_packed_it() {
    let (repository, _) = sample();
    for at in 1..20 {
        let text: String = (0..at * 40).map(|line| format!("line {line}\n")).collect();
        repository.commit(&[("src/n", &text), ("a.txt", &format!("{at}\n"))]);
    }
    repository.git(&["checkout", "-q", "-b", "side", "HEAD~5"]);
    repository.commit(&[("side", "x")]);
    repository.git(&["checkout", "-q", "main"]);
    repository.git(&["merge", "-q", "--no-ff", "-m", "words", "side"]);
    let (_home, copy) = repacked(&repository);
    let urls = [repository.url(), copy.display().to_string()];
    let pins = urls.map(|url| {
        let project = project(&format!("git {url:?} rev=\"main\" into=\"/x\" history=#true"));
        project.sbx(&["lock"]).success();
        pinned(&project)[4].clone()
    });
    assert_eq!(pins[0], pins[1]);
    let url = repository.url();
    let node = format!(
        "user \"ada\" uid=1000; git {url:?} rev=\"main\" into=\"/x\" history=#true branch=\"work\" owner=\"1000:1000\""
    );
    let project = project(&node.replacen("user \"ada\" uid=1000; ", "", 1));
    project.build();
    let image = project.unpack();
    let laid = root(&image).join("x");
    let run = |arguments: &[&str]| {
        let output = git(&laid).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(fs::metadata(&laid).unwrap().uid(), 1000);
    assert_eq!(fs::metadata(laid.join(".git/objects/pack")).unwrap().uid(), 1000);
    assert_eq!(run(&["log", "--format=%H"]), repository.git(&["log", "--format=%H", "main"]));
    assert_eq!(run(&["rev-parse", "--abbrev-ref", "HEAD"]), "work");
    assert_eq!(run(&["fsck", "--full", "--strict"]), "");
    assert_eq!(run(&["remote"]), "");
    // a filter that no machine has is what the attributes ask for; git passes over it
    assert_eq!(run(&["status", "--porcelain"]), "");
    assert_eq!(run(&["show", "HEAD~3:src/n"]), repository.git(&["show", "main~3:src/n"]));
    fs::write(laid.join("src/n"), "edited\n").unwrap();
    assert_eq!(run(&["status", "--porcelain"]), "M src/n");
}

#[test]
fn a_history_may_be_cut_short() {
    let (repository, _) = sample();
    repository.commit(&[("a.txt", "third\n")]);
    let url = repository.url();
    let node = format!("git {url:?} rev=\"main\" into=\"/x\" history=#true depth=2");
    let project = project(&node);
    project.build();
    let image = project.unpack();
    let laid = root(&image).join("x");
    let run = |arguments: &[&str]| {
        let output = git(&laid).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    assert_eq!(run(&["log", "--format=%h"]).lines().count(), 2);
    assert_eq!((run(&["status", "--porcelain"]), run(&["fsck"])), (String::new(), String::new()));
}

#[test]
fn parts_of_a_tree_are_taken_and_nothing_else_is_fetched() {
    let (repository, commit) = sample();
    // of a server that may leave out files, those that are not meant need not even be there
    repository.git(&["config", "uploadpack.allowFilter", "true"]);
    let hidden = repository.git(&["rev-parse", "HEAD:hidden"]);
    let object = format!(".git/objects/{}/{}", &hidden[..2], &hidden[2..]);
    fs::remove_file(repository.path().join(object)).unwrap();
    let url = repository.url();
    let node = |how: &str| format!("git {url:?} rev={commit:?} into=\"/x\" {how}");
    let part = project(&node("{ exclude \"hidden\" \"*.txt\"; }"));
    part.build();
    let image = part.unpack();
    let mut names: Vec<_> = fs::read_dir(root(&image).join("x"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, [".gitattributes", "Case", "case", "link", "run.sh", "src"]);
    let inner = project(&node("subdirectory=\"src\" mode=0o600 owner=\"33:33\""));
    inner.build();
    let image = inner.unpack();
    let file = fs::metadata(root(&image).join("x/n")).unwrap();
    assert_eq!((file.mode() & 0o7777, file.uid()), (0o600, 33));
    project(&node("")).sbx(&["lock"]).fails(3, &["git fetch"]);
}
