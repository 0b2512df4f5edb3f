//! `node`: the runtime, and the package managers beside it.

use serde::Serialize;

use super::as_of::read_day;
use super::fault::Location;
use super::layer::checked;
use super::node::Node;
use crate::path::LayerPath;

/// Node, npm and pnpm, as the images of Node's own project lay them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeJs {
    /// `22`, `22.12`, `22.12.0`: the newest version that begins so.
    pub version: String,
    /// Likewise; `None` for the newest that runs on this Node.
    pub npm: Option<String>,
    /// Likewise; `None` for no pnpm.
    pub pnpm: Option<String>,
    /// The newest day whose releases are seen.
    pub as_of: Option<String>,
    /// Whether headers for add-ons are laid. Not part of what is asked, like the next.
    #[serde(skip)]
    pub headers: bool,
    #[serde(skip)]
    pub docs: bool,
    /// The prefix: `bin/node` and `lib/node_modules` lie below it.
    #[serde(skip)]
    pub into: LayerPath,
    #[serde(skip)]
    pub at: Location,
}

impl NodeJs {
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let version = version(node, node.text("a version"));
        let into = node.find_text_property("into").unwrap_or_else(|| "/usr/local".to_owned());
        let headers = node.flag_property("headers").unwrap_or(false);
        let docs = node.flag_property("docs").unwrap_or(false);
        let as_of = read_day(node);
        node.finish();
        let (mut npm, mut pnpm) = (None, None);
        for child in node.children() {
            let manager = match child.name() {
                "npm" => &mut npm,
                "pnpm" => &mut pnpm,
                _ => {
                    child.unknown("`node`", &["npm", "pnpm"]);
                    continue;
                }
            };
            if manager.is_some() {
                child.fault(format!("`{}` is said twice", child.name()));
            }
            *manager = version_of(&child);
            child.finish_leaf();
        }
        let into = checked(node, &into)?;
        let version = version?;
        Some(NodeJs { version, npm, pnpm, as_of, headers, docs, into, at: node.at() })
    }
}

fn version_of(node: &Node<'_>) -> Option<String> {
    version(node, node.text("a version"))
}

/// Up to three numbers.
fn version(node: &Node<'_>, text: Option<String>) -> Option<String> {
    let text = text?;
    let number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if text.split('.').count() <= 3 && text.split('.').all(number) {
        return Some(text);
    }
    node.fault(format!("`{text}` is no version: write `22`, `22.12` or `22.12.0`"));
    None
}
