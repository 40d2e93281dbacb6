//! Faults in streams of HTTP/2, and in connections that carry several.

use h2::Reason;
use loadtest::witness::{Class, Disturbance, Unit};

use crate::faulty::{Act, Finale, Frame, How, Meddle, Passing, Plan, Side, Then, What};
use crate::found::{found, scenario};
use crate::harness::Server;

/// Where a client that knows nothing of it would be: any stream at all may follow.
const LAST: u32 = 0x7fff_ffff;

fn is_request(passing: &Passing<'_>) -> bool {
    passing.from == Side::Client && passing.frame.kind == Frame::HEADERS
}

/// The first bytes of an answer's body.
fn is_body(passing: &Passing<'_>) -> bool {
    passing.from == Side::Server && passing.frame.kind == Frame::DATA && passing.before == 0
}

fn half(frame: &Frame) -> Frame {
    let payload = frame.payload[..frame.payload.len() / 2].to_vec();
    Frame { flags: 0, payload, ..frame.clone() }
}

fn refused(passing: &Passing<'_>, reason: Reason) -> Act {
    if is_request(passing) { Act::End(vec![Frame::reset(passing.frame.stream, reason)]) } else { Act::Pass }
}

fn broken_off(passing: &Passing<'_>, reason: Reason) -> Act {
    if !is_body(passing) {
        return Act::Pass;
    }
    Act::End(vec![half(passing.frame), Frame::reset(passing.frame.stream, reason)])
}

fn answered(passing: &Passing<'_>, fields: &[(&str, &str)]) -> Act {
    if is_request(passing) { Act::End(vec![Frame::fields(passing.frame.stream, fields)]) } else { Act::Pass }
}

fn changed(passing: &Passing<'_>, change: fn(&mut Vec<u8>)) -> Act {
    if !is_body(passing) {
        return Act::Pass;
    }
    let mut frame = passing.frame.clone();
    change(&mut frame.payload);
    Act::Change(frame)
}

#[test]
fn a_fault_in_a_stream_is_found_there_alone() {
    let server = Server::start();
    let rows: &[(&str, Meddle, Class)] = &[
        ("reset before the answer", |passing| refused(passing, Reason::INTERNAL_ERROR), Class::Reset),
        ("cancelled before the answer", |passing| refused(passing, Reason::CANCEL), Class::Reset),
        ("refused", |passing| refused(passing, Reason::REFUSED_STREAM), Class::RefusedStream),
        ("reset in the answer", |passing| broken_off(passing, Reason::INTERNAL_ERROR), Class::Reset),
        ("\"no error\" in the answer", |passing| broken_off(passing, Reason::NO_ERROR), Class::Reset),
        ("cancelled in the answer", |passing| broken_off(passing, Reason::CANCEL), Class::Reset),
        ("another byte", |passing| changed(passing, |body| body[50] ^= 1), Class::WrongBytes),
        ("a proxy's own error", |passing| answered(passing, &[(":status", "502")]), Class::WrongStatus),
        ("an empty body", |passing| answered(passing, &[(":status", "200")]), Class::WrongBytes),
        ("a head without a status", |passing| answered(passing, &[("x-y", "z")]), Class::Malformed),
        (
            "another length than was told",
            |passing| changed(passing, |body| body.truncate(body.len() - 1)),
            Class::Malformed,
        ),
    ];
    for &(name, meddle, class) in rows {
        // Alone where a second attempt is made, which takes a number as well: it must not be one of these.
        let streams = if class == Class::RefusedStream { 1 } else { 4 };
        let plan = Plan::one(What::Stream, &[5, 8, 17], How::Frames(meddle), 40);
        let more = format!("connections = 1\nstreams = {streams}\nbytes = [100, 4000]");
        let scenario = scenario("http2", &more);
        let found = found(name, &server, &scenario, plan);
        found.all_planted(Unit::Stream, class, 3);
        // The others on the same connection went on.
        assert_eq!(found.row.connections.attempted, 1, "{name}: {found:#?}");
        let second = (class == Class::RefusedStream).then_some(Class::Ok);
        assert_eq!(found.seconds(), [second; 3], "{name}: {found:#?}");
        found.disturbed(&[]);
    }
}

#[test]
fn a_stream_that_is_not_answered_is_a_timeout() {
    let server = Server::start();
    let silent: Meddle = |passing| if is_request(passing) { Act::End(Vec::new()) } else { Act::Pass };
    let plan = Plan::one(What::Stream, &[5, 6], How::Frames(silent), 40);
    let scenario = scenario("http2", "timeout = \"1s\"|connections = 1\nstreams = 4");
    found("silence", &server, &scenario, plan).all_planted(Unit::Stream, Class::Timeout, 2);
}

/// Four streams are open when it comes, each of which is one exchange.
#[test]
fn what_befalls_a_connection_befalls_each_of_its_streams_once() {
    let server = Server::start();
    fn held(passing: &Passing<'_>, finale: Finale) -> Act {
        if is_request(passing) { Act::Hold(4, finale) } else { Act::Pass }
    }
    let rows: &[(&str, Meddle, Class, usize, u64)] = &[
        ("reset", |passing| held(passing, Finale::Cut(Then::Reset)), Class::Reset, 4, 0),
        ("closed", |passing| held(passing, Finale::Cut(Then::Close)), Class::ClosedBeforeAnswer, 4, 0),
        ("truncated", |passing| held(passing, Finale::Cut(Then::Truncate)), Class::ClosedBeforeAnswer, 4, 0),
        ("garbage", |passing| held(passing, Finale::Cut(Then::Garbage)), Class::Malformed, 4, 0),
        ("GOAWAY that drops one", |passing| held(passing, Finale::GoAway(1)), Class::RefusedStream, 1, 1),
        ("GOAWAY that drops three", |passing| held(passing, Finale::GoAway(3)), Class::RefusedStream, 3, 1),
    ];
    for &(name, meddle, class, count, goaways) in rows {
        let plan = Plan::one(What::Stream, &[5, 6, 7, 8], How::Frames(meddle), 40);
        let scenario = scenario("http2", "connections = 1\nstreams = 4");
        let found = found(name, &server, &scenario, plan);
        found.all_planted(Unit::Stream, class, count);
        found.disturbed(&[(Disturbance::GoAway, goaways), (Disturbance::Reconnect, 1)]);
    }
}

/// In the answers of four streams at once, some of them may have ended before: they were whole.
#[test]
fn a_connection_that_ends_in_the_middle_of_answers_is_found() {
    let server = Server::start();
    let rows: &[(&str, Meddle, Class)] = &[
        (
            "closed",
            |passing| {
                if is_body(passing) { Act::Last(vec![half(passing.frame)], Then::Close) } else { Act::Pass }
            },
            Class::ClosedInAnswer,
        ),
        (
            "truncated",
            |passing| {
                if is_body(passing) {
                    Act::Last(vec![half(passing.frame)], Then::Truncate)
                } else {
                    Act::Pass
                }
            },
            Class::ClosedInAnswer,
        ),
        (
            "GOAWAY for an error, and closed",
            |passing| {
                if !is_body(passing) {
                    return Act::Pass;
                }
                let goaway = Frame::goaway(passing.frame.stream, Reason::INTERNAL_ERROR);
                Act::Last(vec![half(passing.frame), goaway], Then::Close)
            },
            Class::ClosedInAnswer,
        ),
        (
            "no frame of HTTP/2",
            |passing| {
                // DATA on stream 0 is an error of the connection: RFC 9113, section 6.1.
                let data = Frame { stream: 0, ..passing.frame.clone() };
                if is_body(passing) { Act::Last(vec![data], Then::Hang) } else { Act::Pass }
            },
            Class::Malformed,
        ),
    ];
    for &(name, meddle, class) in rows {
        let plan = Plan::one(What::Stream, &[3, 7], How::Frames(meddle), 12);
        let scenario = scenario("http2", "connections = 1\nstreams = 1\nbytes = [100, 4000]");
        found(name, &server, &scenario, plan).all_planted(Unit::Stream, class, 2);
    }
}

#[test]
fn a_goaway_that_lets_all_finish_is_only_a_disturbance() {
    let server = Server::start();
    let goaway: Meddle = |passing| {
        if is_request(passing) { Act::Before(vec![Frame::goaway(LAST, Reason::NO_ERROR)]) } else { Act::Pass }
    };
    let twice: Meddle = |passing| {
        let frames = vec![Frame::goaway(LAST, Reason::NO_ERROR), Frame::goaway(LAST, Reason::NO_ERROR)];
        if is_request(passing) { Act::Before(frames) } else { Act::Pass }
    };
    for (name, meddle) in [("once", goaway), ("twice", twice)] {
        for streams in [1, 4] {
            let plan = Plan::one(What::Stream, &[5, 20, 35], How::Frames(meddle), 50);
            let scenario = scenario("http2", &format!("connections = 1\nstreams = {streams}"));
            let found = found(name, &server, &scenario, plan);
            assert_eq!(found.planted.len(), 3, "{name}: {found:#?}");
            found.only(&[]);
            found.disturbed(&[(Disturbance::GoAway, 3), (Disturbance::Reconnect, 3)]);
            let connections = &found.row.connections;
            assert_eq!((connections.attempted, connections.closed), (4, 4), "{name}: {found:#?}");
        }
    }
}
