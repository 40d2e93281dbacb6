//! Ports that are closed, for good or for 20 ms, and queues that are dropped.

use std::net::SocketAddr;

use loadtest::witness::{Class, Unit};
use tokio::net::TcpSocket;

use crate::faulty::{Accepting, Plan, What};
use crate::found::{found, scenario};
use crate::harness::{Server, apply, rows};

#[test]
fn a_port_where_nobody_listens_is_refused() {
    let server = Server::start();
    // Bound, so that nobody else gets it; not listening, so that it is closed.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let closed = socket.local_addr().unwrap();
    let mut aim = server.aim();
    (aim.targets.plain, aim.targets.tls) = (Some(closed), Some(closed));
    for (kind, unit) in [
        ("http1", Unit::Request),
        ("http1-new", Unit::Request),
        ("http1-tls", Unit::Request),
        ("http2", Unit::Stream),
        ("grpc", Unit::Stream),
        ("websocket", Unit::Tunnel),
    ] {
        let mut scenario = scenario(kind, "connections = 2");
        scenario.duration = std::time::Duration::from_millis(200);
        let ran = apply(&scenario, &aim);
        let (_, row) = rows(&ran.sum, &scenario);
        let refused = row.exchanges.get(&unit).and_then(|classes| classes.get(&Class::Refused)).copied();
        assert_eq!(refused, Some(row.exchanges()), "{kind}: {row:#?}");
        assert_eq!(
            row.connections.failed.get(&Class::Refused),
            Some(&row.connections.attempted),
            "{kind}: {row:#?}"
        );
        let failures = ran.sum.failures();
        assert!(failures.iter().all(|failure| failure.local_port == 0 && !failure.reused), "{failures:#?}");
    }
}

#[test]
fn a_gap_of_20_ms_in_which_nobody_listens_is_found() {
    let server = Server::start();
    let mut plan = Plan::none((What::Answer, usize::MAX));
    plan.accepting = Accepting::Gaps { clients: 4, gaps: 10 };
    let found = found("a gap", &server, &scenario("http1-new", "connections = 4"), plan);
    let refused = usize::try_from(found.row.in_class(Class::Refused)).unwrap();
    assert!(refused >= 1, "{found:#?}");
    found.only(&[(Unit::Request, Class::Refused, refused)]);
    // Whoever was let in was served, whoever was not was refused: nobody was both, or lost.
    assert_eq!(found.came(What::Connection), found.row.in_class(Class::Ok), "{found:#?}");
    assert_eq!(found.came(What::Connection) + refused as u64, found.row.exchanges(), "{found:#?}");
    assert_eq!(found.row.connections.failed.get(&Class::Refused), Some(&(refused as u64)), "{found:#?}");
}

#[test]
fn connections_that_nobody_accepted_are_reset() {
    let server = Server::start();
    let mut plan = Plan::none((What::Answer, usize::MAX));
    plan.accepting = Accepting::Dropping { clients: 5, drops: 4 };
    let found = found("a queue that is dropped", &server, &scenario("http1-new", "connections = 5"), plan);
    assert_eq!(found.planted.len(), 20, "{found:#?}");
    found.only(&[(Unit::Request, Class::Reset, 20)]);
    assert!(found.failures.iter().all(|failure| failure.local_port != 0), "{found:#?}");
}

/// The proxy's own part: without a fault it is not to be noticed.
#[test]
fn a_proxy_without_a_fault_is_not_noticed() {
    let server = Server::start();
    for (kind, of) in [
        ("http1", What::Answer),
        ("http1-new", What::Answer),
        ("http1-tls", What::Answer),
        ("http2", What::Stream),
        ("grpc", What::Stream),
        ("websocket", What::Message),
        ("websocket-tls", What::Message),
    ] {
        let more = if of == What::Answer { "connections = 3" } else { "connections = 3\nmessages = 7" };
        let more = if kind == "http2" { "connections = 3\nstreams = 5" } else { more };
        let found = found(kind, &server, &scenario(kind, more), Plan::none((of, 100)));
        found.only(&[]);
        found.disturbed(&[]);
        assert_eq!(found.row.connections.attempted, found.row.connections.closed, "{kind}: {found:#?}");
    }
}
