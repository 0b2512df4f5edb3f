//! Where public archives are when nothing else is said. The only file that names their hosts: locks
//! name archives, and mirrors, settings and declarations may put each of them elsewhere.

/// Debian's archive, as images' apt sources name it. What it serves is signed, so plain http does.
pub const DEBIAN: &str = "http://deb.debian.org/debian";

/// Debian's security archive, likewise.
pub const DEBIAN_SECURITY: &str = "http://deb.debian.org/debian-security";

/// What Debian's archive had, on a day on which it had the packages that this program itself needs.
pub const DEBIAN_THEN: &str = "https://snapshot.debian.org/archive/debian/20261125T000000Z";

/// The registry of npm's packages.
pub const NPM: &str = "https://registry.npmjs.org/";

/// The index of Python packages.
pub const PYPI: &str = "https://pypi.org/simple/";

/// Where files of the Python index are: a path of a pin, below this.
pub const PYPI_FILES: &str = "https://files.pythonhosted.org/";

/// The registry that Docker's short names mean.
pub const DOCKER: &str = "https://registry-1.docker.io/";

/// What people call it in references.
pub const DOCKER_NAMES: [&str; 2] = ["docker.io", "index.docker.io"];

/// What Docker's configuration calls it.
pub const DOCKER_LOGIN: &str = "https://index.docker.io/v1/";

/// The archive that a suite of Debian's belongs to, by the name that locks use. Suites were
/// `buster/updates` before they were `bullseye-security`.
pub fn debian_archive(suite: &str) -> &'static str {
    let security = suite.ends_with("-security") || suite.ends_with("/updates");
    if security { "debian-security" } else { "debian" }
}

/// The public address of an archive of Debian's.
pub fn debian_url(archive: &str) -> Option<&'static str> {
    match archive {
        "debian" => Some(DEBIAN),
        "debian-security" => Some(DEBIAN_SECURITY),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn security_suites_live_in_an_archive_of_their_own() {
        for (suite, archive) in [
            ("trixie", "debian"),
            ("trixie-updates", "debian"),
            ("trixie-security", "debian-security"),
            ("buster/updates", "debian-security"),
        ] {
            assert_eq!(debian_archive(suite), archive);
            assert!(debian_url(archive).is_some());
        }
    }
}
