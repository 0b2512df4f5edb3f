//! `files` and `file`: files of the project's, and files whose content stands in the declaration.

use std::path::PathBuf;

use serde::Serialize;

use super::fault::Location;
use super::layer::{Owner, as_text, mode, owner, path_argument, path_property};
use super::node::Node;
use crate::path::LayerPath;

/// Local files or a local tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Files {
    /// Relative to the project's root. Not part of what is asked: the bytes are.
    #[serde(skip)]
    pub from: PathBuf,
    #[serde(serialize_with = "as_text")]
    pub into: LayerPath,
    pub owner: Option<Owner>,
    /// Mode of every file; `None` for 0755 where the owner may execute it and 0644 elsewhere.
    pub mode: Option<u32>,
    pub exclude: Vec<String>,
    /// Whether `.gitignore` files are honoured.
    pub ignore: bool,
    /// Whether it may replace paths of the layers below.
    pub replace: bool,
    #[serde(skip)]
    pub at: Location,
}

/// A file whose content stands in the declaration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InlineFile {
    #[serde(serialize_with = "as_text")]
    pub path: LayerPath,
    pub content: String,
    pub mode: u32,
    pub owner: Option<Owner>,
    pub replace: bool,
    #[serde(skip)]
    pub at: Location,
}

impl Files {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let from = node.text("a local path");
        let into = path_property(node, "into");
        let mut files = Files {
            from: PathBuf::new(),
            into: LayerPath::root(),
            owner: owner(node),
            mode: mode(node),
            exclude: Vec::new(),
            ignore: node.flag_property("ignore").unwrap_or(true),
            replace: node.flag_property("replace").unwrap_or(false),
            at: node.at(),
        };
        node.finish();
        for child in node.children() {
            match child.name() {
                "exclude" => {
                    files.exclude.extend(child.texts("patterns").into_iter().map(|(text, _)| text))
                }
                _ => {
                    child.unknown("`files`", &["exclude"]);
                    continue;
                }
            }
            child.finish_leaf();
        }
        let from = from?;
        let local = PathBuf::from(&from);
        let leaves = local.is_absolute()
            || local.components().any(|part| part == std::path::Component::ParentDir);
        if leaves {
            node.fault(format!("`{from}` leaves the project"));
            return None;
        }
        Some(Files { from: local, into: into?, ..files })
    }
}

impl InlineFile {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let file = InlineFile {
            path: path_argument(node)?,
            content: node.text_property("content")?,
            mode: mode(node).unwrap_or(0o644),
            owner: owner(node),
            replace: node.flag_property("replace").unwrap_or(false),
            at: node.at(),
        };
        node.finish_leaf();
        Some(file)
    }
}
