//! Options of `sbx run` that say what starts an instance.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;

use sbx::digest::Digest;
use sbx::launch::docker::Engine;
use sbx::launch::kubernetes::{Cluster, Pids};
use sbx::launch::oci::Runtime;
use sbx::launch::{LaunchError, Launcher, Spec, docker, kubernetes, oci};
use sbx::name::SandboxName;
use sbx::platform::Platform;
use sbx::reference::Reference;
use sbx::store::PushedImage;

use super::engine::find_engine_address;
use crate::failure::{Failure, Outcome};
use crate::ui::Ui;
use crate::workspace::{Workspace, search_path};

#[derive(Args)]
pub struct LauncherArguments {
    /// What starts it
    #[arg(long, value_enum, default_value = "embedded")]
    pub launcher: LauncherName,
    /// With `oci`, the runtime, by name or path (default: runc); with `kubernetes`, the `runtimeClassName`
    #[arg(long, value_name = "NAME")]
    runtime: Option<String>,
    /// Write what the launcher would be told, and start nothing
    #[arg(long, conflicts_with = "detach")]
    pub print: bool,
    /// With `kubernetes`, the pushed image: `REFERENCE@sha256:…` (default: what was pushed last)
    #[arg(long, value_name = "REFERENCE")]
    pub image: Option<Pinned>,
    /// With `kubernetes`, the Secret that a registry asks for
    #[arg(long, value_name = "NAME")]
    pull_secret: Vec<String>,
    /// With `kubernetes`, write values of this machine into a Secret
    #[arg(long)]
    pub with_secrets: bool,
    /// Do without something that the launcher cannot honour
    #[arg(long, value_enum, value_name = "WHAT")]
    waive: Vec<Waiver>,
}

/// An image that is the same tomorrow: `REFERENCE@sha256:…`.
#[derive(Clone, Debug)]
pub struct Pinned {
    pub reference: String,
    pub digest: Digest,
}

impl FromStr for Pinned {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let reference: Reference = text.parse().map_err(|error| format!("{error}"))?;
        let digest = reference.digest().ok_or(
            "it has no digest, so it may mean another image tomorrow: name it as `REFERENCE@sha256:…`",
        )?;
        Ok(Pinned { reference: reference.to_string(), digest })
    }
}

/// What is written for a launcher.
pub struct Printed<'a> {
    pub spec: &'a Spec,
    /// Of the instance.
    pub name: &'a str,
    /// As a registry knows it.
    pub image: String,
    pub platform: Platform,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LauncherName {
    /// This program itself: no daemon, no other program
    Embedded,
    /// A runtime of the OCI's: runc, crun, others
    Oci,
    /// Docker's engine on this machine
    Docker,
    /// Objects for `kubectl apply`, with `--print`
    Kubernetes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Waiver {
    /// `limits pids` with `kubernetes`
    Pids,
}

/// The runtime that is there wherever docker is.
const RUNTIME: &str = "runc";

impl LauncherArguments {
    /// Options that the launcher does not have.
    pub fn check(&self) -> Outcome {
        let cluster = self.launcher == LauncherName::Kubernetes;
        let for_cluster = [
            ("--image", self.image.is_some()),
            ("--pull-secret", !self.pull_secret.is_empty()),
            ("--with-secrets", self.with_secrets),
            ("--waive", !self.waive.is_empty()),
        ];
        if let Some((name, _)) = for_cluster.iter().find(|(_, given)| *given && !cluster) {
            return Err(Failure::input(format!("`{name}` is for launcher `kubernetes`")));
        }
        if self.runtime.is_some() && !cluster && self.launcher != LauncherName::Oci {
            return Err(Failure::input("`--runtime` is for launchers `oci` and `kubernetes`"));
        }
        if cluster && !self.print {
            let message = "launcher `kubernetes` starts nothing by itself";
            let help = "pass `--print`, and hand that on: `| kubectl apply -f -`";
            return Err(Failure::input(message).with_help(help));
        }
        if self.print && self.launcher == LauncherName::Embedded {
            let message = "launcher `embedded` has nothing to print";
            return Err(Failure::input(message).with_help("name another with `--launcher`"));
        }
        Ok(())
    }

    /// What is to start an instance.
    pub fn find(&self) -> Outcome<Launcher> {
        let launcher = match self.launcher {
            LauncherName::Embedded => return Ok(Launcher::Embedded),
            LauncherName::Oci => {
                let name = self.runtime.as_deref().unwrap_or(RUNTIME);
                let program =
                    find_program(name).ok_or_else(|| LaunchError::NoRuntime(name.to_owned()))?;
                Launcher::Oci(Runtime::new(program))
            }
            LauncherName::Docker => Launcher::Docker(engine()?),
            LauncherName::Kubernetes => return Err(Failure::input("`kubernetes` only prints")),
        };
        match &launcher {
            Launcher::Oci(runtime)
                if !runtime.shares_kernel() && !rustix::process::geteuid().is_root() =>
            {
                Err(LaunchError::NotRoot(launcher.name()).into())
            }
            _ => Ok(launcher),
        }
    }

    /// What it could not be told of a sandbox, whatever the image is.
    pub fn refuse(&self, spec: &Spec) -> Outcome {
        match self.launcher {
            LauncherName::Embedded => {}
            LauncherName::Oci => drop(oci::print(spec)?),
            LauncherName::Docker => drop(docker::print(spec, "")?),
            LauncherName::Kubernetes => kubernetes::refuse(spec, self.pids())?,
        }
        Ok(())
    }

    fn pids(&self) -> Pids {
        match self.waive.contains(&Waiver::Pids) {
            true => Pids::OfTheNodes,
            false => Pids::Declared,
        }
    }

    /// Writes what the launcher would be told.
    pub fn write(&self, printed: Printed<'_>, ui: &Ui) -> Outcome {
        let Printed { spec, name, image, platform } = printed;
        let document = match self.launcher {
            LauncherName::Embedded => return Ok(()),
            LauncherName::Oci => oci::print(spec)?,
            LauncherName::Docker => docker::print(spec, &spec.image.to_string())?,
            LauncherName::Kubernetes => {
                let cluster = Cluster {
                    name: name.to_owned(),
                    image,
                    platform,
                    runtime_class: self.runtime.clone(),
                    pull_secrets: self.pull_secret.clone(),
                    with_secrets: self.with_secrets,
                    pids: self.pids(),
                };
                let documents = kubernetes::render(spec, &cluster)?;
                if !spec.secrets.is_empty() && !self.with_secrets {
                    let keys = spec.secrets.join("`, `");
                    ui.say(&format!("note: the Pod takes `{keys}` from a Secret of its name"));
                }
                let list =
                    serde_json::json!({"apiVersion": "v1", "kind": "List", "items": documents});
                ui.answer(&list, || kubernetes::to_yaml(&documents));
                return Ok(());
            }
        };
        ui.answer(&document, || serde_json::to_string_pretty(&document).unwrap_or_default());
        Ok(())
    }
}

/// Where an image was pushed to last, and as what.
pub fn pushed(workspace: &Workspace, sandbox: &SandboxName, image: &Digest) -> Outcome<String> {
    let pushes = workspace.store.find_pushes(image);
    let Some(PushedImage { reference, manifest, .. }) = pushes.first() else {
        let message = format!("`{sandbox}` was not pushed as it is built now");
        let help = format!("run `sbx push {sandbox}`, or pass `--image REFERENCE@sha256:…`");
        return Err(Failure::input(message).with_help(help));
    };
    Ok(format!("{reference}@{manifest}"))
}

/// The engine that `docker` would speak to.
fn engine() -> Outcome<Engine> {
    Ok(Engine::new(&find_engine_address()?)?)
}

/// As a shell finds it.
fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(|path| path.is_file());
    }
    let usual = ["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from);
    let mut dirs = search_path().into_iter().chain(usual);
    dirs.find_map(|dir| Some(dir.join(name)).filter(|path: &PathBuf| Path::is_file(path)))
}
