//! WebSockets on a stream (RFC 8441).

use std::sync::Mutex;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use h2::ext::Protocol;

use super::*;

/// More than any window or buffer on the way.
const MUCH: usize = 8 * 1024 * 1024;

fn connect(protocol: &'static str) -> Request<()> {
    let mut request = Request::connect("http://test/chat?a=1").body(()).unwrap();
    request.extensions_mut().insert(Protocol::from_static(protocol));
    let headers = request.headers_mut();
    headers.insert("sec-websocket-version", "13".parse().unwrap());
    headers.insert("sec-websocket-protocol", "chat".parse().unwrap());
    request
}

/// What a server says to the request: its proof, and the protocol it takes.
fn grant(request: &Message) -> String {
    request.expect("GET /chat?a=1 HTTP/1.1\r\n").expect("host: test\r\n").expect("upgrade: websocket\r\n");
    request
        .expect("connection: upgrade\r\n")
        .expect("sec-websocket-version: 13\r\n")
        .without("content-length");
    let key = request.field("sec-websocket-key").unwrap();
    assert_eq!(key.len(), 24);
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let proof = base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()).as_ref());
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {proof}\r\nSec-WebSocket-Protocol: chat\r\n\r\n"
    )
}

fn base64(bytes: &[u8]) -> String {
    let bits: String = bytes.iter().map(|byte| format!("{byte:08b}")).collect();
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '/']).collect();
    let mut text: String = bits
        .as_bytes()
        .chunks(6)
        .map(|six| {
            letters[usize::from_str_radix(&format!("{:0<6}", str::from_utf8(six).unwrap()), 2).unwrap()]
        })
        .collect();
    while !text.len().is_multiple_of(4) {
        text.push('=');
    }
    text
}

impl Client {
    async fn websocket(&mut self) -> (RecvStream, SendStream<Bytes>) {
        let (response, send) = self.open_websocket("websocket").await;
        let answer = timeout(LONG, response).await.expect("no answer").unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
        for gone in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
            assert!(!answer.headers().contains_key(gone), "{gone}");
        }
        (answer.into_body(), send)
    }

    async fn open_websocket(&mut self, protocol: &'static str) -> (ResponseFuture, SendStream<Bytes>) {
        while !self.send.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
        self.begin(connect(protocol), false).await
    }
}

/// Sends back what comes, to the end.
async fn echo() -> SocketAddr {
    upstream(|mut peer| async move {
        let granted = grant(&peer.head().await);
        peer.send(&granted).await;
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

#[test]
fn bytes_both_ways_until_the_client_ends() {
    run(async {
        let edge = edge(echo().await).await;
        let mut client = edge.h2().await;
        let (mut receive, mut send) = client.websocket().await;
        for word in ["one", "two"] {
            send.send_data(Bytes::from_static(word.as_bytes()), false).unwrap();
            assert_eq!(data(&mut receive).await, word);
        }
        assert_eq!(edge.h2_status().active, 1);
        // Other streams go on beside it; a drain lets it go on, too.
        edge.drain(SHORT);
        send.send_data(Bytes::from_static(b"three"), true).unwrap();
        assert_eq!(rest_of(receive).await.unwrap().0, b"three");
        drop((client, send));
        edge.h2_ends().await;
    });
}

#[test]
fn the_server_ends_and_hears_the_client_out() {
    run(async {
        let (heard, mut hears) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let heard = heard.clone();
            async move {
                let granted = grant(&peer.head().await);
                peer.send(&format!("{granted}early")).await;
                peer.stream.shutdown().await.unwrap();
                heard.send(peer.rest().await).unwrap();
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (receive, mut send) = client.websocket().await;
        assert_eq!(rest_of(receive).await.unwrap().0, b"early");
        send.send_data(Bytes::from_static(b"late"), true).unwrap();
        assert_eq!(timeout(LONG, hears.recv()).await.expect("nothing heard").unwrap(), "late");
    });
}

/// What the client broke off ended towards the server like what is whole.
#[test]
fn a_reset_of_one_side_reaches_the_other() {
    run(async {
        let (broken, mut is_broken) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let broken = broken.clone();
            async move {
                let granted = grant(&peer.head().await);
                peer.send(&granted).await;
                if peer.bytes(2).await == b"go" {
                    peer.stream.set_zero_linger().unwrap();
                } else {
                    peer.send("!").await;
                    peer.reset().await;
                    broken.send(()).unwrap();
                }
            }
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (mut receive, mut send) = client.websocket().await;
        send.send_data(Bytes::from_static(b"no"), false).unwrap();
        assert_eq!(data(&mut receive).await, "!");
        send.send_reset(Reason::CANCEL);
        timeout(LONG, is_broken.recv()).await.expect("the server does not hear of it").unwrap();

        let (receive, mut send) = client.websocket().await;
        send.send_data(Bytes::from_static(b"go"), false).unwrap();
        assert_eq!(rest_of(receive).await.unwrap_err().reason(), Some(Reason::CANCEL));

        // The whole connection goes, and the streams with it.
        let (mut receive, mut send) = client.websocket().await;
        send.send_data(Bytes::from_static(b"no"), false).unwrap();
        assert_eq!(data(&mut receive).await, "!");
        client.connection.abort();
        drop((receive, send, client));
        timeout(LONG, is_broken.recv()).await.expect("the server does not hear of it").unwrap();
    });
}

/// Every byte begins its time anew.
#[test]
fn one_that_rests_too_long_is_broken_off() {
    const LIMIT: Duration = Duration::from_secs(12);
    run(async {
        let (broken, mut is_broken) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let broken = broken.clone();
            async move {
                let granted = grant(&peer.head().await);
                peer.send(&granted).await;
                for _ in 0..3 {
                    peer.bytes(1).await;
                    peer.send("!").await;
                }
                peer.reset().await;
                broken.send(()).unwrap();
            }
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.server.tunnel_timeout = LIMIT;
        let edge = setup.start().await;
        let mut client = edge.h2().await;
        let (mut receive, mut send) = client.websocket().await;
        for _ in 0..3 {
            pass(LIMIT * 3 / 4).await;
            send.send_data(Bytes::from_static(b"?"), false).unwrap();
            assert_eq!(data(&mut receive).await, "!");
        }
        pass(LIMIT).await;
        assert_eq!(rest_of(receive).await.unwrap_err().reason(), Some(Reason::CANCEL));
        timeout(LONG, is_broken.recv()).await.expect("the server does not hear of it").unwrap();
        // It was the stream's own end.
        edge.until_h2(|status| (status.open, status.active) == (1, 0)).await;
    });
}

#[test]
fn a_refusal_is_an_answer() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (response, _send) = client.open_websocket("websocket").await;
        let answer = whole(response).await.unwrap();
        assert_eq!((answer.head.status().as_u16(), &*answer.body), (200, &b"ok"[..]));
        assert_eq!(client.get("/").await.body, b"ok");
    });
}

#[test]
fn a_wrong_proof_is_a_bad_gateway() {
    run(async {
        let address = upstream(|mut peer| async move {
            let granted = grant(&peer.head().await);
            peer.send(&granted.replace("Accept: ", "Accept: x")).await;
        })
        .await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (response, _send) = client.open_websocket("websocket").await;
        assert_eq!(whole(response).await.unwrap().head.status(), 502);
    });
}

#[test]
fn what_is_not_allowed_is_refused() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.h2().await;
        let (response, _send) = client.open_websocket("connect-udp").await;
        assert_eq!(whole(response).await.unwrap().head.status(), 501);

        let mut setup = Setup::new(&[address]);
        setup.proxy.upgrades = Vec::new();
        let edge = setup.start().await;
        let mut client = edge.h2().await;
        client.get("/").await;
        assert!(!client.send.is_extended_connect_protocol_enabled());
    });
}

#[test]
fn much_passes_both_ways_however_slow_the_reader() {
    run(async {
        let edge = edge(echo().await).await;
        let mut client = edge.h2().await;
        let (mut receive, mut send) = client.websocket().await;
        let sender = spawn_local(async move {
            let mut left = MUCH;
            while left > 0 {
                send.reserve_capacity(left.min(16 * 1024));
                let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await.unwrap().unwrap();
                let n = room.min(left);
                left -= n;
                send.send_data(vec![b'x'; n].into(), left == 0).unwrap();
            }
        });
        let mut read = 0;
        while let Some(data) = timeout(LONG, receive.data()).await.expect("nothing comes") {
            let n = data.unwrap().len();
            read += n;
            // Others have their turns before there is room again.
            for _ in 0..5 {
                tokio::task::yield_now().await;
            }
            receive.flow_control().release_capacity(n).unwrap();
        }
        assert_eq!(read, MUCH);
        sender.await.unwrap();
    });
}

/// Whatever broke a stream off was logged as a client that stands still.
#[test]
fn the_log_has_a_word_for_each_cause() {
    run(async {
        let failing = upstream(|mut peer| async move {
            let granted = grant(&peer.head().await);
            peer.send(&granted).await;
            peer.more().await;
            peer.stream.set_zero_linger().unwrap();
        });
        for (address, word) in [
            (echo().await, "nothing has moved in a tunnel for too long"),
            (failing.await, "a tunnel's server went away"),
        ] {
            let log = tempfile::NamedTempFile::new().unwrap();
            let lines = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
            let lines = lines.with_writer(Mutex::new(log.reopen().unwrap())).finish();
            let _guard = tracing::subscriber::set_default(lines);
            let mut setup = Setup::new(&[address]);
            setup.server.tunnel_timeout = if word.contains("nothing") { SHORT } else { LONG };
            let edge = setup.start().await;
            let mut client = edge.h2().await;
            let (receive, mut send) = client.websocket().await;
            // One that is over already needs none.
            send.send_data(Bytes::from_static(b"go"), false).ok();
            assert_eq!(rest_of(receive).await.unwrap_err().reason(), Some(Reason::CANCEL));
            let log = std::fs::read_to_string(log).unwrap();
            assert!(log.contains(word) && !log.contains("stood still"), "{log}");
        }
    });
}
