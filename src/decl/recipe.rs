//! Recipes: how a layer is made, and what each kind is to a lock and to a plan.

use serde::Serialize;

use super::debian::Debian;
use super::fault::Location;
use super::files::{Files, InlineFile};
use super::from::BaseImage;
use super::git::Git;
use super::layer_files::LayerFiles;
use super::mcp::Mcp;
use super::nodejs::NodeJs;
use super::npm::{LaidProject, Npm};
use super::npm_tools::NpmTools;
use super::place::{Dir, GitInit, Link, Own, User};
use super::python::Venv;
use super::run::Run;
use super::take::{Archive, PackageFiles, Take};
use crate::path::LayerPath;

/// One step of a layer, as declared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "recipe", rename_all = "kebab-case")]
pub enum Recipe {
    From(BaseImage),
    Debian(Debian),
    Files(Files),
    File(InlineFile),
    User(User),
    Dir(Dir),
    Link(Link),
    Own(Own),
    GitInit(GitInit),
    Run(Run),
    Venv(Venv),
    NodeJs(NodeJs),
    Npm(Npm),
    NpmTools(NpmTools),
    Mcp(Mcp),
    Archive(Archive),
    PackageFiles(PackageFiles),
    Git(Git),
    LayerFiles(LayerFiles),
}

/// What a kind of recipe is, to those who lock and plan it. The defaults are those of a recipe whose
/// bytes are all at hand.
trait Declared {
    /// The node's name.
    const NAME: &'static str;
    /// Whether it asks something of the world that the lock has to answer, recipe by recipe. (What
    /// debian layers ask is answered layer by layer.)
    const ASKS: bool = false;
    /// The ecosystem whose `as-of` counts for it.
    const ECOSYSTEM: Option<&'static str> = None;

    fn at(&self) -> &Location;

    /// Its own `as-of`.
    fn as_of(&self) -> Option<&str> {
        None
    }

    /// Files of the project, by their path below it, whose bytes are part of the question.
    fn reads(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Whether a file that it reads has to be there.
    fn needs(&self, _path: &str) -> bool {
        true
    }

    /// What it takes out of a source that holds many files.
    fn take(&self) -> Option<&Take> {
        None
    }

    /// The earlier recipe of its layer whose source has the project that it reads.
    fn laid(&self) -> Option<&LaidProject> {
        None
    }

    /// The directory that it fills with somebody's project.
    fn project_dir(&self) -> Option<&LayerPath> {
        None
    }
}

/// A kind that says more of itself than where it stands has its own lines in the braces.
macro_rules! kinds {
    ($($recipe:ty = $name:literal { $($more:item)* })*) => {$(
        impl Declared for $recipe {
            const NAME: &'static str = $name;

            fn at(&self) -> &Location {
                &self.at
            }

            $($more)*
        }
    )*};
}

kinds! {
    Files = "files" {}
    InlineFile = "file" {}
    LayerFiles = "files" {}
    User = "user" {}
    Dir = "dir" {}
    Link = "link" {}
    Own = "own" {}
    Run = "run" {}
    Mcp = "mcp" {}
    GitInit = "git-init" {
        fn project_dir(&self) -> Option<&LayerPath> {
            Some(&self.path)
        }
    }
    BaseImage = "from" {
        const ASKS: bool = true;
    }
    Debian = "debian" {
        fn reads(&self) -> Vec<&str> {
            self.repositories.iter().map(|repository| &*repository.key).collect()
        }
    }
    Venv = "venv" {
        const ASKS: bool = true;
        const ECOSYSTEM: Option<&'static str> = Some("pypi");

        fn as_of(&self) -> Option<&str> {
            self.as_of.as_deref()
        }

        fn reads(&self) -> Vec<&str> {
            Venv::reads(self)
        }

        fn laid(&self) -> Option<&LaidProject> {
            self.laid.as_ref()
        }
    }
    NodeJs = "node" {
        const ASKS: bool = true;
        const ECOSYSTEM: Option<&'static str> = Some("npm");

        fn as_of(&self) -> Option<&str> {
            self.as_of.as_deref()
        }
    }
    Npm = "npm" {
        const ASKS: bool = true;
        const ECOSYSTEM: Option<&'static str> = Some("npm");

        fn as_of(&self) -> Option<&str> {
            self.as_of.as_deref()
        }

        fn reads(&self) -> Vec<&str> {
            self.files.iter().map(String::as_str).collect()
        }

        fn needs(&self, path: &str) -> bool {
            path.ends_with("package.json")
        }

        fn laid(&self) -> Option<&LaidProject> {
            self.laid.as_ref()
        }

        fn project_dir(&self) -> Option<&LayerPath> {
            Some(&self.into)
        }
    }
    NpmTools = "npm-tools" {
        const ASKS: bool = true;
        const ECOSYSTEM: Option<&'static str> = Some("npm");

        fn as_of(&self) -> Option<&str> {
            self.as_of.as_deref()
        }
    }
    // of these a digest or a version is named: no day changes what they are
    Archive = "archive" {
        const ASKS: bool = true;

        fn reads(&self) -> Vec<&str> {
            self.local().into_iter().collect()
        }

        fn take(&self) -> Option<&Take> {
            Some(&self.take)
        }

        fn project_dir(&self) -> Option<&LayerPath> {
            Some(&self.take.into)
        }
    }
    PackageFiles = "files" {
        const ASKS: bool = true;

        fn take(&self) -> Option<&Take> {
            Some(&self.take)
        }
    }
    Git = "git" {
        const ASKS: bool = true;

        fn take(&self) -> Option<&Take> {
            Some(&self.take)
        }

        fn project_dir(&self) -> Option<&LayerPath> {
            Some(&self.take.into)
        }
    }
}

/// Asks whichever kind a recipe is.
macro_rules! of_kind {
    ($recipe:expr, $one:ident => $answer:expr) => {
        match $recipe {
            Recipe::From($one) => $answer,
            Recipe::Debian($one) => $answer,
            Recipe::Files($one) => $answer,
            Recipe::File($one) => $answer,
            Recipe::User($one) => $answer,
            Recipe::Dir($one) => $answer,
            Recipe::Link($one) => $answer,
            Recipe::Own($one) => $answer,
            Recipe::GitInit($one) => $answer,
            Recipe::Run($one) => $answer,
            Recipe::Venv($one) => $answer,
            Recipe::NodeJs($one) => $answer,
            Recipe::Npm($one) => $answer,
            Recipe::NpmTools($one) => $answer,
            Recipe::Mcp($one) => $answer,
            Recipe::Archive($one) => $answer,
            Recipe::PackageFiles($one) => $answer,
            Recipe::Git($one) => $answer,
            Recipe::LayerFiles($one) => $answer,
        }
    };
}

const fn name_of<K: Declared>(_: &K) -> &'static str {
    K::NAME
}

const fn asks_of<K: Declared>(_: &K) -> bool {
    K::ASKS
}

const fn ecosystem_of<K: Declared>(_: &K) -> Option<&'static str> {
    K::ECOSYSTEM
}

impl Recipe {
    /// The node's name.
    pub const fn kind(&self) -> &'static str {
        of_kind!(self, one => name_of(one))
    }

    /// Whether it asks something of the world that the lock has to answer, recipe by recipe. (What
    /// debian layers ask is answered layer by layer.)
    pub const fn asks(&self) -> bool {
        of_kind!(self, one => asks_of(one))
    }

    /// The ecosystem whose `as-of` counts for it.
    pub const fn ecosystem(&self) -> Option<&'static str> {
        of_kind!(self, one => ecosystem_of(one))
    }

    /// Its own `as-of`.
    pub fn as_of(&self) -> Option<&str> {
        of_kind!(self, one => Declared::as_of(one))
    }

    /// Files of the project, by their path below it, whose bytes are part of the question.
    pub fn reads(&self) -> Vec<&str> {
        of_kind!(self, one => Declared::reads(one))
    }

    /// Whether a file that it reads has to be there.
    pub fn needs(&self, path: &str) -> bool {
        of_kind!(self, one => Declared::needs(one, path))
    }

    /// What it takes out of a source that holds many files.
    pub fn take(&self) -> Option<&Take> {
        of_kind!(self, one => Declared::take(one))
    }

    /// The earlier recipe of its layer whose source has the project that it reads.
    pub fn laid(&self) -> Option<&LaidProject> {
        of_kind!(self, one => Declared::laid(one))
    }

    /// The directory that it fills with somebody's project, which is where commands after it run
    /// unless they say otherwise.
    pub fn project_dir(&self) -> Option<&LayerPath> {
        of_kind!(self, one => Declared::project_dir(one))
    }

    pub fn at(&self) -> &Location {
        of_kind!(self, one => Declared::at(one))
    }
}
