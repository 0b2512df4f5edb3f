//! Versions as far as markers and `requires-python` compare them (PEP 440): releases, stages before
//! and after them, and specifiers over them.

use std::cmp::Ordering;
use std::str::FromStr;

/// A version; ordered as PEP 440 orders them. Local parts (`+cu121`) order behind the version alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    epoch: u64,
    /// Without zeros at the end.
    release: Vec<u64>,
    /// Development releases come before alphas, finals behind candidates.
    stage: (i8, u64),
    post: Option<u64>,
    /// `None` behind every `dev`.
    dev: Option<u64>,
    local: Vec<(u64, Box<str>)>,
}

/// A text that is no version.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a version")]
pub struct VersionError(pub String);

const ALPHA: i8 = 1;
const BETA: i8 = 2;
const CANDIDATE: i8 = 3;
const FINAL: i8 = 4;

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        parse(&text.trim().to_ascii_lowercase()).ok_or_else(|| VersionError(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<Version> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let (public, local) = text.split_once('+').map_or((text, ""), |(text, local)| (text, local));
    let (epoch, rest) = match public.split_once('!') {
        Some((epoch, rest)) => (epoch.parse().ok()?, rest),
        None => (0, public),
    };
    let mut cursor = Cursor(rest);
    let mut release = vec![cursor.number()?];
    while cursor
        .0
        .strip_prefix('.')
        .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    {
        cursor.0 = &cursor.0[1..];
        release.push(cursor.number()?);
    }
    let mut version =
        Version { epoch, release, stage: (FINAL, 0), post: None, dev: None, local: Vec::new() };
    while !cursor.0.is_empty() {
        cursor.read_suffix(&mut version)?;
    }
    while version.release.len() > 1 && version.release.last() == Some(&0) {
        version.release.pop();
    }
    version.local = local
        .split(['.', '-', '_'])
        .filter(|part| !part.is_empty())
        .map(|part| match part.parse() {
            Ok(number) => (number, Box::default()),
            Err(_) => (0, part.into()),
        })
        .collect();
    Some(version)
}

struct Cursor<'a>(&'a str);

impl Cursor<'_> {
    fn number(&mut self) -> Option<u64> {
        let digits = self.0.bytes().take_while(u8::is_ascii_digit).count();
        let number = self.0[..digits].parse().ok()?;
        self.0 = &self.0[digits..];
        Some(number)
    }

    fn read_suffix(&mut self, version: &mut Version) -> Option<()> {
        const WORDS: &[(&str, i8)] = &[
            ("alpha", ALPHA),
            ("beta", BETA),
            ("preview", CANDIDATE),
            ("pre", CANDIDATE),
            ("rc", CANDIDATE),
            ("post", 10),
            ("rev", 10),
            ("dev", 11),
            ("a", ALPHA),
            ("b", BETA),
            ("c", CANDIDATE),
            ("r", 10),
        ];
        let dash = self.0.starts_with('-');
        self.0 = self.0.trim_start_matches(['.', '-', '_']);
        let Some((word, kind)) = WORDS.iter().find(|(word, _)| self.0.starts_with(word)) else {
            // `1.0-1` is an old way to write a post release
            version.post = Some(self.number().filter(|_| dash)?);
            return Some(());
        };
        self.0 = self.0[word.len()..].trim_start_matches(['.', '-', '_']);
        let number = self.number().unwrap_or(0);
        match kind {
            10 => version.post = Some(number),
            11 => version.dev = Some(number),
            stage => version.stage = (*stage, number),
        }
        Some(())
    }
}

impl Version {
    /// What is compared, least significant last.
    fn rank(&self) -> impl Ord + '_ {
        let bare_dev = self.stage.0 == FINAL && self.post.is_none() && self.dev.is_some();
        let stage = if bare_dev { (0, 0) } else { self.stage };
        (self.epoch, &self.release, stage, self.post, self.dev.unwrap_or(u64::MAX), &self.local)
    }

    fn starts_with(&self, release: &[u64]) -> bool {
        let own = self.release.iter().copied().chain(std::iter::repeat(0));
        own.zip(release).all(|(own, other)| own == *other)
    }

    /// Whether it meets all of a specifier's clauses (`>=3.10,!=3.12.1`); `None` where the text is no
    /// specifier.
    pub fn meets(&self, specifier: &str) -> Option<bool> {
        let clauses = specifier.split(',').map(str::trim).filter(|clause| !clause.is_empty());
        let mut all = true;
        for clause in clauses {
            let operator = clause.bytes().take_while(|c| b"<>=!~".contains(c)).count();
            all &= self.meets_one(&clause[..operator], clause[operator..].trim())?;
        }
        Some(all)
    }

    /// Whether `self OPERATOR text` holds.
    pub(super) fn meets_one(&self, operator: &str, text: &str) -> Option<bool> {
        if operator == "===" {
            return Some(text.parse().is_ok_and(|other: Version| *self == other));
        }
        if let Some(prefix) = text.strip_suffix(".*") {
            let release: Option<Vec<u64>> =
                prefix.split('.').map(|part| part.parse().ok()).collect();
            let starts = self.starts_with(&release?);
            return match operator {
                "==" => Some(starts),
                "!=" => Some(!starts),
                _ => None,
            };
        }
        let other: Version = text.parse().ok()?;
        Some(match operator {
            "==" => *self == other,
            "!=" => *self != other,
            "<=" => *self <= other,
            ">=" => *self >= other,
            // of a version, its own candidates and post releases are neither before nor behind it
            "<" => *self < other && !(self.stage.0 != FINAL && self.release == other.release),
            ">" => *self > other && !(self.post.is_some() && self.release == other.release),
            "~=" => {
                let parts: Vec<u64> = text.split('.').map_while(|part| part.parse().ok()).collect();
                let prefix = parts.len().checked_sub(1).filter(|count| *count > 0)?;
                *self >= other && self.starts_with(&parts[..prefix])
            }
            _ => return None,
        })
    }
}

impl PartialOrd for Version {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Version {
    fn cmp(&self, other: &Self) -> Ordering {
        self.rank().cmp(&other.rank())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_releases_come() {
        let order = [
            "1.0.dev1",
            "1.0a1.dev1",
            "1.0a1",
            "1.0b2",
            "1.0rc1",
            "1",
            "1.0+local",
            "1.0.post1",
            "1.0.1",
            "1.10",
            "2026.1",
            "1!0.1",
        ];
        let versions: Vec<Version> = order.iter().map(|text| text.parse().unwrap()).collect();
        assert!(versions.is_sorted_by(|a, b| a < b), "{versions:?}");
        assert_eq!("V1.0-alpha.1".parse::<Version>(), "1a1".parse());
        assert_eq!("1.0-2".parse::<Version>(), "1.post2".parse());
        for bad in ["", "x", "1..0", "1.0x", "1.0-"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }

    #[test]
    fn specifiers_mean_all_of_their_clauses() {
        let version: Version = "3.13.5".parse().unwrap();
        for yes in [">=3.9", ">=3.10,<4", "==3.13.*", "~=3.10", "~=3.13.2", "!=3.12.*", ">3.13", ""]
        {
            assert_eq!(version.meets(yes), Some(true), "{yes}");
        }
        for no in ["<3.13", ">=3.14", "==3.1.*", "~=3.12.1", "==3.13"] {
            assert_eq!(version.meets(no), Some(false), "{no}");
        }
        assert_eq!(version.meets("=>3"), None);
        assert_eq!("3.13.0rc1".parse::<Version>().unwrap().meets("<3.13"), Some(false));
    }
}
