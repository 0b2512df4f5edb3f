//! The project's own sandbox types, from the public registries: built from nothing, built again
//! under other circumstances, and held to AgentScope's contract in a container without a network.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::register::{AGENTSCOPE, drive, mend};
use crate::report::judge;
use crate::support::docker::{Container, Engine};
use crate::support::project::Project;
use crate::support::python::kept_environment;
use crate::support::tool;
use crate::support::trixie::patiently;
use crate::support::user::User;
use serde_json::Value;

/// Those that need nothing but the registries.
const TYPES: [&str; 5] = ["base", "browser", "custom_sandbox", "filesystem", "gui"];

/// The hosts that MCP servers ask, each answered by the stand-in.
const HOSTS: [&str; 3] = ["api.tavily.com", "restapi.amap.com", "antv-studio.alipay.com"];

/// From `docker run` to the app's first answer.
const HEALTHY: Duration = Duration::from_secs(10);

const TOKEN: &str = "0123456789abcdef0123456789abcdef";

fn quick() -> bool {
    let quick = std::env::var_os("SBX_TEST_QUICK").is_some_and(|value| !value.is_empty());
    if quick {
        eprintln!("not built: `tests/run --quick` leaves the public registries alone");
    }
    quick
}

/// What this project declares, with everything that it needs at hand and nothing built.
fn fetched() -> Project {
    let project = Project::new();
    let state = project.dir.path().join("state");
    let project = project.var("SBX_STATE", state.to_str().unwrap());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let there = project.dir.path();
    for name in ["sandboxes.kdl", "sbx.lock", "layers"] {
        tool("cp", &["-r", here.join(name).to_str().unwrap(), there.to_str().unwrap()]);
    }
    patiently(|| project.sbx(&[&["fetch"], &TYPES[..]].concat())).success();
    project
}

/// Builds every type and answers the ids of their images.
fn build(project: &Project) -> Vec<String> {
    let outcome = project.sbx(&[&["build", "--offline", "--json"], &TYPES[..]].concat());
    images(&outcome.success().stdout)
}

fn images(answers: &str) -> Vec<String> {
    let answers = serde_json::Deserializer::from_str(answers).into_iter::<Value>();
    answers.map(|answer| answer.unwrap()["image"].as_str().unwrap().to_owned()).collect()
}

/// One after the other, lest the disk hold everything at once.
#[test]
fn the_types_honour_the_contract_and_are_the_same_whoever_builds_them_and_where() {
    if quick() {
        return;
    }
    let project = fetched();
    let sources = tempfile::tempdir().unwrap();
    let store = sources.path().join("store");
    tool("cp", &["-a", project.cache().to_str().unwrap(), store.to_str().unwrap()]);
    let images = build(&project);
    assert_eq!(images.len(), TYPES.len());
    has_bills_that_validators_accept(&project);
    honours_the_contract_without_a_network(&project);
    passes_its_own_test(&project);
    project.sbx(&["clean", "--all"]).success();
    is_the_same_for_another_user(&project, &store, &images);
}

/// Of the largest type, which has all packages of the others.
fn has_bills_that_validators_accept(project: &Project) {
    for kind in ["spdx", "cyclonedx"] {
        let file = project.dir.path().join(format!("bill.{kind}.json"));
        let words = ["sbom", "custom_sandbox", "--format", kind, "-o", file.to_str().unwrap()];
        project.sbx(&words).success();
        judge(kind, &file);
    }
}

/// Built elsewhere, later, by somebody else, out of a store that has the sources alone.
fn is_the_same_for_another_user(project: &Project, sources: &Path, images: &[String]) {
    let again = Project::new();
    let deep = again.dir.path().join("elsewhere/and deeper");
    fs::create_dir_all(&deep).unwrap();
    for name in ["sandboxes.kdl", "sbx.lock", "layers"] {
        let from = project.dir.path().join(name);
        tool("cp", &["-r", from.to_str().unwrap(), deep.to_str().unwrap()]);
    }
    let store = deep.join("cache");
    tool("mv", &[sources.to_str().unwrap(), store.to_str().unwrap()]);
    let user = User::new();
    let deep = deep.to_str().unwrap();
    let arguments =
        [&["build", "--offline", "--json", "--jobs", "3", "--project", deep], &TYPES[..]].concat();
    let outcome = again
        .run(&arguments)
        .env("TZ", "Asia/Kathmandu")
        .env("LC_ALL", "tr_TR.UTF-8")
        .env("SOURCE_DATE_EPOCH", "1")
        .umask("077")
        .host_name("elsewhere")
        .clock("+400 days")
        .user(&user)
        .outcome()
        .success();
    assert_eq!(self::images(&outcome.stdout), images);
    again.run(&["clean", "--all", "--project", deep]).user(&user).outcome().success();
}

/// Something that runs until it is no longer needed.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// Answers in the names of [`HOSTS`], in a container's network; what it was asked is in `asked`.
fn stand_in(dir: &Path, container: &Container<'_>) -> Running {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandboxes/standin.py");
    let mut command = container.beside(Path::new("python3"));
    command.arg(script).args(["ca.pem", "key.pem", "asked"].map(|name| dir.join(name)));
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    Running(child)
}

fn certificate(dir: &Path) {
    let made = rcgen::generate_simple_self_signed(HOSTS.map(str::to_owned)).unwrap();
    fs::write(dir.join("ca.pem"), made.cert.pem()).unwrap();
    fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
}

fn honours_the_contract_without_a_network(project: &Project) {
    let home = tempfile::tempdir().unwrap();
    let dir = |name: &str| {
        let dir = home.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        dir
    };
    let python = kept_environment("agentscope", &[AGENTSCOPE]);
    certificate(home.path());
    let engine = Engine::start_with_ports(&dir("docker"));
    engine.load(&project.cache(), "custom_sandbox");
    let hosts = HOSTS.map(|host| format!("{host}:127.0.0.1"));
    let workspace = format!("{}:/workspace", dir("workspace").display());
    let trusted = format!("{}:/ca.pem:ro", home.path().join("ca.pem").display());
    let token = format!("SECRET_TOKEN={TOKEN}");
    let mut options = vec!["--volume", &workspace, "--volume", &trusted, "--env", &token];
    for variable in
        ["TAVILY_API_KEY=of-tavily", "AMAP_MAPS_API_KEY=of-amap", "NODE_EXTRA_CA_CERTS=/ca.pem"]
    {
        options.extend(["--env", variable]);
    }
    for host in &hosts {
        options.extend(["--add-host", host]);
    }
    let container = engine.run("custom_sandbox", &options);
    let _services = stand_in(home.path(), &container);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sandboxes/contract.py");
    let output = container.beside(&python).arg(script).arg(TOKEN).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{wrong}\n{}", container.logs());
    for part in ["auth", "tools", "box", "workspace", "watcher", "screen"] {
        assert!(said.contains(&format!("{part}: ")), "{part} was not checked:\n{said}");
    }
    let asked = fs::read_to_string(home.path().join("asked")).unwrap();
    assert!(asked.contains("key=of-amap"), "keys of the host reach their server: {asked}");
    let logs = container.logs();
    assert!(logs.contains("/fastapi/mcp/call_tool"), "requests are logged:\n{logs}");
    assert!(!logs.contains(TOKEN), "the token is in no log");
    assert_eq!(container.exec(&["dpkg", "--audit"]), "");
    let found = container.exec(&["sh", "-c", "node --version; npm --version; command -v python3"]);
    let found: Vec<&str> = found.lines().collect();
    assert!(found[0].starts_with("v22.") && found[1].split('.').count() == 3, "{found:?}");
    assert_eq!(found[2], "/agentscope_runtime/venv/bin/python3");
    drop(container);
    without_keys(&engine);
    agentscope_starts_it(project, &engine, &dir("manager"));
}

/// As a registered type, by AgentScope's own manager and server.
fn agentscope_starts_it(project: &Project, engine: &Engine, dir: &Path) {
    let arguments = ["register", "custom_sandbox", "--json", "--agentscope", "sandbox_types.py"];
    let outcome = project.run(&arguments).env("DOCKER_HOST", engine.host()).outcome().success();
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    mend(engine, &mut project.command(&[]), &answer);
    let module = project.dir.path().join("sandbox_types.py");
    let check = "'42' in str(sandbox.run_ipython_cell('print(6 * 7)')) and 'markdownify' in sandbox.list_tools()";
    drive(engine, dir, &module, "custom_sandbox", check);
}

/// By sbx itself, without an engine: all that needs neither a key nor the internet passes. Charts are
/// drawn by a host there, which may or may not be reached.
fn passes_its_own_test(project: &Project) {
    let outcome = project.sbx(&["test", "custom_sandbox", "--json"]);
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let checks = answer["checks"].as_array().unwrap().iter();
    let checks = checks.filter(|check| check["name"] != "chart");
    let of = |verdict: &str| -> Vec<&str> {
        let checks = checks.clone().filter(|check| check["verdict"] == verdict);
        checks.map(|check| check["name"].as_str().unwrap()).collect()
    };
    let passed = of("passed");
    for server in ["playwright", "filesystem", "word-document", "markdownify"] {
        assert!(passed.contains(&server), "{server}: {answer}");
    }
    assert_eq!(of("left-out"), ["tavily-websearch", "amap-maps"], "{answer}");
    assert_eq!(passed.len() + 2, checks.count(), "{answer}");
}

/// A container that answered in time. Other tests take the processors, too: the best of three counts.
fn healthy(engine: &Engine) -> Container<'_> {
    let ask = format!(
        "until curl -sf -H 'Authorization: Bearer {TOKEN}' http://127.0.0.1/fastapi/healthz; do sleep 0.05; done"
    );
    let mut seen = Vec::new();
    for _ in 0..3 {
        let start = Instant::now();
        let container = engine.run("custom_sandbox", &["--env", &format!("SECRET_TOKEN={TOKEN}")]);
        container.exec(&["timeout", "60", "sh", "-c", &ask]);
        seen.push(start.elapsed());
        if start.elapsed() < HEALTHY {
            return container;
        }
    }
    panic!("healthy after {seen:?} only");
}

/// A server without its key is left out, and said to be; the rest is there.
fn without_keys(engine: &Engine) {
    let container = healthy(engine);
    let ask = format!(
        "for n in $(seq 600); do curl -sf -H 'Authorization: Bearer {TOKEN}' http://127.0.0.1/fastapi/mcp/list_tools && exit; sleep 0.1; done; exit 1"
    );
    let tools: Value = serde_json::from_str(&container.exec(&["sh", "-c", &ask])).unwrap();
    let servers: Vec<&str> = tools.as_object().unwrap().keys().map(String::as_str).collect();
    assert!(servers.contains(&"markdownify") && servers.contains(&"playwright"), "{servers:?}");
    assert!(!servers.contains(&"tavily-websearch"), "{servers:?}");
    let logs = container.logs();
    for said in ["variable TAVILY_API_KEY is not set", "`tavily-websearch` went away"] {
        assert!(logs.contains(said), "`{said}` is missing in:\n{logs}");
    }
}
