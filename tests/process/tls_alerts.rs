//! What a client is told when TLS goes wrong: the fatal alert that RFC 8446 has for it, and nothing after it.
//!
//! Each of these got another alert, `close_notify`, or no word at all: scanners and people looked in the wrong place.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme,
};

use super::harness::PATIENCE;
use super::tls::{client_hello, ends_with, s_client, start};

#[derive(Debug)]
struct Trusting;

impl ServerCertVerifier for Trusting {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// All that comes back, which must end in order: a reset could destroy the alert.
fn answer(mut stream: TcpStream) -> Vec<u8> {
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

/// What one who sends `records` and goes on listening gets.
fn sends(address: SocketAddr, records: &[&[u8]]) -> Vec<u8> {
    let mut stream = connect(address);
    for record in records {
        stream.write_all(record).unwrap();
    }
    answer(stream)
}

fn record(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], payload].concat()
}

fn alert(description: AlertDescription) -> Vec<u8> {
    record(21, &[2, description.into()])
}

/// The handshake message of a record.
fn message(record: &[u8]) -> &[u8] {
    &record[5..]
}

/// A ClientHello of which the extension `from` has become `to`, which nobody knows.
fn renamed(hello: &[u8], from: u16, to: u16) -> Vec<u8> {
    let mut hello = hello.to_vec();
    let u16_at = |hello: &[u8], at: usize| u16::from_be_bytes([hello[at], hello[at + 1]]);
    // Record and message headers, version, random; then session, suites and compressions.
    let mut at = 5 + 4 + 2 + 32;
    at += 1 + usize::from(hello[at]);
    at += 2 + usize::from(u16_at(&hello, at));
    at += 1 + usize::from(hello[at]) + 2;
    while u16_at(&hello, at) != from {
        at += 4 + usize::from(u16_at(&hello, at + 2));
    }
    hello[at..at + 2].copy_from_slice(&to.to_be_bytes());
    hello
}

/// A ClientHello of so many bytes, header included: padded (RFC 7685) beyond what one record has room for.
fn padded(hello: &[u8], length: usize) -> Vec<u8> {
    let mut message = message(hello).to_vec();
    let mut at = 4 + 2 + 32;
    at += 1 + usize::from(message[at]);
    at += 2 + usize::from(u16::from_be_bytes([message[at], message[at + 1]]));
    at += 1 + usize::from(message[at]);
    // Before those that are there: a key of a session must be the last.
    let padding = length - message.len() - 4;
    let extension =
        [&[0, 21], &u16::try_from(padding).unwrap().to_be_bytes()[..], &vec![0; padding]].concat();
    message.splice(at + 2..at + 2, extension);
    let extensions = u16::try_from(message.len() - at - 2).unwrap();
    message[at..at + 2].copy_from_slice(&extensions.to_be_bytes());
    let body = u32::try_from(message.len() - 4).unwrap();
    message[1..4].copy_from_slice(&body.to_be_bytes()[1..]);
    assert_eq!(message.len(), length);
    message.chunks(1 << 14).flat_map(|part| record(22, part)).collect()
}

/// They were told `access_denied`, as if they were not allowed to connect (RFC 8446, sections 4.1.1 and 4.4.2.2; RFC
/// 5246, section 7.4.1.3).
#[test]
fn a_client_that_no_certificate_is_for() {
    let (exuvia, _) = start("");
    for arguments in [
        &["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..],
        &["-tls1_2", "-sigalgs", "rsa_pss_rsae_sha256"],
        &["-tls1_3", "-sigalgs", "rsa_pss_rsae_sha256"],
        &["-sigalgs", "rsa_pss_rsae_sha256:ed25519"],
    ] {
        let (_, text) = s_client(exuvia.address(), arguments, "");
        assert!(text.contains("SSL alert number 40"), "{arguments:?}: {text}");
    }
    assert_eq!(exuvia.stop(), 0);
}

/// Before there are keys: all that comes back is one alert.
#[test]
fn records_that_are_refused_before_there_are_keys() {
    use AlertDescription as A;
    let (exuvia, _) = start("");
    let address = exuvia.address();
    let hello = client_hello();
    let (first, second) = message(&hello).split_at(100);
    let (first, second) = (record(22, first), record(22, second));
    let tells = |what: &str, records: &[&[u8]], description: A| {
        assert_eq!(sends(address, records), alert(description), "{what}: {description:?}");
    };
    tells("an unknown type", &[&record(99, b"?")], A::UnexpectedMessage);
    tells("data", &[&record(23, b"?")], A::UnexpectedMessage);
    tells("an unknown type within the hello", &[&first, &record(99, b"?")], A::UnexpectedMessage);
    tells("data within the hello", &[&first, &record(23, b"?"), &second], A::UnexpectedMessage);
    tells("an empty handshake record", &[&record(22, b"")], A::UnexpectedMessage);
    tells("an empty one within the hello", &[&first, &record(22, b""), &second], A::UnexpectedMessage);
    tells("an empty alert", &[&first, &record(21, b""), &second], A::UnexpectedMessage);
    tells("no key share", &[&renamed(&hello, 51, 0xfafa)], A::MissingExtension);
    tells("no signature algorithms", &[&renamed(&hello, 13, 0xfafa)], A::MissingExtension);
    tells("nonsense", &[&record(22, &[1, 0, 0, 2, 3, 3])], A::DecodeError);
    ends_with(&exuvia, "[\"protocol_error\",10]");
    assert_eq!(exuvia.stop(), 0);
}

/// rustls has room for 64 KiB, records' headers included, and what was longer got no word.
#[test]
fn a_client_hello_near_64_kib() {
    let (exuvia, _) = start("");
    let hello = client_hello();
    let served = sends_and_reads(exuvia.address(), &padded(&hello, 60_000));
    assert_eq!(served, [22, 3, 3], "a ServerHello");
    for length in [(1 << 16) - 10, (1 << 16) - 1] {
        let told = sends(exuvia.address(), &[&padded(&hello, length)]);
        assert_eq!(told, alert(AlertDescription::DecodeError), "{length} bytes");
    }
    // Of 16 MiB, says its header.
    let told = sends(exuvia.address(), &[&record(22, &[1, 0xff, 0xff, 0xff, 3, 3])]);
    assert_eq!(told, alert(AlertDescription::DecodeError));
    assert_eq!(exuvia.stop(), 0);
}

/// The beginning of what comes back.
fn sends_and_reads(address: SocketAddr, bytes: &[u8]) -> [u8; 3] {
    let (mut stream, mut answer) = (connect(address), [0; 3]);
    stream.write_all(bytes).unwrap();
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// A client with its keys, and what it does with what the server says.
struct Client {
    stream: TcpStream,
    session: ClientConnection,
}

impl Client {
    /// One that has shaken hands.
    fn new(address: SocketAddr, version: &'static rustls::SupportedProtocolVersion, alpn: &[u8]) -> Client {
        let config = ClientConfig::builder_with_protocol_versions(&[version]);
        let config = config.dangerous().with_custom_certificate_verifier(Arc::new(Trusting));
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = vec![alpn.to_vec()];
        config.enable_secret_extraction = true;
        let name = ServerName::try_from("site.test").unwrap();
        let mut session = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut stream = connect(address);
        while session.is_handshaking() || session.wants_write() {
            session.complete_io(&mut stream).unwrap();
        }
        assert_eq!(session.alpn_protocol(), Some(alpn));
        Client { stream, session }
    }

    /// Sends these bytes, and reads to the alert and to the end after it.
    fn sends(mut self, bytes: &[u8]) -> AlertDescription {
        self.stream.write_all(bytes).unwrap();
        let said = loop {
            assert!(self.session.read_tls(&mut self.stream).unwrap() > 0, "it ended without an alert");
            match self.session.process_new_packets() {
                Ok(_) => {}
                Err(Error::AlertReceived(said)) => break said,
                Err(error) => panic!("{error}"),
            }
        };
        // rustls reads on where it has read to, and would show whatever came after the alert.
        assert_eq!(answer(self.stream), b"", "nothing follows");
        said
    }
}

const HTTP: &[u8] = b"http/1.1";

/// Whoever holds the connection then: a request's driver, one at rest, HTTP/2's, a tunnel's.
#[test]
fn a_bad_record_in_the_middle_of_a_connection() {
    let (exuvia, _) = start("");
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        for alpn in [HTTP, b"h2"] {
            let client = Client::new(exuvia.address(), version, alpn);
            // More than is read at once: it must not end in a reset.
            let bad = [record(23, &[0; 1000]), record(23, &[0; 16_000]).repeat(4)].concat();
            assert_eq!(client.sends(&bad), AlertDescription::BadRecordMac, "{version:?}");
        }
    }
    assert_eq!(exuvia.stop(), 0);
}
