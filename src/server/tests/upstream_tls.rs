//! Upstreams behind TLS.

use std::cell::Cell;

use bytes::Bytes;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::proxy::Protocol;

/// An authority and what it signs.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).unwrap();
        roots
    }

    fn sign(
        &self,
        name: &str,
        change: impl Fn(&mut CertificateParams),
    ) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// A server for this name that offers these protocols.
    fn server(&self, name: &str, protocols: &[&str]) -> ServerConfig {
        let (chain, key) = self.sign(name, |_| {});
        let mut config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    fn client(&self) -> ClientConfig {
        ClientConfig::builder().with_root_certificates(self.roots()).with_no_client_auth()
    }

    fn setup(&self, address: SocketAddr, protocol: Protocol, name: Option<&'static str>) -> Setup {
        setup(address, self.client(), protocol, name)
    }
}

fn setup(address: SocketAddr, client: ClientConfig, protocol: Protocol, name: Option<&'static str>) -> Setup {
    let mut setup = Setup::new(&[address]);
    let name = name.map(|name| ServerName::try_from(name).unwrap());
    setup.proxy.connections.protocol = protocol;
    setup.proxy.connections.tls = Some(proxy::TlsConfig { client: client.into(), name });
    setup
}

/// What an upstream behind TLS has seen.
#[derive(Default)]
struct Seen {
    connections: Cell<usize>,
    requests: Cell<usize>,
    /// The name that the last client asked for.
    name: std::cell::RefCell<Option<String>>,
    resumed: Cell<usize>,
}

/// Answers requests with the protocol that was agreed on: "h1" or "h2".
async fn secure(config: ServerConfig) -> (SocketAddr, Rc<Seen>) {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let seen = Rc::new(Seen::default());
    let all = seen.clone();
    let address = upstream(move |peer| {
        let (acceptor, seen) = (acceptor.clone(), all.clone());
        async move {
            seen.connections.set(seen.connections.get() + 1);
            let Ok(mut stream) = acceptor.accept(peer.stream).await else { return };
            let session = stream.get_ref().1;
            seen.name.replace(session.server_name().map(str::to_owned));
            let resumed = session.handshake_kind() == Some(rustls::HandshakeKind::Resumed);
            seen.resumed.set(seen.resumed.get() + usize::from(resumed));
            if session.alpn_protocol() == Some(b"h2") {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    assert_eq!(request.uri().scheme_str(), Some("https"));
                    seen.requests.set(seen.requests.get() + 1);
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"h2"), true).unwrap();
                }
                return;
            }
            let mut request = Vec::new();
            while stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {
                if request.ends_with(b"\r\n\r\n") {
                    let is_upgrade = request.windows(10).any(|part| part == b"\r\nupgrade:");
                    request.clear();
                    seen.requests.set(seen.requests.get() + 1);
                    let answer: &[u8] = match is_upgrade {
                        true => b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\nhello",
                        false => b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nh1",
                    };
                    stream.write_all(answer).await.unwrap();
                }
            }
        }
    })
    .await;
    (address, seen)
}

#[test]
fn what_is_spoken_is_what_both_can() {
    run(async {
        let authority = Authority::new("ours");
        for (protocol, offered, expected) in [
            (Protocol::Http1, &["h2", "http/1.1"][..], Ok("h1")),
            (Protocol::Http1, &[], Ok("h1")),
            (Protocol::Http2, &["h2", "http/1.1"], Ok("h2")),
            (Protocol::Http2, &[], Err("it does not speak HTTP/2")),
            (Protocol::Http2, &["http/1.1"], Err("alert NoApplicationProtocol")),
            (Protocol::Alpn, &["h2", "http/1.1"], Ok("h2")),
            (Protocol::Alpn, &["http/1.1"], Ok("h1")),
            (Protocol::Alpn, &[], Ok("h1")),
        ] {
            let (address, seen) = secure(authority.server("app.test", offered)).await;
            let edge = authority.setup(address, protocol, Some("app.test")).start().await;
            let mut client = edge.connect().await;
            let answer = client.get("/").await;
            match expected {
                Ok(text) => {
                    assert_eq!(answer.text(), text, "{protocol:?} {offered:?}");
                    assert_eq!(client.get("/").await.text(), text);
                    assert_eq!((seen.connections.get(), seen.requests.get()), (1, 2));
                    assert_eq!(seen.name.borrow().as_deref(), Some("app.test"));
                }
                Err(reason) => {
                    answer.expect("502 Bad Gateway");
                    let text = format!("502 Bad Gateway: upstream {address}: TLS: {reason}");
                    assert_eq!(answer.error(), text, "{protocol:?} {offered:?}");
                }
            }
        }
    });
}

/// The first connection tells what the server speaks; those who have waited for it get their own.
#[test]
fn many_at_once_with_a_server_that_chooses_http1() {
    run(async {
        let authority = Authority::new("ours");
        let (address, seen) = secure(authority.server("app.test", &["http/1.1"])).await;
        let edge = authority.setup(address, Protocol::Alpn, Some("app.test")).start().await;
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = edge.connect().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.message().await.text(), "h1");
        }
        assert_eq!((seen.connections.get(), seen.requests.get()), (5, 5));
    });
}

/// The other way round: it begins to speak HTTP/2, and requests that have each made a connection for HTTP/1 find out
/// at the same time. Each kept its own, however many connections and streams there may be.
#[test]
fn many_at_once_with_a_server_that_has_learnt_http2() {
    run(async {
        let authority = Authority::new("ours");
        let acceptor = |protocol| TlsAcceptor::from(Arc::new(authority.server("app.test", &[protocol])));
        let (old, new) = (acceptor("http/1.1"), acceptor("h2"));
        let (made, carriers) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let counts = (made.clone(), carriers.clone());
        let address = upstream(move |mut peer| {
            let (old, new) = (old.clone(), new.clone());
            let (made, carriers) = counts.clone();
            async move {
                made.set(made.get() + 1);
                if made.get() == 1 {
                    let mut stream = old.accept(peer.stream).await.unwrap();
                    stream.read_buf(&mut peer.buffer).await.unwrap();
                    let answer = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nh1";
                    return stream.write_all(answer).await.unwrap();
                }
                until(|| made.get() == 6).await;
                let mut builder = h2::server::Builder::new();
                builder.max_concurrent_streams(1);
                let stream = new.accept(peer.stream).await.unwrap();
                // One that is not needed is closed before this is done.
                let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
                let mut carries = false;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    carriers.set(carriers.get() + usize::from(!carries));
                    carries = true;
                    let mut body = respond.send_response(http::Response::new(()), false).unwrap();
                    body.send_data(Bytes::from_static(b"h2"), true).unwrap();
                }
            }
        })
        .await;
        let mut setup = authority.setup(address, Protocol::Alpn, Some("app.test"));
        setup.proxy.connections.max_http2_connections = 1;
        let edge = setup.start().await;
        assert_eq!(edge.connect().await.get("/").await.text(), "h1");
        let mut clients = Vec::new();
        for _ in 0..5 {
            let mut client = edge.connect().await;
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            clients.push(client);
        }
        for client in &mut clients {
            assert_eq!(client.message().await.text(), "h2");
        }
        assert_eq!((made.get(), carriers.get()), (6, 1));
    });
}

/// A WebSocket needs HTTP/1, which a server that could speak both is then asked for.
#[test]
fn a_tunnel_through_a_server_that_prefers_http2() {
    run(async {
        let authority = Authority::new("ours");
        let (address, seen) = secure(authority.server("app.test", &["h2", "http/1.1"])).await;
        let edge = authority.setup(address, Protocol::Alpn, Some("app.test")).start().await;
        let mut client = edge.connect().await;
        assert_eq!(client.get("/").await.text(), "h2");
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        client.head().await.expect("101 Switching Protocols");
        assert_eq!(client.bytes(5).await, b"hello");
        drop(client);
        assert_eq!(edge.connect().await.get("/").await.text(), "h2");
        assert_eq!(seen.connections.get(), 2);
    });
}

#[test]
fn a_certificate_must_be_good() {
    run(async {
        let (authority, stranger) = (Authority::new("ours"), Authority::new("stranger"));
        let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let early = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(4000, 1, 1);
        let by = |authority: &Authority, name: &str, change: &dyn Fn(&mut CertificateParams)| {
            let (chain, key) = authority.sign(name, change);
            ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap()
        };
        for (config, word) in [
            (by(&stranger, "app.test", &|_| {}), "unknown issuer"),
            (by(&authority, "other.test", &|_| {}), "for another name"),
            (by(&authority, "app.test", &expired), "expired"),
            (by(&authority, "app.test", &early), "not valid yet"),
        ] {
            let (address, seen) = secure(config).await;
            for protocol in [Protocol::Http1, Protocol::Alpn] {
                let edge = authority.setup(address, protocol, Some("app.test")).start().await;
                let answer = edge.connect().await.get("/").await;
                answer.expect("HTTP/1.1 502 Bad Gateway\r\n");
                let text = format!("502 Bad Gateway: upstream {address}: TLS: bad certificate: {word}");
                assert_eq!(answer.error(), text);
            }
            assert_eq!((seen.connections.get(), seen.requests.get()), (2, 0));
        }
    });
}

#[test]
fn without_another_name_it_is_the_servers_own() {
    run(async {
        let authority = Authority::new("ours");
        let (address, seen) = secure(authority.server("127.0.0.1", &[])).await;
        let edge = authority.setup(address, Protocol::Http1, None).start().await;
        assert_eq!(edge.connect().await.get("/").await.text(), "h1");
        assert_eq!(*seen.name.borrow(), None, "an IP address is no name (RFC 6066, section 3)");

        let (address, seen) = secure(authority.server("localhost", &[])).await;
        let mut setup = authority.setup(address, Protocol::Http1, None);
        setup.name("localhost", address.port());
        assert_eq!(setup.start().await.connect().await.get("/").await.text(), "h1");
        assert_eq!(seen.name.borrow().as_deref(), Some("localhost"));

        let mut setup = authority.setup(address, Protocol::Http1, None);
        setup.proxy.servers = vec![ServerAddr::Socket(address)];
        let answer = setup.start().await.connect().await.get("/").await;
        assert!(answer.text().contains("bad certificate: for another name"), "{}", answer.text());
    });
}

/// With TLS 1.3 the alert comes when the client believes that all is well.
#[test]
fn a_server_may_ask_for_a_certificate() {
    run(async {
        let authority = Authority::new("ours");
        for protocol in [Protocol::Http1, Protocol::Http2] {
            let offered: &[&[u8]] = if protocol == Protocol::Http1 { &[b"http/1.1"] } else { &[b"h2"] };
            let (chain, key) = authority.sign("app.test", |_| {});
            let verifier = WebPkiClientVerifier::builder(authority.roots().into()).build().unwrap();
            let mut config = ServerConfig::builder()
                .with_client_cert_verifier(verifier)
                .with_single_cert(chain, key)
                .unwrap();
            config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
            let (address, seen) = secure(config).await;

            let edge = authority.setup(address, protocol, Some("app.test")).start().await;
            let answer = edge.connect().await.get("/").await;
            answer.expect("502 Bad Gateway");
            let text = format!("upstream {address}: TLS: alert CertificateRequired");
            assert!(answer.error().ends_with(&text), "{protocol:?}: {}", answer.text());
            assert_eq!(seen.requests.get(), 0);

            let (chain, key) = authority.sign("edge.test", |_| {});
            let client = ClientConfig::builder()
                .with_root_certificates(authority.roots())
                .with_client_auth_cert(chain, key)
                .unwrap();
            let edge = setup(address, client, protocol, Some("app.test")).start().await;
            edge.connect().await.get("/").await.expect("200 OK");
            assert_eq!(seen.requests.get(), 1);
        }
    });
}

#[test]
fn a_later_connection_resumes_the_session() {
    run(async {
        let authority = Authority::new("ours");
        let (address, seen) = secure(authority.server("app.test", &[])).await;
        let edge = authority.setup(address, Protocol::Http1, Some("app.test")).start().await;
        let (mut a, mut b) = (edge.connect().await, edge.connect().await);
        a.get("/").await.expect("200 OK");
        // The first connection is taken: the second request gets its own.
        a.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n").await;
        until(|| seen.requests.get() == 2).await;
        b.get("/").await.expect("200 OK");
        assert_eq!((seen.connections.get(), seen.resumed.get()), (2, 1));
    });
}

#[test]
fn a_server_that_does_not_shake_hands() {
    run(async {
        let authority = Authority::new("ours");
        for (sent, text) in [
            ("HTTP/1.1 400 Bad Request\r\n\r\n", "TLS: the handshake failed"),
            ("", "TLS: the handshake was broken off"),
        ] {
            let address = upstream(move |mut peer| async move {
                peer.more().await;
                peer.send(sent).await;
            })
            .await;
            let edge = authority.setup(address, Protocol::Http1, Some("app.test")).start().await;
            let answer = edge.connect().await.get("/").await;
            answer.expect("502 Bad Gateway");
            assert!(answer.text().contains(text), "{}", answer.text());
        }
        let silent = upstream(|mut peer| async move { while peer.more().await {} }).await;
        let mut setup = authority.setup(silent, Protocol::Http1, Some("app.test"));
        setup.proxy.connections.connect_timeout = Duration::from_millis(50);
        let answer = setup.start().await.connect().await.get("/").await;
        answer.expect("504 Gateway Timeout");
        assert!(answer.text().contains("no connection in time"), "{}", answer.text());
    });
}

/// There is no word of TLS either that would make it whole.
#[test]
fn a_tunnel_that_the_client_breaks_off_is_broken_off_behind_tls() {
    run(async {
        let authority = Authority::new("ours");
        let acceptor = TlsAcceptor::from(Arc::new(authority.server("app.test", &["http/1.1"])));
        let (sender, mut ends) = mpsc::unbounded_channel();
        let address = upstream(move |peer| {
            let (acceptor, sender) = (acceptor.clone(), sender.clone());
            async move {
                let mut stream = acceptor.accept(peer.stream).await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    stream.read_buf(&mut request).await.unwrap();
                }
                let grant = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
                stream.write_all(grant).await.unwrap();
                assert_eq!(stream.read_u8().await.unwrap(), b'?');
                stream.write_all(b"!").await.unwrap();
                sender.send(stream.read(&mut [0]).await.map_err(|error| error.kind())).unwrap();
            }
        })
        .await;
        let edge = authority.setup(address, Protocol::Http1, Some("app.test")).start().await;
        let mut client = edge.connect().await;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").await;
        client.head().await.expect("101 ");
        client.send("?").await;
        assert_eq!(client.bytes(1).await, b"!");
        client.stream.set_zero_linger().unwrap();
        drop(client);
        let end = timeout(LONG, ends.recv()).await.expect("the server does not hear of it").unwrap();
        assert_eq!(end, Err(std::io::ErrorKind::ConnectionReset));
    });
}
