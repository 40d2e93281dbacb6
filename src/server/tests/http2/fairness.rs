//! Uploads that no server takes, and the other streams of their connection.

use super::*;

/// An upload that its server did not take used up the window of the client's connection: with four of them, no other
/// of that client could send a byte.
#[test]
fn uploads_that_no_server_takes_hold_up_no_other() {
    run(async {
        let address = upstream(|mut peer| async move {
            let head = peer.until("\r\n\r\n").await;
            if head.starts_with("POST /taken") {
                peer.bytes(100_000).await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
            // Nothing more is read.
            std::future::pending::<()>().await;
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.server.buffer_bytes = 8192;
        let streams = setup.server.http2.max_streams as usize;
        let edge = setup.start().await;
        let mut client = edge.h2().await;
        let mut uploads = Vec::new();
        for _ in 1..streams {
            let request = Request::post("http://test/").header("content-length", 1 << 30).body(()).unwrap();
            uploads.push(client.begin(request, false).await);
        }
        // As much as can be sent of each.
        let mut sending: Vec<_> = uploads.iter_mut().map(|(_, sending)| sending).collect();
        let fill = std::future::poll_fn(|cx| {
            let mut moved = false;
            for stream in &mut sending {
                stream.reserve_capacity(1 << 16);
                while let Poll::Ready(room) = stream.poll_capacity(cx) {
                    let room = room.unwrap().unwrap();
                    stream.send_data(vec![b'x'; room].into(), false).unwrap();
                    stream.reserve_capacity(1 << 16);
                    moved = true;
                }
            }
            if moved {
                cx.waker().wake_by_ref()
            }
            Poll::<()>::Pending
        });
        // None of them has an end: that there is room for no more is all that ends it.
        timeout(SHORT, fill).await.unwrap_err();
        let (response, mut sending) = client.begin(post("/taken"), false).await;
        sending.send_data(vec![b'x'; 100_000].into(), true).unwrap();
        assert_eq!(whole(response).await.unwrap().body, b"ok");
    });
}
