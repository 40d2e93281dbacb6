//! Connections while the process drains, and at rest.

use super::*;

/// An upstream that answers when it is let.
async fn gated() -> (SocketAddr, tokio::sync::watch::Sender<bool>) {
    let (open, gate) = tokio::sync::watch::channel(false);
    let address = upstream(move |mut peer| {
        let mut gate = gate.clone();
        async move {
            while !peer.buffer.is_empty() || peer.more().await {
                peer.message().await;
                gate.wait_for(|open| *open).await.unwrap();
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    (address, open)
}

#[test]
fn at_rest_a_client_is_told_and_gone() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let (fresh, mut used) = (edge.h2().await, edge.h2().await);
        used.get("/").await;
        edge.until_h2(|status| status.open == 2).await;
        edge.drain(LONG);
        used.ended().await.unwrap();
        fresh.ended().await.unwrap();
        // Once told, it is the client of h2 that closes first.
        assert_eq!(edge.h2_ends().await, [(End::ClosedByPeer, 2)]);
    });
}

/// The last GOAWAY names the streams that were served, and is sent when the client has heard of the first. It was sent
/// as soon as a PING was answered; but clients answer a PING before they send what they had begun to send, so that on a
/// busy machine requests were refused which their client had begun before it knew.
#[test]
fn streams_in_flight_and_on_their_way_are_served() {
    run(async {
        let (address, open) = gated().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        edge.until_h2(|status| status.active == 1).await;
        edge.drain(LONG);
        let of_all = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(client.frame_of(GOAWAY).await.payload, of_all);
        let ping = client.frame_of(6).await;
        // It was begun before the client knew, and then the answer to the PING has overtaken it.
        client.send_bytes(&frame(6, 1, 0, &ping.payload)).await;
        assert_eq!(client.frame_of(GOAWAY).await.payload, of_all);
        let ping = client.frame_of(6).await;
        client.send_bytes(&frame(1, 5, 3, &block(&GET))).await;
        client.send_bytes(&frame(6, 1, 0, &ping.payload)).await;
        assert_eq!(client.frame_of(GOAWAY).await.payload, [0, 0, 0, 3, 0, 0, 0, 0]);
        open.send(true).unwrap();
        let mut answered = Vec::new();
        while let Some(frame) = client.frame().await {
            if frame.kind == 0 {
                assert_eq!((frame.payload.as_slice(), frame.flags), (&b"ok"[..], 1));
                answered.push(frame.stream);
            }
        }
        answered.sort_unstable();
        assert_eq!(answered, [1, 3]);
        assert_eq!(edge.h2_ends().await, [(End::Closed, 1)]);
    });
}

/// h2 waits for the acknowledgement of its PING for ever.
#[test]
fn a_client_that_does_not_acknowledge_is_not_waited_for() {
    run(async {
        let (address, _requests) = recorder().await;
        let edge = edge(address).await;
        let mut client = edge.connect().await;
        client.open_h2().await;
        client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        client.frame_of(0).await;
        edge.drain(SHORT);
        client.frame_of(GOAWAY).await;
        // Until its time is over its streams are served.
        client.send_bytes(&frame(1, 5, 3, &block(&GET))).await;
        assert_eq!(client.frame_of(0).await.stream, 3);
        let last = client.frame_of(GOAWAY).await;
        assert_eq!(last.payload, [0, 0, 0, 3, 0, 0, 0, 0]);
        assert_eq!(client.frame().await, None);
        assert_eq!(edge.h2_ends().await, [(End::Closed, 1)]);
    });
}

/// One that has not spoken yet may still bring requests, and has a moment for them before it is told to go: Chromium
/// gave those up that were about to be sent on a connection that began with a GOAWAY.
#[test]
fn a_preface_that_comes_in_the_drain_is_served() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup
            .server
            .listeners
            .insert("test".into(), ListenerConfig { http1: false, http2: true, ..ListenerConfig::default() });
        let edge = setup.start().await;
        let (mut silent, mut client) = (edge.connect().await, edge.connect().await);
        edge.drain(Duration::from_secs(2));
        client.open_h2().await;
        client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        while let Some(frame) = client.frame().await
            && frame.kind != 0
        {
            assert_ne!(frame.kind, GOAWAY, "it was told to go before it was answered");
        }
        client.frame_of(GOAWAY).await;
        drop(client);
        // Nothing that it is about to send was looked at.
        let goaway = silent.frame_of(GOAWAY).await;
        assert_eq!(goaway.payload, [0; 8]);
        assert_eq!(silent.frame().await, None);
        let ends = edge.h2_ends().await;
        assert!(ends.contains(&(End::Closed, 1)), "{ends:?}");
    });
}

#[test]
fn the_cut_says_what_it_cuts() {
    run(async {
        let (address, _open) = gated().await;
        let counts = Counts::alone(KINDS, 1);
        let tracker = Tracker::new(counts.clone(), counts.seat(0).take());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let mut client = Peer::new(TcpStream::connect(listener.local_addr().unwrap()).await.unwrap());
        let (stream, peer) = listener.accept().await.unwrap();
        let Setup { server, proxy } = Setup::new(&[address]);
        let server = Server::new(server, Proxy::new(&proxy, proxy::Metrics::alone().0), Metrics::alone());
        let accepted = Accepted { listener: "test".into(), stream: Stream::Tcp(stream), peer: Some(peer) };
        let guard = tracker.begin(HTTP1);
        let serving = spawn_local(async move { server.serve(accepted, guard).await });
        client.open_h2().await;
        client.send_bytes(&frame(1, 5, 1, &block(&GET))).await;
        let active = || counts.by_kind().swap_remove(HTTP2.0);
        while active().active == 0 {
            tokio::task::yield_now().await;
        }
        tracker.set_view(View { phase: Phase::Cut, ..View::starting() });
        serving.abort();
        assert_eq!(client.frame_of(GOAWAY).await.payload, [0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(client.frame().await, None);
        assert_eq!(active().ends, [(End::DroppedInFlight, 1)]);
    });
}

#[test]
fn an_idle_connection_is_told_and_closed() {
    run(async {
        let (address, _requests) = recorder().await;
        let mut setup = Setup::new(&[address]);
        setup.server.idle_timeout = SHORT;
        setup.server.http2.ack_timeout = SHORT;
        let edge = setup.start().await;
        let mut polite = edge.h2().await;
        polite.get("/").await;
        let mut deaf = edge.connect().await;
        deaf.open_h2().await;
        polite.ended().await.unwrap();
        assert_eq!(deaf.goaway().await, Some(0));
        drop(deaf);
        assert_eq!(edge.h2_ends().await, [(End::ClosedByPeer, 1), (End::Closed, 1)]);
    });
}

/// What has begun to come is waited for, but a client that sent part of a TLS record and no more was waited for again
/// and again: neither the idle timeout nor the end of a drain's grace ended its connection, and without a grace the
/// wait was none, so that its worker span until the drain's deadline.
#[test]
fn half_a_record_does_not_hold_a_connection() {
    for drains in [false, true] {
        run(async move {
            let (address, _requests) = recorder().await;
            let pair = rcgen::generate_simple_self_signed(vec!["test".to_owned()]).unwrap();
            let key = rustls::pki_types::PrivateKeyDer::try_from(pair.signing_key.serialize_der()).unwrap();
            let config = rustls::ServerConfig::builder().with_no_client_auth();
            let config = config.with_single_cert(vec![pair.cert.der().clone()], key).unwrap();
            let tls = crate::server::TlsConfig { config: Arc::new(config), asks_clients: false };
            let mut setup = Setup::new(&[address]);
            let listener = ListenerConfig { http1: false, tls: Some(tls), ..ListenerConfig::default() };
            setup.server.listeners.insert("test".into(), listener);
            setup.server.http2.ack_timeout = SHORT;
            setup.server.header_timeout = SHORT;
            if !drains {
                setup.server.idle_timeout = SHORT;
            }
            let edge = setup.start().await;

            let mut roots = rustls::RootCertStore::empty();
            roots.add(pair.cert.der().clone()).unwrap();
            let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
            let stream = TcpStream::connect(edge.address).await.unwrap();
            let name = rustls::pki_types::ServerName::try_from("test").unwrap();
            let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
            let mut client = connector.connect(name, stream).await.unwrap();
            let opening = [PREFACE, &frame(4, 0, 0, &[]), &frame(4, 1, 0, &[])].concat();
            client.write_all(&opening).await.unwrap();
            edge.until_h2(|status| status.open == 1).await;
            client.get_mut().0.write_all(&[23, 3, 3, 0]).await.unwrap();
            if drains {
                edge.drain(Duration::ZERO);
            }
            let mut said = Vec::new();
            timeout(LONG, client.read_to_end(&mut said)).await.expect("it is never let go").unwrap();
            drop(client);
            assert_eq!(edge.h2_ends().await, [(End::Closed, 1)], "drains: {drains}");
        });
    }
}
