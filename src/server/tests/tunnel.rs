//! What was HTTP and carries something else.

use tokio::sync::oneshot;

use super::*;
use crate::server::TUNNEL;

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: x3JJHMbDL1EzLkh9GBhXDw==\r\n\r\n";
const GRANT: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: WebSocket\r\nX-Own: 1\r\n\r\n";

/// An upstream that grants every tunnel and sends back what comes, to the end.
async fn echo() -> SocketAddr {
    upstream(|mut peer| async move {
        peer.head().await.expect("connection: upgrade\r\n").expect("upgrade: websocket\r\n");
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

async fn tunnel(edge: &Edge) -> Peer {
    let mut client = edge.connect().await;
    client.send(ASK).await;
    let answer = client.head().await;
    answer.expect("HTTP/1.1 101 Switching Protocols\r\n").expect("connection: upgrade\r\n");
    answer.expect("upgrade: websocket\r\n").expect("x-own: 1\r\n").without("content-length");
    client
}

async fn end_of(edge: &Edge) -> Vec<(End, u64)> {
    assert_eq!(edge.ends().await, [(End::Switched, 1)]);
    edge.status_of(TUNNEL).ends
}

#[test]
fn bytes_both_ways_until_the_client_ends() {
    run(async {
        let edge = edge(echo().await).await;
        let mut client = tunnel(&edge).await;
        for word in ["one", "GET / HTTP/1.1\r\n\r\n", "three"] {
            client.send(word).await;
            assert_eq!(client.bytes(word.len()).await, word.as_bytes());
        }
        let status = edge.status_of(TUNNEL);
        assert_eq!((status.began, status.open, status.active), (1, 1, 1));
        client.stream.shutdown().await.unwrap();
        assert_eq!(client.rest().await, "");
        assert_eq!(end_of(&edge).await, [(End::ClosedByPeer, 1)]);
    });
}

/// Each side sends more in the same packet as its head.
#[test]
fn what_comes_right_behind_a_head_is_not_lost() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.head().await;
            // It is the proxy's to keep the order, however early the client is.
            peer.send(&format!("{GRANT}early")).await;
            assert_eq!(peer.until("first second third").await, "GET / HTTP/1.1\r\n\r\nfirst second third");
            peer.send(" late").await;
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send(&format!("{ASK}GET / HTTP/1.1\r\n\r\nfirst ")).await;
        client.send("second ").await;
        client.head().await.expect("101 ");
        client.send("third").await;
        assert_eq!(client.rest().await, "early late");
        assert_eq!(end_of(&edge).await, [(End::Closed, 1)]);
    });
}

#[test]
fn one_side_can_end_and_hear_the_other_out() {
    run(async {
        let (said, heard) = oneshot::channel();
        let said = std::cell::RefCell::new(Some(said));
        let address = upstream(move |mut peer| {
            let said = said.take().unwrap();
            async move {
                peer.head().await;
                peer.send(GRANT).await;
                peer.stream.shutdown().await.unwrap();
                said.send(peer.rest().await).unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = tunnel(&edge).await;
        assert!(!client.more().await, "the server has ended its side");
        client.send("still").await;
        client.send(" here").await;
        assert_eq!(edge.status_of(TUNNEL).open, 1);
        client.stream.shutdown().await.unwrap();
        assert_eq!(heard.await.unwrap(), "still here");
        assert_eq!(end_of(&edge).await, [(End::Closed, 1)]);
    });
}

#[test]
fn what_is_not_asked_for_is_not_taken() {
    run(async {
        for (asked, answered, word) in [
            ("", GRANT, "switched protocols without being asked"),
            ("Connection: upgrade\r\nUpgrade: h2c\r\n", GRANT, "without being asked"),
            ("Upgrade: websocket\r\n", GRANT, "without being asked"),
            (
                "Connection: upgrade\r\nUpgrade: websocket\r\n",
                "HTTP/1.1 101 Go\r\nUpgrade: h2c\r\n\r\n",
                "another protocol",
            ),
            (
                "Connection: upgrade\r\nUpgrade: websocket\r\n",
                "HTTP/1.1 101 Go\r\nUpgrade: tls, websocket\r\n\r\n",
                "another protocol",
            ),
            ("Connection: upgrade\r\nUpgrade: websocket\r\n", "HTTP/1.1 101 Go\r\n\r\n", "another protocol"),
        ] {
            let (address, _requests) = recorder_with(answered).await;
            let edge = edge(address).await;
            let mut client = edge.connect().await;
            client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{asked}\r\n")).await;
            let answer = client.message().await;
            answer.expect("HTTP/1.1 502 Bad Gateway\r\n");
            assert!(answer.text().contains("malformed answer"), "{word}: {}", answer.text());
            // The connection is good for more.
            client.get("/").await.expect("HTTP/1.1 502 ");
        }
    });
}

#[test]
fn a_server_that_does_not_switch_just_answers() {
    run(async {
        let (address, mut requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send(ASK).await;
        let answer = client.message().await;
        answer.expect("HTTP/1.1 200 OK\r\n").without("upgrade");
        requests.recv().await.unwrap().expect("upgrade: websocket\r\n");
        client.get("/").await.expect("200 OK");
        requests.recv().await.unwrap().without("upgrade");
        drop(client);
        assert_eq!(edge.ends().await, [(End::ClosedByPeer, 1)]);
    });
}

#[test]
fn which_upgrades_are_passed_on() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.upgrades = vec!["websocket".into(), "own".into()];
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        let h2c = "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n";
        for (sent, passed) in [
            ("Connection: Upgrade\r\nUpgrade: WebSocket", Some("upgrade: WebSocket")),
            ("Connection: upgrade\r\nUpgrade: h2c, OWN/2, websocket", Some("upgrade: OWN/2")),
            ("Connection: upgrade\r\nUpgrade: h2c\r\nUpgrade: own", Some("upgrade: own")),
            ("Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c", None),
            ("Connection: upgrade\r\nUpgrade: websockets", None),
            ("Connection: keep-alive\r\nUpgrade: websocket", None),
            ("Upgrade: websocket", None),
            ("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2", None),
        ] {
            let body = if sent.contains("Length") { "hi" } else { "" };
            client.send(&format!("GET / HTTP/1.1\r\nHost: a\r\n{h2c}{sent}\r\n\r\n{body}")).await;
            assert_eq!(client.message().await.text(), "ok", "{sent}");
            let request = requests.recv().await.unwrap();
            request.without("h2c").without("http2-settings");
            match passed {
                Some(passed) => {
                    request.expect(&format!("{passed}\r\n")).expect("connection: upgrade\r\n");
                }
                None => {
                    request.without("upgrade").without("connection");
                }
            }
        }
        client.send(&ASK.replace("HTTP/1.1", "HTTP/1.0")).await;
        assert_eq!(client.message().await.text(), "ok");
        requests.recv().await.unwrap().without("upgrade");
    });
}

#[test]
fn connect_goes_where_the_server_leads() {
    run(async {
        let address = upstream(|mut peer| async move {
            let request = peer.head().await;
            request.expect("CONNECT db.internal:5432 HTTP/1.1\r\n").expect("host: db.internal:5432\r\n");
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello").await;
            assert_eq!(peer.until("you").await, "you");
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.connect = true;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("CONNECT db.internal:5432 HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n").await;
        let answer = client.head().await;
        answer.expect("HTTP/1.1 200 OK\r\n").without("content-length").without("transfer-encoding");
        client.send("you").await;
        assert_eq!(client.rest().await, "hello");
        assert_eq!(end_of(&edge).await, [(End::Closed, 1)]);
    });
}

#[test]
fn a_connect_that_is_not_granted() {
    run(async {
        let (address, mut requests) = recorder_with("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.connect = true;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("CONNECT [::1]:1 HTTP/1.1\r\nHost: [::1]:1\r\n\r\n").await;
        assert_eq!(client.message().await.expect("HTTP/1.1 403 No").text(), "no");
        requests.recv().await.unwrap().expect("CONNECT [::1]:1 HTTP/1.1\r\n");
        client.get("/").await.expect("HTTP/1.1 403 ");
        requests.recv().await.unwrap();
        for target in ["db", "db:", "db:0", "db:65536", "db:+1", "u@db:1", "http://db:1/", "/", "::1:80"] {
            let mut client = edge.connect().await;
            client.send(&format!("CONNECT {target} HTTP/1.1\r\nHost: db\r\n\r\n")).await;
            let answer = client.rest().await;
            assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{target}: {answer}");
        }
        requests.try_recv().unwrap_err();
    });
}

/// What `Host` says beside the target of a CONNECT was not looked at.
#[test]
fn a_connect_names_one_host() {
    async fn ask(edge: &Edge, request: &str) -> Message {
        let mut client = edge.connect().await;
        client.send(request).await;
        client.message().await
    }
    run(async {
        let (address, mut requests) = recorder_with("HTTP/1.1 403 No\r\nContent-Length: 2\r\n\r\nno").await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.connect = true;
        let edge = setup.start().await;
        for fields in ["Host: db:5432\r\n", "Host: DB\r\n", "Host: db:\r\n"] {
            let answer = ask(&edge, &format!("CONNECT db:5432 HTTP/1.1\r\n{fields}\r\n")).await;
            answer.expect("403 No");
            let request = requests.recv().await.unwrap();
            request.expect("CONNECT db:5432 HTTP/1.1\r\n").expect("host: db:5432\r\n");
        }
        ask(&edge, "CONNECT db:5432 HTTP/1.0\r\n\r\n").await.expect("403 No");
        requests.recv().await.unwrap().expect("host: db:5432\r\n");
        for (fields, words) in [
            ("", "the request has no Host"),
            ("Host: other\r\n", "the request's target and its Host disagree"),
            ("Host: db:443\r\n", "the request's target and its Host disagree"),
            ("Host: u@db\r\n", "the request's host is not valid"),
            ("Host: db\r\nHost: db\r\n", "the request has more than one Host"),
        ] {
            let answer = ask(&edge, &format!("CONNECT db:5432 HTTP/1.1\r\n{fields}\r\n")).await;
            assert_eq!(answer.expect("400 Bad Request").error(), format!("400 Bad Request: {words}"));
        }
        requests.try_recv().unwrap_err();
    });
}

/// An upload that the client broke off ended towards the server like one that is whole.
#[test]
fn a_side_that_breaks_breaks_the_other() {
    run(async {
        let (sender, mut broken) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.head().await;
                peer.send(GRANT).await;
                if peer.bytes(1).await == b"!" {
                    peer.stream.set_zero_linger().unwrap();
                    return;
                }
                peer.reset().await;
                sender.send(()).unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = tunnel(&edge).await;
        client.send("!").await;
        client.reset().await;
        assert_eq!(end_of(&edge).await, [(End::Aborted, 1)]);

        let mut client = tunnel(&edge).await;
        client.send("?").await;
        client.stream.set_zero_linger().unwrap();
        drop(client);
        timeout(LONG, broken.recv()).await.expect("the server does not hear of it").unwrap();
        edge.ends().await;
        assert_eq!(edge.status_of(TUNNEL).ends, [(End::PeerAborted, 1), (End::Aborted, 1)]);
    });
}

/// Both sides send at once, and the reader on each takes its time: nothing is lost, and nothing is read that
/// cannot be passed on.
#[test]
fn a_slow_side_slows_the_other() {
    const BLOCKS: usize = 512;
    fn block(n: usize) -> Vec<u8> {
        (0..32 * 1024).map(|i| ((i * 31 + n * 7) % 251) as u8).collect()
    }
    async fn exchange(peer: Peer) {
        let Peer { stream, buffer } = peer;
        let (read, mut write) = stream.into_split();
        // Some of it may have come with the head.
        let mut read = buffer.as_slice().chain(read);
        let sending = async {
            for n in 0..BLOCKS {
                write.write_all(&block(n)).await.unwrap();
            }
            write.shutdown().await.unwrap();
        };
        let reading = async {
            let mut got = vec![0; 32 * 1024];
            for n in 0..BLOCKS {
                read.read_exact(&mut got).await.unwrap();
                assert!(got == block(n), "block {n} is not what was sent");
                tokio::task::yield_now().await;
            }
            assert_eq!(read.read(&mut got).await.unwrap(), 0);
        };
        tokio::join!(sending, reading);
    }
    run(async {
        let address = upstream(|mut peer| async move {
            peer.head().await;
            peer.send(GRANT).await;
            exchange(peer).await;
        })
        .await;
        let edge = edge(address).await;
        exchange(tunnel(&edge).await).await;
        edge.ends().await;
        assert_eq!(edge.status_of(TUNNEL).open, 0);
    });
}

/// One of the two may have vanished in the middle of something: the other does not hear an end that nobody said.
#[test]
fn a_tunnel_that_rests_too_long_is_broken_off() {
    run(async {
        let (sender, mut broken) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.head().await;
                peer.send(GRANT).await;
                for _ in 0..5 {
                    peer.bytes(1).await;
                    peer.send("x").await;
                }
                peer.reset().await;
                sender.send(()).unwrap();
            }
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.server.tunnel_timeout = Duration::from_millis(1500);
        let edge = setup.start().await;
        let mut client = tunnel(&edge).await;
        for _ in 0..5 {
            // Together longer than the tunnel may rest; each so much shorter that a slow machine is no fault.
            tokio::time::sleep(Duration::from_millis(400)).await;
            client.send("x").await;
            client.bytes(1).await;
        }
        client.reset().await;
        timeout(LONG, broken.recv()).await.expect("the server does not hear of it").unwrap();
        assert_eq!(end_of(&edge).await, [(End::TimedOut, 1)]);
    });
}

#[test]
fn a_drain_leaves_tunnels_alone_and_its_deadline_counts_them() {
    run(async {
        let edge = edge(echo().await).await;
        let mut before = tunnel(&edge).await;
        edge.drain(Duration::ZERO);
        let mut during = tunnel(&edge).await;
        for client in [&mut before, &mut during] {
            client.send("still here").await;
            assert_eq!(client.bytes(10).await, b"still here");
        }
        assert_eq!(edge.status_of(TUNNEL).active, 2);
    });
}
