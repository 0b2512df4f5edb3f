//! When preinsts run: once what their package pre-depends on is configured (Debian Policy 7.2).
//!
//! Everything is laid down already, so most preinsts can run at once, before anything is configured.
//! The few that wait do so in rounds, because each start of dpkg reads its whole database.

use std::collections::{BTreeMap, BTreeSet};

use super::script::ScriptPackage;

/// What happens next, to packages by their position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    Preinst(usize),
    Configure(Vec<usize>),
}

/// The turns of packages that are laid down. Where pre-dependencies run in a circle, or lead to a
/// package that dpkg has yet to unpack, a preinst runs without them.
pub(super) fn turns(packages: &[&ScriptPackage]) -> Vec<Turn> {
    let laid = |at: &usize| packages[*at].unpack.is_none();
    let waits: Vec<BTreeSet<usize>> = closures(packages);
    let mut prepared: BTreeSet<usize> =
        (0..packages.len()).filter(|at| laid(at) && !packages[*at].preinst).collect();
    let mut configured = BTreeSet::new();
    let mut rest: Vec<usize> =
        (0..packages.len()).filter(|at| laid(at) && packages[*at].preinst).collect();
    let mut turns = Vec::new();
    while let Some(first) = rest.first().copied() {
        let mut ready: Vec<usize> =
            rest.iter().copied().filter(|at| waits[*at].is_subset(&configured)).collect();
        if ready.is_empty() {
            let able = rest.iter().filter(|at| waits[**at].is_subset(&prepared));
            let next: BTreeSet<usize> = able
                .flat_map(|at| &waits[*at])
                .copied()
                .filter(|at| !configured.contains(at))
                .collect();
            if !next.is_empty() {
                configured.extend(&next);
                turns.push(Turn::Configure(next.into_iter().collect()));
                continue;
            }
            ready.push(first);
        }
        rest.retain(|at| !ready.contains(at));
        prepared.extend(&ready);
        turns.extend(ready.into_iter().map(Turn::Preinst));
    }
    turns
}

/// For each package with a preinst, all packages that must be configured before it runs.
fn closures(packages: &[&ScriptPackage]) -> Vec<BTreeSet<usize>> {
    let mut providers: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (at, package) in packages.iter().enumerate() {
        for name in std::iter::once(&package.name).chain(&package.provides) {
            providers.entry(name).or_default().push(at);
        }
    }
    let found = |names: &[String]| -> Vec<usize> {
        names.iter().filter_map(|name| providers.get(&**name)).flatten().copied().collect()
    };
    let closure = |at: usize| {
        let mut seen = BTreeSet::new();
        let mut open = found(&packages[at].pre_depends);
        while let Some(next) = open.pop() {
            if next != at && seen.insert(next) {
                open.extend(found(&packages[next].pre_depends));
                open.extend(found(&packages[next].depends));
            }
        }
        seen
    };
    let waits = |at: usize| if packages[at].preinst { closure(at) } else { BTreeSet::new() };
    (0..packages.len()).map(waits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, preinst: bool, pre_depends: &[&str], depends: &[&str]) -> ScriptPackage {
        let names = |names: &[&str]| names.iter().map(|name| name.to_string()).collect();
        ScriptPackage {
            name: name.to_owned(),
            info_name: name.to_owned(),
            arch: "all".to_owned(),
            preinst,
            unpack: None,
            essential: false,
            provides: Vec::new(),
            pre_depends: names(pre_depends),
            depends: names(depends),
        }
    }

    fn turns_of(packages: &[ScriptPackage]) -> String {
        let name = |at: usize| packages[at].name.clone();
        let show = |turn: Turn| match turn {
            Turn::Preinst(at) => format!("preinst {}", name(at)),
            Turn::Configure(all) => {
                format!("configure {}", all.into_iter().map(name).collect::<Vec<_>>().join(" "))
            }
        };
        let all: Vec<&ScriptPackage> = packages.iter().collect();
        turns(&all).into_iter().map(show).collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn preinsts_without_pre_dependencies_run_at_once() {
        let packages = [package("a", true, &[], &["b"]), package("b", true, &["below"], &[])];
        assert_eq!(turns_of(&packages), "preinst a, preinst b");
    }

    #[test]
    fn what_is_pre_depended_on_is_configured_first_with_all_it_needs() {
        let packages = [
            package("a", true, &["b"], &[]),
            package("b", true, &[], &["c"]),
            package("c", false, &[], &[]),
            package("d", true, &["c"], &[]),
        ];
        assert_eq!(turns_of(&packages), "preinst b, configure b c, preinst a, preinst d");
    }

    #[test]
    fn chains_take_a_round_each() {
        let packages = [
            package("a", true, &["b"], &[]),
            package("b", true, &["c"], &[]),
            package("c", true, &[], &[]),
        ];
        assert_eq!(
            turns_of(&packages),
            "preinst c, configure c, preinst b, configure b, preinst a"
        );
    }

    #[test]
    fn circles_and_what_dpkg_has_yet_to_unpack_stop_nothing() {
        let circle = [package("a", true, &["b"], &[]), package("b", true, &["a"], &[])];
        assert_eq!(turns_of(&circle), "preinst a, configure a, preinst b");
        let mut packages = [package("a", true, &["b"], &[]), package("b", false, &[], &[])];
        packages[1].unpack = Some("b.deb".to_owned());
        assert_eq!(turns_of(&packages), "preinst a");
    }
}
