//! Python: requirements become wheels, by the pinned `uv` in the build sandbox, or by a lock of
//! Python's that the project brings.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::index::{IndexFile, Release, read_page, releases};
use super::texts::Texts;
use super::{Ask, SolveError, Solver, Update};
use crate::decl::{Layer, Venv};
use crate::digest::Digest;
use crate::lock::interpreter::interpreter_of;
use crate::lock::toolroom::{ToolError, ToolJob, ToolResult};
use crate::lock::{LaidPin, Pin, PythonPin, WheelPin};
use crate::python::{
    Chosen, Interpreter, ProjectName, Pylock, PylockError, RequirementLine, Requirements, Version,
    WheelName, beside,
};
use crate::serve::{Registry, Upstream};

/// Why an environment cannot be locked.
#[derive(Debug, thiserror::Error)]
pub enum VenvError {
    #[error("`{path}`: {source}")]
    Requirements { path: String, source: crate::python::RequirementsError },
    #[error("`{path}` is not UTF-8")]
    Text { path: String },
    #[error("`{path}` names `{include}`, which leaves the project")]
    Leaves { path: String, include: String },
    #[error(transparent)]
    Pylock(#[from] PylockError),
    #[error("the resolver's answer is damaged: {0}")]
    Answer(PylockError),
    #[error("there is no `{package}` {wanted}: {}", there(found))]
    Version { package: String, wanted: String, found: Vec<String> },
    #[error("no index has a project `{package}`")]
    Project { package: String },
    #[error("`{package}` {version} has a source archive only, no wheel")]
    SourceOnly { package: String, version: String },
    #[error("wheel `{file}` is for one kind of Python or machine; files are taken from pure ones")]
    Bound { file: String },
    #[error("wheel `{file}` has digest {found}, and the requirements ask for another")]
    Hash { file: String, found: Digest },
    #[error("the requirements ask for digests, and have none of `{package}`, which is drawn in")]
    Unhashed { package: String },
}

fn there(found: &[String]) -> String {
    match found {
        [] => "the index has none that can be installed".to_owned(),
        [one] => format!("the index has {one}"),
        many => {
            let newest: Vec<&str> = many.iter().rev().take(8).map(String::as_str).collect();
            let more = many.len().saturating_sub(8);
            let rest = if more > 0 { format!(" and {more} older ones") } else { String::new() };
            format!("the index has {}{rest}", newest.join(", "))
        }
    }
}

impl VenvError {
    /// A version that the index does not have, or has no wheel of.
    pub(super) fn missing(
        package: &str,
        version: &str,
        files: &[IndexFile],
        project: &ProjectName,
    ) -> Self {
        let all = releases(files, project);
        let package = package.to_owned();
        if all.values().any(|(text, one)| text == version && !one.wheel) {
            return VenvError::SourceOnly { package, version: version.to_owned() };
        }
        let installable = all.values().filter(|(_, one)| one.wheel && !one.yanked);
        let found = installable.map(|(text, _)| text.clone()).collect();
        VenvError::Version { package, wanted: format!("=={version}"), found }
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            VenvError::Requirements { source, .. } => source.help().map(str::to_owned),
            VenvError::Pylock(error) => error.help(),
            VenvError::Version { package, found, .. } => {
                let version = found.last()?;
                Some(format!("declare one that is left: `{package}=={version}`"))
            }
            VenvError::SourceOnly { package, .. } => {
                let package = package
                    .parse()
                    .ok()
                    .map_or(package.clone(), |name: ProjectName| name.to_string());
                Some(format!(
                    "sbx installs wheels only: take a version of `{package}` that has one, or build it in a `run` of a layer with `ship=#false` and take the files from there"
                ))
            }
            _ => None,
        }
    }
}

/// Everything that requirements files say, once those they include are read.
struct Inputs<'a> {
    texts: &'a Texts,
    /// By path below the project: the file's name at the resolver and what it says.
    files: BTreeMap<String, (String, Requirements)>,
}

pub(super) fn solve(
    solver: &Solver<'_>,
    ask: &Ask<'_>,
    venv: &Venv,
) -> Result<Vec<Pin>, SolveError> {
    let interpreter =
        interpreter_of(solver.project, ask.layer, ask.platform, ask.lock, venv.python.as_deref())?;
    let layer = &ask.layer.name;
    let failed = |source: VenvError| SolveError::Venv { layer: layer.clone(), source };
    let texts = Texts::new(solver, ask, venv)?;
    let chosen = match &venv.lock {
        Some(path) => {
            let lock = Pylock::parse(&texts.read(solver, ask.layer, path)?);
            let lock = lock.map_err(|error| failed(error.into()))?.without(&editables(venv));
            let chosen = lock.choose(&interpreter, &venv.extras, &venv.groups);
            chosen.map_err(|error| failed(error.into()))?
        }
        None => solver.resolve(ask, venv, &interpreter, &texts)?,
    };
    let wheel = |one: Chosen| {
        Pin::Wheel(WheelPin {
            name: one.project.as_str().into(),
            version: one.version.into(),
            file_name: one.file_name.into(),
            size: one.size,
            digest: one.digest,
            path: one.url.as_deref().and_then(hint).unwrap_or_default().into(),
        })
    };
    let python = Pin::Python(PythonPin::of(&interpreter));
    let source = texts.source();
    let laid = source.map(|source| Pin::Laid(LaidPin { source }));
    Ok(std::iter::once(python).chain(laid).chain(chosen.into_iter().map(wheel)).collect())
}

/// The path of an address, without its first slash.
pub(super) fn hint(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    Some(url.path().trim_start_matches('/').to_owned())
}

/// The platform that uv knows and that is nearest to a C library, from below.
fn uv_platform(interpreter: &Interpreter) -> String {
    const KNOWN: &[u16] = &[28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];
    let fits = |minor: &&u16| (2, **minor) <= interpreter.glibc;
    let minor = KNOWN.iter().rev().find(fits).unwrap_or(&17);
    format!("{}-manylinux_2_{minor}", interpreter.machine())
}

impl Solver<'_> {
    fn read_inputs(
        &self,
        layer: &Layer,
        path: &str,
        inputs: &mut Inputs<'_>,
    ) -> Result<(), SolveError> {
        if inputs.files.contains_key(path) {
            return Ok(());
        }
        let failed = |source| SolveError::Venv { layer: layer.name.clone(), source };
        let read = Requirements::parse(&inputs.texts.read(self, layer, path)?)
            .map_err(|source| failed(VenvError::Requirements { path: path.to_owned(), source }))?;
        let mut includes = Vec::new();
        for include in read.includes() {
            includes.push(beside(path, include).ok_or_else(|| {
                let (path, include) = (path.to_owned(), include.to_owned());
                failed(VenvError::Leaves { path, include })
            })?);
        }
        let name = format!("requirements-{}.txt", inputs.files.len());
        inputs.files.insert(path.to_owned(), (name, read));
        includes.iter().try_for_each(|include| self.read_inputs(layer, include, inputs))
    }

    fn resolve(
        &self,
        ask: &Ask<'_>,
        venv: &Venv,
        interpreter: &Interpreter,
        texts: &Texts,
    ) -> Result<Vec<Chosen>, SolveError> {
        let failed = |source| SolveError::Venv { layer: ask.layer.name.clone(), source };
        let mut inputs = Inputs { texts, files: BTreeMap::new() };
        for path in venv.requirements.iter().chain(&venv.constraints) {
            self.read_inputs(ask.layer, path, &mut inputs)?;
        }
        let own = Requirements::parse(&venv.packages.join("\n")).map_err(|source| {
            failed(VenvError::Requirements { path: "packages".to_owned(), source })
        })?;
        let own = with_editables(own, venv, interpreter).map_err(failed)?;
        if own.lines.is_empty() && inputs.files.is_empty() && venv.pyproject.is_none() {
            return Ok(Vec::new());
        }
        let job = self.job(ask, venv, interpreter, &inputs, &own)?;
        let result = match self.toolroom.run(ask.lock, &job) {
            Err(ToolError::Failed { tool, status, output }) => {
                let all = inputs.files.values().map(|(_, read)| read).chain([&own]);
                let lines: Vec<&RequirementLine> = all.flat_map(|read| &read.lines).collect();
                if let Some(reason) = self.explain(&lines, &output, interpreter)? {
                    return Err(failed(reason));
                }
                return Err(ToolError::Failed { tool, status, output }.into());
            }
            result => result?,
        };
        for line in withdrawn(&result.output) {
            self.progress.noted(&format!("layer `{}`: {line}", ask.layer.name));
        }
        let mut chosen = read_answer(&result, interpreter).map_err(failed)?;
        let own_projects = editables(venv);
        chosen.retain(|one| !own_projects.contains(&one.project));
        check_hashes(&inputs, &own, &chosen).map_err(failed)?;
        Ok(chosen)
    }

    fn job(
        &self,
        ask: &Ask<'_>,
        venv: &Venv,
        interpreter: &Interpreter,
        inputs: &Inputs<'_>,
        own: &Requirements,
    ) -> Result<ToolJob, SolveError> {
        let uv = self.uv()?;
        let mut files = BTreeMap::new();
        for (path, (name, read)) in &inputs.files {
            let rename = |include: &str| {
                let known = beside(path, include).and_then(|path| inputs.files.get(&path));
                known.map(|(name, _)| name.clone()).unwrap_or_default()
            };
            files.insert(name.clone(), read.for_resolver(rename).into_bytes());
        }
        let mut command: Vec<String> = Vec::new();
        let words = ["/tools/uv", "pip", "compile", "--format", "pylock.toml", "-o", "pylock.toml"];
        command.extend(words.map(str::to_owned));
        for path in &venv.requirements {
            command.extend(inputs.files.get(path).map(|(name, _)| name.clone()));
        }
        if !own.lines.is_empty() {
            files.insert("packages.txt".to_owned(), own.for_resolver(str::to_owned).into_bytes());
            command.push("packages.txt".to_owned());
        }
        if let Some(path) = &venv.pyproject {
            let text = inputs.texts.read(self, ask.layer, path)?;
            files.insert("pyproject.toml".to_owned(), text.into_bytes());
            command.push("pyproject.toml".to_owned());
        }
        for path in &venv.constraints {
            let name = inputs.files.get(path).map(|(name, _)| name.clone());
            command.extend(name.into_iter().flat_map(|name| ["-c".to_owned(), name]));
        }
        let mut flag =
            |name: &str, value: &str| command.extend([name.to_owned(), value.to_owned()]);
        // those of editable projects are requirements already
        let extras = venv.extras.iter().filter(|_| venv.pyproject.is_some());
        extras.for_each(|extra| flag("--extra", extra));
        venv.groups.iter().for_each(|group| flag("--group", group));
        flag("--python", &interpreter.program.to_string());
        flag("--python-version", &interpreter.short());
        flag("--python-platform", &uv_platform(interpreter));
        if let Some(day) = self.project.as_of(ask.layer, ask.recipe) {
            flag("--exclude-newer", day);
        }
        let indexes = self.indexes(inputs);
        for at in 0..indexes.len() {
            let last = at + 1 == indexes.len();
            flag(if last { "--default-index" } else { "--index" }, &format!("{{relay}}/{at}/"));
        }
        flag("--color", "never");
        flag("--cache-dir", "/work/.cache");
        let rest = ["--no-build", "--no-python-downloads", "--no-config", "--no-sources"];
        command.extend(rest.into_iter().chain(["--no-header", "--no-progress"]).map(str::to_owned));
        if let Some(known) = known_versions(ask) {
            files.insert("pylock.toml".to_owned(), known.into_bytes());
        }
        Ok(ToolJob {
            tool: "uv".to_owned(),
            layer: ask.layer.name.clone(),
            platform: ask.platform,
            command,
            env: Vec::new(),
            mounts: vec![(uv, "/tools".to_owned())],
            files,
            results: vec!["pylock.toml".to_owned()],
            registry: Some(Registry::Python(indexes)),
            timeout: Duration::from_secs(600),
        })
    }

    /// The indexes of this machine; those that a requirements file names come before them.
    fn indexes(&self, inputs: &Inputs<'_>) -> Vec<Upstream> {
        let upstream = |index: crate::fetch::Index| Upstream {
            login: index.authorization().into(),
            url: index.url,
        };
        let machine: Vec<_> = self.mirrors.python_indexes();
        let lines = inputs.files.values().flat_map(|(_, read)| &read.lines);
        let named = lines.filter_map(|line| match line {
            RequirementLine::Index(url) | RequirementLine::ExtraIndex(url) => {
                crate::fetch::Index::parse(url)
            }
            _ => None,
        });
        named.chain(machine).map(upstream).collect()
    }

    /// What lies behind a failure, where the index can tell: a version that is gone, or one that has
    /// no wheel.
    fn explain(
        &self,
        lines: &[&RequirementLine],
        output: &str,
        interpreter: &Interpreter,
    ) -> Result<Option<VenvError>, SolveError> {
        let indexes = self.mirrors.python_indexes();
        for line in lines {
            let RequirementLine::Requirement { text, project, .. } = line else { continue };
            // what the resolver does not speak of is not what it fails for
            if !output.contains(project.as_str()) {
                continue;
            }
            let bare = text.split(';').next().unwrap_or_default();
            let specifier = match (bare.find(']'), bare.find(['=', '<', '>', '!', '~'])) {
                (Some(end), _) => &bare[end + 1..],
                (None, Some(start)) => &bare[start..],
                (None, None) => "",
            };
            let mut files = Vec::new();
            for index in &indexes {
                files.extend(read_page(self.client, index, project)?);
            }
            if files.is_empty() {
                return Ok(Some(VenvError::Project { package: project.to_string() }));
            }
            let releases = releases(&files, project);
            let fits =
                releases.iter().filter(|(version, _)| version.meets(specifier) == Some(true));
            let fits: Vec<_> = fits.map(|(_, release)| release).collect();
            let package = project.to_string();
            match fits.last() {
                None => {
                    let installable = releases.values().filter(|(_, one)| one.wheel && !one.yanked);
                    let found = installable.map(|(text, _)| text.clone()).collect();
                    let wanted = specifier.trim().to_owned();
                    return Ok(Some(VenvError::Version { package, wanted, found }));
                }
                Some((version, _)) if fits.iter().all(|(_, one)| !one.wheel) => {
                    let version = version.clone();
                    return Ok(Some(VenvError::SourceOnly { package, version }));
                }
                Some((version, _)) => {
                    if let Some(wheels) = unfit(&files, project, &fits, interpreter) {
                        let (version, interpreter) = (version.clone(), interpreter.to_string());
                        let error = PylockError::Unfit { package, version, interpreter, wheels };
                        return Ok(Some(error.into()));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// The wheels of the versions that fit, where none is for the interpreter.
fn unfit(
    files: &[IndexFile],
    project: &ProjectName,
    fits: &[&(String, Release)],
    interpreter: &Interpreter,
) -> Option<Vec<String>> {
    let wheels =
        files.iter().filter_map(|file| file.name.parse::<WheelName>().ok().zip(Some(file)));
    let mut names = Vec::new();
    for (wheel, file) in wheels.filter(|(wheel, _)| wheel.project == *project) {
        if fits.iter().any(|(version, _)| **version == *wheel.version) {
            if interpreter.rank(&wheel).is_some() {
                return None;
            }
            names.push(file.name.clone());
        }
    }
    (!names.is_empty()).then_some(names)
}

/// The names of an environment's editable projects.
fn editables(venv: &Venv) -> Vec<ProjectName> {
    venv.editables.iter().filter_map(|one| one.name.parse().ok()).collect()
}

/// What is asked for, and what editable projects ask for, but not those themselves.
fn with_editables(
    mut own: Requirements,
    venv: &Venv,
    interpreter: &Interpreter,
) -> Result<Requirements, VenvError> {
    for editable in &venv.editables {
        let found: Option<Version> = interpreter.full_version.parse().ok();
        if let Some(wanted) = &editable.requires_python
            && found.and_then(|version| version.meets(wanted)) != Some(true)
        {
            let found = interpreter.full_version.to_string();
            return Err(PylockError::Python { wanted: wanted.clone(), found }.into());
        }
        let lines: Vec<&str> = editable.requires_with(&venv.extras).map(String::as_str).collect();
        let read = Requirements::parse(&lines.join("\n")).map_err(|source| {
            VenvError::Requirements { path: format!("editable {}", editable.dir), source }
        })?;
        own.lines.extend(read.lines);
    }
    let names = editables(venv);
    own.lines.retain(|line| match line {
        RequirementLine::Requirement { project, .. } => !names.contains(project),
        _ => true,
    });
    Ok(own)
}

/// What the lock had, for the resolver to prefer.
fn known_versions(ask: &Ask<'_>) -> Option<String> {
    let keeps = |pin: &WheelPin| match ask.update {
        Update::Missing => true,
        Update::All => false,
        Update::Named(names) => {
            !names.contains(&*pin.name) && !names.contains(ask.layer.name.as_str())
        }
    };
    let wheels = ask.previous.iter().filter_map(|pin| match pin {
        Pin::Wheel(pin) if keeps(pin) => Some((&pin.name, &pin.version)),
        _ => None,
    });
    // several environments of a layer may differ: of one project, either version is a good guess
    let known: BTreeMap<_, _> = wheels.collect();
    if known.is_empty() {
        return None;
    }
    let mut text = "lock-version = \"1.0\"\ncreated-by = \"sbx\"\n".to_owned();
    for (name, version) in known {
        text.push_str(&format!("\n[[packages]]\nname = \"{name}\"\nversion = \"{version}\"\n"));
    }
    Some(text)
}

fn read_answer(result: &ToolResult, interpreter: &Interpreter) -> Result<Vec<Chosen>, VenvError> {
    let bytes = result.files.get("pylock.toml").map(Vec::as_slice).unwrap_or_default();
    let lock = Pylock::parse(&String::from_utf8_lossy(bytes)).map_err(VenvError::Answer)?;
    let mut chosen = lock.choose(interpreter, &[], &[])?;
    for one in &mut chosen {
        let origin = one.url.as_ref().and_then(|url| result.origins.get(url));
        one.url = origin.map(url::Url::to_string);
    }
    Ok(chosen)
}

/// What the resolver warns of: versions that are asked for though their publisher withdrew them.
fn withdrawn(output: &str) -> impl Iterator<Item = &str> {
    let warnings = output.lines().filter_map(|line| line.trim().strip_prefix("warning: "));
    warnings.filter(|warning| warning.contains(" is yanked"))
}

/// The digests that requirements ask for are kept, as pip keeps them: where one has any, all have.
fn check_hashes(
    inputs: &Inputs<'_>,
    own: &Requirements,
    chosen: &[Chosen],
) -> Result<(), VenvError> {
    let all = || inputs.files.values().map(|(_, read)| read).chain([own]);
    let mut wanted: BTreeMap<&ProjectName, BTreeSet<Digest>> = BTreeMap::new();
    for (project, digests) in all().flat_map(Requirements::hashes) {
        wanted.entry(project).or_default().extend(digests);
    }
    let demanded =
        all().flat_map(|read| &read.lines).any(|line| *line == RequirementLine::RequireHashes);
    if wanted.is_empty() && !demanded {
        return Ok(());
    }
    for one in chosen {
        match wanted.get(&one.project) {
            None => return Err(VenvError::Unhashed { package: one.project.to_string() }),
            Some(digests) if !digests.contains(&one.digest) => {
                return Err(VenvError::Hash { file: one.file_name.clone(), found: one.digest });
            }
            Some(_) => {}
        }
    }
    Ok(())
}
