//! Tarballs of npm's that lie in the source of another recipe: taken out of it, when they are locked and
//! whenever the store has lost them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;

use super::Places;
use super::project_files::{LARGEST, LookError, plain};
use crate::digest::Integrity;
use crate::fetch::{FetchError, Progress, take_file};
use crate::fsx::IoAt;
use crate::lock::{NpmPin, Source};
use crate::tarball::{MemberKind, Reader, unpacked};
use crate::zipfile::{ZipFile, ZipFileError};

impl Places<'_> {
    /// Takes tarballs out of sources that are in the store; answers what failed.
    pub(super) fn fetch_inner(
        &self,
        sources: &[Source<'_>],
        progress: &dyn Progress,
    ) -> BTreeMap<Integrity, FetchError> {
        let mut failures = BTreeMap::new();
        for source in sources.iter().filter(|source| !self.has(source)) {
            let Source::Npm(pin) = source else { continue };
            if let Err(error) = self.take_inner(pin, source, progress) {
                failures.insert(source.integrity(), error);
            }
        }
        failures
    }

    fn take_inner(
        &self,
        pin: &NpmPin,
        source: &Source<'_>,
        progress: &dyn Progress,
    ) -> Result<(), FetchError> {
        let label = format!("{} `{}`", source.kind(), source.label());
        let (outer, member) =
            pin.laid_in().ok_or_else(|| FetchError::NoUrl { label: label.clone() })?;
        if self.store.find_source(&outer).is_none() {
            let (from, to) = (self.want(source).label, outer);
            return Err(FetchError::NoUrl { label: format!("{from}, which lies in {to}") });
        }
        let scratch = self.store.tree_draft()?;
        let path = scratch.path().join("tarball");
        let found = extract(&self.store.source_path(&outer), member, &path)
            .map_err(io::Error::other)
            .at("take a tarball out of", self.store.source_path(&outer))?;
        match found {
            true => take_file(&path, member, &self.want(source), progress),
            false => Err(FetchError::NoUrl { label: format!("{label} (`{member}` of {outer})") }),
        }
    }
}

/// Copies a member of an archive; answers whether there is one of that name.
fn extract(blob: &Path, member: &str, into: &Path) -> Result<bool, LookError> {
    let mut file = BufReader::new(File::open(blob).at("open", blob)?);
    let mut output = File::create(into).at("create", into)?;
    if file.fill_buf().at("read", blob)?.starts_with(b"PK\x03\x04") {
        let mut zip = ZipFile::open(blob, |_| {})?;
        let members = zip.members()?;
        let is_meant = |name: &[u8]| plain(name).is_some_and(|name| name == member);
        let found = members.iter().find(|one| is_meant(one.name.as_bytes()));
        let Some(found) = found else { return Ok(false) };
        zip.read(found, |body, whole| -> Result<(), ZipFileError> {
            let copied = match whole {
                Some(bytes) => output.write_all(bytes),
                None => io::copy(body, &mut output).map(drop),
            };
            Ok(copied.at("write", into)?)
        })?;
        return Ok(true);
    }
    let mut reader = Reader::new(unpacked(file).at("read", blob)?, LARGEST);
    while let Some(one) = reader.next_member()? {
        if one.kind == MemberKind::File && plain(&one.path).is_some_and(|name| name == member) {
            io::copy(&mut reader, &mut output).at("write", into)?;
            return Ok(true);
        }
    }
    Ok(false)
}
