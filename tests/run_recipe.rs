//! `run`: what a command sees, what becomes of what it leaves, and what it must not do.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::OnceLock;

use crate::support::project::{Outcome, Project, root};
use crate::support::registry::{Package, Registry};
use crate::support::repo::{BASE_EXTRA, Repo};
use crate::support::tool;
use crate::support::trixie::{over_python, patiently};
use crate::support::user::User;
use serde_json::json;

fn repo() -> &'static Repo {
    static REPO: OnceLock<Repo> = OnceLock::new();
    REPO.get_or_init(|| {
        let repo = Repo::with_base();
        repo.publish();
        repo
    })
}

/// Debian in layer `base`, and what is given.
fn fresh(declarations: &str) -> Project {
    let extra = BASE_EXTRA.map(|name| format!(" \"{name}\"")).concat();
    let base = format!(
        "layer \"base\" {{ debian \"trixie\" {{ suites \"trixie\"; base \"essential\"; key \"key.asc\"; packages{extra}; }}; }}\n"
    );
    Project::from_repo(repo()).file("sandboxes.kdl", &format!("{base}{declarations}\n"))
}

/// A store that has that Debian, in the directory that Cargo keeps for tests.
fn base() -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let built = BUILT.get_or_init(|| {
        let store = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("run-recipe-store");
        let base = fresh("sandbox \"below\" { layers \"base\"; }").store(&store);
        base.sbx(&["build", "below"]).success();
        store
    });
    built.clone()
}

/// Likewise, with Debian in the store already, which is built once for all tests.
fn declared(declarations: &str) -> Project {
    fresh(declarations).stocked(&base())
}

/// Sandbox `s` of a layer `l` with these recipes.
fn project(recipes: &str) -> Project {
    declared(&format!(
        "layer \"l\" needs=\"base\" {{\n{recipes}\n}}\nsandbox \"s\" {{ layers \"l\"; }}"
    ))
}

fn build(recipes: &str) -> Outcome {
    project(recipes).sbx(&["build", "s"])
}

/// The image's tree.
fn built(project: &Project) -> (tempfile::TempDir, PathBuf) {
    project.build();
    let dir = project.unpack();
    let root = root(&dir);
    (dir, root)
}

/// Names in the deltas that commands left, between bars.
fn entries(project: &Project) -> String {
    let answer = project.sbx(&["build", "s", "--json"]).success().stdout;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let layers = answer["layers"].as_array().unwrap().iter();
    let own = layers.filter(|layer| layer["name"] == "l");
    let blobs = own.map(|layer| {
        let digest = layer["diff_id"].as_str().unwrap().trim_start_matches("sha256:");
        project.cache().join("blobs/sha256").join(digest)
    });
    let names = blobs.map(|blob| tool("tar", &["tf", blob.to_str().unwrap()]));
    let names: Vec<String> = names.map(|names| names.trim().replace('\n', " ")).collect();
    names.join(" | ")
}

#[test]
fn what_a_command_changes_is_the_layer_and_nothing_else() {
    let project = project(
        r##"file "/srv/in" content="in\n"
        run #"""
            cat in in >out
            rm /etc/debian_version
            touch /etc/passwd /usr/bin/env
            echo more >>/etc/issue
            mkdir -p empty/deep && ln -s ../out empty/link
            """# cwd="/srv" { env GREETING="hi"; }
        file "/srv/after" content="after\n"
        run "cat in out after >all; rm in" cwd="/srv""##,
    );
    let (_dir, root) = built(&project);
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap();
    assert_eq!(read("srv/out"), "in\nin\n");
    assert_eq!(read("srv/all"), "in\nin\nin\nafter\n");
    assert!(!root.join("etc/debian_version").exists() && !root.join("srv/in").exists());
    assert!(read("etc/issue").ends_with("more\n"));
    assert_eq!(fs::read_link(root.join("srv/empty/link")).unwrap(), PathBuf::from("../out"));
    assert_eq!(
        entries(&project),
        "srv/ srv/in | etc/ etc/.wh.debian_version etc/issue srv/ srv/empty/ srv/empty/deep/ srv/empty/link srv/out | srv/ srv/after | srv/ srv/all srv/.wh.in",
        "what is touched is not changed, and what is the room's own is no change"
    );
    let mtime = fs::metadata(root.join("srv/out")).unwrap().mtime();
    assert_eq!(mtime, 1_735_689_600, "times are the format's");
    for gone in ["etc/hosts", "run/secrets", "tmp/x"] {
        assert!(!root.join(gone).exists(), "{gone}");
    }
}

#[test]
fn the_surroundings_are_the_same_everywhere() {
    let script = "{ env | sort; umask; hostname; id -u; cat /proc/sys/kernel/hostname; date -r /etc/passwd +%Z; ls -A /tmp /run; } >/srv/seen";
    let project = project(&format!(
        "path-prepend \"/opt/bin\"; env LEVEL=\"1\"; run \"{script}\" cwd=\"/srv\" {{ env OWN=\"x\" LANG=\"C\"; }}"
    ));
    let (_dir, root) = built(&project);
    let seen = fs::read_to_string(root.join("srv/seen")).unwrap();
    let seen: Vec<&str> = seen.lines().filter(|line| !line.is_empty()).collect();
    assert_eq!(
        seen.join(" "),
        "CI=1 HOME=/root LANG=C LC_ALL=C.UTF-8 LEVEL=1 LOGNAME=root OWN=x \
         PATH=/opt/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
         PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_INDEX_URL=http://127.0.0.1:4873/-/simple/ PIP_NO_CACHE_DIR=1 PIP_RETRIES=0 PWD=/srv \
         PYTHONDONTWRITEBYTECODE=1 PYTHONHASHSEED=0 SHELL=/bin/sh SOURCE_DATE_EPOCH=1735689600 \
         TERM=dumb TZ=UTC USER=root UV_CACHE_DIR=/tmp/uv UV_DEFAULT_INDEX=http://127.0.0.1:4873/-/simple/ UV_HTTP_RETRIES=0 UV_THREADPOOL_SIZE=1 \
         npm_config_audit=false npm_config_cache=/tmp/npm npm_config_fetch_retries=0 \
         npm_config_fund=false npm_config_manage_package_manager_versions=false npm_config_registry=http://127.0.0.1:4873/ \
         npm_config_replace_registry_host=always npm_config_update_notifier=false \
         0022 sbx 0 sbx UTC /run: lock /tmp:"
    );
}

#[test]
fn a_layer_sees_what_it_needs_and_no_other() {
    let project = declared(
        r#"layer "other" needs="base" { file "/srv/other" content="x"; }
        layer "tools" needs="base" ship=#false { run "mkdir -p /opt/tools; echo built >/opt/tools/t"; }
        layer "l" needs="tools" { git-init "/srv/repo"; run "pwd; ls . >>.git/description"; run "ls /srv /opt/tools >/srv/seen; cp /opt/tools/t /srv/copied" cwd="/"; }
        sandbox "s" { layers "other" "l"; }"#,
    );
    let (_dir, root) = built(&project);
    assert_eq!(
        fs::read_to_string(root.join("srv/seen")).unwrap(),
        "/opt/tools:\nt\n\n/srv:\nrepo\nseen\n"
    );
    assert_eq!(fs::read_to_string(root.join("srv/copied")).unwrap(), "built\n");
    assert!(!root.join("opt/tools").exists(), "a stage that is not shipped is in no image");
    assert!(root.join("srv/other").exists());
}

#[test]
fn a_command_may_not_lay_over_what_it_did_not_see() {
    let outcome = declared(
        r#"layer "other" needs="base" { file "/srv/same" content="x"; }
        layer "l" needs="base" { run "echo y >/srv/same"; }
        sandbox "s" { layers "other" "l"; }"#,
    )
    .sbx(&["build", "s"]);
    outcome.fails(1, &["layers `other` and `l` both bring /srv/same"]);
    let outcome = declared(
        r#"layer "other" needs="base" { file "/srv/x/other" content="x"; }
        layer "l" needs="base" { file "/srv/x/own" content="y"; run "rm -r /srv/x; mkdir /srv/x"; }
        sandbox "s" { layers "other" "l"; }"#,
    )
    .sbx(&["build", "s"]);
    outcome.fails(1, &["layer `l` removes what /srv/x/other of layer `other` lies in"]);
}

#[test]
fn a_failure_shows_the_last_lines_and_where_the_rest_is() {
    let project = project("run \"seq 100; printf '\\\\033[2Jlost\\\\n' >&2; exit 7\"");
    let outcome = project
        .sbx(&["build", "s"])
        .fails(1, &["exit 7` ended with exit code 7:\n", "  100\n  lost\n", "--shell-on-failure"]);
    assert!(!outcome.stderr.contains("\n  70\n"), "only the last lines");
    let log = outcome.stderr.split("the output is in ").nth(1).unwrap();
    let log = fs::read_to_string(log.split_whitespace().next().unwrap()).unwrap();
    assert!(
        log.starts_with("1\n2\n") && log.ends_with("\u{1b}[2Jlost\n"),
        "the log is as it was said"
    );
    let project = self::project("run \"seq 2; yes $(seq 2000) | head -2000; echo end; exit 7\"");
    let outcome = project.sbx(&["build", "s"]).fails(1, &["  end\n"]);
    let log = outcome.stderr.split("the output is in ").nth(1).unwrap();
    let log = fs::read_to_string(log.split_whitespace().next().unwrap()).unwrap();
    assert!(log.starts_with("1\n2\n") && log.ends_with("\nend\n") && log.len() < 9 << 20);
    assert!(log.contains("\nsbx: ") && log.contains(" bytes) are left out here\n"));
    build("run \"sleep 60\" timeout=1").fails(1, &["ended with a timeout"]);
    build("run \"true\" cwd=\"/nowhere\"").fails(1, &["change to `/nowhere`"]);
}

#[test]
fn a_step_ends_with_its_command_whatever_that_started() {
    let project = project(
        r##"run #"""
            sh -c 'trap "" TERM HUP INT; sleep 900; sleep 900' &
            setsid sh -c '(sleep 900; echo late >/srv/late) &' </dev/null >/dev/null 2>&1
            echo done >/srv/done
            """#"##,
    );
    let started = std::time::Instant::now();
    let (_dir, root) = built(&project);
    assert!(root.join("srv/done").exists() && !root.join("srv/late").exists());
    build("run \"trap '' TERM HUP INT ALRM; sleep 900 & sleep 900; sleep 900\" timeout=1")
        .fails(1, &["ended with a timeout"]);
    assert!(started.elapsed() < std::time::Duration::from_secs(600), "nobody is waited for");
}

#[test]
fn however_much_a_command_says_little_is_shown_and_all_is_kept() {
    let many = 30_000_000;
    let outcome = build(&format!(
        "run \"head -c {many} /dev/zero | tr '\\\\0' x; printf '\\\\n\\\\033]0;title\\\\007\\\\033[31mend\\\\n'; exit 3\""
    ));
    let outcome = outcome.fails(1, &["ended with exit code 3", "xxx…\n", "end\n"]);
    let shown = outcome.stderr.len();
    assert!(shown < 100_000 && !outcome.stderr.contains('\u{1b}'), "{shown} bytes are shown");
}

#[test]
fn a_command_that_fills_the_disk_says_so_and_leaves_nothing() {
    let project = project("run \"dd if=/dev/zero of=/srv/big bs=1M count=4000; exit 5\"");
    let small = project.dir.path().join("small");
    // the store, and little more
    let script = format!(
        "mkdir {0}; size=$(du -sm cache | cut -f1); mount -t tmpfs -o size=$((size + 90))m tmpfs {0}; cp -a cache {0}/cache",
        small.display()
    );
    let run = project.run(&["build", "s"]).mounts(&script);
    let outcome = run.env("SBX_CACHE", small.join("cache").to_str().unwrap()).outcome();
    outcome.fails(1, &["No space left on device", "ended with exit code 5"]);
    assert!(project.drafts().is_empty());
}

#[test]
fn an_install_script_that_reaches_for_the_network_is_told() {
    let script = "perl -MSocket -e 'exit 4 if !inet_aton(q(binaries.example.org))'";
    let registry = Registry::of([Package::new("native", "1.0.0").script("postinstall", script)]);
    let mut entry = registry.locked("native", "1.0.0");
    entry["hasInstallScript"] = true.into();
    let manifest = json!({"name": "app", "dependencies": {"native": "1.0.0"}});
    let lock =
        json!({"lockfileVersion": 3, "packages": {"": manifest, "node_modules/native": entry}});
    let project = project("files \"app\" into=\"/app\"; npm scripts=\"native\"")
        .file("app/package.json", &manifest.to_string())
        .file("app/package-lock.json", &lock.to_string())
        .var("SBX_MIRROR_NPM", &registry.url());
    project.sbx(&["build", "s"]).fails(
        1,
        &["it reached for the network (`binaries.example.org`), and a step has none", script],
    );
}

#[test]
fn a_shell_opens_where_a_command_failed() {
    let project = project("run \"echo left >/srv/left; exit 9\" { env OWN=\"mine\"; }");
    let build = format!("{} build s --shell-on-failure", env!("CARGO_BIN_EXE_sbx"));
    let typed = "tty; cat /srv/left; echo $OWN; [ -t 0 ] && echo seated; exit\n";
    let mut script = project.command(&[]);
    let variables: Vec<_> = script
        .get_envs()
        .map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()))
        .collect();
    script = std::process::Command::new("script");
    script.args(["-qec", &build, "/dev/null"]).envs(variables).current_dir(project.dir.path());
    let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // what is typed before there is a shell is not meant for it
    let (mut output, mut said) = (child.stdout.take().unwrap(), Vec::new());
    while !said.ends_with(b"# ") {
        let mut byte = [0];
        assert_eq!(output.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&said));
        said.push(byte[0]);
    }
    child.stdin.take().unwrap().write_all(typed.as_bytes()).unwrap();
    output.read_to_end(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said).replace('\r', "");
    assert!(said.contains("\n/dev/pts/0\nleft\nmine\nseated\n"), "{said}");
    assert!(said.contains("ended with exit code 9"), "the build fails all the same: {said}");
    assert_eq!(child.wait().unwrap().code(), Some(1));
    project.sbx(&["build", "s", "--shell-on-failure"]).fails(1, &["there is no terminal"]);
}

#[test]
fn reaching_for_the_network_is_told() {
    let ask = "perl -MSocket -e 'exit 4 if !inet_aton(q(registry.example.org))'";
    build(&format!("run \"{ask}\"")).fails(
        1,
        &[
            "it reached for the network (`registry.example.org`), and a step has none",
            "declare what it fetches",
        ],
    );
}

#[test]
fn what_no_layer_should_hold_is_an_error_unless_it_is_allowed() {
    let setuid = "cp /bin/true /srv/raised; chmod 4755 /srv/raised";
    build(&format!("run \"{setuid}\"")).fails(
        1,
        &["leaves /srv/raised, which runs with its owner's", "say `allow \"setuid\"` in `run`"],
    );
    let (_dir, root) = built(&project(&format!("run \"{setuid}\" allow=\"setuid\"")));
    assert_eq!(fs::metadata(root.join("srv/raised")).unwrap().mode() & 0o7777, 0o4755);
    // a capability of `ping`'s kind, as `setcap` writes it: version 2, effective, CAP_NET_RAW
    let attribute = "import os; open('/srv/able', 'w').close(); os.setxattr('/srv/able', 'security.capability', bytes.fromhex('0100000200200000000000000000000000000000'))";
    let able = |more: &str| over_python(&format!("run \"python3 -c \\\"{attribute}\\\"\" {more}"));
    let refused = patiently(|| able("").sbx(&["build", "s"]));
    refused.fails(1, &["leaves /srv/able, which runs with capabilities", "say `allow \"setuid\"`"]);
    patiently(|| able("allow=\"setuid\"").sbx(&["build", "s"])).success();
    let socket = "perl -MIO::Socket::UNIX -e 'IO::Socket::UNIX->new(Local => shift, Listen => 1) or die' /srv/s";
    build(&format!("run \"{socket}\"")).fails(1, &["leaves /srv/s, a socket"]);
    let (_dir, root) =
        built(&project(&format!("run \"{socket}; echo x >/srv/x\" allow=\"socket\"")));
    assert!(root.join("srv/x").exists() && !root.join("srv/s").exists());
}

#[test]
fn writes_that_no_layer_could_hold_fail() {
    build("run \"mknod /srv/disk b 8 0\"").fails(1, &["Operation not permitted"]);
    build("run \"echo x >/dev/nul\"").fails(1, &["Read-only file system"]);
    build("run \"echo x >/sys/x\"").fails(1, &["Read-only file system"]);
    build("run \"echo x >/proc/x\"").fails(1, &["ended with exit code"]);
    build("run \"echo x >>/var/lib/dpkg/status\"")
        .fails(1, &["changes /var/lib/dpkg/status, which belongs to `debian` recipes"]);
    build("run \"echo x >>/etc/issue\" { deny \"/etc\"; }")
        .fails(1, &["changes /etc/issue, which its `deny` forbids"]);
}

#[test]
fn secrets_are_shown_to_the_command_and_kept_nowhere() {
    let recipe = |script: &str| {
        format!(
            "run \"{script}\" {{ secret \"token\" env=\"MY_TOKEN\"; secret \"key\" file=\"key.pem\"; }}"
        )
    };
    let project = |script: &str| project(&recipe(script)).file("key.pem", "private-key\n");
    let run = |project: &Project| {
        let build = project.run(&["build", "s"]).env("MY_TOKEN", "s3cret-token");
        build.outcome()
    };
    let good = project(
        "cat /run/secrets/token /run/secrets/key | wc -c >/srv/count; cat /run/secrets/token; echo; exit 3",
    );
    let outcome = run(&good).fails(1, &["ended with exit code 3"]);
    assert!(
        !outcome.stderr.contains("s3cret") && outcome.stderr.contains("***"),
        "{}",
        outcome.stderr
    );
    let good = project("cat /run/secrets/token /run/secrets/key | wc -c >/srv/count");
    run(&good).success();
    let dir = good.unpack();
    assert_eq!(fs::read_to_string(root(&dir).join("srv/count")).unwrap(), "24\n");
    assert!(!root(&dir).join("run/secrets").exists());
    let image = run(&good).success();
    let other = good.run(&["build", "s"]).env("MY_TOKEN", "another-one").outcome().success();
    assert_eq!(image.answer(), other.answer(), "a value is no part of a Key");
    for kept in [
        "cp /run/secrets/token /srv/kept",
        "ln -s $(cat /run/secrets/token) /srv/kept",
        "printf 'user:%s' $(cat /run/secrets/token) | base64 >/srv/kept",
        "mkdir /srv/kept; touch /srv/kept/$(cat /run/secrets/token)",
    ] {
        run(&project(kept)).fails(1, &["secret `token` is in the finished layer, at /srv/kept"]);
    }
    project("true")
        .sbx(&["build", "s"])
        .fails(1, &["secret `token`: variable `MY_TOKEN` is not set"]);
}

#[test]
fn a_key_is_the_command_its_surroundings_and_what_lies_below() {
    let first = project("run \"echo 1 >>/srv/x\"").build();
    let project = project("run \"echo 1 >>/srv/x\"");
    assert_eq!(project.build(), first);
    let again = |recipes: &str| {
        let text = project.read("sandboxes.kdl");
        let (before, _) = text.split_once("layer \"l\"").unwrap();
        project.write("sandboxes.kdl", &format!("{before}layer \"l\" needs=\"base\" {{ {recipes}; }}\nsandbox \"s\" {{ layers \"l\"; }}\n"));
        project.sbx(&["build", "s"]).success()
    };
    assert!(!again("run \"echo 1 >>/srv/x\"").stderr.contains("building"));
    let other = again("run \"echo 1 >>/srv/x\" { env A=\"1\"; }");
    assert!(other.stderr.contains("building run echo 1"), "{}", other.stderr);
    assert!(!again("run \"echo 1 >>/srv/x\" timeout=9").stderr.contains("building run"));
    let below = build("file \"/srv/x\" content=\"0\\n\"; run \"echo 1 >>/srv/x\"").success();
    assert_ne!(below.answer(), first);
}

#[test]
fn the_image_is_the_same_whoever_builds_it_when_and_where() {
    let recipes = r#"run "mkdir -p /srv/app; cd /srv/app; for i in 3 1 2; do echo $i >$i; done; tar cf all.tar 1 2 3 --mtime=@$SOURCE_DATE_EPOCH; useradd -m tester; ls -la --time-style=+%s /srv >/dev/null""#;
    let fresh = || {
        fresh(&format!(
            "layer \"l\" needs=\"base\" {{\n{recipes}\n}}\nsandbox \"s\" {{ layers \"l\"; }}"
        ))
    };
    let image = project(recipes).build();
    let other = fresh();
    let outcome = other
        .run(&["build", "s", "--jobs", "1"])
        .host_name("elsewhere")
        .clock("+400 days")
        .umask("077")
        .env("TZ", "Asia/Kathmandu")
        .env("LC_ALL", "tr_TR.UTF-8")
        .outcome();
    assert_eq!(outcome.success().answer(), image);
    let user = User::new();
    let theirs = fresh();
    let outcome = theirs.run(&["build", "s"]).user(&user).outcome();
    assert_eq!(outcome.success().answer(), image);
    theirs.run(&["clean", "--all"]).user(&user).outcome().success();
}

/// From the public archives: what does not come the first time is asked for again.
fn build_patiently(run: impl Fn() -> Outcome) -> Outcome {
    let mut outcome = run();
    for pause in [2, 10] {
        if outcome.code != Some(3) {
            break;
        }
        std::thread::sleep(std::time::Duration::from_secs(pause));
        outcome = run();
    }
    outcome.success()
}

#[test]
fn an_installer_finds_what_its_layer_is_locked_to_and_nothing_else() {
    let recipes = r##"venv "/opt/venv" requirements="requirements.txt"
        run #"""
            python3 -m venv /srv/own
            /srv/own/bin/pip install --no-compile six
            if /srv/own/bin/pip install left-pad; then exit 9; fi
            /srv/own/bin/python -c 'import six; print(six.__name__)' >/srv/said
            """#"##;
    let fresh = || {
        Project::new().file("requirements.txt", "six\n").file(
            "sandboxes.kdl",
            &format!(
                "project \"p\" {{ as-of \"2026-11-01\" \"pypi\"; }}\n\
                 layer \"debian\" {{ debian \"trixie\" {{ suites \"trixie\"; base \"essential\"; packages \"python3\" \"python3-venv\"; }}; }}\n\
                 layer \"l\" needs=\"debian\" {{ {recipes}\n }}\nsandbox \"s\" {{ layers \"l\"; }}\n"
            ),
        )
    };
    let project = fresh();
    let image = build_patiently(|| project.sbx(&["build", "s"])).answer().to_owned();
    let dir = project.unpack_below(&["srv"]);
    assert_eq!(fs::read_to_string(root(&dir).join("srv/said")).unwrap(), "six\n");
    // the same as somebody who resolves and builds in a user namespace
    let user = User::new();
    let theirs = fresh();
    let outcome = build_patiently(|| theirs.run(&["build", "s"]).user(&user).outcome());
    assert_eq!(outcome.answer(), image);
    assert_eq!(theirs.read("sbx.lock"), project.read("sbx.lock"));
    theirs.run(&["clean", "--all"]).user(&user).outcome().success();
}
