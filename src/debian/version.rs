//! Debian's version numbers (Debian Policy 5.6.12).

use std::cmp::Ordering;
use std::fmt;

/// A version, compared as dpkg compares.
#[derive(Clone, Copy, Debug)]
pub struct Version<'a> {
    epoch: u64,
    upstream: &'a str,
    revision: &'a str,
}

impl<'a> Version<'a> {
    /// Never fails: indexes hold what the archive accepted, and dpkg compares whatever it is given.
    pub fn new(text: &'a str) -> Self {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => match epoch.parse() {
                Ok(epoch) => (epoch, rest),
                Err(_) => (0, text),
            },
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        Version { epoch, upstream, revision }
    }
}

impl Ord for Version<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.epoch
            .cmp(&other.epoch)
            .then_with(|| compare_part(self.upstream, other.upstream))
            .then_with(|| compare_part(self.revision, other.revision))
    }
}

impl PartialOrd for Version<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Version<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Version<'_> {}

/// `~` sorts before everything, even the end; letters before all other characters.
fn weight(c: Option<u8>) -> i32 {
    match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(c),
        Some(c) => i32::from(c) + 256,
    }
}

fn compare_part(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let word = |c: Option<&u8>| c.is_some_and(|c| !c.is_ascii_digit());
        while word(a.first()) || word(b.first()) {
            let order = weight(a.first().copied()).cmp(&weight(b.first().copied()));
            if order.is_ne() {
                return order;
            }
            (a, b) = (a.get(1..).unwrap_or_default(), b.get(1..).unwrap_or_default());
        }
        let (one, rest_a) = take_number(a);
        let (two, rest_b) = take_number(b);
        let order = one.len().cmp(&two.len()).then_with(|| one.cmp(two));
        if order.is_ne() {
            return order;
        }
        (a, b) = (rest_a, rest_b);
    }
    Ordering::Equal
}

/// The digits at the beginning without leading zeros, and what follows.
fn take_number(text: &[u8]) -> (&[u8], &[u8]) {
    let end = text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    let start = number.iter().position(|c| *c != b'0').unwrap_or(number.len());
    (&number[start..], rest)
}

/// How a version must relate to another (Debian Policy 7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Relation {
    Earlier,
    EarlierEqual,
    Equal,
    LaterEqual,
    Later,
}

impl Relation {
    /// `<` and `>` are the obsolete spellings of `<=` and `>=`.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "<<" => Relation::Earlier,
            "<=" | "<" => Relation::EarlierEqual,
            "=" => Relation::Equal,
            ">=" | ">" => Relation::LaterEqual,
            ">>" => Relation::Later,
            _ => return None,
        })
    }

    /// Whether `found` relates to `wanted` like this.
    pub fn holds(self, found: &str, wanted: &str) -> bool {
        let order = Version::new(found).cmp(&Version::new(wanted));
        match self {
            Relation::Earlier => order.is_lt(),
            Relation::EarlierEqual => order.is_le(),
            Relation::Equal => order.is_eq(),
            Relation::LaterEqual => order.is_ge(),
            Relation::Later => order.is_gt(),
        }
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Relation::Earlier => "<<",
            Relation::EarlierEqual => "<=",
            Relation::Equal => "=",
            Relation::LaterEqual => ">=",
            Relation::Later => ">>",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_the_policy_orders_them() {
        let sorted = [
            "~~",
            "~~a",
            "~",
            "",
            "1~rc1",
            "1",
            "1+b1",
            "1.0-1",
            "1.0-1+deb13u1",
            "1.0-10",
            "1.2",
            "1.10",
            "a",
            "1:0",
        ];
        for pair in sorted.windows(2) {
            assert!(Version::new(pair[0]) < Version::new(pair[1]), "{} < {}", pair[0], pair[1]);
        }
    }

    #[test]
    fn equal_is_not_identical() {
        assert_eq!(Version::new("0:1.0-0"), Version::new("1.0"));
        assert_eq!(Version::new("1.02"), Version::new("1.2"));
        assert!(Relation::LaterEqual.holds("2.41-12", "2.38"));
        assert!(!Relation::Earlier.holds("1", "1"));
    }
}
