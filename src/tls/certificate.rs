//! A certificate and its key, from two files, with everything checked that can be checked at home.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureAlgorithm};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::time::ASN1Time;

use super::{Error, certificates, crypto, read};

/// A chain of certificates, and the key of its first.
#[derive(Debug)]
pub struct Certificate {
    pub(super) certified: Arc<CertifiedKey>,
    /// The names of servers that it is for (RFC 6125), in lower case.
    pub(super) names: Vec<String>,
}

impl Certificate {
    /// Loads one, with what is odd about it but no reason to refuse it: it has expired, is not valid yet, or
    /// others can read its key.
    ///
    /// Errors name the file that is wrong.
    pub fn load(chain: &Path, key: &Path) -> Result<(Certificate, Vec<String>), Error> {
        Certificate::load_at(chain, key, SystemTime::now())
    }

    /// What is wrong with a file of a key by itself.
    pub fn check_key(key: &Path) -> Result<(), Error> {
        private_key(key).map(drop)
    }

    /// As [`Certificate::load`], at another time.
    pub fn load_at(chain: &Path, key: &Path, now: SystemTime) -> Result<(Certificate, Vec<String>), Error> {
        let certificates = certificates(chain, &read(chain)?)?;
        let mut warnings = Vec::new();
        let mut names = Vec::new();
        for (i, certificate) in certificates.iter().enumerate() {
            let parsed = parse(chain, certificate)?;
            warnings.extend(validity_warning(chain, &parsed, now));
            if i == 0 {
                names = dns_names(chain, &parsed)?;
            }
        }
        let private = private_key(key)?;
        warnings.extend(exposure_warning(key));
        let certified = certify(chain, key, certificates, private)?;
        Ok((Certificate { certified: Arc::new(certified), names }, warnings))
    }

    /// The chain and the key, as rustls takes them: to show them to a server that asks for a certificate.
    pub fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// The names of servers that it is for, in lower case; `*.` before a name stands for one label.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    pub(super) fn is_ecdsa(&self) -> bool {
        self.certified.key.algorithm() == SignatureAlgorithm::ECDSA
    }
}

fn parse<'c>(chain: &Path, certificate: &'c CertificateDer<'_>) -> Result<X509Certificate<'c>, Error> {
    let parsed = X509Certificate::from_der(certificate);
    let (_, parsed) =
        parsed.map_err(|error| Error::new(chain, format!("a certificate in it is garbled: {error}")))?;
    Ok(parsed)
}

fn validity_warning(chain: &Path, certificate: &X509Certificate<'_>, now: SystemTime) -> Option<String> {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let now = ASN1Time::from_timestamp(i64::try_from(seconds).ok()?).ok()?;
    let validity = certificate.validity();
    let subject = super::subject::text(certificate.subject());
    if now > validity.not_after {
        return Some(format!("{chain:?}: the certificate of {subject:?} expired on {}", validity.not_after));
    }
    (now < validity.not_before).then(|| {
        format!("{chain:?}: the certificate of {subject:?} is not valid before {}", validity.not_before)
    })
}

fn dns_names(chain: &Path, certificate: &X509Certificate<'_>) -> Result<Vec<String>, Error> {
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|error| {
        Error::new(chain, format!("the alternative names of its certificate are garbled: {error}"))
    })?;
    let names = names.iter().flat_map(|names| &names.value.general_names);
    let dns = names.filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(name.trim_end_matches('.').to_ascii_lowercase()),
        _ => None,
    });
    Ok(dns.collect())
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    let text = read(path)?;
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        pem::Error::NoItemsFound if text.windows(21).any(|part| part == b"ENCRYPTED PRIVATE KEY") => {
            Error::new(
                path,
                "the key in it is encrypted, and there is nobody to ask for the password; \
                             decrypt it: openssl pkey -in … -out …",
            )
        }
        pem::Error::NoItemsFound => {
            Error::new(path, "there is no private key in it (PEM: PKCS#8, PKCS#1 or SEC1)")
        }
        // Without the error's own words, which may tell of what is in the file.
        _ => Error::new(path, "it is not PEM"),
    })
}

fn exposure_warning(key: &Path) -> Option<String> {
    let mode = fs::metadata(key).ok()?.permissions().mode();
    (mode & 0o004 != 0).then(|| {
        format!(
            "{key:?}: every user of this machine can read this key (mode {:04o}); chmod o-rwx",
            mode & 0o7777
        )
    })
}

fn certify(
    chain: &Path,
    key: &Path,
    certificates: Vec<CertificateDer<'static>>,
    private: PrivateKeyDer<'static>,
) -> Result<CertifiedKey, Error> {
    let private = crypto().key_provider.load_private_key(private).map_err(|_| {
        Error::new(
            key,
            "the key in it is garbled or of a kind that is not supported (RSA of at least 2048 \
                         bits, ECDSA P-256, P-384 or P-521, Ed25519)",
        )
    })?;
    let certified = CertifiedKey::new(certificates, private);
    match certified.keys_match() {
        Ok(()) => Ok(certified),
        Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            let of_another = certified.cert.iter().skip(1).any(|other| {
                let other = CertifiedKey::new(vec![other.clone()], certified.key.clone());
                other.keys_match().is_ok()
            });
            let cause = match of_another {
                true => {
                    "the key belongs to a later certificate of the chain, where the server's own must come first"
                }
                false => "the key does not belong to the certificate",
            };
            Err(Error::new(key, format!("{cause} (in {chain:?})")))
        }
        Err(error) => Err(Error::new(chain, format!("the certificate cannot be used: {error}"))),
    }
}
