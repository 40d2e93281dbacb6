//! An authority of one's own and a certificate by it, made anew for each run.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::Error;

/// The files of a certificate, and who believes it.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The name that it is for, beside 127.0.0.1 and ::1.
    pub name: String,
    /// The authority's certificate, PEM.
    pub authority: PathBuf,
    /// The certificate, PEM.
    pub chain: PathBuf,
    /// Its private key, PEM, for the owner's eyes only.
    pub key: PathBuf,
    /// The chain and the key in one file, as HAProxy wants it.
    pub both: PathBuf,
    /// The authority's certificate, DER.
    pub authority_der: CertificateDer<'static>,
}

impl Certificate {
    /// Makes one for a name (`localhost`), 127.0.0.1 and ::1, ECDSA on P-256, and writes it into a folder.
    ///
    /// # Errors
    ///
    /// If the name is no DNS name, or a file cannot be written.
    pub fn create(folder: &Path, name: &str) -> Result<Certificate, Error> {
        let (authority, leaf, key) = make(name).map_err(Error::Certificate)?;
        let certificate = Certificate {
            name: name.to_owned(),
            authority: folder.join("authority.pem"),
            chain: folder.join("chain.pem"),
            key: folder.join("key.pem"),
            both: folder.join("both.pem"),
            authority_der: authority.der().clone(),
        };
        write(&certificate.authority, 0o644, &authority.pem())?;
        write(&certificate.chain, 0o644, &leaf.pem())?;
        write(&certificate.key, 0o600, &key)?;
        write(&certificate.both, 0o600, &format!("{}{key}", leaf.pem()))?;
        Ok(certificate)
    }

    /// What clients believe: this authority alone.
    #[must_use]
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        // rcgen's own, so there is nothing in it that rustls would not take.
        roots.add_parsable_certificates([self.authority_der.clone()]);
        roots
    }
}

/// The authority, the leaf, and the leaf's key as PEM.
fn make(name: &str) -> Result<(rcgen::Certificate, rcgen::Certificate, String), rcgen::Error> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(DnType::CommonName, "exuvia-loadtest authority");
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let authority_key = KeyPair::generate()?;
    let authority_certificate = authority.self_signed(&authority_key)?;
    let issuer = Issuer::new(authority, authority_key);

    let mut leaf = CertificateParams::new([name, "127.0.0.1", "::1"].map(str::to_owned))?;
    leaf.distinguished_name.push(DnType::CommonName, name);
    leaf.use_authority_key_identifier_extension = true;
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let key = KeyPair::generate()?;
    let certificate = leaf.signed_by(&key, &issuer)?;
    Ok((authority_certificate, certificate, key.serialize_pem()))
}

fn write(path: &Path, mode: u32, text: &str) -> Result<(), Error> {
    let write = || {
        // A file that is there already would keep its mode.
        match fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(text.as_bytes())
    };
    write().map_err(|cause| Error::file("write the certificate", path, cause))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_key_is_for_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::create(folder.path(), "localhost").unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&certificate.key), mode(&certificate.both)), (0o600, 0o600));
        assert_eq!(certificate.roots().len(), 1);
        let both = fs::read_to_string(&certificate.both).unwrap();
        assert!(both.contains("BEGIN CERTIFICATE") && both.contains("PRIVATE KEY"));
        Certificate::create(folder.path(), "localhost").unwrap();
        let error = Certificate::create(folder.path(), "é").unwrap_err().to_string();
        assert!(error.contains("cannot make a certificate"), "{error}");
    }
}
