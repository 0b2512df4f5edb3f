//! Named packages of npm's: a step for their tree, and links to their commands.

use super::step::FileWork;
use super::{PlanError, Planner};
use crate::decl::{Layer, NpmTools, parse_spec};
use crate::lock::Pin;
use crate::lock::question::recipe_request;
use crate::path::LayerPath;

impl<'a> Planner<'a> {
    /// Adds the tree; answers links to the commands of the packages that are named.
    pub(super) fn add_tools(
        &mut self,
        layer: &'a Layer,
        at: usize,
        tools: &NpmTools,
    ) -> Result<Vec<FileWork>, PlanError> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let not_locked = || PlanError::NotLocked { layer: layer.name.clone(), platform };
        let request = recipe_request(project, layer, at, platform, local).ok_or_else(not_locked)?;
        let pins = lock.answer(&request).ok_or_else(not_locked)?;
        self.add_tree(layer, at, &tools.into, pins, Vec::new())?;
        let Some(bin) = &tools.bin else { return Ok(Vec::new()) };
        let commands = tools.packages.iter().flat_map(|spec| commands(pins, spec));
        let link = |(name, _): &(Box<str>, Box<str>)| {
            let path = bin.join(name.as_bytes()).ok()?;
            let to = format!("{}/node_modules/.bin/{name}", tools.into);
            Some(FileWork::Link { path, to, replace: false })
        };
        Ok(commands.filter_map(link).collect())
    }

    /// The command that starts a package's program: the one of that name, its only one, or the one
    /// that is called like the package, as `npx` has it.
    pub(super) fn command(
        &self,
        layer: &Layer,
        at: usize,
        tools: &NpmTools,
        name: Option<&str>,
    ) -> Result<LayerPath, CommandError> {
        let super::Given { project, platform, lock, local, .. } = self.given;
        let request = recipe_request(project, layer, at, platform, local);
        let pins = request.and_then(|request| lock.answer(&request)).unwrap_or_default();
        let all: Vec<&str> = tools
            .packages
            .iter()
            .flat_map(|spec| commands(pins, spec))
            .map(|(name, _)| &**name)
            .collect();
        let first = tools.packages.first().map(String::as_str).unwrap_or_default();
        let own: Vec<&str> = commands(pins, first).iter().map(|(name, _)| &**name).collect();
        let package = parse_spec(first).map_or(first, |(name, _)| name);
        let base = package.rsplit('/').next().unwrap_or(package);
        let chosen = match (name, own.as_slice()) {
            (Some(name), _) => all.iter().find(|known| **known == name),
            (None, [only]) => Some(only),
            (None, own) => own.iter().find(|known| **known == base),
        };
        let chosen = chosen.ok_or_else(|| CommandError {
            package: package.to_owned(),
            wanted: name.map(str::to_owned),
            found: all.iter().map(|name| (*name).to_owned()).collect(),
        })?;
        let path = tools.into.join(format!("node_modules/.bin/{chosen}").as_bytes());
        Ok(path.unwrap_or_default())
    }
}

/// A package without the command that is meant.
#[derive(Debug)]
pub(super) struct CommandError {
    pub(super) package: String,
    /// `None` where one of many has to be named.
    pub(super) wanted: Option<String>,
    pub(super) found: Vec<String>,
}

/// The commands of a package that is named.
fn commands<'p>(pins: &'p [Pin], spec: &str) -> &'p [(Box<str>, Box<str>)] {
    let name = parse_spec(spec).map_or(spec, |(name, _)| name);
    let place = format!("node_modules/{name}");
    let found = pins.iter().find_map(|pin| match pin {
        Pin::Npm(pin) if *pin.place == *place => Some(pin.bins.as_slice()),
        _ => None,
    });
    found.unwrap_or_default()
}
