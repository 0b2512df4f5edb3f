//! Bases: what a reference leads to, and, where Debian packages or environments stand on it, which
//! packages it has.
//!
//! Layers are fetched at lock time for the second only. What was read is pinned, and dpkg's status
//! file is kept as a blob, so it is read once.

use std::collections::BTreeSet;

use super::{SolveError, Solver, Update, touches};
use crate::debian::control::upstream;
use crate::debian::database::{find_field, stanzas};
use crate::decl::{BaseImage, ImageSource, Layer, Project, Recipe};
use crate::digest::Digest;
use crate::fetch::{Client, Login, MirrorMap, Want};
use crate::lock::base::{LockedBase, base_layer, base_request, from_of};
use crate::lock::{BaseLayerPin, BasePart, BasePin, Lock, Pin, RequestId};
use crate::name::LayerName;
use crate::oci::peek::{Found, PeekLayer, peek};
use crate::oci::{Keychain, OciError, Origin};
use crate::platform::Platform;
use crate::store::{Held, Store};

/// Why Debian packages cannot stand on a base.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum BaseError {
    #[error("image `{image}` has no packages of Debian's: there is no {STATUS} in it")]
    NoPackages { image: String },
    #[error(
        "in image `{image}`, /bin is a directory of its own: packages need one merged with /usr"
    )]
    Split { image: String },
    #[error("in image `{image}`, package `{package}` is left `{state}`")]
    Unfinished { image: String, package: String, state: String },
    #[error("in image `{image}`, {STATUS} is not what it was: expected {expected}, found {found}")]
    Changed { image: String, expected: Digest, found: Digest },
    #[error("`debian` names no release, and neither does image `{image}`")]
    NoRelease { image: String },
}

impl BaseError {
    /// The next step.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            BaseError::Split { .. } => {
                Some("take a newer one: Debian's own images are merged from release 12 on")
            }
            _ => None,
        }
    }
}

const STATUS: &str = "/var/lib/dpkg/status";
const RELEASES: [&str; 2] = ["/usr/lib/os-release", "/etc/os-release"];
const BIN: &str = "/bin";

/// Whether packages or environments stand on the base of a question, so that its packages have to be
/// known.
pub(super) fn needs_packages(project: &Project, request: &RequestId, platform: Platform) -> bool {
    project.layers.values().any(|layer| {
        let needs =
            layer.recipes.iter().any(|one| matches!(one, Recipe::Debian(_) | Recipe::Venv(_)));
        let base = base_layer(project, layer, platform).filter(|_| needs && layer.is_for(platform));
        base.and_then(|base| base_request(project, base, platform)).as_ref() == Some(request)
    })
}

/// What to fetch for a layer of a base; where it is, the base's origin knows.
pub(super) fn layer_want(store: &Store, pin: &BaseLayerPin) -> (Digest, Want) {
    let want = Want {
        label: format!("base layer `{}`", pin.label()),
        urls: Vec::new(),
        size: Some(pin.size),
        digest: pin.digest.into(),
        is_pinned: false,
        login: Login::Nobody,
        part: store.part_path(&pin.digest),
        into: store.blob_path(&pin.digest),
    };
    (pin.digest, want)
}

/// What says where bases are.
#[derive(Clone, Copy)]
pub struct Origins<'a> {
    pub project: &'a Project,
    pub client: &'a Client,
    pub mirrors: &'a MirrorMap,
    pub keychain: &'a Keychain,
}

impl<'a> Origins<'a> {
    pub(super) fn find(&self, source: &ImageSource) -> Result<Origin<'a>, OciError> {
        Origin::new(&self.project.root, self.client, self.keychain, self.mirrors, source)
    }

    /// Whether the reference of a layer leads elsewhere than the lock says; what it leads to now.
    pub fn find_moved(
        &self,
        lock: &Lock,
        layer: &Layer,
        platform: Platform,
    ) -> Result<Option<(BasePin, Digest)>, OciError> {
        let Some(from) = from_of(layer) else { return Ok(None) };
        let Some(base) = lock.base_below(self.project, layer, platform) else { return Ok(None) };
        let fixed = matches!(&from.source, ImageSource::Registry(one) if one.digest().is_some());
        if fixed {
            return Ok(None);
        }
        let found = self.find(&from.source)?.resolve(platform)?.manifest;
        Ok((found != base.pin.manifest).then(|| (base.pin.clone(), found)))
    }
}

impl Solver<'_> {
    /// Answers the questions of all bases, which everything else stands on.
    pub(super) fn solve_bases(
        &self,
        next: &mut Lock,
        layers: &[(&Layer, Platform)],
        update: &Update,
    ) -> Result<(), SolveError> {
        let mut done = BTreeSet::new();
        for (layer, platform) in layers {
            let Some(from) = from_of(layer) else { continue };
            let request = base_request(self.project, layer, *platform);
            let Some(request) = request.filter(|request| done.insert(request.clone())) else {
                continue;
            };
            let known = next.answers.get(&request).filter(|pins| !touches(update, layer, pins));
            let mut pins = match known.filter(|pins| LockedBase::of(pins).is_some()) {
                Some(pins) => pins.clone(),
                None => self.resolve_base(from, *platform)?,
            };
            let base = LockedBase::of(&pins).filter(|base| base.packages.is_none());
            if let Some(base) = base.filter(|_| needs_packages(self.project, &request, *platform)) {
                let parts = self.read_packages(&layer.name, &from.source, &base, *platform)?;
                pins.extend(parts.into_iter().map(Pin::BasePart));
            }
            next.set_answer(request, pins);
        }
        Ok(())
    }

    fn origin(&self, source: &ImageSource) -> Result<Origin<'_>, OciError> {
        let Solver { project, client, mirrors, keychain, .. } = *self;
        Origins { project, client, mirrors, keychain }.find(source)
    }

    fn resolve_base(&self, from: &BaseImage, platform: Platform) -> Result<Vec<Pin>, SolveError> {
        let image = self.origin(&from.source)?.resolve(platform)?;
        let name = from.source.name();
        let layers = (0..).zip(&image.layers);
        let layers = layers.map(|(at, layer)| Pin::BaseLayer(BaseLayerPin::new(at, &name, layer)));
        let settings = image.settings.iter().map(|(setting, words)| {
            let words = words.iter().map(|word| word.as_str().into()).collect();
            Pin::BasePart(BasePart::Config { setting: (*setting).into(), words })
        });
        let pin = Pin::Base(BasePin::new(&name, &image));
        Ok(std::iter::once(pin).chain(layers).chain(settings).collect())
    }

    /// Reads which packages a base has.
    fn read_packages(
        &self,
        layer: &LayerName,
        source: &ImageSource,
        base: &LockedBase<'_>,
        platform: Platform,
    ) -> Result<Vec<BasePart>, SolveError> {
        let image = source.to_string();
        let bad = |source| SolveError::Base { layer: layer.clone(), source };
        let wants = base.layers.iter().map(|pin| layer_want(self.store, pin)).collect();
        let failures = self.origin(source)?.fetch(wants, self.store, self.progress)?;
        if let Some((_, error)) = failures.into_iter().next() {
            return Err(error.into());
        }
        let layers = base.layers.iter().map(|pin| PeekLayer {
            digest: pin.digest,
            diff_id: pin.diff_id,
            packing: pin.packing,
            blob: self.store.blob_path(&pin.digest),
            size: pin.size,
        });
        let paths = [STATUS, RELEASES[0], RELEASES[1], BIN];
        let found = peek(&layers.collect::<Vec<_>>(), &paths)
            .map_err(|source| OciError::Peek { image: image.clone(), source })?;
        let Some(Found::File(status)) = found.get(STATUS) else {
            return Err(bad(BaseError::NoPackages { image }));
        };
        if found.get(BIN) == Some(&Found::Dir) {
            return Err(bad(BaseError::Split { image }));
        }
        let text = String::from_utf8_lossy(status);
        let mut parts = read_status(&text, &image, platform).map_err(bad)?;
        let releases = RELEASES.iter().filter_map(|path| found.get(*path));
        let release = releases.filter_map(|found| match found {
            Found::File(bytes) => codename(&String::from_utf8_lossy(bytes)),
            Found::Link | Found::Dir => None,
        });
        let release = release.into_iter().next().unwrap_or_default().as_str().into();
        parts.push(BasePart::Dpkg { release, status: self.store.put_blob(status)? });
        Ok(parts)
    }

    /// dpkg's status file of the base below a layer.
    pub(super) fn base_status(
        &self,
        lock: &Lock,
        layer: &Layer,
        platform: Platform,
    ) -> Result<Option<(Digest, Vec<u8>)>, SolveError> {
        let Some(below) = base_layer(self.project, layer, platform) else { return Ok(None) };
        let (Some(from), Some(base)) =
            (from_of(below), lock.base_below(self.project, below, platform))
        else {
            return Ok(None);
        };
        let Some(packages) = &base.packages else { return Ok(None) };
        let expected = packages.status;
        self.store.hold([Held::Blob(&expected)])?;
        if !self.store.has_blob(&expected) {
            let parts = self.read_packages(&below.name, &from.source, &base, platform)?;
            let found = parts.iter().find_map(|part| match part {
                BasePart::Dpkg { status, .. } => Some(*status),
                _ => None,
            });
            if let Some(found) = found.filter(|found| *found != expected) {
                let image = from.source.to_string();
                let source = BaseError::Changed { image, expected, found };
                return Err(SolveError::Base { layer: below.name.clone(), source });
            }
        }
        Ok(Some((expected, self.store.read_blob(&expected)?)))
    }
}

/// The packages of a status file.
fn read_status(text: &str, image: &str, platform: Platform) -> Result<Vec<BasePart>, BaseError> {
    let mut debs = Vec::new();
    for stanza in stanzas(text) {
        let field = |name| find_field(stanza, name).unwrap_or_default();
        match field("Status").rsplit(' ').next().unwrap_or_default() {
            "installed" if ["all", platform.debian()].contains(&field("Architecture")) => {
                debs.push(BasePart::Deb {
                    name: field("Package").into(),
                    version: field("Version").into(),
                    arch: field("Architecture").into(),
                    upstream: find_field(stanza, "Source").map(|source| upstream(source).into()),
                });
            }
            "installed" | "config-files" | "not-installed" => {}
            state => {
                let (package, state) = (field("Package").to_owned(), state.to_owned());
                return Err(BaseError::Unfinished { image: image.to_owned(), package, state });
            }
        }
    }
    debs.sort();
    Ok(debs)
}

/// `VERSION_CODENAME` of os-release(5).
fn codename(text: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    let value = value.trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// What is installed as an index of packages that nobody can fetch: their relations count, and they
/// are never chosen.
pub(super) fn installed_index(status: &str) -> Vec<u8> {
    let mut text = String::with_capacity(status.len() + (8 << 10));
    let installed = |stanza: &&str| {
        find_field(stanza, "Status").is_some_and(|status| status.ends_with(" installed"))
    };
    for stanza in stanzas(status).filter(installed) {
        text.push_str(stanza);
        let nothing = Digest::from_bytes([0; 32]).hex();
        text.push_str(&format!("\nFilename: none\nSize: 0\nSHA256: {nothing}\n\n"));
    }
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 1\n\n\
        Package: b\nStatus: deinstall ok config-files\nArchitecture: amd64\nVersion: 2\n\n\
        Package: c\nStatus: hold ok installed\nArchitecture: i386\nVersion: 3\n";

    #[test]
    fn installed_packages_of_the_platform_are_read() {
        let text = format!(
            "{TEXT}\nPackage: d\nStatus: install ok installed\nArchitecture: amd64\nSource: big (2-1)\nVersion: 4\n"
        );
        let found = read_status(&text, "x", Platform::Amd64).unwrap();
        let deb = |name: &str, version: &str, arch: &str, upstream: Option<&str>| BasePart::Deb {
            name: name.into(),
            version: version.into(),
            arch: arch.into(),
            upstream: upstream.map(Into::into),
        };
        assert_eq!(found, [deb("a", "1", "all", None), deb("d", "4", "amd64", Some("big@2-1"))]);
        let broken = TEXT.replace("ok installed", "ok half-configured");
        let error = read_status(&broken, "x", Platform::Amd64).unwrap_err();
        assert_eq!(error.to_string(), "in image `x`, package `a` is left `half-configured`");
    }

    #[test]
    fn releases_have_code_names() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=\"trixie\"\n").as_deref(), Some("trixie"));
        assert_eq!(codename("VERSION_CODENAME=\n"), None);
    }
}
