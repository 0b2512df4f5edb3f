//! What Python's packages are made of: names, tags, wheels, virtual environments.
//!
//! Pure knowledge of the formats: which wheel fits which interpreter (PEP 425, 600, 656), what a wheel
//! holds and where an installation puts it (the binary distribution format, PEP 427), what a lock of
//! Python's says (PEP 751). Resolving is left to the pinned `uv`; nothing here asks a registry.

mod editable;
mod entry_points;
mod interpreter;
mod layout;
mod marker;
mod name;
mod pylock;
mod record;
mod requirements;
mod tag;
mod version;
mod wheel;

pub use editable::install_editable;
pub use interpreter::Interpreter;
pub use layout::{Item, ItemKind, venv};
pub use marker::{Environment, MarkerError};
pub use name::{ProjectName, WheelName, WheelNameError};
pub use pylock::{Chosen, Pylock, PylockError};
pub use requirements::{Line as RequirementLine, Requirements, RequirementsError, beside};
pub use version::Version;
pub use wheel::{Body, Installed, Place, Wheel, WheelError};
