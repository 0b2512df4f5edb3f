//! The Python of an image: what wheels and markers are chosen for.

use std::fmt;

use super::marker::Environment;
use super::name::WheelName;
use super::tag::{Tag, supported};
use crate::path::LayerPath;
use crate::platform::Platform;

/// CPython in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interpreter {
    /// `3`, `13`.
    pub version: (u16, u16),
    /// `3.13.5`.
    pub full_version: Box<str>,
    /// Where its program is.
    pub program: LayerPath,
    pub platform: Platform,
    /// Version of the GNU C library; wheels for other C libraries do not fit.
    pub glibc: (u16, u16),
}

impl Interpreter {
    /// `3.13`.
    pub fn short(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// `python3.13`, as directories and programs are called.
    pub fn called(&self) -> String {
        format!("python{}", self.short())
    }

    /// The machine as Python and tags name it.
    pub fn machine(&self) -> &'static str {
        match self.platform {
            Platform::Amd64 => "x86_64",
            Platform::Arm64 => "aarch64",
        }
    }

    /// Tags that fit, the best first.
    pub fn tags(&self) -> Vec<Tag> {
        supported(self.version, self.glibc, self.machine())
    }

    /// How well a wheel fits: smaller is better; `None` where it does not.
    pub fn rank(&self, wheel: &WheelName) -> Option<usize> {
        let tags = self.tags();
        wheel.tags.iter().filter_map(|tag| tags.iter().position(|own| own == tag)).min()
    }

    /// What markers are asked of.
    pub fn environment(&self) -> Environment {
        Environment {
            python_version: self.short(),
            python_full_version: self.full_version.to_string(),
            machine: self.machine().to_owned(),
        }
    }
}

impl fmt::Display for Interpreter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.glibc;
        write!(f, "Python {} on {} with glibc {major}.{minor}", self.short(), self.machine())
    }
}
