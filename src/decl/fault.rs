//! Faults: mistakes in files that people edit, each pointing at its text.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use miette::{Diagnostic, LabeledSpan, Severity, SourceCode};

/// A file of declarations.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Relative to the project's root.
    pub path: PathBuf,
    pub text: String,
}

/// A piece of a file's text, for pointing at.
#[derive(Clone, PartialEq, Eq)]
pub struct Location {
    pub file: Arc<SourceFile>,
    /// Byte offsets.
    pub span: Range<usize>,
}

impl Location {
    /// `layers/node.kdl:3`.
    pub fn line(&self) -> String {
        let before = self.file.text.get(..self.span.start).unwrap_or(&self.file.text);
        let line = before.matches('\n').count() + 1;
        format!("{}:{line}", self.file.path.display())
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line())
    }
}

/// One mistake. Rendered through miette, with the text it is about.
#[derive(Clone, Debug)]
pub struct Fault {
    pub message: String,
    /// What stands at `at`, in a few words.
    pub label: String,
    pub at: Option<Location>,
    /// A second place of the same file that matters, and why.
    pub also: Option<(Range<usize>, String)>,
    /// What to do.
    pub help: Option<String>,
}

impl Fault {
    pub fn new(at: &Location, message: impl Into<String>) -> Self {
        Fault {
            message: message.into(),
            label: String::new(),
            at: Some(at.clone()),
            also: None,
            help: None,
        }
    }

    /// A fault of a whole project, with no text to point at.
    pub fn of_project(message: impl Into<String>) -> Self {
        Fault { message: message.into(), label: String::new(), at: None, also: None, help: None }
    }

    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// Suggests the known name that is nearest to `found`.
    pub fn nearest<'a>(mut self, found: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        if let Some(name) = nearest(found, known) {
            self.help = Some(format!("did you mean `{name}`?"));
        }
        self
    }

    pub fn also(mut self, other: &Location, label: impl Into<String>) -> Self {
        let label = label.into();
        match &self.at {
            Some(at) if Arc::ptr_eq(&at.file, &other.file) => {
                self.also = Some((other.span.clone(), label))
            }
            _ => self.help = Some(format!("{label}: {}", other.line())),
        }
        self
    }
}

/// The name of `known` that `found` was probably meant to be.
pub fn nearest<'a>(found: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let distance = |name: &str| strsim::damerau_levenshtein(found, name);
    let limit = (found.chars().count() / 3).max(1) + 1;
    known
        .into_iter()
        .map(|name| (distance(name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, name)| name)
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl Diagnostic for Fault {
    fn severity(&self) -> Option<Severity> {
        Some(Severity::Error)
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        self.help.as_ref().map(|help| Box::new(help) as Box<dyn fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        self.at.as_ref().map(|at| &*at.file as &dyn SourceCode)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let at = self.at.as_ref()?;
        let label = (!self.label.is_empty()).then(|| self.label.clone());
        let first = LabeledSpan::new_with_span(label, at.span.clone());
        let second =
            self.also.clone().map(|(span, label)| LabeledSpan::new_with_span(Some(label), span));
        Some(Box::new([Some(first), second].into_iter().flatten()))
    }
}

impl SourceCode for SourceFile {
    fn read_span<'a>(
        &'a self,
        span: &miette::SourceSpan,
        before: usize,
        after: usize,
    ) -> Result<Box<dyn miette::SpanContents<'a> + 'a>, miette::MietteError> {
        let contents = self.text.read_span(span, before, after)?;
        let named = miette::MietteSpanContents::new_named(
            self.path.display().to_string(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        );
        Ok(Box::new(named))
    }
}

/// All faults of a project, in the order of files and lines. Never empty.
#[derive(Clone, Debug)]
pub struct Faults(pub(super) Vec<Fault>);

impl Faults {
    pub fn one(fault: Fault) -> Self {
        Faults(vec![fault])
    }

    /// `Ok` where there is none.
    pub fn check(mut faults: Vec<Fault>) -> Result<(), Faults> {
        if faults.is_empty() {
            return Ok(());
        }
        let place =
            |fault: &Fault| fault.at.as_ref().map(|at| (at.file.path.clone(), at.span.start));
        faults.sort_by_key(place);
        Err(Faults(faults))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Fault> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.0.iter().map(|fault| match &fault.at {
            Some(at) => format!("{}: {fault}", at.line()),
            None => fault.to_string(),
        });
        f.write_str(&lines.collect::<Vec<_>>().join("\n"))
    }
}

impl std::error::Error for Faults {}
