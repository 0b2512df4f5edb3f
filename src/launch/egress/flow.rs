//! Carrying bytes between an instance and a server, until either has had enough.

use std::cell::Cell;
use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::hello::{Heard, Hello};

/// Bytes carried at once, each way.
const BUFFER: usize = 32 << 10;
/// How long a connection may be silent.
const SILENCE: Duration = Duration::from_secs(15 * 60);
/// How long a client may take to finish its TLS hello.
const HELLO: Duration = Duration::from_secs(15);

/// Why nothing more is carried.
#[derive(Debug)]
enum Stop {
    /// Connections break.
    Broken,
    Refused(String),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Stop::Broken
    }
}

/// Carries until both sides have ended, or nothing was said for too long; answers why it was refused,
/// if it was. `name` is what the client connected to, where that was no address.
pub(super) async fn carry(
    inner: &mut TcpStream,
    outer: &mut TcpStream,
    name: Option<&str>,
) -> Result<(), String> {
    for stream in [&*inner, &*outer] {
        stream.set_nodelay(true).unwrap_or_default();
    }
    let heard = Cell::new(Instant::now());
    let (mut from_inner, mut to_inner) = inner.split();
    let (mut from_outer, mut to_outer) = outer.split();
    let up = async {
        if let Some(name) = name {
            let bytes = greet(&mut from_inner, name).await?;
            to_outer.write_all(&bytes).await?;
        }
        pump(&mut from_inner, &mut to_outer, &heard).await
    };
    let down = pump(&mut from_outer, &mut to_inner, &heard);
    tokio::select! {
        ended = async { tokio::try_join!(up, down) } => match ended {
            Err(Stop::Refused(reason)) => Err(reason),
            Err(Stop::Broken) | Ok(_) => Ok(()),
        },
        () = silence(&heard) => Ok(()),
    }
}

/// Lets through what a client says first, once it is known to be harmless. It may begin when it likes.
async fn greet(from: &mut (impl AsyncRead + Unpin), name: &str) -> Result<Vec<u8>, Stop> {
    let mut hello = Hello::new();
    let mut bytes = vec![0; BUFFER];
    let mut n = from.read(&mut bytes).await?;
    let end = Instant::now() + HELLO;
    loop {
        if n == 0 {
            // half a hello is for nobody; a client that says nothing may still listen
            return Ok(Vec::new());
        }
        match hello.hear(&bytes[..n], name) {
            Heard::Pass(bytes) => return Ok(bytes),
            Heard::Refuse(reason) => return Err(Stop::Refused(reason)),
            Heard::More => {
                let next = tokio::time::timeout_at(end, from.read(&mut bytes)).await;
                n = next.map_err(|_| Stop::Refused("its TLS hello does not end".to_owned()))??;
            }
        }
    }
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    heard: &Cell<Instant>,
) -> Result<(), Stop> {
    let mut bytes = vec![0; BUFFER];
    loop {
        let n = from.read(&mut bytes).await?;
        heard.set(Instant::now());
        if n == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&bytes[..n]).await?;
        heard.set(Instant::now());
    }
}

/// Ends when nothing was heard for too long.
async fn silence(heard: &Cell<Instant>) {
    loop {
        let end = heard.get() + SILENCE;
        if Instant::now() >= end {
            return;
        }
        tokio::time::sleep_until(end).await;
    }
}
