//! Which certificate a client is shown.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::Certificate;

/// Certificates by name: the name itself, then the wildcard for one label of it, then the default.
#[derive(Debug)]
pub(super) struct Resolver {
    exact: HashMap<String, Choice>,
    /// By what follows the `*.`.
    wildcard: HashMap<String, Choice>,
    default: Choice,
}

/// Certificates for the same name, of different kinds: the better first.
#[derive(Debug, Default)]
struct Choice(Vec<Arc<CertifiedKey>>);

impl Choice {
    fn choose(&self, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.iter().find(|certified| certified.key.choose_scheme(schemes).is_some()).cloned()
    }
}

impl Resolver {
    /// The first of `certificates` answers those who name no server, or an unknown one.
    pub(super) fn new(certificates: &[Arc<Certificate>]) -> Resolver {
        let (mut exact, mut wildcard) = (HashMap::<_, Choice>::new(), HashMap::<_, Choice>::new());
        let mut default = Choice::default();
        let first = certificates.first();
        // To sign with ECDSA costs a tenth of what it costs with RSA.
        let (ecdsa, others): (Vec<_>, Vec<_>) = certificates.iter().partition(|one| one.is_ecdsa());
        for certificate in ecdsa.into_iter().chain(others) {
            for name in certificate.names() {
                let choice = match name.strip_prefix("*.") {
                    Some(parent) => wildcard.entry(parent.to_owned()),
                    None => exact.entry(name.clone()),
                };
                choice.or_default().0.push(certificate.certified());
            }
            // With the first, those that can stand in for it with a client that knows only another kind.
            let stands_in = first.is_some_and(|first| {
                Arc::ptr_eq(first, certificate)
                    || first.names().first().is_some_and(|name| certificate.names().contains(name))
            });
            if stands_in {
                default.0.push(certificate.certified());
            }
        }
        Resolver { exact, wildcard, default }
    }

    fn find(&self, name: Option<&str>, schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let name = name.map(str::to_ascii_lowercase);
        let named = name.and_then(|name| {
            let exact = self.exact.get(&name).and_then(|choice| choice.choose(schemes));
            exact.or_else(|| {
                let (_, parent) = name.split_once('.')?;
                self.wildcard.get(parent)?.choose(schemes)
            })
        });
        named.or_else(|| self.default.choose(schemes))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.find(hello.server_name(), hello.signature_schemes())
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::Folder;
    use super::*;

    const EC: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
    const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
    const BOTH: &[SignatureScheme] =
        &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

    #[test]
    fn a_name_finds_its_certificate() {
        let folder = Folder::new();
        let first = folder.certificate("first", &["first.test"], false);
        let wild = folder.certificate("wild", &["*.Example.org", "example.org"], false);
        let exact = folder.certificate("exact", &["www.example.org"], false);
        let resolver = Resolver::new(&[first.clone(), wild.clone(), exact.clone()]);
        let is = |name: Option<&str>, expected: &Certificate| {
            let found = resolver.find(name, BOTH).unwrap();
            assert!(Arc::ptr_eq(&found, &expected.certified), "{name:?}");
        };
        is(None, &first);
        is(Some("first.test"), &first);
        is(Some("unknown.test"), &first);
        is(Some("example.org"), &wild);
        is(Some("a.example.org"), &wild);
        is(Some("A.EXAMPLE.ORG"), &wild);
        // One label, no more.
        is(Some("a.b.example.org"), &first);
        is(Some("www.example.org"), &exact);
        is(Some("org"), &first);
    }

    #[test]
    fn the_client_decides_by_what_it_can_verify() {
        let folder = Folder::new();
        let rsa = folder.certificate("rsa", &["site.test"], true);
        let ec = folder.certificate("ec", &["site.test"], false);
        let only = folder.certificate("only", &["only.test"], false);
        let resolver = Resolver::new(&[rsa.clone(), ec.clone(), only]);
        let is = |name: Option<&str>, schemes: &[SignatureScheme], expected: &Certificate| {
            let found = resolver.find(name, schemes).unwrap();
            assert!(Arc::ptr_eq(&found, &expected.certified), "{name:?} {schemes:?}");
        };
        is(Some("site.test"), BOTH, &ec);
        is(Some("site.test"), RSA, &rsa);
        is(Some("site.test"), EC, &ec);
        is(None, RSA, &rsa);
        is(None, EC, &ec);
        // Rather another name than a signature that the client cannot read.
        is(Some("only.test"), RSA, &rsa);
        assert!(resolver.find(None, &[SignatureScheme::ED25519]).is_none());
    }
}
