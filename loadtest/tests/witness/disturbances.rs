//! What a client notices and loses nothing by: counted as such, and not as a failure.

use std::thread;

use loadtest::witness::Disturbance::{AnnouncedClose, ClosedIdle, FullHandshake, GoAway, Reconnect};

use crate::faulty::{Act, Frame, How, Meddle, Passing, Plan, Side, Tamper, Then, What};
use crate::found::{found, scenario};
use crate::harness::Server;

const THREE: &[usize] = &[2, 4, 7];

/// Long enough for the witness to hear of the end before it asks again.
const RESTING: &str = "connections = 1\npause = [\"200ms\", \"200ms\"]";

#[test]
fn a_connection_that_ends_at_rest_is_closed_while_idle() {
    let answers: &[(&str, Tamper)] = &[
        ("closed", |answer| (answer.to_vec(), Then::Close)),
        ("truncated", |answer| (answer.to_vec(), Then::Truncate)),
        ("reset", |answer| (answer.to_vec(), Then::Reset)),
    ];
    let streams: &[(&str, Meddle)] = &[
        ("closed", |passing| after(passing, Vec::new(), Then::Close)),
        ("truncated", |passing| after(passing, Vec::new(), Then::Truncate)),
        ("reset", |passing| after(passing, Vec::new(), Then::Reset)),
    ];
    let mut rows = Vec::new();
    for kind in ["http1", "idle", "http1-tls"] {
        rows.extend(answers.iter().map(|(name, tamper)| (kind, *name, What::Answer, How::Bytes(*tamper))));
    }
    rows.extend(streams.iter().map(|(name, meddle)| ("http2", *name, What::Stream, How::Frames(*meddle))));
    rested(&rows, 3);
}

/// A client that wrote at that moment would have taken it for its answer.
#[test]
fn something_that_nobody_asked_for_ends_a_connection_at_rest() {
    let answer: Tamper =
        |answer| ([answer, b"HTTP/1.1 408 Late\r\ncontent-length: 0\r\n\r\n"].concat(), Then::Hang);
    let byte: Tamper = |answer| ([answer, b"\n"].concat(), Then::Hang);
    let mut rows = Vec::new();
    for kind in ["http1", "http1-tls"] {
        rows.push((kind, "an answer", What::Answer, How::Bytes(answer)));
        rows.push((kind, "a byte too many", What::Answer, How::Bytes(byte)));
    }
    // It is the witness that ends such a connection.
    rested(&rows, 0);
}

/// Three times in a run, what was at rest was closed, and as many connections were lost. The runs rest side by side.
fn rested(rows: &[(&str, &str, What, How)], lost: u64) {
    let server = Server::start();
    thread::scope(|scope| {
        for &(kind, name, of, how) in rows {
            let server = &server;
            scope.spawn(move || {
                let streams = if kind == "http2" { "streams = 1" } else { "" };
                let scenario = scenario(kind, &format!("{RESTING}\n{streams}"));
                let plan = Plan::one(of, THREE, how, 8);
                let found = found(&format!("{kind}: {name}"), server, &scenario, plan);
                assert_eq!(found.planted.len(), 3, "{name}: {found:#?}");
                found.only(&[]);
                found.disturbed(&[(ClosedIdle, 3), (Reconnect, 3)]);
                let connections = &found.row.connections;
                assert_eq!((connections.attempted, connections.lost), (4, lost), "{name}: {found:#?}");
            });
        }
    });
}

/// At the end of an answer, which passes: more frames, and the end.
fn after(passing: &Passing<'_>, more: Vec<Frame>, then: Then) -> Act {
    if passing.from == Side::Server && passing.frame.ends() {
        Act::Last([vec![passing.frame.clone()], more].concat(), then)
    } else {
        Act::Pass
    }
}

#[test]
fn a_goaway_at_rest_is_only_that() {
    let server = Server::start();
    let meddle: Meddle = |passing| {
        after(passing, vec![Frame::goaway(passing.frame.stream, h2::Reason::NO_ERROR)], Then::Close)
    };
    let plan = Plan::one(What::Stream, THREE, How::Frames(meddle), 12);
    let found = found("at rest", &server, &scenario("http2", "connections = 1\nstreams = 1"), plan);
    assert_eq!(found.planted.len(), 3, "{found:#?}");
    found.only(&[]);
    found.disturbed(&[(GoAway, 3), (Reconnect, 3)]);
    assert_eq!((found.row.connections.closed, found.row.connections.lost), (4, 0), "{found:#?}");
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
