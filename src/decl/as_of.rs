//! `as-of`: the newest day whose releases resolvers may see.
//!
//! A project says it for all, a layer for its recipes, a recipe for itself; the nearest counts. It
//! keeps an old program alive whose dependencies have moved on.

use super::fault::Fault;
use super::node::Node;

/// The ecosystems whose resolvers know days.
const ECOSYSTEMS: [&str; 2] = ["npm", "pypi"];

/// A day, for some ecosystems.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf {
    /// `2026-11-20`.
    pub date: String,
    pub ecosystems: Vec<String>,
}

impl AsOf {
    pub fn is_for(&self, ecosystem: &str) -> bool {
        self.ecosystems.iter().any(|name| name == ecosystem)
    }

    /// `as-of DATE ECOSYSTEM…`; without names, all are meant.
    pub(super) fn read(node: &Node<'_>) -> Option<Self> {
        let date = node.parse::<jiff::civil::Date>("a date")?;
        let mut ecosystems = Vec::new();
        for (name, at) in node.more_texts() {
            if !ECOSYSTEMS.contains(&name.as_str()) {
                let fault = Fault::new(
                    &at,
                    format!("`{name}` is no ecosystem with dates: known are `npm` and `pypi`"),
                );
                node.sink.push(fault.nearest(&name, ECOSYSTEMS));
            }
            ecosystems.push(name);
        }
        if ecosystems.is_empty() {
            ecosystems = ECOSYSTEMS.map(str::to_owned).to_vec();
        }
        Some(AsOf { date: date.to_string(), ecosystems })
    }
}

/// `as-of="2026-11-20"`.
pub(super) fn read_day(node: &Node<'_>) -> Option<String> {
    let day = node.find_parsed_property::<jiff::civil::Date>("as-of")?;
    Some(day.to_string())
}
