//! The chain of Debian's layers as steps of a build: contents, settles, accounts.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::builder::{Builder, Made};
use super::capture::capture;
use super::content::{self, ContentError, Laying};
use super::error::BuildError;
use super::settle::accounts::Account;
use super::settle::sources::{AptSource, AptStanza};
use super::settle::{self, NewPackage, Settle};
use super::view::View;
use crate::debian::path_filter::PathFilter;
use crate::decl::Debconf;
use crate::fsx::IoAt;
use crate::lock::{DebPin, Mark, Source};
use crate::plan::{AccountWork, ContentWork, Plan, SettleWork, Step};
use crate::store::LayerRecord;

impl Builder<'_> {
    pub(super) fn make_content(
        &self,
        step: &Step,
        work: &ContentWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || match self.lay_content(step, work) {
            Err(BuildError::Content {
                source: ContentError::Corrupt { expected, package, .. },
                ..
            }) => {
                self.events.note(&format!(
                    "package `{package}` was damaged in the store: it is fetched again"
                ));
                self.store.drop_blob(&expected)?;
                let lost: Vec<Source<'_>> = work
                    .pins
                    .iter()
                    .filter(|pin| pin.digest == expected)
                    .map(Source::Deb)
                    .collect();
                self.fetch(&lost)?;
                self.lay_content(step, work)
            }
            result => result,
        })
    }

    fn lay_content(&self, step: &Step, work: &ContentWork) -> Result<LayerRecord, BuildError> {
        self.events.step_started(&step.key, &step.title, work.pins.len() as u64);
        let packages = self.packages(&work.pins);
        let filter = PathFilter::new(&work.paths.exclude, &work.paths.include)
            .expect("patterns were checked when they were read");
        let laying = Laying { fresh: work.fresh, filter: &filter };
        let mut draft = self.store.draft()?;
        let tree = self.store.tree_draft()?;
        let progress = |label: &str| self.events.step_advanced(&step.key, label);
        let listing = content::lay(&packages, laying, tree.path(), &mut draft, &progress)
            .map_err(|source| BuildError::Content { layer: step.layer.to_string(), source })?;
        let inner = tree.path().to_owned();
        self.commit(Made::of(step), draft, tree, &inner, &listing)
    }

    fn packages(&self, pins: &[DebPin]) -> Vec<content::Package> {
        let package = |pin: &DebPin| content::Package {
            label: pin.label(),
            blob: self.store.blob_path(&pin.digest),
            digest: pin.digest,
        };
        pins.iter().map(package).collect()
    }

    pub(super) fn make_settle(
        &self,
        plan: &Plan,
        step: &Step,
        work: &SettleWork,
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, work.pins.len() as u64);
            let failed = |source| BuildError::Settle { layer: step.layer.to_string(), source };
            let content_failed =
                |source| BuildError::Content { layer: step.layer.to_string(), source };
            let lowers = self.below(step)?;
            let packages = self.packages(&work.pins);
            let controls = content::read_controls(&packages).map_err(content_failed)?;
            let packages: Vec<NewPackage> = packages
                .into_iter()
                .zip(controls)
                .zip(&work.pins)
                .map(|((package, control), pin)| NewPackage {
                    label: package.label,
                    blob: package.blob,
                    auto: pin.mark == Mark::Auto,
                    diverts: content::diverts(&control),
                    control,
                })
                .collect();
            let mut keyrings = Vec::new();
            for (path, file) in &work.keyrings {
                let full = self.project.root.join(file);
                keyrings.push((path.clone(), std::fs::read(&full).at("read", &full)?));
            }
            let log = self.log_path(&step.key)?;
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            let job = Settle {
                lowers: &lowers,
                content: lowers.last().map(PathBuf::as_path),
                packages: &packages,
                accounts: &accounts(&work.accounts),
                sources: &sources(work),
                keyrings: &keyrings,
                debconf: &debconf(work),
                arch: plan.platform.debian(),
                jail: self.jail,
                scratch: scratch.path(),
                log: &log,
            };
            let mut progress = |package: &str| self.events.step_advanced(&step.key, package);
            let listing = settle::settle(&job, &mut draft, &mut progress).map_err(failed)?;
            let inner = scratch.path().join("upper");
            self.commit(Made::of(step), draft, scratch, &inner, &listing)
        })
    }

    pub(super) fn make_accounts(
        &self,
        step: &Step,
        work: &[AccountWork],
    ) -> Result<LayerRecord, BuildError> {
        self.once(step, || {
            self.events.step_started(&step.key, &step.title, 1);
            let failed = |source| BuildError::Settle { layer: step.layer.to_string(), source };
            let view = View::new(&self.below(step)?);
            let scratch = self.store.tree_draft()?;
            let mut draft = self.store.draft()?;
            settle::add_to(scratch.path(), &view, &accounts(work)).map_err(failed)?;
            let listing =
                capture(scratch.path(), &view, &mut draft).map_err(|error| failed(error.into()))?;
            let inner = scratch.path().to_owned();
            self.commit(Made::of(step), draft, scratch, &inner, &listing)
        })
    }
}

fn accounts(work: &[AccountWork]) -> Vec<Account> {
    let account = |account: &AccountWork| Account {
        name: account.name.clone(),
        uid: account.uid,
        gid: account.gid,
        group: account.group.clone(),
        groups: account.groups.clone(),
        home: account.home.clone(),
        shell: account.shell.clone(),
    };
    work.iter().map(account).collect()
}

/// Stanzas of one name go into one file.
fn sources(work: &SettleWork) -> Vec<AptSource> {
    let mut files: BTreeMap<&str, Vec<AptStanza>> = BTreeMap::new();
    for source in &work.sources {
        files.entry(&source.name).or_default().push(AptStanza {
            uri: source.uri.clone(),
            suites: source.suites.clone(),
            components: source.components.clone(),
            signed_by: source.signed_by.clone(),
        });
    }
    files.into_iter().map(|(name, stanzas)| AptSource { name: name.to_owned(), stanzas }).collect()
}

fn debconf(work: &SettleWork) -> String {
    let line = |answer: &Debconf| {
        format!("{} {} {} {}\n", answer.package, answer.question, answer.kind, answer.value)
    };
    work.debconf.iter().map(line).collect()
}
