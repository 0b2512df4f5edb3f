//! Files out of another layer: what a build stage made, without the rest of it.

use super::fault::{Fault, Location};
use super::node::Node;
use super::take::Take;
use crate::name::LayerName;

/// Files of what another layer gives, everything that it needs below it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct LayerFiles {
    /// It is one of those that the layer needs.
    pub layer: LayerName,
    #[serde(skip)]
    pub take: Take,
    #[serde(skip)]
    pub at: Location,
}

impl LayerFiles {
    /// Whether a `files` node is meant so.
    pub(super) fn is_meant(node: &Node<'_>) -> bool {
        node.find_text_property("from").is_some_and(|from| from.starts_with("layer:"))
    }

    /// `needs` are those that stand before it.
    pub(super) fn read(node: &Node<'_>, needs: &[LayerName]) -> Option<Self> {
        let path = node.text("an absolute path in the layer");
        let from = node.text_property("from")?;
        // paths of a layer are absolute, as all paths in images are
        let inner = path.as_deref().map(|path| path.strip_prefix('/').map(str::to_owned));
        if let Some(None) = inner {
            node.fault(format!("`{}` is not absolute", path.as_deref().unwrap_or_default()));
        }
        let take = Take::read(node, inner.flatten());
        let layer = match from.strip_prefix("layer:").unwrap_or_default().parse::<LayerName>() {
            Ok(layer) => layer,
            Err(error) => {
                node.sink.push(Fault::new(&node.property_at("from"), error.to_string()));
                return None;
            }
        };
        if !needs.contains(&layer) {
            let at = node.property_at("from");
            let fault = Fault::new(&at, format!("the layer does not need `{layer}`"));
            node.sink.push(fault.help(format!("say `needs=\"{layer}\"` of the layer")));
            return None;
        }
        Some(LayerFiles { layer, take: take?, at: node.at() })
    }
}
