//! Where sources are: what the declarations, the mirrors and the public defaults say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use url::Url;

use super::index::{IndexFile, read_page};
use crate::decl::{Archive, Project, Recipe};
use crate::digest::Integrity;
use crate::fetch::{Client, FetchError, Index, MirrorMap, Progress, Want, defaults};
use crate::lock::question::debian_of;
use crate::lock::{ArchivePin, DebPin, NpmPin, Source, WheelPin};
use crate::npm::PackageName;
use crate::store::{Store, StoreError};

/// What says where sources are, and where they go.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub project: &'a Project,
    pub mirrors: &'a MirrorMap,
    pub store: &'a Store,
}

impl Places<'_> {
    /// Copies archives that are files of the project's into the store; answers the other sources.
    pub fn take_local<'s>(&self, sources: &[Source<'s>]) -> Result<Vec<Source<'s>>, StoreError> {
        let mut rest = Vec::new();
        for source in sources {
            let recipes = self.project.layers.values().flat_map(|layer| &layer.recipes);
            let local = recipes.filter_map(|recipe| match (recipe, source) {
                (Recipe::Archive(archive), Source::Archive(pin))
                    if archive.digest == pin.digest =>
                {
                    archive.local()
                }
                _ => None,
            });
            match local.map(|path| self.project.root.join(path)).find(|path| path.is_file()) {
                Some(path) => self.store.import(&path)?,
                None => rest.push(*source),
            }
        }
        Ok(rest)
    }

    /// What to fetch for a source.
    pub fn want(&self, source: &Source<'_>) -> Want {
        let digest = source.integrity();
        let urls = match source {
            Source::Deb(pin) => deb_urls(self.project, self.mirrors, pin),
            Source::Archive(pin) => archive_urls(self.project, pin),
            Source::Npm(pin) => npm_urls(self.mirrors, pin),
            Source::Wheel(pin) => wheel_urls(self.mirrors, pin),
        };
        Want {
            label: format!("{} `{}`", source.kind(), source.label()),
            urls,
            size: source.size(),
            digest,
            part: self.store.source_part_path(&digest),
            into: self.store.source_path(&digest),
        }
    }

    /// Fetches a program of sbx's own. It is sought where everything is, and then at the public
    /// index: one of somebody's own need not have it.
    pub fn fetch_tool(
        &self,
        client: &Client,
        pin: &WheelPin,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        let source = Source::Wheel(pin);
        if self.has(&source) {
            return Ok(());
        }
        let mut want = self.want(&source);
        let public = Url::parse(defaults::PYPI_FILES).ok();
        want.urls.extend(public.and_then(|base| base.join(&pin.path).ok()));
        want.urls.dedup();
        let failures = client.fetch_all(vec![want], progress)?;
        let (_, mut failures) = self.fetch_moved(client, &[source], failures, progress)?;
        failures.pop_first().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Of sources that could not be fetched, looks for those that have another place by now; answers
    /// how many were found, and what still fails.
    pub fn fetch_moved(
        &self,
        client: &Client,
        sources: &[Source<'_>],
        failures: BTreeMap<Integrity, FetchError>,
        progress: &dyn Progress,
    ) -> Result<(usize, BTreeMap<Integrity, FetchError>), FetchError> {
        let gone = |source: &&Source<'_>| {
            let failure = failures.get(&source.integrity());
            // a lock of Python's need not say where a wheel is
            failure.is_some_and(|failure| {
                failure.is_gone() || matches!(failure, FetchError::NoUrl { .. })
            })
        };
        let mut wants = Vec::new();
        for source in sources.iter().filter(gone) {
            let Source::Wheel(pin) = source else { continue };
            let urls = find_wheel(client, &self.mirrors.python_indexes(), pin)?;
            if !urls.is_empty() {
                wants.push(Want { urls, ..self.want(source) });
            }
        }
        let mut failures = failures;
        for want in &wants {
            failures.remove(&want.digest);
        }
        let found = wants.len();
        failures.extend(client.fetch_all(wants, progress)?);
        Ok((found, failures))
    }

    /// Whether the store has a source, as far as its size tells.
    pub fn has(&self, source: &Source<'_>) -> bool {
        let found = self.store.find_source(&source.integrity());
        found.is_some_and(|found| source.size().is_none_or(|size| size == found))
    }
}

/// What to fetch for an archive that is not locked yet.
pub(super) fn archive_wants(store: &Store, archive: &Archive) -> Want {
    let digest = Integrity::from(archive.digest);
    Want {
        label: format!("archive `{}`", archive.name()),
        urls: Url::parse(&archive.source).into_iter().collect(),
        size: None,
        digest,
        part: store.source_part_path(&digest),
        into: store.source_path(&digest),
    }
}

/// Where the archive of a pin is: every address that is declared for its digest.
fn archive_urls(project: &Project, pin: &ArchivePin) -> Vec<Url> {
    let recipes = project.layers.values().flat_map(|layer| &layer.recipes);
    let urls = recipes.filter_map(|recipe| match recipe {
        Recipe::Archive(archive) if archive.digest == pin.digest => {
            Url::parse(&archive.source).ok()
        }
        _ => None,
    });
    urls.collect()
}

/// Where the package of a pin may be: its path below its archive's address.
fn deb_urls(project: &Project, mirrors: &MirrorMap, pin: &DebPin) -> Vec<Url> {
    let archive = pin.archive.as_str();
    let declared = project.layers.values().filter_map(debian_of);
    let repositories = declared.clone().flat_map(|debian| &debian.repositories);
    let own = repositories
        .filter(|repository| repository.name == archive)
        .map(|repository| repository.url.as_str());
    let mirror =
        declared.filter_map(|debian| debian.mirror.as_deref()).filter(|_| archive == "debian");
    let public = own.chain(mirror).chain(defaults::debian_url(archive));
    let mut urls: Vec<Url> = public
        .filter_map(|public| Url::parse(public).ok())
        .filter_map(|public| below(mirrors.base(archive, &public), &pin.path))
        .collect();
    urls.dedup();
    urls
}

/// Where the wheel of a pin may be: on the server of each index, at the path that it had, or at the
/// usual place beside the index.
fn wheel_urls(mirrors: &MirrorMap, pin: &WheelPin) -> Vec<Url> {
    let mut urls = Vec::new();
    if pin.path.is_empty() {
        return urls;
    }
    for index in mirrors.python_indexes() {
        let file = pin.path.find("packages/").map(|at| &pin.path[at..]);
        let found = match (index.url.as_str() == defaults::PYPI, file) {
            (true, Some(file)) => {
                Url::parse(defaults::PYPI_FILES).ok().and_then(|base| base.join(file).ok())
            }
            (true, None) => None,
            (false, file) => {
                let beside = file.and_then(|file| index.url.join(&format!("../{file}")).ok());
                urls.extend(beside.map(|url| index.with_user(url)));
                index.url.join(&format!("/{}", pin.path)).ok()
            }
        };
        urls.extend(found.map(|url| index.with_user(url)));
    }
    urls.dedup();
    urls
}

/// Where the tarball of a pin may be: at the usual path of its registry, at the one that it had, or at
/// an address of its own.
fn npm_urls(mirrors: &MirrorMap, pin: &NpmPin) -> Vec<Url> {
    if pin.path.starts_with("https://") || pin.path.starts_with("http://") {
        return Url::parse(&pin.path).into_iter().collect();
    }
    let registry = mirrors.npm_registry();
    let usual = pin.name.parse().ok().map(|name: PackageName| name.tarball_path(&pin.version));
    let known = Some(pin.path.to_string()).filter(|path| !path.is_empty());
    usual.into_iter().chain(known).filter_map(|path| below(registry.clone(), &path)).collect()
}

/// Where the indexes say that a wheel is: the file of its digest.
fn find_wheel(client: &Client, indexes: &[Index], pin: &WheelPin) -> Result<Vec<Url>, FetchError> {
    let Ok(project) = pin.name.parse() else { return Ok(Vec::new()) };
    let mut urls = Vec::new();
    for index in indexes {
        let files = read_page(client, index, &project)?;
        let same = |file: &IndexFile| match file.digest {
            Some(digest) => digest == pin.digest,
            None => file.name == *pin.file_name,
        };
        urls.extend(files.into_iter().filter(same).map(|file| index.with_user(file.url)));
    }
    Ok(urls)
}

/// The address of a path below an archive. Whatever an index says, it is a path and nothing else:
/// `%` and `?` are characters of names, and no other host can be meant.
fn below(mut base: Url, path: &str) -> Option<Url> {
    base.path_segments_mut().ok()?.pop_if_empty().extend(path.split('/'));
    Some(base)
}

/// The project's lock.
pub fn lock_path(root: &Path) -> PathBuf {
    root.join("sbx.lock")
}
