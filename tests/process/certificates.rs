//! Certificates for tests: authorities, and leaves that they sign, as files in a test's folder.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256, RsaKeySize, date_time_ymd,
};
use rustls::{ClientConfig, RootCertStore};

/// One that signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    path: PathBuf,
}

/// What a certificate is to be. Its names are those of servers; without any it is a client's.
#[derive(Default)]
pub struct Leaf<'l> {
    pub names: &'l [&'l str],
    /// The subject's common name.
    pub subject: Option<&'l str>,
    /// RSA of 2048 bits in place of ECDSA P-256.
    pub rsa: bool,
    /// The first day and the last, as (year, month, day).
    pub days: Option<[(i32, u8, u8); 2]>,
}

/// A certificate with its chain, and its key.
#[derive(Clone, Debug)]
pub struct Files {
    pub chain: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new one, whose certificate is `NAME.pem` in `folder`.
    pub fn new(folder: &Path, name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let issuer = CertifiedIssuer::self_signed(params, key).unwrap();
        let path = folder.join(name).with_extension("pem");
        fs::write(&path, issuer.pem()).unwrap();
        Authority { issuer, path }
    }

    /// The file that those have who trust it.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// How those speak TLS who trust it, and nobody else.
    pub fn trusting(&self) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth())
    }

    /// A certificate for servers of these names, as `NAME.chain.pem` and `NAME.key.pem`; takes the place of
    /// files that are there.
    pub fn issue(&self, folder: &Path, name: &str, names: &[&str]) -> Files {
        self.issue_leaf(folder, name, &Leaf { names, ..Leaf::default() })
    }

    /// The certificate of a client with this common name.
    pub fn issue_client(&self, folder: &Path, name: &str, subject: &str) -> Files {
        self.issue_leaf(folder, name, &Leaf { subject: Some(subject), ..Leaf::default() })
    }

    pub fn issue_leaf(&self, folder: &Path, name: &str, leaf: &Leaf<'_>) -> Files {
        let names: Vec<String> = leaf.names.iter().map(|name| (*name).to_owned()).collect();
        let usage = match names.is_empty() {
            true => ExtendedKeyUsagePurpose::ClientAuth,
            false => ExtendedKeyUsagePurpose::ServerAuth,
        };
        let mut params = CertificateParams::new(names).unwrap();
        params.extended_key_usages = vec![usage];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name.push(DnType::CommonName, leaf.subject.unwrap_or(name));
        if let Some([first, last]) = leaf.days {
            params.not_before = date_time_ymd(first.0, first.1, first.2);
            params.not_after = date_time_ymd(last.0, last.1, last.2);
        }
        let key = match leaf.rsa {
            true => KeyPair::generate_rsa_for(&PKCS_RSA_SHA256, RsaKeySize::_2048).unwrap(),
            false => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(),
        };
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let files = Files {
            chain: folder.join(format!("{name}.chain.pem")),
            key: folder.join(format!("{name}.key.pem")),
        };
        fs::write(&files.chain, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        fs::set_permissions(&files.key, fs::Permissions::from_mode(0o600)).unwrap();
        files
    }
}

impl Files {
    /// The section of the settings for it, under this name.
    pub fn settings(&self, name: &str) -> String {
        let Files { chain, key } = self;
        format!("[certificates.{name}]\nchain = \"{}\"\nkey = \"{}\"\n", chain.display(), key.display())
    }
}
