//! A tree and its listing become the layer's tar.
//!
//! One thread reads bodies out of the tree and puts the tar together, the caller's writes it: a sink
//! hashes and stores, which takes longer than all the rest. A few pieces travel between them, so
//! memory does not grow with the layer.

use std::io::{self, Read, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use super::assembly::AssemblyError;
use super::listing::Listing;
use super::tree::Tree;
use crate::entry::{EPOCH, Entry, Kind, Meta};
use crate::path::LayerPath;
use crate::tarball::Writer;

/// Bytes of one piece, and how many may wait.
const PIECE: usize = 1 << 20;
const WAITING: usize = 4;

/// Collects small writes into pieces and sends them on.
struct Pieces {
    piece: Vec<u8>,
    sender: SyncSender<Vec<u8>>,
    /// Pieces that have been written come back.
    spent: Receiver<Vec<u8>>,
}

impl Pieces {
    fn send(&mut self) -> io::Result<()> {
        let mut next = self.spent.try_recv().unwrap_or_else(|_| Vec::with_capacity(PIECE));
        next.clear();
        let full = std::mem::replace(&mut self.piece, next);
        self.sender.send(full).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.len() == PIECE {
            self.send()?;
        }
        let n = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}

/// Writes the layer's tar: entries in the order of the listing, bodies from the tree.
pub(super) fn pack(
    tree: &Tree,
    listing: &Listing,
    tar: &mut dyn Write,
) -> Result<(), AssemblyError> {
    let (sender, pieces) = sync_channel(WAITING);
    let (give_back, spent) = sync_channel(WAITING + 1);
    thread::scope(|scope| {
        let put = move || {
            put_together(tree, listing, Pieces { piece: Vec::with_capacity(PIECE), sender, spent })
        };
        let reading = scope.spawn(put);
        let written = write_pieces(&pieces, &give_back, tar);
        // a reader that waits for room ends when nobody takes its pieces
        drop(pieces);
        let read = reading.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        written.map_err(AssemblyError::Sink)?;
        read
    })
}

fn write_pieces(
    pieces: &Receiver<Vec<u8>>,
    give_back: &SyncSender<Vec<u8>>,
    tar: &mut dyn Write,
) -> io::Result<()> {
    for piece in pieces {
        tar.write_all(&piece)?;
        // nobody takes back the last ones
        give_back.try_send(piece).unwrap_or_default();
    }
    tar.flush()
}

fn put_together(tree: &Tree, listing: &Listing, sink: Pieces) -> Result<(), AssemblyError> {
    let mut writer = Writer::new(sink);
    let mut buffer = vec![0; PIECE];
    for entry in listing.entries.iter().filter(|entry| !entry.path.is_root()) {
        let fail = |source| AssemblyError::Body { path: entry.path.clone(), source };
        writer.header(&normal(entry)).map_err(fail)?;
        if let Kind::File(size) = entry.kind {
            let mut file = tree.read(&entry.path)?;
            copy_body(&mut file, size, &mut writer, &mut buffer).map_err(fail)?;
        }
    }
    let end = |source| AssemblyError::Body { path: LayerPath::root(), source };
    writer.finish().and_then(|mut sink| sink.flush()).map_err(end)
}

fn copy_body<W: Write>(
    file: &mut impl Read,
    size: u64,
    writer: &mut Writer<W>,
    buffer: &mut [u8],
) -> io::Result<()> {
    let mut left = size;
    while left > 0 {
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let n = file.read(&mut buffer[..most])?;
        if n == 0 {
            let message = "it is shorter than its entry says";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
        writer.body(&buffer[..n])?;
        left -= n as u64;
    }
    writer.pad(size)
}

/// Directories have the epoch as their time, whatever was observed.
fn normal(entry: &Entry) -> Entry {
    let mtime = if matches!(entry.kind, Kind::Dir(_)) { EPOCH } else { entry.meta.mtime };
    Entry { meta: Meta { mtime, ..entry.meta.clone() }, ..entry.clone() }
}
