//! Texts that say what an environment requires: of the project, or of what the layer lays.

use std::collections::BTreeSet;

use super::project_files::ProjectFiles;
use super::python::VenvError;
use super::{Ask, SolveError, Solver};
use crate::decl::{Layer, Venv};
use crate::digest::Integrity;
use crate::fsx::IoAt;

/// Where texts are read: below the project, or in the source that a recipe of the layer lays.
pub(super) struct Texts {
    /// Where it lays them in the image, and what there is.
    laid: Option<(String, ProjectFiles)>,
}

impl Texts {
    pub(super) fn new(solver: &Solver<'_>, ask: &Ask<'_>, venv: &Venv) -> Result<Self, SolveError> {
        let Some(laid) = &venv.laid else { return Ok(Texts { laid: None }) };
        let take = ask.layer.recipes.get(laid.recipe).and_then(|recipe| recipe.take());
        let into = take.map(|take| take.into.to_string()).unwrap_or_default();
        let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
        let named: BTreeSet<String> = venv.named().map(last).collect();
        // what those that are named include is not known yet
        let reads = |name: &str| {
            named.contains(name) || [".txt", ".in"].iter().any(|end| name.ends_with(end))
        };
        let files = ProjectFiles::laid(solver, ask, laid, &reads)?;
        Ok(Texts { laid: Some((into, files)) })
    }

    pub(super) fn read(
        &self,
        solver: &Solver<'_>,
        layer: &Layer,
        path: &str,
    ) -> Result<String, SolveError> {
        let bytes = match &self.laid {
            Some((into, files)) if path.starts_with('/') => {
                let below = path.strip_prefix(into.trim_end_matches('/'));
                files.read(below.unwrap_or(path).trim_start_matches('/'))?
            }
            _ => {
                let full = solver.project.root.join(path);
                std::fs::read(&full).at("read", &full)?
            }
        };
        String::from_utf8(bytes).map_err(|_| SolveError::Venv {
            layer: layer.name.clone(),
            source: VenvError::Text { path: path.to_owned() },
        })
    }

    /// The source that they are of; `None` for those below the project.
    pub(super) fn source(&self) -> Option<Integrity> {
        self.laid.as_ref().and_then(|(_, files)| files.source())
    }
}
