//! Streams of HTTP/2 that carry something else, while the process is replaced under them.

use std::future::poll_fn;
use std::io::{ErrorKind, Read};
use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, channel};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use http::Request;
use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::timeout;

use super::harness::{Exuvia, PATIENCE, eventually, is_alive};
use super::upstream::Upstream;

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, test)
}

/// Grants every tunnel, sends back what comes, and tells how each ends.
fn echo() -> (Upstream, Receiver<Result<usize, ErrorKind>>) {
    let (sender, ends) = channel();
    let sender = Mutex::new(sender);
    let upstream = Upstream::start(move |mut peer| {
        let request = peer.request().unwrap();
        let grant = match request.header("sec-websocket-key") {
            Some(key) => format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Accept: {}\r\n\r\n",
                proof(key)
            ),
            None => {
                assert_eq!(request.line, "CONNECT db.internal:5432 HTTP/1.1");
                "HTTP/1.1 200 OK\r\n\r\n".to_owned()
            }
        };
        peer.send(grant.as_bytes()).unwrap();
        let mut block = [0; 4096];
        let end = loop {
            match peer.read(&mut block) {
                Ok(n @ 1..) => peer.send(&block[..n]).unwrap(),
                end => break end,
            }
        };
        sender.lock().unwrap().send(end.map_err(|error| error.kind())).unwrap();
    });
    (upstream, ends)
}

/// What a server says to a key (RFC 6455, section 1.3).
fn proof(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let sum = digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let bits: String = sum.as_ref().iter().map(|byte| format!("{byte:08b}")).collect();
    let six = |at: usize| usize::from_str_radix(&format!("{:0<6}", &bits[at..bits.len().min(at + 6)]), 2);
    // Twenty bytes leave room for one letter.
    (0..bits.len()).step_by(6).map(|at| letters[six(at).unwrap()]).chain(['=']).collect()
}

/// A connection, whose frames move while its owner waits for something.
async fn connect(address: SocketAddr) -> SendRequest<Bytes> {
    let stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (send, connection) = h2::client::handshake(stream).await.unwrap();
    spawn_local(async move { connection.await.ok() });
    send
}

struct Tunnel {
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Tunnel {
    async fn open(client: &SendRequest<Bytes>, request: Request<()>) -> Tunnel {
        let mut client = client.clone().ready().await.unwrap();
        let (answer, send) = client.send_request(request, false).unwrap();
        let answer = timeout(PATIENCE, answer).await.expect("no answer").unwrap();
        assert_eq!(answer.status(), 200, "{answer:?}");
        Tunnel { send, receive: answer.into_body() }
    }

    async fn websocket(client: &SendRequest<Bytes>) -> Tunnel {
        let allowed = async {
            while !client.is_extended_connect_protocol_enabled() {
                yield_now().await;
            }
        };
        timeout(PATIENCE, allowed).await.expect("extended CONNECT is not spoken");
        let mut request = Request::connect("http://test/chat").body(()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
        Tunnel::open(client, request).await
    }

    async fn connect(client: &SendRequest<Bytes>) -> Tunnel {
        Tunnel::open(client, Request::connect("db.internal:5432").body(()).unwrap()).await
    }

    async fn say(&mut self, word: &str) {
        self.send.send_data(Bytes::copy_from_slice(word.as_bytes()), false).unwrap();
        let mut back = Vec::new();
        while back.len() < word.len() {
            back.extend(self.next().await.expect("it has ended").unwrap());
        }
        assert_eq!(back, word.as_bytes());
    }

    /// What comes next; `None` at the end.
    async fn next(&mut self) -> Option<Result<Bytes, h2::Error>> {
        loop {
            let next = timeout(PATIENCE, self.receive.data()).await.expect("nothing comes");
            let Some(Ok(data)) = &next else { return next };
            self.receive.flow_control().release_capacity(data.len()).unwrap();
            // The frame that says the end may have nothing else in it.
            if !data.is_empty() {
                return next;
            }
        }
    }

    /// Ends this side, and hears the other end.
    async fn end(mut self) {
        self.send.send_data(Bytes::new(), true).unwrap();
        assert!(self.next().await.is_none(), "the end of the one side brings the end of the other");
    }
}

/// A tunnel lives in the process that began it, whose pid is returned.
async fn lives_through_upgrades(
    exuvia: &Exuvia,
    mut tunnel: Tunnel,
    ends: &Receiver<Result<usize, ErrorKind>>,
) -> i32 {
    let old = exuvia.pid();
    tunnel.say("before").await;
    for generation in 2..=4 {
        exuvia.upgrade();
        assert_eq!(exuvia.generation(), generation);
        tunnel.say(&format!("generation {generation}")).await;
    }
    assert!(is_alive(old), "it has one still");
    tunnel.end().await;
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Ok(0));
    old
}

/// At the deadline it ends, for both sides as what was cut. Returns the pid of the process that had it.
async fn is_broken_off_at_the_deadline(
    exuvia: &Exuvia,
    mut tunnel: Tunnel,
    ends: &Receiver<Result<usize, ErrorKind>>,
) -> i32 {
    let old = exuvia.pid();
    tunnel.say("before").await;
    exuvia.upgrade();
    tunnel.say("after").await;
    let error = tunnel.next().await.expect("it ends like what is whole").unwrap_err();
    assert!(!error.is_reset(), "the connection ends, not the stream: {error}");
    let reset = poll_fn(|cx| tunnel.send.poll_reset(cx)).await;
    assert!(reset.is_err(), "{reset:?}");
    assert_eq!(ends.recv_timeout(PATIENCE).unwrap(), Err(ErrorKind::ConnectionReset));
    old
}

#[track_caller]
fn is_gone(old: i32) {
    eventually("the old process is gone", || (!is_alive(old)).then_some(()));
}

#[track_caller]
fn counts_one(exuvia: &Exuvia) {
    let line = exuvia.says("dropped_in_flight=1");
    assert!(line.contains("kind=http2"), "{line}");
}

fn settings(upstream: &Upstream, drain_timeout: &str) -> String {
    let drain = format!("[restart]\nprobation = \"0s\"\n[drain]\ntimeout = \"{drain_timeout}\"\n");
    format!("{}connect = true\n{drain}", upstream.settings())
}

#[test]
fn a_websocket_lives_through_upgrades() {
    let (upstream, ends) = echo();
    let exuvia = Exuvia::start(&settings(&upstream, "60s"));
    let old = run(async {
        let client = connect(exuvia.address()).await;
        let tunnel = Tunnel::websocket(&client).await;
        lives_through_upgrades(&exuvia, tunnel, &ends).await
    });
    is_gone(old);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_websocket_at_the_deadline() {
    let (upstream, ends) = echo();
    let exuvia = Exuvia::start(&settings(&upstream, "1s"));
    let old = run(async {
        let client = connect(exuvia.address()).await;
        let tunnel = Tunnel::websocket(&client).await;
        is_broken_off_at_the_deadline(&exuvia, tunnel, &ends).await
    });
    is_gone(old);
    counts_one(&exuvia);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_connect_lives_through_upgrades() {
    let (upstream, ends) = echo();
    let exuvia = Exuvia::start(&settings(&upstream, "60s"));
    let old = run(async {
        let client = connect(exuvia.address()).await;
        let tunnel = Tunnel::connect(&client).await;
        lives_through_upgrades(&exuvia, tunnel, &ends).await
    });
    is_gone(old);
    assert_eq!(exuvia.stop(), 0);
}

#[test]
fn a_connect_at_the_deadline() {
    let (upstream, ends) = echo();
    let exuvia = Exuvia::start(&settings(&upstream, "1s"));
    let old = run(async {
        let client = connect(exuvia.address()).await;
        let tunnel = Tunnel::connect(&client).await;
        is_broken_off_at_the_deadline(&exuvia, tunnel, &ends).await
    });
    is_gone(old);
    counts_one(&exuvia);
    assert_eq!(exuvia.stop(), 0);
}
