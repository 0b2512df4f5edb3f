//! `editable`: a Python project that the layer lays, and that an environment finds where it lies.
//!
//! What `[project]` says is read with the declaration; whatever would take the project's own build
//! program to know is a fault.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use super::fault::Fault;
use super::layer::checked;
use super::node::Node;
use super::recipe::Recipe;
use crate::path::LayerPath;

/// A project whose source stays where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Editable {
    pub name: String,
    #[serde(skip)]
    pub version: String,
    pub requires_python: Option<String>,
    pub requires: Vec<String>,
    /// Further requirements, by extra.
    pub extras: BTreeMap<String, Vec<String>>,
    /// Its `entry_points.txt`.
    #[serde(skip)]
    pub entry_points: String,
    /// Where it is in the image.
    #[serde(skip)]
    pub dir: LayerPath,
    /// The directory that its packages are imported from.
    #[serde(skip)]
    pub root: LayerPath,
}

/// Where sources of a layer come from.
#[derive(Clone, Copy)]
pub(super) struct Laid<'a> {
    /// The project's directory.
    pub root: &'a Path,
    pub before: &'a [Recipe],
}

impl Editable {
    pub(super) fn read(node: &Node<'_>, laid: Laid<'_>) -> Option<Self> {
        let place = node.text("a directory of the image");
        let below = node.find_text_property("root");
        node.finish_leaf();
        let dir = checked(node, &place?)?;
        let local = laid.before.iter().rev().find_map(|recipe| match recipe {
            Recipe::Files(files) if dir.starts_with(&files.into) => {
                let inside = dir.to_string()[files.into.to_string().len()..].to_owned();
                Some(laid.root.join(&files.from).join(inside.trim_start_matches('/')))
            }
            _ => None,
        });
        let Some(local) = local else {
            let fault = Fault::new(&node.at(), format!("no `files` lays {dir} before"));
            node.sink.push(fault.help("lay the project by `files` before its `venv`"));
            return None;
        };
        let usual = || local.join("src").is_dir().then(|| "src".to_owned());
        let root = match below.or_else(usual) {
            Some(below) => checked(node, &format!("{dir}/{below}"))?,
            None => dir.clone(),
        };
        let read = std::fs::read_to_string(local.join("pyproject.toml"));
        let parsed = read.map_err(|error| format!("cannot be read: {error}")).and_then(|text| {
            let table = text.parse::<Table>();
            Editable::parse(&table.map_err(|error| error.message().to_owned())?)
        });
        match parsed {
            Ok(editable) => Some(Editable { dir, root, ..editable }),
            Err(reason) => {
                let fault = Fault::new(&node.at(), format!("`pyproject.toml` of {dir}: {reason}"));
                node.sink.push(fault.help(
                    "say it in `[project]`, or build the project's wheel in a `run` of a layer with `ship=#false`",
                ));
                None
            }
        }
    }

    fn parse(file: &Table) -> Result<Self, String> {
        let project = file.get("project").and_then(Value::as_table);
        let project = project.ok_or("it has no `[project]`")?;
        let dynamic = project.get("dynamic").and_then(Value::as_array).into_iter().flatten();
        const KNOWN: &[&str] = &[
            "version",
            "dependencies",
            "optional-dependencies",
            "requires-python",
            "scripts",
            "gui-scripts",
            "entry-points",
        ];
        for name in dynamic.filter_map(Value::as_str) {
            if KNOWN.contains(&name) {
                return Err(format!("its `{name}` is dynamic, known to its build program only"));
            }
        }
        let text = |name: &str| project.get(name).map(|value| line(value, name)).transpose();
        let name = text("name")?.ok_or("it has no `name`")?;
        let letter = |c: char| c.is_ascii_alphanumeric();
        let sound = name.starts_with(letter)
            && name.ends_with(letter)
            && name.chars().all(|c| letter(c) || "-_.".contains(c));
        if !sound {
            return Err(format!("`{name}` is not the name of a Python project"));
        }
        let version = text("version")?.ok_or("it has no `version`")?;
        if version.is_empty() || !version.chars().all(|c| letter(c) || ".+-_!".contains(c)) {
            return Err(format!("`{version}` is no version"));
        }
        let mut extras = BTreeMap::new();
        for (extra, value) in table(project, "optional-dependencies")? {
            extras.insert(extra.clone(), lines(&value, "optional-dependencies")?);
        }
        let mut entry_points = String::new();
        for (key, group) in [("scripts", "console_scripts"), ("gui-scripts", "gui_scripts")] {
            entry_points += &points(group, &table(project, key)?)?;
        }
        for (group, value) in table(project, "entry-points")? {
            let value = value.as_table().ok_or("its `entry-points` are no tables")?;
            entry_points += &points(&group, value)?;
        }
        Ok(Editable {
            name,
            version,
            requires_python: text("requires-python")?,
            requires: match project.get("dependencies") {
                None => Vec::new(),
                Some(value) => lines(value, "dependencies")?,
            },
            extras,
            entry_points,
            dir: LayerPath::root(),
            root: LayerPath::root(),
        })
    }

    /// What it requires with these extras.
    pub fn requires_with(&self, extras: &[String]) -> impl Iterator<Item = &String> {
        let more = self.extras.iter().filter(|(name, _)| extras.contains(name));
        self.requires.iter().chain(more.flat_map(|(_, requires)| requires))
    }
}

fn line(value: &Value, name: &str) -> Result<String, String> {
    let text = value.as_str().filter(|text| !text.contains(['\n', '\r']));
    text.map(str::to_owned).ok_or_else(|| format!("its `{name}` is not a line of text"))
}

fn lines(value: &Value, name: &str) -> Result<Vec<String>, String> {
    let list = value.as_array().ok_or_else(|| format!("its `{name}` is no list"))?;
    list.iter().map(|value| line(value, name)).collect()
}

fn table(project: &Table, name: &str) -> Result<Table, String> {
    match project.get(name) {
        None => Ok(Table::new()),
        Some(value) => value.as_table().cloned().ok_or_else(|| format!("its `{name}` is no table")),
    }
}

fn points(group: &str, names: &Table) -> Result<String, String> {
    let mut text = String::new();
    for (name, value) in names {
        text += &format!("{name} = {}\n", line(value, name)?);
    }
    Ok(if text.is_empty() { text } else { format!("[{group}]\n{text}\n") })
}
