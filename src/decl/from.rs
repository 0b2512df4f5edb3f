//! `from`: somebody else's image below everything.

use serde::{Serialize, Serializer};

use super::fault::{Fault, Location};
use super::layer::Layer;
use super::node::{Node, Sink};
use super::project::Project;
use super::recipe::Recipe;
use super::sandbox::Sandbox;
use crate::reference::Reference;

/// An image whose layers are the lowest of an image's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BaseImage {
    #[serde(serialize_with = "as_text")]
    pub source: ImageSource,
    #[serde(skip)]
    pub at: Location,
}

/// Where an image is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageSource {
    Registry(Reference),
    /// An OCI image layout below the project.
    Layout {
        dir: String,
        /// `None` where it holds one image.
        tag: Option<String>,
    },
}

impl ImageSource {
    /// As locks call it: without a registry.
    pub fn name(&self) -> String {
        match self {
            ImageSource::Registry(reference) => reference.name(),
            ImageSource::Layout { .. } => self.to_string(),
        }
    }
}

impl std::fmt::Display for ImageSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            ImageSource::Registry(reference) => reference.fmt(f),
            ImageSource::Layout { dir, tag: None } => write!(f, "oci:{dir}"),
            ImageSource::Layout { dir, tag: Some(tag) } => write!(f, "oci:{dir}:{tag}"),
        }
    }
}

fn as_text<S: Serializer>(source: &ImageSource, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(source)
}

impl BaseImage {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let text = node.text("a reference to an image")?;
        node.finish_leaf();
        let source = match text.strip_prefix("oci:") {
            Some(layout) => read_layout(node, layout)?,
            None => match text.parse() {
                Ok(reference) => ImageSource::Registry(reference),
                Err(error) => {
                    let error: crate::reference::ReferenceError = error;
                    let help = "write `registry.example.org/name:tag`, `name@sha256:…`, or `oci:DIRECTORY:tag`";
                    node.sink.push(Fault::new(&node.at(), error.to_string()).help(help));
                    return None;
                }
            },
        };
        Some(BaseImage { source, at: node.at() })
    }
}

fn read_layout(node: &Node<'_>, text: &str) -> Option<ImageSource> {
    let (dir, tag) = match text.split_once(':') {
        Some((dir, tag)) => (dir, Some(tag.to_owned())),
        None => (text, None),
    };
    if dir.is_empty() || dir.starts_with('/') || dir.split('/').any(|part| part == "..") {
        node.fault(format!("`{dir}` is no directory below the project"));
        return None;
    }
    Some(ImageSource::Layout { dir: dir.to_owned(), tag })
}

fn base_of(layer: &Layer) -> Option<&BaseImage> {
    layer.recipes.iter().find_map(|recipe| match recipe {
        Recipe::From(base) => Some(base),
        _ => None,
    })
}

/// Whether a layer, or one that it needs, begins with somebody else's image.
pub(super) fn has_base(project: &Project, layer: &Layer) -> bool {
    project.closure(layer).into_iter().chain([layer]).any(|layer| base_of(layer).is_some())
}

/// An image has one base, and it lies below everything.
pub(super) fn check_bases(project: &Project, sink: &Sink) {
    let based: Vec<(&Layer, &BaseImage)> =
        project.layers.values().filter_map(|layer| Some((layer, base_of(layer)?))).collect();
    if based.is_empty() {
        return;
    }
    for (layer, base) in &based {
        let count = layer.recipes.iter().filter(|one| matches!(one, Recipe::From(_))).count();
        let lowest = matches!(layer.recipes.first(), Some(Recipe::From(_)));
        if count > 1 || !lowest || !layer.needs.is_empty() {
            let message = format!("`from` in layer `{}` is not the lowest of all", layer.name);
            let help = "make it the first recipe of a layer that needs nothing";
            sink.push(Fault::new(&base.at, message).help(help));
        }
    }
    for layer in project.layers.values() {
        check_below(project, layer, sink);
    }
    for sandbox in project.sandboxes.values() {
        for platform in &project.platforms {
            check_image(sandbox, &project.shipped_layers(sandbox, *platform), project, sink);
        }
    }
}

/// Packages and accounts of an image are those of its base and what is added to them.
fn changes_system(layer: &Layer) -> bool {
    layer.recipes.iter().any(|recipe| matches!(recipe, Recipe::Debian(_) | Recipe::User(_)))
}

fn check_below(project: &Project, layer: &Layer, sink: &Sink) {
    let below: Vec<&Layer> =
        project.closure(layer).into_iter().filter(|below| base_of(below).is_some()).collect();
    if let [one, two, ..] = below[..] {
        let message = format!(
            "layer `{}` stands on two bases: `{}` and `{}`",
            layer.name, one.name, two.name
        );
        sink.push(Fault::new(&layer.at, message));
    }
    let hidden = below.iter().find(|below| layer.ship && !below.ship);
    if let Some(hidden) = hidden.filter(|_| changes_system(layer)) {
        let message = format!(
            "layer `{}` adds to the base in layer `{}`, which is `ship=#false`",
            layer.name, hidden.name
        );
        sink.push(Fault::new(&layer.at, message).help("need a base that is shipped"));
    }
}

fn check_image(sandbox: &Sandbox, layers: &[&Layer], project: &Project, sink: &Sink) {
    let mut bases = layers.iter().filter(|layer| base_of(layer).is_some());
    let Some(first) = bases.next() else { return };
    if let Some(second) = bases.next() {
        let (name, one, two) = (&sandbox.name, &first.name, &second.name);
        let message = format!("sandbox `{name}` stands on two bases: `{one}` and `{two}`");
        sink.push_once(Fault::new(&second.at, message));
    }
    let is_based = |layer: &Layer| {
        base_of(layer).is_some()
            || project.closure(layer).iter().any(|below| below.name == first.name)
    };
    for layer in layers.iter().filter(|layer| changes_system(layer) && !is_based(layer)) {
        let message = format!(
            "layer `{}` brings Debian packages or accounts beside the base of sandbox `{}`",
            layer.name, sandbox.name
        );
        let help = format!("let it need layer `{}`", first.name);
        sink.push_once(Fault::new(&layer.at, message).help(help));
    }
}
