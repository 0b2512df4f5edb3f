//! Layers.

use std::path::Path;

use serde::Serialize;

use super::as_of::AsOf;
use super::debian::Debian;
use super::editable::Laid;
use super::fault::{Fault, Location};
use super::files::{Files, InlineFile};
use super::from::BaseImage;
use super::git::Git;
use super::layer_files::LayerFiles;
use super::mcp::Mcp;
use super::node::Node;
use super::nodejs::NodeJs;
use super::npm::Npm;
use super::npm_tools::NpmTools;
use super::place::{Dir, GitInit, Link, Own, User};
use super::python::Venv;
use super::recipe::Recipe;
use super::run::Run;
use super::take::{Archive, PackageFiles};
use super::units::is_variable;
use crate::name::LayerName;
use crate::path::LayerPath;
use crate::platform::Platform;

/// A node that gives file-system deltas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub name: LayerName,
    /// Layers whose content this one sees, in the order of declaration.
    pub needs: Vec<LayerName>,
    /// Where each of `needs` is named.
    pub needs_at: Vec<Location>,
    /// Platforms it exists for; empty for all.
    pub only: Vec<Platform>,
    /// Variables it exports to the images that have it.
    pub env: Vec<(String, String)>,
    /// Directories it puts in front of `PATH`.
    pub path_prepend: Vec<String>,
    /// The newest days whose releases its resolvers may see; they go before the project's.
    pub as_of: Vec<AsOf>,
    pub recipes: Vec<Recipe>,
    /// Whether it is part of images; one that is not serves layers that are built with it.
    pub ship: bool,
    pub at: Location,
}

/// `USER[:GROUP]`, by name or number.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Owner {
    pub user: String,
    pub group: Option<String>,
}

pub(super) fn as_text<S: serde::Serializer>(
    path: &LayerPath,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}

const CHILDREN: &[&str] = &[
    "archive",
    "as-of",
    "debian",
    "dir",
    "env",
    "file",
    "files",
    "from",
    "git",
    "git-init",
    "link",
    "mcp",
    "needs",
    "node",
    "npm",
    "npm-tools",
    "only",
    "own",
    "path-prepend",
    "run",
    "user",
    "venv",
];

impl Layer {
    pub fn is_for(&self, platform: Platform) -> bool {
        self.only.is_empty() || self.only.contains(&platform)
    }

    pub(super) fn read(node: &Node<'_>, root: &Path) -> Option<Self> {
        let name = node.parse::<LayerName>("a name");
        let mut layer = Layer {
            name: name.clone().or_else(|| "unnamed".parse().ok())?,
            needs: Vec::new(),
            needs_at: Vec::new(),
            only: Vec::new(),
            env: Vec::new(),
            path_prepend: Vec::new(),
            as_of: Vec::new(),
            recipes: Vec::new(),
            ship: node.flag_property("ship").unwrap_or(true),
            at: node.at(),
        };
        if let Some(needs) = node.find_parsed_property::<LayerName>("needs") {
            layer.need(needs, node.property_at("needs"));
        }
        layer.only.extend(node.find_parsed_property::<Platform>("only"));
        node.finish();
        for child in node.children() {
            layer.read_child(&child, root);
        }
        let debians =
            layer.recipes.iter().filter(|recipe| matches!(recipe, Recipe::Debian(_))).count();
        if debians > 1 {
            node.fault(format!("layer `{}` has {debians} `debian` recipes", layer.name));
        }
        name.is_some().then_some(layer)
    }

    fn need(&mut self, name: LayerName, at: Location) {
        if !self.needs.contains(&name) {
            self.needs.push(name);
            self.needs_at.push(at);
        }
    }

    fn read_child(&mut self, child: &Node<'_>, root: &Path) {
        let recipe = match child.name() {
            "needs" => {
                child
                    .parse_all("names of layers")
                    .into_iter()
                    .for_each(|(name, at)| self.need(name, at));
                return child.finish_leaf();
            }
            "only" => {
                self.only.extend(
                    child
                        .parse_all::<Platform>("platforms")
                        .into_iter()
                        .map(|(platform, _)| platform),
                );
                return child.finish_leaf();
            }
            "as-of" => {
                self.as_of.extend(AsOf::read(child));
                return child.finish_leaf();
            }
            "env" => return self.env.extend(read_env(child)),
            "path-prepend" => {
                let dirs = child.texts("directories").into_iter();
                self.path_prepend.extend(dirs.filter_map(|(text, at)| absolute(child, text, &at)));
                return child.finish_leaf();
            }
            "from" => BaseImage::read(child).map(Recipe::From),
            "debian" => Some(Recipe::Debian(Debian::read(child))),
            "files" if LayerFiles::is_meant(child) => {
                LayerFiles::read(child, &self.needs).map(Recipe::LayerFiles)
            }
            "files" if PackageFiles::is_meant(child) => {
                PackageFiles::read(child).map(Recipe::PackageFiles)
            }
            "files" => Files::read(child).map(Recipe::Files),
            "archive" => Archive::read(child).map(Recipe::Archive),
            "file" => InlineFile::read(child).map(Recipe::File),
            "user" => User::read(child).map(Recipe::User),
            "dir" => Dir::read(child).map(Recipe::Dir),
            "link" => Link::read(child).map(Recipe::Link),
            "own" => Own::read(child).map(Recipe::Own),
            "git" => Git::read(child).map(Recipe::Git),
            "git-init" => GitInit::read(child).map(Recipe::GitInit),
            "run" => Run::read(child).map(Recipe::Run),
            "venv" => Venv::read(child, Laid { root, before: &self.recipes }).map(Recipe::Venv),
            "npm" => Npm::read(child, &self.recipes).map(Recipe::Npm),
            "node" => NodeJs::read(child).map(Recipe::NodeJs),
            "npm-tools" => NpmTools::read(child, &self.name).map(Recipe::NpmTools),
            "mcp" => return Mcp::read(child, root, &mut self.recipes),
            _ => return child.unknown("a layer", CHILDREN),
        };
        self.recipes.extend(recipe);
    }
}

/// Reads an `env` node.
pub(super) fn read_env(node: &Node<'_>) -> Vec<(String, String)> {
    if node.has_children() || node.node.entries().iter().any(|entry| entry.name().is_none()) {
        node.fault("`env` takes properties only: `env NAME=\"value\"`");
    }
    let sound = |(name, value, at): (String, String, Location)| {
        if !is_variable(&name) || value.contains('\0') {
            node.sink.push(Fault::new(&at, format!("`{name}` cannot be an environment variable")));
            return None;
        }
        Some((name, value))
    };
    node.map().into_iter().filter_map(sound).collect()
}

fn absolute(node: &Node<'_>, text: String, at: &Location) -> Option<String> {
    match LayerPath::parse_absolute(&text) {
        Ok(_) => Some(text),
        Err(error) => {
            node.sink.push(Fault::new(at, error.to_string()));
            None
        }
    }
}

pub(super) fn path_argument(node: &Node<'_>) -> Option<LayerPath> {
    let text = node.text("a path in the image")?;
    checked(node, &text)
}

pub(super) fn path_property(node: &Node<'_>, name: &'static str) -> Option<LayerPath> {
    let text = node.text_property(name)?;
    checked(node, &text)
}

pub(super) fn checked(node: &Node<'_>, text: &str) -> Option<LayerPath> {
    match LayerPath::parse_absolute(text) {
        Ok(path) => Some(path),
        Err(error) => {
            node.fault(error.to_string());
            None
        }
    }
}

pub(super) fn mode(node: &Node<'_>) -> Option<u32> {
    node.find_integer_property("mode", 0..=0o7777).and_then(|mode| u32::try_from(mode).ok())
}

pub(super) fn owner(node: &Node<'_>) -> Option<Owner> {
    let text = node.find_text_property("owner")?;
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group.to_owned())),
        None => (text.as_str(), None),
    };
    if user.is_empty() || group.as_ref().is_some_and(String::is_empty) {
        node.fault(format!("`{text}` is no owner: write `user`, `user:group` or numbers"));
        return None;
    }
    Some(Owner { user: user.to_owned(), group })
}
