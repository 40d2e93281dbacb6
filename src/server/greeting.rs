//! What may come before anything else: the word of a load balancer on whom it speaks for.

use std::net::SocketAddr;

use super::{Downstream, ListenerConfig, Server};
use crate::restart::{End, Guard};

impl Server {
    /// The stream after its greeting, and whose it is: the client's address (`None`: a Unix socket).
    #[expect(clippy::unused_async, reason = "the PROXY protocol is read here")]
    pub(super) async fn greet(
        &self,
        stream: Downstream,
        peer: Option<SocketAddr>,
        _listener: &ListenerConfig,
        _guard: &Guard,
    ) -> Result<(Downstream, Option<SocketAddr>), End> {
        Ok((stream, peer))
    }
}
