//! Named packages of npm's, with all that they draw in: resolved by the pinned `npm` in the build
//! sandbox, for the image's platform.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::registry::MissingError;
use super::{Ask, SolveError, Solver};
use crate::blame::Blame;
use crate::decl::{NpmTools, parse_spec};
use crate::fetch::Login;
use crate::lock::toolroom::{ToolError, ToolJob, ToolResult};
use crate::lock::{NpmPart, NpmPin, Pin};
use crate::npm::{LockFault, Omit, Origin, PackageLock, Placed, Tree};
use crate::platform::Platform;
use crate::serve::{Registry, Upstream};

/// Why tools cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum NpmToolsError {
    #[error("npm runs on Node, which needs `libstdc++6`, and no layer below has it")]
    Library,
    #[error(transparent)]
    Missing(#[from] MissingError),
    #[error("the resolver's answer is damaged: {0}")]
    Answer(String),
    #[error(transparent)]
    Lock(#[from] LockFault),
    #[error("`{package}` comes from {from}, not from a registry")]
    Elsewhere { package: String, from: String },
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
            NpmToolsError::Missing(error) => error.help(),
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
    let mut dependencies = BTreeMap::new();
    for spec in &tools.packages {
        let (name, version) = parse_spec(spec).unwrap_or((spec, None));
        dependencies.insert(name, version.unwrap_or("*"));
    }
    let manifest = json!({ "private": true, "dependencies": dependencies });
    let files = BTreeMap::from([("package.json".to_owned(), manifest.to_string().into_bytes())]);
    let job = solver.npm_job(ask, files, day, "")?;
    let result = match solver.toolroom.run(ask.lock, &job) {
        Err(ToolError::Failed { tool, status, output }) => {
            let spec = |spec: &String| {
                let (name, wanted) = parse_spec(spec).unwrap_or((spec, None));
                (name.to_owned(), wanted.map(str::to_owned))
            };
            let specs: Vec<_> = tools.packages.iter().map(spec).collect();
            if let Some(reason) = solver.explain_npm("", &specs, day, &output)? {
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
pub(super) fn answer(result: &ToolResult) -> Result<String, NpmToolsError> {
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
            Origin::Git(spec) => {
                let (package, from) = (one.name.to_string(), spec.to_string());
                return Err(NpmToolsError::Elsewhere { package, from });
            }
            Origin::File(from) => {
                return Err(NpmToolsError::Elsewhere { package: one.name.to_string(), from });
            }
        };
        let Some(integrity) = one.integrity else {
            return Err(NpmToolsError::Answer(format!("`{}` has no `integrity`", one.place)));
        };
        Ok(Pin::Npm(NpmPin {
            name: one.name.as_str().into(),
            version: one.version.into(),
            integrity,
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

impl Solver<'_> {
    /// Resolves a project of these files; `dir` is the one whose registries count.
    pub(super) fn npm_job(
        &self,
        ask: &Ask<'_>,
        files: BTreeMap<String, Vec<u8>>,
        day: Option<&str>,
        dir: &str,
    ) -> Result<ToolJob, SolveError> {
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
        // a credential is the client's to add
        let upstream = |(scope, url)| (scope, Upstream { url, login: Login::Npm });
        let upstreams = self.mirrors.npm_registries(dir).into_iter().map(upstream).collect();
        Ok(ToolJob {
            tool: "npm".to_owned(),
            layer: ask.layer.name.clone(),
            platform: ask.platform,
            command,
            env: Vec::new(),
            mounts: vec![(self.npm()?, "/tools".to_owned())],
            files,
            results: vec!["package-lock.json".to_owned()],
            registry: Some(Registry::Npm(upstreams)),
            timeout: Duration::from_secs(600),
        })
    }

    /// What lies behind a failure, where the registry can tell: a package or a version that is gone.
    pub(super) fn explain_npm(
        &self,
        dir: &str,
        specs: &[(String, Option<String>)],
        day: Option<&str>,
        output: &str,
    ) -> Result<Option<NpmToolsError>, SolveError> {
        if output.contains("libstdc++.so.6: cannot open") {
            return Ok(Some(NpmToolsError::Library));
        }
        if !["E404", "ETARGET"].iter().any(|code| output.contains(code)) {
            return Ok(None);
        }
        for (name, wanted) in specs {
            // what npm does not speak of is not what it fails for
            if !output.contains(name.as_str()) && !output.contains(&name.replace('/', "%2f")) {
                continue;
            }
            let package = name.clone();
            let Some(document) = self.npm_document(dir, name)? else {
                return Ok(Some(MissingError::Package { package }.into()));
            };
            let found = document.seen(day);
            let wanted = wanted.clone().unwrap_or_else(|| "*".to_owned());
            if !found.contains(&wanted) {
                let day = day.map(str::to_owned);
                return Ok(Some(MissingError::Version { package, wanted, day, found }.into()));
            }
        }
        Ok(None)
    }
}
