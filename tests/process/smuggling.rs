//! Requests made to be read in two ways, before an upstream that records every byte: what it saw is what was
//! answered, and what was meant.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use super::harness::{Exuvia, PATIENCE};
use super::upstream::Upstream;

/// Whether a connection goes on after the case, which is then tried.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Closes,
    GoesOn,
}
use Then::{Closes, GoesOn};

/// What is sent, the statuses of the answers, what the upstream gets ("method target body", one a line), and what
/// becomes of the connection.
type Case = (&'static str, &'static str, &'static str, Then);

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a\r\n";
const CHUNKED: &str = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
const EVIL: &str = "GET /evil HTTP/1.1\r\nHost: a\r\n\r\n";

/// `{get}`, `{post}` and `{chunked}` begin a request, `{evil}` is one that must not arrive.
const HEADS: &[Case] = &[
    // Two framings.
    ("{post}Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG", "400", "", Closes),
    ("{post}Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: 0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{get}content-length: 36\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: 5\r\nTransfer-Encoding: identity\r\n\r\nhello{evil}", "400", "", Closes),
    // Lengths.
    ("{post}Content-Length: 0\r\nContent-Length: 31\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello{evil}", "400", "", Closes),
    ("{post}Content-Length: 5, 5\r\n\r\nhello{evil}", "400", "", Closes),
    ("{post}Content-Length: 0,31\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: +5\r\n\r\nhello{evil}", "400", "", Closes),
    ("{post}Content-Length: -5\r\n\r\nhello{evil}", "400", "", Closes),
    ("{post}Content-Length: 0x5\r\n\r\nhello{evil}", "400", "", Closes),
    ("{post}Content-Length: 010\r\n\r\nhelloyou{evil}", "400", "", Closes),
    ("{post}Content-Length: 5 5\r\n\r\nhello{evil}", "400", "", Closes),
    ("{post}Content-Length:\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: 18446744073709551616\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: 9223372036854775808\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length : 31\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length\t: 31\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Content-Length: 31\x0b\r\n\r\n{evil}", "400", "", Closes),
    // Codings in disguise.
    ("{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n{evil}", "501", "", Closes),
    ("{post}Transfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: chunked\0\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post} Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}X: y\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}X: y\rTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{post}Transfer-Encoding: chun\u{130}ed\r\n\r\n0\r\n\r\n{evil}", "400", "", Closes),
    (
        "POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{evil}",
        "400",
        "",
        Closes,
    ),
    // Names that only look like it say nothing, and are passed on as what they are.
    ("{get}Transfer_Encoding: chunked\r\nContent_Length: 5\r\n\r\n", "200", "GET / ", GoesOn),
    // Lines.
    ("GET / HTTP/1.1\nHost: a\n\n{evil}", "400", "", Closes),
    ("{get}\n{evil}", "400", "", Closes),
    ("{get}X: y\n\r\n{evil}", "400", "", Closes),
    ("{get}\r{evil}", "400", "", Closes),
    ("{get}X: y\r\n z\r\n\r\n{evil}", "400", "", Closes),
    ("{get}X: y\0z\r\n\r\n{evil}", "400", "", Closes),
    ("{get}X: y\x7fz\r\n\r\n{evil}", "400", "", Closes),
    ("{get}: y\r\n\r\n{evil}", "400", "", Closes),
    ("{get}X Y: z\r\n\r\n{evil}", "400", "", Closes),
    ("{get}no colon\r\n\r\n{evil}", "400", "", Closes),
    ("\r\n\r\n{get}\r\n", "200", "GET / ", GoesOn),
    // Request lines.
    ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET /a b HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET / HTTP/1.1 \r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET /\r\n\r\n{evil}", "400", "", Closes),
    ("GET / HTTP/1.1\rHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET / HTTP/1.2\r\nHost: a\r\n\r\n{evil}", "505", "", Closes),
    ("GET / http/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET /\u{fc} HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n{evil}", "405", "", Closes),
    ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\nContent-Length: 5\r\n\r\nhello{evil}", "400", "", Closes),
    // Hosts. One that is missing or no host at all is only a mistake, and the connection goes on.
    ("GET / HTTP/1.1\r\n\r\n", "400", "", GoesOn),
    ("{get}Host: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n{evil}", "400", "", Closes),
    ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", "400", "", GoesOn),
    ("GET / HTTP/1.1\r\nHost: a:80:90\r\n\r\n", "400", "", GoesOn),
    ("GET / HTTP/1.1\r\nHost: b@a\r\n\r\n", "400", "", GoesOn),
    ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET http://a:81/ HTTP/1.1\r\nHost: a\r\n\r\n{evil}", "400", "", Closes),
    ("GET http://b@a/ HTTP/1.1\r\nHost: a\r\n\r\n", "400", "", GoesOn),
    ("GET http://A:80/x HTTP/1.1\r\nHost: a\r\n\r\n", "200", "GET /x ", GoesOn),
    ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n", "200", "GET / ", GoesOn),
    ("GET a HTTP/1.1\r\nHost: a\r\n\r\n", "400", "", GoesOn),
];

const BODIES: &[Case] = &[
    // Good ones, after which the connection is where it should be.
    ("{chunked}5\r\nhello\r\n0\r\n\r\n", "200", "POST / hello", GoesOn),
    ("{chunked}5;x=\"y\"\r\nhello\r\n00\r\nX: y\r\n\r\n", "200", "POST / hello", GoesOn),
    ("{chunked}1\r\n0\r\n4\r\n\r\n\r\n\r\n0\r\n\r\n", "200", "POST / 0\r\n\r\n", GoesOn),
    ("{post}Content-Length: 31\r\n\r\n{evil}", "200", "POST / {evil}", GoesOn),
    ("{get}Content-Length: 5\r\n\r\nhello", "200", "GET / hello", GoesOn),
    (
        "GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n",
        "200",
        "GET / x",
        GoesOn,
    ),
    (
        "{chunked}0\r\n\r\n{get}\r\n{chunked}1\r\nx\r\n0\r\n\r\n",
        "200 200 200",
        "POST / \nGET / \nPOST / x",
        GoesOn,
    ),
    // Chunks.
    ("{chunked}+5\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}0x5\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked} 5\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}5 \r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}5\nhello\n0\n\n{evil}", "400", "", Closes),
    ("{chunked}5\rhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}5;\nx\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}5\r\nhello0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}5\r\nhelloXX0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}5\r\nhello\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}4\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}10000000000000005\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}fffffffffffffffb\r\nhello\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}\r\n0\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}0\r\n{evil}", "400", "", Closes),
    ("{chunked}0\r\n\n{evil}", "400", "", Closes),
    ("{chunked}0\r\nX : y\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}0\r\nX: y\r\n z\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}0\r\nContent-Length: 5\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}0\r\nTransfer-Encoding: chunked\r\n\r\n{evil}", "400", "", Closes),
    ("{chunked}0\r\nHost: b\r\n\r\n{evil}", "400", "", Closes),
    // Good ones before a bad one.
    ("{get}\r\n{get}X : y\r\n\r\n{evil}", "200 400", "GET / ", Closes),
    ("{chunked}1\r\nx\r\n0\r\n\r\n{chunked}1 \r\nx\r\n0\r\n\r\n{evil}", "200 400", "POST / x", Closes),
    ("{post}Content-Length: 1\r\n\r\nxx{evil}", "200 200", "POST / x\nxGET /evil ", GoesOn),
    ("{post}Content-Length: 2\r\n\r\nxx\n{evil}", "200 400", "POST / xx", Closes),
];

/// What the upstream got.
#[derive(Default)]
struct Record {
    requests: Vec<String>,
    /// What is not the beginning of a request, for a parser that knows only one way to write them.
    wrong: Vec<String>,
}

/// The first request in `bytes` and its length; `None` if it has not come to its end.
fn parse(bytes: &[u8]) -> Result<Option<(String, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&bytes[..end]).map_err(|error| error.to_string())?;
    let mut lines = head.split("\r\n");
    let line: Vec<_> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, target, "HTTP/1.1"] = line[..] else { return Err(format!("the line {line:?}")) };
    if head.replace("\r\n", "").chars().any(char::is_control) {
        return Err(format!("a control character in {head:?}"));
    }
    let mut lengths = Vec::new();
    let (mut chunked, mut hosts) = (0, 0);
    for field in lines {
        let (name, value) = field.split_once(": ").ok_or(format!("the field {field:?}"))?;
        if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_') {
            return Err(format!("the field {field:?}"));
        }
        match name.to_ascii_lowercase().as_str() {
            "host" if value == "a" || value == "A:80" => hosts += 1,
            "content-length" => {
                lengths.push(value.parse::<usize>().map_err(|_| format!("a length of {value:?}"))?)
            }
            "transfer-encoding" if value == "chunked" => chunked += 1,
            "host" | "transfer-encoding" => return Err(format!("the field {field:?}")),
            _ => {}
        }
    }
    if hosts != 1 || lengths.len() + chunked > 1 {
        return Err(format!("{hosts} hosts, {lengths:?} and {chunked} framings"));
    }
    let mut at = end + 4;
    let mut body = Vec::new();
    if let Some(length) = lengths.first() {
        let Some(all) = bytes.get(at..at + length) else { return Ok(None) };
        body.extend(all);
        at += length;
    }
    let mut more = chunked == 1;
    while more {
        let rest = &bytes[at..];
        let Some(line) = rest.windows(2).position(|window| window == b"\r\n") else { return Ok(None) };
        let size = std::str::from_utf8(&rest[..line]).map_err(|error| error.to_string())?;
        let plain = !size.is_empty() && size.bytes().all(|c| c.is_ascii_hexdigit());
        let size =
            usize::from_str_radix(size, 16).ok().filter(|_| plain).ok_or(format!("a chunk of {size:?}"))?;
        let Some(chunk) = rest.get(line + 2..line + 4 + size) else { return Ok(None) };
        let (chunk, end) = chunk.split_at(size);
        if end != b"\r\n" {
            // No case has trailers that would pass: none is announced.
            return Err(format!("a chunk that ends with {end:?}"));
        }
        body.extend(chunk);
        at += line + 4 + size;
        more = size > 0;
    }
    Ok(Some((format!("{method} {target} {}", String::from_utf8_lossy(&body)), at)))
}

/// An upstream that answers each request that it finds in what it gets.
fn recorder() -> (Upstream, Arc<Mutex<Record>>) {
    let record = Arc::new(Mutex::new(Record::default()));
    let recording = record.clone();
    let upstream = Upstream::start(move |mut peer| {
        let mut bytes = Vec::new();
        let mut block = [0; 4096];
        while let Ok(n @ 1..) = peer.read(&mut block) {
            bytes.extend(&block[..n]);
            loop {
                match parse(&bytes) {
                    Ok(None) => break,
                    Ok(Some((request, length))) => {
                        bytes.drain(..length);
                        recording.lock().unwrap().requests.push(request);
                        peer.send(b"HTTP/1.1 200 OK\r\nX-Recorder: 1\r\nContent-Length: 2\r\n\r\nok").ok();
                    }
                    Err(wrong) => {
                        recording.lock().unwrap().wrong.push(wrong);
                        return;
                    }
                }
            }
        }
    });
    (upstream, record)
}

/// Everything that is answered to `input`, until the end of the connection.
fn answers(address: SocketAddr, input: &[u8], piece: usize) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    for piece in input.chunks(piece) {
        // After a refusal nobody needs the rest.
        if stream.write_all(piece).is_err() {
            break;
        }
    }
    let mut answers = Vec::new();
    match stream.read_to_end(&mut answers) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("no end of the connection: {error} after {}", answers.escape_ascii()),
    }
    String::from_utf8(answers).unwrap()
}

/// The statuses of the answers, one behind the other, and how many of them are the upstream's.
fn read_answers(mut text: &str) -> (String, usize) {
    let (mut statuses, mut marked) = (Vec::new(), 0);
    while !text.is_empty() {
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("half an answer: {text:?}"));
        statuses.push(head.strip_prefix("HTTP/1.1 ").and_then(|line| line.get(..3)).unwrap_or(head));
        marked += usize::from(head.contains("x-recorder: 1"));
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        text = &rest[length.map_or(0, |length| length.parse().unwrap())..];
    }
    (statuses.join(" "), marked)
}

fn written_out(template: &str) -> String {
    let parts = [("{get}", GET), ("{post}", POST), ("{chunked}", CHUNKED), ("{evil}", EVIL)];
    parts.iter().fold(template.to_owned(), |text, (name, part)| text.replace(name, part))
}

fn try_all(cases: &[Case]) {
    let (upstream, record) = recorder();
    let exuvia = Exuvia::start(&upstream.settings());
    let last = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    for (case, statuses, requests, then) in cases {
        let mut input = written_out(case);
        let (mut statuses, mut requests) = (vec![*statuses], vec![written_out(requests)]);
        requests.retain(|requests| !requests.is_empty());
        if *then == GoesOn {
            input += last;
            statuses.push("200");
            requests.push("GET /last ".into());
        }
        for piece in [input.len(), 1] {
            let text = answers(exuvia.address(), input.as_bytes(), piece);
            let (got, marked) = read_answers(&text);
            assert_eq!(got, statuses.join(" "), "{case:?} in pieces of {piece}: {text}");
            let Record { requests: seen, wrong } = std::mem::take(&mut *record.lock().unwrap());
            assert!(wrong.is_empty(), "{case:?} in pieces of {piece}: {wrong:?}");
            assert_eq!(seen.len(), marked, "{case:?} in pieces of {piece}: {seen:?} against {text}");
            assert_eq!(seen.join("\n"), requests.join("\n"), "{case:?} in pieces of {piece}");

            let next = read_answers(&answers(exuvia.address(), last.as_bytes(), last.len()));
            assert_eq!(next, ("200".into(), 1), "the next client, after {case:?}");
            let Record { requests: seen, wrong } = std::mem::take(&mut *record.lock().unwrap());
            assert_eq!((seen, wrong), (vec!["GET /last ".to_owned()], vec![]), "after {case:?}");
        }
    }
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn heads_that_can_be_read_in_two_ways() {
    try_all(HEADS);
}

#[test]
fn bodies_that_can_be_read_in_two_ways() {
    try_all(BODIES);
}

#[test]
fn the_cases_are_many() {
    assert!(HEADS.len() + BODIES.len() >= 100, "{} and {}", HEADS.len(), BODIES.len());
}
