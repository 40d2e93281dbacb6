//! From a stream to a protocol.

use super::{Downstream, ListenerConfig, Server};
use crate::restart::{End, Guard};

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
    /// `http` or `https`.
    pub(super) scheme: &'static str,
}

impl Server {
    /// Finds out what is spoken.
    #[expect(clippy::unused_async, reason = "the TLS handshake is done here")]
    pub(super) async fn shake(
        &self,
        stream: Downstream,
        listener: &ListenerConfig,
        _guard: &Guard,
    ) -> Result<Shaken, End> {
        // Where both may come, the driver of HTTP/1 finds out by the first bytes, at no cost.
        let protocol = if listener.http1 { Protocol::Http1 } else { Protocol::Http2 };
        Ok(Shaken { stream, protocol, scheme: "http" })
    }
}
