//! What goes over a stream, and how streams share connections.

use super::*;

#[test]
fn requests_of_all_clients_share_a_connection() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), ok).await;
        let edge = edge_h2(address).await;
        for _ in 0..3 {
            let mut client = edge.connect().await;
            for _ in 0..2 {
                let answer = client.get("/a?b=1").await;
                answer
                    .expect("HTTP/1.1 200 OK\r\n")
                    .expect("via: 2.0 exuvia\r\n")
                    .without("transfer-encoding");
                assert_eq!(answer.text(), "ok");
            }
        }
        assert_eq!(seen.counts(), (1, 6));
    });
}

#[test]
fn the_upstream_gets_a_request_of_its_own_kind() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), ok).await;
        let mut client = edge_h2(address).await.connect().await;
        client
            .send(
                "POST /x HTTP/1.1\r\nHost: example.org:81\r\nConnection: keep-alive, X-Mine\r\nX-Mine: 1\r\n\
                 TE: trailers\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
            )
            .await;
        client.message().await.expect("200 OK");
        client.send("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.message().await.expect("200 OK");
        let seen = seen.requests.borrow();
        assert_eq!(seen[0].uri(), "http://example.org:81/x");
        assert_eq!(
            (seen[0].method(), &seen[0].headers()["te"]),
            (&Method::POST, &"trailers".parse().unwrap())
        );
        for gone in ["host", "connection", "x-mine", "upgrade", "transfer-encoding", "content-length"] {
            assert!(!seen[0].headers().contains_key(gone), "{gone}");
        }
        assert_eq!(seen[0].headers()["x-forwarded-host"], "example.org:81");
        assert_eq!((seen[1].method(), seen[1].uri().path()), (&Method::OPTIONS, "*"));
    });
}

#[test]
fn bodies_and_trailers_both_ways() {
    run(async {
        let (address, _) = upstream_h2(h2::server::Builder::new(), |request, mut respond| async move {
            let (body, trailers) = read_all(request.into_body()).await;
            let response = Response::builder().header("trailer", "x-sum").body(()).unwrap();
            let mut stream = respond.send_response(response, false).unwrap();
            send_all(&mut stream, body.into(), false).await;
            let mut back = HeaderMap::new();
            back.insert("x-sum", trailers.unwrap()["x-sum"].clone());
            stream.send_trailers(back).unwrap();
        })
        .await;
        let mut client = edge_h2(address).await.connect().await;
        client
            .send(
                "POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n0\r\nX-Sum: 7\r\n\r\n",
            )
            .await;
        let answer = client.message().await;
        assert_eq!((answer.text(), &*answer.trailers), ("hello", "x-sum: 7\r\n\r\n"));
    });
}

#[test]
fn answers_without_a_body() {
    run(async {
        let (address, _) = upstream_h2(h2::server::Builder::new(), |request, mut respond| async move {
            let status = if request.method() == Method::HEAD { 200 } else { 204 };
            let mut response = Response::builder().status(status);
            if status == 200 {
                response = response.header("content-length", 1000);
            }
            respond.send_response(response.body(()).unwrap(), true).unwrap();
        })
        .await;
        let mut client = edge_h2(address).await.connect().await;
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.expect("200 OK").expect("content-length: 1000\r\n");
        client.send(GET).await;
        client.head().await.expect("204 No Content").without("content-length").without("transfer-encoding");
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        client.head().await.expect("204 No Content");
    });
}

/// A stream both ways at once, as gRPC has them: each side waits for the other's last word.
#[test]
fn both_ways_at_once_from_an_http2_client() {
    run(async {
        let (address, _) = upstream_h2(h2::server::Builder::new(), |mut request, mut respond| async move {
            let mut early = Response::new(());
            *early.status_mut() = http::StatusCode::EARLY_HINTS;
            early.headers_mut().insert("link", "</a>".parse().unwrap());
            respond.send_informational(early).unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            while let Some(word) = request.body_mut().data().await {
                let word = word.unwrap();
                request.body_mut().flow_control().release_capacity(word.len()).unwrap();
                send_all(&mut stream, word, false).await;
            }
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", "0".parse().unwrap());
            stream.send_trailers(trailers).unwrap();
        })
        .await;
        let edge = edge_h2(address).await;
        let mut client = h2_client(&edge).await;
        let request = Request::builder().method("POST").uri("http://a/").header("te", "trailers");
        let (mut answer, mut up) = client.send_request(request.body(()).unwrap(), false).unwrap();
        let early = std::future::poll_fn(|cx| answer.poll_informational(cx)).await.unwrap().unwrap();
        assert_eq!((early.status().as_u16(), &early.headers()["link"]), (103, &"</a>".parse().unwrap()));
        let mut down = answer.await.unwrap().into_body();
        for _ in 0..5 {
            send_all(&mut up, Bytes::from_static(b"word"), false).await;
            let word = down.data().await.unwrap().unwrap();
            down.flow_control().release_capacity(word.len()).unwrap();
            assert_eq!(&*word, b"word");
        }
        up.send_data(Bytes::new(), true).unwrap();
        assert!(down.data().await.is_none());
        assert_eq!(down.trailers().await.unwrap().unwrap()["grpc-status"], "0");
    });
}

/// Much more than the windows and buffers hold, both ways; the answer begins with the first bytes.
#[test]
fn large_bodies_at_the_pace_of_the_slower_side() {
    const MUCH: usize = 16 << 20;
    run(async {
        let taken = Rc::new(Cell::new(0));
        let counter = taken.clone();
        let (address, _) = upstream_h2(h2::server::Builder::new(), move |request, mut respond| {
            let counter = counter.clone();
            async move {
                let (body, _) = read_all(request.into_body()).await;
                let mut stream = respond.send_response(Response::new(()), false).unwrap();
                for block in body.chunks(1 << 16) {
                    send_all(&mut stream, Bytes::copy_from_slice(block), false).await;
                    counter.set(counter.get() + block.len());
                }
                stream.send_data(Bytes::new(), true).unwrap();
            }
        })
        .await;
        let mut client = edge_h2(address).await.connect().await;
        client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {MUCH}\r\n\r\n")).await;
        let body: Vec<u8> = (0..MUCH).map(|i| (i % 251) as u8).collect();
        client.stream.write_all(&body).await.unwrap();
        // Nobody reads: what was answered stays in buffers of a bounded size.
        client.head().await.expect("200 OK").expect("transfer-encoding: chunked");
        let mut got = Vec::new();
        while got.len() < MUCH {
            let size = client.until("\r\n").await;
            got.extend(client.bytes(usize::from_str_radix(size.trim(), 16).unwrap()).await);
            client.until("\r\n").await;
        }
        assert!(got == body, "the bytes differ");
        assert_eq!(taken.get(), MUCH);
    });
}

/// The server takes one stream at a time: so each request gets a connection, made one after the other.
#[test]
fn a_full_connection_gets_company() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let mut builder = h2::server::Builder::new();
        builder.max_concurrent_streams(1);
        let (address, seen) = upstream_h2(builder, move |_, mut respond| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|open| *open).await.unwrap();
                answer(&mut respond, "ok");
            }
        })
        .await;
        let edge = edge_h2(address).await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = edge.connect().await;
            client.send(GET).await;
            clients.push(client);
        }
        until(|| seen.counts() == (3, 3)).await;
        go.send(true).unwrap();
        for client in &mut clients {
            assert_eq!(client.message().await.text(), "ok");
        }
        // There is room again, and nobody makes a fourth.
        assert_eq!(clients[0].get("/").await.text(), "ok");
        assert_eq!(seen.counts(), (3, 4));
    });
}

#[test]
fn many_who_come_at_once_wait_for_one_connection() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), ok).await;
        let edge = edge_h2(address).await;
        let mut clients = Vec::new();
        for _ in 0..50 {
            let mut client = edge.connect().await;
            client.send(GET).await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.message().await.text(), "ok");
        }
        assert_eq!(seen.counts(), (1, 50));
    });
}

#[test]
fn where_no_more_connections_may_be_made_one_waits_for_a_stream() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let (address, seen) = upstream_h2(h2::server::Builder::new(), move |_, mut respond| {
            let mut gate = gate.clone();
            async move {
                gate.wait_for(|open| *open).await.unwrap();
                answer(&mut respond, "ok");
            }
        })
        .await;
        let mut setup = setup(address);
        setup.proxy.connections.max_http2_connections = 1;
        setup.proxy.connections.max_streams = 2;
        setup.proxy.connections.connect_timeout = Duration::from_secs(1);
        let edge = setup.start().await;
        let mut clients = Vec::new();
        for _ in 0..3 {
            let mut client = edge.connect().await;
            client.send(GET).await;
            clients.push(client);
        }
        until(|| seen.counts() == (1, 2)).await;
        let answer = clients[2].message().await;
        answer.expect("HTTP/1.1 503 Service Unavailable");
        assert!(answer.text().contains("all its connections are full"), "{}", answer.text());
        clients[2].send(GET).await;
        go.send(true).unwrap();
        for client in &mut clients {
            assert_eq!(client.message().await.text(), "ok");
        }
        assert_eq!(seen.counts(), (1, 3));
    });
}

/// Idle connections end, and the server is told.
#[test]
fn an_idle_connection_is_given_up() {
    run(async {
        let (ended, mut ends) = mpsc::unbounded_channel();
        let (address, _) = upstream_raw(move |_, stream, seen| {
            let ended = ended.clone();
            async move {
                accept_all(h2::server::handshake(stream).await.unwrap(), &seen, ok).await;
                ended.send(()).ok();
            }
        })
        .await;
        let mut setup = setup(address);
        setup.proxy.connections.idle_timeout = Duration::from_millis(100);
        let edge = setup.start().await;
        assert_eq!(edge.connect().await.get("/").await.text(), "ok");
        timeout(LONG, ends.recv()).await.expect("the connection stays").unwrap();
        assert_eq!(edge.connect().await.get("/").await.text(), "ok");
    });
}

/// An idle timeout of zero says so; the next request found the last one's connection for some milliseconds more.
#[test]
fn no_idle_connection_is_kept_where_none_is_to_be() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), ok).await;
        let mut setup = setup(address);
        setup.proxy.connections.idle_timeout = Duration::ZERO;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        for n in 1..=3 {
            assert_eq!(client.get("/").await.text(), "ok");
            assert_eq!(seen.counts(), (n, n));
        }
    });
}

/// A client that goes away resets its stream, and no other.
#[test]
fn a_client_that_goes_away_takes_only_its_stream() {
    run(async {
        let (told, mut reasons) = mpsc::unbounded_channel();
        let (address, seen) = upstream_h2(h2::server::Builder::new(), move |request, mut respond| {
            let told = told.clone();
            async move {
                if request.uri().path() == "/ok" {
                    return answer(&mut respond, "ok");
                }
                let begun = request.uri().path() == "/begun";
                let stream = begun.then(|| respond.send_response(Response::new(()), false).unwrap());
                let reason = match stream {
                    Some(mut stream) => std::future::poll_fn(|cx| stream.poll_reset(cx)).await,
                    None => std::future::poll_fn(|cx| respond.poll_reset(cx)).await,
                };
                told.send(reason.unwrap()).ok();
            }
        })
        .await;
        let edge = edge_h2(address).await;
        for target in ["/silent", "/begun"] {
            let mut client = edge.connect().await;
            client.send(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).await;
            if target == "/begun" {
                client.head().await.expect("200 OK");
            } else {
                until(|| seen.counts().1 == 1).await;
            }
            drop(client);
            assert_eq!(timeout(LONG, reasons.recv()).await.unwrap(), Some(Reason::CANCEL));
        }
        assert_eq!(edge.connect().await.get("/ok").await.text(), "ok");
        assert_eq!(seen.counts(), (1, 3));
    });
}

/// The client waits with its body until the server says the word, and hears it then.
#[test]
fn the_word_to_go_on() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), |request, mut respond| async move {
            if request.uri().path() == "/no" {
                let response = Response::builder().status(417).header("content-length", 2);
                let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
                return stream.send_data(Bytes::from_static(b"no"), true).unwrap();
            }
            let mut go_on = Response::new(());
            *go_on.status_mut() = http::StatusCode::CONTINUE;
            respond.send_informational(go_on).unwrap();
            ok(request, respond).await;
        })
        .await;
        let edge = edge_h2(address).await;
        let mut client = edge.connect().await;
        let head = "HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
        client.send(&format!("POST / {head}")).await;
        client.head().await.expect("HTTP/1.1 100 Continue");
        client.send("abc").await;
        assert_eq!(client.message().await.text(), "ok");
        assert_eq!(seen.requests.borrow()[0].headers()["expect"], "100-continue");

        client.send(&format!("POST /no {head}")).await;
        let answer = client.message().await;
        assert_eq!(answer.expect("HTTP/1.1 417").expect("connection: close\r\n").text(), "no");
    });
}

/// A tunnel takes a connection of its own, which speaks HTTP/1.
#[test]
fn a_connect_does_not_go_by_http2() {
    run(async {
        let (address, seen) = upstream_h2(h2::server::Builder::new(), ok).await;
        let mut setup = setup(address);
        setup.proxy.connect = true;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("CONNECT db:1 HTTP/1.1\r\nHost: db:1\r\n\r\n").await;
        client.message().await.expect("405 Method Not Allowed");
        let mut client = h2_client(&edge).await;
        let (answer, _send) = client.send_request(Request::connect("db:1").body(()).unwrap(), false).unwrap();
        assert_eq!(timeout(LONG, answer).await.expect("no answer").unwrap().status(), 405);
        assert_eq!(seen.counts().1, 0);
    });
}

/// Each request has a connection of its own, also beside others of its client, and that says for whom it is before
/// HTTP/2 begins.
#[test]
fn servers_are_told_whom_a_connection_is_for() {
    use crate::proxy::ProxyVersion;
    run(async {
        for version in [ProxyVersion::V1, ProxyVersion::V2] {
            let (said, mut headers) = mpsc::unbounded_channel();
            let (ended, mut ends) = mpsc::unbounded_channel();
            let (go, gate) = tokio::sync::watch::channel(false);
            let (address, seen) = upstream_raw(move |_, mut stream, seen| {
                let (said, ended, mut gate) = (said.clone(), ended.clone(), gate.clone());
                async move {
                    let mut header = Vec::new();
                    let is_whole = |header: &[u8]| match version {
                        ProxyVersion::V1 => header.ends_with(b"\r\n"),
                        ProxyVersion::V2 => header.len() == 28,
                    };
                    while !is_whole(&header) {
                        header.push(stream.read_u8().await.unwrap());
                    }
                    said.send(header).unwrap();
                    let mut connection = h2::server::handshake(stream).await.unwrap();
                    let (request, mut respond) = connection.accept().await.unwrap().unwrap();
                    note(&seen, &request);
                    let waiting = async {
                        gate.wait_for(|open| *open).await.unwrap();
                        answer(&mut respond, "ok");
                    };
                    // It drives the connection, too, and nothing more comes on it.
                    let (next, ()) = tokio::join!(connection.accept(), waiting);
                    ended.send(next.is_none()).unwrap();
                }
            })
            .await;
            let mut setup = setup(address);
            setup.proxy.connections.proxy_protocol = Some(version);
            let edge = setup.start().await;
            let expected = |client: SocketAddr| match version {
                ProxyVersion::V1 => {
                    let (client, local) = (client.port(), edge.address.port());
                    format!("PROXY TCP4 127.0.0.1 127.0.0.1 {client} {local}\r\n").into_bytes()
                }
                ProxyVersion::V2 => [
                    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\x7f\0\0\x01\x7f\0\0\x01",
                    &client.port().to_be_bytes()[..],
                    &edge.address.port().to_be_bytes(),
                ]
                .concat(),
            };

            let stream = TcpStream::connect(edge.address).await.unwrap();
            let own = expected(stream.local_addr().unwrap());
            let (client, connection) = h2::client::handshake(stream).await.unwrap();
            spawn_local(async move { connection.await.ok() });
            let mut client = client.ready().await.unwrap();
            let mut ask =
                || client.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap().0;
            let answers = [ask(), ask()];
            for _ in &answers {
                assert_eq!(timeout(LONG, headers.recv()).await.unwrap().unwrap(), own);
            }
            until(|| seen.counts() == (2, 2)).await;
            go.send(true).unwrap();
            for answer in answers {
                let answer = timeout(LONG, answer).await.expect("no answer").unwrap();
                assert_eq!(read_all(answer.into_body()).await.0, b"ok");
                assert_eq!(timeout(LONG, ends.recv()).await.expect("it is kept"), Some(true));
            }

            let mut client = edge.connect().await;
            let own = expected(client.stream.local_addr().unwrap());
            for _ in 0..2 {
                assert_eq!(client.get("/").await.text(), "ok");
                assert_eq!(timeout(LONG, headers.recv()).await.unwrap().unwrap(), own);
                assert_eq!(timeout(LONG, ends.recv()).await.expect("it is kept"), Some(true));
            }
            assert_eq!(seen.counts(), (4, 4));
        }
    });
}
