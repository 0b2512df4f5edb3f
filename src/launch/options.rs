//! Options of the command line that have a grammar of their own.

use std::path::PathBuf;
use std::str::FromStr;

use super::egress::Wish;

/// An option that is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum OptionError {
    #[error("`{0}` is no port: write `HOST:INSTANCE`, `0:INSTANCE` for any, or `INSTANCE`")]
    Port(String),
    #[error("`{0}` is no host with a port: write `api.example.org:443`")]
    Private(String),
    #[error("`{0}` is no variable: write `NAME=value`")]
    Variable(String),
    #[error("`{0}` is no mount: write `SOURCE:/DESTINATION` or `SOURCE:/DESTINATION:ro`")]
    Volume(String),
}

/// `HOST:PORT` of `egress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrivateOption(pub Wish);

impl FromStr for PrivateOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        text.parse().map(PrivateOption).map_err(|()| OptionError::Private(text.to_owned()))
    }
}

/// `HOST:INSTANCE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortOption {
    /// 0 for any that is free.
    pub outside: u16,
    pub inside: u16,
}

impl FromStr for PortOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let fail = || OptionError::Port(text.to_owned());
        let (outside, inside) = text.rsplit_once(':').unwrap_or(("0", text));
        let outside = outside.strip_prefix("127.0.0.1:").unwrap_or(outside);
        let inside = inside.strip_suffix("/tcp").unwrap_or(inside);
        let inside = inside.parse().ok().filter(|port| *port > 0).ok_or_else(fail)?;
        Ok(PortOption { outside: outside.parse().map_err(|_| fail())?, inside })
    }
}

/// `NAME=value`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VariableOption {
    pub name: String,
    pub value: String,
}

impl FromStr for VariableOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let (name, value) =
            text.split_once('=').ok_or_else(|| OptionError::Variable(text.to_owned()))?;
        let word = |c: u8| c.is_ascii_alphanumeric() || c == b'_';
        if name.is_empty() || !name.bytes().all(word) || name.as_bytes()[0].is_ascii_digit() {
            return Err(OptionError::Variable(text.to_owned()));
        }
        Ok(VariableOption { name: name.to_owned(), value: value.to_owned() })
    }
}

/// `SOURCE:/DESTINATION[:ro]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeOption {
    pub from: PathBuf,
    /// Absolute and plain.
    pub to: String,
    pub read_only: bool,
}

impl FromStr for VolumeOption {
    type Err = OptionError;

    fn from_str(text: &str) -> Result<Self, OptionError> {
        let fail = || OptionError::Volume(text.to_owned());
        let (rest, read_only) = match text.strip_suffix(":ro") {
            Some(rest) => (rest, true),
            None => (text.strip_suffix(":rw").unwrap_or(text), false),
        };
        let (from, to) = rest.rsplit_once(':').ok_or_else(fail)?;
        let plain = to.strip_prefix('/').is_some_and(|rest| {
            !rest.is_empty() && rest.split('/').all(|part| !matches!(part, "" | "." | ".."))
        });
        let kernel = ["/dev", "/proc", "/sys"]
            .iter()
            .any(|dir| to == *dir || to.starts_with(&format!("{dir}/")));
        if from.is_empty() || !plain || kernel {
            return Err(fail());
        }
        Ok(VolumeOption { from: from.into(), to: to.to_owned(), read_only })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_pairs() {
        let parse = |text: &str| text.parse::<PortOption>();
        assert_eq!(parse("8080:80"), Ok(PortOption { outside: 8080, inside: 80 }));
        assert_eq!(parse("80"), Ok(PortOption { outside: 0, inside: 80 }));
        assert_eq!(parse("127.0.0.1:0:80"), Ok(PortOption { outside: 0, inside: 80 }));
        for wrong in ["", "x:80", "80:0", "0.0.0.0:80:80", "70000:80", "53:53/udp"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn mounts_go_to_plain_paths_that_are_not_the_kernels() {
        let parse = |text: &str| text.parse::<VolumeOption>();
        let sound = parse("/a:b:/workspace:ro").unwrap();
        assert_eq!((&*sound.to, sound.read_only), ("/workspace", true));
        for wrong in ["/a", "/a:b", "/a:/", "/a:/x/../y", "/a:/proc/1", ":/b", "/a:/dev"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn variables_have_names() {
        assert!("A_1=x=y".parse::<VariableOption>().is_ok());
        for wrong in ["A", "=x", "1A=x", "A-B=x"] {
            assert!(wrong.parse::<VariableOption>().is_err(), "{wrong}");
        }
    }
}
