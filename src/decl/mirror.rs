//! `mirrors`: places that keep sources under their digests, as `sbx vendor` lays them.
//!
//! A mirror of an archive or a host (`settings.kdl`) has the paths of what it mirrors, and belongs to a
//! machine. These know digests only, so one of them serves every ecosystem, and they may belong to a
//! project: no byte of an image depends on which place gave it. A place is a directory, here or on a
//! server, or a repository of a registry, which needs no server but the one that images go to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use url::Url;

use super::fault::Fault;
use super::node::Node;
use crate::digest::Digest;
use crate::reference::Reference;

/// When a mirror is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ask {
    /// Before the place that a source comes from.
    First,
    /// Once that place does not have it, or cannot be reached.
    #[default]
    Last,
}

/// A value of `ask=` that is none.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is neither `first` nor `last`")]
pub struct AskError(String);

impl FromStr for Ask {
    type Err = AskError;

    fn from_str(text: &str) -> Result<Self, AskError> {
        match text {
            "first" => Ok(Ask::First),
            "last" => Ok(Ask::Last),
            _ => Err(AskError(text.to_owned())),
        }
    }
}

/// Where a mirror is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MirrorPlace {
    /// A directory, relative to the project's.
    Dir(PathBuf),
    /// A directory that a server has; ends in `/`.
    Url(Url),
    /// A repository of a registry, and the tag under which it lists what it has.
    Registry(Reference),
}

/// What stands before a registry's name.
const REGISTRY: &str = "oci://";

/// A text that is no place.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is neither a directory nor an http or https address of one, nor `oci://HOST/REPOSITORY[:TAG]`"
)]
pub struct MirrorPlaceError(String);

impl FromStr for MirrorPlace {
    type Err = MirrorPlaceError;

    fn from_str(text: &str) -> Result<Self, MirrorPlaceError> {
        // what stands before an `@` may be a password, unless it is the only one and a digest follows
        let shown = match text.rsplit_once('@') {
            Some((before, rest)) if before.contains('@') || rest.parse::<Digest>().is_err() => rest,
            _ => text,
        };
        let fail = || MirrorPlaceError(shown.to_owned());
        if !text.contains("://") {
            return if text.is_empty() { Err(fail()) } else { Ok(MirrorPlace::Dir(text.into())) };
        }
        if let Some(rest) = text.strip_prefix(REGISTRY) {
            let reference: Reference = rest.parse().map_err(|_| fail())?;
            let sound = reference.registry().is_some() && reference.digest().is_none();
            return if sound { Ok(MirrorPlace::Registry(reference)) } else { Err(fail()) };
        }
        let mut url = Url::parse(text).map_err(|_| fail())?;
        let plain = url.query().is_none() && url.fragment().is_none();
        if !plain || !["http", "https"].contains(&url.scheme()) {
            return Err(fail());
        }
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        Ok(MirrorPlace::Url(url))
    }
}

impl fmt::Display for MirrorPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorPlace::Dir(path) => path.display().fmt(f),
            MirrorPlace::Registry(reference) => write!(f, "{REGISTRY}{reference}"),
            // a URL without its user
            MirrorPlace::Url(url) => {
                let host = url.host_str().unwrap_or_default();
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                write!(f, "{}://{host}{port}{}", url.scheme(), url.path())
            }
        }
    }
}

const PASSWORD: &str = "a declaration is no place for a password";

fn has_password(url: &Url) -> bool {
    !url.username().is_empty() || url.password().is_some()
}

/// Refuses an address that would carry a password into images, bills of materials and locks.
pub(super) fn refuse_password(node: &Node<'_>, address: &str) {
    if Url::parse(address).is_ok_and(|url| has_password(&url)) {
        let fault = Fault::new(&node.at(), PASSWORD);
        let help = "leave it out here, and name the address with it as this one's mirror: `mirror` in `settings.kdl`, or `SBX_MIRROR_` and the name or host";
        node.sink.push(fault.help(help));
    }
}

/// A place of sources under their digests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceMirror {
    pub place: MirrorPlace,
    pub ask: Ask,
}

impl SourceMirror {
    /// `mirrors PLACE… ask="first"|"last"`.
    pub(super) fn read(node: &Node<'_>) -> Vec<Self> {
        let places = node.parse_all::<MirrorPlace>("directories or addresses");
        let ask = node.find_parsed_property("ask").unwrap_or_default();
        let mut mirrors = Vec::new();
        for (place, at) in places {
            if let MirrorPlace::Url(url) = &place
                && has_password(url)
            {
                let fault = Fault::new(&at, PASSWORD);
                node.sink.push(fault.help("name this mirror with `--mirror` or `SBX_MIRROR`"));
            }
            mirrors.push(SourceMirror { place, ask });
        }
        mirrors
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match text.parse::<MirrorPlace>() {
            Ok(place) => place.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_place_is_a_directory_or_an_address() {
        assert_eq!(shown("vendor"), "vendor");
        assert_eq!(shown("/srv/a@b"), "/srv/a@b");
        assert_eq!(shown("https://m.example.org:8443/v"), "https://m.example.org:8443/v/");
        assert_eq!(
            shown("ftp://me:secret@m.example.org"),
            "`m.example.org` is neither a directory nor an http or https address of one, nor `oci://HOST/REPOSITORY[:TAG]`"
        );
        assert!(shown("https://m.example.org/?x").contains("neither"));
        assert!(shown("").contains("neither"));
    }

    #[test]
    fn a_registry_is_one_by_its_name() {
        assert_eq!(shown("oci://r.example.org:5000/a/b"), "oci://r.example.org:5000/a/b:latest");
        assert_eq!(shown("oci://localhost/a:v1"), "oci://localhost/a:v1");
        let digest = Digest::of(b"");
        for bad in
            ["oci://", "oci://team/a", "oci://r.example.org", "oci://u:secret@r.example.org/a"]
        {
            let text = shown(bad);
            assert!(text.contains("neither") && !text.contains("secret"), "{text}");
        }
        let pinned = format!("oci://r.example.org/a@{digest}");
        assert!(shown(&pinned).starts_with(&format!("`{pinned}` is neither")));
        let both = format!("oci://u:secret@r.example.org/a@{digest}");
        assert!(!shown(&both).contains("secret"));
    }

    #[test]
    fn a_password_is_not_shown() {
        assert_eq!(shown("https://me:secret@m.example.org/v"), "https://m.example.org/v/");
    }
}
