//! The sandbox's network: a loopback interface, and nothing else.

use super::child::{Setup, Step};
use super::netlink::Network;

/// Brings the loopback interface up.
pub(super) fn raise_loopback() -> Setup<()> {
    Network::open().and_then(|network| network.raise("lo")).step("raise the loopback interface")
}

/// How often the kernel found no way to an address, since the namespace was made (proc_net(5)).
pub(super) fn count_unrouted() -> u64 {
    let read = |name: &str| std::fs::read_to_string(name).unwrap_or_default();
    parse_snmp(&read("/proc/self/net/snmp")) + parse_snmp6(&read("/proc/self/net/snmp6"))
}

/// Two lines a protocol: the counters' names, then their values.
fn parse_snmp(text: &str) -> u64 {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (Some(names), Some(values)) = (lines.next(), lines.next()) else { return 0 };
    let mut pairs = names.split(' ').zip(values.split(' '));
    let found = pairs.find(|(name, _)| *name == "OutNoRoutes");
    found.and_then(|(_, value)| value.parse().ok()).unwrap_or(0)
}

/// A counter a line.
fn parse_snmp6(text: &str) -> u64 {
    let mut values = text.lines().filter_map(|line| line.strip_prefix("Ip6OutNoRoutes"));
    values.next().and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_found_by_name() {
        let text = "Ip: Forwarding InReceives OutNoRoutes\nIp: 1 5 3\nIcmp: InMsgs\nIcmp: 9\n";
        assert_eq!(parse_snmp(text), 3);
        assert_eq!(parse_snmp("Ip: 1\n"), 0);
        assert_eq!(parse_snmp6("Ip6InReceives  1\nIp6OutNoRoutes                  \t2\n"), 2);
    }
}
