//! From a name to a connection, by way of addresses that were judged.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::TcpStream;

use super::judge::{Place, place};
use super::policy::{Policy, Verdict};

/// How long looking a name up, and each connection, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const TRIES: usize = 4;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is not declared")]
    Undeclared,
    #[error("it leads to {0}: {1}")]
    Address(IpAddr, &'static str),
    #[error("there is no such name")]
    NoName,
    #[error("it cannot be reached: {0}")]
    Unreachable(std::io::Error),
    #[error("it does not answer")]
    Silent,
}

/// Connects to what the policy allows, at an address where it may be.
pub(super) async fn reach(policy: &Policy, host: &str, port: u16) -> Result<TcpStream, Refusal> {
    let verdict = policy.judge(host, port);
    if verdict == Verdict::Undeclared {
        return Err(Refusal::Undeclared);
    }
    let found = match host.parse::<IpAddr>() {
        Ok(address) => vec![address],
        Err(_) => look_up(host).await.ok_or(Refusal::NoName)?,
    };
    let mut refusal = Refusal::NoName;
    let mut tries = 0;
    for address in found {
        match place(address) {
            Place::Public => {}
            Place::Private(_) if verdict == Verdict::Private => {}
            Place::Private(reason) | Place::Never(reason) => {
                refusal = Refusal::Address(address, reason);
                continue;
            }
        }
        if tries == TRIES {
            break;
        }
        tries += 1;
        match tokio::time::timeout(PATIENCE, TcpStream::connect((address, port))).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => refusal = Refusal::Unreachable(error),
            Err(_) => refusal = Refusal::Silent,
        }
    }
    Err(refusal)
}

/// What this machine knows of a name; `None` where that is nothing.
pub(super) async fn look_up(host: &str) -> Option<Vec<IpAddr>> {
    // the port is only what the call wants
    let found = tokio::time::timeout(PATIENCE, tokio::net::lookup_host((host, 1))).await;
    let found: Vec<IpAddr> = found.ok()?.ok()?.map(|address: SocketAddr| address.ip()).collect();
    (!found.is_empty()).then_some(found)
}
