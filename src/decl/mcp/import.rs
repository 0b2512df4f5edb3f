//! `config=FILE`: the JSON that MCP's clients share, with what fetches at a start made to be locked.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::launch::{Launch, Pypi, parse_launch};
use super::{Draft, KeyVar, Origin};
use crate::decl::fault::Fault;
use crate::decl::node::Node;
use crate::decl::units::is_variable;

/// The servers of a file, by name.
pub(super) fn import(node: &Node<'_>, root: &Path, path: &str) -> Vec<Draft> {
    let at = node.property_at("config");
    let fault = |message: String| node.sink.push(Fault::new(&at, message));
    if path.starts_with('/') || path.split('/').any(|part| part == "..") {
        fault(format!("`{path}` leaves the project"));
        return Vec::new();
    }
    let text = match std::fs::read_to_string(root.join(path)) {
        Ok(text) => text,
        Err(error) => {
            fault(format!("cannot read `{path}`: {error}"));
            return Vec::new();
        }
    };
    let servers = match parse(&text) {
        Ok(servers) => servers,
        Err(reason) => {
            fault(format!("`{path}`: {reason}"));
            return Vec::new();
        }
    };
    let mut drafts: Vec<Draft> = Vec::new();
    for (name, server) in servers {
        if server.get("disabled") == Some(&Value::Bool(true)) {
            continue;
        }
        let mut draft = Draft::new(&name, &at);
        match fill(&mut draft, server) {
            Ok(()) if drafts.iter().any(|other| other.dir == draft.dir) => {
                fault(format!("`{path}`: two servers are called `{name}`, as directories go"));
            }
            Ok(()) => drafts.push(draft),
            Err(reason) => {
                let message = format!("`{path}`: server `{name}`: {reason}");
                let help = "declare it by `server` instead, with what it is made of";
                node.sink.push(Fault::new(&at, message).help(help));
            }
        }
    }
    drafts
}

/// `{"mcpServers": {NAME: {…}}}`, or `servers` as other clients call it.
fn parse(text: &str) -> Result<BTreeMap<String, Map<String, Value>>, String> {
    let file: Map<String, Value> =
        serde_json::from_str(text).map_err(|error| format!("it is no JSON object: {error}"))?;
    let servers = ["mcpServers", "servers"].iter().find_map(|key| file.get(*key));
    let servers = servers.ok_or("it has no `mcpServers`")?;
    let servers = servers.as_object().ok_or("its `mcpServers` is no object")?;
    let server = |(name, value): (&String, &Value)| match value.as_object() {
        Some(server) => Ok((name.clone(), server.clone())),
        None => Err(format!("server `{name}` is no object")),
    };
    servers.iter().map(server).collect()
}

fn fill(draft: &mut Draft, mut server: Map<String, Value>) -> Result<(), String> {
    let Some(command) = server.remove("command") else {
        if !server.get("url").is_some_and(Value::is_string) {
            return Err("it has neither a `command` nor a `url`".to_owned());
        }
        if let Some(path) = find_reference(&server) {
            return Err(format!("{path} takes a variable, which a remote server cannot"));
        }
        draft.origin = Origin::Remote;
        draft.more = server;
        return Ok(());
    };
    let command = command.as_str().ok_or("its `command` is no text")?.to_owned();
    let args = match server.remove("args") {
        None => Vec::new(),
        Some(args) => texts(&args).ok_or("its `args` are no list of texts")?,
    };
    let env = match server.remove("env") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(env)) => env,
        Some(_) => return Err("its `env` is no object".to_owned()),
    };
    for (name, value) in env {
        add_variable(draft, name, &value)?;
    }
    if let Some(cwd) = server.remove("cwd") {
        draft.cwd = Some(cwd.as_str().ok_or("its `cwd` is no text")?.to_owned());
    }
    for key in ["type", "transport", "disabled"] {
        server.remove(key);
    }
    draft.more = server;
    (draft.origin, draft.args) = match parse_launch(&command, &args)? {
        Launch::Npm { packages, program, args } => (Origin::Npm { packages, program }, args),
        Launch::Pypi(Pypi { packages, program, python, as_of, args }) => {
            draft.python = python;
            draft.as_of = as_of;
            (Origin::Pypi { packages, program }, args)
        }
        Launch::Program => (Origin::Command(command), args),
    };
    match draft.args.iter().find(|arg| arg.contains("${")) {
        Some(arg) => Err(format!("its argument `{arg}` takes a variable, which only `env` can")),
        None => Ok(()),
    }
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    };
    value.as_array()?.iter().map(text).collect()
}

/// A value, or a variable of the host's: `${KEY}`, `${env:KEY}`, `${KEY:-default}`.
fn add_variable(draft: &mut Draft, name: String, value: &Value) -> Result<(), String> {
    if !is_variable(&name) {
        return Err(format!("`{name}` cannot be an environment variable"));
    }
    let value = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
        _ => return Err(format!("variable `{name}` is no text")),
    };
    if !value.contains("${") {
        draft.env.push((name, value));
        return Ok(());
    }
    let inner = value.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    let inner = inner.map(|inner| inner.strip_prefix("env:").unwrap_or(inner));
    let (from, default) = match inner.map(|inner| inner.split_once(":-").unwrap_or((inner, "\0"))) {
        Some((from, "\0")) => (from, None),
        Some((from, default)) => (from, Some(default.to_owned())),
        None => ("", None),
    };
    if !is_variable(from) || default.as_ref().is_some_and(|text| text.contains("${")) {
        return Err(format!("variable `{name}` is `{value}`, which is no single variable"));
    }
    draft.from_host.push(KeyVar { name, from: from.to_owned(), default });
    Ok(())
}

/// Where an object has `${…}`.
fn find_reference(server: &Map<String, Value>) -> Option<String> {
    let has = |value: &Value| value.to_string().contains("${");
    server.iter().find(|(_, value)| has(value)).map(|(key, _)| format!("its `{key}`"))
}
