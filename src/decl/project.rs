//! The project: all files read, all names checked.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kdl::KdlDocument;

use super::as_of::AsOf;
use super::cache::{CacheSource, Caches};
use super::debian::PathRules;
use super::fault::{Fault, Faults, Location, SourceFile};
use super::from::{check_bases, has_base};
use super::layer::Layer;
use super::merge::merge;
use super::mirror::SourceMirror;
use super::node::{Node, Sink};
use super::recipe::Recipe;
use super::sandbox::{RawSandbox, Sandbox};
use crate::name::{LayerName, ProjectName, SandboxName};
use crate::platform::Platform;
use crate::reference::Repository;

/// Everything that a project declares.
#[derive(Clone, Debug)]
pub struct Project {
    /// Absolute.
    pub root: PathBuf,
    pub name: ProjectName,
    /// Where images are pushed to: `{project}` and `{sandbox}` stand for the names.
    pub reference: String,
    pub platforms: Vec<Platform>,
    pub as_of: Vec<AsOf>,
    /// Where sources lie under their digests.
    pub mirrors: Vec<SourceMirror>,
    /// Where layers are taken from before they are made.
    pub cache_from: Vec<CacheSource>,
    /// Where layers are put by whoever has the key to sign them.
    pub cache_to: Option<Repository>,
    pub sandboxes: BTreeMap<SandboxName, Sandbox>,
    pub layers: BTreeMap<LayerName, Layer>,
    /// Every file that was read, relative to the root.
    pub files: Vec<PathBuf>,
}

impl Project {
    /// The layers that `layer` needs, directly or not, each before those that need it; without
    /// `layer` itself.
    pub fn closure(&self, layer: &Layer) -> Vec<&Layer> {
        let mut order = Vec::new();
        for need in &layer.needs {
            self.visit(need, &mut order);
        }
        order
    }

    fn visit<'a>(&'a self, name: &LayerName, order: &mut Vec<&'a Layer>) {
        let Some(layer) = self.layers.get(name) else { return };
        if order.iter().any(|known| known.name == *name) {
            return;
        }
        for need in &layer.needs {
            self.visit(need, order);
        }
        order.push(layer);
    }

    /// Likewise, without layers that do not exist for a platform.
    pub fn closure_on(&self, layer: &Layer, platform: Platform) -> Vec<&Layer> {
        let mut order = self.closure(layer);
        order.retain(|layer| layer.is_for(platform));
        order
    }

    /// The layers of a sandbox's image: those that others are only built with are left out, and so
    /// is what only those need.
    pub fn shipped_layers(&self, sandbox: &Sandbox, platform: Platform) -> Vec<&Layer> {
        let mut shipped: Vec<&LayerName> = Vec::new();
        let mut next: Vec<&LayerName> = sandbox.layers.iter().collect();
        while let Some(name) = next.pop() {
            let layer = self.layers.get(name).filter(|layer| layer.ship);
            if let Some(layer) = layer.filter(|layer| !shipped.contains(&&layer.name)) {
                shipped.push(&layer.name);
                next.extend(&layer.needs);
            }
        }
        let mut order = self.layers_of(sandbox, platform);
        order.retain(|layer| shipped.contains(&&layer.name));
        order
    }

    /// All layers of a sandbox for one platform, those it is only built with included, each after those it needs, otherwise in the order
    /// of declaration.
    pub fn layers_of(&self, sandbox: &Sandbox, platform: Platform) -> Vec<&Layer> {
        let mut order = Vec::new();
        for name in &sandbox.layers {
            self.visit(name, &mut order);
        }
        order.retain(|layer| layer.is_for(platform));
        order
    }

    /// The newest day whose releases the resolver of a recipe may see: its own, its layer's, or the
    /// project's.
    pub fn as_of<'a>(&'a self, layer: &'a Layer, recipe: &'a Recipe) -> Option<&'a str> {
        let ecosystem = recipe.ecosystem()?;
        let of = |list: &'a [AsOf]| list.iter().find(|as_of| as_of.is_for(ecosystem));
        let around = || of(&layer.as_of).or_else(|| of(&self.as_of));
        recipe.as_of().or_else(|| around().map(|as_of| as_of.date.as_str()))
    }

    /// Where a sandbox's image is pushed to, without a tag.
    pub fn reference_of(&self, sandbox: &Sandbox) -> String {
        let template = sandbox.reference.as_ref().unwrap_or(&self.reference);
        template
            .replace("{project}", self.name.as_str())
            .replace("{sandbox}", sandbox.name.as_str())
    }
}

/// What the files say, before names are checked across files.
struct Reading<'s> {
    sink: &'s Sink,
    project: Option<Header>,
    sandboxes: BTreeMap<SandboxName, RawSandbox>,
    layers: BTreeMap<LayerName, Layer>,
    includes: Vec<(String, Location)>,
}

struct Header {
    name: ProjectName,
    reference: Option<String>,
    platforms: Vec<Platform>,
    as_of: Vec<AsOf>,
    mirrors: Vec<SourceMirror>,
    caches: Caches,
    at: Location,
}

/// Reads a project: `sandboxes.kdl`, `layers/*.kdl` and what they include.
pub fn read_project(root: &Path) -> Result<Project, Faults> {
    let sink = Sink::default();
    let mut reading = Reading {
        sink: &sink,
        project: None,
        sandboxes: BTreeMap::new(),
        layers: BTreeMap::new(),
        includes: Vec::new(),
    };
    let main = root.join("sandboxes.kdl");
    if !main.exists() {
        let fault = Fault::of_project(format!("there is no `sandboxes.kdl` in {}", root.display()));
        return Err(Faults::one(fault.help("`sbx init` makes one")));
    }
    let mut files = vec![PathBuf::from("sandboxes.kdl")];
    files.extend(glob(root, "layers/*.kdl"));
    let mut next = 0;
    while let Some(path) = files.get(next).cloned() {
        next += 1;
        reading.read_file(root, &path);
        for (pattern, at) in std::mem::take(&mut reading.includes) {
            let found = glob(root, &pattern);
            if found.is_empty() {
                sink.push(Fault::new(&at, format!("`{pattern}` matches no file")));
            }
            files
                .extend(found.into_iter().filter(|path| !files.contains(path)).collect::<Vec<_>>());
        }
    }
    let project = reading.finish(root, files);
    Faults::check(sink.into_inner())?;
    Ok(project)
}

/// Files below `root` that match, sorted.
fn glob(root: &Path, pattern: &str) -> Vec<PathBuf> {
    let Ok(matcher) = globset::GlobBuilder::new(pattern).literal_separator(true).build() else {
        return Vec::new();
    };
    let matcher = matcher.compile_matcher();
    // only directories that the pattern's literal beginning leads to are walked
    let fixed: PathBuf = Path::new(pattern)
        .parent()
        .into_iter()
        .flat_map(Path::components)
        .take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']))
        .collect();
    let depth =
        if pattern.contains("**") { usize::MAX } else { Path::new(pattern).components().count() };
    let mut found = Vec::new();
    walk(root, &fixed, depth, &mut |path| {
        if matcher.is_match(path) {
            found.push(path.to_owned());
        }
    });
    found.sort();
    found
}

fn walk(root: &Path, dir: &Path, depth: usize, visit: &mut dyn FnMut(&Path)) {
    let Ok(entries) = std::fs::read_dir(root.join(dir)) else { return };
    for entry in entries.flatten() {
        let path = dir.join(entry.file_name());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() && path.components().count() < depth => {
                walk(root, &path, depth, visit)
            }
            Ok(kind) if !kind.is_dir() => visit(&path),
            _ => {}
        }
    }
}

const TOP: &[&str] = &["include", "layer", "project", "sandbox"];

impl Reading<'_> {
    fn read_file(&mut self, root: &Path, path: &Path) {
        let text = match std::fs::read_to_string(root.join(path)) {
            Ok(text) => text,
            Err(error) => {
                return self
                    .sink
                    .push(Fault::of_project(format!("cannot read {}: {error}", path.display())));
            }
        };
        let file = Arc::new(SourceFile { path: path.to_owned(), text });
        let document = match KdlDocument::parse_v2(&file.text) {
            Ok(document) => document,
            Err(error) => return self.push_syntax(&file, &error),
        };
        for node in document.nodes() {
            let node = Node::new(node, &file, self.sink);
            match node.name() {
                "project" => self.read_header(&node),
                "include" => {
                    self.includes.extend(node.texts("a glob of files"));
                    node.finish_leaf();
                }
                "sandbox" => {
                    if let Some(sandbox) = RawSandbox::read(&node, root) {
                        self.add_sandbox(sandbox);
                    }
                }
                "layer" => {
                    if let Some(layer) = Layer::read(&node, root) {
                        self.add_layer(layer);
                    }
                }
                _ => node.unknown("a project", TOP),
            }
        }
    }

    fn push_syntax(&self, file: &Arc<SourceFile>, error: &kdl::KdlError) {
        let v1 = KdlDocument::parse_v1(&file.text).is_ok();
        for diagnostic in &error.diagnostics {
            let start = diagnostic.span.offset().min(file.text.len());
            let end = (start + diagnostic.span.len()).min(file.text.len());
            let at = Location { file: Arc::clone(file), span: start..end };
            let message =
                diagnostic.message.clone().unwrap_or_else(|| "the text is not KDL".to_owned());
            let mut fault = Fault::new(&at, lower_first(&message));
            fault.label = diagnostic.label.clone().unwrap_or_default();
            fault.help = match v1 {
                true => Some(
                    "this is KDL v1: in v2 it is `#true`, `#false` and `#null`, and raw strings are `#\"…\"#`".to_owned(),
                ),
                false => diagnostic.help.clone(),
            };
            self.sink.push(fault);
            if v1 {
                break;
            }
        }
    }

    fn read_header(&mut self, node: &Node<'_>) {
        const CHILDREN: &[&str] =
            &["as-of", "cache-from", "cache-to", "mirrors", "platforms", "reference"];
        let name = node.parse::<ProjectName>("a name");
        node.finish();
        let mut header = Header {
            name: name.or_else(|| "unnamed".parse().ok()).expect("`unnamed` is a name"),
            reference: None,
            platforms: Vec::new(),
            as_of: Vec::new(),
            mirrors: Vec::new(),
            caches: Caches::default(),
            at: node.at(),
        };
        for child in node.children() {
            match child.name() {
                "reference" => header.reference = child.text("a reference"),
                "platforms" => {
                    header.platforms.extend(
                        child
                            .parse_all::<Platform>("platforms")
                            .into_iter()
                            .map(|(value, _)| value),
                    );
                }
                "as-of" => header.as_of.extend(AsOf::read(&child)),
                "cache-from" => header.caches.read_from(&child),
                "cache-to" => header.caches.read_to(&child),
                "mirrors" => header.mirrors.extend(SourceMirror::read(&child)),
                _ => {
                    child.unknown("`project`", CHILDREN);
                    continue;
                }
            }
            child.finish_leaf();
        }
        match &self.project {
            Some(first) => {
                let fault = Fault::new(&header.at, "`project` is declared twice");
                self.sink.push(fault.label("again").also(&first.at, "first here"));
            }
            None => self.project = Some(header),
        }
    }

    fn add_sandbox(&mut self, mut sandbox: RawSandbox) {
        for layer in std::mem::take(&mut sandbox.inline) {
            self.add_layer(layer);
        }
        if let Some(first) = self.sandboxes.get(&sandbox.name) {
            let fault =
                Fault::new(&sandbox.at, format!("sandbox `{}` is declared twice", sandbox.name));
            return self.sink.push(fault.label("again").also(&first.at, "first here"));
        }
        self.sandboxes.insert(sandbox.name.clone(), sandbox);
    }

    fn add_layer(&mut self, layer: Layer) {
        if let Some(first) = self.layers.get(&layer.name) {
            let fault = Fault::new(&layer.at, format!("layer `{}` is declared twice", layer.name));
            return self.sink.push(fault.label("again").also(&first.at, "first here"));
        }
        self.layers.insert(layer.name.clone(), layer);
    }

    fn finish(self, root: &Path, files: Vec<PathBuf>) -> Project {
        let sandboxes = merge(&self.sandboxes, self.sink);
        let header = self.project;
        let mut project = Project {
            root: root.to_owned(),
            name: header.as_ref().map_or_else(|| default_name(root), |header| header.name.clone()),
            reference: "{project}/{sandbox}".to_owned(),
            platforms: vec![Platform::Amd64],
            as_of: Vec::new(),
            mirrors: Vec::new(),
            cache_from: Vec::new(),
            cache_to: None,
            sandboxes,
            layers: self.layers,
            files,
        };
        if let Some(header) = header {
            project.reference = header.reference.unwrap_or(project.reference);
            project.as_of = header.as_of;
            project.mirrors = header.mirrors;
            project.cache_from = header.caches.from.clone();
            project.cache_to = header.caches.to();
            if !header.platforms.is_empty() {
                project.platforms = header.platforms;
            }
        }
        check_names(&project, &self.sandboxes, self.sink);
        check_needs(&project, self.sink);
        check_bases(&project, self.sink);
        check_debian(&project, self.sink);
        check_shipped(&project, &self.sandboxes, self.sink);
        project
    }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

/// The directory's name where it is one; a project without a header is allowed.
fn default_name(root: &Path) -> ProjectName {
    let name =
        root.file_name().map(|name| name.to_string_lossy().to_lowercase()).unwrap_or_default();
    name.parse().or_else(|_| "project".parse()).expect("`project` is a name")
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
