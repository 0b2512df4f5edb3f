//! What pnpm fetches for a lock on a platform: everything that its directories draw in, less what is
//! left out on demand or is optional and for other machines.

use std::collections::BTreeMap;

use url::Url;

use super::name::PackageName;
use super::pnpm_lock::{PnpmFault, PnpmForm, PnpmLock, PnpmPackage, without_peers};
use super::tree::{Machine, Omit, Origin};
use crate::digest::Integrity;
use crate::platform::Platform;

/// Hosts of git repositories, which give their commits as tarballs.
const GIT_HOSTS: [&str; 3] = ["codeload.github.com", "gitlab.com", "bitbucket.org"];

/// A package that is fetched, or read out of the project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PnpmOne {
    /// What the lock calls it.
    pub key: String,
    pub name: PackageName,
    pub version: String,
    pub integrity: Integrity,
    pub origin: Origin,
}

impl PnpmLock {
    /// What is installed, by what the lock calls it. `more`: machines other than the platform's own
    /// whose packages the project wants, too.
    pub fn set(
        &self,
        platform: Platform,
        omit: Omit,
        more: &[Machine],
    ) -> Result<Vec<PnpmOne>, PnpmFault> {
        let own = Machine::of(platform);
        let fits = |package: &PnpmPackage| {
            let fits = |one: &Machine| one.admits(&package.os, &package.cpu, &package.libc);
            !package.optional || fits(&own) || more.iter().any(fits)
        };
        let mut found = BTreeMap::new();
        let mut next: Vec<(&str, &PnpmPackage)> = Vec::new();
        for importer in self.importers.values() {
            let roots = PnpmLock::roots(importer, !omit.dev, !omit.optional);
            next.extend(roots.filter_map(|(alias, version)| self.find(alias, version)));
        }
        while let Some((key, package)) = next.pop() {
            if !fits(package) || found.insert(key, package).is_some() {
                continue;
            }
            let optional = package.optional_dependencies.iter().filter(|_| !omit.optional);
            let all = package.dependencies.iter().chain(optional);
            next.extend(all.filter_map(|(alias, version)| self.find(alias, version)));
        }
        let ones =
            found.into_iter().filter_map(|(key, package)| self.one(key, package).transpose());
        ones.collect()
    }

    /// Packages whose tarballs the lock knows addresses of, with these.
    pub fn tarballs(&self) -> impl Iterator<Item = (String, String, &str)> {
        let http = |text: &&str| text.starts_with("https://") || text.starts_with("http://");
        self.packages.iter().filter_map(move |(key, package)| {
            let tarball = package.resolution.tarball.as_deref().filter(http)?;
            let (name, version) = self.identity(key, package);
            Some((name, version, tarball))
        })
    }

    /// Name and version of what the lock calls `key`.
    fn identity(&self, key: &str, package: &PnpmPackage) -> (String, String) {
        let bare = without_peers(key);
        let bare = bare.strip_prefix('/').unwrap_or(bare);
        let at = bare.get(1..).and_then(|rest| rest.find('@')).map_or(bare.len(), |at| at + 1);
        let (name, version) = bare.split_at(at);
        (
            package.name.clone().unwrap_or_else(|| name.to_owned()),
            package.version.clone().unwrap_or_else(|| version.trim_start_matches('@').to_owned()),
        )
    }

    /// `None` for a directory of the project.
    fn one(&self, key: &str, package: &PnpmPackage) -> Result<Option<PnpmOne>, PnpmFault> {
        let fault = |reason: String| PnpmFault::Entry { package: key.to_owned(), reason };
        let resolution = &package.resolution;
        let git = || {
            let repository = resolution.repo.clone().or_else(|| resolution.tarball.clone());
            let (package, from) = (key.to_owned(), repository.unwrap_or_default());
            PnpmFault::Git { package, from }
        };
        match resolution.kind.as_deref() {
            None | Some("tarball") => {}
            Some("directory") => return Ok(None),
            Some("git") => return Err(git()),
            Some(other) => {
                return Err(fault(format!("is a `{other}`, which no layer can be made of")));
            }
        }
        let tarball = resolution.tarball.as_deref().filter(|text| !text.is_empty());
        let url = tarball.and_then(|text| Url::parse(text).ok());
        let host = url.as_ref().and_then(Url::host_str);
        if resolution.git_hosted || host.is_some_and(|host| GIT_HOSTS.contains(&host)) {
            return Err(git());
        }
        let (name, version) = self.identity(key, package);
        let name: PackageName =
            name.parse().map_err(|error: super::PackageNameError| fault(error.to_string()))?;
        let Some(integrity) = &resolution.integrity else {
            return Err(fault("has no `integrity`, so nothing says which bytes it is".to_owned()));
        };
        let integrity = Integrity::parse_sri(integrity)
            .ok_or_else(|| fault(format!("has an `integrity` that is none, `{integrity}`")))?;
        let origin = match tarball {
            None => Origin::Registry(None),
            Some(text) => self.origin(key, text, &name, &version),
        };
        Ok(Some(PnpmOne { key: key.to_owned(), name, version, integrity, origin }))
    }

    fn origin(&self, key: &str, tarball: &str, name: &PackageName, version: &str) -> Origin {
        if let Some(file) = tarball.strip_prefix("file:") {
            return Origin::File(file.to_owned());
        }
        let bare = without_peers(key);
        let by_address = match self.form {
            PnpmForm::Six => !bare.starts_with('/'),
            PnpmForm::Nine => bare.contains("://"),
        };
        let path = match Url::parse(tarball) {
            Ok(url) if by_address => return Origin::Address(url),
            Ok(url) => url.path().replace("%2f", "/").replace("%2F", "/").replace("%40", "@"),
            Err(_) => tarball.to_owned(),
        };
        let usual = name.tarball_path(version);
        let usual = path.ends_with(&format!("/{usual}")) || path == usual;
        Origin::Registry((!usual).then(|| path.trim_start_matches('/').to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOCK: &str = "lockfileVersion: '9.0'
importers:
  .:
    dependencies:
      alias: {specifier: 'npm:real@^1', version: real@1.0.0(peer@2.0.0)}
      own: {specifier: 'workspace:*', version: 'link:own'}
    devDependencies:
      tool: {specifier: ^1, version: 1.0.0}
packages:
  real@1.0.0: {resolution: {integrity: SRI}}
  peer@2.0.0: {resolution: {integrity: SRI, tarball: 'https://h.example.org/download/peer.tgz'}}
  tool@1.0.0: {resolution: {integrity: SRI}}
  mac@1.0.0: {resolution: {integrity: SRI}, os: [darwin]}
  linux@1.0.0: {resolution: {integrity: SRI}, os: [linux], cpu: [x64], libc: [glibc]}
snapshots:
  real@1.0.0(peer@2.0.0):
    dependencies: {peer: 2.0.0}
    optionalDependencies: {mac: 1.0.0, linux: 1.0.0}
  peer@2.0.0: {}
  tool@1.0.0: {}
  mac@1.0.0: {optional: true}
  linux@1.0.0: {optional: true}
";

    fn set(omit: Omit, more: &[Machine]) -> Vec<String> {
        let sri = format!("sha512-{}==", "A".repeat(86));
        let lock = PnpmLock::parse(&LOCK.replace("SRI", &sri)).unwrap();
        let found = lock.set(Platform::Amd64, omit, more).unwrap();
        found.iter().map(|one| format!("{} {}", one.name, one.version)).collect()
    }

    #[test]
    fn what_is_optional_and_for_other_machines_is_left_out() {
        let all = Omit::default();
        assert_eq!(set(all, &[]), ["linux 1.0.0", "peer 2.0.0", "real 1.0.0", "tool 1.0.0"]);
        let less = Omit { dev: true, optional: true, peer: false };
        assert_eq!(set(less, &[]), ["peer 2.0.0", "real 1.0.0"]);
        let mac = Machine { os: "darwin".into(), cpu: "arm64".into(), libc: "glibc".into() };
        assert!(set(all, &[mac]).contains(&"mac 1.0.0".to_owned()));
    }
}
