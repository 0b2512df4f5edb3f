//! Programs of another processor, which the kernel hands to an emulator (binfmt_misc).
//!
//! Since Linux 6.7 a user namespace may have a table of foreign formats of its own. So a sandbox for
//! another platform puts one around its program, in which every id is what it was outside, and enters
//! the emulator into that namespace's table: nothing is set up on the host, nothing else there sees the
//! entry, and it is gone with the sandbox. The kernel opens the emulator as it is entered and keeps it
//! open (flag `F`), so its file is in no image and no layer.
//!
//! The sandbox is mounted before, outside: an overlay reads its marks with its mounter's rights. An
//! older kernel has one table, which is root's. If that has an entry for the platform that needs no file
//! of the image, it does; it is looked for and never made.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::process::Pid;
use rustix::thread::UnshareFlags;
use serde::{Deserialize, Serialize};

use super::child::{Setup, Step, die_with_parent};
use super::probe::{self, Obstacle};
use crate::platform::Platform;

/// A static program that runs those of a platform.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Emulator {
    pub program: PathBuf,
    pub platform: Platform,
}

/// How programs of a platform run in this machine's sandboxes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Emulation {
    /// By the processor.
    Native,
    /// By an emulator in a table of the sandbox's own.
    Own,
    /// By this entry of the machine's table.
    Host(String),
}

impl Emulation {
    /// Tries it, or says what stands in the way. Nothing on the machine changes.
    pub fn find(platform: Platform) -> Result<Self, Obstacle> {
        if platform == Platform::host() {
            return Ok(Emulation::Native);
        }
        let Err(error) = probe::try_table() else { return Ok(Emulation::Own) };
        let entry = find_entry(Path::new(HOST_TABLE), platform);
        entry.map(Emulation::Host).ok_or_else(|| probe::without_table(platform, &error))
    }
}

/// Where the machine's table is.
const HOST_TABLE: &str = "/proc/sys/fs/binfmt_misc";

/// An enabled entry for a platform whose emulator is open already.
fn find_entry(table: &Path, platform: Platform) -> Option<String> {
    let names =
        fs::read_dir(table).ok()?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let fits = |name: &String| {
        let entry = fs::read_to_string(table.join(name)).unwrap_or_default();
        [EXECUTABLE, SHARED].iter().all(|kind| is_for(&entry, &header(platform, *kind)))
    };
    names.into_iter().find(fits)
}

/// Whether an entry, as its file says it, takes programs that begin like this.
fn is_for(entry: &str, program: &[u8]) -> bool {
    let field = |name: &str| entry.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let bytes = |text: &str| -> Option<Vec<u8>> {
        let pairs = text.as_bytes().chunks(2);
        pairs.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()).collect()
    };
    let Some(magic) = field("magic ").and_then(bytes) else { return false };
    let mask = field("mask ").and_then(bytes).unwrap_or_else(|| vec![0xff; magic.len()]);
    let open = field("flags:").is_some_and(|flags| flags.contains('F'));
    let begins = program.len() >= magic.len()
        && magic.iter().zip(&mask).zip(program).all(|((a, mask), b)| (a ^ b) & mask == 0);
    entry.lines().next() == Some("enabled") && open && field("offset ") == Some("0") && begins
}

/// Types of ELF files that are started (elf(5), `e_type`).
const EXECUTABLE: u8 = 2;
const SHARED: u8 = 3;

/// How programs of a platform begin: 64 bits, little-endian, any system's (elf(5)).
fn header(platform: Platform, kind: u8) -> [u8; 20] {
    let machine = match platform {
        Platform::Amd64 => 0x3e,
        Platform::Arm64 => 0xb7,
    };
    let mut header = [0; 20];
    header[..7].copy_from_slice(b"\x7fELF\x02\x01\x01");
    (header[16], header[18]) = (kind, machine);
    header
}

/// Which bits of a header count: not the system, and both types are meant.
fn mask() -> [u8; 20] {
    let mut mask = [0xff; 20];
    (mask[7], mask[16]) = (0, 0xfe);
    mask
}

impl Emulator {
    /// To be called while the host's files are in view.
    pub(super) fn open(&self) -> Setup<OwnedFd> {
        let step = || format!("open the emulator `{}`", self.program.display());
        rustix::fs::open(&self.program, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step(step())
    }

    /// In a sandbox that is mounted: goes into a user namespace that knows the emulator. It does as
    /// long as what is answered is kept.
    pub(super) fn enter(&self, file: &OwnedFd, outer: &mut UnixStream) -> Setup<OwnedFd> {
        let flags = UnshareFlags::NEWUSER | UnshareFlags::NEWNS;
        // SAFETY: this process has one thread; neither flag shares file descriptors or memory
        unsafe { rustix::thread::unshare_unsafe(flags) }.step("make the emulator's namespace")?;
        let mut byte = [0];
        let mapped = outer.write_all(b"m").and_then(|()| outer.read_exact(&mut byte));
        mapped.step("wait for the ids of the emulator's namespace")?;
        die_with_parent()?;
        let table = mount_table().step("mount the table of formats")?;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let register = rustix::fs::openat(&table, "register", flags, Mode::empty())
            .step("open the table of formats")?;
        rustix::io::write(&register, self.entry(file).as_bytes()).step("enter the emulator")?;
        Ok(table)
    }

    /// What is written to the table. `P` keeps the name that a program was called by.
    fn entry(&self, file: &OwnedFd) -> String {
        let escaped = |bytes: [u8; 20]| -> String {
            bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()
        };
        let (magic, mask) = (escaped(header(self.platform, EXECUTABLE)), escaped(mask()));
        let name = self.platform.architecture();
        format!(":{name}:M::{magic}:{mask}:/proc/self/fd/{}:PF", file.as_raw_fd())
    }
}

/// A table of this user namespace's own, in no place.
fn mount_table() -> rustix::io::Result<OwnedFd> {
    let table = open_table()?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&table, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// Refused where the kernel has one table for all (EPERM), or none (ENODEV).
pub(super) fn open_table() -> rustix::io::Result<OwnedFd> {
    let table = rustix::mount::fsopen("binfmt_misc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&table)?;
    Ok(table)
}

/// The host's /proc, where a process finds its child's ids: the sandbox's knows only what is inside.
pub(super) struct Ids(OwnedFd);

impl Ids {
    /// To be called before anything is mounted.
    pub(super) fn open() -> Setup<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open("/proc", flags, Mode::empty()).step("open /proc").map(Ids)
    }

    /// In the parent of a process that makes a namespace: its ids are to be what they are here.
    pub(super) fn map(&self, child: Pid, talk: &mut UnixStream) -> Setup<()> {
        let mut byte = [0];
        if talk.read_exact(&mut byte).is_err() {
            // it ended before, and said why
            return Ok(());
        }
        for name in ["uid_map", "gid_map"] {
            let own = self.file(&format!("self/{name}"), OFlags::RDONLY);
            let own = own.and_then(std::io::read_to_string).step(format!("read {name}"))?;
            let path = format!("{}/{name}", child.as_raw_nonzero());
            let file = self.file(&path, OFlags::WRONLY);
            // the kernel takes a map in one piece
            let written = file.and_then(|mut file| file.write_all(same_ids(&own).as_bytes()));
            written.step(format!("write {name}"))?;
        }
        talk.write_all(b"m").step("go on with the sandbox")
    }

    fn file(&self, path: &str, flags: OFlags) -> std::io::Result<File> {
        Ok(rustix::fs::openat(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty())?.into())
    }
}

/// The map under which every id of this one is itself.
fn same_ids(map: &str) -> String {
    let row = |line: &str| {
        let mut words = line.split_whitespace();
        let (first, _, count) = (words.next()?, words.next()?, words.next()?);
        Some(format!("{first} {first} {count}\n"))
    };
    map.lines().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = "enabled\ninterpreter /usr/libexec/qemu-binfmt/aarch64-binfmt-P\n\
        flags: POF\noffset 0\nmagic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";

    #[test]
    fn an_entry_of_the_machine_is_taken_if_it_needs_no_file_of_the_image() {
        let home = tempfile::tempdir().unwrap();
        let found = || find_entry(home.path(), Platform::Arm64);
        let put = |name: &str, text: &str| fs::write(home.path().join(name), text).unwrap();
        put("status", "enabled\n");
        put(
            "python",
            "enabled\ninterpreter /usr/bin/python3\nflags: F\noffset 0\nmagic 2b0e0d0a\n",
        );
        put("a", &ENTRY.replace("POF", "PO"));
        put("b", &ENTRY.replace("enabled", "disabled"));
        put("c", &ENTRY.replace("b700", "3e00"));
        assert_eq!(found(), None);
        put("qemu-aarch64", ENTRY);
        assert_eq!(found().as_deref(), Some("qemu-aarch64"));
        assert_eq!(find_entry(Path::new("/none"), Platform::Arm64), None);
    }

    #[test]
    fn ids_stay_what_they_are() {
        assert_eq!(same_ids("         0          0 4294967295\n"), "0 0 4294967295\n");
        assert_eq!(same_ids("0 1000 1\n1 100000 65535\n"), "0 0 1\n1 1 65535\n");
    }
}
