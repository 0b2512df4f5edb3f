//! Where an instance may connect to.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::decl::Egress;

/// Ports that wait for connections where anything is allowed; all others are reached through the
/// proxy. Port 25 is left out on purpose.
const USUAL: &[u16] = &[
    22, 43, 80, 110, 143, 443, 465, 587, 853, 873, 993, 995, 1433, 1521, 1883, 2222, 3000, 3306,
    4443, 5000, 5432, 5671, 5672, 6379, 6443, 8000, 8008, 8080, 8081, 8443, 8883, 8888, 9000, 9090,
    9092, 9200, 9418, 11371, 11434, 27017,
];

/// A host with a port, as in `egress`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Host {
    Name(String),
    /// Any name below this one.
    Below(String),
    Address(IpAddr),
}

/// All that an instance may reach.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    any: bool,
    wishes: Vec<Wish>,
    /// Those that may be anywhere but on the link.
    private: Vec<Wish>,
}

/// What a policy says of a host and a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Undeclared,
    /// At public addresses.
    Public,
    /// At this machine's and its networks', too.
    Private,
}

impl FromStr for Wish {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port = port.parse().ok().filter(|port| *port > 0).ok_or(())?;
        let (below, name) = match host.strip_prefix("*.") {
            Some(name) => (true, name),
            None => (false, host),
        };
        if !is_name(name) {
            return Err(());
        }
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let host = match (below, name.parse()) {
            (true, _) => Host::Below(name),
            (false, Ok(address)) => Host::Address(address),
            (false, Err(_)) => Host::Name(name),
        };
        Ok(Wish { host, port })
    }
}

impl fmt::Display for Wish {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Name(name) => write!(f, "{name}:{}", self.port),
            Host::Below(name) => write!(f, "*.{name}:{}", self.port),
            Host::Address(address) => write!(f, "{address}:{}", self.port),
        }
    }
}

/// Whether it could be looked up.
pub(super) fn is_name(text: &str) -> bool {
    let word = |c: u8| c.is_ascii_alphanumeric() || b"-_".contains(&c);
    let text = text.strip_suffix('.').unwrap_or(text);
    text.len() <= 253
        && text.split('.').all(|label| (1..64).contains(&label.len()) && label.bytes().all(word))
}

impl Policy {
    /// `None` where there is no way out. What is declared was checked when it was read.
    pub fn new(egress: &Egress, private: &[Wish]) -> Option<Self> {
        let (any, hosts) = match egress {
            Egress::None => return None,
            Egress::Hosts(hosts) => (false, hosts.as_slice()),
            Egress::Any => (true, [].as_slice()),
        };
        let wishes = hosts.iter().filter_map(|host| host.parse().ok());
        Some(Policy { any, wishes: wishes.collect(), private: private.to_vec() })
    }

    /// Whether names are allowed that nobody has written down.
    pub fn is_open(&self) -> bool {
        self.any || self.wishes.iter().any(|wish| matches!(wish.host, Host::Below(_)))
    }

    /// Where connections are waited for.
    pub fn ports(&self) -> BTreeSet<u16> {
        let usual = if self.any { USUAL } else { &[] };
        let declared = self.wishes.iter().chain(&self.private).map(|wish| wish.port);
        declared.chain(usual.iter().copied()).chain([super::PROXY_PORT]).collect()
    }

    /// Whether it allows what a wish stands for.
    pub fn covers(&self, wish: &Wish) -> bool {
        self.any || self.wishes.iter().any(|known| known.port == wish.port && known.includes(wish))
    }

    /// Whether a name is to be known at all, and whether it was written down.
    pub(super) fn knows(&self, name: &str) -> Knowledge {
        let matching = |wish: &&Wish| wish.host.is(name);
        match self.wishes.iter().chain(&self.private).find(matching) {
            Some(Wish { host: Host::Below(_), .. }) => Knowledge::Allowed,
            Some(_) => Knowledge::Written,
            // what has no dot is looked up among this machine's own
            None if self.any && name.contains('.') => Knowledge::Allowed,
            None => Knowledge::No,
        }
    }

    pub(super) fn judge(&self, host: &str, port: u16) -> Verdict {
        let in_list =
            |list: &[Wish]| list.iter().any(|wish| wish.port == port && wish.host.is(host));
        if in_list(&self.private) {
            return Verdict::Private;
        }
        let open = self.any && (host.contains('.') || host.contains(':'));
        if open || in_list(&self.wishes) { Verdict::Public } else { Verdict::Undeclared }
    }
}

/// What a policy knows of a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knowledge {
    No,
    /// It is there if it is found.
    Allowed,
    /// It is there.
    Written,
}

impl Host {
    /// Names are in small letters, without a dot at their end.
    fn is(&self, host: &str) -> bool {
        match self {
            Host::Name(name) => name == host,
            Host::Below(name) => {
                host.strip_suffix(name.as_str())
                    .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
                    && host.parse::<IpAddr>().is_err()
            }
            Host::Address(address) => host.parse() == Ok(*address),
        }
    }
}

impl Wish {
    fn includes(&self, other: &Wish) -> bool {
        match &other.host {
            Host::Name(name) => self.host.is(name),
            Host::Address(address) => self.host == Host::Address(*address),
            Host::Below(name) => match &self.host {
                Host::Below(own) => own == name || self.host.is(name),
                _ => false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(hosts: &[&str], private: &[&str]) -> Policy {
        let hosts = hosts.iter().map(|host| host.to_string()).collect();
        let private: Vec<Wish> = private.iter().map(|wish| wish.parse().unwrap()).collect();
        Policy::new(&Egress::Hosts(hosts), &private).unwrap()
    }

    #[test]
    fn a_star_stands_for_names_below_and_not_for_the_name() {
        let policy = policy(&["*.example.org:443", "one.test:80", "192.0.2.7:443"], &[]);
        for host in ["a.example.org", "a.b.example.org"] {
            assert_eq!(policy.judge(host, 443), Verdict::Public, "{host}");
        }
        for host in ["example.org", "badexample.org", ".example.org", "example.org.evil.test"] {
            assert_eq!(policy.judge(host, 443), Verdict::Undeclared, "{host}");
        }
        assert_eq!(policy.judge("a.example.org", 80), Verdict::Undeclared);
        assert_eq!(policy.judge("192.0.2.7", 443), Verdict::Public);
        assert_eq!(policy.judge("192.0.2.8", 443), Verdict::Undeclared);
        assert_eq!(policy.knows("one.test"), Knowledge::Written);
        assert_eq!(policy.knows("x.example.org"), Knowledge::Allowed);
        assert_eq!(policy.knows("example.org"), Knowledge::No);
        assert_eq!(policy.ports().into_iter().collect::<Vec<_>>(), [80, 443, 3128]);
    }

    #[test]
    fn anything_is_any_name_with_a_dot() {
        let policy = Policy::new(&Egress::Any, &[]).unwrap();
        assert_eq!(policy.judge("example.org", 4711), Verdict::Public);
        assert_eq!(policy.judge("intranet", 80), Verdict::Undeclared);
        assert_eq!(policy.knows("intranet"), Knowledge::No);
        assert!(!policy.ports().contains(&25));
        assert_eq!(Policy::new(&Egress::None, &[]), None);
    }

    #[test]
    fn what_may_be_private_is_declared_first() {
        let policy = policy(&["*.example.org:443"], &["in.example.org:443"]);
        assert_eq!(policy.judge("in.example.org", 443), Verdict::Private);
        assert_eq!(policy.judge("out.example.org", 443), Verdict::Public);
        for (wish, covered) in [
            ("x.example.org:443", true),
            ("*.example.org:443", true),
            ("*.deep.example.org:443", true),
            ("x.example.org:80", false),
            ("*.org:443", false),
            ("127.0.0.1:443", false),
        ] {
            assert_eq!(policy.covers(&wish.parse().unwrap()), covered, "{wish}");
        }
        for wrong in ["", "host", "host:0", "a b:1", "*.:1", "a..b:1", ":443"] {
            assert!(wrong.parse::<Wish>().is_err(), "{wrong}");
        }
    }
}
