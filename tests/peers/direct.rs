//! Clients and servers without exuvia between them: what fails here is theirs.

use super::program::{Need, Program, skipped};

#[test]
fn websockets() {
    if skipped(&[Need::Python("websockets")]) {
        return;
    }
    let server = Program::server("websocket_server.py", &[]);
    let mut client = Program::client("websocket_client.py", server.address(), &[]);
    client.flows(200);
    assert!(client.finish()["closed"].as_u64().unwrap() >= 16);
    server.finish();
}

#[test]
fn grpc() {
    if skipped(&[Need::Python("grpc")]) {
        return;
    }
    let server = Program::server("grpc_server.py", &[]);
    Program::client("grpc_client.py", server.address(), &["--once"]).end();
    server.finish();
}
