//! What can go wrong between here and a server.

use std::fmt;
use std::path::PathBuf;

use url::Url;

use super::mirror::redact;
use super::words::Said;
use crate::blame::Blame;
use crate::digest::Integrity;
use crate::fsx::PathIo;
use crate::store::StoreError;

/// A fetch that failed. Addresses are shown without credentials and queries.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    #[error("{label} is not in the store, and `--offline` refuses the network")]
    Offline { label: String },
    #[error("{label}: {url} answers {status}{said}{tries}")]
    Status { label: String, url: String, status: u16, said: Said, tries: Tries },
    #[error("{label}: {url} answers 401{said}")]
    Unauthorized {
        label: String,
        url: String,
        /// What the server would like to see (`WWW-Authenticate`).
        challenge: String,
        said: Said,
    },
    /// Another host than the one that was asked does not let us in. What it would like to see instead is
    /// not known: nothing may be shown to it.
    #[error("{label}: {url} sends to {to}, which answers {status}")]
    Elsewhere { label: String, url: String, to: String, status: u16 },
    #[error("{label}: {url} gave {found} bytes, expected {expected}")]
    Size { label: String, url: String, expected: u64, found: u64 },
    #[error("{label}: {url} gave other bytes: expected {expected}, found {found}")]
    Digest { label: String, url: String, expected: Integrity, found: Integrity },
    #[error("{label}: {url} gave more than {limit} bytes")]
    TooLarge { label: String, url: String, limit: u64 },
    #[error("{label}: {url} cannot be reached: {reason}{tries}")]
    Unreachable {
        label: String,
        url: String,
        reason: String,
        /// Whether the machine is there, and nobody listens.
        refused: bool,
        tries: Tries,
    },
    #[error("{label}: {url} shows a certificate that is not trusted: {reason}")]
    Untrusted { label: String, url: String, reason: String },
    #[error("{label}: {url} does not take this machine for whom it lets in: {reason}")]
    Unknown { label: String, url: String, reason: String },
    #[error("{label}: {url} broke off: {reason}{tries}")]
    Broken {
        label: String,
        url: String,
        reason: String,
        /// Whether an answer had begun.
        begun: bool,
        tries: Tries,
    },
    #[error("{label}: {url} is too slow: {reason}")]
    Slow { label: String, url: String, reason: String },
    #[error("{label}: {url} redirects {reason}")]
    Redirect { label: String, url: String, reason: String },
    #[error("{label}: nowhere to fetch it from")]
    NoUrl { label: String },
    #[error("{label}: {reason}")]
    Git { label: String, reason: String, help: Option<&'static str> },
    #[error("{failure}; {there}")]
    Vanished {
        failure: Box<FetchError>,
        /// What the registry or index has instead.
        there: String,
    },
    #[error("the network cannot be set up: {0}")]
    Setup(String),
    #[error("certificates of {}: {reason}", path.display())]
    Certificates { path: PathBuf, reason: String },
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How often something was tried; one try is not worth words.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tries(pub u32);

impl fmt::Display for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            tries => write!(f, " (tried {tries} times)"),
        }
    }
}

impl FetchError {
    pub fn blame(&self) -> Blame {
        match self {
            FetchError::Certificates { .. } => Blame::Input,
            _ => Blame::World,
        }
    }

    /// Whether every source said that it does not have the file: it vanished.
    pub fn is_gone(&self) -> bool {
        matches!(self, FetchError::Status { status: 404 | 410, .. } | FetchError::Vanished { .. })
    }

    /// Whether a server is there and does not do what it is asked (4xx that no other try mends).
    pub fn is_refusal(&self) -> bool {
        match self {
            FetchError::Unauthorized { .. } | FetchError::Elsewhere { .. } => true,
            FetchError::Status { status, .. } => {
                (400..500).contains(status) && ![408, 425, 429].contains(status)
            }
            _ => false,
        }
    }

    /// Whether nobody was found who has the file, wrong or right.
    pub fn is_absence(&self) -> bool {
        let nowhere = matches!(self, FetchError::Offline { .. } | FetchError::NoUrl { .. });
        nowhere || self.is_gone()
    }

    /// Whether a server wants to see who asks, or somebody else than it was shown.
    pub fn demands(&self) -> bool {
        matches!(self, FetchError::Unauthorized { .. } | FetchError::Status { status: 401, .. })
    }

    /// Whether somebody does not let us in.
    pub fn is_barred(&self) -> bool {
        self.demands() || matches!(self, FetchError::Status { status: 403, .. })
    }

    /// Something was sent, and is not sent to another place because the first one says so.
    pub(super) fn not_followed(label: &str, url: &Url) -> Self {
        let reason = "what is sent to it, which is not followed".to_owned();
        FetchError::Redirect { label: label.to_owned(), url: redact(url), reason }
    }

    /// The same, where the server was not the one at `own`: then nobody is to answer what it demands.
    pub fn from_elsewhere(self, own: &Url) -> Self {
        match self {
            FetchError::Unauthorized { label, url, .. } => {
                FetchError::Elsewhere { label, url: redact(own), to: url, status: 401 }
            }
            FetchError::Status { label, url, status: status @ (401 | 403), .. } => {
                FetchError::Elsewhere { label, url: redact(own), to: url, status }
            }
            error => error,
        }
    }

    /// The next step.
    pub fn help(&self) -> Option<&'static str> {
        match self {
            FetchError::Git { help, .. } => *help,
            FetchError::Offline { .. } => Some(
                "run `sbx fetch` where there is a network, or `sbx vendor` there and `--mirror` here",
            ),
            FetchError::Unreachable { .. } => Some(
                "check the network, `http_proxy` and `https_proxy`, and the mirrors in `settings.kdl` and `SBX_MIRROR_…`",
            ),
            FetchError::Untrusted { .. } => Some(
                "if the authority is your own, name its certificate in `SSL_CERT_FILE` or by `certificates` in `settings.kdl`",
            ),
            FetchError::Unknown { .. } => Some(
                "put `client.cert` and `client.key` into `containers/certs.d/HOST[:PORT]/` of your configuration folder",
            ),
            FetchError::Digest { .. } | FetchError::Size { .. } => Some(
                "the mirror or a proxy on the way is at fault (a mirror in `settings.kdl` or `SBX_MIRROR_…` goes around it), or a file of the project that says the digest is",
            ),
            FetchError::Vanished { .. } => {
                Some("let what locked it name one that is left; then run `sbx lock`")
            }
            FetchError::Store(error) => error.help(),
            _ => None,
        }
    }

    /// The same failure, met so many times.
    pub(super) fn after(mut self, count: u32) -> Self {
        if let FetchError::Status { tries, .. }
        | FetchError::Unreachable { tries, .. }
        | FetchError::Broken { tries, .. } = &mut self
        {
            *tries = Tries(count);
        }
        self
    }
}
