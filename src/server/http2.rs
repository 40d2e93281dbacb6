//! The driver of one HTTP/2 connection.

#[expect(dead_code, reason = "the driver uses it")]
mod meter;

use super::{Downstream, HTTP2, Server};
use crate::proxy;
use crate::restart::{End, Guard};

impl Server {
    /// Serves requests on `stream` until it ends.
    pub(super) async fn serve_http2(
        &self,
        stream: Downstream,
        _client: &proxy::Client,
        guard: &Guard,
    ) -> End {
        guard.switch(HTTP2);
        self.close(stream, End::ProtocolError).await
    }
}
