//! What ends the process: one message, advice, and the exit code of whoever can mend it.

use std::process::ExitCode;

use sbx::blame::Blame;
use sbx::build::error::BuildError;
use sbx::build::local::LocalError;
use sbx::decl::Faults;
use sbx::engine::EngineError;
use sbx::fetch::FetchError;
use sbx::fsx::PathIo;
use sbx::image::ImageError;
use sbx::image::save::SaveError;
use sbx::launch::LaunchError;
use sbx::lock::LockError;
use sbx::lock::solve::SolveError;
use sbx::oci::OciError;
use sbx::plan::PlanError;
use sbx::registry::RegistryError;
use sbx::report::ReportError;
use sbx::ship::ShipError;
use sbx::store::StoreError;
use sbx::vendor::VendorError;

/// Why a command ended without doing what was asked.
#[derive(Debug)]
pub enum Failure {
    /// Mistakes in files of the project, shown with their text.
    Faults(Faults),
    Other {
        message: String,
        help: Option<String>,
        code: u8,
    },
    /// Everything has been said already; only the exit code is left (a child's, usually).
    Silent(u8),
}

pub type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    /// Something that the user's input must mend.
    pub fn input(message: impl Into<String>) -> Self {
        Failure::Other { message: message.into(), help: None, code: code(Blame::Input) }
    }

    pub fn world(message: impl Into<String>) -> Self {
        Failure::Other { message: message.into(), help: None, code: code(Blame::World) }
    }

    pub fn with_help(self, text: impl Into<String>) -> Self {
        match self {
            Failure::Other { message, code, .. } => {
                Failure::Other { message, help: Some(text.into()), code }
            }
            other => other,
        }
    }

    pub fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Faults(_) => code(Blame::Input),
            Failure::Other { code, .. } | Failure::Silent(code) => *code,
        })
    }
}

/// The exit codes that the README documents.
fn code(blame: Blame) -> u8 {
    match blame {
        Blame::Input => 1,
        Blame::World => 3,
        Blame::Bug => 70,
    }
}

impl From<Faults> for Failure {
    fn from(faults: Faults) -> Self {
        Failure::Faults(faults)
    }
}

/// Errors that know whom they blame and what to do next.
macro_rules! from_error {
    ($($type:ty: $help:expr;)*) => {$(
        impl From<$type> for Failure {
            fn from(error: $type) -> Self {
                let help: fn(&$type) -> Option<String> = $help;
                Failure::Other { help: help(&error), code: code(error.blame()), message: error.to_string() }
            }
        }
    )*};
}

from_error! {
    BuildError: |error| error.help();
    EngineError: |error| error.help();
    FetchError: |error| error.help().map(str::to_owned);
    ImageError: |_| None;
    LockError: |error| error.help().map(str::to_owned);
    OciError: |error| error.help();
    SaveError: |error| error.help();
    SolveError: |error| error.help();
    StoreError: |error| error.help().map(str::to_owned);
    RegistryError: |error| error.help();
    ReportError: |error| error.help().map(str::to_owned);
    ShipError: |error| error.help();
    VendorError: |error| error.help();
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Faults(faults) => Failure::Faults(faults),
            error => Failure::Other {
                help: error.help(),
                code: code(error.blame()),
                message: error.to_string(),
            },
        }
    }
}

impl From<LocalError> for Failure {
    fn from(error: LocalError) -> Self {
        match error {
            LocalError::Faults(faults) => Failure::Faults(faults),
            error => {
                Failure::Other { help: None, code: code(error.blame()), message: error.to_string() }
            }
        }
    }
}

impl From<LaunchError> for Failure {
    fn from(error: LaunchError) -> Self {
        let code = error.code().unwrap_or_else(|| code(error.blame()));
        Failure::Other { help: error.help(), code, message: error.to_string() }
    }
}

impl From<PathIo> for Failure {
    fn from(error: PathIo) -> Self {
        Failure::world(error.to_string())
    }
}
