//! What an upstream says before its answer, and bodies that wait to be asked for.

use super::*;

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x-hop\r\nX-Hop: 1\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const PUT: &str = "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n";

/// An upstream that says all of `words` to every request, in one piece.
async fn at_once(words: String) -> SocketAddr {
    let words: &'static str = words.leak();
    upstream(move |mut peer| async move {
        while !peer.buffer.is_empty() || peer.more().await {
            peer.message().await;
            peer.send(words).await;
        }
    })
    .await
}

#[test]
fn hints_come_before_the_answer() {
    run(async {
        let address = at_once(format!("HTTP/1.1 102 Processing\r\n\r\n{HINTS}{OK}")).await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        // Two at once: the second one's hints are not to be mixed into the first one's answer.
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(&get.repeat(2)).await;
        for _ in 0..2 {
            assert_eq!(client.head().await.head, "HTTP/1.1 102 Processing\r\n\r\n");
            let hints = client.head().await.head;
            assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
            assert_eq!(client.message().await.expect("HTTP/1.1 200 OK\r\n").text(), "ok");
        }
    });
}

#[test]
fn hints_do_not_wait_for_the_answer() {
    run(async {
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let gone = std::cell::RefCell::new(Some(gone));
        let address = upstream(move |mut peer| {
            let gone = gone.take().unwrap();
            async move {
                peer.message().await;
                peer.send(HINTS).await;
                gone.await.unwrap();
                peer.send(OK).await;
            }
        })
        .await;
        let mut client = edge(address).await.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        client.head().await.expect("HTTP/1.1 103 Early Hints\r\n");
        go.send(()).unwrap();
        client.message().await.expect("HTTP/1.1 200 OK\r\n");
    });
}

#[test]
fn too_many_are_dropped_and_old_clients_get_none() {
    run(async {
        let edge = edge(at_once(format!("{}{OK}", HINTS.repeat(20))).await).await;
        let mut old = edge.connect().await;
        old.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
        old.message().await.expect("200 OK\r\n");
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let answers = client.rest().await;
        assert_eq!(answers.matches("HTTP/1.1 103 Early Hints\r\n").count(), 16);
        assert!(answers.ends_with("\r\n\r\nok"), "{answers}");
    });
}

/// They are larger than what the way to the client takes at once.
#[test]
fn a_client_that_reads_late_gets_all_in_order() {
    run(async {
        let long = format!("HTTP/1.1 103 Early Hints\r\nX-Long: {}\r\n\r\n", "x".repeat(15_000));
        let edge = edge(at_once(format!("{}{OK}", long.repeat(4))).await).await;
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut client = Peer::new(socket.connect(edge.address).await.unwrap());
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        client.send(&get.repeat(20)).await;
        for _ in 0..20 {
            for _ in 0..4 {
                assert_eq!(client.head().await.head.to_lowercase(), long.to_lowercase());
            }
            client.message().await.expect("HTTP/1.1 200 OK\r\n");
        }
    });
}

#[test]
fn a_body_is_asked_for_by_the_upstream() {
    run(async {
        let address = upstream(|mut peer| async move {
            loop {
                let head = peer.head().await;
                head.expect("expect: 100-continue\r\n").expect("content-length: 4\r\n");
                assert!(peer.buffer.is_empty(), "the body has come unasked");
                peer.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                assert_eq!(peer.bytes(4).await, b"body");
                peer.send(OK).await;
            }
        })
        .await;
        let mut client = edge(address).await.connect().await;
        for _ in 0..2 {
            client.send(PUT).await;
            assert_eq!(client.head().await.head, "HTTP/1.1 100 Continue\r\n\r\n");
            client.send("body").await;
            client.message().await.expect("HTTP/1.1 200 OK\r\n").without("connection");
        }
    });
}

#[test]
fn a_body_that_is_not_wanted_is_not_sent() {
    run(async {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.head().await;
                peer.send("HTTP/1.1 417 No\r\nContent-Length: 200000\r\n\r\n").await;
                peer.send(&"x".repeat(200_000)).await;
                sender.send(peer.rest().await).unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send(PUT).await;
        let answer = client.message().await;
        answer.expect("HTTP/1.1 417 No\r\n").expect("connection: close\r\n");
        assert_eq!(answer.body.len(), 200_000);
        assert_eq!(client.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 1)]);
        assert_eq!(ended.recv().await.unwrap(), "", "the upstream gets no body, and its connection ends");
    });
}

#[test]
fn an_upstream_that_breaks_while_a_body_is_held_back() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.head().await;
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n").await;
            peer.rest().await;
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send(PUT).await;
        client.message().await.expect("HTTP/1.1 502 ").expect("connection: close\r\n");
        assert_eq!(client.rest().await, "");
    });
}

/// Such as an echo: its answer's body is what it reads.
#[test]
fn an_upstream_that_answers_before_it_reads() {
    run(async {
        let address = upstream(|mut peer| async move {
            for _ in 0..2 {
                peer.head().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n").await;
                let body = peer.bytes(4).await;
                peer.send(std::str::from_utf8(&body).unwrap()).await;
            }
        })
        .await;
        let mut client = edge(address).await.connect().await;
        for _ in 0..2 {
            client.send(PUT).await;
            assert_eq!(client.head().await.head, "HTTP/1.1 100 Continue\r\n\r\n");
            client.send("body").await;
            assert_eq!(client.message().await.expect("HTTP/1.1 200 OK\r\n").text(), "body");
        }
    });
}
