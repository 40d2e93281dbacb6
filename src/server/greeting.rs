//! What may come before anything else: the word of a load balancer on whom it speaks for, in the PROXY protocol
//! (haproxy.org/download/3.0/doc/proxy-protocol.txt), version 1 or 2.
//!
//! Only a peer from a trusted network is asked for it. What another one sends is never read as a header: where one
//! is required, that peer is refused, and where it is optional, it is a client like any other.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use ipnet::IpNet;
use ppp::{v1, v2};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::{Downstream, ListenerConfig, Server};
use crate::proxy::Ends;
use crate::restart::{End, Guard};

/// Whether a listener's peers say whom they speak for. On a Unix listener every peer's word is taken: who may
/// connect there, the socket's mode says.
#[derive(Clone, Debug, Default)]
pub enum ProxyProtocol {
    /// They do not.
    #[default]
    Off,
    /// Those from these networks may.
    Optional(Vec<IpNet>),
    /// They must, and they must be from these networks.
    Required(Vec<IpNet>),
}

/// The longest header of version 1, its end of line included, in bytes.
const V1_MAX: usize = 107;

/// The longest header of version 2, in bytes. The addresses take 216 at most; the rest is for what else a load
/// balancer has to tell.
const V2_MAX: usize = V2_FIXED + 4096;

/// What every header of version 2 begins with has this length, in bytes.
const V2_FIXED: usize = 16;

const V1_PREFIX: &[u8] = b"PROXY ";

impl Server {
    /// The stream after its greeting, and whose it is.
    pub(super) async fn greet(
        &self,
        stream: Downstream,
        peer: Option<SocketAddr>,
        name: &str,
        listener: &ListenerConfig,
        guard: &Guard,
        deadline: Instant,
    ) -> Result<(Downstream, Speaker), End> {
        let (from, required) = match &listener.proxy_protocol {
            ProxyProtocol::Off => return Ok((stream, Speaker::Peer)),
            ProxyProtocol::Optional(from) => (from, false),
            ProxyProtocol::Required(from) => (from, true),
        };
        let trusted = peer.is_none_or(|peer| is_in(from, peer.ip()));
        let greeted = if trusted {
            // A drain lets it finish.
            guard.set_active(true);
            let greeting = read_greeting(stream, required);
            let greeted = timeout_at(deadline, greeting).await;
            guard.set_active(false);
            greeted.unwrap_or(Err((End::TimedOut, "no whole PROXY header in time")))
        } else if required {
            Err((End::Refused, "a PROXY header is required, and taken only from trusted networks"))
        } else {
            Ok((stream, Speaker::Peer))
        };
        greeted.map_err(|(end, reason)| {
            let peer = peer.map(tracing::field::display);
            tracing::debug!(listener = name, peer, reason, "a connection was closed");
            end
        })
    }
}

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaker {
    /// That of the one who made it.
    Peer,
    /// That of a client, and where it has connected to; `None` is one on a Unix socket.
    Client(Option<Ends>),
}

fn is_in(networks: &[IpNet], ip: IpAddr) -> bool {
    // One socket for both families shows IPv4 as part of IPv6.
    let ip = ip.to_canonical();
    networks.iter().any(|network| network.contains(&ip))
}

async fn read_greeting(
    mut stream: Downstream,
    required: bool,
) -> Result<(Downstream, Speaker), (End, &'static str)> {
    let mut read = Vec::new();
    loop {
        match parse(&read) {
            Parsed::Header { length, speaker } => {
                stream.put_back(Bytes::copy_from_slice(&read[length..]));
                return Ok((stream, speaker));
            }
            Parsed::Other if !required => {
                stream.put_back(read.into());
                return Ok((stream, Speaker::Peer));
            }
            Parsed::Other => return Err((End::ProtocolError, "it does not begin with a PROXY header")),
            Parsed::Malformed(reason) => return Err((End::ProtocolError, reason)),
            Parsed::Partial => {}
        }
        match stream.read_buf(&mut read).await {
            Ok(0) if read.is_empty() => return Err((End::ClosedByPeer, "it ended before it said anything")),
            Ok(0) | Err(_) => return Err((End::PeerAborted, "it ended in the middle of a PROXY header")),
            Ok(_) => {}
        }
    }
}

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// A header of this length in bytes.
    Header { length: usize, speaker: Speaker },
    /// What can become a header, or something else.
    Partial,
    /// Something else.
    Other,
    /// A header that is none.
    Malformed(&'static str),
}

fn parse(read: &[u8]) -> Parsed {
    let begins = |prefix: &[u8]| {
        let n = read.len().min(prefix.len());
        read[..n] == prefix[..n]
    };
    match (begins(V1_PREFIX), begins(v2::PROTOCOL_PREFIX)) {
        _ if read.is_empty() => Parsed::Partial,
        (true, _) if read.len() < V1_PREFIX.len() => Parsed::Partial,
        (true, _) => parse_v1(read),
        (_, true) if read.len() < V2_FIXED => Parsed::Partial,
        (_, true) => parse_v2(read),
        _ => Parsed::Other,
    }
}

fn parse_v1(read: &[u8]) -> Parsed {
    let seen = &read[..read.len().min(V1_MAX)];
    // The parser is given whole lines only: of one that lacks something it says that there may be more to come.
    let Some(end) = seen.iter().position(|c| *c == b'\n') else {
        return if seen.len() < V1_MAX {
            Parsed::Partial
        } else {
            Parsed::Malformed("a PROXY line without end")
        };
    };
    let length = end + 1;
    let speaker = match v1::Header::try_from(&read[..length]) {
        Ok(header) if header.header.len() < length => return Parsed::Malformed("a stray CR in a PROXY line"),
        Ok(header) => match header.addresses {
            v1::Addresses::Unknown => Speaker::Peer,
            v1::Addresses::Tcp4(ip) => {
                client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
            }
            v1::Addresses::Tcp6(ip) => {
                client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
            }
        },
        Err(_) => return Parsed::Malformed("a PROXY line that is not as version 1 has it"),
    };
    Parsed::Header { length, speaker }
}

fn parse_v2(read: &[u8]) -> Parsed {
    let length = V2_FIXED + usize::from(u16::from_be_bytes([read[14], read[15]]));
    if length > V2_MAX {
        return Parsed::Malformed("a PROXY header of version 2 that is too long");
    }
    if read.len() < length {
        return Parsed::Partial;
    }
    let local = [v2::Version::Two | v2::Command::Local];
    let speaker = match v2::Header::try_from(&read[..length]) {
        // The load balancer speaks for itself, and whatever addresses it adds mean nothing.
        _ if read[12..13] == local => Speaker::Peer,
        Ok(header) if !checksum_is_good(&header) => {
            return Parsed::Malformed("a PROXY header whose checksum (CRC32C) is wrong");
        }
        Ok(header) => match (header.protocol, header.addresses) {
            (v2::Protocol::Stream, v2::Addresses::IPv4(ip)) => {
                client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
            }
            (v2::Protocol::Stream, v2::Addresses::IPv6(ip)) => {
                client((ip.source_address, ip.source_port), (ip.destination_address, ip.destination_port))
            }
            (v2::Protocol::Stream, v2::Addresses::Unix(_)) => Speaker::Client(None),
            _ => Speaker::Peer,
        },
        Err(_) => return Parsed::Malformed("a PROXY header that is not as version 2 has it"),
    };
    Parsed::Header { length, speaker }
}

/// Whether the checksum is right, if there is one (section 2.2.3): that of the whole header, with zeros in its own
/// place.
fn checksum_is_good(header: &v2::Header<'_>) -> bool {
    let bytes = header.as_bytes();
    let mut at = bytes.len() - header.tlv_bytes().len();
    // What else a load balancer tells is not looked at, be it garbled.
    for tlv in header.tlvs().map_while(Result::ok) {
        let value = at + TLV_HEADER..at + TLV_HEADER + tlv.value.len();
        if tlv.kind == v2::Type::CRC32C as u8 {
            let checksum = crc32c([&bytes[..value.start], &[0; 4], &bytes[value.end..]]);
            return *tlv.value == checksum.to_be_bytes();
        }
        at = value.end;
    }
    true
}

/// The type and the length of what a header of version 2 tells beside the addresses, in bytes.
const TLV_HEADER: usize = 3;

/// CRC-32C (RFC 3720, appendix B.4), bit by bit: a header has a few dozen bytes, and few have a checksum.
fn crc32c(parts: [&[u8]; 3]) -> u32 {
    const POLYNOMIAL: u32 = 0x82F6_3B78;
    !parts.into_iter().flatten().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (POLYNOMIAL & (crc & 1).wrapping_neg()))
    })
}

fn client(client: impl Into<SocketAddr>, local: impl Into<SocketAddr>) -> Speaker {
    Speaker::Client(Some(Ends { client: client.into(), local: local.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `ends` are "no address", or two of them.
    fn header(bytes: &[u8], ends: Option<&str>) {
        let ends = ends.map(|text| {
            let (client, local) = text.split_once(' ').unwrap();
            Some(Ends { client: client.parse().ok()?, local: local.parse().ok()? })
        });
        let speaker = ends.map_or(Speaker::Peer, Speaker::Client);
        for n in 0..bytes.len() {
            assert_eq!(parse(&bytes[..n]), Parsed::Partial, "the first {n} bytes of {bytes:?}");
        }
        let whole = Parsed::Header { length: bytes.len(), speaker };
        assert_eq!(parse(bytes), whole, "{bytes:?}");
        assert_eq!(parse(&[bytes, b"\r\n\x16GET"].concat()), whole, "what follows is not its own");
    }

    fn v2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
        let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
        [v2::PROTOCOL_PREFIX, &[command, family], &length, payload].concat()
    }

    #[test]
    fn headers_of_version_1() {
        header(b"PROXY TCP4 192.0.2.7 198.51.100.1 65535 443\r\n", Some("192.0.2.7:65535 198.51.100.1:443"));
        header(b"PROXY TCP6 2001:db8::7 ::1 1 443\r\n", Some("[2001:db8::7]:1 [::1]:443"));
        header(b"PROXY UNKNOWN\r\n", None);
        header(b"PROXY UNKNOWN ffff:f::f and the rest\r\n", None);
    }

    #[test]
    fn headers_of_version_2() {
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 1, 187];
        header(&v2(0x21, 0x11, &v4), Some("192.0.2.7:12345 198.51.100.1:443"));
        let tlvs = [&v4[..], &[0x04, 0, 2, 7, 7, 0xEE, 0, 0]].concat();
        header(&v2(0x21, 0x11, &tlvs), Some("192.0.2.7:12345 198.51.100.1:443"));
        let mut v6 = [0; 36];
        (v6[15], v6[33], v6[35]) = (1, 80, 81);
        header(&v2(0x21, 0x21, &v6), Some("[::1]:80 [::]:81"));
        header(&v2(0x21, 0x31, &[b'/'; 216]), Some("no address"));
        header(&v2(0x21, 0x00, b""), None);
        header(&v2(0x21, 0x00, b"whatever"), None);
        header(&v2(0x21, 0x12, &v4), None);
        for family in [0x00, 0x11, 0xFF] {
            header(&v2(0x20, family, b""), None);
            header(&v2(0x20, family, &v4), None);
        }
    }

    /// A checksum that was wrong was not looked at.
    #[test]
    fn a_checksum_is_that_of_the_whole_header() {
        assert_eq!(crc32c([b"1234", b"", b"56789"]), 0xE306_9283, "the check value of CRC-32C");
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x30, 0x39, 1, 187];
        let with = |checksum: &[u8]| {
            let length = u8::try_from(checksum.len()).unwrap();
            v2(0x21, 0x11, &[&v4[..], &[4, 0, 1, 9, 3, 0, length], checksum].concat())
        };
        let good = 0xD0E61D81_u32.to_be_bytes();
        header(&with(&good), Some("192.0.2.7:12345 198.51.100.1:443"));
        for bad in [&[0; 4][..], &good[..3], b"", &[good[0], good[1], good[2], !good[3]]] {
            assert!(matches!(parse(&with(bad)), Parsed::Malformed(_)), "{bad:?}");
        }
        let mut altered = with(&good);
        altered[16] = 193;
        assert!(matches!(parse(&altered), Parsed::Malformed(_)), "another client");
    }

    #[test]
    fn headers_that_are_none() {
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; V1_MAX]].concat();
        for bad in [
            b"PROXY \r\n".as_slice(),
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 1 65536\r\n",
            b"PROXY TCP4 192.0.2.256 198.51.100.1 1 2\r\n",
            b"PROXY TCP4 ::1 ::1 1 2\r\n",
            b"PROXY TCP6 ::1 ::1 1 2\n",
            b"PROXY UDP4 192.0.2.7 198.51.100.1 1 2\r\n",
            b"PROXY UNKNOWN\r \n",
            &endless,
            &v2(0x11, 0x11, &[0; 12]),
            &v2(0x22, 0x11, &[0; 12]),
            &v2(0x21, 0x11, &[0; 11]),
            &v2(0x21, 0x41, &[0; 12]),
            &v2(0x21, 0x00, &[0; 4097]),
        ] {
            assert!(matches!(parse(bad), Parsed::Malformed(_)), "{}", String::from_utf8_lossy(bad));
        }
        for other in ["GET / HTTP/1.1\r\n", "PUT", "PRI * HTTP/2.0", "PROXYING", "\r\nGET", "\x16\x03"] {
            assert_eq!(parse(other.as_bytes()), Parsed::Other, "{other}");
        }
    }
}
