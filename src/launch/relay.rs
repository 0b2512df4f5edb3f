//! The relay: the one way into an instance's network from this machine's.
//!
//! A socket belongs to the network namespace that it was made in. The keeper listens on this
//! machine's 127.0.0.1; the relay, which holds those sockets, has moved into the instance's
//! namespace, so what it connects to is in there. It has no right left anywhere, and nothing in the
//! instance can see it: it is in another process namespace.

use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::BorrowedFd;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;

use crate::jail::instance::go_into_network;
use crate::jail::{Setup, SetupFault};

/// Bytes carried at once, each way.
const BUFFER: usize = 64 << 10;

/// A socket of this machine's, and the instance's port that it leads to.
#[derive(Debug)]
pub(super) struct Door {
    pub listener: TcpListener,
    pub inside: u16,
}

/// In a process of its own: carries bytes until it is killed.
pub(super) fn serve(doors: Vec<Door>, first: BorrowedFd<'_>) -> Setup<()> {
    raise_file_limit();
    go_into_network(first)?;
    let failed = |error: std::io::Error| SetupFault {
        step: "serve the published ports".to_owned(),
        reason: error.to_string(),
        errno: error.raw_os_error(),
    };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    runtime
        .block_on(async {
            let mut tasks = Vec::new();
            for door in doors {
                door.listener.set_nonblocking(true)?;
                let listener = tokio::net::TcpListener::from_std(door.listener)?;
                tasks.push(tokio::spawn(accept(listener, door.inside)));
            }
            for task in tasks {
                task.await.unwrap_or_default();
            }
            Ok(())
        })
        .map_err(failed)
}

/// Two descriptors a connection.
pub(super) fn raise_file_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).unwrap_or_default();
}

async fn accept(listener: tokio::net::TcpListener, inside: u16) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(carry(stream, inside))),
            // out of descriptors, or the caller is gone again: others may come
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

/// One connection. Where nobody listens inside, the caller sees it reset at once.
async fn carry(mut outer: TcpStream, inside: u16) {
    let Ok(mut inner) = TcpStream::connect((Ipv4Addr::LOCALHOST, inside)).await else {
        // closing with a reset says "refused" to those who look
        outer.set_zero_linger().unwrap_or_default();
        return;
    };
    for stream in [&outer, &inner] {
        stream.set_nodelay(true).unwrap_or_default();
    }
    // either side may end as it likes
    drop(copy_bidirectional_with_sizes(&mut outer, &mut inner, BUFFER, BUFFER).await);
}
