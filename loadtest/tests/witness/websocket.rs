//! Faults in WebSockets, with TLS and without: their opening is one exchange, each message is one.

use std::thread;

use loadtest::witness::{Class, Disturbance, Unit};

use crate::faulty::{How, Plan, Tamper, Then, What};
use crate::found::{found, scenario};
use crate::harness::Server;

const THREE: &[usize] = &[3, 6, 11];
const KINDS: [&str; 2] = ["websocket", "websocket-tls"];

/// Closed because the server goes away: RFC 6455, sections 5.5.1 and 7.4.1.
const GOING_AWAY: [u8; 4] = [0x88, 2, 0x03, 0xe9];

fn flipped(message: &[u8]) -> Vec<u8> {
    let mut bytes = message.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

/// Whether a fault ends the WebSocket.
type Row = (&'static str, Tamper, Class, bool);

const MESSAGES: &[Row] = &[
    ("lost", |_| (Vec::new(), Then::Close), Class::ClosedBeforeAnswer, true),
    ("truncated", |_| (Vec::new(), Then::Truncate), Class::ClosedBeforeAnswer, true),
    ("reset", |_| (Vec::new(), Then::Reset), Class::Reset, true),
    ("lost in a message", |message| (message[..20].to_vec(), Then::Close), Class::ClosedInAnswer, true),
    ("reset in a message", |message| (message[..20].to_vec(), Then::Reset), Class::Reset, true),
    ("closed, and it says so", |_| (GOING_AWAY.to_vec(), Then::Close), Class::ClosedBeforeAnswer, true),
    ("another byte", |message| (flipped(message), Then::GoOn), Class::WrongBytes, false),
    ("another's message", |_| (vec![0x82, 1, 7], Then::GoOn), Class::WrongBytes, false),
    ("a frame that cannot be", |_| (vec![0xff; 20], Then::Hang), Class::Malformed, true),
];

#[test]
fn a_fault_in_a_message_is_found_once_and_in_its_class() {
    let server = Server::start();
    for kind in KINDS {
        for &(name, tamper, class, ends) in MESSAGES {
            let plan = Plan::one(What::Message, THREE, How::Bytes(tamper), 15);
            // One WebSocket for all, however late the run is to end.
            let more = "connections = 1\nmessages = 100000\nbytes = [100, 4000]";
            let found = found(&format!("{kind}: {name}"), &server, &scenario(kind, more), plan);
            found.all_planted(Unit::Message, class, THREE.len());
            let lost = if ends { THREE.len() as u64 } else { 0 };
            found.disturbed(&[(Disturbance::LostWebSocket, lost), (Disturbance::Reconnect, lost)]);
            let connections = &found.row.connections;
            assert_eq!((connections.attempted, connections.lost), (1 + lost, lost), "{name}: {found:#?}");
            if class != Class::WrongBytes {
                let seen: Vec<_> = found.failures.iter().map(|failure| failure.bytes_seen).collect();
                let sent: Vec<_> = found.planted.iter().map(|planted| planted.bytes).collect();
                assert_eq!(seen, sent, "{name}: {found:#?}");
            }
        }
    }
}

#[test]
fn a_message_that_does_not_come_back_is_a_timeout() {
    let server = Server::start();
    let server = &server;
    thread::scope(|scope| {
        for kind in KINDS {
            scope.spawn(move || {
                let plan = Plan::one(What::Message, &[3], How::Bytes(|_| (Vec::new(), Then::Hang)), 5);
                let scenario = scenario(kind, "timeout = \"700ms\"|connections = 1\nmessages = 50");
                found(kind, server, &scenario, plan).all_planted(Unit::Message, Class::Timeout, 1);
            });
        }
    });
}

#[test]
fn a_websocket_that_is_not_opened_is_found() {
    let server = Server::start();
    let rows: &[(&str, Tamper, Class)] = &[
        (
            "refused",
            |_| (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n".to_vec(), Then::Close),
            Class::WrongStatus,
        ),
        (
            "answered as if it were no WebSocket",
            |_| (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), Then::Close),
            Class::WrongStatus,
        ),
        (
            "another's key",
            |answer| {
                let text = String::from_utf8(answer.to_vec()).unwrap().to_ascii_lowercase();
                let at = text.find("sec-websocket-accept:").unwrap() + 22;
                let mut bytes = answer.to_vec();
                bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
                (bytes, Then::Close)
            },
            Class::Malformed,
        ),
        ("no HTTP", |_| (b"220 mail\r\n\r\n".to_vec(), Then::Close), Class::Malformed),
        ("reset", |_| (Vec::new(), Then::Reset), Class::Reset),
        ("closed", |_| (Vec::new(), Then::Close), Class::ClosedBeforeAnswer),
        ("closed in the answer", |answer| (answer[..20].to_vec(), Then::Close), Class::ClosedInAnswer),
    ];
    for kind in KINDS {
        for &(name, tamper, class) in rows {
            let plan = Plan::one(What::Answer, &[2, 5], How::Bytes(tamper), 8);
            let scenario = scenario(kind, "connections = 1\nmessages = 3");
            let found = found(&format!("{kind}: {name}"), &server, &scenario, plan);
            found.all_planted(Unit::Tunnel, class, 2);
            found.disturbed(&[]);
        }
    }
}

/// Nothing was asked, so that nothing failed; but who would have been told something has lost it.
#[test]
fn a_websocket_that_is_lost_at_rest_is_a_disturbance() {
    let server = Server::start();
    let rows: &[(&str, Tamper)] = &[
        ("closed", |message| (message.to_vec(), Then::Close)),
        ("reset", |message| (message.to_vec(), Then::Reset)),
        ("closed, and it says so", |message| ([message, &GOING_AWAY].concat(), Then::Close)),
    ];
    let server = &server;
    thread::scope(|scope| {
        for (kind, (name, tamper)) in
            KINDS.into_iter().flat_map(|kind| rows.iter().map(move |row| (kind, *row)))
        {
            scope.spawn(move || {
                let plan = Plan::one(What::Message, &[2, 4], How::Bytes(tamper), 6);
                let more = "connections = 1\nmessages = 50\npause = [\"200ms\", \"200ms\"]";
                let found = found(&format!("{kind}: {name}"), server, &scenario(kind, more), plan);
                assert_eq!(found.planted.len(), 2, "{name}: {found:#?}");
                found.only(&[]);
                found.disturbed(&[(Disturbance::LostWebSocket, 2), (Disturbance::Reconnect, 2)]);
                assert_eq!(found.row.connections.lost, 2, "{name}: {found:#?}");
            });
        }
    });
}
