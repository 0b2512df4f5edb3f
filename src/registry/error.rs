//! Why the list of sandbox types cannot be read, changed or written out.

use std::path::PathBuf;

use crate::blame::Blame;
use crate::fsx::PathIo;

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error("no sandbox type `{0}` is registered")]
    Unknown(String),
    #[error("{} is damaged: {reason}", path.display())]
    Damaged { path: PathBuf, reason: String },
    #[error("{} is of version {version}, which this sbx does not know", path.display())]
    Version { path: PathBuf, version: u32 },
    #[error("sandboxes `{one}` and `{two}` would both be `{same}` in the module")]
    Same { one: String, two: String, same: String },
    #[error(
        "reference `{reference}` of sandbox `{sandbox}` has no namespace, which AgentScope's names of images have"
    )]
    NoNamespace { sandbox: String, reference: String },
    #[error("sandbox `{0}` does not serve port 80, where AgentScope's manager asks")]
    NoPort(String),
}

impl RegistryError {
    pub fn blame(&self) -> Blame {
        match self {
            RegistryError::Io(_) => Blame::World,
            _ => Blame::Input,
        }
    }

    /// The next command.
    pub fn help(&self) -> Option<String> {
        let text = match self {
            RegistryError::Io(_) => return None,
            RegistryError::Unknown(_) => "run `sbx register --list` to see which are".to_owned(),
            RegistryError::Damaged { path, .. } => {
                format!("run `rm {}`, and register again what is missing", path.display())
            }
            RegistryError::Version { .. } => "use the sbx that wrote it, or a newer one".to_owned(),
            RegistryError::Same { .. } => "write a module of its own for one of them".to_owned(),
            RegistryError::NoNamespace { .. } => {
                "declare `reference \"NAMESPACE/NAME\"`, such as `agentscope/runtime-sandbox-{sandbox}`"
                    .to_owned()
            }
            RegistryError::NoPort(_) => "declare `port 80`".to_owned(),
        };
        Some(text)
    }
}
