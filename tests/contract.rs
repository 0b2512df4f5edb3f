//! `sbx test`: an app that honours the contract passes, and each fault is found and named; without a
//! fault nothing is counted as passed that was not tried.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::launch::Bench;
use crate::support::project::{Outcome, Project};
use crate::support::trixie::declared;

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Servers of the stand-in.
const SERVERS: &str = r##"layer "servers" {
    mcp {
        server "plain" command="/bin/true"
        server "asked" command="/bin/true" { probe tool="search" args=#"{"query": "sand", "limit": 2}"#; }
        server "strange" command="/bin/true"
        server "far" command="/bin/true" { probe tool="ask" args=#"{"query": "sand"}"# network=#true; }
        server "keyed" command="/bin/true" { env-from-host "TEST_KEY"; }
    }
}
"##;

/// All that is checked in an instance of one's own.
const CHECKS: [&str; 22] = [
    "start ready",
    "auth refused without a token",
    "auth refused with a wrong token",
    "box healthz",
    "box run_ipython_cell",
    "box run_shell_command",
    "workspace mkdir",
    "workspace file",
    "workspace files:batch",
    "workspace list",
    "workspace exists",
    "workspace move",
    "workspace entry",
    "watcher commit_changes",
    "watcher generate_diff",
    "watcher git_logs",
    "mcp list_tools",
    "mcp call_tool",
    "server asked",
    "server far",
    "server plain",
    "server strange",
];

fn script() -> String {
    format!("{}/tests/contract/app.py", env!("CARGO_MANIFEST_DIR"))
}

/// The stand-in on this machine, with a fault.
struct App {
    child: Child,
    url: String,
}

impl App {
    fn start(fault: &str) -> Self {
        let mut child = Command::new("python3")
            .args([&script(), "0"])
            .envs([("SECRET_TOKEN", TOKEN), ("FAULT", fault)])
            .stdout(Stdio::piped())
            .spawn()
            .expect("python3 must be installed (tests/run does it)");
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().strip_prefix("ready ").unwrap();
        App { child, url: format!("http://127.0.0.1:{port}") }
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Verdict and what was seen, by group and name.
fn checks(outcome: &Outcome) -> BTreeMap<String, (String, String)> {
    let answer: Value = serde_json::from_str(&outcome.stdout)
        .unwrap_or_else(|_| panic!("no answer in {}\n{}", outcome.stdout, outcome.stderr));
    let text = |check: &Value, field: &str| check[field].as_str().unwrap().to_owned();
    let check = |check: &Value| {
        let name = format!("{} {}", text(check, "group"), text(check, "name"));
        (name, (text(check, "verdict"), text(check, "seen")))
    };
    answer["checks"].as_array().unwrap().iter().map(check).collect()
}

fn with(checks: &BTreeMap<String, (String, String)>, verdict: &str) -> Vec<String> {
    let of = checks.iter().filter(|(_, (known, _))| known == verdict);
    of.map(|(name, _)| name.clone()).collect()
}

#[test]
fn each_fault_of_an_app_is_found_and_no_other() {
    let sandbox =
        "sandbox \"app\" { layers \"servers\"; port 80; ready http=\"/fastapi/healthz\"; }\n";
    let project = Project::new().file("sandboxes.kdl", &format!("{SERVERS}{sandbox}"));
    let ask = |fault: &str| {
        let app = App::start(fault);
        let wait = ["--timeout", "2"];
        let there = ["--url", &app.url, "--token", TOKEN];
        project.sbx(&[&["test", "app", "--json"][..], &wait, &there].concat())
    };
    let sound = ask("");
    let seen = checks(&sound);
    assert_eq!((sound.code, with(&seen, "failed")), (Some(0), vec![]), "{seen:?}");
    assert_eq!(seen["server asked"].1, "search: found");
    let left_out = with(&seen, "left-out");
    let expected = [
        ("server far", "it needs the network"),
        ("server keyed", "started without TEST_KEY"),
        ("server strange", "none of its 1 tools is known to be harmless"),
        ("watcher commit_changes", "somebody else works on"),
        ("watcher generate_diff", "somebody else works on"),
    ];
    assert_eq!(left_out, expected.map(|(name, _)| name));
    for (name, reason) in expected {
        assert!(seen[name].1.contains(reason), "{name}: {}", seen[name].1);
    }
    for (fault, found) in [
        ("open", &["auth refused without a token"][..]),
        ("any token", &["auth refused with a wrong token"]),
        ("/healthz", &["box healthz"]),
        ("state", &["box run_ipython_cell"]),
        ("code", &["box run_shell_command"]),
        ("/workspace/mkdir", &["workspace list", "workspace mkdir"]),
        ("/workspace/files:batch", &["workspace exists", "workspace files:batch"]),
        ("list", &["workspace list"]),
        ("move", &["workspace move"]),
        ("entry", &["workspace entry"]),
        ("/watcher/git_logs", &["watcher git_logs"]),
        ("unknown", &["mcp call_tool"]),
        ("server", &["server plain"]),
        ("tool", &["server asked"]),
        ("call", &["server asked"]),
    ] {
        let outcome = ask(fault);
        let seen = checks(&outcome);
        assert_eq!(
            (outcome.code, with(&seen, "failed")),
            (Some(1), found.iter().map(|name| name.to_string()).collect()),
            "{fault}: {seen:?}"
        );
    }
    let outcome = project.sbx(&["test", "app", "--url", "http://127.0.0.1:1", "--timeout", "1"]);
    assert_eq!(outcome.code, Some(1));
    assert!(
        outcome.stdout.contains("FAILED") && outcome.stdout.contains("0 passed"),
        "{}",
        outcome.stdout
    );
    project.sbx(&["test", "app", "--url", "nowhere"]).fails(1, &["no address"]);
}

#[test]
fn an_instance_is_started_tried_and_removed() {
    let app = r#"layer "app" needs="debian" { file "/srv/app.py" from="app.py"; dir "/workspace"; }
        sandbox "app" {
            layers "app" "servers"
            port 80
            ready http="/fastapi/healthz"
            command "python3" "/srv/app.py" "80"
        }
    "#;
    let app = app
        .replace("file \"/srv/app.py\" from=\"app.py\"", "files \"app.py\" into=\"/srv/app.py\"");
    let project = declared(&format!("{SERVERS}{app}"));
    fs::copy(script(), project.dir.path().join("app.py")).unwrap();
    let state = tempfile::tempdir().unwrap();
    let project = project.var("SBX_STATE", state.path().to_str().unwrap());
    let report = project.dir.path().join("report.xml");
    let junit = ["--junit", report.to_str().unwrap()];
    let outcome = project.sbx(&[&["test", "app", "--json"][..], &junit].concat());
    let seen = checks(&outcome);
    assert_eq!(with(&seen, "failed"), Vec::<String>::new(), "{seen:?}\n{}", outcome.stderr);
    assert_eq!(outcome.code, Some(0));
    let names: Vec<&str> =
        seen.keys().map(String::as_str).filter(|name| *name != "server keyed").collect();
    let mut expected = CHECKS;
    expected.sort_unstable();
    assert_eq!(names, expected);
    assert_eq!(seen["server keyed"], ("left-out".into(), "variable TEST_KEY is not set".into()));
    is_read_by_others(&report, seen.len());
    // keys of this machine reach the server, by way of `run`
    let outcome = project.run(&["test", "app", "--json"]).env("TEST_KEY", "x").outcome();
    assert_eq!(checks(&outcome)["server keyed"].0, "passed", "{}", outcome.stdout);
    for (fault, found) in [
        ("logs", ["watcher generate_diff", "watcher git_logs"].as_slice()),
        ("diff", &["watcher generate_diff"]),
    ] {
        let outcome = project.sbx(&["test", "app", "--json", "-e", &format!("FAULT={fault}")]);
        assert_eq!(with(&checks(&outcome), "failed"), found, "{fault}: {}", outcome.stdout);
    }
    let outcome = project.sbx(&["test", "app", "--json", "--timeout", "1", "-e", "FAULT=/healthz"]);
    assert_eq!(
        (outcome.code, with(&checks(&outcome), "failed")),
        (Some(1), vec!["start ready".to_owned()])
    );
    assert_eq!(project.sbx(&["ps", "--json"]).success().answer(), "[]");
}

/// Well-formed, with a case for each check.
fn is_read_by_others(report: &Path, count: usize) {
    let read = "import sys, xml.etree.ElementTree as tree; print(len(tree.parse(sys.argv[1]).findall('testcase')))";
    let cases = crate::support::tool("python3", &["-c", read, report.to_str().unwrap()]);
    assert_eq!(cases.trim(), count.to_string());
}

#[test]
fn a_sandbox_without_the_app_is_held_to_what_it_declares() {
    let bench = Bench::new(None);
    let outcome = bench.sbx(&["test", "web", "--json"]);
    let seen = checks(&outcome);
    assert_eq!(with(&seen, "failed"), Vec::<String>::new(), "{seen:?}");
    assert_eq!(with(&seen, "passed"), ["port 80", "ready /index.html", "start ready"]);
    bench.detach(&["--name", "one", "web"]);
    let outcome = bench.sbx(&["test", "web", "--instance", "one"]).success();
    assert!(outcome.stdout.contains("web: 2 passed, 0 failed, 0 left out"), "{}", outcome.stdout);
    assert_eq!(bench.status("one").as_deref(), Some("running"), "it is nobody's to remove");
    bench.sbx(&["test", "s", "--instance", "one"]).fails(1, &["one of sandbox `web`"]);
    let outcome = bench.sbx(&["test", "never", "--timeout", "1"]);
    outcome.fails(1, &["log: the reason"]);
    // a port behind which nobody listens
    let text = bench.project.read("sandboxes.kdl");
    bench.project.write(
        "sandboxes.kdl",
        &text.replace(
            "ready tcp=81; command \"/bin/sh\" \"-c\" \"echo the reason; exec",
            "command \"/bin/sh\" \"-c\" \"exec",
        ),
    );
    let outcome = bench.sbx(&["test", "never", "--json"]);
    let seen = checks(&outcome);
    assert_eq!(
        (outcome.code, with(&seen, "failed")),
        (Some(1), vec!["port 80".to_owned()]),
        "{seen:?}"
    );
    bench.sbx(&["test", "absent"]).fails(1, &["no sandbox `absent`"]);
    let rows = bench.ps();
    assert_eq!(rows.len(), 1, "{rows:?}");
}
