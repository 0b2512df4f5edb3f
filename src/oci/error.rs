//! What can go wrong with somebody else's image.

use std::fmt;

use super::credentials::CredentialError;
use super::document::DocumentError;
use super::peek::PeekError;
use crate::blame::Blame;
use crate::digest::Digest;
use crate::fetch::{FetchError, Said};
use crate::fsx::PathIo;
use crate::plain::plain;

/// Who is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Somebody in particular, who said so.
    User,
    Strangers,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::User => "this user",
            Who::Strangers => "strangers",
        })
    }
}

/// What somebody is not let do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    Read,
    Write,
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Deed::Read => "have it",
            Deed::Write => "write there",
        })
    }
}

/// Why an image cannot be had. Each names the image.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    #[error("image `{image}`: {source}")]
    Document { image: String, source: DocumentError },
    #[error("image `{image}`: {registry} does not have it")]
    Missing { image: String, registry: String },
    #[error("image `{image}`: {registry} does not let {who} {deed}{said}")]
    Denied { image: String, registry: String, who: Who, deed: Deed, said: Said },
    #[error("image `{image}`: {registry} asks for what nobody understands: `{challenge}`")]
    Challenge { image: String, registry: String, challenge: String },
    #[error("image `{image}`: {what} gave other bytes: expected {expected}, found {found}")]
    Digest { image: String, what: &'static str, expected: Digest, found: Digest },
    #[error("image `{image}`: {what} has {found} bytes, expected {expected}")]
    Size { image: String, what: &'static str, expected: u64, found: u64 },
    #[error("image `{image}`: the layout has {}", list(found))]
    Tag { image: String, found: Vec<String> },
    #[error("image `{image}`: {registry} is no address of a registry")]
    Address { image: String, registry: String },
    #[error("image `{image}`: {registry} has no such repository, and makes none")]
    NoRepository { image: String, registry: String },
    #[error(
        "image `{image}`: {registry} is reached over https, and sends what is uploaded to {to}"
    )]
    Downgrade { image: String, registry: String, to: String },
    #[error("image `{image}`: {registry} {what}")]
    Session { image: String, registry: String, what: &'static str },
    #[error("image `{image}`: {blob} cannot be read: {reason}")]
    Source { image: String, blob: String, reason: String },
    #[error("image `{image}`: {source}")]
    Peek { image: String, source: PeekError },
    #[error(transparent)]
    Credential(#[from] CredentialError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Of a registry that has answered nothing yet.
    #[error(transparent)]
    Mute(FetchError),
    #[error(transparent)]
    Io(#[from] PathIo),
}

fn list(found: &[String]) -> String {
    match found {
        [] => "no image of that tag".to_owned(),
        found => {
            let found: Vec<String> = found.iter().map(|tag| plain(tag)).collect();
            format!("images of the tags {}", found.join(", "))
        }
    }
}

impl OciError {
    pub fn blame(&self) -> Blame {
        match self {
            error if error.is_of_platform() => Blame::Input,
            OciError::Missing { .. }
            | OciError::NoRepository { .. }
            | OciError::Tag { .. }
            | OciError::Address { .. } => Blame::Input,
            OciError::Credential(error) => error.blame(),
            OciError::Fetch(error) => error.blame(),
            _ => Blame::World,
        }
    }

    /// Whether it is an image, and for other platforms.
    pub fn is_of_platform(&self) -> bool {
        matches!(
            self,
            OciError::Document {
                source: DocumentError::NoPlatform { .. } | DocumentError::OtherPlatform { .. },
                ..
            }
        )
    }

    /// The next step.
    pub fn help(&self) -> Option<String> {
        match self {
            OciError::Denied { registry, who: Who::User, .. } => Some(format!(
                "the registry knows this user: run `docker login {registry}` as somebody who may, unless it says something else"
            )),
            OciError::Denied { registry, deed, .. } => {
                let doubt = if *deed == Deed::Read { "if it exists, " } else { "" };
                Some(format!("{doubt}run `docker login {registry}`: what that writes is read here"))
            }
            OciError::Downgrade { .. } => Some(
                "if a proxy stands before it, let that tell it that it is reached over https (`X-Forwarded-Proto`)"
                    .to_owned(),
            ),
            OciError::Missing { .. } => Some("look at its name and its tag".to_owned()),
            OciError::Tag { .. } => Some("write `oci:DIRECTORY:TAG`".to_owned()),
            OciError::Document { source: DocumentError::NoPlatform { .. }, .. } => Some(
                "leave the platform out of `platforms` in `project`, or say `only` in the layer"
                    .to_owned(),
            ),
            OciError::Fetch(error) | OciError::Mute(error) if self.is_of_tls(error) => Some(
                "http was spoken, as with every registry on this machine and with `--plain-http`: if it speaks TLS, put its authority as `ca.crt` into `containers/certs.d/HOST[:PORT]/` of your configuration folder"
                    .to_owned(),
            ),
            OciError::Fetch(error) => error.help().map(str::to_owned),
            _ => None,
        }
    }

    /// Whether it may well be that somebody who speaks TLS was spoken to without.
    fn is_of_tls(&self, error: &FetchError) -> bool {
        match error {
            FetchError::Status { status: 400, url, said, .. } => {
                url.starts_with("http://") && said.is_of_tls()
            }
            FetchError::Broken { url, begun, .. } => {
                url.starts_with("http://") && !begun && matches!(self, OciError::Mute(_))
            }
            _ => false,
        }
    }
}
