//! Bytes between what writes or reads one after the other and an engine's streams.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use futures::Stream;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// Pieces that are on their way at once, and their size.
const PIECES: usize = 8;
const PIECE: usize = 256 << 10;

pub(super) type Piece = Result<Bytes, io::Error>;

/// Both ends of a way for pieces.
pub(super) fn way() -> (Sender<Piece>, Receiver<Piece>) {
    channel(PIECES)
}

/// What arrives, for a body that is sent to an engine.
pub(super) fn stream(receiver: Receiver<Piece>) -> impl Stream<Item = Piece> + Send + 'static {
    futures::stream::unfold(receiver, async |mut receiver| {
        receiver.recv().await.map(|piece| (piece, receiver))
    })
}

/// What is written here goes to the engine.
pub(super) struct Pipe {
    sender: Sender<Piece>,
    piece: Vec<u8>,
}

impl Pipe {
    pub fn new(sender: Sender<Piece>) -> Self {
        Pipe { sender, piece: Vec::with_capacity(PIECE) }
    }

    /// An archive that breaks off must not look whole.
    pub fn break_off(&self, why: &impl std::fmt::Display) {
        // an engine that went away takes nothing for whole
        self.send(Err(io::Error::other(why.to_string()))).unwrap_or_default();
    }

    fn send(&self, piece: Piece) -> io::Result<()> {
        self.sender.blocking_send(piece).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = std::mem::replace(&mut self.piece, Vec::with_capacity(PIECE));
        self.send(Ok(piece.into()))
    }
}

/// What an engine sends is read here.
pub(super) struct Spring {
    receiver: Receiver<Piece>,
    piece: Bytes,
}

impl Spring {
    pub fn new(receiver: Receiver<Piece>) -> Self {
        Spring { receiver, piece: Bytes::new() }
    }
}

impl Read for Spring {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.piece.is_empty() {
            match self.receiver.blocking_recv() {
                Some(piece) => self.piece = piece?,
                None => return Ok(0),
            }
        }
        let count = self.piece.len().min(buffer.len());
        self.piece.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
