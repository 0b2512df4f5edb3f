//! Compressed twins of layers: what registries get. A twin is made once and remembered; while it is
//! made, others may read it already.
//!
//! A record outlives its bytes: which digest a layer has in some form is known for as long as the layer
//! is, so what a registry has already is neither made nor read again. Bytes that are gone are made anew
//! and are the same.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::ImageError;
use super::deflate::{Form, deflate};
use crate::digest::Digest;
use crate::fsx::{self, IoAt};
use crate::store::{Draft, Held, Store};

/// A layer's compressed form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Twin {
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

fn record_path(store: &Store, diff_id: &Digest, form: Form) -> PathBuf {
    store.root().join("twins").join(format!("{}.{form}", diff_id.hex()))
}

/// What is known of a layer's twin, whether its bytes are there or not.
pub fn find_twin(store: &Store, diff_id: &Digest, form: Form) -> Option<Twin> {
    let bytes = fs::read(record_path(store, diff_id, form)).ok()?;
    serde_json::from_slice(&bytes).ok()
}

/// The twin of a layer, made if the store does not have it.
pub fn obtain_twin(store: &Store, diff_id: &Digest, form: Form) -> Result<Twin, ImageError> {
    store.hold([Held::Blob(diff_id)])?;
    match find_twin(store, diff_id, form) {
        Some(twin) if has_bytes(store, &twin)? => Ok(twin),
        _ => make_twin(store, diff_id, form, &Growth::default()),
    }
}

/// Whether a twin's bytes are there; holds them.
pub fn has_bytes(store: &Store, twin: &Twin) -> Result<bool, ImageError> {
    store.hold([Held::Blob(&twin.digest)])?;
    Ok(store.find_blob(&twin.digest) == Some(twin.size))
}

/// Makes a layer's twin, which can be read while it grows.
pub fn make_twin(
    store: &Store,
    diff_id: &Digest,
    form: Form,
    growth: &Growth,
) -> Result<Twin, ImageError> {
    let made = write_twin(store, diff_id, form, growth);
    growth.end(made.as_ref().ok().copied());
    made
}

fn write_twin(
    store: &Store,
    diff_id: &Digest,
    form: Form,
    growth: &Growth,
) -> Result<Twin, ImageError> {
    store.hold([Held::Blob(diff_id)])?;
    let path = store.blob_path(diff_id);
    let mut input = File::open(&path).at("open", &path)?;
    let mut growing = Growing { draft: store.draft()?, growth };
    growth.begin(File::open(growing.draft.path()).at("open", growing.draft.path())?);
    deflate(&mut input, &mut growing, form)
        .map_err(|source| ImageError::Twin { layer: *diff_id, source })?;
    let (digest, size) = growing.draft.commit()?;
    let twin = Twin { digest, size };
    remember_twin(store, diff_id, form, twin)?;
    Ok(twin)
}

/// Remembers what a layer's twin is, whoever made it.
pub fn remember_twin(
    store: &Store,
    diff_id: &Digest,
    form: Form,
    twin: Twin,
) -> Result<(), ImageError> {
    let record = record_path(store, diff_id, form);
    let bytes = serde_json::to_vec(&twin).expect("a twin has string keys only");
    Ok(fsx::write_atomic(&record, &bytes)?)
}

/// A twin that may still be growing.
#[derive(Debug, Default)]
pub struct Growth {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The draft; it stays readable under whatever name it gets.
    file: Option<File>,
    len: u64,
    abandoned: bool,
    /// `Some(None)` where it came to nothing.
    end: Option<Option<Twin>>,
}

/// The draft of a twin, which tells how far it is.
struct Growing<'a> {
    draft: Draft,
    growth: &'a Growth,
}

impl Write for Growing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.growth.is_abandoned() {
            return Err(io::Error::other("nobody waits for it any more"));
        }
        let written = self.draft.write(bytes)?;
        self.growth.change(|state| state.len += written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Growth {
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_all();
    }

    /// Lets whoever makes it stop. Answers whether it was still being made: one that had come to nothing
    /// did so for a reason of its own.
    pub fn abandon(&self) -> bool {
        let mut was_growing = false;
        self.change(|state| {
            was_growing = state.end.is_none();
            state.abandoned = true;
        });
        was_growing
    }

    fn is_abandoned(&self) -> bool {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).abandoned
    }

    fn begin(&self, file: File) {
        self.change(|state| state.file = Some(file));
    }

    fn end(&self, twin: Option<Twin>) {
        self.change(|state| state.end = Some(twin));
    }

    /// The twin, once it is whole.
    pub fn known(&self) -> Option<Twin> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).end.flatten()
    }

    /// Waits until it is whole.
    pub fn wait(&self) -> io::Result<Twin> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = self.changed.wait_while(state, |state| state.end.is_none());
        let end = state.unwrap_or_else(PoisonError::into_inner).end.flatten();
        end.ok_or_else(|| io::Error::other("it was not finished"))
    }

    /// Bytes from an offset on, as they come.
    pub fn open(&self, offset: u64) -> Follower<'_> {
        Follower { growth: self, at: offset, begun: false, known: self.known().is_some() }
    }
}

/// Reads a twin while it grows. Where its end becomes known on the way and much is still to come, this
/// ends early: whoever reads may then look whether that twin is needed at all.
pub struct Follower<'a> {
    growth: &'a Growth,
    at: u64,
    /// Whether a byte was given.
    begun: bool,
    /// Whether it was whole when the reading began.
    known: bool,
}

/// So much is still to come where it is worth a look.
const MUCH: u64 = 8 << 20;

impl Read for Follower<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use std::os::unix::fs::FileExt;
        let state = self.growth.state.lock().unwrap_or_else(PoisonError::into_inner);
        let waits = |state: &mut State| state.end.is_none() && state.len <= self.at;
        let state = self.growth.changed.wait_while(state, waits);
        let state = state.unwrap_or_else(PoisonError::into_inner);
        if state.end == Some(None) {
            return Err(io::Error::other("it was not finished"));
        }
        let left = state.len.saturating_sub(self.at);
        let news = state.end.is_some() && !self.known;
        let Some(file) = state.file.as_ref().filter(|_| left > 0) else { return Ok(0) };
        if news && self.begun && left > MUCH {
            return Ok(0);
        }
        let file = file.try_clone()?;
        drop(state);
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = file.read_at(&mut buffer[..most], self.at)?;
        self.at += count as u64;
        self.begun = true;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::super::deflate::Compression;
    use super::*;

    fn sample() -> Vec<u8> {
        (0..(3 << 20) + 17).map(|n| (n / 1000) as u8).collect()
    }

    #[test]
    fn a_twin_is_the_layer_compressed_and_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let bytes = sample();
        let layer = store.put_blob(&bytes).unwrap();
        let form = Form::new(Compression::Gzip, Some(6)).unwrap();
        let twin = obtain_twin(&store, &layer, form).unwrap();
        let packed = store.read_blob(&twin.digest).unwrap();
        assert_eq!(
            packed[..10],
            [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff],
            "no name, no time, OS unknown"
        );
        let mut plain = Vec::new();
        flate2::read::MultiGzDecoder::new(&packed[..]).read_to_end(&mut plain).unwrap();
        assert_eq!(plain, bytes);
        insta::assert_snapshot!(twin.digest, @"sha256:2450c943c2cdfb4a0e981a36f7c8474e6ae21af68339bcbb2080ae36a233bc97");
        fs::remove_file(store.blob_path(&layer)).unwrap();
        assert_eq!(obtain_twin(&store, &layer, form).unwrap(), twin, "it is remembered");
        store.drop_blob(&twin.digest).unwrap();
        assert_eq!(find_twin(&store, &layer, form), Some(twin), "so is what it was");
    }

    #[test]
    fn a_twin_is_read_while_it_is_made() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let layer = store.put_blob(&sample()).unwrap();
        let growth = Growth::default();
        let (made, read) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut bytes = Vec::new();
                growth.open(0).read_to_end(&mut bytes).map(|_| bytes)
            });
            let made = make_twin(&store, &layer, Form::default(), &growth);
            (made.unwrap(), reader.join().unwrap().unwrap())
        });
        assert_eq!(Digest::of(&read), made.digest);
        assert_eq!(growth.wait().unwrap(), made);
    }

    #[test]
    fn a_twin_that_comes_to_nothing_keeps_nobody_waiting() {
        let home = tempfile::tempdir().unwrap();
        let store = Store::open(home.path()).unwrap();
        let growth = Growth::default();
        let missing = Digest::of(b"missing");
        assert!(make_twin(&store, &missing, Form::default(), &growth).is_err());
        assert!(growth.open(0).read_to_end(&mut Vec::new()).is_err());
        assert!(growth.wait().is_err());
    }
}
