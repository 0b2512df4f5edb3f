//! Addresses that an instance is not led to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Public,
    /// This machine's or its networks', and why.
    Private(&'static str),
    /// Nobody's to be led to, whatever is allowed.
    Never(&'static str),
}

/// Parts of the address space that are not the public network's (RFC 6890).
const FOUR: &[([u8; 4], u32, Place)] = &[
    ([0, 0, 0, 0], 8, Place::Never("this network")),
    ([10, 0, 0, 0], 8, Place::Private("private")),
    ([100, 64, 0, 0], 10, Place::Private("a provider's inner network")),
    ([127, 0, 0, 0], 8, Place::Private("loopback")),
    ([169, 254, 0, 0], 16, Place::Never("link-local")),
    ([172, 16, 0, 0], 12, Place::Private("private")),
    ([192, 0, 0, 0], 24, Place::Private("protocol assignments")),
    ([192, 168, 0, 0], 16, Place::Private("private")),
    ([198, 18, 0, 0], 15, Place::Never("the gate's own")),
    ([224, 0, 0, 0], 4, Place::Never("multicast")),
    ([240, 0, 0, 0], 4, Place::Never("reserved or broadcast")),
];

const SIX: &[(Ipv6Addr, u32, Place)] = &[
    (Ipv6Addr::LOCALHOST, 128, Place::Private("loopback")),
    // the rest are forms of the older addresses, which are to be written as those
    (Ipv6Addr::UNSPECIFIED, 96, Place::Never("an IPv4 address in disguise")),
    (Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0), 96, Place::Never("an IPv4 address in disguise")),
    (Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 32, Place::Never("translated to IPv4")),
    (Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 0), 64, Place::Never("discarded")),
    (Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, 0, 0), 23, Place::Never("protocol assignments")),
    (Ipv6Addr::new(0x2002, 0, 0, 0, 0, 0, 0, 0), 16, Place::Never("an IPv4 address in disguise")),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7, Place::Private("private")),
    (Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0), 10, Place::Never("link-local")),
    (Ipv6Addr::new(0xfec0, 0, 0, 0, 0, 0, 0, 0), 10, Place::Private("site-local")),
    (Ipv6Addr::new(0xff00, 0, 0, 0, 0, 0, 0, 0), 8, Place::Never("multicast")),
];

/// Whose an address is; one of this machine's own is private, whatever it looks like.
pub(super) fn place(address: IpAddr) -> Place {
    match classify(address) {
        Place::Public if is_own(address) => Place::Private("this machine's own"),
        place => place,
    }
}

fn classify(address: IpAddr) -> Place {
    let found = match address {
        IpAddr::V4(address) => FOUR.iter().find_map(|(network, bits, place)| {
            let differs = address.to_bits() ^ Ipv4Addr::from(*network).to_bits();
            (differs.leading_zeros() >= *bits).then_some(*place)
        }),
        IpAddr::V6(address) => SIX.iter().find_map(|(network, bits, place)| {
            let differs = address.to_bits() ^ network.to_bits();
            (differs.leading_zeros() >= *bits).then_some(*place)
        }),
    };
    found.unwrap_or(Place::Public)
}

/// Only what is this machine's can be bound to.
fn is_own(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_public_networks_is_known_in_every_spelling() {
        let private = [
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.9.9.9",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.8",
            "::1",
            "fd00::1",
            "fec0::1",
        ];
        for text in private {
            assert!(matches!(place(text.parse().unwrap()), Place::Private(_)), "{text}");
        }
        let never = [
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "198.18.0.1",
            "198.19.255.255",
            "224.0.0.1",
            "239.1.1.1",
            "255.255.255.255",
            "::",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a00:1",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2001::1",
            "fe80::1",
            "ff02::1",
        ];
        for text in never {
            assert!(matches!(place(text.parse().unwrap()), Place::Never(_)), "{text}");
        }
        let public = ["8.8.8.8", "100.128.0.1", "172.32.0.1", "192.1.0.1", "2606:4700::1111"];
        for text in public {
            assert_eq!(place(text.parse().unwrap()), Place::Public, "{text}");
        }
    }
}
