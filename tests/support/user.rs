//! An ordinary user with subordinate ids, made for a test and removed after it. Needs root.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::tool;

pub struct User {
    name: String,
    pub id: u32,
    home: tempfile::TempDir,
}

impl User {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sbx-{}-{count}", std::process::id());
        tool("useradd", &["--no-create-home", "--shell", "/usr/sbin/nologin", &name]);
        let id = tool("id", &["-u", &name]).trim().parse().unwrap();
        let home = tempfile::tempdir().unwrap();
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
        // the build's own directory need not be open to others
        fs::copy(env!("CARGO_BIN_EXE_sbx"), home.path().join("sbx")).unwrap();
        User { name, id, home }
    }

    /// The program, where the user can start it.
    pub fn program(&self) -> PathBuf {
        self.home.path().join("sbx")
    }

    /// Gives the user what is root's of a tree; what is somebody's already stays as it is.
    pub fn own(&self, path: &Path) {
        if path.symlink_metadata().unwrap().uid() == 0 {
            lchown(path, Some(self.id), Some(self.id)).unwrap();
        }
        if path.is_dir() && !path.is_symlink() {
            for entry in fs::read_dir(path).unwrap() {
                self.own(&entry.unwrap().path());
            }
        }
    }
}

impl Drop for User {
    fn drop(&mut self) {
        tool("userdel", &[&self.name]);
    }
}
