//! When a request counts as answered.

use super::*;

/// More than the kernel has room for between two ends.
const MUCH: usize = 32 << 20;

const ANSWERED: &str = "protocol=http2,method=GET,status=2xx,end=answered";

/// A client that takes whatever there is, and a server that holds `MUCH` for it.
async fn setup() -> (Edge, Peer) {
    let answer: &'static str =
        format!("HTTP/1.1 200 OK\r\nContent-Length: {MUCH}\r\n\r\n{}", "x".repeat(MUCH)).leak();
    let (address, _requests) = recorder_with(answer).await;
    let mut setup = Setup::new(&[address]);
    setup.server.buffer_bytes = 2 * MUCH;
    let edge = setup.start().await;
    let mut client = edge.connect().await;
    client.open_h2().await;
    let window = [&[0, 4][..], &(1u32 << 30).to_be_bytes()].concat();
    client.send_bytes(&frame(4, 0, 0, &window)).await;
    client.send_bytes(&frame(8, 0, 0, &(1u32 << 30).to_be_bytes())).await;
    client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
    (edge, client)
}

/// It was when h2 had taken the last of its answer: also where the client took nothing of it, and went away.
#[test]
fn an_answer_that_the_client_never_took_is_none() {
    run(async {
        let (edge, client) = setup().await;
        until(|| edge.counted("response_body_bytes_total") == [("protocol=http2".to_owned(), MUCH as u64)])
            .await;
        turns().await;
        edge.expect("requests_ended_total", &[]);
        assert_eq!(edge.h2_status().active, 1);
        drop(client);
        assert_eq!(edge.h2_ends().await, [(End::PeerAborted, 1)]);
        edge.expect("requests_ended_total", &[("protocol=http2,end=client_gone", 1)]);
    });
}

/// As was one that the client gave up meanwhile.
#[test]
fn an_answer_that_the_client_gave_up_is_none() {
    run(async {
        let (edge, mut client) = setup().await;
        until(|| edge.counted("response_body_bytes_total") == [("protocol=http2".to_owned(), MUCH as u64)])
            .await;
        turns().await;
        client.send_bytes(&frame(RST_STREAM, 0, 1, &[0, 0, 0, 8])).await;
        let gone = [("protocol=http2,end=client_gone".to_owned(), 1)];
        until(|| edge.counted("requests_ended_total") == gone).await;
        // The connection goes on.
        client.send_bytes(&frame(1, 5, 3, &block(&GET))).await;
        let mut read = 0;
        while read < MUCH {
            let frame = client.frame().await.unwrap();
            read += if (frame.kind, frame.stream) == (0, 3) { frame.payload.len() } else { 0 };
        }
        until(|| edge.counted("requests_ended_total").len() == 2).await;
        edge.expect("requests_ended_total", &[(ANSWERED, 1), ("protocol=http2,end=client_gone", 1)]);
        until(|| edge.h2_status().active == 0).await;
    });
}

#[test]
fn an_answer_that_is_taken_late_is_one() {
    run(async {
        let (edge, mut client) = setup().await;
        until(|| edge.counted("response_body_bytes_total") == [("protocol=http2".to_owned(), MUCH as u64)])
            .await;
        edge.drain(LONG);
        let mut read = 0;
        while read < MUCH {
            let frame = client.frame().await.unwrap();
            read += if frame.kind == 0 { frame.payload.len() } else { 0 };
        }
        until(|| edge.counted("requests_ended_total") == [(ANSWERED.to_owned(), 1)]).await;
        until(|| edge.h2_status().active == 0).await;
    });
}
