//! The way out of an instance: a second network, which has the other end of a cable and nothing else.
//!
//! All of the instance's packets that are not its own loopback's end there, whatever address they are
//! for, and sockets wait for them on some ports. The sockets are handed to the relay, which lives
//! outside and decides. Nobody else is ever in that network, so nothing in the instance can take the
//! relay's place, and what the instance itself listens on never meets a port of the relay's, as it
//! would on a loopback that both share. A tap device would do as well, but ordinary users often lack
//! `/dev/net/tun`.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::super::child::{Setup, Step, apart, fault};
use super::super::netlink::Network;
use super::super::passing;
use super::enter;

/// Where the name server and the proxy are, in a range that is nobody's (RFC 2544).
pub const NEAR: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
const INSTANCE: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

/// What waits beyond the cable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Gate {
    /// Of TCP, on every address.
    pub ports: Vec<u16>,
}

/// Sockets of the gate's, to be served from outside.
#[derive(Debug)]
pub struct GateSockets {
    /// Takes questions for names.
    pub names: UdpSocket,
    pub listeners: Vec<TcpListener>,
}

impl Gate {
    /// Lays the cable, and hands the sockets out; to be called in the instance's network.
    pub(super) fn open(&self, over: BorrowedFd<'_>) -> Setup<()> {
        let inner = Network::open().step("open the instance's network")?;
        let own = File::open("/proc/self/ns/net").step("open the instance's network")?;
        // SAFETY: this process has one thread, and the flag shares neither descriptors nor memory
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }.step("make the gate")?;
        let outer = Network::open().step("open the gate")?;
        connect(&outer, &inner, own.as_fd())?;
        let sockets = self.listen()?;
        rustix::thread::move_into_link_name_space(own.as_fd(), Some(LinkNameSpaceType::Network))
            .step("return from the gate")?;
        passing::send_all(over, &sockets).step("hand the gate's sockets out")
    }

    /// Likewise, in the network of an instance that somebody else made, before its program starts.
    pub fn open_beside(&self, first: BorrowedFd<'_>, over: BorrowedFd<'_>) -> Setup<()> {
        apart("lay the way out", || {
            enter::go_into_network_as_root(first)?;
            self.open(over)
        })
    }

    fn listen(&self) -> Setup<Vec<OwnedFd>> {
        let names = UdpSocket::bind((NEAR, 53)).step("listen for questions")?;
        let mut sockets = vec![OwnedFd::from(names)];
        for port in &self.ports {
            let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port))
                .step(format!("listen on the gate's port {port}"))?;
            sockets.push(listener.into());
        }
        Ok(sockets)
    }

    /// What `open` handed out.
    pub fn receive(&self, over: BorrowedFd<'_>) -> Setup<GateSockets> {
        let step = "take the gate's sockets";
        let sockets = passing::receive_all(over, self.ports.len() + 1).step(step)?;
        let mut sockets = sockets.into_iter();
        let names = sockets.next().ok_or_else(|| fault(step, "there are none"))?;
        Ok(GateSockets { names: names.into(), listeners: sockets.map(TcpListener::from).collect() })
    }
}

/// Both ends of the cable, and what is beyond it from either.
fn connect(outer: &Network, inner: &Network, instance: BorrowedFd<'_>) -> Setup<()> {
    outer.lay_cable("gate", "eth0", instance).step(CABLE)?;
    outer.raise("lo").step("raise the gate's loopback")?;
    for (network, link, address) in [(outer, "gate", NEAR), (inner, "eth0", INSTANCE)] {
        network.give_address(link, address).step(format!("give `{link}` its address"))?;
        network.raise(link).step(format!("raise `{link}`"))?;
    }
    outer.own_all().step("lead every address to the gate")?;
    inner.route_by(NEAR).step("lead every address to the gate")
}

/// What fails where the kernel has no such links.
pub const CABLE: &str = "lay a cable out of the instance";

/// Lays one in a network that ends at once, and answers whether the kernel has none. Where not even
/// namespaces can be had, that is another's to tell.
pub fn lacks_cables() -> bool {
    let laid = apart(CABLE, || {
        let both = UnshareFlags::NEWUSER | UnshareFlags::NEWNET;
        // SAFETY: this process has one thread, and the flags share neither descriptors nor memory
        unsafe { rustix::thread::unshare_unsafe(both) }.step(CABLE)?;
        let network = Network::open().step(CABLE)?;
        let own = File::open("/proc/self/ns/net").step(CABLE)?;
        network.lay_cable("gate", "eth0", own.as_fd()).step(CABLE)
    });
    laid.is_err_and(|fault| fault.errno == Some(libc::EOPNOTSUPP))
}
