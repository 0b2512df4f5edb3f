//! `mcp`: servers of tools for agents, on the image's own disk.
//!
//! A server that comes from npm or PyPI is a recipe of its own (`npm-tools`, `venv`) beside this one,
//! in a directory of its own, so that it is locked with all that it draws in and no server's
//! dependencies meet another's. What stays here is how each is started; the plan writes it down as
//! JSON once the programs are known, for all layers of a sandbox together. A server that takes
//! variables of the host's gets a small program in front of it: keys never enter the image.

mod import;
mod launch;
mod probe;
mod read;

use serde::Serialize;
use serde_json::{Map, Value};

pub use self::probe::ToolCall;

use self::launch::requirement_name;
use super::fault::{Fault, Location};
use super::layer::as_text;
use super::npm_tools::NpmTools;
use super::project::Project;
use super::python::Venv;
use super::recipe::Recipe;
use super::sandbox::{HostVar, Sandbox};
use crate::path::LayerPath;
use crate::platform::Platform;

/// Where the servers of AgentScope's box are looked for.
const CONFIG: &str = "/agentscope_runtime/mcp_server_configs.json";
/// Where servers are installed, each in a directory of its name.
const HOME: &str = "/opt/mcp";

/// Servers, and where they are listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mcp {
    #[serde(serialize_with = "as_text")]
    pub config: LayerPath,
    pub servers: Vec<Server>,
    #[serde(skip)]
    pub at: Location,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Server {
    pub name: String,
    pub start: Start,
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    /// Variables that it takes from the environment it is started in.
    pub from_host: Vec<KeyVar>,
    pub cwd: Option<String>,
    /// What its client is told beside: `url`, `headers`, `encoding`.
    pub more: Map<String, Value>,
    /// The program in front of it, where it needs one.
    #[serde(serialize_with = "as_text")]
    pub wrapper: LayerPath,
    /// What it is tried with.
    #[serde(skip)]
    pub probe: Option<ToolCall>,
    #[serde(skip)]
    pub at: Location,
}

/// What starts a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Start {
    /// A program that the recipe at this place of the layer brings; `None` for its only one.
    Installed { recipe: usize, program: Option<String> },
    /// A program of the image's, by path or by name.
    Command(String),
    /// Nothing: it runs elsewhere.
    Remote,
}

/// A variable that a server gets from where the sandbox is started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct KeyVar {
    /// As the server knows it.
    pub name: String,
    /// As the host knows it.
    pub from: String,
    /// Its value where the host has none.
    pub default: Option<String>,
}

/// A server as it is declared, before it becomes recipes.
#[derive(Clone, Debug)]
struct Draft {
    name: String,
    dir: LayerPath,
    origin: Origin,
    args: Vec<String>,
    env: Vec<(String, String)>,
    from_host: Vec<KeyVar>,
    cwd: Option<String>,
    more: Map<String, Value>,
    python: Option<String>,
    constraints: Vec<String>,
    as_of: Option<String>,
    venv: Option<Venv>,
    probe: Option<ToolCall>,
    at: Location,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Origin {
    Npm {
        packages: Vec<String>,
        program: Option<String>,
    },
    Pypi {
        packages: Vec<String>,
        program: String,
    },
    Command(String),
    Remote,
    /// Nobody has said.
    Unknown,
}

impl Draft {
    fn new(name: &str, at: &Location) -> Self {
        let home = LayerPath::parse_absolute(HOME).unwrap_or_default();
        Draft {
            name: name.to_owned(),
            dir: home.join(slug(name).as_bytes()).unwrap_or_default(),
            origin: Origin::Unknown,
            args: Vec::new(),
            env: Vec::new(),
            from_host: Vec::new(),
            cwd: None,
            more: Map::new(),
            python: None,
            constraints: Vec::new(),
            as_of: None,
            venv: None,
            probe: None,
            at: at.clone(),
        }
    }

    fn venv_dir(&self) -> LayerPath {
        self.dir.join(b"venv").unwrap_or_default()
    }

    /// Adds its recipes to those of its layer, and answers what is left.
    fn install(self, recipes: &mut Vec<Recipe>) -> Result<Server, Box<Fault>> {
        let wrapper = LayerPath::parse_absolute(&format!("{HOME}/bin/{}", slug(&self.name)));
        recipes.extend(self.venv.clone().map(Recipe::Venv));
        let start = match self.origin {
            Origin::Npm { packages, program } => {
                let (into, at) = (self.dir.clone(), self.at.clone());
                let tools = NpmTools { packages, as_of: self.as_of, into, bin: None, at };
                recipes.push(Recipe::NpmTools(tools));
                Start::Installed { recipe: recipes.len() - 1, program }
            }
            Origin::Pypi { packages, program } => {
                let venv = Venv {
                    prefix: self.dir.clone(),
                    packages,
                    constraints: self.constraints,
                    python: self.python,
                    as_of: self.as_of,
                    programs: vec![program.clone()],
                    ..Venv::empty(self.at.clone())
                };
                recipes.push(Recipe::Venv(venv));
                Start::Installed { recipe: recipes.len() - 1, program: Some(program) }
            }
            Origin::Command(command) => Start::Command(command),
            Origin::Remote => Start::Remote,
            Origin::Unknown => {
                let message = format!("server `{}` comes from nowhere", self.name);
                let help = "say `npm=…`, `pypi=…`, `command=…` or `url=…`";
                return Err(Box::new(Fault::new(&self.at, message).help(help)));
            }
        };
        Ok(Server {
            name: self.name,
            start,
            args: self.args,
            env: self.env,
            from_host: self.from_host,
            cwd: self.cwd,
            more: self.more,
            wrapper: wrapper.unwrap_or_default(),
            probe: self.probe,
            at: self.at,
        })
    }
}

impl Project {
    /// The host's variables that a sandbox takes at launch: its own, and those of its MCP servers.
    pub fn host_vars(&self, sandbox: &Sandbox, platform: Platform) -> Vec<HostVar> {
        let mut vars = sandbox.env_from_host.clone();
        let layers = self.shipped_layers(sandbox, platform).into_iter();
        let servers = layers.flat_map(|layer| &layer.recipes).filter_map(|recipe| match recipe {
            Recipe::Mcp(mcp) => Some(&mcp.servers),
            _ => None,
        });
        for key in servers.flatten().flat_map(|server| &server.from_host) {
            if !vars.iter().any(|known| known.name == key.from) {
                // the program in front of the server knows the default
                vars.push(HostVar { name: key.from.clone(), default: None });
            }
        }
        vars
    }
}

impl Server {
    /// Whether a program of its own starts it.
    pub fn is_wrapped(&self) -> bool {
        !self.from_host.is_empty() || self.cwd.is_some()
    }
}

/// A name as a directory: `Word Document` → `Word-Document`.
fn slug(name: &str) -> String {
    let sign = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let text: String = name.chars().map(sign).collect();
    match text.trim_start_matches(['.', '-']) {
        // the directory of the programs in front
        "" | "bin" => format!("server-{text}"),
        text => text.to_owned(),
    }
}

fn pypi_origin(package: String, program: Option<String>) -> Origin {
    let program = program.unwrap_or_else(|| requirement_name(&package).to_owned());
    Origin::Pypi { packages: vec![package], program }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_directories() {
        for (name, dir) in [
            ("tavily-websearch", "tavily-websearch"),
            ("Word Document", "Word-Document"),
            ("../x", "x"),
            ("bin", "server-bin"),
            ("ä", "server--"),
        ] {
            assert_eq!(slug(name), dir);
        }
    }
}
