//! Which addresses are public: those that may be reached without being listed one by one.
//!
//! Runs in: server. Pure. Follows the registries of special addresses (RFC 6890 and its successors); what is not known to be
//! public is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether all the world may have this address.
#[must_use]
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => is_public_4(address),
        IpAddr::V6(address) => is_public_6(address),
    }
}

fn is_public_4(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    let is_special = match first {
        // This network, private, loopback, multicast, reserved, broadcast.
        0 | 10 | 127 | 224.. => true,
        // Shared by customers of a provider.
        100 => second & 0xc0 == 64,
        // Link-local, with the metadata of clouds.
        169 => second == 254,
        172 => second & 0xf0 == 16,
        // Protocols, examples, relays; private.
        192 => matches!((second, third), (0, 0 | 2) | (88, 99) | (168, _)),
        // Measurements; examples.
        198 => matches!(second, 18 | 19) || (second, third) == (51, 100),
        203 => (second, third) == (0, 113),
        _ => false,
    };
    !is_special
}

fn is_public_6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    match parts {
        // An address of version 4 behind a translator: a network without version 4 has no other way to it.
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            let [[a, b], [c, d]] = [high.to_be_bytes(), low.to_be_bytes()];
            is_public_4(Ipv4Addr::new(a, b, c, d))
        }
        // Protocols, tunnels with addresses of version 4 inside, examples.
        [0x2001, second, ..] if second < 0x200 || second == 0xdb8 => false,
        [0x2002, ..] => false,
        [0x3fff, second, ..] if second < 0x1000 => false,
        // All that is given out today.
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECIAL: &str = "\
        0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.127.255.255 127.0.0.1 127.255.255.254 169.254.169.254 \
        172.16.0.1 172.31.255.255 192.0.0.8 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.19.9.9 \
        198.51.100.1 203.0.113.9 224.0.0.1 240.0.0.1 255.255.255.255 :: ::1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 \
        ::127.0.0.1 64:ff9b::7f00:1 64:ff9b::a9fe:a9fe 64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: \
        3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1";
    const PUBLIC: &str = "\
        1.1.1.1 9.9.9.9 100.63.0.1 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 192.167.0.1 198.17.0.1 \
        223.255.255.254 2600::1 2001:4860:4860::8888 2606:4700::1111 64:ff9b::101:101 ::ffff:1.1.1.1";

    #[test]
    fn what_is_not_for_all_the_world_is_not_public() {
        let is = |text: &str| is_public(text.parse().expect("an address"));
        for text in SPECIAL.split_whitespace() {
            assert!(!is(text), "{text}");
        }
        for text in PUBLIC.split_whitespace() {
            assert!(is(text), "{text}");
        }
    }
}
