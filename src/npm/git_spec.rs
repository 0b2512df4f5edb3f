//! Packages that come from git: where a lock says that a repository is, and at which commit.
//!
//! For hosts that npm knows by name, one repository has several addresses, and locks have whichever npm
//! preferred when they were made. The public one is asked first and the one for those with a key
//! second, as npm does it.

use std::fmt;
use std::str::FromStr;

use url::Url;

use crate::decl::{GitUrl, Reach, redact};
use crate::git::ObjectId;

/// Hosts that npm knows by a short name.
const HOSTS: [(&str, &str); 5] = [
    ("bitbucket", "bitbucket.org"),
    ("gist", "gist.github.com"),
    ("github", "github.com"),
    ("gitlab", "gitlab.com"),
    ("sourcehut", "git.sr.ht"),
];

/// A repository and a commit of it; shown as locks of npm's have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitSpec {
    url: GitUrl,
    pub commit: ObjectId,
    /// The host and the path there, of a host that is known by name.
    hosted: Option<(&'static str, String)>,
}

impl GitSpec {
    /// Addresses that the repository may be reached by, in the order in which they are tried.
    pub fn urls(&self) -> Vec<GitUrl> {
        let ssh = self.hosted.as_ref().map(|(host, path)| format!("ssh://git@{host}/{path}.git"));
        let ssh = ssh.and_then(|text| text.parse().ok());
        [self.url.clone()].into_iter().chain(ssh).collect()
    }

    /// The first of them.
    pub fn url(&self) -> &GitUrl {
        &self.url
    }

    /// Whether npm would take submodules along: it does, but for hosts that pack a commit themselves.
    pub fn takes_submodules(&self) -> bool {
        self.hosted.is_none()
    }
}

impl FromStr for GitSpec {
    type Err = String;

    /// Parses what `resolved` of a lock has, with a commit behind `#`.
    fn from_str(text: &str) -> Result<Self, String> {
        let (address, commit) = text.split_once('#').unwrap_or((text, ""));
        let commit =
            commit.parse().map_err(|_| "is not at a commit of 40 hex digits".to_owned())?;
        let hosted = find_hosted(address);
        let address = match &hosted {
            Some((host, path)) => format!("https://{host}/{path}.git"),
            None => plain(address),
        };
        if has_credential(text.split('#').next().unwrap_or_default()) {
            let reason = "has a credential in its address: no lock may hold one";
            return Err(reason.to_owned());
        }
        let url: GitUrl = address.parse()?;
        match url.reach() {
            Reach::Other => Err("is reached by no protocol that is known here".to_owned()),
            Reach::Local if url.is_path() => Err("is no address".to_owned()),
            _ => Ok(GitSpec { url, commit, hosted }),
        }
    }
}

impl fmt::Display for GitSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // no credential is in it
        let url = self.url.secret();
        let scheme = if url.contains("://") { "git+" } else { "git+ssh://" };
        write!(f, "{scheme}{url}#{}", self.commit)
    }
}

/// `OWNER/NAME` at a host that is known, whatever form an address has.
fn find_hosted(address: &str) -> Option<(&'static str, String)> {
    let short = HOSTS.iter().find_map(|(short, host)| {
        Some((*host, address.strip_prefix(short)?.strip_prefix(':')?.to_owned()))
    });
    let (host, path) = short.or_else(|| {
        let (_, rest) = address.split_once("://")?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        // `git@host:owner/name`
        let (host, path) = match host.split_once(':') {
            Some((_, port)) if port.bytes().all(|c| c.is_ascii_digit()) => return None,
            Some((host, owner)) if !path.is_empty() => (host, format!("{owner}/{path}")),
            Some((host, owner)) => (host, owner.to_owned()),
            None => (host, path.to_owned()),
        };
        let known = HOSTS.iter().find(|(_, known)| known.eq_ignore_ascii_case(host));
        known.map(|(_, host)| (*host, path))
    })?;
    let path = path.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    let odd = |c: char| c.is_whitespace() || matches!(c, '?' | '\\');
    (!path.is_empty() && !path.contains(odd)).then(|| (host, path.to_owned()))
}

/// An address as git takes it.
fn plain(address: &str) -> String {
    let address = address.strip_prefix("git+").unwrap_or(address);
    let Some(rest) = address.strip_prefix("ssh://") else { return address.to_owned() };
    let authority = rest.split('/').next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    // a colon that no port follows is the one of `git@host:path`
    match host.split_once(':') {
        Some((_, port)) if !port.starts_with(|c: char| c.is_ascii_digit()) => rest.to_owned(),
        _ => address.to_owned(),
    }
}

/// Whether an address has what is nobody else's business.
fn has_credential(address: &str) -> bool {
    let address = address.strip_prefix("git+").unwrap_or(address);
    let Some((scheme, rest)) = address.split_once("://") else { return false };
    let authority = rest.split('/').next().unwrap_or_default();
    let user = authority.rsplit_once('@').map(|(user, _)| user).unwrap_or_default();
    let may_have_user = scheme == "ssh" && !user.contains(':');
    // a password may have a slash that nobody escaped
    let odd = Url::parse(address).is_ok_and(|url| url.password().is_some());
    odd || !user.is_empty() && !may_have_user || address.contains('?')
}

/// An address that is none, without what nobody may see.
pub(super) fn shown(address: &str) -> String {
    redact(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn read(address: &str) -> Result<GitSpec, String> {
        format!("{address}#{COMMIT}").parse()
    }

    #[test]
    fn hosts_that_are_known_have_two_addresses() {
        for address in [
            "git+ssh://git@github.com/o/r.git",
            "git+https://github.com/o/r.git",
            "git://github.com/o/r",
            "git+ssh://git@github.com:o/r.git",
            "github:o/r",
        ] {
            let spec = read(address).unwrap();
            let urls: Vec<String> = spec.urls().iter().map(|url| url.secret().to_owned()).collect();
            assert_eq!(urls, ["https://github.com/o/r.git", "ssh://git@github.com/o/r.git"]);
            assert_eq!(spec.to_string(), format!("git+https://github.com/o/r.git#{COMMIT}"));
            assert_eq!(spec.to_string().parse::<GitSpec>().unwrap(), spec);
            assert!(!spec.takes_submodules());
        }
    }

    #[test]
    fn other_repositories_have_the_address_that_the_lock_has() {
        for (address, url) in [
            ("git+ssh://git@h.example.org/o/r.git", "ssh://git@h.example.org/o/r.git"),
            ("git+ssh://git@h.example.org:22/o/r", "ssh://git@h.example.org:22/o/r"),
            ("git+ssh://git@h.example.org:o/r.git", "git@h.example.org:o/r.git"),
            ("git+https://h.example.org/o/r", "https://h.example.org/o/r"),
            ("git://h.example.org/r", "git://h.example.org/r"),
            ("git+file:///srv/r", "file:///srv/r"),
        ] {
            let spec = read(address).unwrap();
            assert_eq!(spec.url().secret(), url);
            assert_eq!(spec.to_string().parse::<GitSpec>().unwrap(), spec);
            assert!(spec.takes_submodules());
        }
    }

    #[test]
    fn what_is_no_commit_and_what_holds_a_secret_is_refused() {
        assert!("git+https://h/o/r".parse::<GitSpec>().unwrap_err().contains("40 hex digits"));
        assert!("git+https://h/o/r#main".parse::<GitSpec>().is_err());
        for address in [
            "git+https://u:p@h/r",
            "git+https://token@github.com/o/r",
            "git+ssh://u:p@h/r",
            "git+https://h/r?t=x",
        ] {
            assert!(read(address).unwrap_err().contains("credential"), "{address}");
        }
        for address in ["git+ext::sh -c x", "git+foo://h/r", "../x", "git+ssh://-oX/r"] {
            assert!(read(address).is_err(), "{address}");
        }
    }
}
