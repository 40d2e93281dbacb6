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
        assert_eq!(row.exchanges(), row.in_class(Class::Ok), "{row:#?}");
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
