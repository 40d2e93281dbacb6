//! The PROXY protocol towards servers: whom a connection is for, said at its beginning
//! (haproxy.org/download/3.0/doc/proxy-protocol.txt).

use std::net::SocketAddr;

use ppp::{v1, v2};

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Who is connected with whom, as clients see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends {
    /// The client.
    pub client: SocketAddr,
    /// Where it has connected to.
    pub local: SocketAddr,
}

/// The header for a connection that is for this client. `None` is one of which there are no addresses to tell, as
/// over a Unix socket.
pub(super) fn encode(version: ProxyVersion, ends: Option<Ends>) -> Vec<u8> {
    let ends = ends.and_then(one_family);
    match version {
        ProxyVersion::V1 => {
            let addresses = ends.map_or(v1::Addresses::Unknown, v1::Addresses::from);
            match addresses {
                v1::Addresses::Unknown => b"PROXY UNKNOWN\r\n".to_vec(),
                addresses => addresses.to_string().into_bytes(),
            }
        }
        ProxyVersion::V2 => {
            let (protocol, addresses) = match ends {
                Some(ends) => (v2::Protocol::Stream, v2::Addresses::from(ends)),
                None => (v2::Protocol::Unspecified, v2::Addresses::Unspecified),
            };
            let command = v2::Version::Two | v2::Command::Proxy;
            // What there is to write has a fixed length, far below the most.
            v2::Builder::with_addresses(command, protocol, addresses).build().unwrap_or_default()
        }
    }
}

/// Both addresses in the family that they have in common: IPv4 where both can be said in it.
fn one_family(ends: Ends) -> Option<(SocketAddr, SocketAddr)> {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (client, local) = (plain(ends.client), plain(ends.local));
    match (client.is_ipv4(), local.is_ipv4()) {
        (a, b) if a == b => Some((client, local)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(client: &str, local: &str) -> Option<Ends> {
        Some(Ends { client: client.parse().unwrap(), local: local.parse().unwrap() })
    }

    #[test]
    fn version_1() {
        for (ends, line) in [
            (ends("192.0.2.7:5", "198.51.100.1:443"), "PROXY TCP4 192.0.2.7 198.51.100.1 5 443\r\n"),
            (ends("[2001:db8::7]:5", "[::1]:443"), "PROXY TCP6 2001:db8::7 ::1 5 443\r\n"),
            (ends("[::ffff:192.0.2.7]:5", "[::ffff:127.0.0.1]:1"), "PROXY TCP4 192.0.2.7 127.0.0.1 5 1\r\n"),
            // As another load balancer in front can say it.
            (ends("[2001:db8::7]:5", "127.0.0.1:443"), "PROXY UNKNOWN\r\n"),
            (None, "PROXY UNKNOWN\r\n"),
        ] {
            assert_eq!(String::from_utf8(encode(ProxyVersion::V1, ends)).unwrap(), line);
        }
    }

    #[test]
    fn version_2() {
        let v2 = |ends| encode(ProxyVersion::V2, ends);
        let signature = v2::PROTOCOL_PREFIX;
        let v4 = [signature, &[0x21, 0x11, 0, 12, 192, 0, 2, 7, 198, 51, 100, 1, 0, 5, 1, 187]].concat();
        assert_eq!(v2(ends("192.0.2.7:5", "198.51.100.1:443")), v4);
        let v6 = v2(ends("[2001:db8::7]:5", "[::1]:443"));
        assert_eq!(v6[..16], *[signature, &[0x21, 0x21, 0, 36]].concat());
        assert_eq!((v6.len(), &v6[48..]), (52, &[0, 5, 1, 187][..]));
        assert_eq!(v2(None), [signature, &[0x21, 0x00, 0, 0]].concat());
    }
}
