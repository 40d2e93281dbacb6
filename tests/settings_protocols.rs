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
    refused_whole("http2.stream_window = 16383", "http2.stream_window", "from \"16KiB\" to \"16MiB\"");
    refused_whole("http2.connection_window = '1025MiB'", "http2.connection_window", "to \"1024MiB\"");
    refused_whole(
        "http2.stream_window = '2MiB'",
        "http2.stream_window = \"2MiB\"",
        "expected at most 131072 bytes, or an http2.connection_window of at least 268435456 bytes for 128 streams of \
         2097152 bytes",
    );
    refused_whole(
        "http2.connection_window = 65535",
        "http2.connection_window = 65535",
        "expected at least http2.max_streams times http2.stream_window, which is 128 times 131072 = 16777216 bytes",
    );
    refused_whole(
        "http2.max_streams = 129",
        "http2.max_streams = 129",
        "expected at most 128, or an http2.connection_window of at least 16908288 bytes",
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
    let variables = [
        ("EXUVIA__ADMIN__ADDRESS", "127.0.0.1:8080"),
        ("EXUVIA__CERTIFICATES__SITE__CHAIN", "/c"),
        ("EXUVIA__HTTP2__STREAM_WINDOW", "2MiB"),
        ("EXUVIA__LISTENERS__WEB__CERTIFICATES", "other"),
        ("EXUVIA__LISTENERS__WEB__PROXY_PROTOCOL", "required"),
        ("EXUVIA__LISTENERS__WEB__UNIX_MODE", "0600"),
        ("EXUVIA__UPSTREAM__CA", "/ca"),
        ("EXUVIA__UPSTREAM__CLIENT_CERTIFICATE", "other"),
        ("EXUVIA__UPSTREAM__PROTOCOL", "alpn"),
    ];
    // Each by itself, since a problem of one may keep another from being looked for.
    for variable in variables {
        let error = load("]", &[variable]).unwrap_err();
        assert_eq!(error.lines().count(), 1, "{error}");
    }
    let error = load("]", &variables).unwrap_err();
    assert_eq!(error.lines().count(), 1, "{error}");
}

/// Without a file it is a variable that named the table, and not exuvia itself that lacks a key.
#[test]
fn what_is_missing_is_told_of_the_variable_that_needs_it() {
    for (variable, value, missing) in [
        ("EXUVIA__CERTIFICATES__SITE__CHAIN", "/c", "certificates.site.key"),
        ("EXUVIA__LISTENERS__API__BACKLOG", "1", "listeners.api.address"),
    ] {
        let error = Settings::load(None, [(variable.to_owned(), value.to_owned())]).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("environment variable {variable}: {missing}: missing; ")),
            "{error}"
        );
    }
}

#[test]
fn one_problem_of_tls_does_not_hide_the_next() {
    let upstream = "[upstream]\nservers = ['unix:/x', 'a b']\nca = ''\nclient_certificate = 'x'\n";
    let error = load(&format!("{upstream}tls = true"), &[]).unwrap_err();
    let keys: Vec<_> = error.lines().map(|line| line.split(" = ").next().unwrap()).collect();
    assert_eq!(keys, ["upstream.ca", "upstream.client_certificate", "upstream.servers", "upstream.tls"]);

    let error = load("upstream.tls_name = 'a b'\nupstream.ca = '/x'", &[]).unwrap_err();
    let lines: Vec<_> = error.lines().collect();
    assert_eq!(lines.len(), 2, "{error}");
    assert!(lines[0].starts_with("upstream.ca") && lines[0].contains("tls = true only"), "{error}");
    assert!(lines[1].starts_with("upstream.tls_name") && lines[1].contains("a host name"), "{error}");
}

/// A name that nothing may have is shown among those that there are, and stays on its line.
#[test]
fn names_are_shown_as_keys() {
    let content = "[listeners.web]\naddress = '[::]:0'\ncertificates = ['other']\n\
                   [certificates.\"a\\nb\\u001b[31m\"]\nchain = '/c'\nkey = '/k'\n";
    let error = load(content, &[]).unwrap_err();
    assert_eq!(error.lines().count(), 2, "{error}");
    assert!(error.ends_with(r#"no such certificate; there are "a\nb\u001B[31m""#), "{error}");
}

#[test]
fn printed_settings_name_every_key_of_a_plain_listener() {
    let printed = Settings::load(None, []).unwrap().to_toml();
    assert!(printed.contains("\ncertificates = []\n"), "{printed}");
}

#[test]
fn names_of_certificates() {
    let certificate = |name: &str| format!("certificates.{name} = {{ chain = '/c', key = '/k' }}\n");
    let many = |count: usize| -> String { (0..count).map(|n| certificate(&format!("n{n}"))).collect() };
    assert_eq!(load(&many(1024), &[]).unwrap().certificates.len(), 1024);
    refused_whole(&many(1025), "certificates: ", "expected at most 1024, but there are 1025");
    refused_whole(&["a", "A"].map(certificate).concat(), "certificates.a: ", "in more than case");
    // It names no descriptor, so it may begin like the restart core's own.
    let settings = load(&certificate("exuvia-a"), &[]).unwrap();
    assert_eq!(settings.listeners[0].tls, None, "one that nobody uses is no problem");
}

#[test]
fn lists_have_an_end() {
    let of = |item: &str, count: usize| format!("[{}]", format!("'{item}',").repeat(count));
    let listener = |setting: &str| format!("[listeners.web]\naddress = '[::]:0'\n{setting}\n{SITE}");
    for (key, item, max) in [("certificates", "site", 256), ("proxy_protocol_from", "::1", 256)] {
        let proxy = if key == "certificates" { "" } else { "proxy_protocol = 'optional'\n" };
        let content = |count| listener(&format!("{proxy}{key} = {}", of(item, count)));
        assert!(load(&content(max), &[]).is_ok(), "{key}");
        refused_whole(&content(max + 1), &format!("listeners.web.{key}"), &format!("at most {max}"));
    }
    for (key, item) in [("tls.ticket_key_files", "/k"), ("upstream.upgrades", "a")] {
        assert!(load(&format!("{key} = {}", of(item, 16)), &[]).is_ok(), "{key}");
        refused_whole(&format!("{key} = {}", of(item, 17)), key, "at most 16");
    }
}

#[test]
fn values_at_their_edges() {
    for (key, good, bad) in [
        ("http2.max_streams", ["1", "128"], ["0", "10001"]),
        ("http2.max_resets_per_minute", ["1", "1000000"], ["0", "1000001"]),
        ("http2.max_control_frames_per_minute", ["10", "10000000"], ["9", "10000001"]),
        ("http2.connection_window", ["16777216", "'1024MiB'"], ["65534", "1073741825"]),
        ("http2.stream_window", ["16384", "'128KiB'"], ["16383", "16777217"]),
        ("http2.ack_timeout", ["'1ms'", "'24h'"], ["'0s'", "'25h'"]),
        ("tls.ticket_lifetime", ["'1ms'", "'24h'"], ["'0s'", "'25h'"]),
        ("timeouts.handshake", ["'1ms'", "'24h'"], ["'0s'", "10"]),
        ("timeouts.tunnel", ["'1ms'", "'24h'"], ["'0s'", "'25h'"]),
        ("upstream.max_streams", ["1", "10000"], ["0", "10001"]),
        ("upstream.connect", ["true", "'false'"], ["1", "'yes'"]),
    ] {
        for value in good {
            assert!(load(&format!("{key} = {value}"), &[]).is_ok(), "{key} = {value}");
        }
        for value in bad {
            refused_whole(&format!("{key} = {value}"), key, "expected ");
        }
    }
    // Peers are compared as what they are, IPv4: what stands in the last two would be nobody.
    let mapped = ["::ffff:10.0.0.0/104", "::ffff:10.0.0.1"];
    for network in
        ["10.0.0.0/33", "10.0.0/8", "localhost", "*", "", "10.0.0.1:80", "[::1]", mapped[0], mapped[1]]
    {
        refused(&format!("proxy_protocol_from = ['{network}']"), "proxy_protocol_from", "expected a network");
    }
    for name in ["", "a b", "app:443", "https://app", "-a", "*.a", "a..b"] {
        let content = format!("upstream = {{ tls = true, tls_name = '{name}' }}");
        refused_whole(&content, "upstream.tls_name", "expected a host name");
    }
    for token in ["", "a b", "H2C", "h2c/1", "ä"] {
        refused_whole(
            &format!("upstream.upgrades = ['{token}']"),
            "upstream.upgrades",
            "expected a protocol",
        );
    }
}
