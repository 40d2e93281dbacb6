//! One new connection to a server: its address, the bytes that come first, TLS, and which protocol is spoken.

mod race;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use super::metrics::Metrics;
use super::stream::Wire;
use super::{ConnectionConfig, Protocol, ServerAddr};
use crate::proxy::error::{Error, TlsFailure};
use crate::proxy::proxy_header::{self, Ends, ProxyVersion};
use crate::resolver;
use crate::restart::Stream;
use race::Race;

const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

/// What is spoken on one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spoken {
    Http1,
    Http2,
}

/// How connections to one server are made.
#[derive(Debug)]
pub(super) struct Connector {
    address: ServerAddr,
    protocol: Protocol,
    tls: Option<Tls>,
    proxy_protocol: Option<ProxyVersion>,
    way: Way,
    metrics: Rc<Metrics>,
}

/// How the server's address is dialled.
#[derive(Debug)]
enum Way {
    Tcp(SocketAddr),
    Unix(Arc<PathBuf>),
    Name(Named),
}

/// A server with a host name.
#[derive(Debug)]
struct Named {
    /// `None`: nobody looks it up.
    name: Option<resolver::Name>,
    port: u16,
    race: Race,
}

#[derive(Debug)]
struct Tls {
    config: Arc<ClientConfig>,
    /// For connections that may become tunnels.
    http1: Arc<ClientConfig>,
    /// `None` when the server's address gives none.
    name: Option<ServerName<'static>>,
}

impl Connector {
    pub(super) fn new(address: ServerAddr, config: &ConnectionConfig, metrics: Rc<Metrics>) -> Self {
        let protocol = config.protocol;
        let tls = config.tls.as_ref().map(|tls| {
            let offering = |protocols: &[&[u8]]| {
                let mut client = ClientConfig::clone(&tls.client);
                client.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
                Arc::new(client)
            };
            Tls {
                config: match protocol {
                    Protocol::Http1 => offering(&[HTTP_1_1]),
                    Protocol::Http2 => offering(&[H2]),
                    Protocol::Alpn => offering(&[H2, HTTP_1_1]),
                },
                http1: offering(&[HTTP_1_1]),
                name: tls.name.clone().or_else(|| name_of(&address)),
            }
        });
        let way = Way::to(&address, config);
        Connector { address, protocol, tls, proxy_protocol: config.proxy_protocol, way, metrics }
    }

    pub(super) fn address(&self) -> &ServerAddr {
        &self.address
    }

    pub(super) fn metrics(&self) -> &Rc<Metrics> {
        &self.metrics
    }

    pub(super) fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// A connection on which nothing of a request has been sent; one that may become a tunnel speaks HTTP/1 if the
    /// server leaves the choice.
    pub(super) async fn connect(
        &self,
        may_tunnel: bool,
        ends: Option<Ends>,
    ) -> Result<(Wire, Spoken), Error> {
        let begun = Instant::now();
        let unreachable = |cause| Error::Unreachable(self.address.clone(), cause);
        let mut stream = self.way.connect().await.map_err(unreachable)?;
        if let Some(version) = self.proxy_protocol {
            // Before everything else, TLS too.
            stream.write_all(&proxy_header::encode(version, ends)).await.map_err(unreachable)?;
        }
        let Some(tls) = &self.tls else {
            let spoken = if self.protocol == Protocol::Http2 { Spoken::Http2 } else { Spoken::Http1 };
            return Ok((Wire::plain(stream, self.metrics.connected(begun)), spoken));
        };
        let failed = |failure| Error::Tls(self.address.clone(), failure);
        let name = tls.name.clone().ok_or_else(|| failed(TlsFailure::NoName))?;
        let config = match self.protocol {
            Protocol::Alpn if may_tunnel => &tls.http1,
            _ => &tls.config,
        };
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await;
        let stream = stream.map_err(|cause| failed(TlsFailure::of(cause)))?;
        let spoken = match (self.protocol, stream.get_ref().1.alpn_protocol()) {
            (Protocol::Http2 | Protocol::Alpn, Some(H2)) => Spoken::Http2,
            (Protocol::Http2, _) => return Err(failed(TlsFailure::NoHttp2)),
            _ => Spoken::Http1,
        };
        Ok((Wire::tls(stream, self.metrics.connected(begun)), spoken))
    }

    /// The same, within the time that a connect may take.
    pub(super) async fn connect_in_time<T>(
        &self,
        config: &ConnectionConfig,
        connecting: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let result = match timeout(config.connect_timeout, connecting).await {
            Ok(result) => result,
            Err(_) => Err(Error::ConnectTimeout(self.address.clone())),
        };
        if result.is_err() {
            self.metrics.not_connected();
        }
        result
    }
}

/// The name that a server's certificate must have if no other is set: its host, or its IP address.
fn name_of(address: &ServerAddr) -> Option<ServerName<'static>> {
    match address {
        ServerAddr::Socket(address) => Some(address.ip().into()),
        ServerAddr::Name(host, _) => ServerName::try_from(host.to_string()).ok(),
        ServerAddr::Unix(_) => None,
    }
}

impl Way {
    fn to(address: &ServerAddr, config: &ConnectionConfig) -> Way {
        match address {
            ServerAddr::Socket(address) => Way::Tcp(*address),
            ServerAddr::Unix(path) => Way::Unix(path.clone()),
            ServerAddr::Name(host, port) => Way::Name(Named {
                name: config.resolver.name(host),
                port: *port,
                race: Race::within(config.connect_timeout),
            }),
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        match self {
            Way::Tcp(address) => race::connect(*address).await.map(Stream::Tcp),
            Way::Unix(path) => UnixStream::connect(&**path).await.map(Stream::Unix),
            Way::Name(Named { name, port, race }) => {
                let unknown = || io::Error::new(io::ErrorKind::NotFound, "nobody looks up its name");
                let addresses = name.as_ref().ok_or_else(unknown)?.addresses().await?;
                race.run(&addresses, *port).await.map(Stream::Tcp)
            }
        }
    }
}
