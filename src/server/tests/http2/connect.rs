//! CONNECT on a stream (RFC 9113, section 8.5).

use super::*;

const GRANT: &str = "HTTP/1.1 200 OK\r\nX-Own: 1\r\n\r\n";

/// The server under test, which passes CONNECT on.
async fn allowing(upstream: SocketAddr) -> Edge {
    let mut setup = Setup::new(&[upstream]);
    setup.proxy.connect = true;
    setup.start().await
}

fn connect(target: &str) -> Request<()> {
    Request::connect(target).body(()).unwrap()
}

impl Client {
    async fn connect(&mut self) -> (RecvStream, SendStream<Bytes>) {
        let (response, send) = self.begin(connect("db.internal:5432"), false).await;
        let answer = timeout(LONG, response).await.expect("no answer").unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["x-own"]), (200, &"1".parse().unwrap()));
        for gone in ["content-length", "transfer-encoding", "connection"] {
            assert!(!answer.headers().contains_key(gone), "{gone}");
        }
        (answer.into_body(), send)
    }

    /// The status of the answer to `request`, of which more may follow.
    async fn status(&mut self, request: Request<()>) -> (u16, Vec<u8>) {
        let (response, _send) = self.begin(request, false).await;
        let answer = whole(response).await.unwrap();
        (answer.head.status().as_u16(), answer.body)
    }
}

/// Sends back what comes, to the end.
async fn echo() -> SocketAddr {
    upstream(|mut peer| async move {
        let request = peer.head().await;
        if request.head.starts_with("GET ") {
            return peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
        }
        request.expect("CONNECT db.internal:5432 HTTP/1.1\r\n").expect("host: db.internal:5432\r\n");
        request.expect("via: 2.0 exuvia\r\n").without("transfer-encoding").without("content-length");
        peer.send(GRANT).await;
        loop {
            let bytes = std::mem::take(&mut peer.buffer);
            peer.stream.write_all(&bytes).await.unwrap();
            if !peer.more().await {
                return;
            }
        }
    })
    .await
}

#[test]
fn bytes_both_ways_until_the_client_ends() {
    run(async {
        let edge = allowing(echo().await).await;
        let mut client = edge.h2().await;
        let (mut receive, mut send) = client.connect().await;
        for word in ["one", "two"] {
            send.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
            assert_eq!(data(&mut receive).await, word);
        }
        assert_eq!(edge.h2_status().active, 1);
        // Other streams go on beside it; a drain lets it go on, too.
        assert_eq!(client.get("/").await.head.status(), 204);
        edge.drain(SHORT);
        send.send_data(Bytes::from_static(b"three"), true).unwrap();
        assert_eq!(rest_of(receive).await.unwrap().0, b"three");
        drop((client, send));
        edge.h2_ends().await;
    });
}

/// It has nothing to say at all, and hears the other out.
#[test]
fn a_client_that_ends_with_its_request() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.head().await;
            peer.send(GRANT).await;
            assert!(!peer.more().await, "the client has said nothing");
            peer.send("hello").await;
        })
        .await;
        let edge = allowing(address).await;
        let mut client = edge.h2().await;
        let (response, _) = client.begin(connect("db:1"), true).await;
        let answer = whole(response).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), &*answer.body), (200, &b"hello"[..]));
    });
}

#[test]
fn the_server_ends_and_hears_the_client_out() {
    run(async {
        let (heard, mut hears) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let heard = heard.clone();
            async move {
                peer.head().await;
                peer.send(&format!("{GRANT}early")).await;
                peer.stream.shutdown().await.unwrap();
                heard.send(peer.rest().await).unwrap();
            }
        })
        .await;
        let edge = allowing(address).await;
        let mut client = edge.h2().await;
        let (receive, mut send) = client.connect().await;
        assert_eq!(rest_of(receive).await.unwrap().0, b"early");
        send.send_data(Bytes::from_static(b"late"), true).unwrap();
        assert_eq!(timeout(LONG, hears.recv()).await.expect("nothing heard").unwrap(), "late");
        edge.until_h2(|status| (status.open, status.active) == (1, 0)).await;
    });
}

/// Grants every tunnel, breaks off those that begin with "go", and tells of the others that they broke.
async fn breaking() -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let (broken, is_broken) = mpsc::unbounded_channel();
    let address = upstream(move |mut peer| {
        let broken = broken.clone();
        async move {
            peer.head().await;
            peer.send(GRANT).await;
            if peer.bytes(2).await == b"go" {
                peer.stream.set_zero_linger().unwrap();
            } else {
                peer.send("!").await;
                peer.reset().await;
                broken.send(()).unwrap();
            }
        }
    })
    .await;
    (address, is_broken)
}

#[test]
fn a_reset_of_one_side_reaches_the_other() {
    run(async {
        let (address, mut is_broken) = breaking().await;
        let edge = allowing(address).await;
        let mut client = edge.h2().await;
        let (receive, mut send) = client.connect().await;
        send.send_data(Bytes::from_static(b"go"), false).unwrap();
        assert_eq!(rest_of(receive).await.unwrap_err().reason(), Some(Reason::CONNECT_ERROR));

        let (mut receive, mut send) = client.connect().await;
        send.send_data(Bytes::from_static(b"no"), false).unwrap();
        assert_eq!(data(&mut receive).await, "!");
        send.send_reset(Reason::CANCEL);
        timeout(LONG, is_broken.recv()).await.expect("the server does not hear of it").unwrap();

        // Also by what is no data, and no end of it either.
        let (mut receive, mut send) = client.connect().await;
        send.send_data(Bytes::from_static(b"no"), false).unwrap();
        assert_eq!(data(&mut receive).await, "!");
        send.send_trailers(HeaderMap::new()).unwrap();
        assert_eq!(rest_of(receive).await.unwrap_err().reason(), Some(Reason::PROTOCOL_ERROR));
        timeout(LONG, is_broken.recv()).await.expect("the server does not hear of it").unwrap();
        edge.until_h2(|status| (status.open, status.active) == (1, 0)).await;
    });
}

#[test]
fn one_that_rests_too_long_is_broken_off() {
    const LIMIT: Duration = Duration::from_secs(12);
    run(async {
        let (address, mut is_broken) = breaking().await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.connect = true;
        setup.server.tunnel_timeout = LIMIT;
        let edge = setup.start().await;
        let mut client = edge.h2().await;
        let (mut receive, mut send) = client.connect().await;
        pass(LIMIT * 3 / 4).await;
        send.send_data(Bytes::from_static(b"no"), false).unwrap();
        assert_eq!(data(&mut receive).await, "!");
        pass(LIMIT).await;
        assert_eq!(rest_of(receive).await.unwrap_err().reason(), Some(Reason::CONNECT_ERROR));
        timeout(LONG, is_broken.recv()).await.expect("the server does not hear of it").unwrap();
    });
}

#[test]
fn one_that_is_not_granted_is_an_answer() {
    run(async {
        let (address, mut requests) = recorder_with("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await;
        let edge = allowing(address).await;
        let mut client = edge.h2().await;
        assert_eq!(client.status(connect("[::1]:1")).await, (403, b"no".into()));
        requests.recv().await.unwrap().expect("CONNECT [::1]:1 HTTP/1.1\r\n");
        assert_eq!(client.get("/").await.head.status(), 403);
        requests.recv().await.unwrap();

        for target in ["db", "db:0", "db:65536", "u@db:1"] {
            assert_eq!(client.status(connect(target)).await.0, 400, "{target}");
        }
        let with = |name: &'static str, value: &'static str| {
            let mut request = connect("db:1");
            request.headers_mut().insert(name, value.parse().unwrap());
            request
        };
        assert_eq!(client.status(with("host", "other:1")).await.0, 400);
        assert_eq!(client.status(with("content-length", "5")).await.0, 400);
        requests.try_recv().unwrap_err();
    });
}

#[test]
fn where_it_is_not_allowed() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (response, _send) = client.begin(connect("db:1"), false).await;
        let answer = whole(response).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.field("connection")), (405, None));
        assert!(answer.field("allow").is_some_and(|methods| !methods.contains("CONNECT")), "{answer:?}");
        assert_eq!(client.get("/").await.body, b"ok");
        requests.recv().await.unwrap().expect("GET / ");
        requests.try_recv().unwrap_err();
    });
}

/// The client reads nothing: the server cannot go on sending back, takes no more, and the client is not allowed to
/// send more. Then all comes.
#[test]
fn a_slow_side_slows_the_other() {
    const MUCH: usize = 32 << 20;
    run(async {
        let edge = allowing(echo().await).await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 20);
        let mut client = edge.h2_with(builder).await;
        let (mut receive, mut send) = client.connect().await;
        let sent = Rc::new(std::cell::Cell::new(0));
        let counter = sent.clone();
        let sender = spawn_local(async move {
            while counter.get() < MUCH {
                let left = MUCH - counter.get();
                send.reserve_capacity(left.min(16 * 1024));
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                let n = room.min(left);
                counter.set(counter.get() + n);
                send.send_data(vec![b'x'; n].into(), counter.get() == MUCH).unwrap();
            }
        });
        let mut before = 0;
        let mut still = 0;
        while still < 20 {
            // A word that allowed more would have come before this answer.
            client.get("/").await;
            still = if sent.get() == before { still + 1 } else { 0 };
            before = sent.get();
        }
        // The sockets on the way have buffers, too.
        assert!(before < MUCH / 4 * 3, "{before} bytes were taken that nobody reads");
        let mut read = 0;
        while let Some(data) = timeout(LONG, receive.data()).await.expect("nothing comes") {
            let n = data.unwrap().len();
            read += n;
            receive.flow_control().release_capacity(n).unwrap();
        }
        assert_eq!(read, MUCH);
        sender.await.unwrap();
    });
}
