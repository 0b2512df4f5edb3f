//! Images of the store that are to be pushed together: those of a sandbox that are built, one of each
//! platform, and beside them some that were pulled.

use std::str::FromStr;

use sbx::lock::Lock;
use sbx::plan::Plan;
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::ship::Shipped;
use sbx::store::ImageRecord;

use super::build::plan_target;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Target, Workspace};

/// `[OS/ARCH=]REF`: what was pulled by a reference, for one platform or for all that it was pulled for.
#[derive(Clone, Debug)]
pub struct With {
    platform: Option<Platform>,
    reference: Reference,
}

impl FromStr for With {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (platform, reference) = match text.split_once('=') {
            Some((platform, reference)) => (Some(platform), reference),
            None => (None, text),
        };
        let platform = platform.map(|text| text.parse().map_err(|error| format!("{error}")));
        let reference: Result<_, sbx::reference::ReferenceError> = reference.parse();
        Ok(With {
            platform: platform.transpose()?,
            reference: reference.map_err(|error| error.to_string())?,
        })
    }
}

/// An image of the store that is to be pushed.
pub struct Ready {
    pub platform: Platform,
    pub whence: Whence,
    pub record: ImageRecord,
}

/// Where an image is from.
pub enum Whence {
    Built(Box<Plan>),
    Pulled(Reference),
}

impl Ready {
    pub fn shipped(&self) -> Shipped<'_> {
        let (platform, record) = (self.platform, &self.record);
        match &self.whence {
            Whence::Built(plan) => Shipped::Built { spec: &plan.spec, record },
            Whence::Pulled(_) => Shipped::Pulled { platform, record },
        }
    }

    /// The reference that it was pulled by.
    pub fn pulled(&self) -> Option<&Reference> {
        match &self.whence {
            Whence::Built(_) => None,
            Whence::Pulled(reference) => Some(reference),
        }
    }
}

/// What is asked for.
pub struct Wanted<'a> {
    pub workspace: &'a Workspace,
    pub lock: &'a Lock,
    /// One sandbox, on each platform.
    pub targets: &'a [Target<'a>],
    /// Whether all of these must be built.
    pub all: bool,
    pub with: &'a [With],
}

impl Wanted<'_> {
    /// The images, by their platforms. Of the sandbox's, one that nobody asked for may be missing, but not
    /// all, unless what was pulled stands for them.
    pub fn find(&self, ui: &Ui) -> Outcome<Vec<Ready>> {
        let (mut ready, mut lacking) = (Vec::new(), Vec::new());
        for target in self.targets {
            match self.find_built(*target) {
                Ok(Some(one)) => ready.push(one),
                Ok(None) => lacking.push((target.platform, None)),
                // a platform that is not locked is not built either
                Err(error) if !self.all => lacking.push((target.platform, Some(error))),
                Err(error) => return Err(error),
            }
        }
        let mut pulled = Vec::new();
        for with in self.with {
            pulled.extend(self.find_pulled(with, lacking.first().map(|(platform, _)| *platform))?);
        }
        if !self.all {
            lacking.retain(|(platform, _)| !pulled.iter().any(|one| one.platform == *platform));
        }
        if self.all || ready.is_empty() {
            self.refuse(lacking)?;
        } else {
            self.note(&lacking, ui);
        }
        ready.extend(pulled);
        ready.sort_by_key(|one| one.platform);
        self.check(&ready)?;
        Ok(ready)
    }

    fn find_built(&self, target: Target<'_>) -> Outcome<Option<Ready>> {
        let plan = plan_target(self.workspace, target, self.lock)?;
        let record = self.workspace.store.use_image(&plan.key)?;
        let (platform, whence) = (target.platform, Whence::Built(Box::new(plan)));
        Ok(record.map(|record| Ready { platform, whence, record }))
    }

    /// Says which platforms are left out though they might not be: they vanish from a tag that had them.
    fn note(&self, lacking: &[(Platform, Option<Failure>)], ui: &Ui) {
        let name = &self.targets[0].sandbox.name;
        for (platform, _) in lacking.iter().filter(|(_, failure)| failure.is_none()) {
            ui.say(&format!(
                "note: without {platform}, for which `{name}` is not built as it is declared now: \
                 `sbx build {name} --platform {platform}`"
            ));
        }
    }

    /// Says what is not built, or why nothing can be.
    fn refuse(&self, lacking: Vec<(Platform, Option<Failure>)>) -> Outcome {
        let name = &self.targets[0].sandbox.name;
        if let Some((platform, _)) = lacking.iter().find(|(_, failure)| failure.is_none()) {
            let message = format!("`{name}` is not built for {platform} as it is declared now");
            return Err(Failure::input(message)
                .with_help(format!("run `sbx build {name} --platform {platform}`")));
        }
        lacking.into_iter().find_map(|(_, failure)| failure).map_or(Ok(()), Err)
    }

    /// What was pulled; `lacking` is a platform that nothing is built for.
    fn find_pulled(&self, with: &With, lacking: Option<Platform>) -> Outcome<Vec<Ready>> {
        let reference = &with.reference;
        let name = reference.to_string();
        let mut found = Vec::new();
        for platform in Platform::ALL {
            if with.platform.is_some_and(|only| only != platform) {
                continue;
            }
            let record = self.workspace.store.use_pulled(&name, platform)?;
            let whence = || Whence::Pulled(reference.clone());
            found.extend(record.map(|record| Ready { platform, whence: whence(), record }));
        }
        if !found.is_empty() {
            return Ok(found);
        }
        let only = with.platform.map(|platform| format!(" for {platform}")).unwrap_or_default();
        let platform = with.platform.or(lacking);
        let platform = platform.map(|platform| format!(" --platform {platform}"));
        Err(Failure::input(format!("`{name}`{only} is not in the store"))
            .with_help(format!("run `sbx pull {name}{}`", platform.unwrap_or_default())))
    }

    /// An index has one image for a platform.
    fn check(&self, ready: &[Ready]) -> Outcome {
        let same = |pair: &&[Ready]| pair[0].platform == pair[1].platform;
        let Some([one, two]) = ready.windows(2).find(same) else { return Ok(()) };
        let name = &self.targets[0].sandbox.name;
        let called = |ready: &Ready| match ready.pulled() {
            None => format!("`{name}` as it is built here"),
            Some(reference) => format!("`{reference}` as it was pulled"),
        };
        let (platform, one, two) = (one.platform, called(one), called(two));
        Err(Failure::input(format!("there are two images for {platform}: {one}, and {two}"))
            .with_help(
                "name the platforms that are built here with `--platform OS/ARCH`, and one that was pulled with `--with OS/ARCH=REF`",
            ))
    }
}
