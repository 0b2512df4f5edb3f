//! Named packages of npm's, with all that they draw in: resolved by the pinned `npm` in the build
//! sandbox, for the image's platform.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{Ask, SolveError, Solver};
use crate::blame::Blame;
use crate::decl::{NpmTools, parse_spec};
use crate::fetch::Headers;
use crate::lock::toolroom::{ToolError, ToolJob, ToolResult};
use crate::lock::{NpmPart, NpmPin, Pin};
use crate::npm::{LockFault, Omit, Origin, PackageLock, Placed, Tree};
use crate::platform::Platform;
use crate::serve::{Registry, Upstream};

/// Largest document of a package; the longest histories take a fifth of it.
const LARGEST: u64 = 128 << 20;

/// Why tools cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum NpmToolsError {
    #[error("npm runs on Node, which needs `libstdc++6`, and no layer below has it")]
    Library,
    #[error("the registry has no package `{package}`")]
    Package { package: String },
    #[error("there is no `{package}` {wanted}{}: the registry has {}", as_of(day), there(found))]
    Version { package: String, wanted: String, day: Option<String>, found: Vec<String> },
    #[error("the resolver's answer is damaged: {0}")]
    Answer(String),
    #[error(transparent)]
    Lock(#[from] LockFault),
    #[error("`{package}` comes from {from}, not from a registry")]
    Elsewhere { package: String, from: String },
}

fn as_of(day: &Option<String>) -> String {
    day.as_ref().map(|day| format!(" as of {day}")).unwrap_or_default()
}

fn there(found: &[String]) -> String {
    if found.is_empty() {
        return "none that is as old".to_owned();
    }
    let newest: Vec<&str> = found.iter().rev().take(8).map(String::as_str).collect();
    let more = found.len().saturating_sub(8);
    let rest = if more > 0 { format!(" and {more} older ones") } else { String::new() };
    format!("{}{rest}", newest.join(", "))
}

impl NpmToolsError {
    pub fn blame(&self) -> Blame {
        match self {
            NpmToolsError::Answer(_) => Blame::World,
            _ => Blame::Input,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            NpmToolsError::Library => {
                Some("add `packages \"libstdc++6\"` to a `debian` layer below".to_owned())
            }
            NpmToolsError::Version { found, day: Some(_), .. } if found.is_empty() => {
                Some("let `as-of` be a later day".to_owned())
            }
            NpmToolsError::Version { package, found, .. } => {
                let version = found.last()?;
                Some(format!("declare one that is left: `{package}@{version}`"))
            }
            _ => None,
        }
    }
}

pub(super) fn solve(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    tools: &NpmTools,
) -> Result<Vec<Pin>, SolveError> {
    let failed = |source| SolveError::NpmTools { layer: ask.layer.name.clone(), source };
    let day = solver.project.as_of(ask.layer, ask.recipe);
    let job = solver.npm_job(ask, tools, day)?;
    let result = match solver.toolroom.run(ask.lock, &job) {
        Err(ToolError::Failed { tool, status, output }) => {
            if let Some(reason) = solver.explain_npm(tools, day, &output)? {
                return Err(failed(reason));
            }
            return Err(ToolError::Failed { tool, status, output }.into());
        }
        result => result?,
    };
    let text = answer(&result).map_err(failed)?;
    let tree = PackageLock::parse(&text).and_then(|lock| lock.tree(ask.platform, Omit::default()));
    pins(tree.map_err(|error| failed(error.into()))?).map_err(failed)
}

/// The lock that npm has written, with addresses of the relay's made real ones.
fn answer(result: &ToolResult) -> Result<String, NpmToolsError> {
    let bad = |reason: String| NpmToolsError::Answer(reason);
    let bytes = result.files.get("package-lock.json").map(Vec::as_slice).unwrap_or_default();
    let mut lock: Value = serde_json::from_slice(bytes).map_err(|error| bad(error.to_string()))?;
    let packages = lock.get_mut("packages").and_then(Value::as_object_mut);
    for (_, package) in packages.into_iter().flatten() {
        let Some(package) = package.as_object_mut() else { continue };
        let Some(resolved) = package.get("resolved").and_then(Value::as_str) else { continue };
        let Some(origin) = result.origins.get(resolved) else { continue };
        package.insert("resolved".to_owned(), Value::String(origin.to_string()));
    }
    Ok(lock.to_string())
}

fn pins(tree: Tree) -> Result<Vec<Pin>, NpmToolsError> {
    let pin = |one: Placed| {
        let path = match one.origin {
            Origin::Registry(path) => path.unwrap_or_default(),
            Origin::Address(url) => {
                let (package, from) = (one.name.to_string(), url.to_string());
                return Err(NpmToolsError::Elsewhere { package, from });
            }
            Origin::File(from) => {
                return Err(NpmToolsError::Elsewhere { package: one.name.to_string(), from });
            }
        };
        Ok(Pin::Npm(NpmPin {
            name: one.name.as_str().into(),
            version: one.version.into(),
            integrity: one.integrity,
            place: one.place.into(),
            path: path.into(),
            bins: one.bins,
        }))
    };
    let bundled = tree
        .bundled
        .into_iter()
        .map(|(place, bins)| Ok(Pin::NpmPart(NpmPart::Bundled { place: place.into(), bins })));
    tree.packages.into_iter().map(pin).chain(bundled).collect()
}

/// A package's document at its registry, as far as it tells versions from each other.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    versions: BTreeMap<String, Value>,
    #[serde(default)]
    time: BTreeMap<String, Value>,
}

impl Solver<'_> {
    fn npm_job(
        &self,
        ask: &Ask<'_>,
        tools: &NpmTools,
        day: Option<&str>,
    ) -> Result<ToolJob, SolveError> {
        let mut dependencies = BTreeMap::new();
        for spec in &tools.packages {
            let (name, version) = parse_spec(spec).unwrap_or((spec, None));
            dependencies.insert(name, version.unwrap_or("*"));
        }
        let manifest = json!({ "private": true, "dependencies": dependencies });
        let cpu = match ask.platform {
            Platform::Amd64 => "x64",
            Platform::Arm64 => "arm64",
        };
        let words = ["/tools/node", "/tools/npm/bin/npm-cli.js", "install", "--package-lock-only"];
        let mut command: Vec<String> = words.map(str::to_owned).to_vec();
        let rest = ["--ignore-scripts", "--no-audit", "--no-fund", "--no-update-notifier"];
        command.extend(rest.map(str::to_owned));
        command.extend(["--os=linux", "--libc=glibc"].map(str::to_owned));
        command.push(format!("--cpu={cpu}"));
        command.push("--registry={relay}/".to_owned());
        command.push("--cache=/work/.cache".to_owned());
        // a day is seen to its end
        command.extend(day.map(|day| format!("--before={day}T23:59:59.999Z")));
        let upstream = Upstream { url: self.mirrors.npm_registry(), authorization: None };
        Ok(ToolJob {
            tool: "npm".to_owned(),
            layer: ask.layer.name.clone(),
            platform: ask.platform,
            command,
            env: Vec::new(),
            mounts: vec![(self.npm()?, "/tools".to_owned())],
            files: BTreeMap::from([("package.json".to_owned(), manifest.to_string().into_bytes())]),
            results: vec!["package-lock.json".to_owned()],
            registry: Some(Registry::Npm(BTreeMap::from([(String::new(), upstream)]))),
            timeout: Duration::from_secs(600),
        })
    }

    /// What lies behind a failure, where the registry can tell: a package or a version that is gone.
    fn explain_npm(
        &self,
        tools: &NpmTools,
        day: Option<&str>,
        output: &str,
    ) -> Result<Option<NpmToolsError>, SolveError> {
        if output.contains("libstdc++.so.6: cannot open") {
            return Ok(Some(NpmToolsError::Library));
        }
        if !["E404", "ETARGET"].iter().any(|code| output.contains(code)) {
            return Ok(None);
        }
        for spec in &tools.packages {
            let (name, wanted) = parse_spec(spec).unwrap_or((spec, None));
            // what npm does not speak of is not what it fails for
            if !output.contains(name) && !output.contains(&name.replace('/', "%2f")) {
                continue;
            }
            let package = name.to_owned();
            let Some(document) = self.npm_document(name)? else {
                return Ok(Some(NpmToolsError::Package { package }));
            };
            let seen = |version: &&String| {
                let day = day.filter(|_| !document.time.is_empty());
                let published = document.time.get(*version).and_then(Value::as_str);
                day.is_none_or(|day| {
                    published.is_some_and(|at| at[..day.len().min(at.len())] <= *day)
                })
            };
            let mut found: Vec<String> = document.versions.keys().filter(seen).cloned().collect();
            found.sort_by_key(|version| order(version));
            let wanted = wanted.unwrap_or("*").to_owned();
            if !found.contains(&wanted) {
                let day = day.map(str::to_owned);
                return Ok(Some(NpmToolsError::Version { package, wanted, day, found }));
            }
        }
        Ok(None)
    }

    /// `None` for a package that is not there.
    fn npm_document(&self, name: &str) -> Result<Option<Document>, SolveError> {
        let registry = self.mirrors.npm_registry();
        let url = registry.join(&name.replace('/', "%2f")).unwrap_or(registry);
        let headers = Headers { accept: Some("application/json".to_owned()), authorization: None };
        let label = format!("npm package `{name}`");
        match self.client.get_with(&label, &[url], &headers, LARGEST) {
            Err(error) if error.is_gone() => Ok(None),
            result => Ok(serde_json::from_slice(&result?.bytes).ok()),
        }
    }
}

/// Numbers before what follows them, so that versions come in their order; one that is not final
/// comes before the one that is.
fn order(version: &str) -> (Vec<u64>, bool, String) {
    let version = version.split('+').next().unwrap_or_default();
    let (numbers, rest) = version.split_once('-').unwrap_or((version, ""));
    let numbers = numbers.split('.').map(|part| part.parse().unwrap_or(0)).collect();
    (numbers, rest.is_empty(), rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_come_in_their_order() {
        let mut versions = ["1.10.0", "1.9.0", "2.0.0", "2.0.0-rc.1", "2.0.0-beta"];
        versions.sort_by_key(|version| order(version));
        assert_eq!(versions, ["1.9.0", "1.10.0", "2.0.0-beta", "2.0.0-rc.1", "2.0.0"]);
    }

    #[test]
    fn few_versions_are_named_whole() {
        assert_eq!(there(&["0.9.10".to_owned()]), "0.9.10");
        let many: Vec<String> = (0..11).map(|minor| format!("1.{minor}.0")).collect();
        let expected = "1.10.0, 1.9.0, 1.8.0, 1.7.0, 1.6.0, 1.5.0, 1.4.0, 1.3.0 and 3 older ones";
        assert_eq!(there(&many), expected);
    }
}
