//! Sources that a declaration names itself: archives, and files of packages that are not installed.

use super::index::{IndexFile, read_page};
use super::npm_digests::digest;
use super::places::archive_wants;
use super::python::{VenvError, hint};
use super::registry::MissingError;
use super::{Ask, SolveError, Solver};
use crate::decl::{Archive, PackageFiles, PackageIndex};
use crate::digest::{Digest, Integrity};
use crate::lock::{ArchivePin, NpmPin, Pin, WheelPin};
use crate::npm::PackageName;
use crate::python::{ProjectName, Version, WheelName};
use crate::store::Held;

/// Has an archive in the store, under the digest that its declaration says.
pub(super) fn archive(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    archive: &Archive,
) -> Result<Vec<Pin>, SolveError> {
    let digest = Integrity::from(archive.digest);
    let store = solver.store;
    store.hold([Held::Source(&digest, None)])?;
    match archive.local() {
        Some(path) => import(solver, ask, path, archive.digest)?,
        None => {
            let wants = archive_wants(store, archive);
            let failures = solver.client.fetch_all(vec![wants], solver.progress)?;
            if let Some((_, error)) = failures.into_iter().next() {
                return Err(error.into());
            }
        }
    }
    Ok(vec![Pin::Archive(ArchivePin {
        name: archive.name().into(),
        size: store.find_source(&digest).unwrap_or_default(),
        digest: archive.digest,
    })])
}

/// Copies a file of the project's into the store.
fn import(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    path: &str,
    expected: Digest,
) -> Result<(), SolveError> {
    let full = solver.project.root.join(path);
    if solver.local.files.get(path) != Some(&expected) {
        let found = solver.local.files.get(path).map(Digest::to_string).unwrap_or_default();
        return Err(SolveError::Declaration {
            layer: ask.layer.name.clone(),
            reason: format!("archive `{path}` has digest {found}, expected {expected}"),
        });
    }
    if solver.store.has_blob(&expected) {
        return Ok(());
    }
    Ok(solver.store.import(&full)?)
}

/// The package that files are taken out of.
pub(super) fn package(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    files: &PackageFiles,
) -> Result<Vec<Pin>, SolveError> {
    match files.index {
        PackageIndex::Pypi => wheel(solver, ask, files),
        PackageIndex::Npm => tarball(solver, ask, files),
    }
}

/// The tarball of a package at a version.
fn tarball(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    files: &PackageFiles,
) -> Result<Vec<Pin>, SolveError> {
    let PackageFiles { package, version, .. } = files;
    let missing = |source| SolveError::Missing { layer: ask.layer.name.clone(), source };
    let name: Result<PackageName, _> = package.parse();
    let gone = || missing(MissingError::Package { package: package.clone() });
    name.map_err(|_| gone())?;
    let document = solver.npm_document("", package)?.ok_or_else(gone)?;
    let release = document.versions.get(version).ok_or_else(|| {
        let (package, wanted) = (package.clone(), version.clone());
        missing(MissingError::Version { package, wanted, day: None, found: document.seen(None) })
    })?;
    Ok(vec![Pin::Npm(NpmPin {
        name: package.as_str().into(),
        version: version.as_str().into(),
        integrity: digest(release).ok_or_else(gone)?,
        place: "".into(),
        path: "".into(),
        bins: Vec::new(),
    })])
}

/// The wheel of a package at a version: one that is for every Python and platform.
fn wheel(solver: &Solver<'_>, ask: &Ask<'_>, files: &PackageFiles) -> Result<Vec<Pin>, SolveError> {
    let failed = |source| SolveError::Venv { layer: ask.layer.name.clone(), source };
    let gone = || failed(VenvError::Project { package: files.package.clone() });
    let project: ProjectName = files.package.parse().map_err(|_| gone())?;
    let mut found: Vec<IndexFile> = Vec::new();
    for index in solver.mirrors.python_indexes() {
        found.extend(read_page(solver.client, &index, &project)?);
    }
    if found.is_empty() {
        return Err(gone());
    }
    let wheels = found.iter().filter_map(|file| Some((file, file.name.parse::<WheelName>().ok()?)));
    let wheels: Vec<(&IndexFile, WheelName)> = wheels.collect();
    let wanted: Option<Version> = files.version.parse().ok();
    let is_meant = |wheel: &WheelName| {
        wheel.project == project && wanted.is_some() && wheel.version.parse().ok() == wanted
    };
    let meant: Vec<_> = wheels.iter().filter(|(_, wheel)| is_meant(wheel)).collect();
    if meant.is_empty() {
        return Err(failed(VenvError::missing(&files.package, &files.version, &found, &project)));
    }
    let is_pure = |wheel: &WheelName| wheel.tags.iter().any(|tag| tag.is_pure());
    let chosen = meant.iter().find(|(file, wheel)| is_pure(wheel) && file.digest.is_some());
    let Some((file, wheel)) = chosen else {
        let file = meant[0].0.name.clone();
        return Err(failed(VenvError::Bound { file }));
    };
    Ok(vec![Pin::Wheel(WheelPin {
        name: project.as_str().into(),
        version: wheel.version.clone(),
        file_name: file.name.as_str().into(),
        size: None,
        digest: file.digest.ok_or_else(gone)?,
        path: hint(file.url.as_str()).unwrap_or_default().into(),
    })])
}
