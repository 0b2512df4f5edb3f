//! Images into podman: its own program pulls from a registry on loopback, and takes the layers that its
//! storage lacks.

use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use super::ShipError;
use super::counter::{Counter, USER};
use super::docker::repository;
use super::load::Loaded;
use crate::fsx;
use crate::image::save::Saved;
use crate::serve::serve;

/// The program, as it was found.
pub struct Podman {
    pub program: PathBuf,
}

impl Podman {
    /// Looks for the program.
    pub fn find(path: &[PathBuf]) -> Option<Self> {
        let mut found = path.iter().map(|dir| dir.join("podman"));
        found.find(|program| program.is_file()).map(|program| Podman { program })
    }

    /// Brings an image in under its reference.
    pub fn load(&self, saved: &Saved<'_>, token: &str) -> Result<Loaded, ShipError> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(ShipError::Pipe)?;
        let address = listener.local_addr().map_err(ShipError::Pipe)?.to_string();
        let counter = Counter::new(saved, token);
        let (name, tag) = saved.split();
        let lent = format!("{address}/{}:{tag}", repository(name));
        // a token on a command line is everybody's
        let scratch = saved.store.tree_draft()?;
        let login = scratch.path().join("auth.json");
        let auth = BASE64_STANDARD.encode(format!("{USER}:{token}"));
        let auths = json!({"auths": {address: {"auth": auth}}});
        fsx::write_atomic(&login, auths.to_string().as_bytes())?;
        std::thread::scope(|scope| {
            let _serving = serve(scope, listener, &counter).map_err(ShipError::Pipe)?;
            self.run(&[
                "pull".as_ref(),
                "--quiet".as_ref(),
                "--tls-verify=false".as_ref(),
                "--authfile".as_ref(),
                &login,
                lent.as_ref(),
            ])
        })?;
        let named = self.run(&["tag".as_ref(), lent.as_ref(), format!("{name}:{tag}").as_ref()]);
        // the name that it was lent under; the image goes with it where it got no other
        let freed = self.run(&["rmi".as_ref(), lent.as_ref()]);
        named.and(freed)?;
        Ok(counter.loaded())
    }

    fn run(&self, arguments: &[&Path]) -> Result<(), ShipError> {
        let mut command = Command::new(&self.program);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = output.map_err(ShipError::Pipe)?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(ShipError::Engine { said })
            }
        }
    }
}
