//! What can go wrong with TLS towards a server, in a word or two for the client and in full for the log.

use std::fmt;
use std::io;

use rustls::CertificateError;

/// Why TLS with an upstream failed. `Display` says no more than an outsider may know.
#[derive(Clone, Debug)]
pub enum TlsFailure {
    /// The upstream's certificate is not accepted.
    Certificate(&'static str, rustls::Error),
    /// Anything else in the handshake, or an alert after it.
    Handshake(rustls::Error),
    /// The connection ended in the handshake.
    Broken(io::ErrorKind),
    /// The upstream does not speak HTTP/2, which the settings ask for.
    NoHttp2,
    /// Nothing says what name the certificate should have.
    NoName,
}

impl TlsFailure {
    /// What a failed handshake tells.
    pub(in crate::proxy) fn of(error: io::Error) -> Self {
        TlsFailure::within(&error).unwrap_or(TlsFailure::Broken(error.kind()))
    }

    /// What TLS has to do with an error, if anything. With TLS 1.3 a server refuses a client's certificate only
    /// after the handshake, in the middle of what follows.
    pub(in crate::proxy) fn within(error: &(dyn std::error::Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(error) = error.downcast_ref::<rustls::Error>() {
                return Some(error.clone().into());
            }
            // An I/O error's source is that of the error in it, which is thereby left out.
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }
}

impl From<rustls::Error> for TlsFailure {
    fn from(error: rustls::Error) -> Self {
        let rustls::Error::InvalidCertificate(reason) = &error else {
            return TlsFailure::Handshake(error);
        };
        let word = match reason {
            CertificateError::UnknownIssuer => "unknown issuer",
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => "expired",
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => "not valid yet",
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                "for another name"
            }
            CertificateError::Revoked => "revoked",
            CertificateError::BadEncoding => "unreadable",
            CertificateError::BadSignature => "wrongly signed",
            _ => "not acceptable",
        };
        TlsFailure::Certificate(word, error)
    }
}

impl fmt::Display for TlsFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TlsFailure::Certificate(word, _) => write!(f, "bad certificate: {word}"),
            TlsFailure::Handshake(rustls::Error::AlertReceived(alert)) => write!(f, "alert {alert:?}"),
            TlsFailure::Handshake(_) => f.write_str("the handshake failed"),
            TlsFailure::Broken(kind) => write!(f, "the handshake was broken off: {kind}"),
            TlsFailure::NoHttp2 => f.write_str("it does not speak HTTP/2"),
            TlsFailure::NoName => f.write_str("there is no name to verify"),
        }
    }
}

impl std::error::Error for TlsFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            TlsFailure::Certificate(_, error) | TlsFailure::Handshake(error) => Some(error),
            TlsFailure::Broken(_) | TlsFailure::NoHttp2 | TlsFailure::NoName => None,
        }
    }
}
