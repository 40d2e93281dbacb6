//! The tools that people try a server with: curl, h2load, nghttp and openssl.

use std::process::Command;

use super::harness::Answer;
use super::program::{Need, skipped};
use super::twenty::{encrypted, ends_well, plain};

const CURL: Need = Need::Program("curl", "curl");
const H2LOAD: Need = Need::Program("h2load", "nghttp2-client");
const NGHTTP: Need = Need::Program("nghttp", "nghttp2-client");
const OPENSSL: Need = Need::Program("openssl", "openssl");

#[track_caller]
fn run(program: &str, arguments: &[&str]) -> String {
    let answer = Answer::from(Command::new(program).args(arguments).output().unwrap());
    assert_eq!(answer.code, 0, "{program} {arguments:?}: {answer:?}");
    answer.text()
}

/// Many requests on many streams, all of which are answered with 200.
#[track_caller]
fn all_succeeded(said: &str, requests: usize) {
    let expected = format!(
        "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, 0 timeout"
    );
    assert!(said.contains(&expected), "{said}");
    assert!(said.contains(&format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx")), "{said}");
}

#[test]
fn curl_speaks_every_version() {
    if skipped(&[CURL]) {
        return;
    }
    let (exuvia, certificate) = encrypted("");
    let port = exuvia.address().port();
    let url = format!("https://localhost:{port}/bytes?n=3");
    let resolve = format!("localhost:{port}:127.0.0.1");
    let common = ["-sS", "--fail", "--cacert", certificate.authority(), "--resolve", &resolve];
    let shown = ["-w", " %{http_version} %{num_connects}\n", &url, &url];
    let with = |more: &[&str]| run("curl", &[&common, more, &shown].concat());
    assert_eq!(with(&["--http2"]), "xxx 2 1\nxxx 2 0\n");
    assert_eq!(with(&["--http1.1"]), "xxx 1.1 1\nxxx 1.1 0\n");
    assert_eq!(with(&["--no-alpn"]), "xxx 1.1 1\nxxx 1.1 0\n");
    assert_eq!(with(&["--http2", "--tls-max", "1.2"]), "xxx 2 1\nxxx 2 0\n");
    ends_well(exuvia);

    let exuvia = plain("");
    let url = format!("http://{}/bytes?n=3", exuvia.address());
    let shown = ["-sS", "--fail", "-w", " %{http_version} %{num_connects}\n", &url, &url];
    // One only: curl 7.88 fails at the second on any server.
    assert_eq!(run("curl", &[&["--http2-prior-knowledge"], &shown[..5]].concat()), "xxx 2 1\n");
    // An Upgrade to h2c is not taken: the answer comes in HTTP/1.1.
    assert_eq!(run("curl", &[&["--http2"], &shown[..]].concat()), "xxx 1.1 1\nxxx 1.1 0\n");
    ends_well(exuvia);
}

/// curl says in a PROXY header of version 1 that it comes from where it does.
#[test]
fn curl_speaks_the_proxy_protocol() {
    if skipped(&[CURL]) {
        return;
    }
    let listener = "[listeners.web]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"required\"\n\
                    proxy_protocol_from = [\"127.0.0.0/8\"]\n";
    let exuvia = plain(listener);
    let url = format!("http://{}/", exuvia.address());
    for version in ["--http1.1", "--http2-prior-knowledge"] {
        let said = run("curl", &["-sS", "--fail", "--haproxy-protocol", version, &url]);
        assert!(said.contains("x-forwarded-for: 127.0.0.1\n"), "{said}");
        let refused = Command::new("curl").args(["-sS", "--fail", version, &url]).output().unwrap();
        assert!(!refused.status.success(), "{version} got an answer without the header");
    }
    ends_well(exuvia);
}

#[test]
fn h2load_over_every_version() {
    if skipped(&[H2LOAD]) {
        return;
    }
    let (exuvia, _) = encrypted("");
    let url = format!("https://{}/bytes?n=1000", exuvia.address());
    all_succeeded(&run("h2load", &["-n2000", "-c8", "-m16", &url]), 2000);
    all_succeeded(&run("h2load", &["--h1", "-n2000", "-c8", &url]), 2000);
    // Windows of the smallest size.
    let large = format!("https://{}/bytes?n=300000", exuvia.address());
    all_succeeded(&run("h2load", &["-n50", "-c2", "-m10", "-w10", "-W11", &large]), 50);
    ends_well(exuvia);

    let exuvia = plain("");
    let url = format!("http://{}/bytes?n=1000", exuvia.address());
    all_succeeded(&run("h2load", &["-n2000", "-c8", "-m16", &url]), 2000);
    all_succeeded(&run("h2load", &["--h1", "-n2000", "-c8", &url]), 2000);
    ends_well(exuvia);
}

/// A request that asks for more streams than are allowed at a time, with a body, padding and priorities.
#[test]
fn nghttp_and_its_many_frames() {
    if skipped(&[NGHTTP]) {
        return;
    }
    let (exuvia, _) = encrypted("");
    let folder = exuvia.folder().join("body");
    std::fs::write(&folder, vec![b'b'; 100_000]).unwrap();
    let (body, url) = (folder.to_str().unwrap(), format!("https://{}/echo", exuvia.address()));
    let said = run("nghttp", &["-nsv", "--no-verify-peer", "-m", "200", "-d", body, "-b", "64", &url]);
    assert_eq!(said.matches(":status: 200").count(), 200, "{said}");
    let said = run("nghttp", &["--no-verify-peer", "-d", body, "--trailer", "x-sum: 5", &url]);
    assert_eq!(said.matches('b').count(), 100_000);
    // No --expect-continue: nghttp 1.52 never sends the body if 100 and 200 come in one packet.
    ends_well(exuvia);
}

/// What one generation began, another resumes: `-sess_out` from the first, `-sess_in` to the third.
#[test]
fn openssl_resumes_over_two_upgrades() {
    if skipped(&[OPENSSL]) {
        return;
    }
    let (exuvia, certificate) = encrypted("");
    let (address, folder) = (exuvia.address().to_string(), exuvia.folder().to_owned());
    let ask = |version: &str, more: &[&str]| {
        let script = "printf 'GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' | \
                      openssl s_client -ign_eof \"$@\" 2>&1";
        let common = ["-connect", &address, "-servername", "localhost", "-CAfile", certificate.authority()];
        run("sh", &[&["-c", script, "sh", version], &common[..], more].concat())
    };
    let session = |version: &str| folder.join(version).to_str().unwrap().to_owned();
    let versions = ["-tls1_3", "-tls1_2"];
    for version in versions {
        let said = ask(version, &["-sess_out", &session(version)]);
        assert!(said.contains("New, TLSv1."), "{said}");
        assert!(said.contains("generation 1"), "{said}");
    }
    exuvia.upgrade();
    exuvia.upgrade();
    for version in versions {
        let said = ask(version, &["-sess_in", &session(version)]);
        assert!(said.contains("Reused, TLSv1."), "{said}");
        assert!(said.contains("generation 3"), "{said}");
    }
    ends_well(exuvia);
}
