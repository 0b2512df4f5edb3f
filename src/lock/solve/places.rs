//! Where sources are: what the declarations, the mirrors and the public defaults say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use url::Url;

use super::from::{Origins, layer_want};
use super::index::{IndexFile, read_page, releases};
use super::registry::{Moved, find_tarball, tarball_urls, there};
use crate::decl::{Archive, Ask, ImageSource, Project, Recipe};
use crate::digest::Integrity;
use crate::fetch::{
    Client, FetchError, Index, Login, MirrorMap, Progress, Want, defaults, take_file,
};
use crate::lock::base::from_of;
use crate::lock::question::debian_of;
use crate::lock::{ArchivePin, BaseLayerPin, DebPin, Source, WheelPin};
use crate::npm::PackageName;
use crate::oci::{Keychain, OciError};
use crate::store::{Held, Store, StoreError};

/// What says where sources are, and where they go.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub project: &'a Project,
    pub mirrors: &'a MirrorMap,
    pub store: &'a Store,
    pub keychain: &'a Keychain,
}

impl Places<'_> {
    /// What to fetch for a source.
    pub fn want(&self, source: &Source<'_>) -> Want {
        let digest = source.integrity();
        let urls = match source {
            Source::Deb(pin) => deb_urls(self.project, self.mirrors, pin),
            Source::Archive(pin) => archive_urls(self.project, pin),
            // its repository is asked by git
            Source::Git(_) => Vec::new(),
            // its origin knows, which may want a token first
            Source::BaseLayer(_) => Vec::new(),
            // and so is that of a package
            Source::Npm(pin) if pin.is_git() || pin.laid_in().is_some() => Vec::new(),
            Source::Npm(pin) => tarball_urls(self.mirrors, pin),
            Source::Wheel(pin) => wheel_urls(self.mirrors, pin),
        };
        Want {
            label: format!("{} `{}`", source.kind(), source.label()),
            urls,
            size: source.size(),
            digest,
            is_pinned: true,
            login: if matches!(source, Source::Npm(_)) { Login::Npm } else { Login::Nobody },
            part: self.store.source_part_path(&digest),
            into: self.store.source_path(&digest),
        }
    }

    /// Fetches programs of sbx's own. They are sought where everything is, and then at the public
    /// index or registry: one of somebody's own need not have them.
    pub fn fetch_tools(
        &self,
        client: &Client,
        tools: &[Source<'_>],
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        let want = |source: &Source<'_>| {
            let mut want = self.want(source);
            want.urls.extend(public_urls(source));
            want.urls.dedup();
            want
        };
        self.hold(tools)?;
        let missing: Vec<Source<'_>> = tools.iter().filter(|one| !self.has(one)).copied().collect();
        let failures = client.fetch_all(missing.iter().map(want).collect(), progress)?;
        let (_, mut failures) = self.fetch_moved(client, &missing, failures, progress)?;
        failures.pop_first().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Fetches sources, or takes them out of the project's directory; answers what failed.
    pub fn fetch(
        &self,
        client: &Client,
        sources: &[Source<'_>],
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, FetchError> {
        self.hold(sources)?;
        self.store.make_room()?;
        let mut wants = Vec::new();
        let mut wrong = BTreeMap::new();
        let (mut trees, mut inner) = (Vec::new(), Vec::new());
        for source in sources {
            if matches!(source, Source::Npm(pin) if pin.laid_in().is_some()) {
                inner.push(*source);
                continue;
            }
            if matches!(source, Source::Git(_))
                || matches!(source, Source::Npm(pin) if pin.is_git())
            {
                trees.push(*source);
                continue;
            }
            match self.local(source) {
                None => wants.push(self.want(source)),
                Some(path) => {
                    if let Err(error) = self.take(source, path, progress) {
                        wrong.insert(source.integrity(), error);
                    }
                }
            }
        }
        let failures = client.fetch_all(wants, progress)?;
        let (_, mut failures) = self.fetch_moved(client, sources, failures, progress)?;
        failures.extend(wrong);
        failures.extend(self.with_mirrors(client, &trees, progress, |left| {
            Ok::<_, FetchError>(self.fetch_trees(client, left, progress))
        })?);
        // what they lie in is there by now
        failures.extend(self.with_mirrors(client, &inner, progress, |left| {
            Ok::<_, FetchError>(self.fetch_inner(left, progress))
        })?);
        Ok(failures)
    }

    /// Fetches sources that no address leads to, which `origin` can give: it is asked for what the
    /// mirrors that go first do not have, and the others for what it could not give.
    fn with_mirrors<'s, E: From<FetchError>>(
        &self,
        client: &Client,
        sources: &[Source<'s>],
        progress: &dyn Progress,
        origin: impl FnOnce(&[Source<'s>]) -> Result<BTreeMap<Integrity, FetchError>, E>,
    ) -> Result<BTreeMap<Integrity, FetchError>, E> {
        let wants =
            |sources: &[Source<'s>]| sources.iter().map(|source| self.want(source)).collect();
        let mut first = client.fetch_mirrored(wants(sources), Ask::First, progress)?;
        let mut left = sources.to_vec();
        left.retain(|source| first.contains_key(&source.integrity()));
        if left.is_empty() {
            return Ok(BTreeMap::new());
        }
        let asked = origin(&left);
        if let Ok(failures) = &asked {
            left.retain(|source| failures.contains_key(&source.integrity()));
        }
        let last = client.fetch_mirrored(wants(&left), Ask::Last, progress)?;
        if last.is_empty() {
            return Ok(BTreeMap::new());
        }
        let mut failures = asked?;
        failures.retain(|digest, _| last.contains_key(digest));
        for (digest, failure) in failures.iter_mut().filter(|(_, failure)| failure.is_absence()) {
            if let Some(damaged) = first.remove(digest).filter(|error| !error.is_absence()) {
                *failure = damaged;
            }
        }
        Ok(failures)
    }

    /// Fetches layers of bases from mirrors, or from where declarations say that bases are; answers
    /// what failed.
    pub fn fetch_layers(
        &self,
        client: &Client,
        pins: &[&BaseLayerPin],
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, OciError> {
        let sources: Vec<Source<'_>> = pins.iter().map(|pin| Source::BaseLayer(pin)).collect();
        self.hold(&sources).map_err(FetchError::from)?;
        self.with_mirrors(client, &sources, progress, |left| {
            let pins = left.iter().filter_map(|source| match source {
                Source::BaseLayer(pin) => Some(*pin),
                _ => None,
            });
            self.fetch_from_bases(client, &pins.collect::<Vec<_>>(), progress)
        })
    }

    fn fetch_from_bases(
        &self,
        client: &Client,
        pins: &[&BaseLayerPin],
        progress: &dyn Progress,
    ) -> Result<BTreeMap<Integrity, FetchError>, OciError> {
        let mut failures = BTreeMap::new();
        let names: BTreeSet<&str> = pins.iter().map(|pin| &*pin.image).collect();
        for name in names {
            let wanted = || pins.iter().filter(|pin| *pin.image == *name);
            let mut lost: BTreeMap<Integrity, FetchError> = wanted()
                .map(|pin| (pin.digest.into(), FetchError::NoUrl { label: pin.label() }))
                .collect();
            let declared = self.project.layers.values().filter_map(from_of);
            let sources: BTreeMap<String, &ImageSource> = declared
                .filter(|from| from.source.name() == name)
                .map(|from| (from.source.to_string(), &from.source))
                .collect();
            for source in sources.into_values() {
                if lost.is_empty() {
                    break;
                }
                let Places { project, mirrors, keychain, .. } = *self;
                let origin = Origins { project, client, mirrors, keychain }.find(source)?;
                let wants = wanted().map(|pin| layer_want(self.store, pin)).collect();
                lost = origin.fetch(wants, self.store, progress)?;
            }
            failures.extend(lost);
        }
        Ok(failures)
    }

    /// Holds sources in the store, those that are still to come as well.
    pub fn hold(&self, sources: &[Source<'_>]) -> Result<(), StoreError> {
        let sources: Vec<_> = sources.iter().map(|one| (one.integrity(), one.size())).collect();
        self.store.hold(sources.iter().map(|(digest, size)| Held::Source(digest, *size)))
    }

    /// The file of the project that a source is, if it is one.
    fn local<'s>(&'s self, source: &Source<'s>) -> Option<&'s str> {
        match source {
            Source::Npm(pin) => pin.path.strip_prefix("file:"),
            Source::Archive(pin) => {
                let recipes = self.project.layers.values().flat_map(|layer| &layer.recipes);
                let mut local = recipes.filter_map(|recipe| match recipe {
                    Recipe::Archive(archive) if archive.digest == pin.digest => archive.local(),
                    _ => None,
                });
                local.next()
            }
            Source::Deb(_) | Source::BaseLayer(_) | Source::Git(_) | Source::Wheel(_) => None,
        }
    }

    /// Takes a file of the project into the store.
    fn take(
        &self,
        source: &Source<'_>,
        path: &str,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        take_file(&self.project.root.join(path), path, &self.want(source), progress)
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
        let mut vanished = BTreeMap::new();
        for source in sources.iter().filter(gone) {
            let moved = match source {
                Source::Wheel(pin) => find_wheel(client, &self.mirrors.python_indexes(), pin)?,
                Source::Npm(pin) => find_tarball(client, self.mirrors, pin)?,
                Source::Deb(_) | Source::Archive(_) | Source::BaseLayer(_) | Source::Git(_) => {
                    continue;
                }
            };
            match moved {
                Moved::To(urls) if !urls.is_empty() => {
                    // mirrors by digest have been asked
                    wants.push(Want { urls, is_pinned: false, ..self.want(source) });
                }
                Moved::Gone(there) => drop(vanished.insert(source.integrity(), there)),
                Moved::To(_) | Moved::Unknown => {}
            }
        }
        let said = |(digest, failure): (Integrity, FetchError)| match vanished.remove(&digest) {
            Some(there) => (digest, FetchError::Vanished { failure: Box::new(failure), there }),
            None => (digest, failure),
        };
        let mut failures: BTreeMap<_, _> = failures.into_iter().map(said).collect();
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
        is_pinned: true,
        login: Login::Nobody,
        part: store.source_part_path(&digest),
        into: store.source_path(&digest),
    }
}

/// Where the public has a program of sbx's own. Debian's archive keeps the newest of a package, and all
/// of them elsewhere.
fn public_urls(source: &Source<'_>) -> Vec<Url> {
    let (bases, path): (&[&str], String) = match source {
        Source::Wheel(pin) => (&[defaults::PYPI_FILES], pin.path.to_string()),
        Source::Npm(pin) => match pin.name.parse::<PackageName>() {
            Ok(name) => (&[defaults::NPM], name.tarball_path(&pin.version)),
            Err(_) => return Vec::new(),
        },
        Source::Deb(pin) => (&[defaults::DEBIAN, defaults::DEBIAN_THEN], pin.path.to_string()),
        Source::Archive(_) | Source::BaseLayer(_) | Source::Git(_) => return Vec::new(),
    };
    bases.iter().filter_map(|base| below(Url::parse(base).ok()?, &path)).collect()
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

/// Where the indexes say that a wheel is: the file of its digest.
fn find_wheel(client: &Client, indexes: &[Index], pin: &WheelPin) -> Result<Moved, FetchError> {
    let Ok(project) = pin.name.parse() else { return Ok(Moved::Unknown) };
    let (mut urls, mut known) = (Vec::new(), Vec::new());
    for index in indexes {
        let files = read_page(client, index, &project)?;
        let same = |file: &IndexFile| match file.digest {
            Some(digest) => digest == pin.digest,
            None => file.name == *pin.file_name,
        };
        let meant = files.iter().filter(|file| same(file));
        urls.extend(meant.map(|file| index.with_user(file.url.clone())));
        known.extend(files);
    }
    if !urls.is_empty() {
        return Ok(Moved::To(urls));
    }
    let has_name = |file: &IndexFile| file.name == *pin.file_name;
    Ok(Moved::Gone(match known.iter().any(has_name) {
        true => format!("what the index has as `{}` are other bytes", pin.file_name),
        false => match releases(&known, &project) {
            none if none.is_empty() => format!("the index has no project `{project}`"),
            all => {
                let wheels = all.into_values().filter(|(_, release)| release.wheel);
                let versions: Vec<String> = wheels.map(|(version, _)| version).collect();
                format!("the index has {}", there(&versions))
            }
        },
    }))
}

/// The address of a path below an archive. Whatever an index says, it is a path and nothing else:
/// `%` and `?` are characters of names, and no other host can be meant.
pub(super) fn below(mut base: Url, path: &str) -> Option<Url> {
    base.path_segments_mut().ok()?.pop_if_empty().extend(path.split('/'));
    Some(base)
}

/// The project's lock.
pub fn lock_path(root: &Path) -> PathBuf {
    root.join("sbx.lock")
}
