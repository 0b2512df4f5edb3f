//! What the documents show is what the program takes: every piece of KDL in them is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::project::Project;
use kdl::KdlDocument;
use sbx::decl::read_project;
use sbx::fetch::Settings;

fn document(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap()
}

/// The blocks of KDL in a document.
fn blocks(text: &str) -> Vec<&str> {
    let blocks = text.split("```kdl\n").skip(1);
    blocks.map(|block| block.split_once("\n```").expect("a block has an end").0).collect()
}

/// The values of entries and arguments below nodes of one name.
fn named(document: &KdlDocument, node: &str, found: &mut BTreeSet<String>) {
    for one in document.nodes() {
        if one.name().value() == node {
            let texts = one.entries().iter().filter(|entry| entry.name().is_none());
            found.extend(texts.filter_map(|entry| entry.value().as_string()).map(str::to_owned));
        }
        if let Some(needed) = one.get("needs").and_then(|value| value.as_string())
            && node == "needs"
        {
            found.insert(needed.to_owned());
        }
        if let Some(children) = one.children() {
            named(children, node, found);
        }
    }
}

/// A block as a project of its own: layers that it only mentions are declared beside it, and recipes
/// that stand alone get a layer.
fn project(block: &str) -> Project {
    let document: KdlDocument = block.parse().unwrap_or_else(|error| panic!("{block}\n{error:?}"));
    let top = ["project", "include", "sandbox", "layer"];
    let is_whole = document.nodes().iter().all(|node| top.contains(&node.name().value()));
    let text = match is_whole {
        true => block.to_owned(),
        // each is an example of its own
        false => (0..)
            .zip(document.nodes())
            .map(|(at, node)| format!("layer \"example-{at}\" needs=\"debian\" {{\n{node}\n}}\n"))
            .collect(),
    };
    let mut mentioned = BTreeSet::from(["debian".to_owned()]);
    for node in ["needs", "layers"] {
        named(&document, node, &mut mentioned);
    }
    let mut declared = BTreeSet::new();
    named(&document, "layer", &mut declared);
    let missing = mentioned.difference(&declared).filter(|name| *name != "debian");
    let rest: String = missing
        .map(|name| format!("layer \"{name}\" needs=\"debian\" {{ dir \"/{name}\"; }}\n"))
        .collect();
    let debian = match declared.contains("debian") {
        true => String::new(),
        false => "layer \"debian\" { debian \"trixie\"; }\n".to_owned(),
    };
    let project =
        Project::new().file("sandboxes.kdl", &text).file("layers/rest.kdl", &(debian + &rest));
    let list =
        r#"{"mcpServers": {"tavily": {"command": "npx", "args": ["-y", "tavily-mcp@0.1.4"]}}}"#;
    let app = "[project]\nname = \"app\"\nversion = \"1\"\n";
    project
        .file("mcp_server_configs.json", list)
        .file("layers/app/app.py", "")
        .file("services/app/pyproject.toml", app)
        .file("services/steel/package.json", "{}")
        .file("src/native/Makefile", "")
}

#[test]
fn every_example_is_a_project() {
    let text = document("docs/kdl.md");
    let blocks = blocks(&text);
    assert!(blocks.len() >= 8, "{}", blocks.len());
    for block in blocks {
        let project = project(block);
        if let Err(faults) = read_project(project.dir.path()) {
            let faults: Vec<&String> = faults.iter().map(|fault| &fault.message).collect();
            panic!("{block}\n{faults:#?}");
        }
    }
}

#[test]
fn every_declaration_beside_a_line_of_the_dockerfile_is_kdl() {
    let text = document("docs/kdl.md");
    let (_, table) = text.split_once("| Dockerfile | KDL |\n|---|---|\n").unwrap();
    let rows: Vec<&str> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert!(rows.len() > 20);
    for row in rows {
        let declared = row.trim_end_matches(" |").rsplit_once(" | ").unwrap().1;
        let spans = declared.split('`').skip(1).step_by(2);
        for span in spans.filter(|span| !span.starts_with("SBX_")) {
            span.parse::<KdlDocument>()
                .unwrap_or_else(|error| panic!("{row}\n`{span}`: {error:?}"));
        }
    }
}

#[test]
fn every_setting_is_shown_and_taken() {
    let text = document("docs/settings.md");
    let [block] = blocks(&text)[..] else { panic!("one example has them all") };
    let path = Path::new("settings.kdl");
    Settings::parse(path, block).unwrap();
    let faults = Settings::parse(path, "zzz").unwrap_err();
    let help = faults.iter().next().and_then(|fault| fault.help.clone()).unwrap();
    let nodes: Vec<&str> = help.strip_prefix("known are ").unwrap().split(", ").collect();
    assert!(nodes.len() > 5, "{help}");
    for node in nodes {
        assert!(block.contains(&format!("{node} ")), "`{node}` is not in the example");
        assert!(text.contains(&format!("| `{node} ")), "`{node}` is not in the table");
    }
}
