//! What a client notices and loses nothing by: counted as such, and not as a failure.

use loadtest::witness::Disturbance::{AnnouncedClose, ClosedIdle, FullHandshake, Reconnect};

use crate::faulty::{How, Plan, Tamper, Then, What};
use crate::found::{found, scenario};
use crate::harness::Server;

const THREE: &[usize] = &[2, 4, 7];

/// Long enough for the witness to hear of the end before it asks again.
const RESTING: &str = "connections = 1\npause = [\"200ms\", \"200ms\"]";

#[test]
fn a_connection_that_ends_at_rest_is_closed_while_idle() {
    let server = Server::start();
    let rows: &[(&str, Tamper)] = &[
        ("closed", |answer| (answer.to_vec(), Then::Close)),
        ("truncated", |answer| (answer.to_vec(), Then::Truncate)),
        ("reset", |answer| (answer.to_vec(), Then::Reset)),
    ];
    for kind in ["http1", "idle", "http1-tls"] {
        for &(name, tamper) in rows {
            let plan = Plan::one(What::Answer, THREE, How::Bytes(tamper), 8);
            let name = format!("{kind}: {name}");
            let found = found(&name, &server, &scenario(kind, RESTING), plan);
            assert_eq!(found.planted.len(), 3, "{name}: {found:#?}");
            found.only(&[]);
            found.disturbed(&[(ClosedIdle, 3), (Reconnect, 3)]);
            let connections = &found.row.connections;
            assert_eq!((connections.attempted, connections.lost), (4, 3), "{name}: {found:#?}");
        }
    }
}

fn announcing(answer: &[u8]) -> Vec<u8> {
    let rest = answer.strip_prefix(b"HTTP/1.1 200 OK\r\n").unwrap();
    [b"HTTP/1.1 200 OK\r\nConnection: close\r\n", rest].concat()
}

#[test]
fn an_announced_close_is_only_that() {
    let server = Server::start();
    let rows: &[(&str, Tamper)] = &[
        ("and it closes", |answer| (announcing(answer), Then::Close)),
        ("and it waits for the client", |answer| (announcing(answer), Then::GoOn)),
    ];
    for kind in ["http1", "http1-tls"] {
        for &(name, tamper) in rows {
            let plan = Plan::one(What::Answer, THREE, How::Bytes(tamper), 12);
            let found = found(&format!("{kind}: {name}"), &server, &scenario(kind, "connections = 1"), plan);
            assert_eq!(found.planted.len(), 3, "{name}: {found:#?}");
            found.only(&[]);
            found.disturbed(&[(AnnouncedClose, 3), (Reconnect, 3)]);
            let connections = &found.row.connections;
            assert_eq!((connections.attempted, connections.closed), (4, 4), "{name}: {found:#?}");
        }
    }
    // Who asked for it is not told anything.
    let plan = Plan::one(What::Answer, THREE, How::Bytes(|answer| (announcing(answer), Then::Close)), 12);
    let found = found("as asked", &server, &scenario("http1-new", "connections = 1"), plan);
    found.only(&[]);
    found.disturbed(&[]);
}

#[test]
fn a_full_handshake_counts_if_a_session_could_have_been_resumed() {
    let server = Server::start();
    for forgets_sessions in [false, true] {
        let tamper: Tamper = |answer| (announcing(answer), Then::Close);
        let mut plan = Plan::one(What::Answer, THREE, How::Bytes(tamper), 12);
        plan.forgets_sessions = forgets_sessions;
        let found = found("sessions", &server, &scenario("http1-tls", "connections = 1"), plan);
        found.only(&[]);
        let full = if forgets_sessions { 3 } else { 0 };
        found.disturbed(&[(AnnouncedClose, 3), (Reconnect, 3), (FullHandshake, full)]);
    }
    // A new WebSocket is a new connection, which is not a reconnection.
    for forgets_sessions in [false, true] {
        let mut plan = Plan::none((What::Message, 40));
        plan.forgets_sessions = forgets_sessions;
        let found =
            found("sessions", &server, &scenario("websocket-tls", "connections = 1\nmessages = 5"), plan);
        found.only(&[]);
        let full = if forgets_sessions { found.row.connections.attempted - 1 } else { 0 };
        found.disturbed(&[(FullHandshake, full)]);
    }
}
