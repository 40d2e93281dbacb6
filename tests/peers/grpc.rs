//! gRPC by grpcio on both sides.

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
