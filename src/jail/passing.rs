//! Descriptors that a sandbox hands out to its parent while it is being set up.
//!
//! A socket belongs to the network namespace it was made in, whoever holds it. So a listener that is
//! bound inside and served outside joins the two without a route, an interface or a proxy process:
//! the program reaches 127.0.0.1, the parent answers, and there is nothing else to reach. The way
//! out is the child's standard input, a socket that carried the description the other way.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use rustix::pty::OpenptFlags;

use super::child::{Setup, Step};
use super::spec::Socket;

/// How many descriptors one message carries at most.
const MOST: usize = 8;

/// Makes a terminal and hands its far end to the parent; answers the near end.
pub(super) fn pass_terminal() -> Setup<OwnedFd> {
    pass_terminal_over(std::io::stdin().as_fd())
}

/// Likewise, over a socket of the caller's.
pub fn pass_terminal_over(over: BorrowedFd<'_>) -> Setup<OwnedFd> {
    let (far, near) = open_terminal()?;
    send(over, &[far.as_fd()]).step("hand a terminal to the parent")?;
    Ok(near)
}

/// Makes a terminal: its far end, and the near one.
pub fn open_terminal() -> Setup<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let far = rustix::pty::openpt(flags).step("open a terminal")?;
    rustix::pty::unlockpt(&far).step("unlock a terminal")?;
    let near = rustix::pty::ioctl_tiocgptpeer(&far, flags).step("open a terminal's end")?;
    Ok((far, near))
}

/// Makes the sockets and hands them to the parent. To be called where the loopback is up and low
/// ports may be bound.
pub(super) fn pass_sockets(sockets: &[Socket]) -> Setup<()> {
    if sockets.is_empty() {
        return Ok(());
    }
    let made: Vec<OwnedFd> = sockets.iter().map(|socket| make(*socket)).collect::<Setup<_>>()?;
    let fds: Vec<BorrowedFd<'_>> = made.iter().map(AsFd::as_fd).collect();
    send(std::io::stdin().as_fd(), &fds).step("hand sockets to the parent")
}

fn make(socket: Socket) -> Setup<OwnedFd> {
    let made = match socket {
        Socket::Tcp(port) => TcpListener::bind((Ipv4Addr::LOCALHOST, port)).map(OwnedFd::from),
        Socket::Udp(port) => UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).map(OwnedFd::from),
    };
    made.step(format!("listen on {socket}"))
}

pub fn send(over: BorrowedFd<'_>, fds: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(rustix::io::Errno::TOOBIG);
    }
    sendmsg(over, &[IoSlice::new(b"s")], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

/// Any number of them.
pub(super) fn send_all(over: BorrowedFd<'_>, fds: &[OwnedFd]) -> rustix::io::Result<()> {
    fds.chunks(MOST).try_for_each(|some| {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(AsFd::as_fd).collect();
        send(over, &some)
    })
}

/// So many that [`send_all`] sent; fewer where the sender ended.
pub(super) fn receive_all(over: BorrowedFd<'_>, count: usize) -> rustix::io::Result<Vec<OwnedFd>> {
    let mut fds = Vec::with_capacity(count);
    while fds.len() < count {
        let some = receive(over)?;
        if some.is_empty() {
            return Err(rustix::io::Errno::PIPE);
        }
        fds.extend(some);
    }
    Ok(fds)
}

/// What the child handed out; nothing where it ended before.
pub fn receive(over: BorrowedFd<'_>) -> rustix::io::Result<Vec<OwnedFd>> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut into = [IoSliceMut::new(&mut byte)];
    rustix::io::retry_on_intr(|| {
        recvmsg(over, &mut into, &mut ancillary, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fds = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    Ok(fds.flatten().collect())
}
