//! From a stream to a protocol: the TLS handshake, where a listener has certificates.
//!
//! It has one deadline, however the bytes come. A drain waits for it: whoever has begun gets its answer, and
//! a chance to ask for one thing.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use rustls::{AlertDescription, ServerConfig, ServerConnection};
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use super::metrics::HandshakeFailure;
use super::{Downstream, ListenerConfig, Server, close};
use crate::proxy::ClientCertificate;
use crate::restart::{End, Guard};
use crate::tls::{self, ServerStream};

/// How a listener speaks TLS.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    /// The handshake's side of it.
    pub config: Arc<ServerConfig>,
    /// Whether clients are asked for certificates; then the upstream is told of them.
    pub asks_clients: bool,
}

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// HTTP/1.0 or HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
}

/// A stream on which requests can come.
#[derive(Debug)]
pub(super) struct Shaken {
    pub(super) stream: Downstream,
    pub(super) protocol: Protocol,
    /// Whether it was chosen by ALPN (RFC 7301), so that the first bytes do not change it.
    pub(super) is_settled: bool,
    /// `http` or `https`.
    pub(super) scheme: &'static str,
    pub(super) certificate: ClientCertificate,
}

/// The type of the record that a handshake begins with (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// Room for the first flight of most clients, with a hybrid key share; a longer one is read in pieces.
const FIRST_READ: usize = 2048;

impl Server {
    /// Finds out what is spoken.
    pub(super) async fn shake(
        &self,
        stream: Downstream,
        listener: &ListenerConfig,
        guard: &Guard,
        deadline: Instant,
    ) -> Result<Shaken, End> {
        // Where both may come, the driver of HTTP/1 finds out by the first bytes, at no cost.
        let unnamed = if listener.http1 { Protocol::Http1 } else { Protocol::Http2 };
        let Some(tls) = &listener.tls else {
            let certificate = ClientCertificate::NotAsked;
            return Ok(Shaken { stream, protocol: unnamed, is_settled: false, scheme: "http", certificate });
        };
        let stream = self.await_handshake(stream, deadline).await?;

        let since = Instant::now();
        guard.set_active(true);
        let Ok(mut stream) = ServerStream::new(tls.config.clone(), stream) else {
            guard.set_active(false);
            return Err(End::ProtocolError);
        };
        let shaken = timeout_at(deadline, stream.handshake()).await;
        guard.set_active(false);
        match shaken {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "a TLS handshake failed");
                return Err(match end_of(&error) {
                    End::ProtocolError => {
                        self.metrics.not_shaken(HandshakeFailure::Protocol);
                        // It is told by an alert, which must arrive.
                        self.close(Downstream::tls(stream), End::ProtocolError).await
                    }
                    end => {
                        self.metrics.not_shaken(HandshakeFailure::Client);
                        end
                    }
                });
            }
            Err(_) => {
                self.metrics.not_shaken(HandshakeFailure::Timeout);
                return Err(End::TimedOut);
            }
        }
        let session = stream.session();
        self.metrics.shaken(session, since);
        tracing::debug!(
            version = ?session.protocol_version(),
            kind = ?session.handshake_kind(),
            name = session.server_name(),
            protocol = session.alpn_protocol().map(String::from_utf8_lossy).as_deref(),
            "TLS"
        );
        let is_settled = session.alpn_protocol().is_some();
        let protocol = match session.alpn_protocol() {
            Some(b"h2") => Protocol::Http2,
            Some(_) => Protocol::Http1,
            None => unnamed,
        };
        let certificate = if tls.asks_clients { certificate(session) } else { ClientCertificate::NotAsked };
        Ok(Shaken { stream: Downstream::tls(stream), protocol, is_settled, scheme: "https", certificate })
    }

    /// Waits for the first bytes, and sends those away who do not speak TLS.
    async fn await_handshake(&self, mut stream: Downstream, deadline: Instant) -> Result<Downstream, End> {
        let mut first = BytesMut::with_capacity(FIRST_READ);
        match timeout_at(deadline, stream.read_buf(&mut first)).await {
            Ok(Ok(0)) => return Err(End::ClosedByPeer),
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(End::PeerAborted),
            Err(_) => {
                self.metrics.not_shaken(HandshakeFailure::Timeout);
                return Err(End::TimedOut);
            }
        }
        match first[0] {
            HANDSHAKE_RECORD => {
                stream.put_back(first.freeze());
                Ok(stream)
            }
            // The method of a request.
            b'A'..=b'Z' => {
                self.metrics.not_shaken(HandshakeFailure::NotTls);
                Err(self.close_with(stream, close::NOT_TLS, End::ProtocolError).await)
            }
            _ => {
                self.metrics.not_shaken(HandshakeFailure::NotTls);
                // A record of a type that no connection begins with, if it is a record (RFC 8446, section 5).
                let alert = tls::plain_alert(AlertDescription::UnexpectedMessage);
                Err(self.close_with(stream, &alert, End::ProtocolError).await)
            }
        }
    }
}

/// How a connection ended of which the handshake failed.
fn end_of(error: &io::Error) -> End {
    match error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        // It is the client that does not want to go on.
        Some(rustls::Error::AlertReceived(_)) | None => End::PeerAborted,
        Some(_) => End::ProtocolError,
    }
}

fn certificate(session: &ServerConnection) -> ClientCertificate {
    let Some(leaf) = session.peer_certificates().and_then(<[_]>::first) else {
        return ClientCertificate::NotShown;
    };
    // That it was verified is true whatever its name is. Without a name it is like one that has none, and nobody else.
    let subject = tls::subject(leaf).unwrap_or_else(|why| {
        tracing::warn!(%why, "the subject of a client's certificate is not passed on");
        String::new()
    });
    ClientCertificate::Verified { subject }
}
