//! One request in, one response out.

use super::*;

#[test]
fn connections_are_kept_alive_on_both_sides() {
    run(async {
        let connections = Rc::new(std::cell::Cell::new(0));
        let counter = connections.clone();
        let address = upstream(move |mut peer| {
            counter.set(counter.get() + 1);
            async move {
                while peer.more().await {
                    peer.message().await;
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        for _ in 0..5 {
            let answer = client.get("/").await;
            answer.expect("HTTP/1.1 200 OK\r\n").expect("via: 1.1 exuvia\r\n").without("connection:");
            assert_eq!(answer.text(), "ok");
        }
        assert_eq!(connections.get(), 1);
        drop(client);
        assert_eq!(edge.ends().await, [(End::ClosedByPeer, 1)]);
    });
}

#[test]
fn the_upstream_gets_what_it_should() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client
            .send(
                "POST /a%20b//c?x=1&y=%2F? HTTP/1.1\r\nHost: example.org:8080\r\nContent-Length: 5\r\n\
                 Connection: keep-alive, X-Mine, Content-Length, Host, Cookie\r\nX-Mine: 1\r\nCookie: c=1\r\n\
                 Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nTE: trailers, deflate\r\n\
                 Upgrade: h2c\r\nProxy-Authorization: basic x\r\nProxy: http://evil\r\nX-Real-IP: 6.6.6.6\r\n\
                 X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
                 Forwarded: for=6.6.6.6\r\nVia: 1.0 fred\r\nX-Other: a\r\nX-Other: b\r\n\r\nhello",
            )
            .await;
        client.message().await.expect("200 OK");
        let request = requests.recv().await.unwrap();
        request.expect("POST /a%20b//c?x=1&y=%2F? HTTP/1.1\r\n").expect("host: example.org:8080\r\n");
        request.expect("cookie: c=1\r\n").expect("x-other: a\r\n").expect("x-other: b\r\n");
        request.expect("te: trailers\r\n").expect("connection: te\r\n");
        request.expect("x-forwarded-for: 127.0.0.1\r\n").expect("x-forwarded-proto: http\r\n");
        request.expect("x-forwarded-host: example.org:8080\r\n");
        request.expect("via: 1.0 fred\r\nvia: 1.1 exuvia\r\n");
        for gone in
            ["6.6.6.6", "evil", "x-mine", "keep-alive", "proxy", "upgrade", "deflate", "forwarded: for"]
        {
            request.without(gone);
        }
        assert_eq!(request.text(), "hello");
    });
}

#[test]
fn the_client_gets_what_it_should() {
    run(async {
        let (address, _requests) = recorder_with(
            "HTTP/1.1 404 Nothing Here\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
             Proxy-Authenticate: basic\r\nUpgrade: h2c\r\nVia: 1.1 varnish\r\nServer: app\r\nSet-Cookie: a=1\r\n\
             Set-Cookie: b=2\r\nContent-Length: 2, 2\r\n\r\nno",
        )
        .await;
        let mut client = edge(address).await.connect().await;
        let answer = client.get("/").await;
        answer.expect("HTTP/1.1 404 Nothing Here\r\n").expect("via: 1.1 varnish\r\nvia: 1.1 exuvia\r\n");
        answer.expect("server: app\r\n").expect("set-cookie: a=1\r\nset-cookie: b=2\r\n");
        answer.expect("content-length: 2\r\n");
        for gone in ["x-hop", "keep-alive", "proxy-", "upgrade", "connection"] {
            answer.without(gone);
        }
        assert_eq!(answer.text(), "no");
    });
}

#[test]
fn pipelined_requests_are_answered_in_turn() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut client = edge(address).await.connect().await;
        let all: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: test\r\n\r\n")).collect();
        client.send(&all).await;
        for n in 0..20 {
            assert_eq!(client.message().await.text(), "ok");
            requests.recv().await.unwrap().expect(&format!("GET /{n} HTTP/1.1"));
        }
    });
}

#[test]
fn answers_without_a_body() {
    run(async {
        let (address, _requests) = recorder_with("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n").await;
        let mut client = edge(address).await.connect().await;
        for _ in 0..2 {
            client.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n").await;
            client.head().await.expect("200 OK").expect("content-length: 12345\r\n");
        }
        for status in ["204 No Content", "304 Not Modified"] {
            let answer = format!("HTTP/1.1 {status}\r\nEtag: x\r\n\r\n");
            let (address, _requests) = recorder_with(answer.leak()).await;
            let mut client = edge(address).await.connect().await;
            for _ in 0..2 {
                client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await;
                client
                    .head()
                    .await
                    .expect(status)
                    .expect("etag: x")
                    .without("content-length")
                    .without("transfer");
            }
        }
    });
}

#[test]
fn chunks_and_trailers_pass_both_ways() {
    run(async {
        let (address, mut requests) = recorder_with(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nContent-Length: 3\r\n\r\n\
             4\r\npong\r\n0\r\nX-Sum: 2\r\n\r\n",
        )
        .await;
        let mut client = edge(address).await.connect().await;
        for method in ["POST", "GET"] {
            client
                .send(&format!(
                    "{method} / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\
                     TE: trailers\r\n\r\n4\r\nping\r\n3\r\n!!!\r\n0\r\nX-Sum: 1\r\n\r\n"
                ))
                .await;
            let answer = client.message().await;
            answer.expect("transfer-encoding: chunked\r\n").without("content-length");
            assert_eq!((answer.text(), answer.trailers.as_str()), ("pong", "x-sum: 2\r\n\r\n"));
            let request = requests.recv().await.unwrap();
            request.expect("transfer-encoding: chunked\r\n");
            assert_eq!((request.text(), request.trailers.as_str()), ("ping!!!", "x-sum: 1\r\n\r\n"));
        }
        let answer = client.get("/").await;
        assert_eq!(
            (answer.text(), answer.trailers.as_str()),
            ("pong", "\r\n"),
            "trailers that were not asked for"
        );
    });
}

#[test]
fn a_client_that_expects_100_gets_it_where_the_upstream_says_nothing() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut client = edge(address).await.connect().await;
        client
            .send("PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
            .await;
        client.head().await.expect("HTTP/1.1 100 Continue\r\n");
        client.send("body").await;
        client.message().await.expect("200 OK");
        let request = requests.recv().await.unwrap();
        request.expect("expect: 100-continue\r\n");
        assert_eq!(request.text(), "body");
        client.get("/").await.expect("200 OK");
    });
}

#[test]
fn http_1_0_clients() {
    run(async {
        let (address, mut requests) =
            recorder_with("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
        let edge_chunked = edge(address).await;
        for keep_alive in ["", "Connection: keep-alive\r\n"] {
            let mut client = edge_chunked.connect().await;
            client.send(&format!("GET / HTTP/1.0\r\n{keep_alive}\r\n")).await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
            assert!(answer.contains("connection: close\r\n") && !answer.contains("keep-alive"), "{answer}");
            requests.recv().await.unwrap().expect("GET / HTTP/1.1\r\n").expect("via: 1.0 exuvia\r\n");
        }

        let (address, _requests) = recorder().await;
        let edge_sized = edge(address).await;
        let mut client = edge_sized.connect().await;
        for _ in 0..2 {
            client.send("GET / HTTP/1.0\r\nHost: old\r\nConnection: keep-alive\r\n\r\n").await;
            let answer = client.message().await;
            answer.expect("connection: keep-alive\r\n");
            assert_eq!(answer.text(), "ok");
        }
        client.send("GET / HTTP/1.0\r\n\r\n").await;
        assert!(client.rest().await.ends_with("ok"));
        assert_eq!(edge_sized.ends().await, [(End::Closed, 1)]);
    });
}

#[test]
fn http_1_0_upstreams() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.message().await;
            peer.send("HTTP/1.0 200 OK\r\n\r\nto the end").await;
        })
        .await;
        let mut client = edge(address).await.connect().await;
        for _ in 0..2 {
            let answer = client.get("/").await;
            answer.expect("HTTP/1.1 200 OK\r\n").expect("via: 1.0 exuvia\r\n");
            assert_eq!(answer.text(), "to the end");
        }
    });
}

#[test]
fn targets_in_every_form() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut client = edge(address).await.connect().await;
        for (sent, target, host) in [
            (
                "GET http://Real.example:81/p?q HTTP/1.1\r\nHost: real.example:81\r\n",
                "GET /p?q HTTP",
                "Real.example:81",
            ),
            (
                "GET http://real.example?q=1 HTTP/1.1\r\nHost: real.example:80\r\n",
                "GET /?q=1 HTTP",
                "real.example",
            ),
            (
                "OPTIONS http://real.example HTTP/1.1\r\nHost: real.example\r\n",
                "OPTIONS * HTTP",
                "real.example",
            ),
            ("OPTIONS * HTTP/1.1\r\nHost: real\r\n", "OPTIONS * HTTP", "real"),
            ("GET //not-a-host/x?y?z& HTTP/1.1\r\nHost: real\r\n", "GET //not-a-host/x?y?z& HTTP", "real"),
        ] {
            client.send(&format!("{sent}\r\n")).await;
            assert_eq!(client.message().await.text(), "ok", "{sent}");
            let request = requests.recv().await.unwrap();
            request.expect(target).expect(&format!("host: {host}\r\n"));
        }
    });
}

#[test]
fn requests_that_are_refused() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        for (sent, status, word) in [
            ("GET / HTTP/1.1\r\n", "400 Bad Request", "no Host"),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n", "400 Bad Request", "more than one Host"),
            ("GET / HTTP/1.1\r\nHost: a/b\r\n", "400 Bad Request", "host is not valid"),
            ("GET / HTTP/1.1\r\nHost:\r\n", "400 Bad Request", "host is not valid"),
            ("GET http://a/ HTTP/1.1\r\nHost: b\r\n", "400 Bad Request", "Host disagree"),
            ("GET https://a:80/ HTTP/1.1\r\nHost: a\r\n", "400 Bad Request", "Host disagree"),
            ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n", "400 Bad Request", "host is not valid"),
            ("GET http://a/ HTTP/1.1\r\n", "400 Bad Request", "no Host"),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n", "400 Bad Request", "target is not valid"),
            ("GET a:80 HTTP/1.1\r\nHost: a:80\r\n", "400 Bad Request", "target is not valid"),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a\r\n", "405 Method Not Allowed", "CONNECT is not allowed"),
            (
                "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n",
                "501 Not",
                "transfer coding",
            ),
        ] {
            let mut client = edge.connect().await;
            client.send(&format!("{sent}\r\n")).await;
            let answer = client.message().await;
            answer.expect(&format!("HTTP/1.1 {status}"));
            assert!(answer.text().contains(word), "{sent}: {}", answer.text());
        }
        for (sent, status) in [
            ("nonsense\r\n", "400 Bad Request"),
            ("GET / HTTP/1.1\r\nHost: a\r\nbad header\r\n", "400 Bad Request"),
            ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n", "400 Bad Request"),
            ("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n", "400 Bad Request"),
        ] {
            let before = edge.status();
            let mut client = edge.connect().await;
            client.send(&format!("{sent}\r\n")).await;
            let answer = client.rest().await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}\r\n")), "{sent}: {answer}");
            assert_ne!(edge.ends().await, before.ends);
        }
        let ends = edge.ends().await;
        assert!(ends.contains(&(End::ProtocolError, 5)), "{ends:?}");
        requests.try_recv().unwrap_err();
    });
}

/// hyper would drop a `Content-Length` beside a `Transfer-Encoding` before anyone saw it.
#[test]
fn two_framings_cannot_smuggle() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        for order in [
            "Content-Length: 40\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 40",
        ] {
            let mut client = edge.connect().await;
            let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
            client.send(&format!("POST / HTTP/1.1\r\nHost: a\r\n{order}\r\n\r\n0\r\n\r\n{smuggled}")).await;
            let answers = client.rest().await;
            assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{answers}");
            assert!(
                answers.starts_with("HTTP/1.1 400 ") && answers.contains("connection: close\r\n"),
                "{answers}"
            );
            assert!(said(&answers).ends_with("both Content-Length and Transfer-Encoding"), "{answers}");
        }
        assert_eq!(edge.ends().await, [(End::ProtocolError, 2)]);
        requests.try_recv().unwrap_err();
    });
}

/// The answers to good requests come first, and then the word for the bad one, however it all arrives.
#[test]
fn a_bad_request_behind_good_ones() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let good: String = (0..20).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n")).collect();
        let all = format!("{good}GET / HTTP/1.1\r\nHost : a\r\n\r\n{good}");
        for piece in [all.len(), 1, 41] {
            let mut client = edge.connect().await;
            for piece in all.as_bytes().chunks(piece) {
                client.send(std::str::from_utf8(piece).unwrap()).await;
                tokio::task::yield_now().await;
            }
            for _ in 0..20 {
                assert_eq!(client.message().await.text(), "ok");
                requests.recv().await.unwrap();
            }
            let answer = client.rest().await;
            assert!(
                answer.starts_with("HTTP/1.1 400 ") && said(&answer).ends_with("before a field's colon"),
                "{answer}"
            );
        }
        assert_eq!(edge.ends().await, [(End::ProtocolError, 3)]);
        requests.try_recv().unwrap_err();
    });
}

/// A body that is refused breaks the request to the upstream off: it never looks whole.
#[test]
fn a_bad_body_never_looks_whole() {
    run(async {
        let (sender, mut got) = mpsc::unbounded_channel();
        let address = upstream(move |peer| {
            let sender = sender.clone();
            async move {
                let mut peer = peer;
                while matches!(peer.stream.read_buf(&mut peer.buffer).await, Ok(n) if n > 0) {}
                sender.send(String::from_utf8(peer.buffer).unwrap()).ok();
            }
        })
        .await;
        let edge = edge(address).await;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (first, second, word) in [
            ("4\r\nping\r\n", "0x1\r\nx\r\n0\r\n\r\n", "chunk's size"),
            ("4\r\nping\r\n", "2\r\nxyz\r\n0\r\n\r\n", "its size says"),
            ("4\r\nping\r\n0\r\n", "Host: b\r\n\r\n", "only a head may have"),
        ] {
            let mut client = edge.connect().await;
            client.send(&format!("{head}{first}")).await;
            edge.until_active(1).await;
            client.send(second).await;
            let answer = client.rest().await;
            assert!(
                answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close\r\n"),
                "{answer}"
            );
            assert!(answer.contains(word), "{answer}");
            let request = got.recv().await.unwrap();
            assert!(request.starts_with("POST / ") && !request.contains("\r\n0\r\n"), "{request}");
        }
        assert_eq!(edge.ends().await, [(End::ProtocolError, 3)]);
    });
}

#[test]
fn heads_have_limits() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.max_head_bytes = 4096;
        setup.server.max_headers = 10;
        let edge = setup.start().await;
        let long = format!("X-Long: {}\r\n", "x".repeat(5000));
        let many: String = (0..11).map(|n| format!("X-{n}: 1\r\n")).collect();
        for fields in [long, many] {
            let mut client = edge.connect().await;
            client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n")).await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
        }
        assert_eq!(edge.ends().await, [(End::ProtocolError, 2)]);
        requests.try_recv().unwrap_err();
    });
}

/// A client that does not close after the last answer holds nothing up, and is nothing in flight when it is cut.
#[test]
fn a_connection_that_only_has_to_close_is_at_rest() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.linger_timeout = 2 * LONG;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_eq!(client.message().await.text(), "ok");
        edge.until_active(0).await;
        assert_eq!(edge.status().open, 1);
        assert_eq!(client.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 1)]);
    });
}
