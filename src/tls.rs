//! TLS: certificates by the name that a client asks for, sessions that can be resumed, and who a client says
//! that it is.
//!
//! [`Certificate`] is what two files hold, checked; a [`Listening`] of some of them becomes the configuration
//! of a listener. [`Tickets`] are the keys to the sessions of one generation after another. A [`ServerStream`] is a
//! connection, and [`Records`] lies under it and knows whether a record has begun.
//!
//! The library is rustls with the cryptography of aws-lc. Nothing here logs a key, nor prints one.

mod alert;
mod certificate;
pub mod client;
mod records;
mod resolver;
mod stream;
mod subject;
mod tickets;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::error::Unspecified;
use aws_lc_rs::{digest, rand};
use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{
    NoClientAuth, NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier,
};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion, version};

pub use alert::plain as plain_alert;
pub use certificate::Certificate;
pub use records::Records;
pub use stream::ServerStream;
pub use subject::{MAX_SUBJECT, NoSubject, subject};
pub use tickets::{MIN_KEY_FILE, Tickets};

use resolver::Resolver;

/// The largest file of certificates or of keys, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// What is wrong, and in which file.
#[derive(Debug, thiserror::Error)]
#[error("{path:?}: {reason}")]
pub struct Error {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what to do.
    pub reason: String,
}

impl Error {
    fn new(path: &Path, reason: impl Into<String>) -> Error {
        Error { path: path.to_owned(), reason: reason.into() }
    }
}

/// The lowest version that is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// TLS 1.2 (RFC 5246).
    #[default]
    V1_2,
    /// TLS 1.3 (RFC 8446).
    V1_3,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked.
    #[default]
    Off,
    /// They are asked; one that shows none is served, too.
    Requested {
        /// Who must have signed them: a file of PEM certificates.
        ca: PathBuf,
    },
    /// One that shows none gets an alert.
    Required {
        /// Who must have signed them: a file of PEM certificates.
        ca: PathBuf,
    },
}

/// What a listener shows its clients and asks of them.
#[derive(Debug)]
pub struct Listening<'l> {
    /// At least one. The first answers those that name no server, or one that none is for.
    pub certificates: &'l [Arc<Certificate>],
    /// The lowest version.
    pub min_version: MinVersion,
    /// What clients may speak, as ALPN (RFC 7301) names it, best first.
    pub protocols: &'l [&'l [u8]],
    /// Whether clients show certificates.
    pub client_certificates: &'l ClientCertificates,
    /// The keys to sessions.
    pub tickets: &'l Arc<Tickets>,
}

impl Listening<'_> {
    /// The configuration for it, with the hybrid X25519MLKEM768 as the first of the key exchanges.
    ///
    /// Errors name the file of the authorities.
    pub fn config(&self) -> Result<Arc<ServerConfig>, Error> {
        let (verifier, policy) = verifier(self.client_certificates)?;
        let versions: &[&SupportedProtocolVersion] = match self.min_version {
            MinVersion::V1_2 => &[&version::TLS13, &version::TLS12],
            MinVersion::V1_3 => &[&version::TLS13],
        };
        let builder = ServerConfig::builder_with_provider(crypto()).with_protocol_versions(versions);
        let builder = builder.map_err(|error| Error::new(Path::new("tls"), error.to_string()))?;
        let resolver = Arc::new(Resolver::new(self.certificates));
        let mut config = builder.with_client_cert_verifier(verifier).with_cert_resolver(resolver);
        config.alpn_protocols = self.protocols.iter().map(|name| name.to_vec()).collect();
        config.ticketer = self.tickets.bound_to(&policy);
        // Sessions are with the clients, sealed: no memory here, and the next generation can open them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        // What comes with the first flight can be sent again by anyone who has seen it (RFC 8446, section 8).
        config.max_early_data_size = 0;
        config.send_tls13_tickets = 2;
        // A connection at rest can go to another process only with its keys.
        config.enable_secret_extraction = true;
        Ok(Arc::new(config))
    }
}

/// Has the first random number of this process drawn, for which aws-lc gathers entropy from the jitter of the processor:
/// that takes tens of milliseconds, and whoever shakes hands first would wait for it. To be done before it is ready.
///
/// # Errors
///
/// The system has no randomness.
pub fn seed() -> Result<(), Unspecified> {
    rand::fill(&mut [0; 32])
}

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
}

/// Who checks the certificates of clients, and a word for what is asked of these: a session that was begun
/// where less was asked, or where others were trusted, must not be resumed here.
fn verifier(wanted: &ClientCertificates) -> Result<(Arc<dyn ClientCertVerifier>, Vec<u8>), Error> {
    let (ca, required) = match wanted {
        ClientCertificates::Off => return Ok((Arc::new(NoClientAuth), b"off".to_vec())),
        ClientCertificates::Requested { ca } => (ca, false),
        ClientCertificates::Required { ca } => (ca, true),
    };
    let text = read(ca)?;
    let roots = Arc::new(authorities(ca, &text)?);
    let builder = WebPkiClientVerifier::builder_with_provider(roots, crypto());
    let builder = if required { builder } else { builder.allow_unauthenticated() };
    let verifier = builder.build().map_err(|error| Error::new(ca, error.to_string()))?;
    let policy: &[u8] = if required { b"required" } else { b"requested" };
    Ok((verifier, [policy, digest::digest(&digest::SHA256, &text).as_ref()].concat()))
}

/// What a file holds.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes));
    read.map_err(|cause| Error::new(path, format!("cannot read it: {cause}")))?;
    match bytes.len() as u64 <= MAX_FILE {
        true => Ok(bytes),
        false => Err(Error::new(path, format!("it has more than {MAX_FILE} bytes"))),
    }
}

/// The certificates in a PEM text; at least one.
fn certificates(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found = CertificateDer::pem_slice_iter(text).collect::<Result<Vec<_>, _>>();
    let found = found.map_err(|error| Error::new(path, format!("it is not PEM: {error}")))?;
    match found.is_empty() {
        true => Err(Error::new(path, "there is no certificate in it (PEM: -----BEGIN CERTIFICATE-----)")),
        false => Ok(found),
    }
}

/// The authorities in a PEM text; at least one.
fn authorities(path: &Path, text: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path, text)? {
        roots.add(certificate).map_err(|error| {
            Error::new(path, format!("a certificate in it cannot be an authority's: {error}"))
        })?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests;
