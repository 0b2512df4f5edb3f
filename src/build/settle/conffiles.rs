//! Configuration files that wait for their package.
//!
//! dpkg unpacks a configuration file as `NAME.dpkg-new` and puts it in place when it configures the
//! package (deb-conffiles(5)). Content is laid with all of them in place, so they are moved aside
//! before the first script runs: a script that runs whatever lies in a directory (`run-parts`) would
//! otherwise run hooks of packages that are not ready. dpkg moves them back, and what comes back as it
//! was is no part of the delta.
//!
//! The essential packages of a layer that starts from nothing keep theirs: no bootstrap works
//! without, and debootstrap and mmdebstrap extract these packages whole as well.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::database::SettlePackage;
use crate::build::content::merged;
use crate::build::view::View;
use crate::debian::database::parse_diversions;
use crate::fsx::PathIo;
use crate::path::LayerPath;
use crate::tarball::MemberKind;

/// Absolute paths of the configuration files that wait.
pub(super) type Waiting = BTreeSet<String>;

/// Which wait, of packages whose content lies in the tree `content`; those of `essential` do not.
pub(super) fn find_waiting(
    content: Option<&Path>,
    packages: &[SettlePackage<'_>],
    essential: &BTreeSet<String>,
    below: &View,
) -> Result<Waiting, PathIo> {
    let Some(content) = content else { return Ok(Waiting::new()) };
    let diversions = parse_diversions(&below.read_text("/var/lib/dpkg/diversions")?);
    let diverted: BTreeSet<&str> =
        diversions.iter().map(|diversion| diversion.from.as_str()).collect();
    let is_laid = |path: &str| {
        let place = LayerPath::parse_absolute(path).map(|path| merged(path, MemberKind::File));
        let found = place.ok().map(|place| fs::symlink_metadata(content.join(place.as_path())));
        found.is_some_and(|found| found.is_ok_and(|meta| meta.is_file()))
    };
    Ok(packages
        .iter()
        .filter(|package| package.is_laid() && !essential.contains(package.name()))
        .flat_map(|package| package.control().conffiles())
        .filter(|path| !diverted.contains(path) && is_laid(path))
        .map(str::to_owned)
        .collect())
}

/// From where to where they are moved.
pub(super) fn moves(waiting: &Waiting) -> Vec<(String, String)> {
    waiting.iter().map(|path| (path.clone(), format!("{path}.dpkg-new"))).collect()
}
