//! The whole path on real sockets: a client that speaks raw bytes, the server and the proxy, and an upstream
//! that is a script.

mod answers;
mod drain;
mod failures;
mod greeting;
mod http2;
mod interim;
mod metrics;
mod requests;
mod reuse;
mod timeouts;
mod transfers;
mod tunnel;
mod upstream_http2;
mod upstream_tls;

use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use super::{Config, HANDSHAKE, HTTP1, KINDS, ListenerConfig, Metrics, Server};
use crate::app;
use crate::proxy::{self, Proxy, ServerAddr};
use crate::resolver::Resolver;
use crate::restart::{Accepted, Counts, Drain, End, Kind, KindStatus, Phase, Plan, Stream, Tracker, View};
use crate::worker;

/// No wait in a test is longer.
const LONG: Duration = Duration::from_secs(20);

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        timeout(Duration::from_secs(60), test).await.expect("the test takes too long");
    });
}

/// The server under test, before it begins.
struct Setup {
    server: Config,
    proxy: proxy::Config,
}

/// The server under test.
struct Edge {
    address: SocketAddr,
    tracker: Tracker,
    counts: Arc<Counts>,
}

impl Setup {
    fn new(upstreams: &[SocketAddr]) -> Self {
        let servers = upstreams.iter().copied().map(ServerAddr::Socket).collect();
        // What users have.
        let worker::Config { server, mut proxy, .. } = app::defaults();
        proxy.servers = servers;
        // The tests look at causes, too.
        proxy.detailed_errors = true;
        Setup { server, proxy }
    }

    /// In front of a server with a host name.
    fn name(&mut self, host: &str, port: u16) {
        let (resolver, _lookups) =
            Resolver::start(app::resolver_defaults(), [host.to_owned()], None).unwrap();
        self.proxy.connections.resolver = resolver;
        self.proxy.servers = vec![ServerAddr::Name(host.into(), port)];
    }

    async fn start(self) -> Edge {
        let mut plan = Plan::default();
        let servers: Vec<String> = self.proxy.servers.iter().map(ServerAddr::to_string).collect();
        let (in_proxy, in_server) =
            (proxy::Columns::plan(&mut plan, &servers), super::Columns::plan(&mut plan));
        let counts = Counts::beside(plan, KINDS, 1);
        let shard = counts.seat(0).take();
        let tracker = Tracker::new(counts.clone(), shard.clone());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let edge = Edge { address, tracker: tracker.clone(), counts };
        edge.set_phase(Phase::Serving, None);
        let proxy = Proxy::new(&self.proxy, proxy::Metrics::new(in_proxy, shard.clone()));
        let server = Rc::new(Server::new(self.server, proxy, Metrics::new(in_server, shard)));
        spawn_local(async move {
            loop {
                let (stream, peer) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                let (server, guard) = (server.clone(), tracker.begin(server.first_kind("test")));
                let accepted =
                    Accepted { listener: "test".into(), stream: Stream::Tcp(stream), peer: Some(peer) };
                spawn_local(async move { server.serve(accepted, guard).await });
            }
        });
        edge
    }
}

/// What the last answer says, before the line with the id of its request.
#[track_caller]
fn said(answers: &str) -> &str {
    let (words, id) = answers.rsplit_once("\nrequest ").unwrap_or_else(|| panic!("no id in {answers}"));
    assert_eq!(id.trim_end().len(), 32, "{answers}");
    words
}

/// Waits until something is so.
async fn until(is_so: impl Fn() -> bool) {
    let reached = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, reached).await.expect("it never is so");
}

/// A server in front of one upstream.
async fn edge(upstream: SocketAddr) -> Edge {
    Setup::new(&[upstream]).start().await
}

impl Edge {
    async fn connect(&self) -> Peer {
        Peer::new(TcpStream::connect(self.address).await.unwrap())
    }

    fn set_phase(&self, phase: Phase, drain: Option<Drain>) {
        self.tracker.set_view(View { phase, drain, ..View::starting() });
    }

    /// Begins a drain in which idle connections have `grace`.
    fn drain(&self, grace: Duration) {
        self.set_phase(Phase::Draining, Some(Drain::begin(Instant::now(), grace, LONG)));
    }

    /// Begins a drain that has gone on for `age`.
    fn drain_since(&self, age: Duration, grace: Duration) {
        let since = Instant::now().checked_sub(age).unwrap();
        self.set_phase(Phase::Draining, Some(Drain::begin(since, grace, LONG)));
    }

    fn status(&self) -> KindStatus {
        self.status_of(HTTP1)
    }

    fn status_of(&self, kind: Kind) -> KindStatus {
        self.counts.by_kind().swap_remove(kind.0)
    }

    /// Waits until every connection has ended, and returns how.
    async fn ends(&self) -> Vec<(End, u64)> {
        timeout(LONG, self.tracker.is_empty()).await.expect("a connection does not end");
        self.status().ends
    }

    async fn until_greeting(&self, active: i64) {
        let reached = async {
            while self.status_of(HANDSHAKE).active != active {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, reached).await.expect("no greeting is under way");
    }

    async fn until_active(&self, active: i64) {
        let reached = async {
            while self.status().active != active {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, reached).await.unwrap_or_else(|_| panic!("never {active} active: {:?}", self.status()));
    }
}

/// One end of a connection, in raw bytes.
struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// A message as it came.
#[derive(Debug)]
struct Message {
    head: String,
    body: Vec<u8>,
    trailers: String,
}

impl Message {
    #[track_caller]
    fn expect(&self, part: &str) -> &Self {
        assert!(self.head.contains(part), "no {part:?} in\n{}", self.head);
        self
    }

    #[track_caller]
    fn without(&self, part: &str) -> &Self {
        assert!(!self.head.contains(part), "{part:?} in\n{}", self.head);
        self
    }

    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// What an answer of this proxy's own says, which names its request's id in its head and in its text.
    #[track_caller]
    fn error(&self) -> &str {
        let id = self.field("x-request-id").unwrap_or_else(|| panic!("no id in\n{}", self.head));
        assert!(id.len() == 32 && id.bytes().all(|c| c.is_ascii_hexdigit()), "{id}");
        let words = self.text().strip_suffix(&format!("\nrequest {id}\n"));
        words.unwrap_or_else(|| panic!("no id {id} in {:?}", self.text()))
    }

    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().filter_map(|line| line.split_once(": ")).find(|(n, _)| *n == name).map(|(_, v)| v)
    }
}

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        Peer { stream, buffer: Vec::new() }
    }

    async fn send(&mut self, text: &str) {
        timeout(LONG, self.stream.write_all(text.as_bytes())).await.expect("cannot send").unwrap();
    }

    /// Reads more; false at the end.
    async fn more(&mut self) -> bool {
        let n = timeout(LONG, self.stream.read_buf(&mut self.buffer)).await.expect("nothing comes");
        n.expect("the connection broke") > 0
    }

    /// Waits until the connection is broken, with nothing more before that.
    async fn reset(&mut self) {
        let end = timeout(LONG, self.stream.read_buf(&mut self.buffer)).await.expect("nothing comes");
        let error =
            end.map(|n| format!("{n} bytes of {:?}", String::from_utf8_lossy(&self.buffer))).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    }

    /// Reads up to and with `mark`.
    async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|window| window == mark.as_bytes()) {
                let rest = self.buffer.split_off(at + mark.len());
                return String::from_utf8(std::mem::replace(&mut self.buffer, rest)).unwrap();
            }
            assert!(self.more().await, "ended before {mark:?}: {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    async fn bytes(&mut self, n: usize) -> Vec<u8> {
        while self.buffer.len() < n {
            assert!(self.more().await, "ended after {} of {n} bytes", self.buffer.len());
        }
        let rest = self.buffer.split_off(n);
        std::mem::replace(&mut self.buffer, rest)
    }

    /// Reads a message that has the body that its head says.
    async fn message(&mut self) -> Message {
        let head = self.until("\r\n\r\n").await;
        let mut message = Message { head, body: Vec::new(), trailers: String::new() };
        if message.field("transfer-encoding").is_some() {
            loop {
                let line = self.until("\r\n").await;
                match usize::from_str_radix(line.trim(), 16).unwrap() {
                    0 => break,
                    size => message.body.extend(self.bytes(size).await),
                }
                assert_eq!(self.bytes(2).await, b"\r\n");
            }
            while !message.trailers.ends_with("\r\n\r\n") && message.trailers != "\r\n" {
                message.trailers += &self.until("\r\n").await;
            }
        } else if let Some(length) = message.field("content-length") {
            message.body = self.bytes(length.parse().unwrap()).await;
        }
        message
    }

    /// Reads an answer that has no body whatever its head says.
    async fn head(&mut self) -> Message {
        let head = self.until("\r\n\r\n").await;
        Message { head, body: Vec::new(), trailers: String::new() }
    }

    /// Everything up to an orderly end.
    async fn rest(mut self) -> String {
        while self.more().await {}
        String::from_utf8(self.buffer).unwrap()
    }

    async fn get(&mut self, target: &str) -> Message {
        self.send(&format!("GET {target} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        self.message().await
    }
}

/// An upstream that plays `script` on each connection.
async fn upstream<S>(script: impl Fn(Peer) -> S + 'static) -> SocketAddr
where
    S: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            spawn_local(script(Peer::new(stream)));
        }
    });
    address
}

/// An upstream that answers every request with "ok" and passes on what it got.
async fn recorder() -> (SocketAddr, mpsc::UnboundedReceiver<Message>) {
    recorder_with("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await
}

/// An upstream that answers every request with `answer` and passes on what it got.
async fn recorder_with(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<Message>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let address = upstream(move |mut peer| {
        let sender = sender.clone();
        async move {
            while !peer.buffer.is_empty() || peer.more().await {
                sender.send(peer.message().await).ok();
                peer.send(answer).await;
            }
        }
    })
    .await;
    (address, receiver)
}

/// An address where nobody listens, for as long as the socket that has it is kept.
fn nobody() -> (SocketAddr, TcpSocket) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).unwrap();
    (socket.local_addr().unwrap(), socket)
}
