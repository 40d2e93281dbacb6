//! Upstreams that speak HTTP/2.

mod fairness;
mod retries;
mod streams;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response};
use std::cell::{Cell, RefCell};

use super::*;

type H2 = h2::server::Connection<TcpStream, Bytes>;

/// What an upstream has seen.
#[derive(Default)]
struct Seen {
    connections: Cell<usize>,
    requests: RefCell<Vec<Request<()>>>,
}

impl Seen {
    fn counts(&self) -> (usize, usize) {
        (self.connections.get(), self.requests.borrow().len())
    }
}

/// An upstream that plays `script` on each connection, which are numbered from 1.
async fn upstream_raw<S>(script: impl Fn(usize, TcpStream, Rc<Seen>) -> S + 'static) -> (SocketAddr, Rc<Seen>)
where
    S: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Rc::new(Seen::default());
    let all = seen.clone();
    spawn_local(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            all.connections.set(all.connections.get() + 1);
            spawn_local(script(all.connections.get(), stream, all.clone()));
        }
    });
    (address, seen)
}

/// An upstream that plays `script` for each request.
async fn upstream_h2<S>(
    builder: h2::server::Builder,
    script: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> S + Clone + 'static,
) -> (SocketAddr, Rc<Seen>)
where
    S: Future<Output = ()> + 'static,
{
    upstream_raw(move |_, stream, seen| {
        let (builder, script) = (builder.clone(), script.clone());
        async move {
            if let Ok(connection) = builder.handshake(stream).await {
                accept_all(connection, &seen, script).await;
            }
        }
    })
    .await
}

async fn accept_all<S>(
    mut connection: H2,
    seen: &Seen,
    script: impl Fn(Request<RecvStream>, SendResponse<Bytes>) -> S,
) where
    S: Future<Output = ()> + 'static,
{
    while let Some(Ok((request, respond))) = connection.accept().await {
        note(seen, &request);
        spawn_local(script(request, respond));
    }
}

fn note(seen: &Seen, request: &Request<RecvStream>) {
    let mut head = Request::new(());
    *head.method_mut() = request.method().clone();
    *head.uri_mut() = request.uri().clone();
    *head.headers_mut() = request.headers().clone();
    seen.requests.borrow_mut().push(head);
}

async fn read_all(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(data) = body.data().await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        all.extend(data);
    }
    (all, body.trailers().await.unwrap())
}

async fn ok(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    read_all(request.into_body()).await;
    answer(&mut respond, "ok");
}

fn answer(respond: &mut SendResponse<Bytes>, text: &'static str) {
    let response = Response::builder().header("content-length", text.len()).body(()).unwrap();
    respond.send_response(response, false).unwrap().send_data(Bytes::from(text), true).unwrap();
}

/// Sends as the other side takes it.
async fn send_all(stream: &mut SendStream<Bytes>, mut data: Bytes, is_last: bool) {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let room = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap().unwrap();
        let part = data.split_to(room.min(data.len()));
        stream.send_data(part, is_last && data.is_empty()).unwrap();
    }
}

fn setup(address: SocketAddr) -> Setup {
    let mut setup = Setup::new(&[address]);
    setup.proxy.connections.protocol = proxy::Protocol::Http2;
    setup
}

async fn edge_h2(address: SocketAddr) -> Edge {
    setup(address).start().await
}

/// A client of the edge that speaks HTTP/2.
async fn h2_client(edge: &Edge) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    spawn_local(async move { connection.await.ok() });
    client.ready().await.unwrap()
}

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";
