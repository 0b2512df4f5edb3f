//! The image's file system as a disk image, for micro-VMs that boot over it.
//!
//! Made by the host's `mke2fs` (e2fsprogs) or `mkfs.erofs` (erofs-utils) out of a tree in the store's
//! corner of this process: the crates that write these formats by themselves are young, and a root
//! file system is checked by kernels. No configuration of the host's is read; identity, hash seed and
//! times are fixed, so one version of the program gives the same bytes. mke2fs takes the change times
//! of the tree's files, which nobody can set, and makes a root of its own: both are put right in the inode
//! tables afterwards. So
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
use crate::build::unpack::unpack_whole;
use crate::digest::Digest;
use crate::entry::{EPOCH, Meta};
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
            DiskKind::Ext4 => make_ext4(&program, &uuid, extent, tree.path(), into)
                .and_then(|()| Inodes::open(into)?.mend(flat.root().unwrap_or(&Meta::root(0o755)))),
            DiskKind::Erofs => {
                let latest = flat.newest().unwrap_or(EPOCH).max(EPOCH);
                make_erofs(&program, &uuid, latest, tree.path(), into)
            }
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
            unpack_whole(reader, limits, tree)
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
        .env("SOURCE_DATE_EPOCH", EPOCH.to_string())
        .env("E2FSPROGS_FAKE_TIME", EPOCH.to_string());
    run("mke2fs", command)
}

/// No file may be younger than the program is told that it is now.
fn make_erofs(
    program: &Path,
    uuid: &str,
    latest: i64,
    tree: &Path,
    into: &Path,
) -> Result<(), SaveError> {
    fs::remove_file(into).or_else(missing).at("remove", into)?;
    let mut command = Command::new(program);
    command
        .args(["--quiet", "-x1", &format!("-T{latest}"), "--preserve-mtime"])
        // the short form of inodes has no time
        .args(["-Eforce-inode-extended", &format!("-U{uuid}")])
        .arg(into)
        .arg(tree)
        .env("SOURCE_DATE_EPOCH", latest.to_string());
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
    command.env_clear().envs(own).env("LC_ALL", "C");
    let path = PathBuf::from(command.get_program());
    let output = command.stdin(std::process::Stdio::null()).output().at("start", &path)?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(SaveError::Program { program, status: output.status.to_string(), said })
}

/// The inode tables of an ext4 image (ext4 disk layout: superblock, group descriptors of 64 bytes, inodes
/// of 256).
struct Inodes<'a> {
    file: File,
    path: &'a Path,
    /// Inodes of a group.
    count: usize,
    groups: u64,
}

impl<'a> Inodes<'a> {
    fn open(path: &'a Path) -> Result<Self, SaveError> {
        const MAGIC: u16 = 0xef53;
        let file = OpenOptions::new().read(true).write(true).open(path).at("open", path)?;
        let mut top = [0; 1024];
        file.read_exact_at(&mut top, 1024).at("read", path)?;
        let wrong = |reason| SaveError::Disk { path: path.to_owned(), reason };
        if u16::from_le_bytes([top[0x38], top[0x39]]) != MAGIC || word(&top, 0x18) != 2 {
            return Err(wrong("its superblock is not"));
        }
        if top[0x58] != 0 || top[0x59] != 1 || top[0xfe] != 64 || word(&top, 0x64) & 0x400 != 0 {
            return Err(wrong("its inodes or descriptors have another form"));
        }
        let (blocks, per_group) = (u64::from(word(&top, 4)), u64::from(word(&top, 0x20)));
        let groups = blocks.div_ceil(per_group.max(1));
        Ok(Inodes { file, path, count: word(&top, 0x28) as usize, groups })
    }

    /// Gives the root what the image says of it, and every inode its modification time as the time of its
    /// change and of its last access.
    fn mend(&self, root: &Meta) -> Result<(), SaveError> {
        for group in 0..self.groups {
            let mut descriptor = [0; 64];
            self.read(&mut descriptor, 4096 + group * 64)?;
            let table = u64::from(word(&descriptor, 8)) | u64::from(word(&descriptor, 0x28)) << 32;
            let mut bytes = vec![0; self.count * 256];
            self.read(&mut bytes, table * 4096)?;
            if group == 0 {
                // the second of all
                set_root(&mut bytes[256..512], root);
            }
            let used = |inode: &&mut [u8]| inode[..2] != [0, 0];
            bytes.chunks_exact_mut(256).filter(used).for_each(set_times);
            self.file.write_all_at(&bytes, table * 4096).at("write", self.path)?;
        }
        Ok(self.file.sync_all().at("write", self.path)?)
    }

    fn read(&self, into: &mut [u8], at: u64) -> Result<(), SaveError> {
        Ok(self.file.read_exact_at(into, at).at("read", self.path)?)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// mke2fs takes a root of its own, and of the tree's only the attributes.
fn set_root(inode: &mut [u8], meta: &Meta) {
    const DIR: u32 = 0o40000;
    let mut half = |at: usize, value: u32| {
        inode[at..at + 2].copy_from_slice(&value.to_le_bytes()[..2]);
    };
    half(0, DIR | meta.mode);
    half(2, meta.uid);
    half(0x78, meta.uid >> 16);
    half(0x18, meta.gid);
    half(0x7a, meta.gid >> 16);
    // 34 bits: the upper two are with the nanoseconds
    inode[0x10..0x14].copy_from_slice(&meta.mtime.to_le_bytes()[..4]);
    inode[0x88..0x8c].fill(0);
}

fn set_times(inode: &mut [u8]) {
    // access, change; their nanoseconds; the birth with its own
    for to in [8, 12, 0x90] {
        inode.copy_within(16..20, to);
    }
    for to in [0x84, 0x8c, 0x94] {
        inode.copy_within(0x88..0x8c, to);
    }
}

/// Copies a disk image to where it is wanted.
pub fn copy_out(from: &Path, out: &mut dyn Write) -> Result<(), SaveError> {
    let mut file = File::open(from).at("open", from)?;
    io::copy(&mut file, out).and_then(|_| out.flush()).map_err(SaveError::Output)
}
