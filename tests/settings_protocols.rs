//! The settings of TLS, HTTP/2, upstream protocols and the PROXY protocol: what is refused, in which words.
#![cfg(feature = "proxy")]
#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used, reason = "a test fails by panicking")]

use exuvia::settings::{ClientCertificates, Protocol, ProxyProtocolSettings, Settings};

const SITE: &str = "[certificates.site]\nchain = '/c'\nkey = '/k'\n";

fn load(content: &str, environment: &[(&str, &str)]) -> Result<Settings, String> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("exuvia.toml");
    std::fs::write(&path, content).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Settings::load(Some(&path), environment)
        .map_err(|error| error.to_string().replace(&format!("{}: ", path.display()), ""))
}

/// Asserts that the listener with these settings is refused with one line that begins and goes on so.
#[track_caller]
fn refused(listener: &str, key: &str, words: &str) {
    let content = format!("[listeners.web]\naddress = '127.0.0.1:0'\n{listener}\n{SITE}");
    refused_whole(&content, &format!("listeners.web.{key}"), words);
}

#[track_caller]
fn refused_whole(content: &str, key: &str, words: &str) {
    let error = load(content, &[]).expect_err(content);
    assert!(error.starts_with(key) && error.contains(words), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn a_listener_with_certificates_speaks_tls() {
    let content = format!(
        "[listeners.web]\naddress = '127.0.0.1:0'\ncertificates = ['site']\n\
         client_certificates = 'required'\nclient_ca = '/ca'\nprotocols = ['http/1.1']\n{SITE}"
    );
    let settings = load(&content, &[]).unwrap();
    let listener = &settings.listeners[0];
    let tls = listener.tls.as_ref().unwrap();
    assert_eq!(tls.certificates, ["site"]);
    assert_eq!(tls.client_certificates, ClientCertificates::Required { ca: "/ca".into() });
    assert_eq!(listener.protocols, [Protocol::Http1]);
    assert_eq!(listener.proxy_protocol, ProxyProtocolSettings::Off);
    assert_eq!(Settings::load(None, []).unwrap().listeners[0].tls, None);
}

#[test]
fn a_certificate_must_be_there() {
    refused("certificates = ['sit']", "certificates = \"sit\"", "did you mean site?");
    refused("certificates = ['other']", "certificates = \"other\"", "there are site");
    refused("certificates = 'site'", "certificates = \"site\"", "expected a list of at most 256");
    refused_whole(
        "upstream.tls = true\nupstream.client_certificate = 'x'",
        "upstream.client_certificate",
        "there is no [certificates.x]",
    );
    refused_whole("certificates.a.chain = '/x'", "certificates.a.key", "missing; every certificate needs");
    refused_whole("certificates.a = 1", "certificates.a = 1", "expected a table, [certificates.NAME]");
    refused_whole("certificates = 1", "certificates = 1", "expected a table for each, [certificates.NAME]");
    let error = load("[certificates.'a b']\nchain = '/c'\nkey = '/k'", &[]).unwrap_err();
    assert!(error.starts_with("certificates.\"a b\": expected a name of 1 to 64"), "{error}");
}

#[test]
fn what_needs_tls_is_refused_without() {
    refused("tls_min_version = '1.3'", "tls_min_version", "with certificates only");
    refused("client_certificates = 'requested'", "client_certificates", "with certificates only");
    refused("client_ca = '/ca'", "client_ca", "with certificates only");
    let with = |more: &str| format!("certificates = ['site']\n{more}");
    refused(&with("client_certificates = 'required'"), "client_certificates", "expected with client_ca");
    refused(&with("client_ca = '/ca'"), "client_ca", "expected only if client_certificates is");
    refused(&with("tls_min_version = '1.1'"), "tls_min_version", r#"expected "1.2" or "1.3""#);
}

#[test]
fn protocols_are_each_there_once() {
    const EXPECTED: &str = r#"expected "h2", "http/1.1" or both, each once"#;
    refused("protocols = []", "protocols", EXPECTED);
    refused("protocols = ['h2', 'h2']", "protocols", EXPECTED);
    refused("protocols = ['h3']", "protocols = \"h3\"", r#"expected "h2" or "http/1.1""#);
}

#[test]
fn a_proxy_header_is_believed_from_somewhere() {
    refused("proxy_protocol = 'required'", "proxy_protocol", "expected with proxy_protocol_from");
    refused("proxy_protocol = 'on'", "proxy_protocol", r#"expected "off", "optional" or "required""#);
    refused("proxy_protocol_from = ['10.0.0.0/8']", "proxy_protocol_from", "expected only if proxy_protocol");
    refused(
        "proxy_protocol = 'optional'\nproxy_protocol_from = ['10.0.0.0/33']",
        "proxy_protocol_from = \"10.0.0.0/33\"",
        "expected a network",
    );
    refused_whole(
        "[listeners.web]\naddress = 'unix:/x'\nproxy_protocol = 'required'\nproxy_protocol_from = ['::1']",
        "listeners.web.proxy_protocol_from",
        "here unix_mode says who may connect",
    );
    let settings = load("[listeners.web]\naddress = 'unix:/x'\nproxy_protocol = 'required'", &[]).unwrap();
    assert_eq!(settings.listeners[0].proxy_protocol, ProxyProtocolSettings::Required { from: vec![] });
}

#[test]
fn http2_has_bounds() {
    refused_whole("http2.max_streams = 0", "http2.max_streams", "from 1 to 10000");
    refused_whole("http2.stream_window = 65534", "http2.stream_window", "from 65535 to \"16MiB\"");
    refused_whole("http2.connection_window = '65MiB'", "http2.connection_window", "to \"64MiB\"");
    refused_whole(
        "http2.stream_window = '2MiB'",
        "http2.stream_window = \"2MiB\"",
        "expected at most http2.connection_window, which is 1048576 bytes",
    );
    refused_whole(
        "http2.connection_window = 65535",
        "http2.connection_window = 65535",
        "expected at least http2.stream_window, which is 262144 bytes",
    );
    refused_whole("http2.ack_timeout = '0s'", "http2.ack_timeout", "from \"1ms\"");
}

#[test]
fn what_is_spoken_with_servers() {
    refused_whole("upstream.protocol = 'alpn'", "upstream.protocol", "expected with upstream.tls = true");
    refused_whole("upstream.protocol = 'h2'", "upstream.protocol", r#""http1", "http2" or "alpn""#);
    refused_whole("upstream.tls = 1", "upstream.tls", "expected true or false");
    refused_whole("upstream.ca = '/ca'", "upstream.ca", "expected with upstream.tls = true only");
    refused_whole(
        "upstream.tls = true\nupstream.tls_name = 'a b'",
        "upstream.tls_name",
        "expected a host name",
    );
    refused_whole(
        "upstream.tls = true\nupstream.servers = ['unix:/x']",
        "upstream.tls",
        "expected with upstream.tls_name",
    );
    refused_whole("upstream.upgrades = ['h2c']", "upstream.upgrades = \"h2c\"", "past this proxy");
    refused_whole("upstream.upgrades = ['WebSocket']", "upstream.upgrades", "in lower case");
    refused_whole("upstream.proxy_protocol = 'v3'", "upstream.proxy_protocol", r#""off", "v1" or "v2""#);
}

#[test]
fn variables_name_certificates_too() {
    let variables = [
        ("EXUVIA__CERTIFICATES__SITE__KEY", "/other"),
        ("EXUVIA__CERTIFICATES__NEW__CHAIN", "/n"),
        ("EXUVIA__CERTIFICATES__NEW__KEY", "/nk"),
        ("EXUVIA__UPSTREAM__UPGRADES", ""),
        ("EXUVIA__UPSTREAM__CONNECT", "true"),
    ];
    let settings = load(SITE, &variables).unwrap();
    let names: Vec<_> = settings.certificates.iter().map(|one| one.name.as_str()).collect();
    assert_eq!(names, ["new", "site"]);
    assert_eq!(settings.certificates[1].key.to_str(), Some("/other"));
    assert!(settings.upstream.upgrades.is_empty() && settings.upstream.connect);
}

/// What is wrong only beside other settings may be right in the file that could not be read.
#[test]
fn a_useless_file_is_the_only_problem() {
    let error = load("]", &[("EXUVIA__LISTENERS__WEB__CERTIFICATES", "site")]).unwrap_err();
    assert!(!error.contains("no such certificate") && !error.contains("there is no"), "{error}");
}
