//! Objects of a repository: read through one `git cat-file`, each held against its own name.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::str::FromStr;

use serde::{Serialize, Serializer};
use sha1::{Digest as _, Sha1};

use super::error::GitError;
use super::program::Program;

/// Largest object that is held in memory.
const LARGEST: u64 = 1 << 30;

/// The name of an object: the SHA-1 of its kind, size and bytes; shown as 40 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId([u8; 20]);

impl ObjectId {
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    pub(super) const fn from_bytes(bytes: [u8; 20]) -> Self {
        ObjectId(bytes)
    }
}

impl FromStr for ObjectId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fail = || format!("`{text}` is not 40 lower-case hex digits");
        let hex = |c: u8| c.is_ascii_digit() || (b'a'..=b'f').contains(&c);
        if text.len() != 40 || !text.bytes().all(hex) {
            return Err(fail());
        }
        let mut bytes = [0; 20];
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * at..2 * at + 2], 16).map_err(|_| fail())?;
        }
        Ok(ObjectId(bytes))
    }
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for ObjectId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// What an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectKind {
    Commit,
    Tree,
    Blob,
}

impl ObjectKind {
    const fn word(self) -> &'static str {
        match self {
            ObjectKind::Commit => "commit",
            ObjectKind::Tree => "tree",
            ObjectKind::Blob => "blob",
        }
    }
}

/// Reads objects of one repository.
pub(super) struct Objects {
    program: Program,
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Objects {
    pub fn open(program: &Program) -> Result<Self, GitError> {
        let mut command = program.command(&["cat-file", "--batch"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = program.start(&mut command, "cat-file")?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (input, output) = pipes.expect("both were asked for");
        let output = BufReader::with_capacity(256 << 10, output);
        Ok(Objects { program: program.clone(), child, input, output })
    }

    fn refuse(&self, id: &ObjectId, reason: impl Into<String>) -> GitError {
        GitError::Object { url: self.program.url.clone(), id: *id, reason: reason.into() }
    }

    /// Asks for an object, and answers its size.
    fn ask(&mut self, id: &ObjectId, kind: ObjectKind) -> Result<u64, GitError> {
        let broken = |error: io::Error| self.program.failed("cat-file", error.to_string());
        writeln!(self.input, "{id}").and_then(|()| self.input.flush()).map_err(broken)?;
        let mut line = String::new();
        self.output.read_line(&mut line).map_err(broken)?;
        let words: Vec<&str> = line.trim_end().split(' ').collect();
        match words[..] {
            [name, word, size] if name == id.to_string() => {
                let size = size.parse().map_err(|_| self.refuse(id, "has no size"))?;
                if word == kind.word() {
                    return Ok(size);
                }
                let skip = size + 1;
                io::copy(&mut (&mut self.output).take(skip), &mut io::sink()).map_err(broken)?;
                Err(self.refuse(id, format!("is a {word}, not a {}", kind.word())))
            }
            _ => Err(self.refuse(id, "is missing")),
        }
    }

    /// Streams an object: its size to `start`, then its bytes to `piece`.
    pub fn stream<T>(
        &mut self,
        id: &ObjectId,
        kind: ObjectKind,
        sink: &mut T,
        start: impl FnOnce(&mut T, u64) -> Result<(), GitError>,
        mut piece: impl FnMut(&mut T, &[u8]) -> Result<(), GitError>,
    ) -> Result<(), GitError> {
        let size = self.ask(id, kind)?;
        start(sink, size)?;
        let mut hasher = Sha1::new();
        hasher.update(format!("{} {size}\0", kind.word()));
        let mut left = size;
        while left > 0 {
            let broken = |error: io::Error| self.program.failed("cat-file", error.to_string());
            let buffer = self.output.fill_buf().map_err(broken)?;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
            if most == 0 {
                return Err(self.refuse(id, "ends too soon"));
            }
            hasher.update(&buffer[..most]);
            piece(sink, &buffer[..most])?;
            self.output.consume(most);
            left -= most as u64;
        }
        let mut end = [0];
        let broken = |error: io::Error| self.program.failed("cat-file", error.to_string());
        self.output.read_exact(&mut end).map_err(broken)?;
        match hasher.finalize().as_slice() == id.as_bytes() {
            true => Ok(()),
            false => Err(self.refuse(id, "has other bytes than its name says")),
        }
    }

    /// An object whole.
    pub fn read(&mut self, id: &ObjectId, kind: ObjectKind) -> Result<Vec<u8>, GitError> {
        let mut bytes = Vec::new();
        let url = self.program.url.clone();
        let start = |bytes: &mut Vec<u8>, size: u64| {
            if size > LARGEST {
                let reason = format!("is larger than {LARGEST} bytes");
                return Err(GitError::Object { url, id: *id, reason });
            }
            bytes.reserve(usize::try_from(size).unwrap_or_default());
            Ok(())
        };
        self.stream(id, kind, &mut bytes, start, |bytes, piece| {
            bytes.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(bytes)
    }
}

impl Drop for Objects {
    fn drop(&mut self) {
        // it only waits for another name
        self.child.kill().unwrap_or_default();
        drop(self.child.wait());
    }
}
