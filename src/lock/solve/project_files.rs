//! The files of a project that a recipe reads when it is locked: of a directory below the project's
//! own, or of the source that an earlier recipe of the layer lays. Whoever reads them need not know
//! which.

use std::fs;
use std::path::PathBuf;

use super::{SolveError, Solver};
use crate::fsx::IoAt;

/// Files by their path below the directory of what is locked.
pub(super) enum ProjectFiles {
    /// Of this directory; its path below the project is for messages.
    Local { dir: PathBuf, shown: String },
}

impl ProjectFiles {
    /// Those of a directory below the project's; empty for itself.
    pub(super) fn local(solver: &Solver<'_>, dir: &str) -> Self {
        ProjectFiles::Local { dir: solver.project.root.join(dir), shown: dir.to_owned() }
    }

    /// A file as messages call it.
    pub(super) fn label(&self, path: &str) -> String {
        match self {
            ProjectFiles::Local { shown, .. } if shown.is_empty() => path.to_owned(),
            ProjectFiles::Local { shown, .. } => format!("{shown}/{path}"),
        }
    }

    /// The bytes of a file that is there.
    pub(super) fn read(&self, path: &str) -> Result<Vec<u8>, SolveError> {
        match self {
            ProjectFiles::Local { dir, .. } => {
                let full = dir.join(path);
                Ok(fs::read(&full).at("read", &full)?)
            }
        }
    }

    pub(super) fn is_file(&self, path: &str) -> bool {
        match self {
            ProjectFiles::Local { dir, .. } => dir.join(path).is_file(),
        }
    }

    /// Whether there is anything of that name.
    pub(super) fn exists(&self, path: &str) -> bool {
        match self {
            ProjectFiles::Local { dir, .. } => dir.join(path).exists(),
        }
    }
}
