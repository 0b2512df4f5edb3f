//! Reading a project: all files, and what stands in them, put together.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use kdl::KdlDocument;

use super::as_of::AsOf;
use super::cache::Caches;
use super::checks::check;
use super::fault::{Fault, Faults, Location, SourceFile};
use super::layer::Layer;
use super::merge::merge;
use super::mirror::SourceMirror;
use super::node::{Node, Sink};
use super::project::Project;
use super::sandbox::RawSandbox;
use crate::name::{LayerName, ProjectName, SandboxName};
use crate::platform::Platform;

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

/// A project that declares nothing.
pub fn no_project(root: &Path) -> Project {
    Project {
        root: root.to_owned(),
        name: default_name(root),
        reference: "{project}/{sandbox}".to_owned(),
        platforms: vec![Platform::Amd64],
        as_of: Vec::new(),
        mirrors: Vec::new(),
        cache_from: Vec::new(),
        cache_to: None,
        sandboxes: BTreeMap::new(),
        layers: BTreeMap::new(),
        files: Vec::new(),
    }
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
        let mut project = Project { sandboxes, layers: self.layers, files, ..no_project(root) };
        if let Some(header) = header {
            project.name = header.name;
            project.reference = header.reference.unwrap_or(project.reference);
            project.as_of = header.as_of;
            project.mirrors = header.mirrors;
            project.cache_from = header.caches.from.clone();
            project.cache_to = header.caches.to();
            if !header.platforms.is_empty() {
                project.platforms = header.platforms;
            }
        }
        check(&project, &self.sandboxes, self.sink);
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
