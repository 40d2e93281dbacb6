//! One request in, one response out.

use super::*;

#[test]
fn requests_and_answers_are_translated() {
    run(async {
        let (address, mut requests) = recorder_with(
            "HTTP/1.1 200 OK\r\nConnection: x-hop\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nServer: app\r\n\
             Content-Length: 2\r\n\r\nok",
        )
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let request = Request::get("http://Example.org:8080/a%20b//c?x=1&y=%2F?")
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .header("te", "trailers")
            .header("x-forwarded-for", "6.6.6.6")
            .header("x-other", "1")
            .body(())
            .unwrap();
        let (response, _) = client.begin(request, true).await;
        let answer = whole(response).await.unwrap();
        assert_eq!(answer.head.status(), 200);
        assert_eq!(answer.body, b"ok");
        assert_eq!((answer.field("server"), answer.field("via")), (Some("app"), Some("1.1 exuvia")));
        assert_eq!((answer.field("content-length"), answer.field("x-hop")), (Some("2"), None));
        assert!(answer.field("date").is_some_and(|date| date.ends_with(" GMT")));
        let request = requests.recv().await.unwrap();
        request.expect("GET /a%20b//c?x=1&y=%2F? HTTP/1.1\r\n").expect("host: Example.org:8080\r\n");
        request.expect("cookie: a=1; b=2\r\n").expect("te: trailers\r\n").expect("via: 2.0 exuvia\r\n");
        request.expect("x-forwarded-for: 127.0.0.1\r\n").expect("x-other: 1\r\n").without("6.6.6.6");
        request.without("content-length").without("transfer-encoding");

        drop(client);
        assert_eq!(edge.h2_ends().await, [(End::ClosedByPeer, 1)]);
        // It began as HTTP/1, until its first bytes were there.
        assert_eq!(edge.status().ends, [(End::Switched, 1)]);
    });
}

/// In pieces, too: hyper knows the preface only if it is there at once, and would answer with a 400.
#[test]
fn the_preface_may_come_in_pieces() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        for at in 1..PREFACE.len() {
            let mut client = edge.connect().await;
            client.send_bytes(&PREFACE[..at]).await;
            turns().await;
            client.send_bytes(&PREFACE[at..]).await;
            client.send_bytes(&frame(4, 0, 0, &[])).await;
            client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
            assert_eq!(client.frame().await.unwrap().kind, 4);
            assert_eq!(client.frame_of(0).await.payload, b"ok", "cut at {at}");
        }
    });
}

#[test]
fn what_only_begins_like_the_preface_is_http_1() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        for piece in ["P", "R", "I", "NT / HTTP/1.1\r\n", "Host: a\r\n\r\n"] {
            client.send(piece).await;
            turns().await;
        }
        client.message().await.expect("HTTP/1.1 200 OK");
        requests.recv().await.unwrap().expect("PRINT / HTTP/1.1\r\n");

        let mut cut_short = edge.connect().await;
        cut_short.send("PRI * HT").await;
        cut_short.stream.shutdown().await.unwrap();
        cut_short.rest().await;
    });
}

/// What was to be read next was looked at anew whenever a connection had rested for a while: one that had spoken HTTP/1
/// could turn into HTTP/2, behind the back of whatever in front of it had looked at its beginning.
#[test]
fn a_connection_that_has_spoken_http_1_speaks_nothing_else() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut beginnings = Vec::new();
        for _ in 0..2 {
            let mut client = edge.connect().await;
            client.get("/").await.expect("200 OK");
            beginnings.push(client);
        }
        let mut empty_line = edge.connect().await;
        empty_line.send("\r\n").await;
        turns().await;
        beginnings.push(empty_line);
        let rested = beginnings.remove(0);
        // Long enough to be taken apart.
        pass(crate::server::rest::FOLD_AFTER).await;
        edge.until_active(0).await;
        turns().await;
        beginnings.push(rested);
        for mut client in beginnings {
            client.send_bytes(PREFACE).await;
            client.send_bytes(&frame(4, 0, 0, &[])).await;
            let told = client.rest().await;
            assert!(told.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"), "{told}");
        }
    });
}

#[test]
fn a_listener_without_http_2_says_so() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        let listener = ListenerConfig { http1: true, http2: false, ..ListenerConfig::default() };
        setup.server.listeners.insert("test".into(), listener);
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send_bytes(PREFACE).await;
        assert!(client.rest().await.starts_with("HTTP/1.1 505 HTTP Version Not Supported\r\n"));
        assert_eq!(edge.ends().await, [(End::ProtocolError, 1)]);
    });
}

#[test]
fn streams_share_a_connection() {
    run(async {
        // Answers "/0" only when all the others have been answered.
        let (sender, gate) = tokio::sync::watch::channel(0);
        let address = upstream(move |mut peer| {
            let mut gate = gate.clone();
            async move {
                while peer.more().await {
                    let request = peer.message().await;
                    if request.head.starts_with("GET /0 ") {
                        gate.wait_for(|answered| *answered == 49).await.unwrap();
                    }
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let mut responses = Vec::new();
        for n in 0..50 {
            responses.push(client.begin(get(&format!("/{n}")), true).await.0);
        }
        for response in responses.drain(1..) {
            assert_eq!(whole(response).await.unwrap().body, b"ok");
            sender.send_modify(|answered| *answered += 1);
        }
        assert_eq!(whole(responses.remove(0)).await.unwrap().body, b"ok");
        assert_eq!(edge.h2_status().began, 1);
    });
}

#[test]
fn answers_without_a_body() {
    run(async {
        let (address, _requests) = recorder_with("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n").await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        for _ in 0..2 {
            let (response, _) = client.begin(Request::head("http://test/").body(()).unwrap(), true).await;
            let answer = whole(response).await.unwrap();
            assert_eq!((answer.head.status().as_u16(), answer.field("content-length")), (200, Some("12345")));
            assert!(answer.body.is_empty());
        }
        for status in ["204 No Content", "304 Not Modified"] {
            let answer = format!("HTTP/1.1 {status}\r\nEtag: x\r\n\r\n");
            let (address, _requests) = recorder_with(answer.leak()).await;
            let mut client = super::edge(address).await.h2().await;
            let answer = client.get("/").await;
            assert_eq!(answer.head.status().as_str(), &status[..3]);
            assert_eq!((answer.field("etag"), answer.field("content-length")), (Some("x"), None));
        }
    });
}

#[test]
fn bodies_and_trailers_pass_both_ways() {
    run(async {
        let (address, mut requests) = recorder_with(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: grpc-status\r\n\r\n\
             5\r\nhello\r\n0\r\ngrpc-status: 0\r\n\r\n",
        )
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let request = Request::post("http://test/").header("trailer", "x-sum").body(()).unwrap();
        let (response, mut sending) = client.begin(request, false).await;
        sending.send_data(Bytes::from_static(b"some "), false).unwrap();
        sending.send_data(Bytes::from_static(b"more"), false).unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", "9".parse().unwrap());
        sending.send_trailers(trailers).unwrap();
        let answer = whole(response).await.unwrap();
        assert_eq!(answer.body, b"hello");
        assert_eq!(answer.trailers.unwrap()["grpc-status"], "0");
        let request = requests.recv().await.unwrap();
        request.expect("transfer-encoding: chunked\r\n").without("content-length");
        assert_eq!(request.text(), "some more");
        assert_eq!(request.trailers, "x-sum: 9\r\n\r\n");

        // A length is kept, and GET may have a body.
        let request = Request::get("http://test/").header("content-length", "4").body(()).unwrap();
        let (response, mut sending) = client.begin(request, false).await;
        sending.send_data(Bytes::from_static(b"four"), true).unwrap();
        whole(response).await.unwrap();
        let request = requests.recv().await.unwrap();
        request.expect("content-length: 4\r\n").without("transfer-encoding");
        assert_eq!(request.text(), "four");
    });
}

/// The answer streams while the request does, as gRPC's bidirectional streams need.
#[test]
fn both_directions_stream_at_once() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.until("\r\n\r\n").await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            loop {
                let size = peer.until("\r\n").await;
                let size = usize::from_str_radix(size.trim(), 16).unwrap();
                let data = peer.bytes(size + 2).await;
                peer.send(&format!("{size:x}\r\n{}", String::from_utf8(data).unwrap())).await;
                if size == 0 {
                    break;
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (response, mut sending) = client.begin(post("/"), false).await;
        let mut body = timeout(LONG, response).await.unwrap().unwrap().into_body();
        for word in ["one", "two", "three"] {
            sending.send_data(word.into(), false).unwrap();
            let data = timeout(LONG, body.data()).await.unwrap().unwrap().unwrap();
            assert_eq!(data, word);
        }
        sending.send_data(Bytes::new(), true).unwrap();
        assert_eq!(rest_of(body).await.unwrap().0, b"");
    });
}

#[test]
fn expectations_are_answered_when_the_body_is_wanted() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        let fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", "/"),
            (":authority", "test"),
            ("expect", "100-continue"),
        ];
        client.send_bytes(&frame(1, 4, 1, &block(&fields))).await;
        let interim = client.frame_of(1).await;
        // Not the end of anything but the head.
        assert_eq!((interim.stream, interim.flags), (1, 4));
        client.send_bytes(&frame(0, 1, 1, b"body")).await;
        client.frame_of(1).await;
        assert_eq!(client.frame_of(0).await.payload, b"ok");
        assert_eq!(requests.recv().await.unwrap().text(), "body");
    });
}

#[test]
fn errors_of_ours_are_answers() {
    run(async {
        let (nobody, _socket) = nobody();
        let edge = edge(nobody).await;
        let mut client = edge.h2().await;
        let answer = client.get("/").await;
        assert_eq!(answer.head.status(), 502);
        assert_eq!(answer.field("content-length"), Some(answer.body.len().to_string().as_str()));
        let (response, _) = client.begin(Request::connect("test:443").body(()).unwrap(), false).await;
        let answer = whole(response).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), answer.field("connection")), (405, None));
        client.get("/").await;
    });
}

#[test]
fn an_answer_that_breaks_off_is_reset() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        for _ in 0..2 {
            let (response, _) = client.begin(get("/"), true).await;
            let error = whole(response).await.unwrap_err();
            assert_eq!(error.reason(), Some(Reason::INTERNAL_ERROR));
        }
    });
}

/// A client that resets its stream takes its request back from the upstream, wherever it is.
#[test]
fn a_reset_reaches_the_upstream() {
    run(async {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                let head = peer.until("\r\n\r\n").await;
                sender.send(true).unwrap();
                if head.starts_with("GET /head") {
                    peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
                }
                let mut rest = [0; 64];
                while peer.stream.read(&mut rest).await.is_ok_and(|n| n > 0) {}
                sender.send(false).unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        for (request, end) in [(get("/"), true), (get("/head"), true), (post("/body"), false)] {
            let (response, mut sending) = client.begin(request, end).await;
            assert!(timeout(LONG, ended.recv()).await.unwrap().unwrap());
            sending.send_reset(Reason::CANCEL);
            drop(response);
            assert!(!timeout(LONG, ended.recv()).await.expect("the upstream is not told").unwrap());
        }
        edge.until_h2(|status| status.active == 0).await;
    });
}

/// RFC 9113, section 8.1: the client learns that nobody wants the rest, and that the answer is whole.
#[test]
fn an_answer_before_the_end_of_the_request() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.until("\r\n\r\n").await;
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig").await;
            while peer.more().await {}
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "test")];
        client.send_bytes(&frame(1, 4, 1, &block(&fields))).await;
        client.send_bytes(&frame(0, 0, 1, b"beginning")).await;
        let data = client.frame_of(0).await;
        assert_eq!((data.payload.as_slice(), data.flags), (&b"big"[..], 1));
        let reset = client.frame_of(RST_STREAM).await;
        assert_eq!((reset.stream, reset.payload), (1, vec![0, 0, 0, 0]));
    });
}

/// What a gRPC call may have: metadata of 16 KiB either way, and an answer that is nothing but trailers.
#[test]
fn grpc_passes_untouched() {
    run(async {
        let metadata = "m".repeat(16 * 1024);
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 5\r\nx-meta: {metadata}\r\n\
             content-length: 0\r\n\r\n"
        );
        let (address, mut requests) = recorder_with(answer.leak()).await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let request = Request::post("http://test/pkg.Service/Method")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .header("grpc-timeout", "100m")
            .header("x-meta", &metadata)
            .body(())
            .unwrap();
        let (response, mut sending) = client.begin(request, false).await;
        sending.send_data(Bytes::from_static(b"\0\0\0\0\x02hi"), true).unwrap();
        let response = timeout(LONG, response).await.unwrap().unwrap();
        // Headers that end the stream: there is no DATA.
        assert!(response.body().is_end_stream());
        assert_eq!(response.headers()["grpc-status"], "5");
        assert_eq!(response.headers()["x-meta"].len(), metadata.len());
        let request = requests.recv().await.unwrap();
        request.expect("POST /pkg.Service/Method HTTP/1.1\r\n").expect("grpc-timeout: 100m\r\n");
        request.expect("te: trailers\r\n").expect(&metadata);
        assert_eq!(request.body, b"\0\0\0\0\x02hi");
    });
}

/// In HTTP/2 "/" and "*" are two targets; an absolute target of HTTP/1 without a path means the latter.
#[test]
fn options_of_the_server_and_of_its_root() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        for (stream, path) in [(1, "/"), (3, "*")] {
            let fields =
                [(":method", "OPTIONS"), (":scheme", "http"), (":path", path), (":authority", "test")];
            client.send_bytes(&frame(1, 5, stream, &block(&fields))).await;
            client.frame_of(0).await;
            requests.recv().await.unwrap().expect(&format!("OPTIONS {path} HTTP/1.1\r\nhost: test\r\n"));
        }
    });
}

#[test]
fn interim_answers_come_before_the_answer() {
    run(async {
        let (address, _requests) = recorder_with(
            "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n\
             HTTP/1.1 103 Early Hints\r\nLink: </b>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        )
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        for _ in 0..2 {
            let (mut response, _) = client.begin(get("/"), true).await;
            for link in ["</a>", "</b>"] {
                let interim = std::future::poll_fn(|cx| response.poll_informational(cx));
                let interim = timeout(LONG, interim).await.unwrap().unwrap().unwrap();
                assert_eq!(
                    (interim.status().as_u16(), &interim.headers()["link"]),
                    (103, &link.parse().unwrap())
                );
                assert!(!interim.headers().contains_key("x-hop"));
            }
            assert_eq!(whole(response).await.unwrap().body, b"ok");
        }
    });
}

/// The upstream does not want the body: the client is not told to send it, and that it need not.
#[test]
fn an_expectation_that_fails() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.until("\r\n\r\n").await;
            peer.send("HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno").await;
            while peer.more().await {}
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        let mut fields = GET.to_vec();
        fields[0] = (":method", "POST");
        fields.push(("expect", "100-continue"));
        client.send_bytes(&frame(1, 4, 1, &block(&fields))).await;
        let (mut heads, mut data) = (0, Vec::new());
        let reset = loop {
            match client.frame().await.expect("ended") {
                frame if frame.kind == RST_STREAM => break frame,
                frame if frame.kind == 0 => data.extend(frame.payload),
                frame if frame.kind == 1 => heads += 1,
                _ => {}
            }
        };
        // A 100 would be another head.
        assert_eq!((heads, data.as_slice()), (1, &b"no"[..]));
        assert_eq!((reset.stream, reset.payload), (1, vec![0, 0, 0, 0]));
        edge.until_h2(|status| status.active == 0).await;
    });
}
