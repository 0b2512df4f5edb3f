//! `venv`: a virtual environment of locked wheels.

use serde::Serialize;

use super::as_of::read_day;
use super::editable::{Editable, Laid};
use super::fault::{Fault, Location};
use super::layer::checked;
use super::node::Node;
use super::npm::LaidProject;
use super::picks::Picks;
use super::recipe::Recipe;
use crate::path::LayerPath;

/// What an environment is to hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Venv {
    /// Where it is in the image. Not part of what is asked: the same wheels lie anywhere.
    #[serde(skip)]
    pub prefix: LayerPath,
    /// Requirements that stand in the declaration.
    pub packages: Vec<String>,
    /// Files of requirements, below the project, or by their place in the image where an earlier recipe
    /// of the layer lays them.
    pub requirements: Vec<String>,
    pub constraints: Vec<String>,
    /// A `pyproject.toml`, whose dependencies are meant.
    pub pyproject: Option<String>,
    /// A `pylock.toml` that is authority.
    pub lock: Option<String>,
    pub extras: Vec<String>,
    pub groups: Vec<String>,
    /// Projects of the layer's own, which stay where they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub editables: Vec<Editable>,
    /// The recipe whose source has the files that are named by their place in the image.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub laid: Option<LaidProject>,
    /// `3.13`; `None` for the one Python below.
    pub python: Option<String>,
    /// The newest day whose releases are seen; goes before the project's.
    pub as_of: Option<String>,
    /// What is left out of it, in gitignore's patterns of paths below it. Not part of what is asked.
    #[serde(skip)]
    pub exclude: Vec<String>,
    /// Whether the image's Python compiles it.
    #[serde(skip)]
    pub bytecode: bool,
    /// Programs that it must have.
    #[serde(skip)]
    pub programs: Vec<String>,
    #[serde(skip)]
    pub at: Location,
}

const CHILDREN: &[&str] = &[
    "constraints",
    "editable",
    "exclude",
    "extras",
    "groups",
    "packages",
    "pyproject",
    "requirements",
];

impl Venv {
    pub(super) fn empty(at: Location) -> Self {
        Venv {
            prefix: LayerPath::root(),
            packages: Vec::new(),
            requirements: Vec::new(),
            constraints: Vec::new(),
            pyproject: None,
            lock: None,
            extras: Vec::new(),
            groups: Vec::new(),
            editables: Vec::new(),
            laid: None,
            python: None,
            as_of: None,
            exclude: Vec::new(),
            bytecode: true,
            programs: Vec::new(),
            at,
        }
    }

    pub(super) fn read(node: &Node<'_>, laid: Laid<'_>) -> Option<Self> {
        let place = node.text("a path in the image");
        let venv = Venv::read_into(node, LayerPath::root(), Some(laid));
        let prefix = checked(node, &place?)?;
        if prefix.is_root() {
            node.fault("an environment needs a directory of its own");
            return None;
        }
        Some(Venv { prefix, ..venv? })
    }

    /// Reads what it holds, once its place is known; without `laid` there is no source to be found.
    pub(super) fn read_into(
        node: &Node<'_>,
        prefix: LayerPath,
        laid: Option<Laid<'_>>,
    ) -> Option<Self> {
        let mut venv = Venv {
            prefix,
            requirements: node.find_text_property("requirements").into_iter().collect(),
            pyproject: node.find_text_property("pyproject"),
            lock: node.find_text_property("lock"),
            python: node.find_text_property("python"),
            as_of: read_day(node),
            bytecode: node.flag_property("bytecode").unwrap_or(true),
            ..Venv::empty(node.at())
        };
        node.finish();
        for child in node.children() {
            venv.read_child(&child, laid);
        }
        venv.find_laid(node, laid);
        venv.check(node);
        Some(venv)
    }

    /// Files that are named by their place in the image are of one source that is laid before.
    fn find_laid(&mut self, node: &Node<'_>, laid: Option<Laid<'_>>) {
        let before = laid.map(|laid| laid.before).unwrap_or_default();
        let named: Vec<String> =
            self.named().filter(|path| path.starts_with('/')).map(str::to_owned).collect();
        for path in named {
            let Some(full) = checked(node, &path) else { continue };
            let holds =
                |recipe: &Recipe| recipe.take().is_some_and(|take| full.starts_with(&take.into));
            let known = self.laid.as_ref().map(|laid| laid.recipe);
            match before.iter().rposition(holds) {
                None => {
                    let fault = Fault::new(&node.at(), format!("no recipe before lays {path}"));
                    let help = "lay it by `git`, `archive` or `files from=` before, or name a file below the project";
                    node.sink.push(fault.help(help));
                }
                Some(recipe) if known.is_some_and(|known| known != recipe) => {
                    node.fault("files of two sources cannot be read for one environment");
                }
                Some(recipe) => self.laid = Some(LaidProject { recipe, dir: String::new() }),
            }
        }
    }

    fn read_child(&mut self, child: &Node<'_>, laid: Option<Laid<'_>>) {
        let (list, what) = match child.name() {
            "packages" => (&mut self.packages, "requirements"),
            "requirements" => (&mut self.requirements, "paths of files"),
            "constraints" => (&mut self.constraints, "paths of files"),
            "exclude" => (&mut self.exclude, "patterns of paths"),
            "extras" => (&mut self.extras, "names of extras"),
            "groups" => (&mut self.groups, "names of dependency groups"),
            "pyproject" => {
                self.pyproject = child.text("the path of a file");
                return child.finish_leaf();
            }
            "editable" => {
                let Some(laid) = laid else {
                    return child.fault("`editable` is for a `venv` of a layer itself");
                };
                return self.editables.extend(Editable::read(child, laid));
            }
            _ => return child.unknown("`venv`", CHILDREN),
        };
        list.extend(child.texts(what).into_iter().map(|(text, _)| text));
        child.finish_leaf();
    }

    fn check(&self, node: &Node<'_>) {
        let asks =
            !self.packages.is_empty() || !self.requirements.is_empty() || self.pyproject.is_some();
        if self.lock.is_some() && (asks || !self.constraints.is_empty()) {
            node.fault("a `lock` is authority: nothing else can be asked beside it");
        }
        if !asks && self.lock.is_none() && self.editables.is_empty() {
            let fault = Fault::new(&node.at(), "`venv` installs nothing");
            let help = "say `packages`, `requirements`, `pyproject`, `lock` or `editable`";
            node.sink.push(fault.help(help));
        }
        if self.lock.is_none() && self.pyproject.is_none() {
            let known =
                |extra: &String| self.editables.iter().any(|one| one.extras.contains_key(extra));
            match self.extras.iter().find(|extra| !known(extra)) {
                Some(extra) if !self.editables.is_empty() => {
                    node.fault(format!("no `editable` has an extra `{extra}`"));
                }
                extra if extra.is_some() || !self.groups.is_empty() => {
                    node.fault("`extras` and `groups` are a `pyproject`'s or a `lock`'s");
                }
                _ => {}
            }
        }
        for path in self.reads() {
            if path.split('/').any(|part| part == "..") {
                node.fault(format!("`{path}` leaves the project"));
            }
        }
        if let Err(error) = Picks::new(0, "", &[], &self.exclude) {
            node.fault(error.to_string());
        }
        if let Some(python) = &self.python {
            let mut parts = python.split('.').map(|part| part.parse::<u16>().is_ok());
            if parts.clone().count() != 2 || !parts.all(|sound| sound) {
                node.fault(format!("`{python}` is no version of Python: write it as `3.13`"));
            }
        }
    }

    /// Files that it reads, wherever they are.
    pub fn named(&self) -> impl Iterator<Item = &str> {
        let files = self.requirements.iter().chain(&self.constraints);
        files.chain(&self.pyproject).chain(&self.lock).map(String::as_str)
    }

    /// Files of the project that it reads.
    pub fn reads(&self) -> Vec<&str> {
        self.named().filter(|path| !path.starts_with('/')).collect()
    }
}
