//! A client's connection, from accept to end.
//!
//! [`Server::serve`] drives a stream until it ends, answers what the driver cannot, and closes so that the
//! last answer arrives. Every connection ends with one [`End`] in the books.
//!
//! While the process drains, an answer whose head is not yet written says `Connection: close`. A connection
//! at rest is left alone until the grace for idle ones ends, so that a client that is about to send its next
//! request gets an answer and the word to reconnect; then it is closed, and only if nothing has arrived.
//!
//! A client that ends its side while it waits for an answer has gone away: its request to the upstream is
//! dropped with it. One that only says that it has no more to send looks the same; nginx holds it so too.
//!
//! ```text
//! accepted ──► greeting ──► handshake ──► http1 ◄──────► closed, at rest, cut …
//!              (PROXY)       (TLS)    └─► http2
//! ```

mod answer;
mod close;
mod connection;
mod greeting;
mod handshake;
mod http2;
mod metrics;
mod rest;
mod stream;
pub mod strict;
mod tunnel;

use std::collections::HashMap;
use std::fmt::Display;
use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1::Builder;
use tokio::time::Instant;

use crate::proxy::{self, MIN_BUFFER_BYTES, Proxy, log_client};
use crate::restart::{Accepted, End, Guard, Kind, Kinds};
use crate::timer::Timer;
use connection::{Outcome, drive};
pub use greeting::ProxyProtocol;
use greeting::Speaker;
pub use handshake::TlsConfig;
use handshake::{Protocol, Shaken};
pub use http2::Config as Http2Config;
use metrics::Refused;
pub use metrics::{Columns, FAMILIES, LOST_TUNNELS, Metrics};
use rest::{Rest, Roused};
pub use stream::Downstream;

/// The kinds of connections.
pub const KINDS: Kinds = &["http1", "http2", "tunnel", "handshake"];

/// Connections that speak HTTP/1.
pub const HTTP1: Kind = Kind(0);

/// Connections that speak HTTP/2.
pub const HTTP2: Kind = Kind(1);

/// Connections that were HTTP and carry something else now.
pub const TUNNEL: Kind = Kind(2);

/// Connections of which the protocol is not known yet: the PROXY header or the TLS handshake is under way.
pub const HANDSHAKE: Kind = Kind(3);

/// What a client may do, and for how long.
#[derive(Clone, Debug)]
pub struct Config {
    /// What clients meet on each listener, by its name; on one that is not here, the default.
    pub listeners: HashMap<String, ListenerConfig>,
    /// For what comes before a protocol: the PROXY header and the TLS handshake together.
    pub handshake_timeout: Duration,
    /// From the first byte of a request to the end of its head: 408.
    pub header_timeout: Duration,
    /// How long a connection may rest between requests.
    pub idle_timeout: Duration,
    /// How long nothing may move while we wait for the client, to read the answer or to send the body.
    pub stall_timeout: Duration,
    /// How long a tunnel may rest with no byte either way.
    pub tunnel_timeout: Duration,
    /// How long a client may take to close its side after we have closed ours.
    pub linger_timeout: Duration,
    /// The longest head of a request, in bytes: 431.
    pub max_head_bytes: usize,
    /// The most fields in a head: 431. Any other value than 100 costs an allocation for each request.
    pub max_headers: usize,
    /// The most that is buffered of one body in one direction, in bytes; at least 8192.
    pub buffer_bytes: usize,
    /// What is of HTTP/2 alone.
    pub http2: Http2Config,
}

/// What a client meets on one listener.
#[derive(Clone, Debug)]
pub struct ListenerConfig {
    /// Whether clients may speak HTTP/1.
    pub http1: bool,
    /// Whether clients may speak HTTP/2; without TLS by prior knowledge (RFC 9113, section 3.3).
    pub http2: bool,
    /// How TLS is spoken; without it, it is not.
    pub tls: Option<TlsConfig>,
    /// Whether a load balancer in front says whom it speaks for.
    pub proxy_protocol: ProxyProtocol,
}

impl Default for ListenerConfig {
    fn default() -> Self {
        ListenerConfig { http1: true, http2: true, tls: None, proxy_protocol: ProxyProtocol::Off }
    }
}

impl Config {
    /// [`Config::linger_timeout`], which no setting changes.
    pub const LINGER_TIMEOUT: Duration = Duration::from_secs(2);
    /// [`Config::buffer_bytes`], which no setting changes.
    pub const BUFFER_BYTES: usize = 128 * 1024;
}

/// For so many hyper has room on the stack.
const HYPER_MAX_HEADERS: usize = 100;

/// Serves the connections of one worker.
#[derive(Debug)]
pub struct Server {
    config: Config,
    default_listener: ListenerConfig,
    builder: Builder,
    http2: h2::server::Builder,
    clock: Rc<http2::Clock>,
    proxy: Rc<Proxy>,
    metrics: Rc<Metrics>,
}

impl Server {
    /// A server that passes requests to `proxy`.
    pub fn new(config: Config, proxy: Rc<Proxy>, metrics: Rc<Metrics>) -> Self {
        let mut builder = Builder::new();
        builder
            // The clocks are ours: hyper's would run between requests too.
            .header_read_timeout(None)
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.buffer_bytes.max(config.max_head_bytes).max(MIN_BUFFER_BYTES));
        if config.max_headers != HYPER_MAX_HEADERS {
            builder.max_headers(config.max_headers);
        }
        let http2 = http2::builder(&config, &proxy);
        let clock = Rc::default();
        Server { config, default_listener: ListenerConfig::default(), builder, http2, clock, proxy, metrics }
    }

    /// The kind as which a connection of this listener begins.
    pub fn first_kind(&self, listener: &str) -> Kind {
        let ListenerConfig { http1, tls, proxy_protocol, .. } = self.listener(listener);
        // Without anything before it, the first byte is of a request.
        let is_bare = tls.is_none() && matches!(proxy_protocol, ProxyProtocol::Off);
        if *http1 && is_bare { HTTP1 } else { HANDSHAKE }
    }

    /// Serves a connection to its end, and enters that in the books. `guard` is of [`Server::first_kind`].
    pub async fn serve(&self, accepted: Accepted, guard: Guard) {
        let end = self.serve_to_end(accepted, &guard).await.unwrap_or_else(|end| end);
        guard.end(end);
    }

    /// An error is an end, too: one before any protocol was spoken.
    async fn serve_to_end(&self, accepted: Accepted, guard: &Guard) -> Result<End, End> {
        let Accepted { listener, stream, peer } = accepted;
        let (name, listener) = (&listener, self.listener(&listener));
        let deadline = Instant::now() + self.config.handshake_timeout;
        let (stream, speaker) =
            self.greet(Downstream::plain(stream), peer, name, listener, guard, deadline).await?;
        let shaken = self.shake(stream, listener, guard, deadline).await?;
        let Shaken { stream, protocol, is_settled, scheme, certificate } = shaken;
        let (peer, ends) = match speaker {
            Speaker::Peer => (peer, if self.proxy.tells_ends() { stream.ends(peer) } else { None }),
            Speaker::Client(ends) => (ends.map(|ends| ends.client), ends),
        };
        let client = self.proxy.client(peer, name, scheme, certificate, ends);
        Ok(match protocol {
            Protocol::Http1 => {
                let may_be_http2 = listener.http2 && !is_settled;
                self.serve_http1(stream, may_be_http2, &client, guard).await
            }
            Protocol::Http2 => self.serve_http2(stream, &client, guard).await,
        })
    }

    /// With `may_be_http2`, the first bytes decide what is spoken, and nothing behind them.
    async fn serve_http1(
        &self,
        mut stream: Downstream,
        may_be_http2: bool,
        client: &proxy::Client,
        guard: &Guard,
    ) -> End {
        guard.switch(HTTP1);
        let mut timer = Timer::default();
        let exchange = client.exchange();
        let mut rest = Rest::new();
        loop {
            match rest.wait(&stream, &self.config, guard, &mut timer).await {
                Roused::Readable => {}
                Roused::Over => return self.close(stream, End::Closed).await,
                Roused::Lost => return End::PeerAborted,
            }
            let sniff = may_be_http2 && rest.is_fresh();
            let driving =
                drive(&self.config, &self.builder, stream, rest, sniff, &exchange, guard, &mut timer);
            match driving.await {
                Outcome::Closed { stream: _, end: end @ (End::ClosedByPeer | End::PeerAborted) } => {
                    return end;
                }
                Outcome::Closed { stream, end } => {
                    if end == End::ProtocolError {
                        self.metrics.refused(Refused::Malformed);
                        refused(client, "malformed", &"it is malformed");
                    }
                    return self.close(stream, end).await;
                }
                Outcome::AtRest { stream: at_rest, rest: at } => (stream, rest) = (at_rest, at),
                Outcome::Http2 { stream } if sniff => {
                    return self.serve_http2(stream, client, guard).await;
                }
                Outcome::Refused { stream, refusal } => {
                    self.metrics.refused_by_rule(refusal);
                    let id = refused(client, refusal.label(), &refusal);
                    let answer = refusal.answer(id);
                    return self.close_with(stream, answer.as_bytes(), End::ProtocolError).await;
                }
                Outcome::Http2 { stream } => {
                    return self.close_with(stream, close::VERSION_NOT_SUPPORTED, End::ProtocolError).await;
                }
                Outcome::Tunnel { stream, upstream } => {
                    // It is larger than all the rest, and few connections become one.
                    let request = exchange.identity();
                    return Box::pin(self.serve_tunnel(stream, *upstream, request, guard, timer)).await;
                }
                Outcome::TooSlow { stream } => {
                    self.metrics.refused(Refused::TooSlow);
                    let id = refused(client, "too_slow", &"it did not come in time");
                    let answer = close::request_timeout(id);
                    return self.close_with(stream, answer.as_bytes(), End::TimedOut).await;
                }
                Outcome::Cut { stream, end, reset } => {
                    if end == End::ProtocolError {
                        self.metrics.refused(Refused::Body);
                    }
                    if reset {
                        stream.reset_on_close(true);
                        return end;
                    }
                    return self.close(stream, end).await;
                }
            }
        }
    }

    fn listener(&self, name: &str) -> &ListenerConfig {
        self.config.listeners.get(name).unwrap_or(&self.default_listener)
    }
}

/// Notes that what came in place of a request was refused, and returns the id by which the client is told.
fn refused(client: &proxy::Client, label: &str, why: &dyn Display) -> proxy::RequestId {
    let client = client.identity();
    let id = client.next_id();
    log_client!(debug, client, %id, label, "a request was refused: {why}");
    id
}

#[cfg(test)]
mod tests;
