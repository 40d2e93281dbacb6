//! gRPC by grpcio on both sides.

use super::harness::Exuvia;
use super::program::{Need, Program, skipped};
use super::twenty::{encrypted, ends_well, plain, upgrades};

/// A proxy in front of a server of gRPC.
fn settings(server: &Program) -> String {
    format!("[upstream]\nservers = [\"{}\"]\nprotocol = \"http2\"\n", server.address())
}

/// One call of every kind: messages, status, details, deadlines, cancellation, and 16 KiB of metadata each way.
#[test]
fn every_kind_of_call() {
    if skipped(&[Need::Python("grpc")]) {
        return;
    }
    let server = Program::server("grpc_server.py", &[]);
    let exuvia = plain(&settings(&server));
    Program::client("grpc_client.py", exuvia.address(), &["--once"]).end();
    ends_well(exuvia);
    let (exuvia, certificate) = encrypted(&settings(&server));
    Program::client("grpc_client.py", exuvia.address(), &["--once", "--ca", certificate.authority()]).end();
    ends_well(exuvia);
    server.finish();
}

#[test]
fn twenty_upgrades_under_calls_short_and_long() {
    if skipped(&[Need::Python("grpc")]) {
        return;
    }
    let server = Program::server("grpc_server.py", &[]);
    let exuvia = plain(&settings(&server));
    let client = Program::client("grpc_client.py", exuvia.address(), &[]);
    let summary = upgrades(exuvia, client, 30);
    assert_eq!(summary["held"], 8, "{summary}");
    server.finish();
}

#[test]
fn twenty_upgrades_under_calls_over_tls() {
    if skipped(&[Need::Python("grpc")]) {
        return;
    }
    let server = Program::server("grpc_server.py", &[]);
    let (exuvia, certificate) = encrypted(&settings(&server));
    let client = Program::client("grpc_client.py", exuvia.address(), &["--ca", certificate.authority()]);
    let summary = upgrades(exuvia, client, 30);
    assert_eq!(summary["held"], 8, "{summary}");
    server.finish();
}

/// What this proxy answers by itself, a call must end with: it used to get a page of text with the status 502, of which
/// a client of gRPC makes what it likes.
#[test]
fn a_call_that_no_server_answers_ends_with_a_status_of_grpc() {
    if skipped(&[Need::Python("grpc")]) {
        return;
    }
    let refused = |exuvia: &Exuvia, code: &str, words: &str, more: &[&str]| {
        let arguments = [&["--code", code, "--words", words], more].concat();
        Program::client("grpc_refused.py", exuvia.address(), &arguments).end();
    };
    // A port that is taken, and on which nobody listens.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let down = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let to_nobody = format!("[upstream]\nservers = [\"{}\"]\n", down.local_addr().unwrap());
    let exuvia = plain(&to_nobody);
    refused(&exuvia, "UNAVAILABLE", "502 Bad Gateway", &[]);
    ends_well(exuvia);

    let server = Program::server("grpc_server.py", &[]);
    let exuvia = plain(&format!("{}response_timeout = \"300ms\"\n", settings(&server)));
    refused(&exuvia, "DEADLINE_EXCEEDED", "504 Gateway Timeout", &["--method", "Hang"]);
    ends_well(exuvia);

    let exuvia = plain(&format!("{}[limits]\nheaders = 20\n", settings(&server)));
    let words = "431 Request Header Fields Too Large";
    refused(&exuvia, "RESOURCE_EXHAUSTED", words, &["--metadata", "30"]);
    ends_well(exuvia);
    server.finish();
}
