//! The servers behind this proxy, and the connections to them.
//!
//! ```text
//! connect: address ─► (what must come first) ─► TLS, ALPN ─┬─► http1: one request at a time, a stack of idle ones
//!                                                           └─► http2: many streams each, shared by all requests
//! ```
//!
//! Each worker has its own: a connection is made, used and kept on one thread.

mod connect;
pub(super) mod http1;
pub(super) mod http2;
mod metrics;
mod standing;
mod stream;

use std::cell::Cell;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::task::spawn_local;
use tokio::time::interval;

use super::error::Error;
use super::proxy_header::{Ends, ProxyVersion};
use crate::resolver::Resolver;
use connect::{Connector, Spoken};
pub(super) use http2::Windows;
pub use metrics::FAMILIES;
pub(super) use metrics::{Columns, Metrics, Retry};
use standing::Standing;
pub(super) use stream::Wire;

/// Where a server is. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerAddr {
    /// An address and a port.
    Socket(SocketAddr),
    /// A Unix socket, written `unix:/path`.
    Unix(Arc<PathBuf>),
    /// A host name and a port, as in `app.internal:9000`. Whatever addresses it has at the time are raced.
    Name(Arc<str>, u16),
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerAddr::Socket(address) => write!(f, "{address}"),
            ServerAddr::Unix(path) => write!(f, "unix:{}", path.display()),
            ServerAddr::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// What is spoken with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2; without TLS by prior knowledge (RFC 9113, section 3.3).
    Http2,
    /// What the server chooses in the TLS handshake (RFC 7301); HTTP/1.1 if it chooses nothing, or without TLS.
    Alpn,
}

/// How TLS is spoken with servers.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// Roots, client certificate and sessions; which protocols are offered is set here.
    pub client: Arc<ClientConfig>,
    /// The name that is sent (SNI) and that certificates must have; `None`: each server's own host or IP address.
    pub name: Option<ServerName<'static>>,
}

/// How connections to a server are made and kept.
#[derive(Clone, Debug)]
pub struct ConnectionConfig {
    /// What is spoken on them.
    pub protocol: Protocol,
    /// `None`: they are not encrypted.
    pub tls: Option<TlsConfig>,
    /// Whether servers are told at the beginning of a connection whom it is for. Then each request takes a
    /// connection of its own.
    pub proxy_protocol: Option<ProxyVersion>,
    /// Who knows the addresses of servers with a host name.
    pub resolver: Resolver,
    /// How long a connect may take, the look-up of a name and the TLS handshake included; and how long a request
    /// may wait for its turn when every HTTP/2 connection is full.
    pub connect_timeout: Duration,
    /// How many idle connections a worker keeps to each server.
    pub max_idle: usize,
    /// How long it keeps one that is not used; zero keeps none. Should be less than what the server allows.
    pub idle_timeout: Duration,
    /// How many requests one HTTP/2 connection carries at once, if the server allows as many; at least 1.
    pub max_streams: usize,
    /// How many HTTP/2 connections a worker has to each server; at least 1.
    pub max_http2_connections: usize,
    /// The longest head of an answer, in bytes.
    pub max_head_bytes: usize,
    /// The most that is buffered of one body in one direction, in bytes; at least 8192.
    pub buffer_bytes: usize,
}

impl ConnectionConfig {
    /// [`ConnectionConfig::max_http2_connections`], which no setting changes.
    pub const MAX_HTTP2_CONNECTIONS: usize = 64;
    /// [`ConnectionConfig::max_head_bytes`], which no setting changes.
    pub const MAX_HEAD_BYTES: usize = 64 * 1024;
    /// [`ConnectionConfig::buffer_bytes`], which no setting changes.
    pub const BUFFER_BYTES: usize = 128 * 1024;
}

/// The least buffer that hyper takes; a smaller one makes it panic.
pub(crate) const MIN_BUFFER_BYTES: usize = 8192;

/// Idle connections are looked over this many times in each `idle_timeout`.
const SWEEPS: u32 = 4;

/// But not more often: each server of each worker has a timer for it.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// One server and the connections to it.
#[derive(Debug)]
pub(super) struct Server {
    connector: Rc<Connector>,
    http1: http1::Pool,
    http2: Rc<http2::Pool>,
    /// What is to be expected of the next connection: what the last one spoke.
    expected: Cell<Spoken>,
    standing: Standing,
    config: Rc<ConnectionConfig>,
}

/// A connection, or a stream of one, that is in use.
#[derive(Debug)]
pub(super) enum Lease {
    Http1(http1::Lease),
    Http2(http2::Lease),
}

impl Server {
    /// Must run where tasks can be spawned that are not `Send`: the sweep of idle connections lives as long as the
    /// server.
    pub(super) fn new(
        address: ServerAddr,
        mut config: ConnectionConfig,
        windows: Windows,
        metrics: Rc<Metrics>,
    ) -> Rc<Self> {
        if config.idle_timeout.is_zero() {
            config.max_idle = 0;
        }
        let config = Rc::new(config);
        let connector = Rc::new(Connector::new(address, &config, metrics));
        let expected = match config.protocol {
            Protocol::Http1 => Spoken::Http1,
            Protocol::Alpn if config.tls.is_none() => Spoken::Http1,
            // Connections that may be shared are made one at a time.
            Protocol::Http2 | Protocol::Alpn => Spoken::Http2,
        };
        let server = Rc::new(Server {
            http1: http1::Pool::new(&config),
            http2: http2::Pool::new(connector.clone(), config.clone(), windows),
            connector,
            expected: Cell::new(expected),
            standing: Standing::default(),
            config,
        });
        let period = (server.config.idle_timeout / SWEEPS).max(MIN_PERIOD);
        spawn_local(sweep(Rc::downgrade(&server), period));
        server
    }

    pub(super) fn address(&self) -> &ServerAddr {
        self.connector.address()
    }

    /// Whether it could be connected to.
    pub(super) fn standing(&self) -> &Standing {
        &self.standing
    }

    /// How long a connect may take.
    pub(super) fn connect_timeout(&self) -> Duration {
        self.config.connect_timeout
    }

    pub(super) fn metrics(&self) -> &Metrics {
        self.connector.metrics()
    }

    /// A connection that was alive when this thread last looked, and that has room for a request. One that may
    /// become a tunnel goes by HTTP/1 if the server leaves the choice.
    pub(super) fn idle(self: &Rc<Self>, may_tunnel: bool) -> Option<Lease> {
        if self.config.proxy_protocol.is_some() {
            return None;
        }
        match self.expected(may_tunnel) {
            Spoken::Http1 => Some(Lease::Http1(self.http1.idle(self)?)),
            Spoken::Http2 => Some(Lease::Http2(self.http2.idle()?)),
        }
    }

    /// A new connection, for the client whose `ends` these are; with HTTP/2 a stream of one that others may have
    /// asked for before, unless the server is told of clients.
    pub(super) async fn connect(
        self: &Rc<Self>,
        may_tunnel: bool,
        ends: Option<Ends>,
    ) -> Result<Lease, Error> {
        let is_shared = self.config.proxy_protocol.is_none();
        if is_shared
            && self.expected(may_tunnel) == Spoken::Http2
            && let Some(lease) = self.share().await?
        {
            return Ok(lease);
        }
        // Boxed: the states of a handshake are large, and every request would carry room for them.
        let connecting = Box::pin(self.connector.connect(may_tunnel, ends));
        let (wire, spoken) = self.connector.connect_in_time(&self.config, connecting).await?;
        match spoken {
            Spoken::Http1 => self.http1.begin(wire, self).await,
            Spoken::Http2 if !is_shared => self.http2.alone(wire).await.map(Lease::Http2),
            Spoken::Http2 => {
                self.expected.set(Spoken::Http2);
                if let Some(lease) = self.http2.adopt(wire).await? {
                    return Ok(Lease::Http2(lease));
                }
                // Others have found out at the same time. One that changes its mind yet again is not followed.
                self.share().await?.ok_or_else(|| Error::Full(self.address().clone()))
            }
        }
    }

    /// A stream of a connection that others may have asked for before, or its connection if the server chose HTTP/1.
    /// `None`: it did so in a connection that somebody else has.
    async fn share(self: &Rc<Self>) -> Result<Option<Lease>, Error> {
        match self.http2.stream().await? {
            http2::Got::Stream(lease) => Ok(Some(Lease::Http2(lease))),
            http2::Got::Http1(wire) => {
                self.expected.set(Spoken::Http1);
                self.http1.begin(wire, self).await.map(Some)
            }
            http2::Got::NotHttp2 => {
                self.expected.set(Spoken::Http1);
                Ok(None)
            }
        }
    }

    fn expected(&self, may_tunnel: bool) -> Spoken {
        match self.config.protocol {
            Protocol::Alpn if may_tunnel => Spoken::Http1,
            _ => self.expected.get(),
        }
    }

    fn sweep(&self) {
        self.http1.sweep();
        self.http2.sweep();
    }
}

async fn sweep(server: Weak<Server>, period: Duration) -> Option<Infallible> {
    let mut ticks = interval(period);
    loop {
        ticks.tick().await;
        server.upgrade()?.sweep();
    }
}
