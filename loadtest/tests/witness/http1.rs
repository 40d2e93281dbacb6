//! Faults in connections and answers of HTTP/1, with TLS and without.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use loadtest::witness::{Class, Disturbance, Unit};

use crate::faulty::{How, Plan, Tamper, Then, What};
use crate::found::{Found, found, scenario};
use crate::harness::{Server, apply, rows};

/// In which answers, or connections, a fault is planted.
const THREE: &[usize] = &[3, 6, 11];

/// A name, a fault, the class in which it belongs.
type Row = (&'static str, Tamper, Class);

/// Faults that are the same with TLS and without.
const ANSWERS: &[Row] = &[
    ("reset before the answer", |_| (Vec::new(), Then::Reset), Class::Reset),
    ("reset in the head", |answer| (answer[..20].to_vec(), Then::Reset), Class::Reset),
    ("reset in the body", |answer| (cut(answer), Then::Reset), Class::Reset),
    ("closed before the answer", |_| (Vec::new(), Then::Close), Class::ClosedBeforeAnswer),
    ("closed in the head", |answer| (answer[..20].to_vec(), Then::Close), Class::ClosedInAnswer),
    ("closed in the body", |answer| (cut(answer), Then::Close), Class::ClosedInAnswer),
    ("truncated before the answer", |_| (Vec::new(), Then::Truncate), Class::ClosedBeforeAnswer),
    ("truncated in the body", |answer| (cut(answer), Then::Truncate), Class::ClosedInAnswer),
    ("another byte", |answer| (flipped(answer), Then::GoOn), Class::WrongBytes),
    ("a byte too few", |answer| (shorter(answer), Then::GoOn), Class::WrongBytes),
    ("a byte too many", |answer| (longer(answer), Then::GoOn), Class::WrongBytes),
    (
        "an empty body",
        |_| (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), Then::GoOn),
        Class::WrongBytes,
    ),
    (
        "a proxy's own error",
        |_| (b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 4\r\n\r\nsad\n".to_vec(), Then::GoOn),
        Class::WrongStatus,
    ),
    (
        "a proxy's own error, and it closes",
        |_| (b"HTTP/1.1 503 No\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(), Then::Close),
        Class::WrongStatus,
    ),
    ("no HTTP", |_| (b"220 mail.example.com ESMTP\r\n\r\n".to_vec(), Then::Hang), Class::Malformed),
    ("no HTTP, and it closes", |_| (b"220 mail\r\n\r\n".to_vec(), Then::Close), Class::Malformed),
    (
        "two lengths",
        |_| (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(), Then::Hang),
        Class::Malformed,
    ),
];

/// Up to the middle of the body.
fn cut(answer: &[u8]) -> Vec<u8> {
    answer[..answer.len() - 40].to_vec()
}

fn flipped(answer: &[u8]) -> Vec<u8> {
    let mut bytes = answer.to_vec();
    let at = bytes.len() - 10;
    bytes[at] ^= 1;
    bytes
}

/// The answer with a body that is its own, and a length that fits.
fn with_body(answer: &[u8], change: fn(&mut Vec<u8>)) -> Vec<u8> {
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    let mut body = answer[head..].to_vec();
    change(&mut body);
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), &body].concat()
}

fn shorter(answer: &[u8]) -> Vec<u8> {
    with_body(answer, |body| body.truncate(body.len() - 1))
}

fn longer(answer: &[u8]) -> Vec<u8> {
    with_body(answer, |body| body.push(0))
}

fn check(server: &Server, kind: &str, more: &str, of: What, (name, tamper, class): Row) -> Found {
    let name = format!("{kind}: {name}");
    let plan = Plan::one(of, THREE, How::Bytes(tamper), 15);
    let found = found(&name, server, &scenario(kind, more), plan);
    found.all_planted(Unit::Request, class, THREE.len());
    found
}

#[test]
fn a_fault_in_an_answer_is_found_once_and_in_its_class() {
    let server = Server::start();
    for kind in ["http1", "http1-tls", "http1-new"] {
        for &row in ANSWERS {
            let found = check(&server, kind, "connections = 1\nbytes = [100, 4000]", What::Answer, row);
            let tried_again = found.seconds().into_iter().flatten().count() as u64;
            assert_eq!(
                found.came(What::Answer),
                found.row.exchanges() + tried_again,
                "{}: {found:#?}",
                row.0
            );
            let (seen, sent): (Vec<_>, Vec<_>) = (
                found.failures.iter().map(|failure| failure.bytes_seen).collect(),
                found.planted.iter().map(|planted| planted.bytes).collect(),
            );
            assert_eq!(seen, sent, "{}: {found:#?}", row.0);
        }
    }
}

#[test]
fn a_fault_in_an_answer_without_a_length_is_found() {
    let server = Server::start();
    let rows: &[Row] = &[
        ("reset in the body", |answer| (cut(answer), Then::Reset), Class::Reset),
        ("closed in the body", |answer| (cut(answer), Then::Close), Class::ClosedInAnswer),
        // All the bytes are there; only that they are all has not been said.
        (
            "closed before the end was told",
            |answer| (answer[..answer.len() - 5].to_vec(), Then::Close),
            Class::ClosedInAnswer,
        ),
        ("another byte", |answer| (flipped(answer), Then::GoOn), Class::WrongBytes),
        (
            "a length that is none",
            |answer| {
                let head = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
                ([&answer[..head], b"xyz\r\n"].concat(), Then::Hang)
            },
            Class::Malformed,
        ),
    ];
    for over in ["http1", "http1-tls"] {
        for &row in rows {
            let more = format!("connections = 1\nbytes = [100, 4000]\nlasts = \"1ms\"\nover = \"{over}\"");
            check(&server, "streamed", &more, What::Answer, row);
        }
    }
}

/// An upload's answer is short, and is judged as a whole: the server had other bytes.
#[test]
fn a_body_that_came_wrong_is_found() {
    let server = Server::start();
    let row: Row = (
        "the server had another byte",
        |answer| {
            let mut bytes = answer.to_vec();
            let sum = bytes.len() - 8;
            bytes[sum] = if bytes[sum] == b'0' { b'1' } else { b'0' };
            (bytes, Then::GoOn)
        },
        Class::WrongBytes,
    );
    check(&server, "upload", "connections = 1\nbytes = [1000, 9000]\nlasts = \"1ms\"", What::Answer, row);
}

#[test]
fn an_answer_that_does_not_come_is_a_timeout() {
    let server = Server::start();
    let rows: &[Row] = &[
        ("never an answer", |_| (Vec::new(), Then::Hang), Class::Timeout),
        ("half an answer", |answer| (cut(answer), Then::Hang), Class::Timeout),
    ];
    for kind in ["http1", "http1-tls"] {
        for &(name, tamper, class) in rows {
            let scenario = scenario(kind, "timeout = \"700ms\"|connections = 1");
            let plan = Plan::one(What::Answer, &[4], How::Bytes(tamper), 8);
            let found = found(name, &server, &scenario, plan);
            found.all_planted(Unit::Request, class, 1);
            assert_eq!(found.failures[0].bytes_seen, found.planted[0].bytes, "{name}: {found:#?}");
        }
    }
}

/// A connection that was made for a request and ends before the request is sent was tried again without a word: the
/// request had "not begun".
#[test]
fn a_connection_that_ends_as_soon_as_it_is_accepted_is_found() {
    let server = Server::start();
    let plain: &[Row] = &[
        ("reset", |_| (Vec::new(), Then::Reset), Class::Reset),
        ("closed", |_| (Vec::new(), Then::Close), Class::ClosedBeforeAnswer),
        ("no HTTP", |_| (b"220 mail\r\n\r\n".to_vec(), Then::Hang), Class::Malformed),
    ];
    for kind in ["http1", "http1-new"] {
        for &(name, tamper, class) in plain {
            let mut plan = Plan::one(What::Connection, &[1, 2, 3], How::Bytes(tamper), 0);
            plan.until = (What::Answer, 10);
            let name = format!("{kind}: {name}");
            let found = found(&name, &server, &scenario(kind, "connections = 1"), plan);
            assert_eq!(found.planted.len(), 3, "{name}: {found:#?}");
            // Not on which port: a reset that is faster than the witness looks like a connection that was never made.
            found.only(&[(Unit::Request, class, 3)]);
            let idle = found.row.disturbances.get(&Disturbance::ClosedIdle);
            assert_eq!(idle, None, "{name}: counted once more: {found:#?}");
        }
    }
    let tls: &[Row] = &[
        ("reset in the handshake", |_| (Vec::new(), Then::Reset), Class::Reset),
        ("closed in the handshake", |_| (Vec::new(), Then::Close), Class::ClosedBeforeAnswer),
        ("no TLS", |_| (Vec::new(), Then::Garbage), Class::Malformed),
        ("an alert", |_| (Vec::new(), Then::Alert), Class::Malformed),
    ];
    for kind in ["http1-tls", "http2", "grpc", "websocket-tls"] {
        let (unit, of) = match kind {
            "http1-tls" => (Unit::Request, What::Answer),
            "websocket-tls" => (Unit::Tunnel, What::Message),
            _ => (Unit::Stream, What::Stream),
        };
        for &(name, tamper, class) in tls {
            let mut plan = Plan::one(What::Connection, &[1, 2], How::Bytes(tamper), 0);
            plan.until = (of, 10);
            let name = format!("{kind}: {name}");
            let found = found(&name, &server, &scenario(kind, "connections = 1"), plan);
            assert_eq!(found.planted.len(), 2, "{name}: {found:#?}");
            found.only(&[(unit, class, 2)]);
            assert_eq!(found.row.connections.failed.get(&class), Some(&2), "{name}: {found:#?}");
        }
    }
}

#[test]
fn what_is_not_tls_in_the_middle_of_it_is_found() {
    let server = Server::start();
    let row: Row = ("garbage in the answer", |answer| (cut(answer), Then::Garbage), Class::Malformed);
    check(&server, "http1-tls", "connections = 1\nbytes = [100, 4000]", What::Answer, row);
}

/// The wait for a connection that is still busy sending was under no deadline: a proxy that answers an upload before it
/// has read it, and then does not read it, would have been waited for until the end.
#[test]
fn a_connection_that_does_not_come_free_is_a_timeout() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = Server::start();
    let mut aim = server.aim();
    aim.targets.plain = Some(listener.local_addr().unwrap());
    // More than the kernel's buffers take.
    let more = "timeout = \"500ms\"|connections = 1\nlasts = \"0s\"\nbytes = [50000000, 50000000]";
    let mut scenario = scenario("upload", more);
    scenario.duration = Duration::from_millis(700);
    let proxy = thread::spawn(move || {
        let mut streams = Vec::new();
        for number in 0.. {
            let (mut stream, _) = listener.accept().unwrap();
            if number == 1 {
                break;
            }
            assert!(stream.read(&mut [0; 1000]).unwrap() > 0);
            stream.write_all(b"HTTP/1.1 413 No\r\ncontent-length: 0\r\n\r\n").unwrap();
            streams.push(stream);
        }
    });
    let ran = apply(&scenario, &aim);
    // It waits for a second connection, which is not made if the first is never given up.
    let second = std::net::TcpStream::connect(aim.targets.plain.unwrap());
    proxy.join().unwrap();
    drop(second);
    let (_, row) = rows(&ran.sum, &scenario);
    let failures = ran.sum.failures();
    let classes: Vec<_> = failures.iter().map(|failure| failure.class).collect();
    assert!(classes.starts_with(&[Class::WrongStatus, Class::Timeout]), "{row:#?} {failures:#?}");
    assert_eq!(row.in_class(Class::Unfinished), 0, "{row:#?}");
}
