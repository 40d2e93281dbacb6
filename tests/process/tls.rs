//! TLS towards clients, with clients that were not written here: openssl and curl.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::certificates::{Authority, Files, Leaf};
use super::harness::{Exuvia, PATIENCE, Starter, eventually, exuvia as program};

/// A listener of these settings, and the certificates.
pub fn settings(listener: &str, certificates: &[(&str, &Files)]) -> String {
    let sections = certificates.iter().map(|(name, files)| files.settings(name));
    format!(
        "[restart]\nprobation = \"0s\"\n[listeners.web]\naddress = \"127.0.0.1:0\"\n{listener}\n{}",
        sections.collect::<String>()
    )
}

/// An exuvia with one certificate, for `site.test`, and these further settings of its listener.
pub fn start(listener: &str) -> (Exuvia, Authority) {
    let starter = Starter::new("");
    let authority = Authority::new(starter.folder(), "ca");
    let site = authority.issue(starter.folder(), "site", &["site.test"]);
    let text = settings(&format!("certificates = [\"site\"]\n{listener}"), &[("site", &site)]);
    (starter.settings(&text).start(), authority)
}

/// What openssl's client says of a handshake, and whether it is content. It sends `input`, or just ends.
pub fn s_client(address: SocketAddr, arguments: &[&str], input: &str) -> (bool, String) {
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8_lossy(&text).into_owned())
}

#[track_caller]
fn shows(address: SocketAddr, arguments: &[&str], words: &[&str]) {
    let (content, text) = s_client(address, arguments, "");
    assert!(content, "{arguments:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{arguments:?}: no {word:?} in {text}");
    }
}

#[track_caller]
fn refuses(address: SocketAddr, arguments: &[&str], alert: &str) {
    let (_, text) = s_client(address, arguments, "");
    assert!(text.contains(alert), "{arguments:?}: no {alert:?} in {text}");
}

/// What curl writes.
fn curl(authority: &Authority, address: SocketAddr, arguments: &[&str]) -> (i32, String) {
    let resolve = format!("site.test:{}:127.0.0.1", address.port());
    let output = Command::new("curl")
        .args(["--silent", "--show-error", "--max-time", "60", "--resolve", &resolve, "--cacert"])
        .arg(authority.path())
        .args(arguments)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&text).into_owned())
}

/// The fields that the demonstration upstream got, one on a line.
#[track_caller]
fn fields(shown: &str) -> String {
    let shown: Value = serde_json::from_str(shown).unwrap_or_else(|error| panic!("{error}: {shown}"));
    let fields: Vec<(String, String)> = serde_json::from_value(shown["headers"].clone()).unwrap();
    fields.into_iter().map(|(name, value)| format!("{name}: {value}\n")).collect()
}

fn url(address: SocketAddr, path: &str) -> String {
    format!("https://site.test:{}{path}", address.port())
}

/// How connections that were not yet of a protocol have ended.
fn handshake_ends(exuvia: &Exuvia) -> String {
    let status = exuvia.status();
    let kinds = status["generations"][0]["connections"].as_array().unwrap();
    let kind = kinds.iter().find(|kind| kind["kind"] == "handshake").unwrap();
    kind["ends"].to_string()
}

#[track_caller]
pub fn ends_with(exuvia: &Exuvia, end: &str) {
    eventually(&format!("a handshake has ended as {end}"), || {
        handshake_ends(exuvia).contains(end).then_some(())
    });
}

#[test]
fn the_name_and_what_a_client_can_verify_choose_the_certificate() {
    let starter = Starter::new("");
    let folder = starter.folder().to_owned();
    let authority = Authority::new(&folder, "ca");
    let ecdsa = authority.issue(&folder, "ecdsa", &["site.test"]);
    let rsa = Leaf { names: &["site.test"], rsa: true, ..Leaf::default() };
    let rsa = authority.issue_leaf(&folder, "rsa", &rsa);
    let wild = authority.issue(&folder, "wild", &["*.example.org"]);
    let text = settings(
        "certificates = [\"rsa\", \"ecdsa\", \"wild\"]",
        &[("rsa", &rsa), ("ecdsa", &ecdsa), ("wild", &wild)],
    );
    let exuvia = starter.settings(&text).start();
    let address = exuvia.address();
    let is = |arguments: &[&str], subject: &str| {
        let ca = authority.path().to_str().unwrap();
        let arguments = [arguments, &["-CAfile", ca, "-verify_return_error"]].concat();
        shows(address, &arguments, &[&format!("subject=CN = {subject}\n"), "Verify return code: 0 (ok)"]);
    };
    for version in ["-tls1_2", "-tls1_3"] {
        is(&[version, "-servername", "site.test"], "ecdsa");
        is(&[version, "-servername", "a.example.org"], "wild");
        is(&[version, "-servername", "A.Example.ORG"], "wild");
        is(&[version, "-servername", "a.b.example.org"], "ecdsa");
        is(&[version, "-servername", "other.test"], "ecdsa");
        is(&[version, "-noservername"], "ecdsa");
        let only_rsa = "RSA-PSS+SHA256:RSA+SHA256";
        is(&[version, "-servername", "site.test", "-sigalgs", only_rsa], "rsa");
        is(&[version, "-noservername", "-sigalgs", only_rsa], "rsa");
        // The authority itself signs with ECDSA.
        is(&[version, "-servername", "site.test", "-sigalgs", "ECDSA+SHA256"], "ecdsa");
    }
    is(&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256", "-servername", "site.test"], "rsa");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn versions_and_protocols() {
    let (exuvia, authority) = start("");
    let address = exuvia.address();
    shows(address, &["-tls1_2"], &["Protocol  : TLSv1.2"]);
    shows(address, &["-tls1_3"], &["New, TLSv1.3"]);
    refuses(address, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"], "alert");
    shows(address, &["-alpn", "h2,http/1.1"], &["ALPN protocol: h2"]);
    shows(address, &["-alpn", "http/1.1,h2"], &["ALPN protocol: h2"]);
    shows(address, &["-alpn", "spdy,http/1.1"], &["ALPN protocol: http/1.1"]);
    shows(address, &[], &["No ALPN negotiated"]);
    refuses(address, &["-alpn", "spdy"], "alert no application protocol");
    ends_with(&exuvia, "protocol_error");

    let get = |arguments: &[&str]| {
        let shown = ["--write-out", " %{http_code} %{http_version}", &url(address, "/bytes?n=3")];
        curl(&authority, address, &[arguments, &shown].concat())
    };
    assert_eq!(get(&["--http1.1"]), (0, "xxx 200 1.1".to_owned()));
    assert_eq!(get(&["--no-alpn", "--http1.1"]), (0, "xxx 200 1.1".to_owned()));
    assert_eq!(get(&["--http2"]), (0, "xxx 200 2".to_owned()));
    assert_eq!(get(&["--http1.1", "--tls-max", "1.2"]), (0, "xxx 200 1.1".to_owned()));

    // What ALPN has chosen, the first bytes do not change.
    let prior_knowledge = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let (_, told) = s_client(address, &["-alpn", "http/1.1", "-quiet"], prior_knowledge);
    assert!(told.contains("HTTP/1.1 505 HTTP Version Not Supported"), "{told}");

    exuvia.set(&fs::read_to_string(exuvia.folder().join("exuvia.toml")).unwrap().replace(
        "[listeners.web]",
        "[listeners.web]\ntls_min_version = \"1.3\"\nprotocols = [\"http/1.1\"]",
    ));
    exuvia.upgrade();
    refuses(address, &["-tls1_2"], "alert protocol version");
    shows(address, &["-tls1_3", "-alpn", "h2,http/1.1"], &["ALPN protocol: http/1.1"]);
    refuses(address, &["-alpn", "h2"], "alert no application protocol");
    assert_eq!(get(&["--http2"]), (0, "xxx 200 1.1".to_owned()));
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn the_upstream_learns_that_it_was_tls() {
    let (exuvia, authority) = start("");
    let arguments = ["--header", "Accept: application/json", "--header", "X-Forwarded-Proto: http"];
    for version in ["--http1.1", "--http2"] {
        let url = url(exuvia.address(), "/");
        let (code, shown) = curl(&authority, exuvia.address(), &[&[version, &url], &arguments[..]].concat());
        assert_eq!(code, 0, "{shown}");
        let shown = fields(&shown);
        assert!(shown.contains("x-forwarded-proto: https\n"), "{shown}");
        assert!(!shown.contains("client-cert"), "{shown}");
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn certificates_of_clients() {
    let starter = Starter::new("");
    let folder = starter.folder().to_owned();
    let (authority, clients) = (Authority::new(&folder, "ca"), Authority::new(&folder, "clients"));
    let site = authority.issue(&folder, "site", &["site.test"]);
    let alice = clients.issue_client(&folder, "alice", "alice, \u{fc}\r\nX-Evil: 1");
    let mallory = authority.issue_client(&folder, "mallory", "alice");
    let endless = clients.issue_client(&folder, "endless", &"a".repeat(5000));
    let with = |policy: &str| {
        let listener = format!(
            "certificates = [\"site\"]\nclient_certificates = \"{policy}\"\nclient_ca = {:?}",
            clients.path()
        );
        settings(&listener, &[("site", &site)])
    };
    let exuvia = starter.settings(&with("required")).start();
    let address = exuvia.address();
    let forged = [
        "--header",
        "Accept: application/json",
        "--header",
        "X-Client-Cert-Subject: CN=admin",
        "--header",
        "x_client_cert_subject: CN=admin",
        "--header",
        "X-Client-Cert-Verified: SUCCESS",
        "--header",
        "Connection: X-Client-Cert-Subject, X-Client-Cert-Verified",
    ];
    let get = |files: Option<&Files>, more: &[&str]| {
        let url = url(address, "/");
        let mut arguments = [&[url.as_str()], &forged[..], more].concat();
        let shown = files.map(|Files { chain, key }| (chain.to_str().unwrap(), key.to_str().unwrap()));
        if let Some((chain, key)) = shown {
            arguments.extend(["--cert", chain, "--key", key]);
        }
        curl(&authority, address, &arguments)
    };
    let verified = |(code, shown): (i32, String)| {
        assert_eq!(code, 0, "{shown}");
        let shown = fields(&shown);
        let subject = r"x-client-cert-subject: CN=alice\, \C3\BC\0D\0AX-Evil: 1";
        assert!(shown.contains(subject), "{shown}");
        assert!(shown.contains("x-client-cert-verified: SUCCESS\n"), "{shown}");
        assert!(!shown.contains("admin"), "{shown}");
    };
    let http1 = ["--http1.1"];
    verified(get(Some(&alice), &http1));
    verified(get(Some(&alice), &["--http1.1", "--tls-max", "1.2"]));
    verified(get(Some(&alice), &["--http2"]));
    // Too long to be passed on; that it was verified is true all the same.
    let (code, shown) = get(Some(&endless), &http1);
    assert_eq!(code, 0, "{shown}");
    let shown = fields(&shown);
    assert!(shown.contains("x-client-cert-verified: SUCCESS\n") && !shown.contains("subject"), "{shown}");
    for wrong in [None, Some(&mallory)] {
        let (code, shown) = get(wrong, &http1);
        assert!(code != 0 && !shown.contains("headers"), "{code} {shown}");
    }

    exuvia.set(&with("requested"));
    exuvia.upgrade();
    verified(get(Some(&alice), &http1));
    for version in ["--http1.1", "--http2"] {
        let (code, shown) = get(None, &[version]);
        assert_eq!(code, 0, "{shown}");
        let shown = fields(&shown);
        assert!(shown.contains("x-client-cert-verified: NONE\n"), "{shown}");
        assert!(!shown.contains("admin") && !shown.contains("subject"), "{shown}");
    }
    let (code, _) = get(Some(&mallory), &http1);
    assert_ne!(code, 0);

    exuvia.set(&settings("certificates = [\"site\"]", &[("site", &site)]));
    exuvia.upgrade();
    let (code, shown) = get(None, &http1);
    assert!(code == 0 && !shown.contains("admin") && !shown.contains("client-cert"), "{shown}");
    assert_eq!(exuvia.stop(), 0);
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn rest(mut stream: TcpStream) -> Vec<u8> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).unwrap();
    rest
}

#[test]
fn plain_http_is_told_in_plain() {
    let (exuvia, _) = start("");
    let (address, url) = (exuvia.address(), format!("http://{}/", exuvia.address()));
    let output = Command::new("curl").args(["--silent", "--include", &url]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 400 Bad Request\r\n") && text.contains("connection: close\r\n"),
        "{text}"
    );
    assert!(text.ends_with("this port speaks TLS; use https://\n"), "{text}");
    // In pieces, and with more than is read.
    let mut stream = connect(address);
    stream.write_all(b"P").unwrap();
    stream.write_all(&[b'x'; 100_000]).unwrap();
    assert!(rest(stream).starts_with(b"HTTP/1.1 400 "));
    ends_with(&exuvia, "protocol_error");
    // What is neither gets the alert of a record of an unknown type.
    let mut stream = connect(address);
    stream.write_all(b"\x80\x2e\x01\x00\x02garbage").unwrap();
    assert_eq!(rest(stream), b"\x15\x03\x03\x00\x02\x02\x0a");
    assert_eq!(exuvia.stop(), 0);
}

/// The first flight of a client, as it is on the wire.
pub fn client_hello() -> Vec<u8> {
    use std::sync::Arc;
    let roots = rustls::RootCertStore::empty();
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut client =
        rustls::ClientConnection::new(Arc::new(config), "site.test".try_into().unwrap()).unwrap();
    let mut hello = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut hello).unwrap();
    }
    hello
}

#[test]
fn handshakes_in_pieces_and_handshakes_that_stall() {
    let (exuvia, _) = start("[timeouts]\nhandshake = \"2s\"");
    let address = exuvia.address();
    let hello = client_hello();
    let mut slow = connect(address);
    slow.set_nodelay(true).unwrap();
    for piece in hello.chunks(hello.len() / 20) {
        slow.write_all(piece).unwrap();
    }
    let mut answer = [0; 3];
    slow.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [22, 3, 3], "a handshake record");

    let silent = connect(address);
    let mut half = connect(address);
    half.write_all(&hello[..hello.len() / 2]).unwrap();
    assert_eq!(rest(silent), b"");
    // It was not read to its end, so a reset is as good.
    half.read_to_end(&mut Vec::new()).ok();
    // The first has not done its part either.
    ends_with(&exuvia, "[\"timed_out\",3]");
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn garbage_gets_an_alert_and_nobody_else_notices() {
    let (exuvia, authority) = start("");
    let address = exuvia.address();
    let hello = client_hello();
    let mut wrong_record = hello.clone();
    wrong_record[5] = 99;
    let mut too_long = hello.clone();
    too_long[3] = 0xff;
    for bytes in [&wrong_record, &too_long, &b"\x16garbage, and more of it".to_vec()] {
        let mut stream = connect(address);
        stream.write_all(bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let answer = rest(stream);
        assert_eq!(answer.first(), Some(&21), "an alert: {answer:?}");
    }
    ends_with(&exuvia, "[\"protocol_error\",3]");
    // Early ends, at each stage.
    drop(connect(address));
    ends_with(&exuvia, "[\"closed_by_peer\",1]");
    for length in [1, 5, 100, hello.len()] {
        let mut stream = connect(address);
        stream.write_all(&hello[..length]).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        rest(stream);
    }
    ends_with(&exuvia, "[\"peer_aborted\",4]");
    let (code, shown) = curl(&authority, address, &[&url(address, "/bytes?n=3")]);
    assert_eq!((code, shown.as_str()), (0, "xxx"));
    assert_eq!(exuvia.stop(), 0);
}

/// What is done to the files, and what is said of it.
type Break<'b> = (&'b str, &'b dyn Fn(), [&'b str; 2]);

/// The same text from `check` and from an upgrade; the one that serves goes on with what it has.
#[test]
fn bad_certificates_change_nothing() {
    let (exuvia, authority) = start("");
    let folder = exuvia.folder().to_owned();
    let config = folder.join("exuvia.toml");
    let (chain, key) = (folder.join("site.chain.pem"), folder.join("site.key.pem"));
    let good = (fs::read(&chain).unwrap(), fs::read(&key).unwrap());
    let other = authority.issue(&folder, "other", &["other.test"]);
    let breaks: [Break; 4] = [
        ("missing", &|| fs::remove_file(&chain).unwrap(), ["site.chain.pem", "No such file"]),
        ("broken", &|| fs::write(&chain, "nonsense").unwrap(), ["site.chain.pem", "no certificate in it"]),
        (
            "mismatched",
            &|| assert!(fs::copy(&other.key, &key).unwrap() > 0),
            ["site.key.pem", "does not belong to the certificate"],
        ),
        ("no key", &|| fs::write(&key, "nonsense").unwrap(), ["site.key.pem", "no private key in it"]),
    ];
    for (what, break_it, words) in breaks {
        break_it();
        let checked = program(&["check", "--config"]).arg(&config).output().unwrap();
        let checked = super::harness::Answer::from(checked);
        checked.failed_with(&["certificates.site: ", words[0], words[1]]);
        assert_eq!(checked.code, 1, "{what}");
        exuvia.ask(&["upgrade"]).failed_with(&["certificates", "certificates.site: ", words[0], words[1]]);
        assert_eq!(exuvia.generation(), 1, "{what}");
        shows(exuvia.address(), &[], &["subject=CN = site\n"]);
        fs::write(&chain, &good.0).unwrap();
        fs::write(&key, &good.1).unwrap();
    }
    let checked = program(&["check", "--config"]).arg(&config).output().unwrap();
    assert!(checked.status.success() && checked.stderr.is_empty(), "{checked:?}");

    // Renewed, by another name so that it can be seen.
    authority.issue(&folder, "renewed", &["site.test"]);
    fs::rename(folder.join("renewed.chain.pem"), &chain).unwrap();
    fs::rename(folder.join("renewed.key.pem"), &key).unwrap();
    shows(exuvia.address(), &[], &["subject=CN = site\n"]);
    exuvia.upgrade();
    shows(exuvia.address(), &[], &["subject=CN = renewed\n"]);

    let expired = Leaf { names: &["site.test"], days: Some([(2019, 1, 1), (2020, 1, 1)]), ..Leaf::default() };
    authority.issue_leaf(&folder, "site", &expired);
    let checked = program(&["check", "--config"]).arg(&config).output().unwrap();
    let text = String::from_utf8(checked.stderr).unwrap();
    assert!(checked.status.success(), "{text}");
    assert!(text.contains("warning: certificates.site: ") && text.contains("expired on Jan  1"), "{text}");
    exuvia.upgrade();
    exuvia.says("expired on Jan  1");
    shows(exuvia.address(), &[], &["subject=CN = site\n"]);
    assert_eq!(exuvia.stop(), 0);
}

/// Of a chain and a key that were both missing only the chain was told, and no file was looked at while another
/// setting was wrong.
#[test]
fn all_that_is_wrong_is_told_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("exuvia.toml");
    let site = "[certificates.site]\nchain = \"/nowhere/chain.pem\"\nkey = \"/nowhere/key.pem\"\n";
    let web = "[listeners.web]\naddress = \"127.0.0.1:0\"\ncertificates = [\"site\"]\n";
    let told = |others: &str| {
        fs::write(&config, format!("{others}{site}{web}")).unwrap();
        let checked = program(&["check", "--config"]).arg(&config).output().unwrap();
        assert_eq!(checked.status.code(), Some(1));
        String::from_utf8(checked.stderr).unwrap()
    };
    for (others, words) in [("", ""), ("workers = 0\n[drain]\ntimeout = \"soon\"\n", "drain.timeout")] {
        let text = told(others);
        for word in ["certificates.site", "/nowhere/chain.pem", "/nowhere/key.pem", words] {
            assert!(text.contains(word), "no {word:?} in {text}");
        }
    }
    assert!(told("workers = 0\n").contains("workers = 0"));
}
