//! `Release`: what an archive says of a suite (Debian's repository format).

use std::collections::BTreeMap;

use jiff::Timestamp;
use jiff::fmt::rfc2822;

use super::control::Stanza;
use super::keyring::{Keyring, SignatureError};
use super::universe::PRIORITY;
use crate::blame::Blame;
use crate::digest::Digest;

/// A verified `Release`.
#[derive(Clone, Debug)]
pub struct Release {
    pub origin: String,
    pub label: String,
    pub suite: String,
    pub codename: String,
    /// `13.2`; testing and security suites have none.
    pub version: Option<String>,
    pub date: Timestamp,
    pub valid_until: Option<Timestamp>,
    pub by_hash: bool,
    pub components: Vec<String>,
    pub architectures: Vec<String>,
    /// Whether packages of `all` have a `Packages` of their own, as apt decides it: the Release names
    /// `all` among its architectures, and no `No-Support-for-Architecture-all`. An index that is only
    /// listed is no promise: mirrors may keep a stale one.
    pub all_apart: bool,
    /// `NotAutomatic` and `ButAutomaticUpgrades` lower a suite's priority (apt_preferences(5)).
    pub not_automatic: bool,
    pub but_automatic_upgrades: bool,
    /// By path below the suite's directory: size in bytes, SHA-256.
    pub files: BTreeMap<String, (u64, Digest)>,
}

/// Why a `Release` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error(transparent)]
    Signature(#[from] SignatureError),
    #[error("it has no `{0}`")]
    Field(&'static str),
    #[error("its `{field}` is no date: `{value}`")]
    Date { field: &'static str, value: String },
    #[error("it was valid until {valid_until} and it is {now}")]
    Expired { valid_until: Timestamp, now: Timestamp },
    #[error("it is of {found}, older than the one of {locked} that the lock was resolved against")]
    Older { found: Timestamp, locked: Timestamp },
    #[error("it is of suite `{found}`, expected `{expected}`")]
    Suite { expected: String, found: String },
}

impl ReleaseError {
    pub fn blame(&self) -> Blame {
        Blame::World
    }
}

impl Release {
    /// Reads an `InRelease`: verified, parsed, and still valid. `locked` is the date of the Release
    /// that was seen before.
    pub fn read(
        bytes: &[u8],
        keyring: &Keyring,
        suite: &str,
        now: Timestamp,
        locked: Option<Timestamp>,
    ) -> Result<Self, ReleaseError> {
        let release = Self::parse(&keyring.verify_inline(bytes, now.as_second())?)?;
        release.check(suite, now, locked)?;
        Ok(release)
    }

    /// Parses the text that was signed.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let stanza = Stanza::first(text).ok_or(ReleaseError::Field("Date"))?;
        let field = |name| stanza.find(name);
        let date = |name: &'static str, value: &str| {
            rfc2822::parse(&value.replace("UTC", "+0000"))
                .map(|zoned| zoned.timestamp())
                .map_err(|_| ReleaseError::Date { field: name, value: value.to_owned() })
        };
        let words = |name| {
            field(name)
                .unwrap_or_default()
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let yes = |name| field(name) == Some("yes");
        Ok(Release {
            origin: field("Origin").unwrap_or_default().to_owned(),
            label: field("Label").unwrap_or_default().to_owned(),
            version: field("Version").map(str::to_owned),
            suite: field("Suite").unwrap_or_default().to_owned(),
            codename: field("Codename").unwrap_or_default().to_owned(),
            date: date("Date", field("Date").ok_or(ReleaseError::Field("Date"))?)?,
            valid_until: field("Valid-Until")
                .map(|value| date("Valid-Until", value))
                .transpose()?,
            by_hash: yes("Acquire-By-Hash"),
            components: words("Components"),
            architectures: words("Architectures"),
            all_apart: words("Architectures").iter().any(|word| word == "all")
                && words("No-Support-for-Architecture-all").iter().all(|word| word != "Packages"),
            not_automatic: yes("NotAutomatic"),
            but_automatic_upgrades: yes("ButAutomaticUpgrades"),
            files: parse_files(text)?,
        })
    }

    /// Refuses a Release of another suite, one that is no longer valid, or one older than `locked`.
    pub fn check(
        &self,
        suite: &str,
        now: Timestamp,
        locked: Option<Timestamp>,
    ) -> Result<(), ReleaseError> {
        // the suite of a flat archive is a path, and no name that its Release could say
        if suite != self.suite && suite != self.codename && !suite.ends_with('/') {
            let found = format!("{} ({})", self.suite, self.codename);
            return Err(ReleaseError::Suite { expected: suite.to_owned(), found });
        }
        if let Some(valid_until) = self.valid_until.filter(|until| *until < now) {
            return Err(ReleaseError::Expired { valid_until, now });
        }
        match locked.filter(|locked| self.date < *locked) {
            Some(locked) => Err(ReleaseError::Older { found: self.date, locked }),
            None => Ok(()),
        }
    }

    /// The priority of the suite's packages (apt_preferences(5)).
    pub fn priority(&self) -> i32 {
        match (self.not_automatic, self.but_automatic_upgrades) {
            (true, true) => 100,
            (true, false) => 1,
            (false, _) => PRIORITY,
        }
    }

    /// The `Packages` that have all a component's packages for an architecture: its own, and that of
    /// `all` where the archive keeps one apart. Empty where the suite has neither.
    pub fn packages(&self, component: &str, arch: &str) -> Vec<PackagesFile<'_>> {
        let all = (self.all_apart && !component.is_empty()).then_some("all");
        let files = [Some(arch), all].into_iter().flatten();
        files.filter_map(|arch| self.find_packages(component, arch)).collect()
    }

    /// The smallest form of one `Packages`.
    pub fn find_packages(&self, component: &str, arch: &str) -> Option<PackagesFile<'_>> {
        // a flat archive (a suite that is a path) has one index beside its Release
        let stem = match component {
            "" => "Packages".to_owned(),
            _ => format!("{component}/binary-{arch}/Packages"),
        };
        let (path, (size, digest)) = [".xz", ".zst", ".gz", ""]
            .iter()
            .find_map(|ending| self.files.get_key_value(&format!("{stem}{ending}")))?;
        let plain = self.files.get(&stem).copied();
        Some(PackagesFile { path, size: *size, digest: *digest, plain })
    }
}

/// Where a `Packages` is and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PackagesFile<'a> {
    /// Below the suite's directory.
    pub path: &'a str,
    pub size: u64,
    pub digest: Digest,
    /// Size in bytes and digest of what it unpacks to, where Release says so.
    pub plain: Option<(u64, Digest)>,
}

impl PackagesFile<'_> {
    /// Where the same bytes are found by their digest (`Acquire-By-Hash`).
    pub fn by_hash(&self) -> String {
        let folder = self.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{folder}/by-hash/SHA256/{}", self.digest.hex())
    }
}

fn parse_files(text: &str) -> Result<BTreeMap<String, (u64, Digest)>, ReleaseError> {
    let mut lines = text.lines().skip_while(|line| !line.eq_ignore_ascii_case("sha256:"));
    lines.next().ok_or(ReleaseError::Field("SHA256"))?;
    let mut files = BTreeMap::new();
    for line in lines.take_while(|line| line.starts_with(' ')) {
        let mut words = line.split_whitespace();
        let (Some(hex), Some(size), Some(path)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        if let (Ok(digest), Ok(size)) = (Digest::parse_hex(hex), size.parse()) {
            files.insert(path.to_owned(), (size, digest));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        let hex = "0".repeat(64);
        let text = format!(
            "Suite: stable\nCodename: trixie\nDate: Sat, 21 Nov 2026 09:15:44 UTC\n\
             Valid-Until: Sat, 28 Nov 2026 09:15:44 UTC\nAcquire-By-Hash: yes\nComponents: main\nMD5Sum:\n x 1 a\n\
             SHA256:\n {hex} 100 main/binary-amd64/Packages\n {hex} 10 main/binary-amd64/Packages.xz\nNotAutomatic: yes\n"
        );
        Release::parse(&text).unwrap()
    }

    #[test]
    fn a_release_is_dated_and_lists_its_files() {
        let release = release();
        assert_eq!(release.date.to_string(), "2026-11-21T09:15:44Z");
        let [packages] = release.packages("main", "amd64")[..] else { panic!() };
        let known = (packages.path, packages.size, packages.plain.map(|(size, _)| size));
        assert_eq!(known, ("main/binary-amd64/Packages.xz", 10, Some(100)));
        let by_hash = format!("main/binary-amd64/by-hash/SHA256/{}", "0".repeat(64));
        assert_eq!(packages.by_hash(), by_hash);
        assert_eq!((release.priority(), release.packages("main", "s390x").len()), (1, 0));
        assert!(release.by_hash && release.not_automatic);
    }

    #[test]
    fn packages_of_all_lie_apart_where_the_release_says_so() {
        let with = |fields: &str| {
            let listed = ["all", "amd64"]
                .map(|arch| format!(" {} 1 main/binary-{arch}/Packages\n", "0".repeat(64)));
            let date = "Date: Sat, 21 Nov 2026 09:15:44 UTC";
            let text = format!("{date}\n{fields}\nSHA256:\n{}", listed.concat());
            Release::parse(&text).unwrap().packages("main", "amd64").len()
        };
        assert_eq!(with("Architectures: all amd64"), 2);
        // as the archive of security updates does, whose mirrors do not keep it up to date
        assert_eq!(with("Architectures: amd64"), 1);
        let nowhere = "Architectures: all amd64\nNo-Support-for-Architecture-all: Packages";
        assert_eq!(with(nowhere), 1);
    }

    #[test]
    fn expired_older_and_strange_releases_are_refused() {
        let time = |text: &str| text.parse::<Timestamp>().unwrap();
        let now = time("2026-11-23T00:00:00Z");
        release().check("trixie", now, None).unwrap();
        release().check("stable", now, Some(time("2026-11-21T09:15:44Z"))).unwrap();
        let refused =
            |suite, now, locked| release().check(suite, now, locked).unwrap_err().to_string();
        insta::assert_snapshot!(refused("trixie", time("2026-12-01T00:00:00Z"), None), @"it was valid until 2026-11-28T09:15:44Z and it is 2026-12-01T00:00:00Z");
        insta::assert_snapshot!(refused("trixie", now, Some(now)), @"it is of 2026-11-21T09:15:44Z, older than the one of 2026-11-23T00:00:00Z that the lock was resolved against");
        insta::assert_snapshot!(refused("sid", now, None), @"it is of suite `stable (trixie)`, expected `sid`");
    }
}
