//! What holds across files: names exist, needs make no circle, layers of Debian's fit one another.

use std::collections::BTreeMap;

use super::debian::PathRules;
use super::fault::{Fault, Location};
use super::from::{check_bases, has_base};
use super::layer::Layer;
use super::node::Sink;
use super::project::Project;
use super::recipe::Recipe;
use super::sandbox::RawSandbox;
use crate::name::{LayerName, SandboxName};

pub(super) fn check(project: &Project, raws: &BTreeMap<SandboxName, RawSandbox>, sink: &Sink) {
    check_names(project, raws, sink);
    check_needs(project, sink);
    check_bases(project, sink);
    check_debian(project, sink);
    check_shipped(project, raws, sink);
}

fn check_names(project: &Project, raws: &BTreeMap<SandboxName, RawSandbox>, sink: &Sink) {
    let known = || project.layers.keys().map(LayerName::as_str);
    let missing = |name: &LayerName, at: &Location, who: String| {
        if !project.layers.contains_key(name) {
            let fault = Fault::new(at, format!("{who} `{name}`, which does not exist"))
                .label("unknown layer");
            sink.push(fault.nearest(name.as_str(), known()));
        }
    };
    for raw in raws.values() {
        for (layer, at) in &raw.layers {
            missing(layer, at, format!("sandbox `{}` has layer", raw.name));
        }
        for (_, layer, at) in &raw.replace {
            missing(layer, at, format!("sandbox `{}` has layer", raw.name));
        }
    }
    for layer in project.layers.values() {
        for (need, at) in layer.needs.iter().zip(&layer.needs_at) {
            missing(need, at, format!("layer `{}` needs", layer.name));
        }
    }
}

fn check_needs(project: &Project, sink: &Sink) {
    let mut reported: Vec<&LayerName> = Vec::new();
    for layer in project.layers.values() {
        let Some(cycle) = find_cycle(project, &layer.name, &mut Vec::new()) else { continue };
        if cycle.iter().any(|name| reported.contains(name)) {
            continue;
        }
        let names: Vec<_> = cycle.iter().map(|name| name.as_str()).collect();
        sink.push(Fault::new(
            &layer.at,
            format!("`needs` goes in a circle: {}", names.join(" → ")),
        ));
        reported.extend(cycle);
    }
}

fn find_cycle<'a>(
    project: &'a Project,
    name: &'a LayerName,
    path: &mut Vec<&'a LayerName>,
) -> Option<Vec<&'a LayerName>> {
    if path.first() == Some(&name) {
        return Some(path.iter().copied().chain([name]).collect());
    }
    // a circle that does not lead back to the start is found from one of its own layers
    if path.contains(&name) {
        return None;
    }
    let layer = project.layers.get(name)?;
    path.push(name);
    let found = layer.needs.iter().find_map(|need| find_cycle(project, need, path));
    path.pop();
    found
}

/// A layer that others are only built with is in no image, and Debian's database in an image is that
/// of the packages in it.
fn check_shipped(project: &Project, raws: &BTreeMap<SandboxName, RawSandbox>, sink: &Sink) {
    let is_stage = |name: &LayerName| project.layers.get(name).is_some_and(|layer| !layer.ship);
    for raw in raws.values() {
        let replaced = raw.replace.iter().map(|(_, layer, at)| (layer, at));
        let listed = raw.layers.iter().map(|(layer, at)| (layer, at));
        for (layer, at) in listed.chain(replaced).filter(|(layer, _)| is_stage(layer)) {
            let message =
                format!("sandbox `{}` has layer `{layer}`, which is `ship=#false`", raw.name);
            sink.push(
                Fault::new(at, message).help("let a layer of the sandbox need it, or ship it"),
            );
        }
    }
    for layer in project.layers.values().filter(|layer| layer.ship) {
        let Some(own) = layer.recipes.iter().find(|recipe| matches!(recipe, Recipe::Debian(_)))
        else {
            continue;
        };
        let hidden = project.closure(layer).into_iter().find(|below| {
            !below.ship && below.recipes.iter().any(|recipe| matches!(recipe, Recipe::Debian(_)))
        });
        if let Some(below) = hidden {
            let message = format!(
                "`debian` in layer `{}` stands on packages of layer `{}`, which is `ship=#false`",
                layer.name, below.name
            );
            sink.push(
                Fault::new(own.at(), message).help("need a layer of Debian's that is shipped"),
            );
        }
    }
}

/// The lowest debian layer names the release; those above inherit it.
fn check_debian(project: &Project, sink: &Sink) {
    let release = |layer: &Layer| {
        layer.recipes.iter().find_map(|recipe| match recipe {
            Recipe::Debian(debian) => Some(debian.clone()),
            _ => None,
        })
    };
    for layer in project.layers.values() {
        let Some(debian) = release(layer) else { continue };
        let below: Vec<_> = project.closure(layer).into_iter().filter_map(release).collect();
        let inherited = below.iter().find_map(|debian| debian.release.clone());
        match (&debian.release, inherited) {
            (None, None) if !has_base(project, layer) => {
                let message = format!(
                    "`debian` in layer `{}` names no release, and no layer it needs does",
                    layer.name
                );
                sink.push(
                    Fault::new(&debian.at, message)
                        .help("write `debian \"trixie\" { … }`, or add what it `needs`"),
                );
            }
            (Some(own), Some(inherited)) if *own != inherited => {
                let message = format!("layer `{}` is `{own}` on top of `{inherited}`", layer.name);
                sink.push(
                    Fault::new(&debian.at, message).help("an image has one release of Debian"),
                );
            }
            _ => {}
        }
        if debian.paths != PathRules::default() && !below.is_empty() {
            let message = format!("layer `{}` is not the lowest of Debian's", layer.name);
            sink.push(Fault::new(&debian.at, message).help(
                "say `path-exclude` and `path-include` in the lowest one: they hold for all above",
            ));
        }
    }
}
