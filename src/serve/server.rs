//! Connections: accepted, counted, each on a thread of its own.

use std::io::{BufReader, BufWriter};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::Scope;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::pipe::PipeFlags;

use super::http::{Request, Response, Unreadable, read_request, write_response};

/// Connections at a time; more wait until the kernel's queue is full.
const MOST: usize = 128;

/// How long a connection may be silent, and how long an answer may wait to be taken.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers requests; from several threads.
pub trait Site: Sync {
    fn answer(&self, request: &Request) -> Response;
}

/// Knows nothing: for programs that have no server to ask.
pub struct Closed;

impl Site for Closed {
    fn answer(&self, _: &Request) -> Response {
        Response::refusal(403, "refused: this step has no server to ask")
    }
}

/// A server that ends when this is dropped.
pub struct Serving {
    /// Never written to: its end is what the server waits for.
    _stop: OwnedFd,
}

impl Serving {
    pub(super) fn until(stop: OwnedFd) -> Self {
        Serving { _stop: stop }
    }
}

/// A pipe whose end says that the server is to end.
pub(super) fn stopper() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}

/// Waits until there is something to read; `false` when it is time to end.
pub(super) fn wait(fd: impl AsFd, stop: &OwnedFd) -> bool {
    wait_for(fd, stop, None)
}

/// Likewise, for so long.
fn wait_for(fd: impl AsFd, stop: &OwnedFd, patience: Option<Duration>) -> bool {
    let patience = patience.and_then(|patience| Timespec::try_from(patience).ok());
    let (fd, stop) = (fd.as_fd(), stop.as_fd());
    let mut polled = [
        PollFd::from_borrowed_fd(fd, PollFlags::IN),
        PollFd::from_borrowed_fd(stop, PollFlags::IN),
    ];
    loop {
        match rustix::event::poll(&mut polled, patience.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            Err(_) | Ok(0) => return false,
            Ok(_) => return polled[1].revents().is_empty(),
        }
    }
}

/// Serves a site on threads of `scope`.
pub fn serve<'scope>(
    scope: &'scope Scope<'scope, '_>,
    listener: TcpListener,
    site: &'scope dyn Site,
) -> std::io::Result<Serving> {
    listener.set_nonblocking(true)?;
    let (ended, stop) = stopper()?;
    let ended = Arc::new(ended);
    let running = Arc::new(AtomicUsize::new(0));
    scope.spawn(move || {
        while wait(&listener, &ended) {
            if running.load(Ordering::Relaxed) >= MOST {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            }
            let Ok((stream, _)) = listener.accept() else { continue };
            let (running, ended) = (Arc::clone(&running), Arc::clone(&ended));
            running.fetch_add(1, Ordering::Relaxed);
            scope.spawn(move || {
                // a connection that breaks is the program's own affair
                converse(&stream, site, &ended).unwrap_or_default();
                running.fetch_sub(1, Ordering::Relaxed);
            });
        }
    });
    Ok(Serving::until(stop))
}

fn converse(stream: &TcpStream, site: &dyn Site, ended: &OwnedFd) -> std::io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), BufWriter::new(stream));
    loop {
        // whoever keeps a connection for later does not keep the server
        if reader.buffer().is_empty() && !wait_for(stream, ended, Some(PATIENCE)) {
            return Ok(());
        }
        let request = match read_request(&mut reader) {
            Ok(request) => request,
            Err(Unreadable::Gone) => return Ok(()),
            Err(Unreadable::Wrong(reason)) => {
                return write_response(&mut writer, None, &Response::refusal(400, reason));
            }
        };
        let response = match request.method.as_str() {
            "GET" | "HEAD" => site.answer(&request),
            _ => Response::refusal(405, "this server only answers GET and HEAD"),
        };
        write_response(&mut writer, Some(&request), &response)?;
        if request.last {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::time::Instant;

    #[test]
    fn a_connection_that_is_kept_does_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut kept = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let start = Instant::now();
        std::thread::scope(|scope| {
            let serving = serve(scope, listener, &Closed).unwrap();
            kept.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            let mut answer = [0; 12];
            kept.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"HTTP/1.1 403");
            drop(serving);
        });
        assert!(start.elapsed() < PATIENCE / 4, "{:?}", start.elapsed());
    }
}
