//! `probe`: the call with which `sbx test` tries a server. It is no part of the image.

use serde_json::{Map, Value};

use crate::decl::node::Node;

/// A tool, and what it is called with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    pub tool: String,
    pub arguments: Map<String, Value>,
    /// Whether it fails where nothing leads out.
    pub network: bool,
}

impl ToolCall {
    /// Reads `probe tool="name" args="{…}" network=#true`.
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let tool = node.text_property("tool");
        let arguments = node.find_text_property("args");
        let network = node.flag_property("network").unwrap_or(false);
        node.finish_leaf();
        let arguments = match arguments.as_deref().map(serde_json::from_str) {
            None => Map::new(),
            Some(Ok(Value::Object(arguments))) => arguments,
            Some(_) => {
                node.fault("`args` takes a JSON object, such as `args=#\"{\"path\": \"/tmp\"}\"#`");
                return None;
            }
        };
        Some(ToolCall { tool: tool?, arguments, network })
    }
}
