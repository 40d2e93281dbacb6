//! The settings of what is spoken: TLS, HTTP/2, the PROXY protocol.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

/// A certificate and its key: `[certificates.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateSettings {
    /// What listeners and upstreams call it: 1 to 64 of `A-Z a-z 0-9 _ . -`.
    pub name: String,
    /// A PEM file with the certificate and those that it was issued by.
    pub chain: PathBuf,
    /// A PEM file with its private key.
    pub key: PathBuf,
}

/// How a listener speaks TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerTlsSettings {
    /// Names of certificates that there are, at least one; the first is the default.
    pub certificates: Vec<String>,
    /// The oldest version that is spoken.
    pub min_version: TlsVersion,
    /// Whether clients show a certificate.
    pub client_certificates: ClientCertificates,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

/// Whether clients show a certificate, and who must have issued it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    Off,
    /// They are asked, and may have none.
    Requested {
        /// A PEM file with the issuers that are trusted.
        ca: PathBuf,
    },
    /// Without one there is no connection.
    Required {
        /// A PEM file with the issuers that are trusted.
        ca: PathBuf,
    },
}

/// What a client may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.0 and HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// Whether connections begin with a PROXY header, and whose is believed. On a Unix socket `from` is empty: the
/// mode of its file says who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyProtocolSettings {
    /// They do not.
    Off,
    /// Those from these networks may.
    Optional {
        /// Networks; at most 256.
        from: Vec<IpNet>,
    },
    /// All must, and come from these networks.
    Required {
        /// Networks; at most 256.
        from: Vec<IpNet>,
    },
}

/// What holds for TLS on every listener: `[tls]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// How long a session can be resumed; above zero.
    pub ticket_lifetime: Duration,
    /// Files with ticket keys, the first for new tickets; none: keys are made here. At most 16.
    pub ticket_key_files: Vec<PathBuf>,
}

/// What clients may do with HTTP/2: `[http2]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// Streams at once on one connection: 1 to 10,000.
    pub max_streams: u32,
    /// How much of one request's body may be on its way, in bytes: 16 KiB to 16 MiB.
    pub stream_window: u32,
    /// The same for all of a connection: `max_streams` times `stream_window` or more, at most 1 GiB.
    pub connection_window: u32,
    /// Streams that may be reset in a minute beyond those that ended in order: 1 to 1,000,000.
    pub max_resets_per_minute: u32,
    /// Frames in a minute that carry nothing: 10 to 10,000,000.
    pub max_control_frames_per_minute: u32,
    /// How long a peer may take to acknowledge a ping or our settings; above zero.
    pub ack_timeout: Duration,
}

/// What is spoken with servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, without TLS by prior knowledge.
    Http2,
    /// What the server chooses in the TLS handshake (ALPN, RFC 7301).
    Alpn,
}

/// How TLS is spoken with servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamTlsSettings {
    /// The name that the server must prove. None: its own host name or address.
    pub name: Option<String>,
    /// A PEM file with the issuers that are trusted. None: the system's.
    pub ca: Option<PathBuf>,
    /// The name of the certificate that is shown. None: none.
    pub client_certificate: Option<String>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}
