//! Where sources are: what the declarations, the mirrors and the public defaults say.

use std::path::{Path, PathBuf};

use url::Url;

use crate::decl::Project;
use crate::fetch::{MirrorMap, Want, defaults};
use crate::lock::question::debian_of;
use crate::lock::{DebPin, Source};
use crate::store::Store;

/// What says where sources are, and where they go.
#[derive(Clone, Copy)]
pub struct Places<'a> {
    pub project: &'a Project,
    pub mirrors: &'a MirrorMap,
    pub store: &'a Store,
}

impl Places<'_> {
    /// What to fetch for a source.
    pub fn want(&self, source: &Source<'_>) -> Want {
        let digest = source.integrity();
        let (kind, urls) = match source {
            Source::Deb(pin) => ("package", deb_urls(self.project, self.mirrors, pin)),
            Source::Archive(_) => ("archive", Vec::new()),
        };
        Want {
            label: format!("{kind} `{}`", source.label()),
            urls,
            size: source.size(),
            digest,
            part: self.store.source_part_path(&digest),
            into: self.store.source_path(&digest),
        }
    }

    /// Whether the store has a source, as far as its size tells.
    pub fn has(&self, source: &Source<'_>) -> bool {
        let found = self.store.find_source(&source.integrity());
        found.is_some_and(|found| source.size().is_none_or(|size| size == found))
    }
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
