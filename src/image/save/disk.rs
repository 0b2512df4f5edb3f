//! The image's file system as a disk image, for micro-VMs that boot over it.
//!
//! Made by the host's `mke2fs` (e2fsprogs) or `mkfs.erofs` (erofs-utils) out of a tree in the store's
//! corner of this process: the crates that write these formats by themselves are young, and a root
//! file system is checked by kernels. No configuration of the host's is read; identity, hash seed and
//! times are fixed, so one version of the program gives the same bytes. mke2fs takes the change times
//! of the tree's files, which nobody can set: they are put right in the inode tables afterwards. So
//! that this needs no sums to be made anew, the image has no metadata checksums; it has no journal
//! either (`tune2fs -j` adds one).

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, PipeWriter, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::flat::{Extent, Flat};
use super::{SaveError, Saved};
use crate::build::unpack::unpack_tar;
use crate::digest::Digest;
use crate::entry::EPOCH;
use crate::fsx::IoAt;
use crate::tarball::Limits;

/// A file system that fits on a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskKind {
    Ext4,
    Erofs,
}

/// The host's programs that make file systems.
pub struct Mkfs {
    /// Where they are looked for.
    pub path: Vec<PathBuf>,
}

/// What an ext4 image has; nothing of it depends on the host's `mke2fs.conf`.
const FEATURES: &str = "none,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize";

/// Room for people's own files in an image that can be written to.
const SPARE: u64 = 64 << 20;

impl Saved<'_> {
    /// Writes a disk image to `into`, which is made or replaced. The caller may lay any owner.
    pub fn write_disk(&self, kind: DiskKind, mkfs: &Mkfs, into: &Path) -> Result<(), SaveError> {
        let program = mkfs.find(kind)?;
        let tars = self.tars()?;
        let flat = Flat::read(&tars.layers)?;
        let extent = flat.extent();
        let tree = self.store.tree_draft()?;
        unpack(&flat, tree.path())?;
        let uuid = uuid(&self.record.image);
        let result = match kind {
            DiskKind::Ext4 => make_ext4(&program, &uuid, extent, tree.path(), into),
            DiskKind::Erofs => make_erofs(&program, &uuid, tree.path(), into),
        };
        result.inspect_err(|_| fs::remove_file(into).unwrap_or_default())
    }
}

impl Mkfs {
    fn find(&self, kind: DiskKind) -> Result<PathBuf, SaveError> {
        let (program, package) = match kind {
            DiskKind::Ext4 => ("mke2fs", "e2fsprogs"),
            DiskKind::Erofs => ("mkfs.erofs", "erofs-utils"),
        };
        let usual = ["/usr/sbin", "/sbin", "/usr/bin"].map(PathBuf::from);
        let mut dirs = self.path.iter().chain(&usual);
        let found = dirs.find_map(|dir| Some(dir.join(program)).filter(|path| path.is_file()));
        found.ok_or(SaveError::NoProgram { program, package })
    }
}

/// Lays the image's tree into an empty directory.
fn unpack(flat: &Flat, tree: &Path) -> Result<(), SaveError> {
    let (reader, mut writer): (_, PipeWriter) = io::pipe().at("make a pipe for", tree)?;
    std::thread::scope(|scope| {
        let laying = scope.spawn(|| {
            let limits = Limits { bytes: u64::MAX, members: u64::MAX };
            unpack_tar(reader, limits, tree, false)
        });
        let written = flat.write(&mut writer);
        drop(writer);
        // who reads knows better why nothing was taken
        laying.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        written
    })
}

/// A version 8 UUID (RFC 9562) that is the image's own.
fn uuid(image: &Digest) -> String {
    let hex = image.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

fn make_ext4(
    program: &Path,
    uuid: &str,
    extent: Extent,
    tree: &Path,
    into: &Path,
) -> Result<(), SaveError> {
    let inodes = extent.nodes + extent.nodes / 8 + 1024;
    let bytes = extent.bytes + extent.bytes / 8 + inodes * 256 + SPARE;
    let blocks = bytes.div_ceil(4096);
    let config = tree.with_extension("conf");
    fs::write(&config, "[defaults]\n[fs_types]\next4 = {\n}\nsmall = {\n}\nbig = {\n}\n")
        .at("write", &config)?;
    fs::remove_file(into).or_else(missing).at("remove", into)?;
    let mut command = Command::new(program);
    let options = format!("hash_seed={uuid},root_owner=0:0,nodiscard,lazy_itable_init=0");
    let numbers = [inodes.to_string(), blocks.to_string()];
    command
        .args(["-q", "-F", "-t", "ext4", "-U", uuid, "-E", &options, "-O", FEATURES])
        .args(["-b", "4096", "-m", "0", "-I", "256", "-N", &numbers[0], "-d"])
        .arg(tree)
        .arg(into)
        .arg(&numbers[1])
        .env("MKE2FS_CONFIG", &config)
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string());
    run("mke2fs", command)?;
    fix_times(into)
}

fn make_erofs(program: &Path, uuid: &str, tree: &Path, into: &Path) -> Result<(), SaveError> {
    fs::remove_file(into).or_else(missing).at("remove", into)?;
    let mut command = Command::new(program);
    command
        .args(["--quiet", "-x1", &format!("-T{EPOCH}"), "--preserve-mtime"])
        // the short form of inodes has no time
        .args(["-Eforce-inode-extended", &format!("-U{uuid}")])
        .arg(into)
        .arg(tree);
    run("mkfs.erofs", command)
}

fn missing(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

/// Runs a program in an environment of its own.
fn run(program: &'static str, mut command: Command) -> Result<(), SaveError> {
    let own: Vec<(OsString, OsString)> = command
        .get_envs()
        .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
        .collect();
    command.env_clear().envs(own).env("LC_ALL", "C").env("SOURCE_DATE_EPOCH", EPOCH.to_string());
    let path = PathBuf::from(command.get_program());
    let output = command.stdin(std::process::Stdio::null()).output().at("start", &path)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(SaveError::Program { program, status: output.status.to_string(), said })
}

/// Gives every inode its modification time as the time of its change and of its last access.
fn fix_times(path: &Path) -> Result<(), SaveError> {
    const MAGIC: u16 = 0xef53;
    let file = OpenOptions::new().read(true).write(true).open(path).at("open", path)?;
    let read = |at: u64, length: usize| -> Result<Vec<u8>, SaveError> {
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, at).at("read", path)?;
        Ok(bytes)
    };
    let word = |bytes: &[u8], at: usize| {
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    };
    // ext4 disk layout: superblock, group descriptors of 64 bytes, inodes of 256
    let top = read(1024, 1024)?;
    let wrong = |reason| SaveError::Disk { path: path.to_owned(), reason };
    if u16::from_le_bytes([top[0x38], top[0x39]]) != MAGIC || word(&top, 0x18) != 2 {
        return Err(wrong("its superblock is not"));
    }
    let (blocks, per_group) = (u64::from(word(&top, 4)), u64::from(word(&top, 0x20)));
    let inodes = word(&top, 0x28) as usize;
    if top[0x58] != 0 || top[0x59] != 1 || top[0xfe] != 64 || word(&top, 0x64) & 0x400 != 0 {
        return Err(wrong("its inodes or descriptors have another form"));
    }
    for group in 0..blocks.div_ceil(per_group.max(1)) {
        let descriptor = read(4096 + group * 64, 64)?;
        let table = u64::from(word(&descriptor, 8)) | u64::from(word(&descriptor, 0x28)) << 32;
        let mut bytes = read(table * 4096, inodes * 256)?;
        for inode in bytes.chunks_exact_mut(256).filter(|inode| inode[..2] != [0, 0]) {
            let (time, fine): ([u8; 4], [u8; 4]) = (
                inode[16..20].try_into().expect("four bytes"),
                inode[0x88..0x8c].try_into().expect("four bytes"),
            );
            // access, change; their nanoseconds, and the birth
            inode[8..12].copy_from_slice(&time);
            inode[12..16].copy_from_slice(&time);
            inode[0x84..0x88].copy_from_slice(&fine);
            inode[0x8c..0x90].copy_from_slice(&fine);
            inode[0x90..0x94].copy_from_slice(&time);
            inode[0x94..0x98].copy_from_slice(&fine);
        }
        file.write_all_at(&bytes, table * 4096).at("write", path)?;
    }
    Ok(file.sync_all().at("write", path)?)
}

/// Copies a disk image to where it is wanted.
pub fn copy_out(from: &Path, out: &mut dyn Write) -> Result<(), SaveError> {
    let mut file = File::open(from).at("open", from)?;
    io::copy(&mut file, out).and_then(|_| out.flush()).map_err(SaveError::Output)
}
