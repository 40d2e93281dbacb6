//! TLS as a client: whom a server's certificate must be signed by, and what certificate it is shown.

use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};

use super::{Error, authorities, crypto, read};

/// How many servers' sessions are kept to be resumed. They are few: the servers of the settings.
const MAX_SESSIONS: usize = 1024;

/// The configuration for connections to servers. Their certificates must be signed by an authority in the file
/// `ca`, or without one by an authority that the system trusts. `identity` is shown to servers that ask.
///
/// Reads files: once for a process. Errors name the file; without one they name what was looked for.
pub fn config(ca: Option<&Path>, identity: Option<Arc<CertifiedKey>>) -> Result<Arc<ClientConfig>, Error> {
    let roots = match ca {
        Some(ca) => authorities(ca, &read(ca)?)?,
        None => from_system()?,
    };
    let builder = ClientConfig::builder_with_provider(crypto()).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| Error::new(Path::new("tls"), error.to_string()))?;
    let builder = builder.with_root_certificates(roots);
    let mut config = match identity {
        Some(identity) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(identity))),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(MAX_SESSIONS);
    Ok(Arc::new(config))
}

/// What the system trusts. A certificate that cannot be used is passed over: there are odd ones in most stores.
fn from_system() -> Result<RootCertStore, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (used, passed_over) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(used, passed_over, "the system's trusted certificates");
    if used > 0 {
        return Ok(roots);
    }
    let mut reason = "the system has no trusted certificates; install them (ca-certificates), set \
                      SSL_CERT_FILE, or name a file by upstream.ca"
        .to_owned();
    for error in found.errors {
        reason.push_str(&format!("; {error}"));
    }
    Err(Error::new(Path::new("system certificates"), reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_authorities_is_needed_where_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        let reason = |text: Option<&str>| {
            if let Some(text) = text {
                std::fs::write(&path, text).unwrap();
            }
            let error = config(Some(&path), None).unwrap_err();
            assert_eq!(error.path, path);
            error.reason
        };
        assert!(reason(None).contains("cannot read it: No such file"));
        assert!(reason(Some("")).contains("there is no certificate in it"));
        let garbled = "-----BEGIN CERTIFICATE-----\nMTIz\n-----END CERTIFICATE-----\n";
        assert!(reason(Some(garbled)).contains("cannot be an authority's"));

        let authority = rcgen::generate_simple_self_signed(["ca.test".to_owned()]).unwrap();
        std::fs::write(&path, authority.cert.pem()).unwrap();
        config(Some(&path), None).unwrap();
    }
}
