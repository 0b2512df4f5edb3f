//! Tarballs as programs that are run: unpacked into a directory of the host.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::tarball::{Item, ItemKind, Tarball, TarballError};
use crate::digest::Integrity;
use crate::fsx::IoAt;

/// Unpacks what `place` has a place for, held against its digest.
pub fn unpack(
    blob: &Path,
    integrity: &Integrity,
    place: impl Fn(&Item) -> Option<PathBuf>,
) -> Result<(), TarballError> {
    let lay = |item: Item, body: &mut dyn Read| match place(&item) {
        Some(path) => write(&path, &item, body),
        None => io::copy(body, &mut io::sink()).at("read", blob).map(drop).map_err(Into::into),
    };
    Tarball::open(blob, integrity)?.visit(lay)
}

fn write(path: &Path, item: &Item, body: &mut dyn Read) -> Result<(), TarballError> {
    if item.kind == ItemKind::Dir {
        fs::create_dir_all(path).at("create", path)?;
        return Ok(());
    }
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).at("create", dir)?;
    }
    let mut file = fs::File::create(path).at("create", path)?;
    io::copy(body, &mut file).at("write", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(item.mode)).at("set mode of", path)?;
    Ok(())
}
