//! HTTP/2 from clients, with the client of h2.

mod connect;
mod drain;
mod fairness;
mod floods;
mod malformed;
mod requests;
mod settled;
mod slow;
mod websocket;

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use tokio::task::JoinHandle;

use std::task::Poll;

use super::super::HTTP2;
use super::*;

const SHORT: Duration = Duration::from_millis(200);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A client, and its connection's task, which ends with the connection.
struct Client {
    send: SendRequest<Bytes>,
    connection: JoinHandle<Result<(), h2::Error>>,
}

impl Edge {
    async fn h2(&self) -> Client {
        self.h2_with(h2::client::Builder::new()).await
    }

    async fn h2_with(&self, mut builder: h2::client::Builder) -> Client {
        let stream = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) = builder.enable_push(false).handshake(stream).await.unwrap();
        Client { send, connection: spawn_local(connection) }
    }

    fn h2_status(&self) -> KindStatus {
        self.counts.by_kind().swap_remove(HTTP2.0)
    }

    async fn h2_ends(&self) -> Vec<(End, u64)> {
        timeout(LONG, self.tracker.is_empty()).await.expect("a connection does not end");
        assert_eq!((self.h2_status().open, self.h2_status().active), (0, 0));
        self.h2_status().ends
    }

    async fn until_h2(&self, what: impl Fn(&KindStatus) -> bool) {
        let reached = async {
            while !what(&self.h2_status()) {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, reached).await.unwrap_or_else(|_| panic!("never: {:?}", self.h2_status()));
    }
}

fn get(path: &str) -> Request<()> {
    Request::get(format!("http://test{path}")).body(()).unwrap()
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://test{path}")).body(()).unwrap()
}

impl Client {
    async fn begin(&mut self, request: Request<()>, end: bool) -> (ResponseFuture, SendStream<Bytes>) {
        let mut ready = timeout(LONG, self.send.clone().ready()).await.expect("not ready").unwrap();
        ready.send_request(request, end).unwrap()
    }

    async fn get(&mut self, path: &str) -> Whole {
        let (response, _) = self.begin(get(path), true).await;
        whole(response).await.unwrap()
    }

    /// Waits for the end of the connection.
    async fn ended(self) -> Result<(), h2::Error> {
        drop(self.send);
        timeout(LONG, self.connection).await.expect("the connection does not end").unwrap()
    }
}

#[derive(Debug)]
struct Whole {
    head: Response<()>,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

impl Whole {
    fn field(&self, name: &str) -> Option<&str> {
        self.head.headers().get(name).map(|value| value.to_str().unwrap())
    }
}

async fn whole(response: ResponseFuture) -> Result<Whole, h2::Error> {
    let response = timeout(LONG, response).await.expect("no answer")?;
    let (parts, body) = response.into_parts();
    rest_of(body).await.map(|(body, trailers)| Whole {
        head: Response::from_parts(parts, ()),
        body,
        trailers,
    })
}

async fn rest_of(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut read = Vec::new();
    while let Some(data) = timeout(LONG, body.data()).await.expect("no data") {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        read.extend_from_slice(&data);
    }
    let trailers = timeout(LONG, body.trailers()).await.expect("no trailers")?;
    Ok((read, trailers))
}

async fn data(body: &mut RecvStream) -> Bytes {
    let data = timeout(LONG, body.data()).await.expect("nothing comes").unwrap().unwrap();
    body.flow_control().release_capacity(data.len()).unwrap();
    data
}

/// Lets time go by in which nothing moves.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

/// Gives the edge's task, which shares this thread, its turns.
async fn turns() {
    for _ in 0..20 {
        tokio::task::yield_now().await;
    }
}

/// A frame as it came.
#[derive(Debug, PartialEq, Eq)]
struct RawFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&[length[1], length[2], length[3], kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// Literal fields without indexing, as HPACK writes them (RFC 7541, section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(u8::try_from(text.len()).unwrap());
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "test")];

impl Peer {
    async fn send_bytes(&mut self, bytes: &[u8]) {
        timeout(LONG, self.stream.write_all(bytes)).await.expect("cannot send").unwrap();
    }

    /// Says what opens a connection, and acknowledges what it hears.
    async fn open_h2(&mut self) {
        self.send_bytes(&[PREFACE, &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat()).await;
    }

    /// `None` at the end.
    async fn frame(&mut self) -> Option<RawFrame> {
        while self.buffer.len() < 9 {
            if !self.more().await {
                return None;
            }
        }
        let head = self.bytes(9).await;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let payload = self.bytes(length).await;
        Some(RawFrame { kind: head[3], flags: head[4], stream, payload })
    }

    /// Reads up to a frame of `kind`.
    async fn frame_of(&mut self, kind: u8) -> RawFrame {
        loop {
            let frame = self.frame().await.unwrap_or_else(|| panic!("ended before a frame of type {kind}"));
            if frame.kind == kind {
                return frame;
            }
        }
    }

    /// Reads to the end, and returns the last GOAWAY's code.
    async fn goaway(&mut self) -> Option<u32> {
        let mut code = None;
        while let Some(frame) = self.frame().await {
            if frame.kind == GOAWAY {
                code = Some(u32::from_be_bytes(frame.payload[4..8].try_into().unwrap()));
            }
        }
        code
    }
}
