//! `run`: a command whose traces in the file system are the layer.

use std::path::PathBuf;

use serde::Serialize;

use super::fault::{Fault, Location};
use super::layer::{as_text, checked, read_env};
use super::node::Node;
use crate::path::LayerPath;

/// A command in the build sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Run {
    /// For its shell.
    pub command: String,
    /// Takes the command after `-c`.
    #[serde(serialize_with = "as_text")]
    pub shell: LayerPath,
    /// Where it runs; `None` for where the recipe before it laid its files.
    pub cwd: Option<String>,
    pub env: Vec<(String, String)>,
    pub secrets: Vec<Secret>,
    /// What it may leave behind though no layer should hold it.
    pub allow: Vec<Leftover>,
    /// Paths that it must not change.
    pub deny: Vec<String>,
    /// Seconds until it is ended. Says nothing about what it makes.
    #[serde(skip)]
    pub timeout: Option<u32>,
    #[serde(skip)]
    pub at: Location,
}

/// Something of the host's that a command may read and no layer may hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Secret {
    /// Its file's name below `/run/secrets`.
    pub name: String,
    #[serde(skip)]
    pub from: SecretSource,
    #[serde(skip)]
    pub at: Location,
}

/// Where a secret is, when its step is built.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum SecretSource {
    /// A variable of the environment.
    Variable(String),
    /// A file, below the project's directory or absolute.
    File(PathBuf),
}

/// What a layer should not hold unless it is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Leftover {
    /// Files that run with their owner's or their group's rights, or with capabilities of their own.
    Setuid,
    /// Sockets, which are left out of the layer.
    Socket,
}

impl std::str::FromStr for Leftover {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "setuid" => Ok(Leftover::Setuid),
            "socket" => Ok(Leftover::Socket),
            _ => Err(format!("`{text}` cannot be allowed: known are `setuid` and `socket`")),
        }
    }
}

impl Run {
    /// A command that a recipe of another kind implies.
    pub fn implied(command: String, cwd: String, at: &Location) -> Self {
        Run {
            command,
            shell: LayerPath::parse_absolute("/bin/sh").unwrap_or_default(),
            cwd: Some(cwd),
            env: Vec::new(),
            secrets: Vec::new(),
            allow: Vec::new(),
            deny: Vec::new(),
            timeout: None,
            at: at.clone(),
        }
    }

    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let command = node.text("a command");
        let shell = node.find_text_property("shell").unwrap_or("/bin/sh".to_owned());
        let timeout = node.find_integer_property("timeout", 1..=604_800);
        let mut run = Run {
            command: command.clone().unwrap_or_default(),
            shell: checked(node, &shell)?,
            cwd: node.find_text_property("cwd"),
            env: Vec::new(),
            secrets: Vec::new(),
            allow: node.find_parsed_property("allow").into_iter().collect(),
            deny: Vec::new(),
            timeout: timeout.and_then(|seconds| u32::try_from(seconds).ok()),
            at: node.at(),
        };
        if command.as_ref().is_some_and(|command| command.trim().is_empty()) {
            node.fault("`run` needs a command that is not empty");
        }
        if command.as_ref().is_some_and(|command| command.contains('\0')) {
            node.fault("a command cannot have a NUL character");
        }
        if let Some(cwd) = &run.cwd {
            checked(node, cwd);
        }
        node.finish();
        for child in node.children() {
            run.read_child(&child);
        }
        command.is_some().then_some(run)
    }

    fn read_child(&mut self, child: &Node<'_>) {
        match child.name() {
            "env" => self.env.extend(read_env(child)),
            "secret" => self.read_secret(child),
            "allow" => {
                let allowed = child.parse_all::<Leftover>("what is allowed");
                self.allow.extend(allowed.into_iter().map(|(leftover, _)| leftover));
                child.finish_leaf();
            }
            "deny" => {
                for (text, at) in child.texts("paths") {
                    match LayerPath::parse_absolute(&text) {
                        Ok(_) => self.deny.push(text),
                        Err(error) => child.sink.push(Fault::new(&at, error.to_string())),
                    }
                }
                child.finish_leaf();
            }
            _ => child.unknown("`run`", &["allow", "deny", "env", "secret"]),
        }
    }

    fn read_secret(&mut self, child: &Node<'_>) {
        let name = child.text("a name");
        let variable = child.find_text_property("env").map(SecretSource::Variable);
        let file = child.find_text_property("file").map(|path| SecretSource::File(path.into()));
        child.finish_leaf();
        let Some(name) = name else { return };
        let sign = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(sign) {
            return child.fault(format!("`{name}` is no name for a file of a secret"));
        }
        if self.secrets.iter().any(|secret| secret.name == name) {
            return child.fault(format!("secret `{name}` is named twice"));
        }
        let from = match (variable, file) {
            (Some(_), Some(_)) => return child.fault("a secret has `env=…` or `file=…`, not both"),
            (None, Some(file)) => file,
            (Some(variable), None) => variable,
            (None, None) => SecretSource::Variable(name.clone()),
        };
        self.secrets.push(Secret { name, from, at: child.at() });
    }
}
