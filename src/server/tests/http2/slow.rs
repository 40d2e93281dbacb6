//! Clients that are too slow.

use super::*;

/// An upstream whose answer has no end, until nobody reads it.
async fn endless() -> (SocketAddr, Rc<std::cell::Cell<usize>>) {
    let sent = Rc::new(std::cell::Cell::new(0));
    let counter = sent.clone();
    let address = upstream(move |mut peer| {
        let counter = counter.clone();
        async move {
            let request = peer.until("\r\n\r\n").await;
            if request.starts_with("GET /short") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                return;
            }
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
            let block = vec![b'x'; 65536];
            while let Ok(n) = peer.stream.write(&block).await {
                counter.set(counter.get() + n);
            }
        }
    })
    .await;
    (address, sent)
}

#[test]
fn a_preface_that_does_not_come() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.header_timeout = SHORT;
        setup
            .server
            .listeners
            .insert("test".into(), ListenerConfig { http1: false, http2: true, ..ListenerConfig::default() });
        let edge = setup.start().await;
        let (mut silent, mut half) = (edge.connect().await, edge.connect().await);
        half.send("PRI * HTTP/2.0\r\n").await;
        assert_eq!(silent.goaway().await, Some(0));
        assert_eq!(half.goaway().await, Some(0));
        assert_eq!(edge.h2_ends().await, [(End::TimedOut, 2)]);
    });
}

/// The first SETTINGS of ours are never acknowledged.
#[test]
fn a_client_that_acknowledges_nothing() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.http2.ack_timeout = SHORT;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.send_bytes(&[PREFACE, &frame(4, 0, 0, &[])].concat()).await;
        client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        assert_eq!(client.frame_of(0).await.payload, b"ok");
        const SETTINGS_TIMEOUT: u32 = 4;
        assert_eq!(client.goaway().await, Some(SETTINGS_TIMEOUT));
        assert_eq!(edge.h2_ends().await, [(End::TimedOut, 1)]);
    });
}

/// A peer that has gone without a word, while its stream waits for an upstream that takes long.
#[test]
fn a_silent_peer_is_asked_whether_it_lives() {
    run(async {
        let address = upstream(|mut peer| async move { while peer.more().await {} }).await;
        let mut setup = Setup::new(&[address]);
        setup.server.stall_timeout = 2 * SHORT;
        setup.server.http2.ack_timeout = SHORT;
        let edge = setup.start().await;
        let (mut deaf, mut alive) = (edge.connect().await, edge.connect().await);
        for client in [&mut deaf, &mut alive] {
            client.open_h2().await;
            client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        }
        for _ in 0..5 {
            let ping = loop {
                let ping = alive.frame_of(6).await;
                if ping.flags == 0 {
                    break ping;
                }
            };
            alive.send_bytes(&frame(6, 1, 0, &ping.payload)).await;
        }
        assert_eq!(deaf.goaway().await, Some(0));
        drop(deaf);
        edge.until_h2(|status| status.ends == [(End::TimedOut, 1)]).await;
        assert_eq!(edge.h2_status().active, 1);
    });
}

/// One stream stands still; the other goes on.
#[test]
fn a_stream_that_nobody_reads_is_reset() {
    run(async {
        let (address, sent) = endless().await;
        let mut setup = Setup::new(&[address]);
        setup.server.stall_timeout = SHORT;
        let edge = setup.start().await;
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(100_000).initial_connection_window_size(1_000_000);
        let mut client = edge.h2_with(builder).await;
        let (response, _) = client.begin(get("/"), true).await;
        let mut body = timeout(LONG, response).await.unwrap().unwrap().into_body();
        let mut read = 0;
        let error = loop {
            match timeout(LONG, body.data()).await.expect("not reset") {
                // Read, and no room made for more.
                Some(Ok(data)) => read += data.len(),
                Some(Err(error)) => break error,
                None => panic!("the answer has no end"),
            }
        };
        assert_eq!((read, error.reason()), (100_000, Some(Reason::CANCEL)));
        assert_eq!(client.get("/short").await.body, b"ok");
        assert!(sent.get() < 32 << 20, "{} bytes were taken from the upstream", sent.get());
        edge.until_h2(|status| status.active == 0).await;
    });
}

#[test]
fn a_stream_whose_body_does_not_come_is_reset() {
    run(async {
        let address = upstream(|mut peer| async move {
            let request = peer.until("\r\n\r\n").await;
            if request.starts_with("GET") {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
            while peer.more().await {}
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.server.stall_timeout = SHORT;
        // The upstream is not to blame for the client's silence.
        setup.proxy.response_timeout = SHORT / 4;
        let edge = setup.start().await;
        let mut client = edge.h2().await;
        let (response, mut sending) = client.begin(post("/"), false).await;
        sending.send_data(Bytes::from_static(b"part"), false).unwrap();
        assert_eq!(whole(response).await.unwrap_err().reason(), Some(Reason::CANCEL));
        assert_eq!(client.get("/").await.body, b"ok");
    });
}

/// Nothing at all is taken: neither can the client be told.
#[test]
fn a_client_that_takes_no_bytes_is_cut() {
    run(async {
        let (address, _sent) = endless().await;
        let mut setup = Setup::new(&[address]);
        setup.server.stall_timeout = SHORT;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        let window = 0x7fff_ffff_u32.to_be_bytes();
        let settings = [&[0, 4][..], &window].concat();
        client.send_bytes(&[PREFACE, &frame(4, 0, 0, &settings), &frame(4, 1, 0, &[])].concat()).await;
        client.send_bytes(&frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes())).await;
        client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        edge.until_h2(|status| status.active == 1).await;
        assert_eq!(edge.h2_ends().await, [(End::TimedOut, 1)]);
    });
}

/// A reader that takes its time gets everything, and the upstream is no further ahead than the buffers hold.
#[test]
fn a_slow_reader_holds_the_upstream_back() {
    run(async {
        const SIZE: usize = 32 << 20;
        let sent = Rc::new(std::cell::Cell::new(0));
        let counter = sent.clone();
        let address = upstream(move |mut peer| {
            let counter = counter.clone();
            async move {
                peer.message().await;
                peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n")).await;
                for block in 0..SIZE / 65536 {
                    let block = vec![u8::try_from(block % 251).unwrap(); 65536];
                    peer.stream.write_all(&block).await.unwrap();
                    counter.set(counter.get() + block.len());
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (response, _) = client.begin(get("/"), true).await;
        let mut body = timeout(LONG, response).await.unwrap().unwrap().into_body();
        let (mut read, mut most) = (0, 0);
        while let Some(data) = timeout(LONG, body.data()).await.unwrap() {
            let data = data.unwrap();
            for (at, byte) in data.iter().enumerate() {
                assert_eq!(usize::from(*byte), (read + at) / 65536 % 251);
            }
            read += data.len();
            most = most.max(sent.get() - read.min(sent.get()));
            body.flow_control().release_capacity(data.len()).unwrap();
        }
        assert_eq!(read, SIZE);
        assert!(most < 24 << 20, "{most} bytes ahead");
    });
}

/// And a slow upstream the client.
#[test]
fn a_slow_upstream_holds_the_client_back() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let address = upstream(move |mut peer| {
            let mut gate = gate.clone();
            async move {
                peer.until("\r\n\r\n").await;
                gate.wait_for(|open| *open).await.unwrap();
                let mut left: usize = 32 << 20;
                left -= peer.buffer.len();
                let mut block = vec![0; 65536];
                while left > 0 {
                    left -= peer.stream.read(&mut block).await.unwrap();
                }
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let request = Request::post("http://test/").header("content-length", 32 << 20).body(()).unwrap();
        let (response, mut sending) = client.begin(request, false).await;
        let mut left: usize = 32 << 20;
        let mut blocked = false;
        while left > 0 {
            sending.reserve_capacity(left.min(65536));
            let capacity = std::future::poll_fn(|cx| sending.poll_capacity(cx));
            match timeout(if blocked { LONG } else { SHORT }, capacity).await {
                Ok(capacity) => {
                    let n = capacity.unwrap().unwrap().min(left);
                    left -= n;
                    sending.send_data(vec![b'x'; n].into(), left == 0).unwrap();
                }
                Err(_) => {
                    // The windows and the kernel's buffers are full: far from all of it is on its way.
                    assert!(left > 8 << 20, "{left} bytes left");
                    blocked = true;
                    go.send(true).unwrap();
                }
            }
        }
        assert!(blocked);
        assert_eq!(whole(response).await.unwrap().body, b"ok");
    });
}
