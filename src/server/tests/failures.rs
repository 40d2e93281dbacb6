//! Upstreams that are down or misbehave, and clients that do not wait.

use super::*;

#[test]
fn an_upstream_that_is_down() {
    run(async {
        let (down, _socket) = nobody();
        let edge = edge(down).await;
        let mut client = edge.connect().await;
        for _ in 0..2 {
            let answer = client.get("/").await;
            answer.expect("HTTP/1.1 502 Bad Gateway\r\n");
            assert_eq!(answer.error(), format!("502 Bad Gateway: upstream {down}: connection refused"));
        }
        client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.expect("502 Bad Gateway");
        client.get("/").await.expect("502 Bad Gateway");

        let none = Setup::new(&[]).start().await;
        assert!(none.connect().await.get("/").await.text().contains("no upstream server"));
    });
}

#[test]
fn the_next_server_is_tried_and_all_get_their_turn() {
    run(async {
        let ((a, mut at_a), (b, mut at_b)) = (recorder().await, recorder().await);
        let (down, _socket) = nobody();
        let edge = Setup::new(&[down, a, b]).start().await;
        let mut client = edge.connect().await;
        for _ in 0..6 {
            assert_eq!(client.get("/").await.text(), "ok");
        }
        let count = |requests: &mut mpsc::UnboundedReceiver<Message>| {
            std::iter::from_fn(|| requests.try_recv().ok()).count()
        };
        assert_eq!((count(&mut at_a), count(&mut at_b)), (4, 2));
    });
}

#[test]
fn upstreams_over_a_unix_socket_and_by_name() {
    run(async {
        let folder = std::env::temp_dir().join(format!("exuvia-proxy-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("app.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            assert!(stream.read(&mut request).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nunix").await.unwrap();
        });
        let mut setup = Setup::new(&[]);
        setup.proxy.servers = vec![ServerAddr::Unix(Arc::new(path))];
        assert_eq!(setup.start().await.connect().await.get("/").await.text(), "unix");
        std::fs::remove_dir_all(&folder).unwrap();

        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[]);
        setup.name("localhost", address.port());
        assert_eq!(setup.start().await.connect().await.get("/").await.text(), "ok");
    });
}

/// The upstream closes a connection that was kept: the next request goes out on a new one.
#[test]
fn a_dead_idle_connection_costs_no_request() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            // Without `Connection: close`, as servers do whose keep-alive has timed out.
        })
        .await;
        let mut client = edge(address).await.connect().await;
        for _ in 0..50 {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc").await;
            assert_eq!(client.message().await.text(), "ok");
        }
    });
}

#[test]
fn upstreams_that_do_not_answer_right() {
    run(async {
        for (sent, word) in [
            ("", "closed the connection before it answered"),
            ("HTTP/1.1 200 OK\r\nContent-Le", "closed the connection before it answered"),
            ("SSH-2.0-OpenSSH_9.9\r\n\r\n", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\nxx", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n", "malformed answer"),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "malformed answer"),
            ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "malformed answer"),
        ] {
            let address = upstream(move |mut peer| async move {
                peer.message().await;
                peer.send(sent).await;
            })
            .await;
            let mut client = edge(address).await.connect().await;
            let answer = client.get("/").await;
            answer.expect("HTTP/1.1 502 Bad Gateway");
            assert!(answer.text().contains(&format!("upstream {address}: ")), "{}", answer.text());
            assert!(answer.text().contains(word), "{sent:?}: {}", answer.text());
        }
    });
}

/// A client must be able to tell an answer that was broken off from one that has ended.
#[test]
fn an_answer_that_is_cut_does_not_look_whole() {
    run(async {
        for head in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
            let address = upstream(move |mut peer| async move {
                peer.message().await;
                peer.send(&format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n5\r\nhello\r\n")).await;
            })
            .await;
            let edge = edge(address).await;
            let mut client = edge.connect().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
            assert!(!answer.ends_with("0\r\n\r\n"), "{answer}");
            assert_eq!(edge.ends().await, [(End::Aborted, 1)]);

            // To HTTP/1.0 a chunked answer goes without a length: only a reset can tell.
            let mut client = edge.connect().await;
            client.send("GET / HTTP/1.0\r\n\r\n").await;
            let mut answer = Vec::new();
            let end = timeout(LONG, client.stream.read_to_end(&mut answer)).await.unwrap();
            assert_eq!(end.is_err(), head.starts_with("Transfer"), "{head}: {end:?}");
            edge.ends().await;
        }
    });
}

#[test]
fn an_early_answer_arrives_although_the_body_does_not_end() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
                .await;
            while peer.more().await {
                peer.buffer.clear();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n").await;
        client.send(&"x".repeat(200_000)).await;
        let answer = client.message().await;
        answer.expect("413 Content Too Large");
        assert_eq!(answer.text(), "big");
    });
}

#[test]
fn what_follows_a_malformed_request_does_not_hide_the_answer() {
    run(async {
        let edge = edge(nobody().0).await;
        let mut client = edge.connect().await;
        client.send(&format!("nonsense\r\n\r\n{}", "x".repeat(400_000))).await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answer}");
        assert_eq!(edge.ends().await, [(End::ProtocolError, 1)]);
    });
}

/// A close with unread bytes in the socket is a reset, which destroys what the client has not got yet.
#[test]
fn the_end_of_an_answer_outlives_what_the_client_still_sends() {
    run(async {
        let length = 8 << 20;
        let address = upstream(move |mut peer| async move {
            peer.message().await;
            let body = "x".repeat(length);
            peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        let junk = "x".repeat(400_000);
        client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n{junk}")).await;
        assert_eq!(client.message().await.body.len(), length);
        assert_eq!(client.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 1)]);
    });
}

#[test]
fn a_client_that_goes_away_takes_its_upstream_request_with_it() {
    run(async {
        let (sender, mut closed) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.head().await;
                sender.send("asked").unwrap();
                while matches!(peer.stream.read_buf(&mut peer.buffer).await, Ok(n) if n > 0) {}
                sender.send("closed").unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        for request in
            ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"]
        {
            let mut client = edge.connect().await;
            client.send(request).await;
            assert_eq!(closed.recv().await, Some("asked"));
            assert_eq!(edge.status().active, 1);
            drop(client);
            assert_eq!(timeout(LONG, closed.recv()).await.unwrap(), Some("closed"));
        }
        assert_eq!(edge.ends().await, [(End::PeerAborted, 2)]);
        assert_eq!(edge.status().active, 0);
    });
}

#[test]
fn a_body_that_is_framed_wrong_is_the_clients_fault() {
    run(async {
        let address = upstream(|mut peer| async move { while peer.more().await {} }).await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").await;
        let answer = client.rest().await;
        assert!(
            answer.starts_with("HTTP/1.1 400 Bad Request") && answer.contains("connection: close"),
            "{answer}"
        );
        edge.ends().await;
    });
}

/// nginx holds it so too. Whether a client has gone away or only has no more to say cannot be seen, and a request
/// that nobody waits for costs the upstream, and the drain, as much as any other.
#[test]
fn a_client_that_ends_its_side_before_the_answer_has_gone_away() {
    run(async {
        let (sender, mut closed) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.message().await;
                while peer.more().await {}
                sender.send(()).unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        edge.until_active(1).await;
        client.stream.shutdown().await.unwrap();
        timeout(LONG, closed.recv()).await.unwrap().unwrap();
        assert_eq!(client.rest().await, "");
        assert_eq!(edge.ends().await, [(End::PeerAborted, 1)]);
    });
}

/// An answer that is framed wrong is cut, and its connection is not used again.
#[test]
fn bad_chunks_of_an_upstream() {
    run(async {
        for bad in ["0x2\r\nok\r\n0\r\n\r\n", "2\r\nokX\r\n0\r\n\r\n", "2;a\nb\r\nok\r\n0\r\n\r\n"] {
            let (sender, mut connections) = mpsc::unbounded_channel();
            let address = upstream(move |mut peer| {
                sender.send(()).ok();
                async move {
                    while !peer.buffer.is_empty() || peer.more().await {
                        peer.message().await;
                        peer.send(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{bad}"))
                            .await;
                    }
                }
            })
            .await;
            let edge = edge(address).await;
            for _ in 0..2 {
                let mut client = edge.connect().await;
                client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
                let answer = client.rest().await;
                assert!(!answer.ends_with("0\r\n\r\n"), "{bad:?}: {answer}");
                connections.recv().await.unwrap();
            }
            assert_eq!(edge.ends().await, [(End::Aborted, 2)], "{bad:?}");
        }
    });
}
