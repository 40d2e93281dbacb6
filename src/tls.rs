//! TLS: what both sides of the proxy need of certificates.

pub mod client;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs as provider};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

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

fn crypto() -> Arc<CryptoProvider> {
    Arc::new(provider::default_provider())
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
