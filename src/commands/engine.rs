//! Docker's engine, as this machine's settings name it.

use std::path::PathBuf;

use sbx::engine::{EngineAddress, EngineSettings, TlsChoice};

use crate::failure::Outcome;
use crate::workspace::{docker_config, variable};

pub fn find_engine_address() -> Outcome<EngineAddress> {
    let find = |name: &str| variable(name).filter(|value| !value.is_empty());
    let tls = match (find("DOCKER_TLS_VERIFY"), find("DOCKER_TLS")) {
        (Some(_), _) => TlsChoice::Verified,
        (None, Some(_)) => TlsChoice::Unverified,
        (None, None) => TlsChoice::None,
    };
    let settings = EngineSettings {
        host: find("DOCKER_HOST"),
        context: find("DOCKER_CONTEXT"),
        config: docker_config(),
        runtime: find("XDG_RUNTIME_DIR").map(PathBuf::from),
        certificates: find("DOCKER_CERT_PATH").map(PathBuf::from),
        tls,
    };
    Ok(settings.find()?)
}
