//! Clients that cost more than they bring.

use super::*;

async fn strict(change: impl FnOnce(&mut Config)) -> (Edge, mpsc::UnboundedReceiver<Message>) {
    let (address, requests) = recorder().await;
    let mut setup = Setup::new(&[address]);
    change(&mut setup.server);
    (setup.start().await, requests)
}

const ENHANCE_YOUR_CALM: Option<u32> = Some(11);

/// Sends `frames` again and again, until the edge has had enough.
async fn flood(edge: &Edge, opening: &[u8], frames: impl Fn(u32) -> Vec<u8>) -> Option<u32> {
    let mut client = edge.connect().await;
    client.open_h2().await;
    client.send_bytes(opening).await;
    for n in 0..10_000 {
        if client.stream.write_all(&frames(n)).await.is_err() {
            break;
        }
        if n % 16 == 0 {
            tokio::task::yield_now().await;
        }
    }
    client.goaway().await
}

#[test]
fn floods_of_control_frames() {
    run(async {
        let (edge, mut requests) = strict(|server| server.http2.max_control_frames_per_minute = 50).await;
        let frames = [
            frame(6, 0, 0, &[0; 8]),
            frame(6, 1, 0, &[0; 8]),
            frame(4, 0, 0, &[]),
            frame(2, 0, 1, &[0, 0, 0, 0, 1]),
            frame(8, 0, 0, &[0, 0, 0, 1]),
            frame(0xbe, 0, 0, b"?"),
        ];
        for bytes in &frames {
            assert_eq!(flood(&edge, b"", |_| bytes.clone()).await, ENHANCE_YOUR_CALM, "{bytes:?}");
        }
        assert_eq!(edge.h2_ends().await, [(End::Refused, frames.len() as u64)]);
        requests.try_recv().unwrap_err();
    });
}

fn open(n: u32) -> Vec<u8> {
    frame(1, 5, 2 * n + 1, &block(&GET))
}

#[test]
fn rapid_reset() {
    run(async {
        let (edge, _requests) = strict(|server| server.http2.max_resets_per_minute = 30).await;
        let code = flood(&edge, b"", |n| [open(n), frame(RST_STREAM, 0, 2 * n + 1, &[0, 0, 0, 8])].concat());
        assert_eq!(code.await, ENHANCE_YOUR_CALM);
        assert_eq!(edge.h2_ends().await, [(End::Refused, 1)]);
    });
}

/// The client resets nothing itself: it sends what is an error of the stream.
#[test]
fn made_you_reset() {
    run(async {
        let (edge, _requests) = strict(|server| server.http2.max_resets_per_minute = 30).await;
        // A WINDOW_UPDATE of nought, and one that is too large.
        for increment in [&[0, 0, 0, 0][..], &[0x7f, 0xff, 0xff, 0xff]] {
            let code = flood(&edge, b"", |n| {
                let update = frame(8, 0, 2 * n + 1, increment);
                let open = frame(1, 4, 2 * n + 1, &block(&GET));
                [open, update].concat()
            });
            let code = code.await;
            // h2 holds the first for an error of the connection, which is right as well.
            assert!(code == ENHANCE_YOUR_CALM || code == Some(1), "{code:?}");
        }
        let malformed = block(&[(":method", "GET")]);
        let code = flood(&edge, b"", |n| frame(1, 5, 2 * n + 1, &malformed)).await;
        assert_eq!(code, ENHANCE_YOUR_CALM);
        edge.h2_ends().await;
    });
}

#[test]
fn continuations_without_end() {
    run(async {
        let (edge, mut requests) = strict(|server| server.max_head_bytes = 8 * 1024).await;
        let part = block(&[("x", &"y".repeat(100))]);
        let code = flood(&edge, &frame(1, 1, 1, &block(&GET)), |_| frame(9, 0, 1, &part)).await;
        assert_eq!(code, ENHANCE_YOUR_CALM);
        // And empty ones, that never fill a list.
        let code = flood(&edge, &frame(1, 1, 1, &block(&GET)), |_| frame(9, 0, 1, &[])).await;
        assert_eq!(code, ENHANCE_YOUR_CALM);
        assert_eq!(edge.h2_ends().await, [(End::Refused, 2)]);
        requests.try_recv().unwrap_err();
    });
}

#[test]
fn data_that_is_empty() {
    run(async {
        let (edge, _requests) = strict(|server| server.http2.max_control_frames_per_minute = 50).await;
        let open = frame(1, 4, 1, &block(&GET));
        assert_eq!(flood(&edge, &open, |_| frame(0, 0, 1, &[])).await, ENHANCE_YOUR_CALM);
        assert_eq!(edge.h2_ends().await, [(End::Refused, 1)]);
    });
}

#[test]
fn more_streams_than_are_allowed_are_refused() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let address = upstream(move |mut peer| {
            let mut gate = gate.clone();
            async move {
                peer.message().await;
                gate.wait_for(|open| *open).await.unwrap();
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.server.http2.max_streams = 3;
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        for n in 0..4 {
            client.send_bytes(&open(n)).await;
        }
        let reset = client.frame_of(RST_STREAM).await;
        assert_eq!((reset.stream, reset.payload), (7, vec![0, 0, 0, 7]));
        go.send(true).unwrap();
        for _ in 0..3 {
            assert_eq!(client.frame_of(0).await.payload, b"ok");
        }
    });
}

/// A polite client is not held for a flood, however much it does.
#[test]
fn work_is_no_flood() {
    run(async {
        let (edge, mut requests) = strict(|server| {
            server.http2.max_control_frames_per_minute = 10;
            server.http2.max_resets_per_minute = 1;
        })
        .await;
        let mut client = edge.h2().await;
        for _ in 0..300 {
            let (response, mut sending) = client.begin(post("/"), false).await;
            for _ in 0..3 {
                sending.send_data(Bytes::from_static(b"part"), false).unwrap();
            }
            sending.send_data(Bytes::new(), true).unwrap();
            assert_eq!(whole(response).await.unwrap().body, b"ok");
            requests.recv().await.unwrap();
        }
    });
}

#[test]
fn what_is_no_http_2() {
    run(async {
        let (edge, _requests) = strict(|server| {
            server.listeners.insert(
                "test".into(),
                ListenerConfig { http1: false, http2: true, ..ListenerConfig::default() },
            );
        })
        .await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(client.goaway().await, Some(1));
        let mut client = edge.connect().await;
        client.open_h2().await;
        // DATA on a stream that was never opened.
        client.send_bytes(&frame(0, 0, 1, b"x")).await;
        assert_eq!(client.goaway().await, Some(1));
        assert_eq!(edge.h2_ends().await, [(End::ProtocolError, 2)]);
    });
}
