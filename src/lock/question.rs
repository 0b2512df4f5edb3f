//! Questions: what a layer or a recipe asks of the world, as digests. An answer in the lock stands as
//! long as the question does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Lock;
use super::base::{BasePackages, base_layer};
use super::pin::RequestId;
use crate::decl::{Base, Debian, Layer, Project, Recipe};
use crate::digest::Digest;
use crate::name::LayerName;
use crate::platform::Platform;

/// Digests of what lies in the project's directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalDigests {
    /// Of `files` recipes, by layer and the recipe's place in it.
    pub recipes: BTreeMap<(LayerName, usize), Digest>,
    /// Of files that recipes read (keys, locks of other tools), by their path below the project.
    pub files: BTreeMap<String, Digest>,
}

/// The question a debian layer asks, as its digest is taken.
#[derive(Serialize)]
struct DebianQuestion<'a> {
    format: u32,
    platform: Platform,
    release: &'a str,
    suites: Vec<String>,
    base: Base,
    recipe: &'a Debian,
    below: Vec<Digest>,
}

/// The question of any other recipe.
#[derive(Serialize)]
struct Question<'a> {
    format: u32,
    platform: Platform,
    recipe: &'a Recipe,
    /// The files of the project that the recipe reads, with their digests.
    files: Vec<(&'a str, Option<Digest>)>,
    /// The newest release that its resolver may see.
    as_of: Option<&'a str>,
    /// What the recipes before it in its layer ask, if their trees are what it works on.
    before: Vec<RequestId>,
}

/// The `debian` recipe of a layer.
pub fn debian_of(layer: &Layer) -> Option<&Debian> {
    layer.recipes.iter().find_map(|recipe| match recipe {
        Recipe::Debian(debian) => Some(debian),
        _ => None,
    })
}

/// The release that a layer is of: its own, the one of the layers it needs, or the one of the base
/// below.
fn release_of<'a>(
    project: &'a Project,
    layer: &'a Layer,
    base: Option<&BasePackages<'a>>,
) -> &'a str {
    let below = project.closure(layer).into_iter().chain([layer]);
    let named = below.filter_map(debian_of).find_map(|debian| debian.release.as_deref());
    named.or(base.map(|base| base.release)).unwrap_or_default()
}

/// The suites of Debian's own that a layer resolves against: those it names, those of the lowest
/// layer below that names any, or the usual three.
pub fn suites_of(project: &Project, layer: &Layer, base: Option<&BasePackages<'_>>) -> Vec<String> {
    let named =
        debian_of(layer).map(|debian| debian.suites.clone()).filter(|suites| !suites.is_empty());
    let below = || {
        project
            .closure(layer)
            .into_iter()
            .filter_map(debian_of)
            .find(|debian| !debian.suites.is_empty())
    };
    named.or_else(|| below().map(|debian| debian.suites.clone())).unwrap_or_else(
        || match release_of(project, layer, base) {
            release @ ("sid" | "unstable" | "experimental") => vec![release.to_owned()],
            release => vec![
                release.to_owned(),
                format!("{release}-updates"),
                format!("{release}-security"),
            ],
        },
    )
}

/// The digest of what a layer asks of Debian, over the base that is locked; `None` for a layer that
/// asks nothing.
pub fn request_of(
    project: &Project,
    layer: &Layer,
    platform: Platform,
    lock: &Lock,
) -> Option<Digest> {
    let recipe = debian_of(layer)?;
    let base = lock.base_below(project, layer, platform).and_then(|base| base.packages);
    // a base that is not known yet is one of its own
    let unknown = || Digest::of(b"a base");
    let base_digest = base_layer(project, layer, platform)
        .map(|_| base.as_ref().map_or_else(unknown, |base| base.status));
    let below: Vec<Digest> = base_digest
        .into_iter()
        .chain(
            project
                .closure(layer)
                .into_iter()
                .filter_map(|below| request_of(project, below, platform, lock)),
        )
        .collect();
    let question = DebianQuestion {
        format: 1,
        platform,
        release: release_of(project, layer, base.as_ref()),
        suites: suites_of(project, layer, base.as_ref()),
        base: if below.is_empty() { recipe.base } else { Base::None },
        recipe,
        below,
    };
    Some(Digest::of(&serde_json::to_vec(&question).expect("a question has string keys only")))
}

/// What the recipe at a place of a layer asks; `None` for one whose bytes are all at hand.
pub fn recipe_request(
    project: &Project,
    layer: &Layer,
    at: usize,
    platform: Platform,
    local: &LocalDigests,
) -> Option<RequestId> {
    let recipe = layer.recipes.get(at).filter(|recipe| recipe.asks())?;
    let question = Question {
        format: 1,
        platform,
        recipe,
        files: recipe
            .reads()
            .into_iter()
            .map(|path| (path, local.files.get(path).copied()))
            .collect(),
        as_of: project.as_of(layer, recipe),
        before: (0..at)
            .filter(|before| recipe.laid().is_some_and(|one| one.recipe == *before))
            .filter_map(|before| recipe_request(project, layer, before, platform, local))
            .collect(),
    };
    let text = serde_json::to_vec(&question).expect("a question has string keys only");
    Some(RequestId::of(&Digest::of(&text)))
}
