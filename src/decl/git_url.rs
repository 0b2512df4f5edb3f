//! Addresses of git repositories: whatever git takes, but for what would run a program. They are
//! shown without their credentials.

use std::fmt;
use std::str::FromStr;

/// `https://…`, `ssh://…`, `git://…`, `file://…`, `user@host:path`, or a local path.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct GitUrl(String);

/// How a repository is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Over a channel that shows who answers: https, ssh.
    Secured,
    /// http, git.
    Plain,
    /// A directory of this machine.
    Local,
    /// A remote helper's, which the machine's git must know.
    Other,
}

impl GitUrl {
    /// With its credentials, for git alone.
    pub fn secret(&self) -> &str {
        &self.0
    }

    pub fn reach(&self) -> Reach {
        match self.0.split_once("://") {
            Some((scheme, _)) => match scheme.to_ascii_lowercase().as_str() {
                "https" | "ssh" | "git+ssh" | "ssh+git" => Reach::Secured,
                "http" | "git" => Reach::Plain,
                "file" => Reach::Local,
                _ => Reach::Other,
            },
            None if self.is_scp() => Reach::Secured,
            None => Reach::Local,
        }
    }

    /// A path of this machine, not an address.
    pub fn is_path(&self) -> bool {
        !self.0.contains("://") && !self.is_scp()
    }

    /// `host:path`: a colon before the first slash (git-clone(1), git urls).
    fn is_scp(&self) -> bool {
        let head = self.0.split('/').next().unwrap_or_default();
        !self.0.contains("://") && head.contains(':')
    }

    /// The last part of its path, without `.git`: what people call the repository.
    pub fn name(&self) -> &str {
        let path = self.0.split(['?', '#']).next().unwrap_or_default();
        let path = path.trim_end_matches('/');
        let path = path.strip_suffix("/.git").unwrap_or(path);
        let last = path.rsplit(['/', ':']).next().unwrap_or_default();
        let last = last.strip_suffix(".git").unwrap_or(last);
        let last = last.rsplit('@').next().unwrap_or_default();
        if last.is_empty() { "repository" } else { last }
    }

    /// What a submodule means by `text`: a path that begins with `./` or `../` is relative to this
    /// repository's own address (git-submodule(1)).
    pub fn resolve(&self, text: &str) -> Result<GitUrl, String> {
        if !text.starts_with("./") && !text.starts_with("../") {
            return text.parse();
        }
        let mut base = self.0.trim_end_matches('/').to_owned();
        let mut rest = text;
        loop {
            if let Some(next) = rest.strip_prefix("./") {
                rest = next;
            } else if let Some(next) = rest.strip_prefix("../") {
                rest = next;
                let floor = base.find("://").map_or(0, |at| at + 3);
                let cut = base[floor..].rfind(['/', ':']).map(|at| at + floor);
                let cut = cut.ok_or_else(|| format!("`{text}` leads above its repository"))?;
                let colon = base[cut..].starts_with(':') && !base.contains("://");
                base.truncate(if colon { cut + 1 } else { cut });
            } else {
                break;
            }
        }
        let mark = if base.ends_with(':') { "" } else { "/" };
        format!("{base}{mark}{rest}").parse()
    }
}

impl FromStr for GitUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let shown = redact(text);
        if text.is_empty() || text.contains(|c: char| c.is_control()) {
            return Err(format!("`{shown}` is no address of a git repository"));
        }
        if text.starts_with('-') {
            return Err(format!("`{shown}` begins with `-`, as no address does"));
        }
        let helper = text.split_once("::").filter(|(name, _)| !name.contains(['/', '@', '[', ':']));
        if let Some((name, _)) = helper {
            return Err(format!("`{shown}` would run the program `git-remote-{name}`"));
        }
        // ssh would take it for an option
        let host = text.split_once("://").map_or(text, |(_, rest)| rest);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        if host.starts_with('-') {
            return Err(format!("`{shown}` has a host that begins with `-`"));
        }
        Ok(GitUrl(text.to_owned()))
    }
}

impl fmt::Display for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redact(&self.0))
    }
}

impl fmt::Debug for GitUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl serde::Serialize for GitUrl {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text in which no address has a user, a password or a query, where tokens live.
pub fn redact(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (head, tail) = rest.split_at(at + 3);
        shown.push_str(head);
        let ends = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | '<' | '>');
        let end = tail.find(ends).unwrap_or(tail.len());
        let address = &tail[..end];
        let path = address.find('/').unwrap_or(address.len());
        // a password may have a slash that nobody escaped
        let user = address[..path].rfind('@').or_else(|| {
            let at = address.rfind('@')?;
            address[..at].find(':').filter(|colon| *colon < path).map(|_| at)
        });
        let address = user.map_or(address, |at| &address[at + 1..]);
        shown.push_str(address.split('?').next().unwrap_or_default());
        rest = &tail[end..];
    }
    shown.push_str(rest);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> GitUrl {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_shown_without_credentials() {
        let shown = |text: &str| url(text).to_string();
        assert_eq!(shown("https://u:p@h.example.org/a.git?t=x"), "https://h.example.org/a.git");
        assert_eq!(shown("ssh://git@h.example.org:22/a"), "ssh://h.example.org:22/a");
        assert_eq!(shown("git@h.example.org:a/b.git"), "git@h.example.org:a/b.git");
        assert_eq!(shown("https://h.example.org/a@b/c"), "https://h.example.org/a@b/c");
        let said = "fatal: unable to access 'https://u:s/x@h.example.org/a/': no";
        assert_eq!(redact(said), "fatal: unable to access 'https://h.example.org/a/': no");
    }

    #[test]
    fn what_would_run_a_program_is_no_address() {
        for bad in ["ext::sh -c x", "-u./x", "ssh://-oProxyCommand=x/y", "fd::3", "", "a\nb"] {
            assert!(bad.parse::<GitUrl>().is_err(), "{bad}");
        }
        assert!("ssh://[::1]/a".parse::<GitUrl>().is_ok());
    }

    #[test]
    fn relative_addresses_are_below_or_beside_their_repository() {
        let resolved = |base: &str, text| url(base).resolve(text).unwrap().secret().to_owned();
        let base = "https://h.example.org/a/b.git";
        assert_eq!(resolved(base, "../c.git"), "https://h.example.org/a/c.git");
        assert_eq!(resolved(base, "./c"), "https://h.example.org/a/b.git/c");
        assert_eq!(resolved("git@h:a/b", "../c"), "git@h:a/c");
        assert_eq!(resolved("git@h:b", "../c"), "git@h:c");
        assert_eq!(resolved("/srv/b/", "../c"), "/srv/c");
        assert_eq!(resolved(base, "ssh://h/x"), "ssh://h/x");
        assert!(url("https://h").resolve("../../c").is_err());
    }

    #[test]
    fn repositories_are_called_by_the_last_part() {
        let names =
            ["https://h/a/b.git/", "git@h:b.git", "/srv/b/.git", "b", "https://u:p@h/b?t=1"];
        assert_eq!(names.map(|text| url(text).name().to_owned()), ["b"; 5]);
    }
}
