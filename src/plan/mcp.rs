//! MCP servers: the list that their client reads, and the small programs in front of those that take
//! variables.
//!
//! A sandbox has one list a path, of the servers of all its layers, in the order of their names; so
//! it is a step of the image's, on top of the layers'. It is no part of what a command sees.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::npm_tools::CommandError;
use super::step::{FileWork, Ids, Step, Work};
use super::{Planner, key_of};
use crate::decl::{Fault, KeyVar, Layer, Location, Mcp, Recipe, Server, Start};
use crate::name::LayerName;
use crate::path::LayerPath;

/// Servers by name, by where they are listed.
pub(super) type Configs = BTreeMap<LayerPath, BTreeMap<String, Listed>>;

/// A server in a list.
pub(super) struct Listed {
    layer: LayerName,
    at: Location,
    entry: Value,
}

impl<'a> Planner<'a> {
    /// Notes the servers of a recipe; answers the programs in front of them, and what to call those.
    pub(super) fn add_servers(
        &mut self,
        layer: &'a Layer,
        mcp: &Mcp,
    ) -> (Vec<FileWork>, Option<String>) {
        let mut works = Vec::new();
        let mut names = Vec::new();
        for server in &mcp.servers {
            let program = self.program(layer, server);
            if let (Some(program), true) = (&program, server.is_wrapped()) {
                works.push(FileWork::Inline {
                    path: server.wrapper.clone(),
                    content: wrapper(server, program),
                    mode: 0o755,
                    ids: Ids::default(),
                    replace: false,
                });
                names.push(server.name.as_str());
            }
            let listed = Listed {
                layer: layer.name.clone(),
                at: server.at.clone(),
                entry: entry(server, program),
            };
            self.list(&mcp.config, server, listed);
        }
        (works, Some(format!("mcp: programs that start {}", names.join(" "))))
    }

    fn list(&mut self, config: &LayerPath, server: &Server, listed: Listed) {
        let list = self.configs.entry(config.clone()).or_default();
        if let Some(first) = list.get(&server.name) {
            let (one, two) = (&first.layer, &listed.layer);
            let message = format!(
                "sandbox `{}`: layers `{one}` and `{two}` both have an MCP server `{}`",
                self.given.sandbox, server.name
            );
            let fault = Fault::new(&listed.at, message).label("again");
            return self.faults.push(fault.also(&first.at, "first here"));
        }
        list.insert(server.name.clone(), listed);
    }

    /// What starts a server; `None` for one that runs elsewhere.
    fn program(&mut self, layer: &Layer, server: &Server) -> Option<String> {
        let (at, name) = match &server.start {
            Start::Remote => return None,
            Start::Command(command) => return Some(command.clone()),
            Start::Installed { recipe, program } => (*recipe, program.as_deref()),
        };
        match layer.recipes.get(at)? {
            Recipe::Venv(venv) => Some(format!("{}/bin/{}", venv.prefix, name.unwrap_or_default())),
            Recipe::NpmTools(tools) => match self.command(layer, at, tools, name) {
                Ok(path) => Some(path.to_string()),
                Err(error) => {
                    self.faults.push(missing(server, &error));
                    None
                }
            },
            _ => None,
        }
    }

    /// Adds the lists, on top of everything.
    pub(super) fn add_configs(&mut self) {
        for (path, list) in std::mem::take(&mut self.configs) {
            let names: Vec<&str> = list.keys().map(String::as_str).collect();
            let title = format!("mcp: {}", names.join(" "));
            let Some(layer) = list.values().last().map(|listed| listed.layer.clone()) else {
                continue;
            };
            let servers: Map<String, Value> =
                list.into_iter().map(|(name, listed)| (name, listed.entry)).collect();
            let config = json!({ "mcpServers": servers });
            let text = serde_json::to_string_pretty(&config).expect("names are texts");
            let works = vec![FileWork::Inline {
                path,
                content: format!("{text}\n"),
                mode: 0o644,
                ids: Ids::default(),
                replace: true,
            }];
            let key = key_of("files", &works);
            let (below, work) = (Vec::new(), Work::Files(works));
            self.rest.push(Step { layer, key, title, below, work });
        }
    }
}

fn missing(server: &Server, error: &CommandError) -> Fault {
    let CommandError { package, wanted, found } = error;
    let message = match (wanted, found.as_slice()) {
        (_, []) => format!("npm package `{package}` has no commands"),
        (Some(wanted), _) => format!("npm package `{package}` has no command `{wanted}`"),
        (None, _) => format!("npm package `{package}` has several commands"),
    };
    let names: Vec<String> = found.iter().map(|name| format!("`program=\"{name}\"`")).collect();
    let fault = Fault::new(&server.at, message);
    if names.is_empty() { fault } else { fault.help(format!("say {}", names.join(" or "))) }
}

/// A server, as its client reads it.
fn entry(server: &Server, program: Option<String>) -> Value {
    let mut entry = Map::new();
    if let Some(program) = program {
        let command = if server.is_wrapped() { server.wrapper.to_string() } else { program };
        entry.insert("command".to_owned(), Value::String(command));
        entry.insert("args".to_owned(), json!(server.args));
        let env: BTreeMap<&str, &str> =
            server.env.iter().map(|(name, value)| (&**name, &**value)).collect();
        if !env.is_empty() {
            entry.insert("env".to_owned(), json!(env));
        }
    }
    entry.extend(server.more.clone());
    Value::Object(entry)
}

/// The program in front of a server. It says which variables are missing, and starts it all the same:
/// the server knows best what it can do without.
fn wrapper(server: &Server, program: &str) -> String {
    let mut text = "#!/bin/sh\n".to_owned();
    for key in &server.from_host {
        text.push_str(&take(server, key));
    }
    if let Some(cwd) = &server.cwd {
        text.push_str(&format!("cd {} || exit\n", quoted(cwd)));
    }
    text + &format!("exec {} \"$@\"\n", quoted(program))
}

fn take(server: &Server, key: &KeyVar) -> String {
    let KeyVar { name, from, default } = key;
    let what = match default.as_deref() {
        None => String::new(),
        Some("") => ": it is empty".to_owned(),
        Some(_) => ": its default is taken".to_owned(),
    };
    let said = quoted(&format!("MCP server {}: variable {from} is not set{what}", server.name));
    let otherwise = match default {
        None => String::new(),
        Some(default) => format!("    export {name}={}\n", quoted(default)),
    };
    let rename = match name == from {
        true => String::new(),
        false => format!("else\n    export {name}=\"${from}\"\n"),
    };
    format!(
        "if [ -z \"${{{from}-}}\" ]; then\n    printf '%s\\n' {said} >&2\n{otherwise}{rename}fi\n"
    )
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.=:@%+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}
