//! Ranges of ids, one an instance, taken on the whole machine.
//!
//! They lie where systemd and shadow give none out (systemd's table of uids). A range is a link named
//! by its number that leads to the instance's directory: made at once or not at all, and stale when
//! the directory is gone.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::LaunchError;
use crate::fsx::IoAt;
use crate::jail::instance::COUNT;

const DIR: &str = "/run/sbx/ids";
const FIRST: u32 = 0x7000_0000;
const SLOTS: u32 = 4000;

/// Takes a range for the instance in `dir`, beginning the search at a number drawn by lot.
pub(super) fn take(dir: &Path, lot: u32) -> Result<u32, LaunchError> {
    fs::create_dir_all(DIR).at("create", DIR)?;
    for step in 0..SLOTS {
        let slot = lot.wrapping_add(step) % SLOTS;
        let link = path(slot);
        match std::os::unix::fs::symlink(dir, &link) {
            Ok(()) => return Ok(FIRST + slot * COUNT),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let holder = fs::read_link(&link).unwrap_or_default();
                if holder == dir || !holder.exists() {
                    // of two who find it stale, one makes it anew
                    fs::remove_file(&link).unwrap_or_default();
                    if std::os::unix::fs::symlink(dir, &link).is_ok() {
                        return Ok(FIRST + slot * COUNT);
                    }
                }
            }
            Err(error) => return Err(Err::<(), _>(error).at("create", &link).unwrap_err().into()),
        }
    }
    Err(LaunchError::NoIds)
}

/// Gives a range back.
pub(super) fn give_back(first: u32) {
    let slot = first.wrapping_sub(FIRST) / COUNT;
    fs::remove_file(path(slot)).unwrap_or_default();
}

fn path(slot: u32) -> PathBuf {
    Path::new(DIR).join(slot.to_string())
}
