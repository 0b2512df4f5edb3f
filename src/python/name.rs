//! Names of projects and of wheels.

use std::fmt;
use std::str::FromStr;

use super::tag::Tag;

/// A project's name in its normal form (PEP 503): lower case, one dash for each run of `-`, `_`, `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProjectName(Box<str>);

impl ProjectName {
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As it stands in file names, where a dash separates (`typing_extensions`).
    pub fn in_files(&self) -> String {
        self.0.replace('-', "_")
    }
}

impl fmt::Display for ProjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that names no project.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not the name of a Python project")]
pub struct ProjectNameError(pub String);

impl FromStr for ProjectName {
    type Err = ProjectNameError;

    fn from_str(text: &str) -> Result<Self, ProjectNameError> {
        let sign = |c: char| matches!(c, '-' | '_' | '.');
        let sound = text.chars().all(|c| c.is_ascii_alphanumeric() || sign(c))
            && !text.is_empty()
            && !text.starts_with(sign)
            && !text.ends_with(sign);
        if !sound {
            return Err(ProjectNameError(text.to_owned()));
        }
        let parts: Vec<&str> = text.split(sign).filter(|part| !part.is_empty()).collect();
        Ok(ProjectName(parts.join("-").to_ascii_lowercase().into()))
    }
}

/// What a wheel's file name says: `NAME-VERSION[-BUILD]-PYTHON-ABI-PLATFORM.whl`, the last three
/// each a set written with dots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WheelName {
    pub project: ProjectName,
    pub version: Box<str>,
    /// Number and rest of the build tag; of otherwise equal wheels the greatest is taken.
    pub build: Option<(u64, Box<str>)>,
    pub tags: Vec<Tag>,
}

/// A file name that is no wheel's.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not the name of a wheel")]
pub struct WheelNameError(pub String);

/// More combinations of tags than this are nobody's wheel.
const MOST_TAGS: usize = 1000;

impl FromStr for WheelName {
    type Err = WheelNameError;

    fn from_str(text: &str) -> Result<Self, WheelNameError> {
        Self::parse(text).ok_or_else(|| WheelNameError(text.to_owned()))
    }
}

impl WheelName {
    fn parse(text: &str) -> Option<Self> {
        let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.+!".contains(&c);
        let stem = text.strip_suffix(".whl").filter(|stem| stem.bytes().all(plain))?;
        let parts: Vec<&str> = stem.split('-').collect();
        let (name, version, build, [pythons, abis, platforms]) = match parts.as_slice() {
            [name, version, rest @ ..] if rest.len() == 3 => {
                (name, version, None, [rest[0], rest[1], rest[2]])
            }
            [name, version, build, rest @ ..] if rest.len() == 3 => {
                (name, version, Some(parse_build(build)?), [rest[0], rest[1], rest[2]])
            }
            _ => return None,
        };
        let count: usize =
            [pythons, abis, platforms].iter().map(|set| set.split('.').count()).product();
        if version.is_empty() || count > MOST_TAGS {
            return None;
        }
        let mut tags = Vec::with_capacity(count);
        for python in pythons.split('.') {
            for abi in abis.split('.') {
                tags.extend(platforms.split('.').map(|platform| Tag::new(python, abi, platform)));
            }
        }
        Some(WheelName { project: name.parse().ok()?, version: (*version).into(), build, tags })
    }
}

fn parse_build(text: &str) -> Option<(u64, Box<str>)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    Some((text[..digits].parse().ok()?, text[digits..].into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_one_normal_form() {
        for text in ["Foo.Bar_baz", "foo-bar-baz", "FOO--_.bar.baz"] {
            assert_eq!(text.parse::<ProjectName>().unwrap().as_str(), "foo-bar-baz");
        }
        for bad in ["", "-a", "a-", "a b", "../a", "ä"] {
            assert!(bad.parse::<ProjectName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_wheels_name_has_five_parts_or_six() {
        let name: WheelName = "Foo_bar-1.0+local-2x-py2.py3-none-any.whl".parse().unwrap();
        assert_eq!(name.project.in_files(), "foo_bar");
        assert_eq!((&*name.version, name.build), ("1.0+local", Some((2, "x".into()))));
        assert_eq!(name.tags, [Tag::new("py2", "none", "any"), Tag::new("py3", "none", "any")]);
        for bad in [
            "a-1.whl",
            "a-1-py3-none.whl",
            "a-1-x-py3-none-any.whl",
            "../a-1-py3-none-any.whl",
            "a-1.tar.gz",
        ] {
            assert!(bad.parse::<WheelName>().is_err(), "{bad}");
        }
    }
}
