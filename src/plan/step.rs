//! Steps: what gives one delta each.

use serde::Serialize;

use super::npm::NpmWork;
use super::pnpm::PnpmWork;
use super::python::{BytecodeWork, WheelsWork};
use super::unpack::{TakeWork, UnpackWork};
use crate::decl::{Debconf, Leftover, PathRules, Secret};
use crate::digest::Digest;
use crate::lock::{BaseLayerPin, DebPin, Pin, Source};
use crate::name::LayerName;
use crate::path::LayerPath;
use crate::store::Key;

/// One delta of an image.
#[derive(Clone, Debug)]
pub struct Step {
    pub layer: LayerName,
    pub key: Key,
    /// For people and for the image's history.
    pub title: String,
    /// Steps that it sees, bottom first.
    pub below: Vec<Key>,
    pub work: Work,
}

/// What gives the delta.
#[derive(Clone, Debug)]
pub enum Work {
    /// A layer of somebody else's image, as it is.
    Base(BaseWork),
    /// Debian packages, laid.
    Content(ContentWork),
    /// Their maintainer scripts.
    Settle(SettleWork),
    /// Accounts, added to what lies below.
    Accounts(Vec<AccountWork>),
    /// Local files, directories, links.
    Files(Vec<FileWork>),
    /// A command, over what its layer needs and what its layer has brought before.
    Run(RunWork),
    /// A tree of npm's packages.
    Npm(NpmWork),
    /// A project's packages, installed by pnpm.
    Pnpm(PnpmWork),
    /// Files of an archive or a package.
    Unpack(UnpackWork),
    /// Files of what other layers give.
    Copy(TakeWork),
    /// A virtual environment of wheels.
    Wheels(WheelsWork),
    /// Bytecode of such an environment, over the Python below it.
    Bytecode(BytecodeWork),
}

impl Work {
    /// Whether it sees nothing below, so that it can be made at any time.
    pub fn is_free(&self) -> bool {
        match self {
            Work::Base(_)
            | Work::Content(_)
            | Work::Files(_)
            | Work::Npm(_)
            | Work::Wheels(_)
            | Work::Unpack(_) => true,
            Work::Settle(_)
            | Work::Accounts(_)
            | Work::Run(_)
            | Work::Copy(_)
            | Work::Pnpm(_)
            | Work::Bytecode(_) => false,
        }
    }
}

impl Work {
    /// Whether programs of the image are run for it.
    pub fn runs_programs(&self) -> bool {
        matches!(self, Work::Settle(_) | Work::Run(_) | Work::Pnpm(_) | Work::Bytecode(_))
    }

    /// What it takes out of a source or a layer.
    pub fn take(&self) -> Option<&TakeWork> {
        match self {
            Work::Unpack(work) => Some(&work.take),
            Work::Copy(take) => Some(take),
            _ => None,
        }
    }

    /// Sources that others which it needs are taken out of.
    pub fn outer(&self) -> Vec<Source<'_>> {
        match self {
            Work::Npm(work) => work.outer.iter().filter_map(Pin::source).collect(),
            _ => Vec::new(),
        }
    }

    /// What it needs of the store beside other layers.
    pub fn sources(&self) -> Vec<Source<'_>> {
        match self {
            Work::Base(work) => vec![Source::BaseLayer(&work.pin)],
            Work::Content(work) => work.pins.iter().map(Source::Deb).collect(),
            Work::Settle(work) => work.pins.iter().map(Source::Deb).collect(),
            Work::Run(work) => work.shelf.iter().filter_map(Pin::source).collect(),
            Work::Pnpm(work) => work.run.shelf.iter().filter_map(Pin::source).collect(),
            Work::Npm(work) => work.packages.iter().map(Source::Npm).collect(),
            Work::Unpack(work) => work.source().into_iter().collect(),
            Work::Wheels(work) => work.wheels.iter().map(Source::Wheel).collect(),
            Work::Accounts(_) | Work::Files(_) | Work::Copy(_) | Work::Bytecode(_) => Vec::new(),
        }
    }
}

/// Packages to lay.
#[derive(Clone, Debug)]
pub struct ContentWork {
    pub pins: Vec<DebPin>,
    /// Nothing lies below.
    pub fresh: bool,
    /// What of them is left out.
    pub paths: PathRules,
}

/// Which layer it is.
#[derive(Clone, Debug)]
pub struct BaseWork {
    pub pin: BaseLayerPin,
}

/// What a settle needs; it runs over all chain steps before it.
#[derive(Clone, Debug)]
pub struct SettleWork {
    /// The packages whose content is the step before.
    pub pins: Vec<DebPin>,
    pub accounts: Vec<AccountWork>,
    pub sources: Vec<SourceWork>,
    /// Keyrings to lay: path in the image, file of the project.
    pub keyrings: Vec<(String, String)>,
    pub debconf: Vec<Debconf>,
}

/// A command and its surroundings.
#[derive(Clone, Debug, Serialize)]
pub struct RunWork {
    pub command: String,
    pub shell: String,
    pub cwd: String,
    /// What the layers below export, then what the recipe sets.
    pub env: Vec<(String, String)>,
    /// Their names count, their values do not.
    pub secrets: Vec<Secret>,
    pub allow: Vec<Leftover>,
    pub deny: Vec<String>,
    /// What the recipes before it in its layer are locked to: it finds them on the loopback server.
    pub shelf: Vec<Pin>,
    /// Seconds.
    #[serde(skip)]
    pub timeout: Option<u32>,
}

/// A `.sources` file of apt's.
#[derive(Clone, Debug, Serialize)]
pub struct SourceWork {
    pub name: String,
    pub uri: String,
    pub suites: Vec<String>,
    pub components: Vec<String>,
    pub signed_by: String,
}

#[derive(Clone, Debug, Serialize)]
pub struct AccountWork {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub group: String,
    pub groups: Vec<String>,
    pub home: String,
    pub shell: String,
}

/// Numeric owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ids {
    pub uid: u32,
    pub gid: u32,
}

/// A recipe that needs nothing but itself.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum FileWork {
    /// Local files by the digest of what they are; which they are, the project's scan knows.
    Local {
        #[serde(skip)]
        recipe: usize,
        content: Digest,
        #[serde(serialize_with = "shown")]
        into: LayerPath,
        ids: Ids,
        mode: Option<u32>,
        replace: bool,
    },
    Inline {
        #[serde(serialize_with = "shown")]
        path: LayerPath,
        content: String,
        mode: u32,
        ids: Ids,
        replace: bool,
    },
    Dir {
        #[serde(serialize_with = "shown")]
        path: LayerPath,
        mode: u32,
        ids: Ids,
    },
    Link {
        #[serde(serialize_with = "shown")]
        path: LayerPath,
        to: String,
        replace: bool,
    },
    Own {
        #[serde(serialize_with = "shown")]
        path: LayerPath,
        ids: Ids,
        recursive: bool,
    },
    GitInit {
        #[serde(serialize_with = "shown")]
        path: LayerPath,
        branch: String,
        ids: Ids,
    },
}

fn shown<S: serde::Serializer>(path: &LayerPath, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(path)
}
