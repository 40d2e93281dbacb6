//! HTTP/1 and WebSockets, passed on exchange by exchange: a request and its answer, a message and its echo.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::socket::{Client, Pieces, Then, pass};
use super::{Book, How, What};

/// Serves a client until it goes; gives back how its connection is to end.
pub(super) async fn serve<C: Client>(client: &mut C, port: u16, book: &Book, upstream: SocketAddr) -> Then {
    let mut server = TcpStream::connect(upstream).await.unwrap();
    server.set_nodelay(true).unwrap();
    let (mut asked, mut answered) = (Pieces::default(), Pieces::default());
    let (mut of, mut length) = (What::Answer, message as fn(&[u8]) -> Option<usize>);
    loop {
        let Some(ask) = asked.next(client, length).await else { return Then::Close };
        if !pass(&mut server, &ask).await {
            return Then::Close;
        }
        let Some(answer) = answered.next(&mut server, length).await else { return Then::Close };
        let goodbye = of == What::Message && ask[0] & 0xf == 8;
        match if goodbye { None } else { book.next(of) } {
            Some(How::Bytes(tamper)) => {
                let (bytes, then) = tamper(&answer);
                // Before it can be found.
                book.plant(port, bytes.len());
                if !pass(client, &bytes).await {
                    return Then::Close;
                }
                if then != Then::GoOn {
                    return then;
                }
            }
            _ => {
                if !pass(client, &answer).await {
                    return Then::Close;
                }
            }
        }
        if goodbye {
            return Then::Close;
        }
        if answer.starts_with(b"HTTP/1.1 101") {
            (of, length) = (What::Message, frame);
        }
    }
}

/// The length of a message of HTTP/1, if it is whole; one that says nothing of a body has none.
fn message(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let value = |name| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if value("transfer-encoding:").is_some() {
        // The upstream sends no trailers, and what looks like the end of a body is not in one.
        let end = b"\r\n0\r\n\r\n";
        return Some(head + find(&bytes[head..], end)? + end.len());
    }
    let body: usize = value("content-length:").map_or(0, |length| length.parse().unwrap());
    (bytes.len() >= head + body).then_some(head + body)
}

/// The length of a frame of a WebSocket, if it is whole: RFC 6455, section 5.2.
fn frame(bytes: &[u8]) -> Option<usize> {
    let (head, payload) = match *bytes.get(1)? & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes([*bytes.get(2)?, *bytes.get(3)?]))),
        127 => panic!("a message of more than 64 KiB is not for this proxy"),
        short => (2, usize::from(short)),
    };
    let mask = if bytes[1] & 0x80 == 0 { 0 } else { 4 };
    let length = head + mask + payload;
    (bytes.len() >= length).then_some(length)
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}
