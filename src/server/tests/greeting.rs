//! The PROXY protocol, from a load balancer that is this host.

use super::*;
use crate::proxy::ProxyVersion;
use crate::server::{HANDSHAKE, ListenerConfig, ProxyProtocol};

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const LINE: &str = "PROXY TCP4 192.0.2.7 198.51.100.1 5 443\r\n";

async fn behind(proxy_protocol: ProxyProtocol) -> (Edge, mpsc::UnboundedReceiver<Message>) {
    let (address, requests) = recorder().await;
    let mut setup = Setup::new(&[address]);
    setup.server.handshake_timeout = Duration::from_millis(200);
    setup
        .server
        .listeners
        .insert("test".into(), ListenerConfig { proxy_protocol, ..ListenerConfig::default() });
    (setup.start().await, requests)
}

fn networks(text: &str) -> Vec<ipnet::IpNet> {
    vec![text.parse().unwrap()]
}

async fn ends_of_handshakes(edge: &Edge) -> Vec<(End, u64)> {
    edge.ends().await;
    edge.status_of(HANDSHAKE).ends
}

#[test]
fn the_client_is_the_one_that_is_named() {
    run(async {
        let (edge, mut requests) = behind(ProxyProtocol::Required(networks("127.0.0.0/8"))).await;
        for (line, client) in [
            (LINE, "192.0.2.7"),
            ("PROXY TCP6 2001:db8::7 ::1 1 443\r\n", "2001:db8::7"),
            ("PROXY UNKNOWN\r\n", "127.0.0.1"),
        ] {
            let mut peer = edge.connect().await;
            peer.send(&format!("{line}{GET}")).await;
            assert_eq!(peer.message().await.text(), "ok");
            requests.recv().await.unwrap().expect(&format!("x-forwarded-for: {client}\r\n"));
            assert_eq!(peer.get("/").await.text(), "ok");
            requests.recv().await.unwrap().expect(&format!("x-forwarded-for: {client}\r\n"));
        }
        assert_eq!(ends_of_handshakes(&edge).await, [(End::Switched, 3)]);
    });
}

#[test]
fn a_header_can_come_byte_by_byte() {
    run(async {
        let (edge, mut requests) = behind(ProxyProtocol::Required(networks("127.0.0.1/32"))).await;
        let mut peer = edge.connect().await;
        for byte in format!("{LINE}{GET}").chars() {
            peer.send(&byte.to_string()).await;
            tokio::task::yield_now().await;
        }
        assert_eq!(peer.message().await.text(), "ok");
        requests.recv().await.unwrap().expect("x-forwarded-for: 192.0.2.7\r\n");
    });
}

#[test]
fn where_it_is_optional_its_absence_is_no_fault() {
    run(async {
        let (edge, mut requests) = behind(ProxyProtocol::Optional(networks("127.0.0.0/8"))).await;
        for (sent, client) in [(GET.to_owned(), "127.0.0.1"), (format!("{LINE}{GET}"), "192.0.2.7")] {
            let mut peer = edge.connect().await;
            peer.send(&sent).await;
            assert_eq!(peer.message().await.text(), "ok");
            requests.recv().await.unwrap().expect(&format!("x-forwarded-for: {client}\r\n"));
        }
    });
}

#[test]
fn a_stranger_is_not_believed() {
    run(async {
        let (edge, mut requests) = behind(ProxyProtocol::Optional(networks("10.0.0.0/8"))).await;
        let mut stranger = edge.connect().await;
        stranger.send(GET).await;
        stranger.message().await.expect("200 OK");
        requests.recv().await.unwrap().expect("x-forwarded-for: 127.0.0.1\r\n");
        let mut liar = edge.connect().await;
        liar.send(&format!("{LINE}{GET}")).await;
        assert!(liar.rest().await.starts_with("HTTP/1.1 400 "));
        requests.try_recv().unwrap_err();
    });
}

#[test]
fn where_it_is_required_the_rest_is_shut_out() {
    run(async {
        let (edge, mut requests) = behind(ProxyProtocol::Required(networks("10.0.0.0/8"))).await;
        assert_eq!(edge.connect().await.rest().await, "");
        assert_eq!(ends_of_handshakes(&edge).await, [(End::Refused, 1)]);

        let (edge, mut others) = behind(ProxyProtocol::Required(networks("127.0.0.0/8"))).await;
        for sent in [GET, "PROXY TCP4 nonsense\r\n"] {
            let mut peer = edge.connect().await;
            peer.send(sent).await;
            // An end or a reset: what it had sent was not all read.
            drop(peer.stream.read_exact(&mut [0]).await);
        }
        assert_eq!(ends_of_handshakes(&edge).await, [(End::ProtocolError, 2)]);
        let mut slow = edge.connect().await;
        slow.send("PROXY").await;
        edge.until_greeting(1).await;
        assert_eq!(slow.rest().await, "");
        let mut gone = edge.connect().await;
        gone.send("PROXY").await;
        drop(gone);
        drop(edge.connect().await);
        let ends = ends_of_handshakes(&edge).await;
        let expected =
            [(End::ClosedByPeer, 1), (End::PeerAborted, 1), (End::ProtocolError, 2), (End::TimedOut, 1)];
        assert_eq!(ends, expected);
        requests.try_recv().unwrap_err();
        others.try_recv().unwrap_err();
    });
}

/// Every connection to a server is for one client, and says for which.
#[test]
fn servers_are_told_whom_a_connection_is_for() {
    run(async {
        let (sender, mut lines) = mpsc::unbounded_channel();
        let address = upstream(move |mut peer| {
            let sender = sender.clone();
            async move {
                let line = peer.until("\r\n").await;
                peer.message().await;
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
                sender.send((line, peer.rest().await)).unwrap();
            }
        })
        .await;
        let mut setup = Setup::new(&[address]);
        setup.proxy.connections.proxy_protocol = Some(ProxyVersion::V1);
        let proxy_protocol = ProxyProtocol::Optional(networks("127.0.0.0/8"));
        let listener = ListenerConfig { proxy_protocol, ..ListenerConfig::default() };
        setup.server.listeners.insert("test".into(), listener);
        let edge = setup.start().await;
        let mut client = edge.connect().await;
        let own = client.stream.local_addr().unwrap().port();
        for _ in 0..2 {
            client.get("/").await.expect("200 OK");
            let (line, rest) = lines.recv().await.unwrap();
            assert_eq!(line, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {own} {}\r\n", edge.address.port()));
            assert_eq!(rest, "", "one request, and the connection ends");
        }
        // What a load balancer says is passed on as it is, be it of the other family than its own connection.
        for said in [LINE, "PROXY TCP6 2001:db8::7 2001:db8::1 5 443\r\n"] {
            let mut other = edge.connect().await;
            other.send(&format!("{said}{GET}")).await;
            other.message().await.expect("200 OK");
            assert_eq!(lines.recv().await.unwrap().0, said);
        }
    });
}
