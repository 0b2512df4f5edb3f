//! What changed between two locks, in the terms of a reviewer: packages, versions, bytes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{DebPin, Lock};
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

type Pins<'a> = BTreeMap<(&'a str, Platform, &'a str, &'a str), &'a DebPin>;

fn pins(lock: &Lock) -> Pins<'_> {
    lock.layers
        .iter()
        .flat_map(|((layer, platform), locked)| {
            locked.debs.iter().map(|pin| ((layer.as_str(), *platform, &*pin.name, &*pin.arch), pin))
        })
        .collect()
}

impl LockDiff {
    pub fn between(before: &Lock, after: &Lock) -> Self {
        let (before, after) = (pins(before), pins(after));
        let mut keys: Vec<_> = before.keys().chain(after.keys()).collect();
        keys.sort_unstable();
        keys.dedup();
        let size = |pin: Option<&&DebPin>| {
            pin.map_or(0, |pin| i64::try_from(pin.size).unwrap_or(i64::MAX))
        };
        let change = |key: &&(&str, Platform, &str, &str)| {
            let (old, new) = (before.get(*key), after.get(*key));
            let same = old.map(|pin| (&pin.version, pin.digest))
                == new.map(|pin| (&pin.version, pin.digest));
            (!same).then(|| Change {
                layer: key.0.to_owned(),
                platform: key.1,
                package: key.2.to_owned(),
                from: old.map(|pin| pin.version.to_string()),
                to: new.map(|pin| pin.version.to_string()),
                bytes: size(new).saturating_sub(size(old)),
            })
        };
        LockDiff { changes: keys.iter().filter_map(change).collect() }
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
}
