//! Debian packages: indexes, verified before anything in them is believed, then a layer at a time.
//!
//! Layers are resolved in the order of their needs, each over the packages of the layers below it.
//! Indexes are read once per suite and kept as blobs: one that did not change is not fetched again.

use std::collections::BTreeMap;

use jiff::Timestamp;
use rayon::prelude::*;
use url::Url;

use super::from::installed_index;
use super::{BaseError, SolveError, Solver, Update};
use crate::debian::keyring::Keyring;
use crate::debian::packages::Index;
use crate::debian::release::{PackagesFile, Release};
use crate::debian::resolve::{BaseSet, Request, Wanted, resolve};
use crate::debian::universe::{Member, PinRule, Universe};
use crate::debian::version::Relation;
use crate::decl::{Base, Debian, Layer};
use crate::digest::Digest;
use crate::fetch::{Headers, Login, Want, defaults};
use crate::fsx::IoAt;
use crate::lock::base::LockedBase;
use crate::lock::question::{debian_of, request_of, suites_of};
use crate::lock::{ArchiveName, DebPin, LayerLock, Lock, Mark};
use crate::name::LayerName;
use crate::platform::Platform;
use crate::store::Held;

/// Largest `InRelease` that is read.
const LARGEST_RELEASE: u64 = 16 << 20;

/// A suite of an archive, as it is read.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Suite {
    archive: String,
    suite: String,
    components: Vec<String>,
    /// Its address; ends in `/`.
    base: Url,
    /// The file of the key that signs it, below the project; `None` for Debian's own.
    key: Option<String>,
}

impl Solver<'_> {
    /// Resolves the packages of layers, which come in the order of their needs, into `next`.
    pub(super) fn solve_debian(
        &self,
        lock: &Lock,
        next: &mut Lock,
        layers: &[(&Layer, Platform)],
        update: &Update,
    ) -> Result<(), SolveError> {
        let mut releases = BTreeMap::new();
        let mut universes: BTreeMap<(Vec<Suite>, Platform, Option<Digest>), Universe> =
            BTreeMap::new();
        for (layer, platform) in layers {
            let Some(request) = request_of(self.project, layer, *platform, next) else { continue };
            let locked = lock.layers.get(&(layer.name.clone(), *platform));
            let keep = locked
                .is_some_and(|locked| locked.request == request && !touches(update, layer, locked));
            if keep {
                continue;
            }
            let base = next.base_below(self.project, layer, *platform);
            let suites = self.suites(layer, base.as_ref())?;
            let status = self.base_status(next, layer, *platform)?;
            let key = (suites.clone(), *platform, status.as_ref().map(|(digest, _)| *digest));
            if !universes.contains_key(&key) {
                let installed = status.map(|(_, bytes)| installed_member(&bytes)).transpose()?;
                let mut members = self.read_members(&suites, *platform, lock, &mut releases)?;
                members.extend(installed);
                let universe = Universe::new(members, platform.debian());
                universes.insert(key.clone(), universe);
            }
            let debs = self.solve_layer(layer, *platform, &universes[&key], lock, next, update)?;
            next.layers.insert((layer.name.clone(), *platform), LayerLock { request, debs });
        }
        next.releases.extend(releases);
        Ok(())
    }

    fn suites(
        &self,
        layer: &Layer,
        base: Option<&LockedBase<'_>>,
    ) -> Result<Vec<Suite>, SolveError> {
        let declared: Vec<&Debian> =
            self.project.closure(layer).into_iter().chain([layer]).filter_map(debian_of).collect();
        let bad = |reason: String| SolveError::Declaration { layer: layer.name.clone(), reason };
        let mut suites = Vec::new();
        let components =
            debian_of(layer).map(|debian| debian.components.clone()).unwrap_or_default();
        let mirror = declared.iter().rev().find_map(|debian| debian.mirror.clone());
        let key = declared.iter().find_map(|debian| debian.key.clone());
        let packages = base.and_then(|base| base.packages.as_ref());
        for suite in suites_of(self.project, layer, packages) {
            if let Some(base) = base.filter(|_| suite.is_empty()) {
                let source = BaseError::NoRelease { image: base.pin.name.to_string() };
                return Err(SolveError::Base { layer: layer.name.clone(), source });
            }
            let archive = defaults::debian_archive(&suite);
            let public =
                mirror.as_deref().filter(|_| archive == "debian").or(defaults::debian_url(archive));
            let public = public.unwrap_or_default();
            let url =
                Url::parse(public).map_err(|error| bad(format!("mirror `{public}`: {error}")))?;
            suites.push(Suite {
                archive: archive.to_owned(),
                suite,
                components: components.clone(),
                base: self.mirrors.base(archive, &url),
                key: key.clone(),
            });
        }
        for repository in declared.iter().flat_map(|debian| &debian.repositories) {
            let url = Url::parse(&repository.url)
                .map_err(|error| bad(format!("repository `{}`: {error}", repository.name)))?;
            suites.push(Suite {
                archive: repository.name.clone(),
                suite: repository.suite.clone(),
                components: repository.components.clone(),
                base: self.mirrors.base(&repository.name, &url),
                key: Some(repository.key.clone()),
            });
        }
        suites.dedup();
        Ok(suites)
    }

    fn read_members(
        &self,
        suites: &[Suite],
        platform: Platform,
        lock: &Lock,
        releases: &mut BTreeMap<(ArchiveName, String), Timestamp>,
    ) -> Result<Vec<Member>, SolveError> {
        let asks: Vec<(String, Vec<Url>)> = suites
            .iter()
            .map(|suite| {
                (
                    format!("release of `{}` `{}`", suite.archive, suite.suite),
                    suite.urls("InRelease"),
                )
            })
            .collect();
        let documents = self.client.get_all(&asks, &Headers::default(), LARGEST_RELEASE);
        let mut indexes = Vec::new();
        let mut seen = Vec::new();
        for (suite, document) in suites.iter().zip(documents) {
            let release = self.verify(suite, &document?.bytes, lock)?;
            releases.insert((ArchiveName::new(&suite.archive), suite.suite.clone()), release.date);
            seen.push((suite, release));
        }
        for (suite, release) in &seen {
            for component in suite.components() {
                indexes.extend(suite.indexes(release, component, platform)?);
            }
        }
        self.fetch_indexes(&indexes)?;
        indexes.into_par_iter().map(|index| self.read_index(&index)).collect()
    }

    fn verify(&self, suite: &Suite, bytes: &[u8], lock: &Lock) -> Result<Release, SolveError> {
        let keyring = match &suite.key {
            None => Keyring::debian()
                .map_err(|source| SolveError::Key { path: "Debian's own".to_owned(), source })?,
            Some(path) => self.read_key(path)?,
        };
        let locked =
            lock.releases.get(&(ArchiveName::new(&suite.archive), suite.suite.clone())).copied();
        Release::read(bytes, &keyring, &suite.suite, self.now, locked).map_err(|source| {
            let (archive, suite) = (suite.archive.clone(), suite.suite.clone());
            SolveError::Release { archive, suite, source }
        })
    }

    fn read_key(&self, path: &str) -> Result<Keyring, SolveError> {
        let full = self.project.root.join(path);
        let bytes = std::fs::read(&full).at("read", &full)?;
        Keyring::parse(&bytes).map_err(|source| SolveError::Key { path: path.to_owned(), source })
    }

    fn fetch_indexes(&self, indexes: &[SuiteIndex<'_>]) -> Result<(), SolveError> {
        let held = |index: &SuiteIndex<'_>| (index.file.digest.into(), Some(index.file.size));
        let held: Vec<_> = indexes.iter().map(held).collect();
        self.store.hold(held.iter().map(|(digest, size)| Held::Source(digest, *size)))?;
        self.store.make_room()?;
        let missing = indexes.iter().filter(|index| !self.store.has_blob(&index.file.digest));
        let want = |index: &SuiteIndex<'_>| {
            let SuiteIndex { suite, release, component, file } = index;
            let by_hash = release.by_hash.then(|| suite.urls(&file.by_hash()));
            Want {
                label: format!("index of `{}` `{}` {component}", suite.archive, suite.suite),
                urls: by_hash.into_iter().flatten().chain(suite.urls(file.path)).collect(),
                size: Some(file.size),
                digest: file.digest.into(),
                is_pinned: false,
                login: Login::Nobody,
                part: self.store.part_path(&file.digest),
                into: self.store.blob_path(&file.digest),
            }
        };
        let failures = self.client.fetch_all(missing.map(want).collect(), self.progress)?;
        failures.into_values().next().map_or(Ok(()), |error| Err(error.into()))
    }

    fn read_index(&self, index: &SuiteIndex<'_>) -> Result<Member, SolveError> {
        let SuiteIndex { suite, release, component, file } = index;
        let (archive, suite) = (suite.archive.clone(), suite.suite.clone());
        let bytes = self.store.read_blob(&file.digest).inspect_err(|_| {
            // a damaged index is fetched again next time
            self.store.drop_blob(&file.digest).unwrap_or_default();
        })?;
        match Index::read(file, &bytes) {
            Ok(index) => Ok(Member { index, archive, suite, priority: release.priority() }),
            Err(source) => {
                let component = component.to_string();
                Err(SolveError::Index { archive, suite, component, source })
            }
        }
    }

    fn solve_layer(
        &self,
        layer: &Layer,
        platform: Platform,
        universe: &Universe,
        old: &Lock,
        next: &Lock,
        update: &Update,
    ) -> Result<Vec<DebPin>, SolveError> {
        let Some(recipe) = debian_of(layer) else { return Ok(Vec::new()) };
        let below = self.project.closure(layer);
        let base = next.base_below(self.project, layer, platform);
        let base_debs = base.iter().filter_map(|base| base.packages.as_ref());
        let base_debs = base_debs.flat_map(|packages| &packages.debs);
        let installed: BTreeMap<String, String> = below
            .iter()
            .filter_map(|below| next.layers.get(&(below.name.clone(), platform)))
            .flat_map(|locked| &locked.debs)
            .map(|pin| (pin.name.to_string(), pin.version.to_string()))
            .chain(base_debs.map(|(name, version)| ((*name).to_owned(), (*version).to_owned())))
            .collect();
        let lowest = base.is_none() && !below.iter().any(|below| debian_of(below).is_some());
        let request = Request {
            base: if lowest { base_set(recipe.base) } else { BaseSet::None },
            packages: wanted(layer, recipe, platform)?,
            recommends: recipe.recommends,
            exclude: recipe.exclude.iter().cloned().collect(),
            rules: rules(layer, recipe)?,
            installed,
            prefer: prefer(layer, platform, old, next, update),
        };
        let chosen = resolve(universe, &request).map_err(|source| SolveError::Unsolvable {
            layer: layer.name.clone(),
            platform,
            source,
        })?;
        let pin = |chosen: &crate::debian::resolve::Chosen| {
            let package = universe.get(chosen.id);
            Some(DebPin {
                name: package.name().into(),
                version: package.version().into(),
                arch: package.arch().into(),
                mark: if chosen.auto { Mark::Auto } else { Mark::Manual },
                archive: ArchiveName::new(&universe.member(chosen.id).archive),
                size: package.size()?,
                digest: package.digest()?,
                path: package.filename().into(),
            })
        };
        Ok(chosen.iter().filter_map(pin).collect())
    }
}

impl Suite {
    fn urls(&self, path: &str) -> Vec<Url> {
        // a flat repository names a directory of its own
        let path = match self.suite.ends_with('/') {
            true => format!("{}{path}", self.suite.trim_start_matches("./")),
            false => format!("dists/{}/{path}", self.suite),
        };
        self.base.join(&path).into_iter().collect()
    }

    /// Its components; a flat archive has one without a name.
    fn components(&self) -> Vec<&str> {
        match self.suite.ends_with('/') {
            true => vec![""],
            false => self.components.iter().map(String::as_str).collect(),
        }
    }

    fn indexes<'r>(
        &'r self,
        release: &'r Release,
        component: &'r str,
        platform: Platform,
    ) -> Result<Vec<SuiteIndex<'r>>, SolveError> {
        let files = release.packages(component, platform.debian());
        if files.is_empty() {
            return Err(SolveError::NoIndex {
                archive: self.archive.clone(),
                suite: self.suite.clone(),
                component: component.to_owned(),
                arch: platform.debian().to_owned(),
            });
        }
        let index = |file| SuiteIndex { suite: self, release, component, file };
        Ok(files.into_iter().map(index).collect())
    }
}

/// One `Packages` of a suite.
#[derive(Clone, Copy)]
struct SuiteIndex<'a> {
    suite: &'a Suite,
    release: &'a Release,
    component: &'a str,
    file: PackagesFile<'a>,
}

/// What a base has, for its relations.
fn installed_member(status: &[u8]) -> Result<Member, SolveError> {
    let (archive, suite) = ("base".to_owned(), "the base".to_owned());
    match Index::parse(installed_index(&String::from_utf8_lossy(status))) {
        // what is installed is apt's last choice among equals
        Ok(index) => Ok(Member { index, archive, suite, priority: 100 }),
        Err(source) => {
            Err(SolveError::Index { archive, suite, component: "status".to_owned(), source })
        }
    }
}

fn touches(update: &Update, layer: &Layer, locked: &LayerLock) -> bool {
    match update {
        Update::Missing => false,
        Update::All => true,
        Update::Named(names) => {
            names.contains(layer.name.as_str())
                || locked.debs.iter().any(|pin| names.contains(&*pin.name))
        }
    }
}

/// Versions to keep: what this layer had, unless it is to be updated, and what others have.
fn prefer(
    layer: &Layer,
    platform: Platform,
    old: &Lock,
    next: &Lock,
    update: &Update,
) -> BTreeMap<String, String> {
    let own = |name: &LayerName| *name == layer.name;
    let all = *update == Update::All
        || matches!(update, Update::Named(names) if names.contains(layer.name.as_str()));
    let free = |package: &str| matches!(update, Update::Named(names) if names.contains(package));
    let mut prefer = BTreeMap::new();
    for (lock, mine) in [(next, false), (old, true)] {
        let layers =
            lock.layers.iter().filter(|((name, of), _)| *of == platform && own(name) == mine);
        for pin in layers.flat_map(|(_, locked)| &locked.debs) {
            if !(free(&pin.name) || mine && all) {
                prefer.insert(pin.name.to_string(), pin.version.to_string());
            }
        }
    }
    prefer
}

fn base_set(base: Base) -> BaseSet {
    match base {
        Base::Required => BaseSet::Required,
        Base::Essential => BaseSet::Essential,
        Base::None => BaseSet::None,
    }
}

fn wanted(layer: &Layer, recipe: &Debian, platform: Platform) -> Result<Vec<Wanted>, SolveError> {
    let own = ["any", "native", "all", platform.debian()];
    recipe
        .packages
        .iter()
        .map(|package| {
            if let Some(arch) = package.arch.as_deref().filter(|arch| !own.contains(arch)) {
                let reason = format!(
                    "`{}:{arch}` is of another architecture than the image, {platform}",
                    package.name
                );
                return Err(SolveError::Declaration { layer: layer.name.clone(), reason });
            }
            let version = package
                .version
                .as_ref()
                .and_then(|rule| Some((Relation::parse(&rule.relation)?, rule.version.clone())));
            Ok(Wanted { name: package.name.clone(), version })
        })
        .collect()
}

fn rules(layer: &Layer, recipe: &Debian) -> Result<Vec<PinRule>, SolveError> {
    let rule = |pin: &crate::decl::PinRule| {
        PinRule::new(&pin.package, pin.version.as_deref(), pin.suite.as_deref()).map_err(|error| {
            SolveError::Declaration { layer: layer.name.clone(), reason: error.to_string() }
        })
    };
    recipe.pins.iter().map(rule).collect()
}
