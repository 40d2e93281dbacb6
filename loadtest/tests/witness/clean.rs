//! Where nothing is wrong, nothing is found, in any kind of traffic.

use loadtest::scenario::{Kind, Scenario};
use loadtest::witness::{Class, Unit};

use crate::harness::{Server, apply, rows};

#[test]
fn every_kind_is_served_and_nothing_is_found() {
    let server = Server::start();
    let mut text = String::from("duration = \"3s\"\n");
    for kind in Kind::ALL {
        text.push_str(&format!("[[traffic]]\nkind = \"{}\"\nconnections = 3\n", kind.name()));
        match kind {
            Kind::Idle => text.push_str("pause = [\"100ms\", \"300ms\"]\n"),
            Kind::Upload | Kind::Download | Kind::Streamed => {
                text.push_str("lasts = \"500ms\"\nover = \"http2\"\n")
            }
            Kind::WebSocket | Kind::WebSocketTls | Kind::Grpc => text.push_str("rate = 60\nmessages = 20\n"),
            _ => text.push_str("rate = 60\n"),
        }
    }
    let scenario = Scenario::parse(&text).unwrap();
    let ran = apply(&scenario, &server.aim());
    let (rows, total) = rows(&ran.sum, &scenario);
    let failures = ran.sum.failures();
    assert!(failures.is_empty(), "{failures:#?}");
    for row in &rows {
        assert!(row.in_class(Class::Ok) >= 5, "{row:#?}");
        // On a machine that has no time for it, the load itself is late.
        let judged = row.exchanges() - row.in_class(Class::Unfinished);
        assert_eq!(judged, row.in_class(Class::Ok), "{row:#?}");
        assert_eq!(row.disturbances(), 0, "{row:#?}");
        let connections = &row.connections;
        assert_eq!(connections.attempted, connections.closed, "{row:#?}");
    }
    let units = |kind: Kind, unit| {
        rows[Kind::ALL.iter().position(|one| *one == kind).unwrap()].exchanges.contains_key(&unit)
    };
    assert!(units(Kind::Grpc, Unit::Stream) && units(Kind::Grpc, Unit::Message));
    assert!(units(Kind::WebSocketTls, Unit::Tunnel) && units(Kind::WebSocketTls, Unit::Message));
    assert!(units(Kind::Http2, Unit::Stream) && units(Kind::Http1, Unit::Request));
    assert!(total.bytes_in > 1_000_000 && total.bytes_out > 500_000, "{total:#?}");
}

/// A connection attempt that took too long was counted as begun and never as ended, by all but WebSockets.
#[test]
fn a_connection_that_is_never_made_is_counted_as_such() {
    let server = Server::start();
    // The kernel accepts, and nobody answers the TLS handshake.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let mut aim = server.aim();
    aim.targets.tls = Some(silent.local_addr().unwrap());
    for kind in ["http1-tls", "http2", "grpc", "websocket-tls"] {
        let text = format!(
            "duration = \"500ms\"\ntimeout = \"200ms\"\n[[traffic]]\nkind = \"{kind}\"\nconnections = 2"
        );
        let scenario = Scenario::parse(&text).unwrap();
        let ran = apply(&scenario, &aim);
        let (_, total) = rows(&ran.sum, &scenario);
        let connections = &total.connections;
        assert!(connections.attempted >= 2, "{kind}: {total:#?}");
        assert_eq!(
            connections.failed.get(&Class::Timeout),
            Some(&connections.attempted),
            "{kind}: {total:#?}"
        );
        assert_eq!(total.in_class(Class::Timeout), total.exchanges(), "{kind}: {total:#?}");
    }
}

/// The threads' counts were taken before the connections that had been let go were over: of thousands, half were counted
/// as never closed.
#[test]
fn every_connection_is_counted_to_its_end() {
    let server = Server::start();
    // More than are looked after in one turn of a thread, fewer than a process may usually have.
    let text = "duration = \"500ms\"\n[[traffic]]\nkind = \"http1\"\nconnections = 300\nbytes = [100, 100]";
    let scenario = Scenario::parse(text).unwrap();
    let ran = apply(&scenario, &server.aim());
    let (_, total) = rows(&ran.sum, &scenario);
    let connections = &total.connections;
    assert!(connections.attempted > 100, "{total:#?}");
    assert_eq!(connections.attempted, connections.closed, "{total:#?}");
}
