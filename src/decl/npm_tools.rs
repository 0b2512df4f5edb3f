//! `npm-tools`: packages of npm's that are named, with all that they draw in.

use serde::Serialize;

use super::as_of::read_day;
use super::fault::{Fault, Location};
use super::layer::checked;
use super::node::Node;
use crate::name::LayerName;
use crate::path::LayerPath;

/// Packages in a tree of their own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NpmTools {
    /// `name`, `name@version`, `name@range`.
    pub packages: Vec<String>,
    /// The newest day whose releases are seen.
    pub as_of: Option<String>,
    /// The directory that has their `node_modules`. Not part of what is asked.
    #[serde(skip)]
    pub into: LayerPath,
    /// Where their commands are linked to, beside the tree's own `.bin`.
    #[serde(skip)]
    pub bin: Option<LayerPath>,
    #[serde(skip)]
    pub at: Location,
}

impl NpmTools {
    pub(super) fn read(node: &Node<'_>, layer: &LayerName) -> Option<Self> {
        let mut packages = Vec::new();
        for (text, at) in node.texts("names of packages") {
            match parse_spec(&text) {
                Ok(_) => packages.push(text),
                Err(reason) => node.sink.push(Fault::new(&at, reason)),
            }
        }
        let into = node.find_text_property("into");
        let into = into.unwrap_or_else(|| format!("/opt/npm-tools/{layer}"));
        let bin = node.find_text_property("bin").unwrap_or_else(|| "/usr/local/bin".to_owned());
        let as_of = read_day(node);
        node.finish_leaf();
        let (into, bin) = (checked(node, &into)?, checked(node, &bin)?);
        if into.is_root() {
            node.fault("`npm-tools` need a directory of their own");
            return None;
        }
        Some(NpmTools { packages, as_of, into, bin: Some(bin), at: node.at() })
    }
}

/// A package of a registry: `name`, `name@version`, `@scope/name@version`.
pub fn parse_spec(spec: &str) -> Result<(&str, Option<&str>), String> {
    let (name, version) = match spec.char_indices().skip(1).find(|(_, c)| *c == '@') {
        Some((at, _)) => (&spec[..at], Some(&spec[at + 1..])),
        None => (spec, None),
    };
    let part = |part: &str| {
        !part.is_empty()
            && !part.starts_with(['.', '-'])
            && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._~".contains(&c))
    };
    let sound = match name.strip_prefix('@') {
        Some(scoped) => {
            scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name))
        }
        None => part(name),
    };
    let plain = |version: &str| !version.contains(['/', ':']) && !version.trim().is_empty();
    match sound && version.is_none_or(plain) {
        true => Ok((name, version)),
        false => Err(format!("`{spec}` is no package of a registry")),
    }
}
