//! `npm`: the packages of a project, as its lock says, which is npm's or pnpm's.

use serde::Serialize;

use super::fault::{Fault, Location};
use super::layer::checked;
use super::node::Node;
use super::recipe::Recipe;
use crate::path::LayerPath;

/// Packages of a project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Npm {
    /// The project's directory, below this one's; empty for this one's itself.
    pub project: String,
    /// The recipe of its layer whose source the project is in, where it is no local one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub laid: Option<LaidProject>,
    /// Where its `node_modules` goes in the image. Not part of what is asked: the same packages lie
    /// anywhere.
    #[serde(skip)]
    pub into: LayerPath,
    pub omit: Vec<Kind>,
    /// Packages whose install scripts run.
    pub scripts: Vec<String>,
    /// Packages from git that are laid as they are, though they would be built to be packed.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unprepared: Vec<String>,
    /// The newest day whose releases are seen; goes before the project's.
    pub as_of: Option<String>,
    /// Files that it reads where they are there; its `package.json` must be.
    #[serde(skip)]
    pub files: Vec<String>,
    #[serde(skip)]
    pub at: Location,
}

/// A project in the source of an earlier recipe of the layer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LaidProject {
    /// That recipe's place in the layer. Not part of what is asked: its own question is.
    #[serde(skip)]
    pub recipe: usize,
    /// The project's directory, below what that recipe lays.
    pub dir: String,
}

/// Where a project without a name of its own is.
enum Before {
    /// The directory that `files` laid, and where.
    Local(String, LayerPath),
    /// What the recipe at this place lays, and where.
    Laid(usize, LayerPath),
}

impl Before {
    fn find(before: &[Recipe]) -> Option<Self> {
        let laid = |(at, recipe): (usize, &Recipe)| match recipe {
            Recipe::Files(files) => {
                Some(Before::Local(files.from.display().to_string(), files.into.clone()))
            }
            recipe => recipe.take().map(|take| Before::Laid(at, take.into.clone())),
        };
        before.iter().enumerate().rev().find_map(laid)
    }
}

/// A kind of dependencies that may be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Dev,
    Optional,
    Peer,
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "dev" => Ok(Kind::Dev),
            "optional" => Ok(Kind::Optional),
            "peer" => Ok(Kind::Peer),
            _ => {
                Err(format!("`{text}` cannot be left out: known are `dev`, `optional` and `peer`"))
            }
        }
    }
}

/// Files of a project that say what is installed; the first of each kind counts.
const READS: &[&str] = &[
    "package.json",
    "npm-shrinkwrap.json",
    "package-lock.json",
    "pnpm-lock.yaml",
    "pnpm-workspace.yaml",
    ".npmrc",
];

impl Npm {
    /// Reads a recipe that comes after others in its layer: without a project of its own it is for
    /// the one that `files` laid last.
    pub(super) fn read(node: &Node<'_>, before: &[Recipe]) -> Option<Self> {
        let named = node.find_text();
        let before = Before::find(before);
        let local = match &before {
            Some(Before::Local(from, into)) => Some((from.clone(), into.clone())),
            _ => None,
        };
        let into = node.find_text_property("at").and_then(|text| checked(node, &text));
        let mut npm = Npm {
            project: String::new(),
            laid: None,
            into: LayerPath::root(),
            omit: node.find_parsed_property("omit").into_iter().collect(),
            scripts: node.find_text_property("scripts").into_iter().collect(),
            unprepared: node.find_text_property("unprepared").into_iter().collect(),
            as_of: super::as_of::read_day(node),
            files: Vec::new(),
            at: node.at(),
        };
        node.finish();
        let at = npm.read_children(node).or(into);
        if let (None, Some(Before::Laid(recipe, into))) = (&named, &before) {
            return npm.in_laid(node, *recipe, into, at);
        }
        let same = |project: &str| local.as_ref().filter(|(from, _)| from == project);
        let laid = named.as_deref().map_or(local.as_ref(), same);
        let Some(project) = named.or(local.as_ref().map(|(from, _)| from.clone())) else {
            let fault = Fault::new(&node.at(), "`npm` has no project");
            let help = "name its directory, or lay it by a `files` before";
            node.sink.push(fault.help(help));
            return None;
        };
        let Some(into) = at.or(laid.map(|(_, into)| into.clone())) else {
            let fault =
                Fault::new(&node.at(), format!("`npm` does not say where `{project}` goes"));
            node.sink.push(fault.help("say `at=\"/opt/app\"`, or lay it by a `files` before"));
            return None;
        };
        let clean = clean(&project);
        if clean.is_none() {
            node.fault(format!("`{project}` leaves the project"));
        }
        let mut npm = Npm { project: clean?, into, ..npm };
        npm.files = READS.iter().map(|name| npm.file(name)).collect();
        Some(npm)
    }

    /// Reads what may stand in children; answers where the project goes, if one says so.
    fn read_children(&mut self, node: &Node<'_>) -> Option<LayerPath> {
        let mut at = None;
        for child in node.children() {
            match child.name() {
                "at" => {
                    at = child.text("a path in the image").and_then(|text| checked(&child, &text));
                }
                "omit" => {
                    let kinds = child.parse_all::<Kind>("kinds of dependencies").into_iter();
                    self.omit.extend(kinds.map(|(kind, _)| kind));
                }
                "scripts" => {
                    let names = child.texts("names of packages").into_iter();
                    self.scripts.extend(names.map(|(name, _)| name));
                }
                "unprepared" => {
                    let names = child.texts("names of packages").into_iter();
                    self.unprepared.extend(names.map(|(name, _)| name));
                }
                _ => {
                    child.unknown("`npm`", &["at", "omit", "scripts", "unprepared"]);
                    continue;
                }
            }
            child.finish_leaf();
        }
        self.omit.sort();
        self.omit.dedup();
        at
    }

    /// In what an earlier recipe lays, `at` names the project's directory.
    fn in_laid(
        self,
        node: &Node<'_>,
        recipe: usize,
        into: &LayerPath,
        at: Option<LayerPath>,
    ) -> Option<Self> {
        let at = at.unwrap_or_else(|| into.clone());
        let Some(dir) = at.strip_prefix(into) else {
            let fault = Fault::new(&node.at(), format!("no recipe before lays a project at {at}"));
            node.sink.push(fault.help(format!("say a directory below {into}")));
            return None;
        };
        let dir = String::from_utf8_lossy(dir).into_owned();
        Some(Npm { laid: Some(LaidProject { recipe, dir }), into: at, ..self })
    }

    /// A file of the project, below this one's directory.
    pub fn file(&self, name: &str) -> String {
        if self.project.is_empty() { name.to_owned() } else { format!("{}/{name}", self.project) }
    }
}

/// A path below the project's directory; `None` for one that leaves it.
fn clean(path: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in path.split('/').filter(|_| !path.starts_with('/')) {
        match part {
            "" | "." => {}
            ".." => return None,
            part => parts.push(part),
        }
    }
    (!path.starts_with('/')).then(|| parts.join("/"))
}
