//! The shell that runs in the build sandbox: dpkg, in the order that works from nothing.
//!
//! A plain `dpkg --configure --pending` from nothing fails, because the first packages' scripts use
//! what later ones configure; so a handful goes first, dependencies or not. Packages whose preinst
//! diverts with `--rename` are unpacked by dpkg itself: laid down beforehand, their own file would
//! be the one that is renamed away.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use super::later;
use super::order::{Turn, turns};

/// Packages that are configured before all others, in this order, when dpkg starts from nothing.
const FIRST: &[&str] =
    &["base-passwd", "base-files", "libc6", "mawk", "dash", "perl-base", "debconf"];

/// Where the settle's own files are mounted while it runs.
pub(super) const MOUNT: &str = "/run/sbx";

const DPKG: &str = "dpkg --force-unsafe-io --force-confold --force-confdef";

/// A package as the script calls it.
#[derive(Clone, Debug)]
pub(super) struct ScriptPackage {
    pub name: String,
    /// `NAME` or `NAME:ARCH`, as its info files are called.
    pub info_name: String,
    pub arch: String,
    pub preinst: bool,
    /// File name of its `.deb` below [`MOUNT`], when dpkg is to unpack it itself.
    pub unpack: Option<String>,
    /// Other names that it goes by.
    pub provides: Vec<String>,
    pub essential: bool,
    /// Names in its relationship fields, alternatives included.
    pub pre_depends: Vec<String>,
    pub depends: Vec<String>,
}

impl ScriptPackage {
    fn is_first(&self) -> bool {
        FIRST.contains(&self.name.as_str())
    }
}

/// The essential packages among others and all that they need.
pub(super) fn essential(packages: &[ScriptPackage]) -> BTreeSet<String> {
    let mut providers: BTreeMap<&str, Vec<&ScriptPackage>> = BTreeMap::new();
    for package in packages {
        for name in std::iter::once(&package.name).chain(&package.provides) {
            providers.entry(name).or_default().push(package);
        }
    }
    let mut found = BTreeSet::new();
    let mut next: Vec<&ScriptPackage> =
        packages.iter().filter(|package| package.essential).collect();
    while let Some(package) = next.pop() {
        if found.insert(package.name.clone()) {
            let needs = package.pre_depends.iter().chain(&package.depends);
            next.extend(needs.filter_map(|name| providers.get(name.as_str())).flatten());
        }
    }
    found
}

/// Runs the preinsts of the first packages and configures them.
pub(super) fn bootstrap(packages: &[ScriptPackage]) -> String {
    let mut script = String::from("set -e\n");
    let mut first: Vec<_> = packages.iter().filter(|package| package.is_first()).collect();
    first.sort_by_key(|package| FIRST.iter().position(|name| *name == package.name));
    for package in &first {
        preinst(&mut script, package);
    }
    for package in first {
        // their dependencies are laid down, though not configured
        line(&mut script, format_args!("{DPKG} --force-depends --configure {}", package.info_name));
    }
    script
}

/// Runs the remaining preinsts, unpacks what dpkg must unpack, and configures everything; the packages
/// of `essential` before all others, as any bootstrap does: scripts call what they bring (`which`,
/// which is an alternative) without a word in their dependencies (Debian Policy 3.8).
pub(super) fn configure(
    packages: &[ScriptPackage],
    bootstrapped: bool,
    essential: &BTreeSet<String>,
) -> String {
    let mut script = String::from("set -e\n");
    let rest = packages.iter().filter(|package| !(bootstrapped && package.is_first()));
    let (before, rest): (Vec<&ScriptPackage>, Vec<&ScriptPackage>) =
        rest.partition(|package| essential.contains(&package.name) && package.unpack.is_none());
    let done = run_preinsts(&mut script, &before);
    let due = before.iter().enumerate().filter(|(at, _)| !done.contains(at));
    let names: Vec<&str> = due.map(|(_, package)| &*package.info_name).collect();
    if !names.is_empty() {
        line(&mut script, format_args!("{DPKG} --configure {}", names.join(" ")));
    }
    run_preinsts(&mut script, &rest);
    let unpack: Vec<String> = packages
        .iter()
        .filter_map(|package| package.unpack.as_ref())
        .map(|file| format!("{MOUNT}/{file}"))
        .collect();
    if !unpack.is_empty() {
        // what they pre-depend on is laid down and gets configured below
        line(&mut script, format_args!("{DPKG} --force-depends --unpack {}", unpack.join(" ")));
    }
    line(
        &mut script,
        format_args!("if [ -s {MOUNT}/debconf ]; then debconf-set-selections {MOUNT}/debconf; fi"),
    );
    line(&mut script, format_args!("{DPKG} --configure --pending"));
    script.push_str(&later::wait());
    script
}

/// Runs preinsts, each once what its package pre-depends on is configured; answers which were.
fn run_preinsts(script: &mut String, packages: &[&ScriptPackage]) -> BTreeSet<usize> {
    let mut configured = BTreeSet::new();
    for turn in turns(packages) {
        match turn {
            Turn::Preinst(at) => preinst(script, packages[at]),
            Turn::Configure(all) => {
                let names: Vec<&str> = all.iter().map(|at| &*packages[*at].info_name).collect();
                line(script, format_args!("{DPKG} --configure {}", names.join(" ")));
                configured.extend(all);
            }
        }
    }
    configured
}

fn line(script: &mut String, text: std::fmt::Arguments<'_>) {
    // writing to a string cannot fail
    writeln!(script, "{text}").unwrap_or_default();
}

/// Runs a preinst with the environment that dpkg gives it (deb-preinst(5), dpkg(1) ENVIRONMENT), and
/// tells debconf whose questions it asks, which dpkg does by the directory it unpacks control files to.
fn preinst(script: &mut String, package: &ScriptPackage) {
    if !package.preinst {
        return;
    }
    let ScriptPackage { name, info_name, arch, .. } = package;
    line(
        script,
        format_args!(
            "DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_PACKAGE={name} DPKG_MAINTSCRIPT_ARCH={arch} \
             DPKG_MAINTSCRIPT_PACKAGE_REFCOUNT=1 DPKG_ROOT= DPKG_ADMINDIR=/var/lib/dpkg DPKG_FORCE=security-mac,downgrade \
             DEBCONF_PACKAGE={name} PERL_DL_NONLAZY=1 \
             /var/lib/dpkg/info/{info_name}.preinst install \
             || {{ echo \"preinst of {name} failed\" >&2; exit 1; }}"
        ),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str) -> ScriptPackage {
        ScriptPackage {
            name: name.into(),
            info_name: name.into(),
            arch: "amd64".into(),
            preinst: false,
            unpack: None,
            provides: Vec::new(),
            essential: false,
            pre_depends: Vec::new(),
            depends: Vec::new(),
        }
    }

    #[test]
    fn the_first_packages_are_configured_in_the_order_that_works() {
        let packages = [package("dash"), package("zsh"), package("base-passwd")];
        let script = bootstrap(&packages);
        let order: Vec<_> =
            script.lines().filter_map(|line| line.split("--configure ").nth(1)).collect();
        assert_eq!(order, ["base-passwd", "dash"]);
    }

    #[test]
    fn essential_packages_and_what_they_need_go_before_all_others() {
        let essential_one =
            ScriptPackage { essential: true, depends: vec!["lib".into()], ..package("tools") };
        let packages = [package("app"), essential_one, package("lib")];
        let found = essential(&packages);
        assert_eq!(found.iter().map(String::as_str).collect::<Vec<_>>(), ["lib", "tools"]);
        let script = configure(&packages, true, &found);
        let order: Vec<_> =
            script.lines().filter_map(|line| line.split("--configure ").nth(1)).collect();
        assert_eq!(order, ["tools lib", "--pending"]);
    }

    #[test]
    fn a_diverting_package_is_unpacked_by_dpkg_after_the_preinsts() {
        let diverting =
            ScriptPackage { preinst: true, unpack: Some("1.deb".into()), ..package("vim") };
        let plain = ScriptPackage { preinst: true, ..package("git") };
        let script = configure(&[diverting, plain], true, &BTreeSet::new());
        assert!(!script.contains("vim.preinst"), "dpkg runs it");
        let at = |text: &str| script.find(text).unwrap_or_else(|| panic!("{text} is missing"));
        assert!(at("git.preinst") < at("--unpack /run/sbx/1.deb"));
        assert!(at("--unpack") < at("--configure --pending"));
    }
}
