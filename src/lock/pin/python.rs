//! What an answer about Python holds for.

use serde::Serialize;

use super::Words;
use crate::python::Interpreter;

/// The Python and the C library of the layers below, for which the wheels beside it were chosen. Where
/// they have changed, the question is asked again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PythonPin {
    /// `3.13`.
    pub version: Box<str>,
    /// `2.41`.
    pub glibc: Box<str>,
}

impl PythonPin {
    pub fn of(interpreter: &Interpreter) -> Self {
        let (major, minor) = interpreter.glibc;
        PythonPin { version: interpreter.short().into(), glibc: format!("{major}.{minor}").into() }
    }

    pub fn label(&self) -> String {
        format!("python {} with glibc {}", self.version, self.glibc)
    }

    pub(super) fn write(&self, words: &mut Words) {
        words.push(&self.version).push(&self.glibc);
    }

    pub(super) fn parse<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Self, String> {
        let version = Words::next(words, "version")?.into();
        Ok(PythonPin { version, glibc: Words::next(words, "version of the C library")?.into() })
    }
}
