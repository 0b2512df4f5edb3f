//! What a layer holds: the entries of its tar, and the listing that remembers them.
//!
//! A tar cannot say whether a directory was meant or only implied by a file below it, and overlay
//! file systems take a directory's metadata from the top layer that has it. So each directory
//! carries a [`Claim`]; the plan of an image computes from the claims what a directory must look
//! like, and restates it in one last small layer where the layers' order would get it wrong.

use std::collections::BTreeMap;

use crate::path::LayerPath;

/// The modification time, in seconds since 1970, that stands for "made by sbx"
/// (2025-01-01T00:00:00Z). Part of the layer format: no file in a layer is younger, every
/// directory has it.
pub const EPOCH: i64 = 1_735_689_600;

/// The only extended attribute that a layer keeps: all others belong to a machine (SELinux labels,
/// overlay marks) or are missing on some file systems.
pub const CAPABILITY: &[u8] = b"security.capability";

/// Clamps an observed modification time: never younger than [`EPOCH`], never zero or before 1970.
pub fn clamp_mtime(seconds: i64) -> i64 {
    if seconds <= 0 { EPOCH } else { seconds.min(EPOCH) }
}

/// Owner, permissions and attributes of an entry. `mode` is the lower twelve bits (07777).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds since 1970; already clamped.
    pub mtime: i64,
    /// Extended attributes by full name (`security.capability`), values as read inside the
    /// namespace that built them.
    pub xattrs: BTreeMap<Box<[u8]>, Box<[u8]>>,
}

impl Meta {
    /// What `root` owns, at [`EPOCH`].
    pub fn root(mode: u32) -> Self {
        Meta { mode, uid: 0, gid: 0, mtime: EPOCH, xattrs: BTreeMap::new() }
    }
}

/// How strongly a layer speaks about a directory it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Claim {
    /// Only because something lies below it: 0755, owned by root, no opinion.
    Implied,
    /// Shipped by an archive: holds where nothing below owns the directory (dpkg's rule).
    Shipped,
    /// Set on purpose, by a declaration or a maintainer script: holds over what lies below.
    Set,
}

/// The type of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Dir(Claim),
    /// A regular file of that many bytes.
    File(u64),
    Symlink(Box<[u8]>),
    /// Another name of the file at that path, which sorts before this one.
    Hardlink(LayerPath),
    Char {
        major: u32,
        minor: u32,
    },
    Block {
        major: u32,
        minor: u32,
    },
    Fifo,
    /// The path is gone from here up (`.wh.NAME` in the tar).
    Whiteout,
    /// The mark `DIR/.wh..wh..opq`: the directory hides what lower layers hold in it.
    Opaque,
}

/// One path of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub path: LayerPath,
    pub meta: Meta,
    pub kind: Kind,
}
