//! Asking the kernel for links and routes (rtnetlink(7), netdevice(7)).
//!
//! Three messages are all that is needed, so they are written here byte by byte; a crate for all of
//! the protocol is many times larger than what uses it would be.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// A request, its attributes and their nesting, in the machine's byte order.
struct Message(Vec<u8>);

/// Of `struct nlmsghdr`.
const HEADER: usize = 16;
/// `struct ifinfomsg` of a link that has no properties yet.
const NEW_LINK: [u8; 16] = [0; 16];
/// `VETH_INFO_PEER`.
const PEER: u16 = 1;
/// `RTPROT_STATIC`.
const STATIC: u8 = 4;
/// A loopback is the first link of every network.
const LOOPBACK: u32 = 1;

impl Message {
    fn new(kind: u16, fixed: &[u8]) -> Self {
        let flags = libc::NLM_F_REQUEST | libc::NLM_F_ACK | libc::NLM_F_CREATE | libc::NLM_F_EXCL;
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&u16::try_from(flags).unwrap_or_default().to_ne_bytes());
        bytes.extend(fixed);
        Message(bytes)
    }

    fn put(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |message| message.0.extend(value));
    }

    fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.0.len();
        self.0.extend([0, 0]);
        self.0.extend(kind.to_ne_bytes());
        fill(self);
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0
    }
}

/// What leads to a network: the one that this was opened in, wherever it is used.
pub(super) struct Network {
    asks: OwnedFd,
    /// For what is older than that protocol.
    calls: OwnedFd,
}

impl Network {
    pub(super) fn open() -> io::Result<Self> {
        let open = |family, kind| socket_with(family, kind, SocketFlags::CLOEXEC, None);
        Ok(Network {
            asks: open(AddressFamily::NETLINK, SocketType::RAW)?,
            calls: open(AddressFamily::INET, SocketType::DGRAM)?,
        })
    }

    /// A cable from this network to another: the names of its ends here and there.
    pub(super) fn lay_cable(&self, here: &str, there: &str, far: BorrowedFd<'_>) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, &NEW_LINK);
        message.put(libc::IFLA_IFNAME, &terminated(here));
        message.nest(libc::IFLA_LINKINFO, |message| {
            message.put(libc::IFLA_INFO_KIND, b"veth");
            message.nest(libc::IFLA_INFO_DATA, |message| {
                message.nest(PEER, |message| {
                    message.0.extend(NEW_LINK);
                    message.put(libc::IFLA_IFNAME, &terminated(there));
                    message.put(libc::IFLA_NET_NS_FD, &far.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.ask(message)
    }

    /// Whatever no other route leads to goes by this gateway.
    pub(super) fn route_by(&self, gateway: Ipv4Addr) -> io::Result<()> {
        let mut message = default_route(libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
        message.put(libc::RTA_GATEWAY, &gateway.octets());
        self.ask(message)
    }

    /// Every address that no other route leads to is this network's own.
    pub(super) fn own_all(&self) -> io::Result<()> {
        let mut message = default_route(libc::RT_SCOPE_HOST, libc::RTN_LOCAL);
        message.put(libc::RTA_OIF, &LOOPBACK.to_ne_bytes());
        self.ask(message)
    }

    fn ask(&self, message: Message) -> io::Result<()> {
        send(&self.asks, &message.finish(), SendFlags::empty())?;
        let mut answer = [0; 4096];
        let (_, length) = recv(&self.asks, &mut answer[..], RecvFlags::empty())?;
        // an acknowledgement is an error of number 0, right behind the header
        let number = answer.get(HEADER..HEADER + 4).filter(|_| length >= HEADER + 4);
        match number.and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(number) => Err(io::Error::from_raw_os_error(-number)),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Gives a link its address, and the 30 bits of network that two ends need.
    pub(super) fn give_address(&self, link: &str, address: Ipv4Addr) -> io::Result<()> {
        self.call(libc::SIOCSIFADDR as _, link, |request| set_address(request, address))?;
        let mask = Ipv4Addr::new(255, 255, 255, 252);
        self.call(libc::SIOCSIFNETMASK as _, link, |request| set_address(request, mask))
    }

    pub(super) fn raise(&self, link: &str) -> io::Result<()> {
        // the flags fit a short by definition
        let flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        self.call(libc::SIOCSIFFLAGS as _, link, |request| request.ifr_ifru.ifru_flags = flags)
    }

    fn call(
        &self,
        number: libc::Ioctl,
        link: &str,
        fill: impl FnOnce(&mut libc::ifreq),
    ) -> io::Result<()> {
        // SAFETY: an all-zero ifreq is valid; it is given a name and what the call takes
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (slot, byte) in request.ifr_name.iter_mut().zip(terminated(link)) {
            *slot = byte as libc::c_char;
        }
        fill(&mut request);
        // SAFETY: the descriptor is open and the request outlives the call
        match unsafe { libc::ioctl(self.calls.as_raw_fd(), number, &request) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

fn terminated(name: &str) -> Vec<u8> {
    [name.as_bytes(), b"\0"].concat()
}

fn default_route(scope: u8, kind: u8) -> Message {
    let family = u8::try_from(libc::AF_INET).unwrap_or_default();
    let route = [family, 0, 0, 0, libc::RT_TABLE_MAIN, STATIC, scope, kind, 0, 0, 0, 0];
    Message::new(libc::RTM_NEWROUTE, &route)
}

fn set_address(request: &mut libc::ifreq, address: Ipv4Addr) {
    let family = libc::sa_family_t::try_from(libc::AF_INET).unwrap_or_default();
    let mut place = libc::sockaddr { sa_family: family, sa_data: [0; 14] };
    // behind the port
    for (slot, byte) in place.sa_data[2..].iter_mut().zip(address.octets()) {
        *slot = byte as libc::c_char;
    }
    request.ifr_ifru.ifru_addr = place;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_counted_without_their_padding() {
        let mut message = Message::new(16, &[]);
        message.nest(2, |message| message.put(1, b"abc"));
        let bytes = message.finish();
        let body: Vec<u8> = [12u16, 2, 7, 1].iter().flat_map(|n| n.to_ne_bytes()).collect();
        assert_eq!(&bytes[16..24], body);
        assert_eq!(&bytes[24..], b"abc\0");
        assert_eq!(bytes[..4], 28u32.to_ne_bytes());
    }
}
