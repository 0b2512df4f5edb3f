//! Projects without a lock: the pinned npm resolves their `package.json`, and the lock that it would
//! write beside it is what is installed.

use std::collections::BTreeMap;

use super::SolveError;
use super::npm::{NpmLockError, Reading};
use super::npm_tools::{NpmToolsError, answer};
use crate::fetch::public_settings;
use crate::lock::toolroom::ToolError;
use crate::npm::{Manifest, PackageLock, local_dependencies};

/// The project's own file.
const MANIFEST: &str = "package.json";

impl Reading<'_> {
    /// The lock of a project that has none.
    pub(super) fn resolve(&self, manifest: &Manifest) -> Result<PackageLock, SolveError> {
        let failed = |source| self.failed(MANIFEST, NpmLockError::Resolve(source));
        let day = self.solver.project.as_of(self.ask.layer, self.ask.recipe);
        let mut files = BTreeMap::from([(MANIFEST.to_owned(), self.files.read(MANIFEST)?)]);
        if self.files.is_file(".npmrc") {
            let text = String::from_utf8_lossy(&self.files.read(".npmrc")?).into_owned();
            files.insert(".npmrc".to_owned(), public_settings(&text).into_bytes());
        }
        for name in self.beside(manifest) {
            files.insert(name.clone(), self.files.read(&name)?);
        }
        let job = self.solver.npm_job(self.ask, files, day, &self.npm.project)?;
        let result = match self.solver.toolroom.run(self.ask.lock, &job) {
            Err(ToolError::Failed { tool, status, output }) => {
                let specs = specs(manifest);
                let reason = self.solver.explain_npm(&self.npm.project, &specs, day, &output)?;
                let error = || ToolError::Failed { tool, status, output };
                return Err(reason.map_or_else(|| error().into(), failed));
            }
            result => result?,
        };
        let text = answer(&result).map_err(failed)?;
        let lock = PackageLock::parse(&text);
        lock.map_err(|fault| failed(NpmToolsError::Lock(fault)))
    }

    /// Other files of the project that npm looks into: what workspaces and directories that it depends
    /// on say of themselves, and tarballs.
    fn beside(&self, manifest: &Manifest) -> Vec<String> {
        let mut found: Vec<String> = self.files.workspace_manifests(manifest).into_iter().collect();
        found.extend(local_dependencies(manifest).into_iter().filter_map(|path| {
            let inner = format!("{path}/{MANIFEST}");
            let file = if self.files.is_file(&inner) { inner } else { path };
            self.files.is_file(&file).then_some(file)
        }));
        found
    }
}

/// Packages that a project asks of a registry, as `NAME` and what is wanted.
fn specs(manifest: &Manifest) -> Vec<(String, Option<String>)> {
    let kinds = [
        &manifest.dependencies,
        &manifest.dev_dependencies,
        &manifest.optional_dependencies,
        &manifest.peer_dependencies,
    ];
    let all = kinds.into_iter().flatten();
    all.map(|(name, spec)| (name.clone(), Some(spec.clone()))).collect()
}
