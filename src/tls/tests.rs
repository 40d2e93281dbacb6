use std::fs;

use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256};

use super::*;

/// A folder with certificates.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Folder {
        Folder(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        // Whatever the umask says.
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    fn pair(&self, name: &str, params: CertificateParams, rsa: bool) -> (PathBuf, PathBuf) {
        let key =
            KeyPair::generate_for(if rsa { &PKCS_RSA_SHA256 } else { &PKCS_ECDSA_P256_SHA256 }).unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let chain = self.file(&format!("{name}.chain"), certificate.pem());
        (chain, self.file(&format!("{name}.key"), key.serialize_pem()))
    }

    pub(super) fn certificate(&self, name: &str, names: &[&str], rsa: bool) -> Arc<Certificate> {
        let (chain, key) = self.pair(name, params(names), rsa);
        let (certificate, warnings) = Certificate::load(&chain, &key).unwrap();
        assert!(warnings.is_empty(), "{warnings:?}");
        Arc::new(certificate)
    }
}

fn params(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>()).unwrap()
}

#[track_caller]
fn fails(chain: &Path, key: &Path, file: &Path, reason: &str) {
    let error = Certificate::load(chain, key).unwrap_err();
    assert_eq!(error.path, file, "{error}");
    assert!(error.reason.contains(reason), "{error}");
    assert!(error.to_string().starts_with(&format!("{file:?}: ")), "{error}");
}

#[test]
fn what_is_wrong_with_files_is_told_with_the_file() {
    let folder = Folder::new();
    let (chain, key) = folder.pair("a", params(&["a.test"]), false);
    let (other_chain, other_key) = folder.pair("b", params(&["b.test"]), true);
    let missing = folder.0.path().join("missing");
    let empty = folder.file("empty", "nothing that begins\n");
    fails(&missing, &key, &missing, "cannot read it: No such file");
    fails(&chain, &missing, &missing, "cannot read it: No such file");
    fails(folder.0.path(), &key, folder.0.path(), "cannot read it: Is a directory");
    fails(&empty, &key, &empty, "no certificate in it");
    fails(&key, &key, &key, "no certificate in it");
    fails(&chain, &empty, &empty, "no private key in it");
    fails(&chain, &chain, &chain, "no private key in it");
    fails(&chain, &other_key, &other_key, "does not belong to the certificate");

    let text = fs::read_to_string(&chain).unwrap();
    let both = folder.file("both", fs::read_to_string(&other_chain).unwrap() + &text);
    fails(&both, &key, &key, "must come first");
    let cut = folder.file("cut", &text[..text.len() / 2]);
    fails(&cut, &key, &cut, "PEM");
    let garbled = folder.file("garbled", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    fails(&garbled, &key, &garbled, "garbled");
    let garbled =
        folder.file("garbled.key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    fails(&chain, &garbled, &garbled, "garbled or of a kind that is not supported");
    let locked = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let locked = folder.file("locked.key", locked);
    fails(&chain, &locked, &locked, "is encrypted");
    let large = folder.file("large", vec![b'\n'; MAX_FILE as usize + 1]);
    fails(&large, &key, &large, "more than");
}

#[test]
fn what_is_odd_is_a_warning() {
    let folder = Folder::new();
    let mut old = params(&["a.test"]);
    old.not_after = rcgen::date_time_ymd(2020, 2, 1);
    let (chain, key) = folder.pair("old", old, false);
    let (_, warnings) = Certificate::load(&chain, &key).unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("old.chain\": the certificate of"), "{warnings:?}");
    assert!(warnings[0].contains("expired on Feb  1"), "{warnings:?}");

    let mut early = params(&["a.test"]);
    early.not_before = rcgen::date_time_ymd(2990, 1, 1);
    let (chain, key) = folder.pair("early", early, false);
    let (_, warnings) = Certificate::load(&chain, &key).unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("is not valid before Jan  1"), "{warnings:?}");

    let (chain, key) = folder.pair("open", params(&["a.test"]), false);
    fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let (_, warnings) = Certificate::load(&chain, &key).unwrap();
    assert!(warnings.len() == 1 && warnings[0].contains("open.key\": every user"), "{warnings:?}");
}

#[test]
fn a_subject_is_printable_ascii_and_cannot_say_more_than_it_is() {
    let write = |attributes: &[(DnType, &str)]| {
        let mut params = params(&[]);
        params.distinguished_name = DistinguishedName::new();
        for (kind, value) in attributes {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        subject(params.self_signed(&key).unwrap().der())
    };
    let cn = |value: &str| write(&[(DnType::CommonName, value)]).unwrap();
    assert_eq!(
        write(&[(DnType::OrganizationName, "Example"), (DnType::CommonName, "alice")]).unwrap(),
        "CN=alice,O=Example"
    );
    assert_eq!(cn("a,O=Evil"), "CN=a\\,O=Evil");
    assert_eq!(cn("a\r\nX-Evil: 1\0"), "CN=a\\0D\\0AX-Evil: 1\\00");
    assert_eq!(cn("ü\"\\"), "CN=\\C3\\BC\\\"\\\\");
    assert_eq!(cn(" #a "), "CN=\\20#a\\20", "a field of HTTP cannot end with a space");
    assert_eq!(cn(" "), "CN=\\20");
    assert_eq!(cn("#a"), "CN=\\#a");
    assert_eq!(write(&[(DnType::CustomDnType(vec![1, 2, 3, 4]), "x")]).unwrap(), "1.2.3.4=#0c0178");
    assert_eq!(write(&[]).unwrap(), "");
    assert_eq!(write(&[(DnType::CommonName, &"a".repeat(MAX_SUBJECT))]), Err(NoSubject::TooLong));
    assert_eq!(subject(b"nonsense"), Err(NoSubject::Garbled));
}

#[test]
fn an_authority_that_is_none_is_told_with_its_file() {
    let folder = Folder::new();
    let certificate = folder.certificate("a", &["a.test"], false);
    let empty = folder.file("empty.pem", "");
    let (tickets, _) = Tickets::random(std::time::Duration::from_secs(60), None).unwrap();
    let config = |client_certificates: &ClientCertificates| {
        let listening = Listening {
            certificates: std::slice::from_ref(&certificate),
            min_version: MinVersion::V1_3,
            protocols: &[b"h2", b"http/1.1"],
            client_certificates,
            tickets: &Arc::new(Tickets::random(std::time::Duration::from_secs(60), None).unwrap().0),
        };
        listening.config()
    };
    drop(tickets);
    let error = config(&ClientCertificates::Required { ca: empty.clone() }).unwrap_err();
    assert!(error.path == empty && error.reason.contains("no certificate in it"), "{error}");
    let config = config(&ClientCertificates::Off).unwrap();
    assert_eq!(config.crypto_provider().kx_groups[0].name(), rustls::NamedGroup::X25519MLKEM768);
    assert_eq!((config.max_early_data_size, config.send_tls13_tickets), (0, 2));
}
