//! What an instance says, on its way to its file.

use std::fs::{self, File};
use std::io::{PipeReader, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

/// A log is cut in two at this size: one half is kept beside the one that is written.
const SIZE: u64 = 32 << 20;

#[derive(Debug)]
pub(super) struct Log {
    dir: PathBuf,
    file: File,
    size: u64,
    reader: PipeReader,
}

impl Log {
    /// In an instance's directory; answers where the instance writes, too.
    pub fn open(dir: &Path) -> std::io::Result<(Self, OwnedFd)> {
        let file = append(&dir.join("log"))?;
        let (reader, writer) = std::io::pipe()?;
        Ok((Log { dir: dir.to_owned(), file, size: 0, reader }, writer.into()))
    }

    /// What becomes readable when the instance says something.
    pub fn reader(&self) -> &PipeReader {
        &self.reader
    }

    /// Writes down what there is; `false` at the end.
    pub fn copy(&mut self) -> bool {
        let mut bytes = [0; 16 << 10];
        let Ok(n @ 1..) = self.reader.read(&mut bytes) else { return false };
        if self.size > SIZE {
            let (log, old) = (self.dir.join("log"), self.dir.join("log.1"));
            fs::rename(&log, old).unwrap_or_default();
            if let Ok(next) = append(&log) {
                (self.file, self.size) = (next, 0);
            }
        }
        // a disk that is full loses the log, not the instance
        self.file.write_all(&bytes[..n]).unwrap_or_default();
        self.size += n as u64;
        true
    }
}

/// Several may write to it.
pub(super) fn append(path: &Path) -> std::io::Result<File> {
    File::options().append(true).create(true).open(path)
}
