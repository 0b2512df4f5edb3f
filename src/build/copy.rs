//! Files of what other layers give become a delta: a path of the view, its files laid like those of
//! any other source.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::assembly::{Assembly, AssemblyError};
use super::builder::{Builder, Made};
use super::error::BuildError;
use super::extract::ExtractError;
use super::listing::Listing;
use super::view::View;
use crate::decl::Picks;
use crate::entry::{Claim, Entry, Kind, Meta};
use crate::fsx::IoAt;
use crate::path::LayerPath;
use crate::plan::{Ids, Step, TakeWork};
use crate::store::LayerRecord;

impl Builder<'_> {
    pub(super) fn make_copy(
        &self,
        step: &Step,
        take: &TakeWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let view = View::new(&self.below(step)?);
            let mut draft = self.store.draft()?;
            let tree = self.store.tree_draft()?;
            let listing = lay(&view, &step.title, take, tree.path(), &mut draft)
                .map_err(|source| BuildError::Extract { layer: step.layer.to_string(), source })?;
            let inner = tree.path().to_owned();
            self.commit(Made::of(step), draft, tree, &inner, &listing)
        })
    }
}

struct Copying<'a> {
    view: &'a View,
    label: &'a str,
    take: &'a TakeWork,
    picks: Picks,
    assembly: Assembly,
    count: u64,
}

fn lay(
    view: &View,
    label: &str,
    take: &TakeWork,
    tree: &Path,
    tar: &mut dyn Write,
) -> Result<Listing, ExtractError> {
    let picks = Picks::new(take.strip, &take.subdirectory, &take.include, &take.exclude)?;
    let mut copying =
        Copying { view, label, take, picks, assembly: Assembly::new(tree)?, count: 0 };
    let from = LayerPath::root().join(take.subdirectory.as_bytes()).map_err(AssemblyError::from)?;
    copying.copy(&from)?;
    if copying.count == 0 {
        return Err(ExtractError::Nothing { label: label.to_owned() });
    }
    let finished: Result<Listing, AssemblyError> =
        copying.assembly.finish(|_, one, two| Ok(one.max(two)), tar);
    Ok(finished?)
}

impl Copying<'_> {
    fn refuse(&self, path: &LayerPath, reason: &'static str) -> ExtractError {
        ExtractError::Member { label: self.label.to_owned(), path: path.to_string(), reason }
    }

    /// Copies a path and what lies below it.
    fn copy(&mut self, path: &LayerPath) -> Result<(), ExtractError> {
        let found = match path.is_root() {
            true => None,
            false => match self.view.find(path) {
                Some(found) => Some(found),
                None => return Ok(()),
            },
        };
        let meta = found.as_ref().map(|found| fs::symlink_metadata(found).at("stat", found));
        let meta = meta.transpose()?;
        let is_dir = meta.as_ref().is_none_or(fs::Metadata::is_dir);
        if let Some(rest) = self.picks.place(path, is_dir) {
            let into = self.take.into.join(&rest).map_err(AssemblyError::from)?;
            if let Some((found, meta)) = found.as_ref().zip(meta.as_ref()) {
                self.put(path, into, found, meta)?;
            }
        }
        if !is_dir {
            return Ok(());
        }
        for name in self.view.list(&path.to_string()) {
            let below = path.join(name.as_bytes()).map_err(AssemblyError::from)?;
            if self.view.find(&below).is_none() {
                return Err(self.refuse(&below, "has a name that is not UTF-8"));
            }
            self.copy(&below)?;
        }
        Ok(())
    }

    fn put(
        &mut self,
        path: &LayerPath,
        into: LayerPath,
        found: &Path,
        meta: &fs::Metadata,
    ) -> Result<(), ExtractError> {
        let ids = self.take.ids;
        let owned = |mode| Meta { uid: ids.uid, gid: ids.gid, ..Meta::root(mode) };
        let claim = if ids == Ids::default() { Claim::Shipped } else { Claim::Set };
        if meta.is_dir() {
            let is_place = into == self.take.into && claim == Claim::Shipped;
            if is_place || into.is_root() {
                return Ok(());
            }
            let entry = Entry { path: into, meta: owned(0o755), kind: Kind::Dir(claim) };
            return Ok(self.assembly.put(0, entry, &mut io::empty())?);
        }
        self.count += 1;
        if meta.is_symlink() {
            let target = fs::read_link(found).at("read link", found)?;
            let kind = Kind::Symlink(target.as_os_str().as_bytes().into());
            let entry = Entry { path: into, meta: owned(0o777), kind };
            return Ok(self.assembly.put(0, entry, &mut io::empty())?);
        }
        if !meta.is_file() {
            return Err(self.refuse(path, "is a device or a pipe"));
        }
        let usual = if meta.mode() & 0o111 != 0 { 0o755 } else { 0o644 };
        let entry = Entry {
            path: into,
            meta: owned(self.take.mode.unwrap_or(usual)),
            kind: Kind::File(meta.len()),
        };
        let mut file = File::open(found).at("open", found)?;
        Ok(self.assembly.put(0, entry, &mut (&mut file).take(meta.len()))?)
    }
}
