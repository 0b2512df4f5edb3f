//! Registered types: kept whatever happens, started from anywhere, and known to AgentScope's manager
//! and server, unmodified.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::docker::Engine;
use crate::support::launch::Bench;
use crate::support::python::kept_environment;
use serde_json::Value;

/// The one whose constructors the module is written for.
pub const AGENTSCOPE: &str = "agentscope-runtime==1.1.6.post2";

/// Has AgentScope start a registered type, and answers what it said.
pub fn drive(engine: &Engine, dir: &Path, module: &Path, kind: &str, check: &str) -> String {
    let python = kept_environment("agentscope", &[AGENTSCOPE]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/register/agentscope.py");
    let output = Command::new(python)
        .arg(script)
        .arg(module)
        .args([kind, check])
        .current_dir(dir)
        .env("DOCKER_HOST", engine.host())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("manager: asynchronous") && said.contains("server: started"), "{said}");
    said
}

/// Brings in what `register` says is missing, by the command that it names.
pub fn mend(engine: &Engine, command: &mut Command, answer: &Value) {
    let mend = answer["missing"][0]["mend"].as_str().unwrap();
    let mend = mend.replacen("sbx ", &format!("{} ", env!("CARGO_BIN_EXE_sbx")), 1);
    command.env("DOCKER_HOST", engine.host());
    let mut shell = Command::new("sh");
    shell.args(["-ec", &mend]).current_dir(command.get_current_dir().unwrap());
    shell.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let output = shell.output().unwrap();
    assert!(output.status.success(), "{mend}: {}", String::from_utf8_lossy(&output.stderr));
}

fn listed(bench: &Bench<'_>) -> Vec<Value> {
    let outcome = bench.sbx(&["register", "--list", "--json"]).success();
    serde_json::from_str(&outcome.stdout).unwrap()
}

#[test]
fn types_are_kept_and_start_from_anywhere() {
    let bench = Bench::new(None);
    assert_eq!(listed(&bench), Vec::<Value>::new());
    bench.sbx(&["register", "web"]).fails(1, &["`web` is not built", "sbx build web"]);
    bench.sbx(&["register"]).fails(2, &["NAME"]);
    let image = bench.sbx(&["build", "web"]).success().answer().to_owned();
    bench.sbx(&["build", "limited", "secret", "high"]).success();
    assert_eq!(bench.sbx(&["register", "web"]).success().answer(), format!("web {image}"));
    bench.sbx(&["register", "limited", "secret", "high"]).success();
    let entries = listed(&bench);
    let types: Vec<&str> = entries.iter().map(|entry| entry["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["high", "limited", "secret", "web"]);
    assert_eq!(entries[0]["security_level"], "high");
    assert_eq!(
        entries[1]["limits"],
        serde_json::json!({"memory": 64 << 20, "cpus": 1.0, "pids": 20})
    );
    assert_eq!(entries[2]["env_from_host"][0]["name"], "SBX_TEST_SECRET");
    assert_eq!(
        (&entries[3]["image"], &entries[3]["ports"][0]),
        (&Value::from(image), &Value::from(80))
    );
    let registry = bench.state().with_file_name("state.registry.json");
    let before = fs::read_to_string(&registry).unwrap();
    // all or none
    bench.sbx(&["register", "--remove", "high", "none"]).fails(1, &["`none`", "--list"]);
    assert_eq!(fs::read_to_string(&registry).unwrap(), before);
    bench.sbx(&["register", "--remove", "high", "limited"]).success();
    assert_eq!(listed(&bench).len(), 2);
    let outside = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let mut command = bench.command(arguments);
        crate::support::project::Outcome::new(command.current_dir(outside.path()).output().unwrap())
    };
    assert_eq!(run(&["run", "web", "--", "sh", "-c", "echo here"]).success().answer(), "here");
    run(&["run", "none", "--", "true"]).fails(1, &["no `sandboxes.kdl`"]);
    let text = bench.project.read("sandboxes.kdl");
    bench.project.write("sandboxes.kdl", &text.replace("content=\"below\\n\"", "content=\"x\\n\""));
    run(&["run", "web", "--", "true"]).success().says("another image than was registered");
    bench.sbx(&["register", "web"]).success();
    assert!(!run(&["run", "web", "--", "true"]).success().stderr.contains("another image"));
    fs::write(&registry, "{\"version\": 2}").unwrap();
    bench.sbx(&["register", "--list"]).fails(1, &["version 2"]);
    fs::write(&registry, "{\"version\": 1, \"sandb").unwrap();
    bench.sbx(&["register", "--list"]).fails(1, &["damaged", "rm "]);
}

#[test]
fn many_may_register_at_once() {
    let bench = Bench::new(None);
    let names = ["s", "web", "high", "low", "ann", "asks"];
    for name in names {
        bench.sbx(&["build", name]).success();
    }
    std::thread::scope(|scope| {
        for name in names {
            scope.spawn(|| bench.sbx(&["register", name]).success());
        }
    });
    assert_eq!(listed(&bench).len(), names.len());
}

#[test]
fn modules_are_refused_where_agentscope_would_not_know_the_type() {
    let bench = Bench::new(None);
    let declare = |sandboxes: &str| {
        let text = bench.project.read("sandboxes.kdl");
        let head = &text[..text.find("\nsandbox ").unwrap() + 1];
        bench.project.write("sandboxes.kdl", &format!("{head}{sandboxes}"));
        bench.sbx(&["build", "--all"]).success();
        bench.sbx(&["register", "*", "--agentscope", "out.py"])
    };
    declare("sandbox \"s\" { layers \"box\"; }").fails(1, &["port 80"]);
    declare("sandbox \"s\" { layers \"box\"; port 80; reference \"bare\"; }")
        .fails(1, &["no namespace"]);
    let same = "sandbox \"a-b\" { layers \"box\"; port 80; }\nsandbox \"a_b\" { layers \"box\"; port 80; }";
    declare(same).fails(1, &["`a-b`", "`a_b`", "`ABSandbox`"]);
    let same = "sandbox \"a\" { layers \"box\"; port 80; }\nsandbox \"a_async\" { layers \"box\"; port 80; }";
    declare(same).fails(1, &["a_async"]);
    assert!(!bench.project.dir.path().join("out.py").exists());
}

#[test]
fn agentscope_starts_a_registered_type() {
    let bench = Bench::new(None);
    let serve = r#"sandbox "tiny_box" {
        layers "box"
        description "says \"yes\" \\ and grüße"
        port 80
        env-from-host "SBX_TEST_WORD" default="plain"
        limits memory="64MiB" cpus=0.5 pids=50
        timeout 30
        command "/bin/sh" "-c" "mkdir -p /srv/fastapi; echo $SBX_TEST_WORD >/srv/fastapi/healthz; exec busybox httpd -f -p 80 -h /srv"
    }
    "#;
    let text = bench.project.read("sandboxes.kdl");
    bench.project.write("sandboxes.kdl", &format!("{text}{serve}"));
    let image = bench.sbx(&["build", "tiny_box"]).success().answer().to_owned();
    let home = tempfile::tempdir().unwrap();
    let engine = Engine::start_with_ports(home.path());
    let module = bench.project.dir.path().join("tiny.py");
    let register = || {
        let mut command =
            bench.command(&["register", "tiny_box", "--json", "--agentscope", "tiny.py"]);
        let output = command.env("DOCKER_HOST", engine.host()).output().unwrap();
        crate::support::project::Outcome::new(output).success()
    };
    let outcome = register().says("docker has no");
    let answer: Value = serde_json::from_str(&outcome.stdout).unwrap();
    let hex = image.strip_prefix("sha256:").unwrap();
    let name = format!("t/tiny_box:{}", &hex[..16]);
    assert_eq!(answer["missing"][0]["image"], name);
    mend(&engine, &mut bench.command(&[]), &answer);
    let again: Value = serde_json::from_str(&register().stdout).unwrap();
    assert_eq!(again["missing"], serde_json::json!([]));
    let text = fs::read_to_string(&module).unwrap();
    assert!(text.contains("from agentscope_runtime.") && !text.contains("from ."), "{text}");
    let said = drive(
        &engine,
        home.path(),
        &module,
        "tiny_box",
        "sandbox.manager_api.check_health(identity=sandbox.sandbox_id) is True",
    );
    assert!(said.starts_with(&format!("image {name}\n")), "{said}");
    assert_eq!(engine.docker(&["ps", "--all", "--quiet"]), "", "all are removed");
}
