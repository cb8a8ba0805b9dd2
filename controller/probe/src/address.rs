//! Which addresses the internet can have in common.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Whether requests on a tenant's behalf may go to `address`: not private (RFC 1918, RFC 4193), shared (RFC 6598), loopback,
/// link-local (metadata services live there), multicast or unspecified, also not in IPv6's forms of IPv4.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => embedded_v4(v6).map_or_else(|| is_public_v6(v6), is_public_v4),
    }
}

fn is_public_v4(v4: Ipv4Addr) -> bool {
    let [first, second, ..] = v4.octets();
    let shared = first == 100 && (64..128).contains(&second);
    !(v4.is_private()
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || shared
        || first == 0
        || first >= 240)
}

fn is_public_v6(v6: Ipv6Addr) -> bool {
    // Site-local addresses (RFC 3879) are deprecated, and still private where they are.
    let site_local = v6.segments().first().is_some_and(|s| s & 0xffc0 == 0xfec0);
    !(v6.is_loopback()
        || v6.is_unspecified()
        || v6.is_multicast()
        || v6.is_unique_local()
        || v6.is_unicast_link_local()
        || site_local)
}

/// The IPv4 address inside of mapped (RFC 4291), NAT64 (RFC 6052) and 6to4 (RFC 3056) addresses.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let join = |high: u16, low: u16| Ipv4Addr::from_bits((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(join(high, low)),
        _ => None,
    }
}

/// A network, such as `10.0.0.0/8` or `fd00::/8`; an address alone is a network of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    /// How many bits count, from the front.
    length: u32,
}

impl Network {
    /// Whether it has `address`. IPv4 inside of IPv6 is IPv6.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V4(net), IpAddr::V4(address)) => {
                let other = net.to_bits() ^ address.to_bits();
                other.leading_zeros() >= self.length
            }
            (IpAddr::V6(net), IpAddr::V6(address)) => {
                let other = net.to_bits() ^ address.to_bits();
                other.leading_zeros() >= self.length
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

/// The text is no network.
#[derive(Debug, thiserror::Error)]
#[error("write a network such as 10.0.0.0/8 or fd00::/8, or an address")]
pub struct NotANetwork;

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) => length.parse().map_err(|_| NotANetwork)?,
            None => most,
        };
        (length <= most)
            .then_some(Self { address, length })
            .ok_or(NotANetwork)
    }
}

#[cfg(test)]
mod tests {
    use super::{Network, is_public};

    #[test]
    fn a_network_has_the_addresses_that_begin_alike() {
        let has = |network: &str, address: &str| {
            let network: Network = network.parse().unwrap();
            network.contains(address.parse().unwrap())
        };
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.168.4.0/22", "192.168.7.255", "192.168.8.0"),
            ("192.0.2.1", "192.0.2.1", "192.0.2.2"),
            ("0.0.0.0/0", "127.0.0.1", "::1"),
            ("fd00::/8", "fdff::1", "fe00::1"),
            ("::/0", "2001:db8::1", "10.0.0.1"),
        ] {
            assert!(has(network, inside), "{network} {inside}");
            assert!(!has(network, outside), "{network} {outside}");
        }
        for bad in [
            "10.0.0.0/33",
            "fd00::/129",
            "ten",
            "10.0.0.0/",
            "10.0.0.0/-1",
            "",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_addresses_of_the_internet_are_public() {
        for public in [
            "1.1.1.1",
            "198.18.0.7",
            "100.128.0.1",
            "172.32.0.1",
            "2606:4700::1",
            "64:ff9b::101:101",
        ] {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        let private = [
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "127.0.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fd00::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "::ffff:10.0.0.1",
            "64:ff9b::a00:1",
            "2002:7f00:1::",
        ];
        for private in private {
            assert!(!is_public(private.parse().unwrap()), "{private}");
        }
    }
}
