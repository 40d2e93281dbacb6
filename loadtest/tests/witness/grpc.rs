//! Faults in calls of gRPC: a call is one exchange, and so is each of its messages.

use h2::Reason;
use loadtest::witness::{Class, Disturbance, Unit};

use crate::faulty::{Act, Frame, How, Meddle, Passing, Plan, Side, Then, What};
use crate::found::{found, scenario};
use crate::harness::Server;

const MESSAGES: &str = "connections = 1\nstreams = 1\nmessages = 5\nbytes = [1000, 1000]";

/// With what stands before its bytes.
const MESSAGE: usize = 1005;

fn is_request(passing: &Passing<'_>) -> bool {
    passing.from == Side::Client && passing.frame.kind == Frame::HEADERS
}

/// The beginning of one of a call's five messages. No frame has parts of two: the second waits for the first's echo.
fn is_message(passing: &Passing<'_>, from: Side, number: usize) -> bool {
    let begins = passing.before == (number - 1) * MESSAGE && !passing.frame.payload.is_empty();
    passing.from == from && passing.frame.kind == Frame::DATA && begins
}

fn is_status(passing: &Passing<'_>) -> bool {
    passing.from == Side::Server && passing.frame.kind == Frame::HEADERS && passing.frame.ends()
}

fn ended(passing: &Passing<'_>, fields: &[(&str, &str)]) -> Act {
    Act::End(vec![Frame::fields(passing.frame.stream, fields)])
}

type Row = (&'static str, Meddle, &'static [(Unit, Class)]);

const ROWS: &[Row] = &[
    (
        "reset at a message",
        |passing| match passing {
            passing if is_message(passing, Side::Client, 3) => {
                Act::End(vec![Frame::reset(passing.frame.stream, Reason::INTERNAL_ERROR)])
            }
            _ => Act::Pass,
        },
        &[(Unit::Stream, Class::Reset), (Unit::Message, Class::Reset)],
    ),
    (
        "cancelled at a message",
        |passing| match passing {
            passing if is_message(passing, Side::Client, 3) => {
                Act::End(vec![Frame::reset(passing.frame.stream, Reason::CANCEL)])
            }
            _ => Act::Pass,
        },
        &[(Unit::Stream, Class::Reset), (Unit::Message, Class::Reset)],
    ),
    (
        "refused",
        |passing| match passing {
            passing if is_request(passing) => {
                Act::End(vec![Frame::reset(passing.frame.stream, Reason::REFUSED_STREAM)])
            }
            _ => Act::Pass,
        },
        &[(Unit::Stream, Class::RefusedStream), (Unit::Message, Class::RefusedStream)],
    ),
    (
        "another byte in a message",
        |passing| {
            let mut frame = passing.frame.clone();
            if !is_message(passing, Side::Server, 2) {
                return Act::Pass;
            }
            *frame.payload.last_mut().unwrap() ^= 1;
            Act::Change(frame)
        },
        &[(Unit::Message, Class::WrongBytes)],
    ),
    (
        "another length before a message",
        |passing| {
            let mut frame = passing.frame.clone();
            if !is_message(passing, Side::Server, 2) {
                return Act::Pass;
            }
            frame.payload[4] ^= 1;
            Act::Change(frame)
        },
        &[(Unit::Stream, Class::WrongBytes), (Unit::Message, Class::WrongBytes)],
    ),
    (
        "a status that is not 0",
        |passing| if is_status(passing) { ended(passing, &[("grpc-status", "14")]) } else { Act::Pass },
        &[(Unit::Stream, Class::WrongStatus)],
    ),
    (
        "trailers without a status",
        |passing| if is_status(passing) { ended(passing, &[("x-y", "z")]) } else { Act::Pass },
        &[(Unit::Stream, Class::ClosedInAnswer)],
    ),
    (
        "no trailers",
        |passing| {
            let end = Frame {
                kind: Frame::DATA,
                flags: Frame::END_STREAM,
                payload: Vec::new(),
                ..passing.frame.clone()
            };
            if is_status(passing) { Act::End(vec![end]) } else { Act::Pass }
        },
        &[(Unit::Stream, Class::ClosedInAnswer)],
    ),
    (
        "a status at once",
        |passing| {
            let fields = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", "14")];
            if is_request(passing) { ended(passing, &fields) } else { Act::Pass }
        },
        &[(Unit::Stream, Class::WrongStatus), (Unit::Message, Class::WrongStatus)],
    ),
    (
        "a status in the middle",
        |passing| match passing {
            passing if is_message(passing, Side::Client, 3) => ended(passing, &[("grpc-status", "14")]),
            _ => Act::Pass,
        },
        &[(Unit::Stream, Class::WrongStatus), (Unit::Message, Class::WrongStatus)],
    ),
    (
        "a proxy's own error",
        |passing| if is_request(passing) { ended(passing, &[(":status", "503")]) } else { Act::Pass },
        &[(Unit::Stream, Class::WrongStatus), (Unit::Message, Class::WrongStatus)],
    ),
];

#[test]
fn a_fault_in_a_call_is_found_in_the_call_and_in_its_message() {
    let server = Server::start();
    for &(name, meddle, expected) in ROWS {
        let plan = Plan::one(What::Stream, &[2, 5], How::Frames(meddle), 8);
        let found = found(name, &server, &scenario("grpc", MESSAGES), plan);
        assert_eq!(found.planted.len(), 2, "{name}: {found:#?}");
        let expected: Vec<_> = expected.iter().map(|(unit, class)| (*unit, *class, 2)).collect();
        found.only(&expected);
        found.disturbed(&[]);
        assert!(
            found.failures.iter().all(|failure| failure.local_port == found.planted[0].port),
            "{found:#?}"
        );
    }
}

#[test]
fn a_connection_that_ends_in_a_call_is_found() {
    let server = Server::start();
    let rows: &[(&str, Meddle, Class, Class)] = &[
        (
            "reset at a message",
            |passing| match passing {
                passing if is_message(passing, Side::Client, 3) => Act::Last(Vec::new(), Then::Reset),
                _ => Act::Pass,
            },
            Class::Reset,
            Class::Reset,
        ),
        (
            // Two messages have come back, and nothing of the third.
            "closed at a message",
            |passing| match passing {
                passing if is_message(passing, Side::Client, 3) => Act::Last(Vec::new(), Then::Close),
                _ => Act::Pass,
            },
            Class::ClosedInAnswer,
            Class::ClosedBeforeAnswer,
        ),
        (
            "closed in a message",
            |passing| {
                let frame = Frame { payload: passing.frame.payload[..6].to_vec(), ..passing.frame.clone() };
                if is_message(passing, Side::Server, 3) {
                    Act::Last(vec![frame], Then::Close)
                } else {
                    Act::Pass
                }
            },
            Class::ClosedInAnswer,
            Class::ClosedInAnswer,
        ),
        (
            "closed at the first message",
            |passing| if is_request(passing) { Act::Last(Vec::new(), Then::Close) } else { Act::Pass },
            Class::ClosedBeforeAnswer,
            Class::ClosedBeforeAnswer,
        ),
    ];
    for &(name, meddle, call, message) in rows {
        let plan = Plan::one(What::Stream, &[2, 5], How::Frames(meddle), 8);
        let found = found(name, &server, &scenario("grpc", MESSAGES), plan);
        assert_eq!(found.planted.len(), 2, "{name}: {found:#?}");
        found.only(&[(Unit::Stream, call, 2), (Unit::Message, message, 2)]);
        found.disturbed(&[(Disturbance::Reconnect, 2)]);
    }
}

#[test]
fn a_message_that_does_not_come_back_is_a_timeout() {
    let server = Server::start();
    let silent: Meddle = |passing| match passing {
        passing if is_message(passing, Side::Client, 3) => Act::End(Vec::new()),
        _ => Act::Pass,
    };
    let plan = Plan::one(What::Stream, &[2], How::Frames(silent), 5);
    let scenario = scenario("grpc", &format!("timeout = \"700ms\"|{MESSAGES}"));
    let found = found("silence", &server, &scenario, plan);
    found.only(&[(Unit::Stream, Class::Timeout, 1), (Unit::Message, Class::Timeout, 1)]);
}

/// A call goes on while its connection says goodbye; the next one is on another.
#[test]
fn a_goaway_in_a_call_is_only_a_disturbance() {
    let server = Server::start();
    let goaway: Meddle = |passing| match passing {
        passing if is_message(passing, Side::Client, 3) => {
            Act::Before(vec![Frame::goaway(passing.frame.stream, Reason::NO_ERROR)])
        }
        _ => Act::Pass,
    };
    let plan = Plan::one(What::Stream, &[2, 5], How::Frames(goaway), 8);
    let found = found("a goodbye", &server, &scenario("grpc", MESSAGES), plan);
    assert_eq!(found.planted.len(), 2, "{found:#?}");
    found.only(&[]);
    found.disturbed(&[(Disturbance::GoAway, 2), (Disturbance::Reconnect, 2)]);
}
