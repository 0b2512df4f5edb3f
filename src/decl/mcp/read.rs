//! Reading `mcp` nodes.

use std::path::Path;

use serde_json::Value;

use super::import::import;
use super::launch::{Launch, npm_spec, parse_launch, requirement};
use super::{CONFIG, Draft, KeyVar, Mcp, Origin, Server, ToolCall, pypi_origin};
use crate::decl::as_of::read_day;
use crate::decl::fault::{Fault, Location};
use crate::decl::layer::{checked, read_env};
use crate::decl::node::Node;
use crate::decl::python::Venv;
use crate::decl::recipe::Recipe;
use crate::decl::units::is_variable;

const CHILDREN: &[&str] =
    &["arg", "constraints", "env", "env-from-host", "header", "packages", "probe", "venv"];
const SOURCES: &str = "`npm`, `pypi`, `command` and `url`";

impl Mcp {
    /// Adds the recipes of an `mcp` node to those of its layer.
    pub(in crate::decl) fn read(node: &Node<'_>, root: &Path, recipes: &mut Vec<Recipe>) {
        let config = node.find_text_property("config-at").unwrap_or_else(|| CONFIG.to_owned());
        let existing = node.find_text_property("config");
        node.finish();
        let Some(config) = checked(node, &config) else { return };
        let mut drafts = match existing {
            Some(path) => import(node, root, &path),
            None => Vec::new(),
        };
        let imported = drafts.len();
        for child in node.children() {
            match child.name() {
                "server" => read_server(&child, &mut drafts, imported),
                _ => child.unknown("`mcp`", &["server"]),
            }
        }
        if drafts.is_empty() {
            let fault = Fault::new(&node.at(), "`mcp` has no servers");
            node.sink.push(
                fault.help("say `server \"name\" npm=\"package@version\"`, or `config=FILE`"),
            );
        }
        let mut servers: Vec<Server> = Vec::new();
        for draft in drafts {
            match draft.install(recipes) {
                Ok(server) => servers.push(server),
                Err(fault) => node.sink.push(*fault),
            }
        }
        servers.sort_by(|a, b| a.name.cmp(&b.name));
        recipes.push(Recipe::Mcp(Mcp { config, servers, at: node.at() }));
    }
}

/// Reads a `server`; one that `config=FILE` has is completed by what is said here.
fn read_server(node: &Node<'_>, drafts: &mut Vec<Draft>, imported: usize) {
    let Some(name) = node.text("a name") else { return };
    if name.is_empty() || name.contains(['\0', '\n', '`']) {
        return node.fault("a server's name cannot be empty or have signs that are not shown");
    }
    let known = drafts.iter().position(|draft| draft.name == name);
    let taken = |draft: &Draft| draft.dir == Draft::new(&name, &node.at()).dir;
    if known.is_some_and(|at| at >= imported) || (known.is_none() && drafts.iter().any(taken)) {
        return node.fault(format!("server `{name}` is declared twice"));
    }
    let mut draft = known.map_or_else(|| Draft::new(&name, &node.at()), |at| drafts[at].clone());
    draft.at = node.at();
    read_origin(node, &mut draft);
    draft.as_of = read_day(node).or(draft.as_of);
    draft.python = node.find_text_property("python").or(draft.python);
    draft.cwd = node.find_text_property("cwd").or(draft.cwd);
    node.finish();
    let mut args = Vec::new();
    for child in node.children() {
        draft.read_child(&child, &mut args);
    }
    if !args.is_empty() {
        draft.args = args;
    }
    draft.fill();
    draft.check(node);
    match known {
        Some(at) => drafts[at] = draft,
        None => drafts.push(draft),
    }
}

/// `npm=…`, `pypi=…`, `command=…` or `url=…`, and what belongs to it.
fn read_origin(node: &Node<'_>, draft: &mut Draft) {
    let [npm, pypi, command, url] =
        ["npm", "pypi", "command", "url"].map(|name| node.find_text_property(name));
    let program = node.find_text_property("program");
    let kind = node.find_text_property("type");
    let seconds = |name| node.find_integer_property(name, 1..=86_400);
    let (timeout, read_timeout) = (seconds("timeout"), seconds("sse-read-timeout"));
    let named = [&npm, &pypi, &command, &url].into_iter().flatten().count();
    if named > 1 {
        return node.fault(format!("a server comes from one place: {SOURCES} exclude each other"));
    }
    if let Some(program) = program.as_ref().filter(|text| text.is_empty() || text.contains('/')) {
        node.fault(format!("`{program}` is no program's name"));
    }
    let origin = match (npm, pypi, command, url) {
        (Some(npm), ..) => npm_spec(&npm)
            .map(|package| Origin::Npm { packages: vec![package], program: program.clone() }),
        (_, Some(pypi), ..) => {
            requirement(&pypi).map(|package| pypi_origin(package, program.clone()))
        }
        (_, _, Some(command), _) => match parse_launch(&command, &[]) {
            Ok(Launch::Program) => Ok(Origin::Command(command)),
            _ => Err(format!(
                "`{command}` fetches what it starts: say `npm=…` or `pypi=…` with the package"
            )),
        },
        (_, _, _, Some(url)) => {
            let sound = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
            draft.more.insert("url".to_owned(), Value::String(url.clone()));
            let kind = kind.clone().unwrap_or_else(|| "streamable_http".to_owned());
            draft.more.insert("type".to_owned(), Value::String(kind));
            match sound {
                true => Ok(Origin::Remote),
                false => Err(format!("`{url}` is no address of a server")),
            }
        }
        _ => Ok(draft.origin.clone()),
    };
    match origin {
        Ok(origin) => draft.origin = origin,
        Err(reason) => node.fault(reason),
    }
    match (program, &mut draft.origin) {
        (None, _) => {}
        (Some(name), Origin::Npm { program, .. }) => *program = Some(name),
        (Some(name), Origin::Pypi { program, .. }) => *program = name,
        (Some(_), _) => node.fault("`program` is one of a package's, which `npm` or `pypi` names"),
    }
    let remote = draft.origin == Origin::Remote;
    for (key, value) in [("timeout", timeout), ("sse_read_timeout", read_timeout)] {
        let Some(value) = value.and_then(|value| i64::try_from(value).ok()) else { continue };
        draft.more.insert(key.to_owned(), Value::from(value));
    }
    if !remote && (timeout.is_some() || read_timeout.is_some() || kind.is_some()) {
        node.fault("`type`, `timeout` and `sse-read-timeout` are a remote server's");
    }
}

impl Draft {
    /// `{dir}` stands for the server's own directory and `{venv}` for its Python environment.
    fn fill(&mut self) {
        let venv = match self.origin {
            Origin::Pypi { .. } if self.venv.is_none() => self.dir.to_string(),
            _ => self.venv_dir().to_string(),
        };
        let dir = self.dir.to_string();
        let fill = |text: &mut String| {
            *text = text.replace("{dir}", &dir).replace("{venv}", &venv);
        };
        self.args.iter_mut().for_each(fill);
        self.env.iter_mut().for_each(|(_, value)| fill(value));
        self.cwd.iter_mut().for_each(fill);
        if let Origin::Command(command) = &mut self.origin {
            fill(command);
        }
    }

    fn read_child(&mut self, child: &Node<'_>, args: &mut Vec<String>) {
        match child.name() {
            "arg" => {
                let texts = child.texts("arguments").into_iter();
                args.extend(texts.map(|(text, _)| text));
                child.finish_leaf();
            }
            "env" => {
                for (name, value) in read_env(child) {
                    self.from_host.retain(|key| key.name != name);
                    put(&mut self.env, name, value);
                }
            }
            "env-from-host" => {
                for key in read_keys(child) {
                    self.env.retain(|(name, _)| *name != key.name);
                    self.from_host.retain(|known| known.name != key.name);
                    self.from_host.push(key);
                }
            }
            "header" => {
                let headers =
                    self.more.entry("headers").or_insert_with(|| Value::Object(Default::default()));
                let read = child.map().into_iter();
                if let Value::Object(headers) = headers {
                    headers.extend(read.map(|(name, value, _)| (name, Value::String(value))));
                }
            }
            "packages" => self.add_packages(child),
            "constraints" => {
                let files = child.texts("paths of files").into_iter();
                self.constraints.extend(files.map(|(text, _)| text));
                child.finish_leaf();
            }
            "probe" => self.probe = ToolCall::read(child).or(self.probe.take()),
            "venv" => match self.venv {
                Some(_) => child.fault("a server has one `venv`"),
                None => self.venv = Venv::read_into(child, self.venv_dir(), None),
            },
            _ => child.unknown("`server`", CHILDREN),
        }
    }

    fn add_packages(&mut self, child: &Node<'_>) {
        for (text, at) in child.texts("packages") {
            let read = match &mut self.origin {
                Origin::Npm { packages, .. } => npm_spec(&text).map(|spec| packages.push(spec)),
                Origin::Pypi { packages, .. } => requirement(&text).map(|one| packages.push(one)),
                _ => Err("`packages` are installed beside what `npm` or `pypi` names".to_owned()),
            };
            if let Err(reason) = read {
                child.sink.push(Fault::new(&at, reason));
            }
        }
        child.finish_leaf();
    }

    fn check(&self, node: &Node<'_>) {
        if let Some(cwd) = &self.cwd {
            checked(node, cwd);
        }
        let remote = self.origin == Origin::Remote;
        let local = !self.args.is_empty()
            || !self.env.is_empty()
            || !self.from_host.is_empty()
            || self.cwd.is_some()
            || self.venv.is_some();
        if remote && local {
            node.fault("a remote server has no arguments, environment or directory here");
        }
        if !remote && self.more.contains_key("headers") {
            node.fault("`header` is a remote server's");
        }
        let pypi = matches!(self.origin, Origin::Pypi { .. });
        if !pypi && (self.python.is_some() || !self.constraints.is_empty()) {
            node.fault("`python` and `constraints` are for a server that `pypi` names");
        }
        let installs = pypi || matches!(self.origin, Origin::Npm { .. });
        if self.as_of.is_some() && !installs {
            node.fault("`as-of` is for a server that `npm` or `pypi` names");
        }
    }
}

/// `env-from-host "KEY" default="" from="HOST_KEY"`.
fn read_keys(node: &Node<'_>) -> Vec<KeyVar> {
    let (default, from) = (node.find_text_property("default"), node.find_text_property("from"));
    let texts = node.texts("names of variables");
    node.finish_leaf();
    if from.is_some() && texts.len() > 1 {
        node.fault("`from` is for one variable");
    }
    let key = |(name, at): (String, Location)| {
        let from = from.clone().unwrap_or_else(|| name.clone());
        if let Some(bad) = [&name, &from].into_iter().find(|name| !is_variable(name)) {
            let message = format!("`{bad}` cannot be an environment variable");
            node.sink.push(Fault::new(&at, message));
            return None;
        }
        Some(KeyVar { name, from, default: default.clone() })
    };
    texts.into_iter().filter_map(key).collect()
}

fn put(env: &mut Vec<(String, String)>, name: String, value: String) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(slot) => slot.1 = value,
        None => env.push((name, value)),
    }
}
