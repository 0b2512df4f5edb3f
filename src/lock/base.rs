//! What the lock knows of the base below a layer.

use super::Lock;
use super::pin::{BaseLayerPin, BasePart, BasePin, Pin, RequestId};
use super::question::{LocalDigests, recipe_request};
use crate::decl::{BaseImage, Layer, Project, Recipe};
use crate::digest::Digest;
use crate::platform::Platform;

/// A base, as its pins say it.
#[derive(Clone, Debug)]
pub struct LockedBase<'l> {
    pub pin: &'l BasePin,
    /// Bottom first.
    pub layers: Vec<&'l BaseLayerPin>,
    /// Settings that images inherit, each with its words.
    pub settings: Vec<(&'l str, &'l [Box<str>])>,
    pub packages: Option<BasePackages<'l>>,
}

/// The Debian packages of a base.
#[derive(Clone, Debug)]
pub struct BasePackages<'l> {
    /// `trixie`; may be empty.
    pub release: &'l str,
    /// dpkg's status file, a blob of the store.
    pub status: Digest,
    /// Name and version.
    pub debs: Vec<(&'l str, &'l str)>,
}

/// The `from` of a layer.
pub fn from_of(layer: &Layer) -> Option<&BaseImage> {
    layer.recipes.iter().find_map(|recipe| match recipe {
        Recipe::From(base) => Some(base),
        _ => None,
    })
}

/// The layer whose base a layer stands on; that may be the layer itself.
pub fn base_layer<'p>(
    project: &'p Project,
    layer: &'p Layer,
    platform: Platform,
) -> Option<&'p Layer> {
    let below = project.closure_on(layer, platform).into_iter().chain([layer]);
    below.into_iter().find(|below| from_of(below).is_some())
}

/// The question of the `from` of a layer.
pub fn base_request(project: &Project, layer: &Layer, platform: Platform) -> Option<RequestId> {
    let at = layer.recipes.iter().position(|recipe| matches!(recipe, Recipe::From(_)))?;
    // it reads no file of the project
    recipe_request(project, layer, at, platform, &LocalDigests::default())
}

impl<'l> LockedBase<'l> {
    /// Out of the answer to a question; `None` where that is no base's.
    pub fn of(pins: &'l [Pin]) -> Option<Self> {
        let pin = pins.iter().find_map(|pin| match pin {
            Pin::Base(pin) => Some(pin),
            _ => None,
        })?;
        let mut base = LockedBase { pin, layers: Vec::new(), settings: Vec::new(), packages: None };
        let mut debs = Vec::new();
        for pin in pins {
            match pin {
                Pin::BaseLayer(layer) => base.layers.push(layer),
                Pin::BasePart(BasePart::Config { setting, words }) => {
                    base.settings.push((setting, words));
                }
                Pin::BasePart(BasePart::Deb { name, version, .. }) => {
                    debs.push((&**name, &**version))
                }
                Pin::BasePart(BasePart::Dpkg { release, status }) => {
                    let (release, status) = (&**release, *status);
                    base.packages = Some(BasePackages { release, status, debs: Vec::new() });
                }
                _ => {}
            }
        }
        base.layers.sort_by_key(|layer| layer.at);
        // as the lock's lines have them, whoever wrote them
        base.settings.sort_unstable();
        if let Some(packages) = &mut base.packages {
            packages.debs = debs;
        }
        Some(base)
    }

    /// The words of every setting of a name.
    pub fn settings<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'l [Box<str>]> + 's {
        self.settings.iter().filter(move |(known, _)| *known == name).map(|(_, words)| *words)
    }
}

impl Lock {
    /// The base that a layer stands on, if it is locked.
    pub fn base_below(
        &self,
        project: &Project,
        layer: &Layer,
        platform: Platform,
    ) -> Option<LockedBase<'_>> {
        let below = base_layer(project, layer, platform)?;
        LockedBase::of(self.answer(&base_request(project, below, platform)?)?)
    }
}
