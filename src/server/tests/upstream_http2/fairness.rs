//! Clients that do not read, and the others that share a connection to a server with them.

use super::*;

/// A stream's window towards servers, in bytes.
const WINDOW: usize = 256 * 1024;

/// As many requests as a connection carries.
const STREAMS: usize = 100;

/// Sends `/much`'s answer in blocks of `block` bytes as far as the window goes, and never its end. Any other request
/// gets "ok". Counts what was sent.
async fn upstream_of_much(block: usize) -> (SocketAddr, Rc<Seen>, Rc<Cell<usize>>) {
    let sent = Rc::new(Cell::new(0));
    let counter = sent.clone();
    let (address, seen) = upstream_h2(h2::server::Builder::new(), move |request, mut respond| {
        let counter = counter.clone();
        async move {
            if request.uri().path() != "/much" {
                return answer(&mut respond, "ok");
            }
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            for _ in 0..WINDOW / block {
                send_all(&mut stream, vec![b'x'; block].into(), false).await;
                counter.set(counter.get() + block);
            }
            std::future::poll_fn(|cx| stream.poll_reset(cx)).await.ok();
        }
    })
    .await;
    (address, seen, sent)
}

/// A client that reads nothing of its answers.
async fn reluctant(edge: &Edge) -> h2::client::SendRequest<Bytes> {
    let stream = TcpStream::connect(edge.address).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1);
    let (client, connection) = builder.handshake(stream).await.unwrap();
    spawn_local(async move { connection.await.ok() });
    client.ready().await.unwrap()
}

/// Four clients that did not read used up the window of a connection to a server, and every other request that shared
/// it hung until they had gone.
#[test]
fn clients_that_do_not_read_hold_up_nobody_else() {
    run(async {
        let (address, seen, sent) = upstream_of_much(WINDOW / 16).await;
        let edge = edge_h2(address).await;
        let mut client = reluctant(&edge).await;
        let mut answers = Vec::new();
        for _ in 1..STREAMS {
            client = client.ready().await.unwrap();
            let request = Request::get("http://a/much").body(()).unwrap();
            answers.push(client.send_request(request, true).unwrap());
        }
        until(|| sent.get() == (STREAMS - 1) * WINDOW).await;
        let mut other = edge.connect().await;
        for _ in 0..3 {
            assert_eq!(other.get("/").await.text(), "ok");
        }
        assert_eq!(seen.counts(), (1, STREAMS + 2), "they share one connection");
    });
}

/// What short messages cost while they wait unread was paid by the whole connection: one client that did not read its
/// messages of 32 bytes had the connection ended, with the calls of all others.
#[test]
fn short_messages_that_nobody_reads_end_no_connection() {
    run(async {
        let (address, seen, sent) = upstream_of_much(32).await;
        let edge = edge_h2(address).await;
        let mut client = reluctant(&edge).await;
        let mut answers = Vec::new();
        for _ in 0..4 {
            client = client.ready().await.unwrap();
            let request = Request::get("http://a/much").body(()).unwrap();
            answers.push(client.send_request(request, true).unwrap());
        }
        until(|| sent.get() == 4 * WINDOW).await;
        assert_eq!(edge.connect().await.get("/").await.text(), "ok");
        assert_eq!(seen.counts(), (1, 5), "they share one connection");
    });
}
