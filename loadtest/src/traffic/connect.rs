//! A connection: TCP, then TLS where it is wanted, and what is known of it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustls::client::Tls13ClientSessionValue;
use rustls::client::{ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;

use crate::recorder::Peer;
use crate::scenario::Carrier;
use crate::witness::{Class, End};

/// How many TLS sessions are kept, of one server.
const SESSIONS: usize = 64;

/// Where the proxy is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Targets {
    /// Its port without TLS.
    pub plain: Option<SocketAddr>,
    /// Its port with TLS.
    pub tls: Option<SocketAddr>,
    /// The name that it must prove, and that requests carry.
    pub name: String,
}

/// A connection that could not be made.
#[derive(Clone, Debug)]
pub struct NotConnected {
    /// How it ended.
    pub class: Class,
    /// Who it was, if a process of the other side may have accepted it: it may have died with that.
    pub peer: Option<Peer>,
    /// In words.
    pub detail: String,
}

impl NotConnected {
    /// It took too long.
    pub(super) fn late() -> NotConnected {
        NotConnected { class: Class::Timeout, peer: None, detail: "no connection in the time allowed".into() }
    }
}

/// Any stream.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

/// A stream that was made.
pub struct Connected {
    /// It.
    pub stream: Box<dyn Stream>,
    /// The client's port.
    pub local_port: u16,
    /// When it was asked for.
    pub at: Instant,
    /// Whether TLS made a full handshake although there was a session to resume.
    pub unresumed: bool,
}

/// What makes connections, on one thread.
pub struct Connector {
    targets: Targets,
    name: ServerName<'static>,
    http1: Tls,
    http2: Tls,
}

struct Tls {
    connector: TlsConnector,
    sessions: Arc<Sessions>,
}

impl Connector {
    /// Connections to `targets`, whose certificate one of `roots` must have issued.
    ///
    /// # Errors
    ///
    /// A name that cannot be in a certificate; a cryptography library that lacks what is usual.
    pub fn new(targets: Targets, roots: &Arc<RootCertStore>) -> Result<Connector, String> {
        let name = ServerName::try_from(targets.name.clone())
            .map_err(|_| format!("{:?} is no name that a certificate can have", targets.name))?;
        Ok(Connector { http1: tls(roots, b"http/1.1")?, http2: tls(roots, b"h2")?, targets, name })
    }

    /// The name that requests carry.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.targets.name
    }

    /// Makes one.
    ///
    /// # Errors
    ///
    /// The class and what was seen.
    pub async fn connect(&self, carrier: Carrier) -> Result<Connected, NotConnected> {
        let at = Instant::now();
        let address = if carrier == Carrier::Http1 { self.targets.plain } else { self.targets.tls };
        let Some(address) = address else {
            return Err(NotConnected {
                class: Class::Local,
                peer: None,
                detail: "no address is known for this kind".into(),
            });
        };
        let stream = TcpStream::connect(address).await.map_err(|error| tcp(address, &error))?;
        // What cannot be set makes it slower, not wrong.
        drop(stream.set_nodelay(true));
        let local_port = stream.local_addr().map_or(0, |address| address.port());
        if carrier == Carrier::Http1 {
            return Ok(Connected { stream: Box::new(stream), local_port, at, unresumed: false });
        }
        let tls = if carrier == Carrier::Http2 { &self.http2 } else { &self.http1 };
        // The hello is made here, and with it a session is taken, if there is one.
        tls.sessions.taken.store(false, Ordering::Relaxed);
        let handshake = tls.connector.connect(self.name.clone(), stream);
        let could_resume = tls.sessions.taken.load(Ordering::Relaxed);
        let stream = handshake.await.map_err(|error| NotConnected {
            class: class_of_end(End::of(&error), 0),
            peer: Some(Peer { local_port, connected: at, reused: false }),
            detail: format!("in the TLS handshake with {address}: {error}"),
        })?;
        let resumed = stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
        Ok(Connected { stream: Box::new(stream), local_port, at, unresumed: could_resume && !resumed })
    }
}

/// What the end of a connection means for an exchange of whose answer `seen` bytes had come.
#[must_use]
pub(super) fn class_of_end(end: End, seen: u64) -> Class {
    match end {
        End::Reset => Class::Reset,
        End::Malformed => Class::Malformed,
        End::Closed | End::Truncated if seen == 0 => Class::ClosedBeforeAnswer,
        End::Closed | End::Truncated => Class::ClosedInAnswer,
    }
}

fn tcp(address: SocketAddr, error: &io::Error) -> NotConnected {
    let class = match error.kind() {
        io::ErrorKind::ConnectionRefused
        | io::ErrorKind::HostUnreachable
        | io::ErrorKind::NetworkUnreachable => Class::Refused,
        io::ErrorKind::ConnectionReset | io::ErrorKind::ConnectionAborted => Class::Reset,
        io::ErrorKind::TimedOut => Class::Timeout,
        // No descriptor, no port, no memory.
        _ => Class::Local,
    };
    NotConnected { class, peer: None, detail: format!("connecting to {address}: {error}") }
}

fn tls(roots: &Arc<RootCertStore>, protocol: &[u8]) -> Result<Tls, String> {
    let sessions =
        Arc::new(Sessions { cache: ClientSessionMemoryCache::new(SESSIONS), taken: AtomicBool::new(false) });
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.map_err(|error| format!("TLS cannot be used: {error}"))?;
    let mut config = builder.with_root_certificates(Arc::clone(roots)).with_no_client_auth();
    config.alpn_protocols = vec![protocol.to_vec()];
    config.resumption = Resumption::store(Arc::clone(&sessions) as Arc<dyn ClientSessionStore>);
    Ok(Tls { connector: TlsConnector::from(Arc::new(config)), sessions })
}

/// The sessions that can be resumed; it notes when one is taken to be.
#[derive(Debug)]
struct Sessions {
    cache: ClientSessionMemoryCache,
    /// One thread makes the handshakes; this is atomic because rustls wants to share it.
    taken: AtomicBool,
}

impl ClientSessionStore for Sessions {
    fn set_kx_hint(&self, server_name: ServerName<'static>, group: NamedGroup) {
        self.cache.set_kx_hint(server_name, group);
    }

    fn kx_hint(&self, server_name: &ServerName<'_>) -> Option<NamedGroup> {
        self.cache.kx_hint(server_name)
    }

    fn set_tls12_session(&self, server_name: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.cache.set_tls12_session(server_name, value);
    }

    fn tls12_session(&self, server_name: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        let session = self.cache.tls12_session(server_name);
        self.taken.fetch_or(session.is_some(), Ordering::Relaxed);
        session
    }

    fn remove_tls12_session(&self, server_name: &ServerName<'static>) {
        self.cache.remove_tls12_session(server_name);
    }

    fn insert_tls13_ticket(&self, server_name: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.cache.insert_tls13_ticket(server_name, value);
    }

    fn take_tls13_ticket(&self, server_name: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        let ticket = self.cache.take_tls13_ticket(server_name);
        self.taken.fetch_or(ticket.is_some(), Ordering::Relaxed);
        ticket
    }
}
