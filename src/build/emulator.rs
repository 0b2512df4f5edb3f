//! The pinned emulator for programs of another platform, fetched and checked like any other source.
//!
//! It is a static program of Debian's, unpacked beside the store's other tools. No Key covers it: what a
//! program writes is the program's, whoever carries out its instructions, and a machine of the platform
//! itself has none and must find the same layers. Nor is it in the lock, which is the same on every
//! machine. A change of its version is a change of this file.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::builder::Builder;
use super::error::BuildError;
use crate::debian::archive::{Deb, DebError};
use crate::digest::Digest;
use crate::fetch::FetchError;
use crate::fsx::{IoAt, PathIo};
use crate::jail::{Emulation, Emulator, Jail, Obstacle};
use crate::lock::{ArchiveName, DebPin, Mark, Source};
use crate::platform::Platform;
use crate::store::{Held, StoreError};

/// Most bytes that its package may unpack to: it has a program for every processor.
const LARGEST: u64 = 2 << 30;

/// Why programs of another platform cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum EmulatorError {
    #[error("{}", .0.what)]
    Nothing(Obstacle),
    #[error(transparent)]
    Io(#[from] PathIo),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("package `{package}`: {source}")]
    Deb { package: String, source: DebError },
    #[error("package `{package}` in the store is damaged: expected {expected}, found {found}")]
    Corrupt { package: String, expected: Digest, found: Digest },
    #[error("package `{package}` has no `{program}`")]
    NoProgram { package: String, program: &'static str },
}

impl From<DebError> for EmulatorError {
    fn from(source: DebError) -> Self {
        EmulatorError::Deb { package: NAME.to_owned(), source }
    }
}

impl EmulatorError {
    /// The next command.
    pub fn help(&self) -> Option<&str> {
        match self {
            EmulatorError::Nothing(obstacle) => Some(&obstacle.mend),
            EmulatorError::Store(error) => error.help(),
            EmulatorError::Fetch(error) => error.help(),
            _ => None,
        }
    }
}

const NAME: &str = "qemu-user";

/// The package for a machine.
fn package(host: Platform) -> DebPin {
    let (size, hex) = match host {
        Platform::Amd64 => {
            (71_089_852, "ca6ede739327a20ae5a3498230c8a3a9a072c586e131bc6bcc1201eb1725e336")
        }
        Platform::Arm64 => {
            (64_178_608, "c73711af02b97cd5e2667e735d9c06890c57165517110ca4e646c95a7083158d")
        }
    };
    let arch = host.debian();
    DebPin {
        name: NAME.into(),
        version: "1:10.0.13+ds-0+deb13u1".into(),
        arch: arch.into(),
        mark: Mark::Manual,
        archive: ArchiveName::new("debian"),
        size,
        digest: Digest::parse_hex(hex).expect("64 hex digits"),
        path: format!("pool/main/q/qemu/{NAME}_10.0.13+ds-0+deb13u1_{arch}.deb").into(),
    }
}

/// Its program for a platform.
const fn program(platform: Platform) -> &'static str {
    match platform {
        Platform::Amd64 => "qemu-x86_64",
        Platform::Arm64 => "qemu-aarch64",
    }
}

/// What this machine needs to build for some platforms, beside what the lock says.
pub fn packages(platforms: impl IntoIterator<Item = Platform>) -> Vec<DebPin> {
    let host = Platform::host();
    let foreign = platforms.into_iter().any(|platform| platform != host);
    foreign.then(|| package(host)).into_iter().collect()
}

impl Builder<'_> {
    /// The sandbox in which programs of a platform run.
    pub(super) fn jail_for(&self, platform: Platform) -> Result<Jail, BuildError> {
        let emulation = Emulation::find(platform).map_err(EmulatorError::Nothing)?;
        let emulator = match emulation {
            Emulation::Native => None,
            Emulation::Own => Some(Emulator { program: self.emulator(platform)?, platform }),
            Emulation::Host(name) => {
                self.events.note(&format!(
                    "programs of {platform} are run by this machine's own `{name}`: its kernel gives a \
                     sandbox no table of its own"
                ));
                None
            }
        };
        Ok(Jail { emulator, ..self.jail.clone() })
    }

    /// The emulator for a platform, fetched and unpacked if it is not there yet.
    fn emulator(&self, platform: Platform) -> Result<PathBuf, EmulatorError> {
        let (pin, program) = (package(Platform::host()), program(platform));
        let name = format!("{program}-{}", pin.digest.short());
        self.store.hold([Held::Tool(&name)])?;
        let dir = self.store.root().join("tools").join(name);
        if !dir.join(program).is_file() {
            self.places().fetch_tools(self.client, &[Source::Deb(&pin)], self.events)?;
            match self.unpack_emulator(&pin, program, &dir) {
                Err(EmulatorError::Corrupt { package, expected, .. }) => {
                    self.events.note(&format!(
                        "package `{package}` was damaged in the store: it is fetched again"
                    ));
                    self.store.drop_blob(&expected)?;
                    self.places().fetch_tools(self.client, &[Source::Deb(&pin)], self.events)?;
                    self.unpack_emulator(&pin, program, &dir)?;
                }
                result => result?,
            }
        }
        Ok(dir.join(program))
    }

    fn unpack_emulator(
        &self,
        pin: &DebPin,
        program: &'static str,
        dir: &Path,
    ) -> Result<(), EmulatorError> {
        let tools = self.store.root().join("tools");
        fs::create_dir_all(&tools).at("create", &tools)?;
        let draft = self.store.tree_draft()?;
        take_program(&self.store.blob_path(&pin.digest), pin, program, draft.path())?;
        match fs::rename(draft.path(), dir) {
            // somebody else was faster
            Err(_) if dir.join(program).is_file() => Ok(()),
            result => Ok(result.at("rename", dir)?),
        }
    }
}

/// Takes one program out of a package.
fn take_program(
    deb: &Path,
    pin: &DebPin,
    program: &'static str,
    into: &Path,
) -> Result<(), EmulatorError> {
    let to = into.join(program);
    let label = format!("./usr/bin/{program}");
    let file = File::open(deb).at("open", deb)?;
    let mut taken = false;
    let (_, found) = Deb::open(file)?.read_data(LARGEST, |member, body: &mut dyn Read| {
        if member.label() == label {
            let mut file = File::create(&to).at("create", &to)?;
            std::io::copy(body, &mut file).at("write", &to)?;
            taken = true;
        }
        Ok::<_, EmulatorError>(())
    })?;
    if found != pin.digest {
        return Err(EmulatorError::Corrupt { package: pin.label(), expected: pin.digest, found });
    }
    if !taken {
        return Err(EmulatorError::NoProgram { package: pin.label(), program });
    }
    fs::set_permissions(&to, fs::Permissions::from_mode(0o755)).at("set mode of", &to)?;
    Ok(())
}
