//! Reading KDL nodes: values with their types, and a fault for everything nobody asked for.

use std::cell::{Cell, RefCell};
use std::str::FromStr;
use std::sync::Arc;

use kdl::{KdlEntry, KdlNode, KdlValue};

use super::fault::{Fault, Location, SourceFile};

/// Faults of one reading, gathered by everyone who reads.
#[derive(Debug, Default)]
pub(super) struct Sink(RefCell<Vec<Fault>>);

impl Sink {
    pub(super) fn push(&self, fault: Fault) {
        self.0.borrow_mut().push(fault);
    }

    /// Adds a fault unless it has been said.
    pub(super) fn push_once(&self, fault: Fault) {
        if !self.0.borrow().iter().any(|known| known.message == fault.message) {
            self.push(fault);
        }
    }

    pub(super) fn into_inner(self) -> Vec<Fault> {
        self.0.into_inner()
    }
}

/// A node being read. Arguments are taken in order, properties by name; what is left over when it
/// is [`finished`](Node::finish) is a fault.
pub(super) struct Node<'a> {
    pub(super) node: &'a KdlNode,
    pub(super) file: &'a Arc<SourceFile>,
    pub(super) sink: &'a Sink,
    taken: Cell<usize>,
    properties: RefCell<Vec<&'static str>>,
}

impl<'a> Node<'a> {
    pub(super) fn new(node: &'a KdlNode, file: &'a Arc<SourceFile>, sink: &'a Sink) -> Self {
        Node { node, file, sink, taken: Cell::new(0), properties: RefCell::default() }
    }

    pub(super) fn name(&self) -> &'a str {
        self.node.name().value()
    }

    /// The node's name, for pointing at.
    pub(super) fn at(&self) -> Location {
        self.locate(self.node.name().span())
    }

    pub(super) fn locate(&self, span: miette::SourceSpan) -> Location {
        Location { file: Arc::clone(self.file), span: span.offset()..span.offset() + span.len() }
    }

    pub(super) fn fault(&self, message: impl Into<String>) {
        self.sink.push(Fault::new(&self.at(), message));
    }

    pub(super) fn children(&self) -> impl Iterator<Item = Node<'a>> + use<'a> {
        let (file, sink) = (self.file, self.sink);
        self.node.iter_children().map(move |node| Node::new(node, file, sink))
    }

    pub(super) fn has_children(&self) -> bool {
        self.node.children().is_some_and(|children| !children.nodes().is_empty())
    }

    fn arguments(&self) -> impl Iterator<Item = &'a KdlEntry> + use<'a> {
        self.node.entries().iter().filter(|entry| entry.name().is_none())
    }

    fn next_argument(&self) -> Option<&'a KdlEntry> {
        let at = self.taken.get();
        self.taken.set(at + 1);
        self.arguments().nth(at)
    }

    fn property(&self, name: &'static str) -> Option<&'a KdlEntry> {
        self.properties.borrow_mut().push(name);
        // the last of several properties of one name counts (KDL 2.0, properties)
        self.node
            .entries()
            .iter()
            .rfind(|entry| entry.name().is_some_and(|key| key.value() == name))
    }

    /// Where a property stands, or the node's name without one.
    pub(super) fn property_at(&self, name: &'static str) -> Location {
        self.property(name).map_or_else(|| self.at(), |entry| self.locate(entry.span()))
    }

    fn typed<T>(
        &self,
        entry: &KdlEntry,
        what: &str,
        read: impl Fn(&KdlValue) -> Option<T>,
    ) -> Option<T> {
        let value = read(entry.value());
        if value.is_none() {
            let fault =
                Fault::new(&self.locate(entry.span()), format!("`{}` takes {what}", self.name()));
            self.sink.push(fault.label(format!("expected {what}")));
        }
        value
    }

    /// An argument that must be there.
    pub(super) fn text(&self, what: &str) -> Option<String> {
        match self.next_argument() {
            Some(entry) => {
                self.typed(entry, "a string", |value| value.as_string().map(str::to_owned))
            }
            None => {
                self.fault(format!("`{}` needs {what}", self.name()));
                None
            }
        }
    }

    /// An argument that may be there.
    pub(super) fn find_text(&self) -> Option<String> {
        let entry = self.next_argument()?;
        self.typed(entry, "a string", |value| value.as_string().map(str::to_owned))
    }

    /// An argument that must be there and parse.
    pub(super) fn parse<T: FromStr<Err: std::fmt::Display>>(&self, what: &str) -> Option<T> {
        let at = self.taken.get();
        let text = self.text(what)?;
        self.parse_text(self.arguments().nth(at)?, &text)
    }

    fn parse_text<T: FromStr<Err: std::fmt::Display>>(
        &self,
        entry: &KdlEntry,
        text: &str,
    ) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(error) => {
                self.sink.push(Fault::new(&self.locate(entry.span()), format!("{error}")));
                None
            }
        }
    }

    /// All remaining arguments, with where they stand; at least one.
    pub(super) fn texts(&self, what: &str) -> Vec<(String, Location)> {
        let before = self.taken.get();
        let texts = self.more_texts();
        if self.arguments().nth(before).is_none() {
            self.fault(format!("`{}` needs {what}", self.name()));
        }
        texts
    }

    /// All remaining arguments, with where they stand; there may be none.
    pub(super) fn more_texts(&self) -> Vec<(String, Location)> {
        let mut texts = Vec::new();
        while let Some(entry) = self.next_argument() {
            let text = self.typed(entry, "strings", |value| value.as_string().map(str::to_owned));
            texts.extend(text.map(|text| (text, self.locate(entry.span()))));
        }
        texts
    }

    /// All remaining arguments, parsed.
    pub(super) fn parse_all<T: FromStr<Err: std::fmt::Display>>(
        &self,
        what: &str,
    ) -> Vec<(T, Location)> {
        self.texts(what)
            .into_iter()
            .filter_map(|(text, at)| match text.parse() {
                Ok(value) => Some((value, at)),
                Err(error) => {
                    self.sink.push(Fault::new(&at, format!("{error}")));
                    None
                }
            })
            .collect()
    }

    /// A whole number argument within a range.
    pub(super) fn integer(
        &self,
        what: &str,
        range: std::ops::RangeInclusive<i128>,
    ) -> Option<i128> {
        let Some(entry) = self.next_argument() else {
            self.fault(format!("`{}` needs {what}", self.name()));
            return None;
        };
        self.ranged(entry, what, range)
    }

    fn ranged(
        &self,
        entry: &KdlEntry,
        what: &str,
        range: std::ops::RangeInclusive<i128>,
    ) -> Option<i128> {
        let expected = format!("{what} ({} to {})", range.start(), range.end());
        self.typed(entry, &expected, |value| {
            value.as_integer().filter(|number| range.contains(number))
        })
    }

    /// A truth argument; bare is `#true`.
    pub(super) fn flag(&self) -> Option<bool> {
        match self.next_argument() {
            None => Some(true),
            Some(entry) => self.typed(entry, "`#true` or `#false`", KdlValue::as_bool),
        }
    }

    pub(super) fn find_text_property(&self, name: &'static str) -> Option<String> {
        let entry = self.property(name)?;
        self.typed(entry, &format!("a string as `{name}`"), |value| {
            value.as_string().map(str::to_owned)
        })
    }

    pub(super) fn text_property(&self, name: &'static str) -> Option<String> {
        let known = self
            .node
            .entries()
            .iter()
            .any(|entry| entry.name().is_some_and(|key| key.value() == name));
        if !known {
            self.property(name);
            self.fault(format!("`{}` needs `{name}=…`", self.name()));
            return None;
        }
        self.find_text_property(name)
    }

    pub(super) fn find_parsed_property<T: FromStr<Err: std::fmt::Display>>(
        &self,
        name: &'static str,
    ) -> Option<T> {
        let text = self.find_text_property(name)?;
        self.parse_text(self.property(name)?, &text)
    }

    pub(super) fn find_integer_property(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<i128>,
    ) -> Option<i128> {
        self.ranged(self.property(name)?, &format!("a number as `{name}`"), range)
    }

    pub(super) fn integer_property(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<i128>,
    ) -> Option<i128> {
        match self.property(name) {
            Some(entry) => self.ranged(entry, &format!("a number as `{name}`"), range),
            None => {
                self.fault(format!("`{}` needs `{name}=…`", self.name()));
                None
            }
        }
    }

    pub(super) fn find_value_property(&self, name: &'static str) -> Option<&'a KdlValue> {
        self.property(name).map(KdlEntry::value)
    }

    pub(super) fn flag_property(&self, name: &'static str) -> Option<bool> {
        let entry = self.property(name)?;
        self.typed(entry, &format!("`#true` or `#false` as `{name}`"), KdlValue::as_bool)
    }

    /// Every property as text (`env A="1"`), with where it stands.
    pub(super) fn map(&self) -> Vec<(String, String, Location)> {
        let mut map = Vec::new();
        for entry in self.node.entries() {
            let Some(name) = entry.name() else { continue };
            let text = match entry.value() {
                KdlValue::String(text) => text.clone(),
                KdlValue::Integer(number) => number.to_string(),
                KdlValue::Float(number) => number.to_string(),
                KdlValue::Bool(truth) => truth.to_string(),
                KdlValue::Null => {
                    let fault = Fault::new(
                        &self.locate(entry.span()),
                        format!("`{}` has no value", name.value()),
                    );
                    self.sink.push(fault.help("use `\"\"` for an empty one"));
                    continue;
                }
            };
            map.push((name.value().to_owned(), text, self.locate(entry.span())));
        }
        map
    }

    /// Every argument and property must have been asked for.
    pub(super) fn finish(&self) {
        for entry in self.arguments().skip(self.taken.get()) {
            let message = format!("`{}` takes no further argument", self.name());
            self.sink.push(Fault::new(&self.locate(entry.span()), message).label("not expected"));
        }
        let known = self.properties.borrow();
        for entry in self.node.entries() {
            let Some(name) = entry.name().map(|name| name.value()) else { continue };
            if !known.contains(&name) {
                let message = format!("`{}` has no property `{name}`", self.name());
                let fault =
                    Fault::new(&self.locate(entry.span()), message).label("unknown property");
                self.sink.push(fault.nearest(name, known.iter().copied()));
            }
        }
    }

    /// Likewise, and there must be no children.
    pub(super) fn finish_leaf(&self) {
        self.finish();
        if self.has_children() {
            self.fault(format!("`{}` takes no children", self.name()));
        }
    }

    /// A child that nobody knows.
    pub(super) fn unknown(&self, parent: &str, known: &[&str]) {
        let name = self.name();
        let fault = Fault::new(&self.at(), format!("unknown node `{name}` in {parent}"))
            .label("unknown node");
        let fault = match super::fault::nearest(name, known.iter().copied()) {
            Some(_) => fault.nearest(name, known.iter().copied()),
            None => fault.help(format!("known are {}", known.join(", "))),
        };
        self.sink.push(fault);
    }
}
