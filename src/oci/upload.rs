//! Writing to a repository (OCI distribution-spec 1.1, push): what is there is asked for, what another
//! repository has is mounted, and what is missing goes up as a stream.
//!
//! A registry counts as having a blob only when it has judged the whole by its digest. How one blob goes up,
//! `sending` says.

use std::io::{self, Read};

use url::Url;

use super::error::OciError;
use super::registry::Registry;
use crate::digest::Digest;
use crate::fetch::{Answer, FetchError, Letter, Method};

/// Largest answer to what is written that is read.
const LARGEST_ANSWER: u64 = 1 << 20;

/// The bytes of a blob, which may still be in the making.
pub trait Supply: Sync {
    /// What it is, for people.
    fn label(&self) -> &str;
    /// Its digest and size, once they are known.
    fn known(&self) -> Option<Supplied>;
    /// Bytes from an offset on, waiting for those to come. May end before the blob does, where it is
    /// worth asking anew whether the blob is there; never before a byte was given.
    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supplied {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What came of an attempt to mount a blob.
#[derive(Debug)]
pub enum Mounted {
    Done,
    /// The registry would rather have it uploaded, here or at a place still to be asked for.
    Not(Option<Url>),
}

impl Registry<'_> {
    /// Whether the repository has a blob, whole.
    pub fn has_blob(&self, label: &str, blob: &Supplied) -> Result<bool, OciError> {
        let url = self.blob_url(&blob.digest);
        let answer = absent(self.write(&Letter::new(label, Method::HEAD, &url), b""))?;
        Ok(is_whole(answer, blob))
    }

    /// Likewise for several at once, with what each is called; in their order.
    pub fn has_blobs(&self, blobs: &[(String, Supplied)]) -> Result<Vec<bool>, OciError> {
        let mut answers = self.ask_for(blobs)?;
        if let Some(at) = answers.iter().position(is_refused) {
            // whoever asks alone brings a token for all
            let (label, blob) = &blobs[at];
            self.has_blob(label, blob)?;
            answers = self.ask_for(blobs)?;
        }
        let judge = |((_, blob), answer): (&(String, Supplied), Result<Answer, FetchError>)| {
            let answer = absent(answer.map_err(|error| self.judge(error)))?;
            Ok(is_whole(answer, blob))
        };
        blobs.iter().zip(answers).map(judge).collect()
    }

    fn ask_for(
        &self,
        blobs: &[(String, Supplied)],
    ) -> Result<Vec<Result<Answer, FetchError>>, OciError> {
        let urls: Vec<Url> = blobs.iter().map(|(_, blob)| self.blob_url(&blob.digest)).collect();
        let letters = blobs.iter().zip(&urls).map(|((label, _), url)| Letter {
            authorization: self.known(),
            ..Letter::new(label, Method::HEAD, url)
        });
        let letters: Vec<Letter<'_>> = letters.collect();
        self.client.send_all(&letters, LARGEST_ANSWER).map_err(|error| self.judge(error))
    }

    /// Asks for a blob that another repository of the registry has.
    pub fn mount(&self, label: &str, digest: &Digest, from: &str) -> Result<Mounted, OciError> {
        let mut url = self.uploads();
        url.query_pairs_mut().append_pair("mount", &digest.to_string()).append_pair("from", from);
        match self.write(&Letter::new(label, Method::POST, &url), b"") {
            Ok(answer) if answer.status == 201 => Ok(Mounted::Done),
            Ok(answer) if answer.status == 202 => Ok(Mounted::Not(self.next_place(&answer)?)),
            Ok(_) => Ok(Mounted::Not(None)),
            // whoever may not read the other repository may well write to this one
            Err(OciError::Denied { .. } | OciError::Missing { .. }) => Ok(Mounted::Not(None)),
            Err(OciError::Fetch(FetchError::Status { status: 400..500, .. })) => {
                Ok(Mounted::Not(None))
            }
            Err(error) => Err(error),
        }
    }

    /// Sends a letter, with a token where one is asked for.
    pub(super) fn write(&self, letter: &Letter<'_>, body: &[u8]) -> Result<Answer, OciError> {
        let own = self.is_own(letter.url);
        self.ask(|authorization| {
            let authorization = authorization.filter(|_| own);
            let letter = Letter { authorization, ..letter.clone() };
            let sent = self.client.send(&letter, body, LARGEST_ANSWER, self.client.hearer());
            // what another host demands is not answered
            sent.map_err(|error| if own { error } else { error.from_elsewhere(&self.base) })
        })
    }

    pub(super) fn uploads(&self) -> Url {
        self.url("blobs", "uploads/")
    }

    /// Where an answer says to go on. What is for a registry that is reached over TLS goes nowhere without.
    pub(super) fn next_place(&self, answer: &Answer) -> Result<Option<Url>, OciError> {
        match answer.location() {
            Some(to) if self.base.scheme() == "https" && to.scheme() != "https" => {
                let (image, registry) = (self.image.clone(), self.host.clone());
                let to = to.origin().ascii_serialization();
                Err(OciError::Downgrade { image, registry, to })
            }
            place => Ok(place),
        }
    }

    /// Whether an address is the registry's own, which may see tokens.
    pub(super) fn is_own(&self, url: &Url) -> bool {
        url.origin() == self.base.origin()
    }

    /// Where something is to be written, what is not there is the repository.
    pub(super) fn no_repository(&self, error: OciError) -> OciError {
        match error {
            OciError::Missing { image, registry } => OciError::NoRepository { image, registry },
            error => error,
        }
    }
}

/// What is not there, or not for everybody to know of, is nothing.
pub(super) fn absent(answer: Result<Answer, OciError>) -> Result<Option<Answer>, OciError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(OciError::Missing { .. } | OciError::Denied { .. }) => Ok(None),
        // storage behind a registry may take a GET alone
        Err(OciError::Fetch(FetchError::Elsewhere { .. })) => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_refused(answer: &Result<Answer, FetchError>) -> bool {
    answer.as_ref().is_err_and(FetchError::demands)
}

/// Whether what is said of a blob is said of a whole one.
fn is_whole(answer: Option<Answer>, blob: &Supplied) -> bool {
    answer.is_some_and(|answer| answer.content_length().is_none_or(|len| len == blob.size))
}
