//! What changed between two locks, in the terms of a reviewer: packages, versions, bytes.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::{Lock, Pin, Source};
use crate::digest::Integrity;
use crate::platform::Platform;

/// One package of one layer that is not what it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    pub layer: String,
    pub platform: Platform,
    pub package: String,
    /// The version before; `None` for a package that is new.
    pub from: Option<String>,
    /// The version after; `None` for a package that is gone.
    pub to: Option<String>,
    /// Bytes to fetch after, less bytes to fetch before.
    pub bytes: i64,
}

/// All changes, by layer, platform and package.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LockDiff {
    pub changes: Vec<Change>,
}

/// Layer, platform, kind of source, package, and what else tells two of them apart.
type Place<'a> = (&'a str, Platform, &'static str, &'a str, &'a str);

/// One version of a package; environments of one layer may hold several.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Held<'a> {
    version: &'a str,
    integrity: Integrity,
    size: u64,
}

type Pins<'a> = BTreeMap<Place<'a>, BTreeSet<Held<'a>>>;

fn pins(lock: &Lock) -> Pins<'_> {
    let debs = lock.layers.iter().flat_map(|((layer, platform), locked)| {
        locked.debs.iter().map(|pin| (layer.as_str(), *platform, Source::Deb(pin)))
    });
    let answers = lock.recipes.iter().flat_map(|((layer, platform), uses)| {
        let pins = uses.keys().filter_map(|request| lock.answer(request)).flatten();
        pins.filter_map(Pin::source).map(|source| (layer.as_str(), *platform, source))
    });
    let mut pins = Pins::new();
    for (layer, platform, source) in debs.chain(answers) {
        let (name, version, arch) = source.package();
        let held =
            Held { version, integrity: source.integrity(), size: source.size().unwrap_or(0) };
        pins.entry((layer, platform, source.kind(), name, arch)).or_default().insert(held);
    }
    pins
}

/// What is there before and not after, beside what is there after and not before.
fn pairs<'a>(
    before: Option<&BTreeSet<Held<'a>>>,
    after: Option<&BTreeSet<Held<'a>>>,
) -> Vec<(Option<Held<'a>>, Option<Held<'a>>)> {
    let less = |one: Option<&BTreeSet<Held<'a>>>, two: Option<&BTreeSet<Held<'a>>>| {
        let held = one.into_iter().flatten().copied();
        held.filter(|held| two.is_none_or(|two| !two.contains(held))).collect::<Vec<_>>()
    };
    let (gone, new) = (less(before, after), less(after, before));
    let count = gone.len().max(new.len());
    (0..count).map(|at| (gone.get(at).copied(), new.get(at).copied())).collect()
}

impl LockDiff {
    pub fn between(before: &Lock, after: &Lock) -> Self {
        let (before, after) = (pins(before), pins(after));
        let places: BTreeSet<&Place<'_>> = before.keys().chain(after.keys()).collect();
        let mut changes = Vec::new();
        for place in places {
            for (old, new) in pairs(before.get(place), after.get(place)) {
                let size = |held: Option<Held<'_>>| {
                    held.map_or(0, |held| i64::try_from(held.size).unwrap_or(i64::MAX))
                };
                changes.push(Change {
                    layer: place.0.to_owned(),
                    platform: place.1,
                    package: place.3.to_owned(),
                    from: old.map(|held| held.version.to_owned()),
                    to: new.map(|held| held.version.to_owned()),
                    bytes: size(new).saturating_sub(size(old)),
                });
            }
        }
        LockDiff { changes }
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Bytes to fetch after, less bytes to fetch before.
    pub fn bytes(&self) -> i64 {
        self.changes.iter().map(|change| change.bytes).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use std::path::Path;

    #[test]
    fn a_diff_names_packages_versions_and_bytes() {
        let lock = |pins: &[(&str, &str, u64)]| {
            let hex = "0".repeat(64);
            let mut text = format!("sbx-lock 1\nlayer l linux/amd64 sha256:{hex}\n");
            for (name, version, size) in pins {
                text += &format!(
                    "deb l linux/amd64 {name} {version} all auto debian {size} sha256:{hex} p\n"
                );
            }
            Lock::parse(Path::new("l"), &text).unwrap()
        };
        let diff = LockDiff::between(
            &lock(&[("a", "1", 10), ("b", "1", 10), ("c", "1", 10)]),
            &lock(&[("a", "2", 15), ("c", "1", 10), ("d", "1", 7)]),
        );
        let seen: Vec<_> = diff
            .changes
            .iter()
            .map(|c| (c.package.as_str(), c.from.as_deref(), c.to.as_deref()))
            .collect();
        assert_eq!(
            seen,
            [("a", Some("1"), Some("2")), ("b", Some("1"), None), ("d", None, Some("1"))]
        );
        assert_eq!(diff.bytes(), 2);
    }

    #[test]
    fn wheels_of_several_environments_are_told_apart() {
        let lock = |wheels: &[(u8, &str, &str)]| {
            let mut text = "sbx-lock 1\n".to_owned();
            for (request, name, version) in wheels {
                let (request, hex) = (format!("{request:016x}"), Digest::of(version.as_bytes()));
                text += &format!(
                    "recipe l linux/amd64 venv {request}\n\
                     wheel {request} {name} {version} {name}-{version}-py3-none-any.whl 10 {hex} p\n"
                );
            }
            Lock::parse(Path::new("l"), &text).unwrap()
        };
        let before = lock(&[(1, "a", "1"), (2, "a", "2"), (2, "b", "1")]);
        let after = lock(&[(1, "a", "1"), (2, "a", "3"), (3, "c", "1")]);
        let diff = LockDiff::between(&before, &after);
        let seen: Vec<_> = diff
            .changes
            .iter()
            .map(|c| (c.package.as_str(), c.from.as_deref(), c.to.as_deref()))
            .collect();
        let expected =
            [("a", Some("2"), Some("3")), ("b", Some("1"), None), ("c", None, Some("1"))];
        assert_eq!(seen, expected);
    }
}
