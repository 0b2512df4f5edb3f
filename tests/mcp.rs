//! MCP servers: declared, locked, built, and asked for their tools inside the image, which has no
//! network. Debian's Python is the public archive's, the servers are the tests' own.

use std::path::PathBuf;

use crate::support::mcp::{Client, servers};
use crate::support::project::{Project, root};
use crate::support::pypi::{Index, Package};
use crate::support::registry::Registry;
use crate::support::trixie::{declared, over_python, patiently};
use serde_json::json;

/// A server that has one tool, which tells where it lives.
const SERVER: &str = r#"
import json, os, sys
from wordlib import version
def main():
    for line in sys.stdin:
        message = json.loads(line)
        if "id" not in message: continue
        answers = {
            "initialize": {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}},
                           "serverInfo": {"name": "word", "version": "1"}},
            "tools/list": {"tools": [{"name": "tell", "inputSchema": {"type": "object"}}]},
            "tools/call": {"content": [{"type": "text", "text": json.dumps({
                "args": sys.argv[1:], "key": os.environ.get("KEY"), "fixed": os.environ.get("FIXED"),
                "lib": version, "cwd": os.getcwd(), "program": sys.argv[0]})}]},
        }
        print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answers[message["method"]]}), flush=True)
"#;

/// An index with a server at two versions, of which the new one is broken by what it draws in.
fn index() -> Index {
    let word = |version| {
        Package::new("word-server", version)
            .requires("wordlib")
            .file("word_server/serve.py", SERVER)
            .script("word_start", "word_server.serve:main")
    };
    Index::of([
        word("1.0").uploaded("2025-01-01"),
        word("1.1").uploaded("2025-06-01"),
        Package::new("wordlib", "1").uploaded("2025-01-01"),
        Package::new("wordlib", "2").uploaded("2025-09-01").file("wordlib/x.py", ""),
        Package::new("helper", "3").script("help-me", "helper:version"),
    ])
}

/// Sandbox `s` with these servers, built and unpacked.
fn built(index: &Index, servers: &str) -> (Project, tempfile::TempDir, PathBuf) {
    unpacked(over_python(&format!("mcp {{\n{servers}\n}}")).var("UV_DEFAULT_INDEX", &index.url()))
}

fn unpacked(project: Project) -> (Project, tempfile::TempDir, PathBuf) {
    patiently(|| project.sbx(&["build", "s"])).success();
    let dir = project.unpack();
    let root = root(&dir);
    (project, dir, root)
}

fn told(client: &mut Client) -> serde_json::Value {
    serde_json::from_str(&client.call("tell", json!({}))).unwrap()
}

#[test]
fn a_server_is_locked_with_what_it_draws_in_and_starts_from_the_disk() {
    let index = index();
    let (project, _dir, root) = built(
        &index,
        r#"server "word document" pypi="word-server==1.1" program="word_start" as-of="2025-07-01" {
            arg "--root" "{dir}/data"
            env FIXED="{venv}/bin/x"
        }
        server "other" pypi="word-server" program="word_start""#,
    );
    assert_eq!(
        servers(&root),
        json!({"mcpServers": {
            "other": {"command": "/opt/mcp/other/bin/word_start", "args": []},
            "word document": {
                "command": "/opt/mcp/word-document/bin/word_start",
                "args": ["--root", "/opt/mcp/word-document/data"],
                "env": {"FIXED": "/opt/mcp/word-document/bin/x"},
            },
        }})
    );
    let mut client = Client::start(&root, "word document", &[]).unwrap();
    assert_eq!(client.tools(), ["tell"]);
    let said = told(&mut client);
    assert_eq!(
        (&said["lib"], &said["fixed"]),
        (&json!("1"), &json!("/opt/mcp/word-document/bin/x"))
    );
    // the other one sees everything that there is
    let said = told(&mut Client::start(&root, "other", &[]).unwrap());
    assert_eq!((&said["lib"], &said["args"]), (&json!("2"), &json!([])));
    let lock = project.read("sbx.lock");
    for wheel in ["word-server 1.1 ", "wordlib 1 ", "wordlib 2 "] {
        assert!(lock.contains(wheel), "{lock}");
    }
    // an added server is built, and the list; nothing else
    let more = project.read("sandboxes.kdl").replace(
        "server \"other\"",
        "server \"more\" pypi=\"word-server==1.0\" program=\"word_start\"\nserver \"other\"",
    );
    project.write("sandboxes.kdl", &more);
    let answer = project.sbx(&["build", "s", "--json"]).success().stdout;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let made = answer["layers"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|layer| layer["cached"] == false && layer["name"] == "l");
    assert_eq!(made.count(), 3, "wheels, their bytecode and the list: {answer}");
    assert_eq!(project.read("sbx.lock").matches("word-server 1.1 ").count(), 2);
}

#[test]
fn keys_come_from_where_the_sandbox_is_started() {
    let index = index();
    let (project, _dir, root) = built(
        &index,
        r#"server "a" pypi="word-server" program="word_start" cwd="/var" { env-from-host "KEY" default="it's \"1\""; }
        server "b" pypi="word-server" program="word_start" { env-from-host "KEY" from="HOST_KEY"; }"#,
    );
    let shown = project.sbx(&["show", "s", "--json"]).success().stdout;
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["env_from_host"], json!(["KEY", "HOST_KEY"]));
    let start = |name, environment: &[(&str, &str)]| {
        let mut client = Client::start(&root, name, environment).unwrap();
        (told(&mut client), client.said())
    };
    let (given, said) = start("a", &[("KEY", "k$1 'x'")]);
    assert_eq!((&given["key"], &given["cwd"], &*said), (&json!("k$1 'x'"), &json!("/var"), ""));
    let (given, said) = start("a", &[]);
    assert_eq!(given["key"], json!("it's \"1\""));
    assert_eq!(said, "MCP server a: variable KEY is not set: its default is taken");
    assert_eq!(start("b", &[("HOST_KEY", "h")]).0["key"], json!("h"));
    let (given, said) = start("b", &[]);
    assert_eq!(
        (&given["key"], &*said),
        (&json!(null), "MCP server b: variable HOST_KEY is not set")
    );
}

#[test]
fn a_list_that_exists_becomes_locked_servers() {
    let index = index();
    let list = json!({"mcpServers": {
        "word": {"command": "uvx", "args": ["--from", "word-server@1.0", "--with", "helper", "word_start", "--stdio"],
                 "env": {"KEY": "${env:WORD_KEY:-none}", "FIXED": "1"}, "type": "stdio", "encoding": "utf-8"},
        "own": {"command": "python3", "args": ["-m", "word_server.serve"]},
        "far": {"type": "streamable_http", "url": "https://mcp.example.org/", "headers": {"X": "y"}, "timeout": 30},
        "off": {"command": "uvx", "args": ["absent"], "disabled": true},
    }});
    let project = over_python(
        "mcp config=\"servers.json\" config-at=\"/etc/mcp.json\" { server \"word\" as-of=\"2025-07-01\" { env FIXED=\"2\"; }; }",
    );
    let project =
        project.file("servers.json", &list.to_string()).var("UV_DEFAULT_INDEX", &index.url());
    let (project, _dir, root) = unpacked(project);
    let text = std::fs::read_to_string(root.join("etc/mcp.json")).unwrap();
    let list: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        list,
        json!({"mcpServers": {
            "far": {"type": "streamable_http", "url": "https://mcp.example.org/", "headers": {"X": "y"}, "timeout": 30},
            "own": {"command": "python3", "args": ["-m", "word_server.serve"]},
            "word": {"command": "/opt/mcp/bin/word", "args": ["--stdio"], "env": {"FIXED": "2"}, "encoding": "utf-8"},
        }})
    );
    let lock = project.read("sbx.lock");
    assert!(
        lock.contains("word-server 1.0 ")
            && lock.contains("helper 3 ")
            && lock.contains("wordlib 1 ")
    );
    std::fs::create_dir(root.join("agentscope_runtime")).unwrap();
    std::fs::copy(
        root.join("etc/mcp.json"),
        root.join("agentscope_runtime/mcp_server_configs.json"),
    )
    .unwrap();
    let said = told(&mut Client::start(&root, "word", &[]).unwrap());
    assert_eq!((&said["key"], &said["fixed"]), (&json!("none"), &json!("2")));
    assert_eq!(said["args"], json!(["--stdio"]));
}

#[test]
fn a_server_may_have_an_environment_beside_it() {
    let index = index();
    let (_project, _dir, root) = built(
        &index,
        r#"server "tool" command="{venv}/bin/python" { arg "-c" "print(1)"; env HELP="{venv}/bin/help-me"; venv { packages "helper"; }; }"#,
    );
    assert_eq!(
        servers(&root)["mcpServers"]["tool"],
        json!({"command": "/opt/mcp/tool/venv/bin/python", "args": ["-c", "print(1)"], "env": {"HELP": "/opt/mcp/tool/venv/bin/help-me"}})
    );
    assert!(root.join("opt/mcp/tool/venv/bin/help-me").exists());
}

/// Servers of npm's may be written in anything; this one in what the image has.
fn registry() -> Registry {
    use crate::support::registry::Package;
    let script = format!("#!/usr/bin/env python3\n{SERVER}\nmain()\n");
    let library = "version = \"npm\"\n";
    let tell = |version: &str| {
        Package::new("@acme/tell", version)
            .depends("under", "^1.0.0")
            .bin("acme-tell", "cli.py")
            .script("preinstall", "exit 1")
            .file("cli.py", &script)
            .file("wordlib.py", library)
    };
    Registry::of([
        tell("1.0.0"),
        tell("1.1.0").published("2025-06-01"),
        Package::new("under", "1.0.0"),
        Package::new("under", "1.5.0").published("2025-09-01"),
        Package::new("many", "2.0.0").bin("one", "1.js").bin("two", "2.js"),
        Package::new("many", "2.0.0-rc.1"),
    ])
}

#[test]
fn a_server_of_npms_is_locked_and_runs_nothing_when_it_is_installed() {
    let registry = registry();
    let project = over_python(
        "mcp { server \"tell\" npm=\"@acme/tell@1.0.0\" as-of=\"2025-07-01\" { arg \"-x\"; env-from-host \"KEY\" default=\"d\"; }
         server \"new\" npm=\"@acme/tell\"; }",
    );
    let (project, _dir, root) = unpacked(project.var("SBX_MIRROR_NPM", &registry.url()));
    let lock = project.read("sbx.lock");
    let pins: Vec<String> = lock
        .lines()
        .filter(|line| line.starts_with("npm ") && !line.contains("is-number"))
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .map(|words| format!("{} {} {}", words[2], words[3], words[5]))
        .collect();
    let mut pins: Vec<&str> = pins.iter().map(String::as_str).collect();
    pins.sort_unstable();
    let expected = [
        "@acme/tell 1.0.0 node_modules/@acme/tell",
        "@acme/tell 1.1.0 node_modules/@acme/tell",
        "under 1.0.0 node_modules/under",
        "under 1.5.0 node_modules/under",
    ];
    assert_eq!(pins, expected);
    assert!(!lock.contains("127.0.0.1"), "{lock}");
    assert_eq!(
        servers(&root)["mcpServers"],
        json!({
            "new": {"command": "/opt/mcp/new/node_modules/.bin/acme-tell", "args": []},
            "tell": {"command": "/opt/mcp/bin/tell", "args": ["-x"]},
        })
    );
    let mut client = Client::start(&root, "tell", &[]).unwrap();
    assert_eq!(client.tools(), ["tell"]);
    let said = told(&mut client);
    assert_eq!(
        (&said["lib"], &said["key"], &said["args"]),
        (&json!("npm"), &json!("d"), &json!(["-x"]))
    );
    assert_eq!(
        project.sbx(&["lock", "--check"]).success().code,
        Some(0),
        "the lock answers without asking"
    );
}

#[test]
fn an_entry_of_npx_becomes_a_locked_server_or_an_error_with_what_there_is() {
    let registry = registry();
    let project = |spec: &str| {
        let list = json!({"mcpServers": {"tell": {"command": "npx", "args": ["-y", spec, "-x"]}}});
        over_python("mcp config=\"servers.json\"")
            .file("servers.json", &list.to_string())
            .var("SBX_MIRROR_NPM", &registry.url())
    };
    patiently(|| project("@acme/tell@0.4.0").sbx(&["build", "s"]))
        .fails(1, &["there is no `@acme/tell` 0.4.0: the registry has 1.1.0, 1.0.0"]);
    let (project, _dir, root) = unpacked(project("@acme/tell@1.0.0"));
    assert!(project.read("sbx.lock").contains(" @acme/tell 1.0.0 "));
    assert_eq!(
        servers(&root)["mcpServers"]["tell"],
        json!({"command": "/opt/mcp/tell/node_modules/.bin/acme-tell", "args": ["-x"]})
    );
    let said = told(&mut Client::start(&root, "tell", &[]).unwrap());
    assert_eq!((&said["lib"], &said["args"]), (&json!("npm"), &json!(["-x"])));
}

#[test]
fn tools_of_npms_that_cannot_be_had_are_named_with_what_there_is() {
    let registry = registry();
    let refused = |server: &str| {
        let project = over_python(&format!("mcp {{ {server}; }}"));
        let project = project.var("SBX_MIRROR_NPM", &registry.url());
        patiently(|| project.sbx(&["build", "s"]))
    };
    refused(r#"server "w" npm="@acme/tell@0.4.0""#).fails(
        1,
        &[
            "there is no `@acme/tell` 0.4.0: the registry has 1.1.0, 1.0.0",
            "declare one that is left: `@acme/tell@1.1.0`",
        ],
    );
    refused(r#"server "w" npm="@acme/tell@1.1.0" as-of="2025-02-01""#)
        .fails(1, &["there is no `@acme/tell` 1.1.0 as of 2025-02-01: the registry has 1.0.0"]);
    refused(r#"server "w" npm="absent""#).fails(1, &["the registry has no package `absent`"]);
    refused(r#"server "w" npm="under@1.0.0""#).fails(1, &["npm package `under` has no commands"]);
    refused(r#"server "w" npm="many@2.0.0""#).fails(
        1,
        &["npm package `many` has several commands", "say `program=\"one\"` or `program=\"two\"`"],
    );
    refused(r#"server "w" npm="many@2.0.0" program="three""#)
        .fails(1, &["npm package `many` has no command `three`"]);
}

#[test]
fn tools_have_their_commands_where_commands_are() {
    let registry = registry();
    let project = over_python("npm-tools \"@acme/tell@1.0.0\" as-of=\"2025-07-01\"");
    let (_project, _dir, root) = unpacked(project.var("SBX_MIRROR_NPM", &registry.url()));
    let link = std::fs::read_link(root.join("usr/local/bin/acme-tell")).unwrap();
    assert_eq!(link.to_str(), Some("/opt/npm-tools/l/node_modules/.bin/acme-tell"));
    let program = root.join("opt/npm-tools/l/node_modules/@acme/tell/cli.py");
    assert!(std::fs::read_to_string(program).unwrap().starts_with("#!/usr/bin/env python3"));
}

#[test]
fn servers_of_all_layers_stand_in_one_list_and_none_stands_twice() {
    let index = index();
    let layer = |name: &str, server: &str, url: &str| {
        format!(
            "layer \"{name}\" needs=\"debian\" {{ mcp {{ server \"{server}\" url=\"https://{url}.example.org/\"; }}; }}\n"
        )
    };
    let layers = layer("one", "a", "x") + &layer("two", "b", "y") + &layer("three", "a", "z");
    let project = declared(&format!(
        "{layers}sandbox \"s\" {{ layers \"two\" \"one\"; }}\nsandbox \"t\" {{ layers \"one\" \"three\"; }}\n"
    ));
    let project = project.var("UV_DEFAULT_INDEX", &index.url());
    project
        .sbx(&["build", "t"])
        .fails(1, &["layers `one` and `three` both have an MCP server `a`"]);
    let (_project, _dir, root) = unpacked(project);
    let list = servers(&root);
    let names: Vec<&String> = list["mcpServers"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["a", "b"]);
}

#[test]
fn a_server_that_cannot_be_had_is_an_error_with_what_there_is() {
    let index = index();
    let refused = |server: &str| {
        let project =
            over_python(&format!("mcp {{ {server}; }}")).var("UV_DEFAULT_INDEX", &index.url());
        patiently(|| project.sbx(&["build", "s"]))
    };
    refused(r#"server "w" pypi="word-server==0.4""#)
        .fails(1, &["there is no `word-server` ==0.4: the index has 1.1, 1.0"]);
    refused(r#"server "w" pypi="word-server""#).fails(
        1,
        &[
            "the environment at /opt/mcp/w has no program `word-server`: it has `word_start`",
            "say `program=\"word_start\"`",
        ],
    );
}

#[test]
fn what_is_declared_wrongly_is_said_at_its_place() {
    let refused = |nodes: &str, texts: &[&str]| {
        let project = Project::new().file(
            "sandboxes.kdl",
            &format!("layer \"l\" {{ {nodes}; }}\nsandbox \"s\" {{ layers \"l\"; }}\n"),
        );
        let project = project.file(
            "list.json",
            r#"{"mcpServers": {"x": {"command": "npx", "args": ["git+ssh://h/x"]}, "y": {}}}"#,
        );
        project.sbx(&["check"]).fails(1, texts);
    };
    refused("mcp", &["`mcp` has no servers"]);
    refused("mcp { server \"a\"; }", &["server `a` comes from nowhere"]);
    refused("mcp { server \"a\" pypi=\"x\" npm=\"y\"; }", &["a server comes from one place"]);
    refused("mcp { server \"a\" command=\"npx\"; }", &["`npx` fetches what it starts"]);
    refused("mcp { server \"a\" npm=\"../x\"; }", &["`../x` is no package of a registry"]);
    refused(
        "mcp { server \"a\" url=\"https://h.example.org/\" { arg \"x\"; }; }",
        &["a remote server has no arguments"],
    );
    refused(
        "mcp { server \"a b\" command=\"x\"; server \"a-b\" command=\"y\"; }",
        &["server `a-b` is declared twice"],
    );
    refused(
        "mcp { server \"a\" command=\"x\" { env-from-host \"1A\"; }; }",
        &["`1A` cannot be an environment variable"],
    );
    refused(
        "mcp config=\"list.json\"",
        &[
            "`list.json`: server `x`: `git+ssh://h/x` is no package of a registry",
            "server `y`: it has neither a `command` nor a `url`",
        ],
    );
    refused("mcp config=\"../list.json\"", &["`../list.json` leaves the project"]);
}

/// The server of AgentScope's example that no longer starts from its newest dependencies.
#[test]
fn an_old_server_of_the_public_index_lists_its_tools() {
    let project = over_python(
        "mcp { server \"word-document\" pypi=\"office-word-mcp-server==1.1.3\" program=\"word_mcp_server\" as-of=\"2025-07-01\"; }",
    );
    let (project, _dir, root) = unpacked(project);
    assert!(project.read("sbx.lock").contains(" mcp 1.10.1 "));
    let tools = Client::start(&root, "word-document", &[]).unwrap().tools();
    assert!(tools.len() > 20 && tools.contains(&"create_document".to_owned()), "{tools:?}");
}
