//! Where public archives are when nothing else is said. The only file that names a host.

/// Debian's archive, as images' apt sources name it.
pub const DEBIAN: &str = "http://deb.debian.org/debian";

/// Debian's security archive, likewise.
pub const DEBIAN_SECURITY: &str = "http://deb.debian.org/debian-security";

/// The archive that a suite of Debian's belongs to, by the name that locks use.
pub fn debian_archive(suite: &str) -> &'static str {
    if suite.ends_with("-security") { "debian-security" } else { "debian" }
}

/// The public address of an archive of Debian's.
pub fn debian_url(archive: &str) -> Option<&'static str> {
    match archive {
        "debian" => Some(DEBIAN),
        "debian-security" => Some(DEBIAN_SECURITY),
        _ => None,
    }
}
