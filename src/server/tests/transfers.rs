//! Large bodies, at the pace of the slower side.

use super::*;

const LARGE: u64 = 256 << 20;

/// More than all socket buffers on the way and ours can hold.
const HELD: u64 = 48 << 20;

/// Sends `LARGE` bytes, and says on the way how many were taken when it first had to wait for long.
async fn pour(stream: &mut TcpStream, stuck: mpsc::UnboundedSender<u64>) {
    let block = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while sent < LARGE {
        let left = usize::try_from(LARGE - sent).unwrap().min(block.len());
        match timeout(Duration::from_millis(500), stream.write(&block[..left])).await {
            Ok(n) => sent += n.unwrap() as u64,
            Err(_) => {
                stuck.send(sent).ok();
                timeout(LONG, stream.writable()).await.expect("never goes on").unwrap();
            }
        }
    }
}

async fn swallow(peer: &mut Peer, mut left: u64) {
    left -= peer.buffer.len() as u64;
    let mut block = vec![0; 1 << 20];
    while left > 0 {
        let n = timeout(LONG, peer.stream.read(&mut block)).await.expect("stuck").unwrap();
        assert!(n > 0, "{left} bytes are missing");
        assert!(block[..n].iter().all(|byte| *byte == b'x'));
        left -= n as u64;
    }
}

#[test]
fn a_client_that_reads_late_holds_the_upstream_back() {
    run(async {
        let (sender, mut stuck) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                peer.message().await;
                peer.send(&format!("HTTP/1.1 200 OK\r\nContent-Length: {LARGE}\r\n\r\n")).await;
                pour(&mut peer.stream, sender).await;
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        let held = stuck.recv().await.unwrap();
        assert!(held < HELD, "{held} bytes were taken and nobody reads them");
        client.head().await.expect("200 OK");
        swallow(&mut client, LARGE).await;
        client.buffer.clear();
        assert_eq!(client.rest().await, "");
        assert_eq!(edge.ends().await, [(End::Closed, 1)]);
    });
}

#[test]
fn an_upstream_that_reads_late_holds_the_client_back() {
    run(async {
        let (go, gate) = tokio::sync::watch::channel(false);
        let address = upstream(move |mut peer| {
            let mut gate = gate.clone();
            async move {
                peer.head().await.expect(&format!("content-length: {LARGE}\r\n"));
                gate.wait_for(|open| *open).await.unwrap();
                swallow(&mut peer, LARGE).await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.send(&format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n")).await;
        let (sender, mut stuck) = mpsc::unbounded_channel();
        let opened = async {
            let held = stuck.recv().await.unwrap();
            assert!(held < HELD, "{held} bytes were taken and nobody reads them");
            go.send(true).unwrap();
        };
        tokio::join!(pour(&mut client.stream, sender), opened);
        assert_eq!(client.message().await.text(), "ok");
        drop(client);
        assert_eq!(edge.ends().await, [(End::ClosedByPeer, 1)]);
    });
}
