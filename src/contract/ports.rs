//! What a sandbox without AgentScope's app declares: ports that answer, and when it is ready.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

use super::caller::{Call, Caller};
use super::{Finding, Flaw, Trial};
use crate::decl::Ready;

/// A port behind which nobody listens is closed within this time.
const PATIENCE: Duration = Duration::from_millis(300);

/// Ports are pairs of outside and inside, on 127.0.0.1.
pub fn check_ports(
    trial: &mut Trial,
    caller: Option<&Caller>,
    ports: &[(u16, u16)],
    ready: Option<&Ready>,
) {
    for (outside, inside) in ports {
        trial.check("port", inside.to_string(), || answers(*outside));
    }
    if let (Some(caller), Some(Ready::Http { path, .. })) = (caller, ready) {
        trial.check("ready", path.as_str(), || {
            caller.done(Call::get(path))?;
            Ok("200 from outside".to_owned())
        });
    }
}

fn answers(port: u16) -> Finding {
    let failed = |error: std::io::Error| Flaw::Failed(error.to_string());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    match stream.read(&mut [0]) {
        Ok(0) => Err(Flaw::Failed("nobody listens behind it".to_owned())),
        Ok(_) => Ok("speaks first".to_owned()),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Ok("accepts".to_owned())
        }
        Err(error) => Err(Flaw::Failed(format!("nobody listens behind it: {error}"))),
    }
}
