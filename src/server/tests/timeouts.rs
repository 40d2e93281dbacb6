//! Clients and upstreams that are too slow.

use super::*;

const SHORT: Duration = Duration::from_millis(200);

#[test]
fn a_head_that_does_not_end() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.header_timeout = SHORT;
        let edge = setup.start().await;
        for before in 0..2 {
            let mut client = edge.connect().await;
            for _ in 0..before {
                client.get("/").await;
                requests.recv().await.unwrap();
            }
            client.send("GET / HTTP/1.1\r\nHost: a\r\n").await;
            let answer = client.message().await;
            answer.expect("HTTP/1.1 408 Request Timeout\r\n").expect("connection: close\r\n");
            assert!(client.rest().await.is_empty());
        }
        assert_eq!(edge.ends().await, [(End::TimedOut, 2)]);
        requests.try_recv().unwrap_err();
    });
}

#[test]
fn an_idle_connection_is_closed_in_silence() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.idle_timeout = SHORT;
        let edge = setup.start().await;
        let fresh = edge.connect().await;
        let mut used = edge.connect().await;
        used.get("/").await;
        assert_eq!(fresh.rest().await, "");
        assert_eq!(used.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 2)]);
    });
}

#[test]
fn a_client_that_does_not_read_its_answer_is_cut() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
            let block = vec![b'x'; 65536];
            while peer.stream.write_all(&block).await.is_ok() {}
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.server.stall_timeout = SHORT;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        edge.until_active(1).await;
        assert_eq!(edge.ends().await, [(End::TimedOut, 1)]);
    });
}

#[test]
fn a_client_that_does_not_send_its_body_is_told() {
    run(async {
        let address = upstream(|mut peer| async move { while peer.more().await {} }).await;
        let mut setup = Setup::new(&[address]);
        setup.server.stall_timeout = SHORT;
        // The upstream is not to blame for the client's silence.
        setup.proxy.response_timeout = SHORT / 4;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
        client.message().await.expect("HTTP/1.1 408 Request Timeout");
        drop(client);
        assert_eq!(edge.ends().await, [(End::TimedOut, 1)]);
    });
}

/// The upstream has had no chance to answer before it has the whole request.
#[test]
fn a_slow_upload_is_not_the_upstreams_silence() {
    run(async {
        let (address, mut requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.response_timeout = SHORT;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n").await;
        for _ in 0..10 {
            tokio::time::sleep(SHORT / 4).await;
            client.send("x").await;
        }
        client.message().await.expect("200 OK");
        assert_eq!(requests.recv().await.unwrap().text(), "xxxxxxxxxx");
    });
}

#[test]
fn an_upstream_that_does_not_answer() {
    run(async {
        let address = upstream(|mut peer| async move { while peer.more().await {} }).await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.response_timeout = SHORT;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        for request in
            ["GET / HTTP/1.1\r\nHost: a\r\n\r\n", "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"]
        {
            client.send(request).await;
            let answer = client.message().await;
            answer.expect("HTTP/1.1 504 Gateway Timeout");
            assert_eq!(answer.error(), format!("504 Gateway Timeout: upstream {address}: no answer in time"));
        }
    });
}

#[test]
fn an_upstream_that_stops_in_the_middle() {
    run(async {
        let address = upstream(|mut peer| async move {
            peer.message().await;
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello").await;
            while peer.more().await {}
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.stall_timeout = SHORT;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert!(client.rest().await.ends_with("\r\n\r\nhello"));
        assert_eq!(edge.ends().await, [(End::Aborted, 1)]);
    });
}

#[test]
fn idle_upstream_connections_are_given_up() {
    run(async {
        let (sender, mut ended) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.message().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                assert!(!peer.more().await);
                sender.send(()).unwrap();
            }
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.connections.idle_timeout = SHORT;
        let edge = setup.start().await;
        edge.connect().await.get("/").await;
        timeout(LONG, ended.recv()).await.unwrap().unwrap();
    });
}

#[test]
fn an_idle_timeout_of_zero_keeps_no_upstream_connection() {
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
        let mut setup = Setup::new(&[address]);
        setup.proxy.connections.idle_timeout = Duration::ZERO;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        for n in 1..=3 {
            assert_eq!(client.get("/").await.text(), "ok");
            assert_eq!(connections.get(), n);
        }
    });
}
