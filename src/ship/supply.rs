//! Where the bytes of an upload come from, from any place on: memory, the store, a twin in the making.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::PathBuf;

use crate::image::Growth;
use crate::oci::{Supplied, Supply};

/// Small bytes.
pub struct Bytes {
    pub label: String,
    pub supplied: Supplied,
    pub bytes: Vec<u8>,
}

impl Supply for Bytes {
    fn label(&self) -> &str {
        &self.label
    }

    fn known(&self) -> Option<Supplied> {
        Some(self.supplied)
    }

    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut bytes = Cursor::new(&self.bytes);
        bytes.set_position(offset);
        Ok(Box::new(bytes))
    }
}

/// A file of the store.
pub struct Stored {
    pub label: String,
    pub supplied: Supplied,
    pub path: PathBuf,
}

impl Supply for Stored {
    fn label(&self) -> &str {
        &self.label
    }

    fn known(&self) -> Option<Supplied> {
        Some(self.supplied)
    }

    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(offset))?;
        Ok(Box::new(file))
    }
}

/// A twin in the making.
pub(super) struct Grown<'a> {
    pub(super) label: String,
    pub(super) growth: &'a Growth,
}

impl Supply for Grown<'_> {
    fn label(&self) -> &str {
        &self.label
    }

    fn known(&self) -> Option<Supplied> {
        let twin = self.growth.known()?;
        Some(Supplied { digest: twin.digest, size: twin.size })
    }

    fn open(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(self.growth.open(offset)))
    }
}
