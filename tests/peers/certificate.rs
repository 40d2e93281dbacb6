//! A certificate for the tests: its own authority, for `localhost`.

use std::fs;
use std::path::{Path, PathBuf};

/// The files of one.
pub struct Certificate {
    /// PEM: what the server shows and the client trusts.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one, in this folder.
    pub fn make(folder: &Path) -> Certificate {
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        let certificate =
            Certificate { chain: folder.join("certificate.pem"), key: folder.join("certificate.key") };
        fs::write(&certificate.chain, made.cert.pem()).unwrap();
        fs::write(&certificate.key, made.signing_key.serialize_pem()).unwrap();
        fs::set_permissions(&certificate.key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        certificate
    }

    /// What a client trusts, as an argument.
    pub fn authority(&self) -> &str {
        self.chain.to_str().unwrap()
    }

    /// The settings of a listener `web` that speaks TLS with it.
    pub fn settings(&self) -> String {
        format!(
            "[listeners.web]\naddress = \"127.0.0.1:0\"\ncertificates = [\"site\"]\n\
             [certificates.site]\nchain = {:?}\nkey = {:?}\n",
            self.chain, self.key
        )
    }
}
