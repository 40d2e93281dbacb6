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

mod answer;
mod close;
mod connection;
mod stream;

use std::rc::Rc;
use std::time::Duration;

use hyper::server::conn::http1::Builder;

use crate::proxy::{MIN_BUFFER_BYTES, Proxy};
use crate::restart::{Accepted, End, Guard};
use crate::timer::Timer;
use connection::{Outcome, drive};
pub use stream::Downstream;

/// What a client may do, and for how long.
#[derive(Clone, Debug)]
pub struct Config {
    /// From the first byte of a request to the end of its head: 408.
    pub header_timeout: Duration,
    /// How long a connection may rest between requests.
    pub idle_timeout: Duration,
    /// How long nothing may move while we wait for the client, to read the answer or to send the body.
    pub stall_timeout: Duration,
    /// How long a client may take to close its side after we have closed ours.
    pub linger_timeout: Duration,
    /// The longest head of a request, in bytes: 431.
    pub max_head_bytes: usize,
    /// The most fields in a head: 431. Any other value than 100 costs an allocation for each request.
    pub max_headers: usize,
    /// The most that is buffered of one body in one direction, in bytes; at least 8192.
    pub buffer_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            stall_timeout: Duration::from_secs(60),
            linger_timeout: Duration::from_secs(2),
            max_head_bytes: 64 * 1024,
            max_headers: HYPER_MAX_HEADERS,
            buffer_bytes: 128 * 1024,
        }
    }
}

/// For so many hyper has room on the stack.
const HYPER_MAX_HEADERS: usize = 100;

/// Serves the connections of one worker.
#[derive(Debug)]
pub struct Server {
    config: Config,
    builder: Builder,
    proxy: Rc<Proxy>,
}

impl Server {
    /// A server that passes requests to `proxy`.
    pub fn new(config: Config, proxy: Rc<Proxy>) -> Self {
        let mut builder = Builder::new();
        builder
            // The clocks are ours: hyper's would run between requests too.
            .header_read_timeout(None)
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.buffer_bytes.max(config.max_head_bytes).max(MIN_BUFFER_BYTES));
        if config.max_headers != HYPER_MAX_HEADERS {
            builder.max_headers(config.max_headers);
        }
        Server { config, builder, proxy }
    }

    /// Serves a connection to its end, and enters that in the books.
    pub async fn serve(&self, accepted: Accepted, guard: Guard) {
        let client = self.proxy.client(accepted.peer.map(|peer| peer.ip()), "http");
        let mut timer = Timer::default();
        let mut stream = Downstream::plain(accepted.stream);
        let end = loop {
            match drive(&self.config, &self.builder, stream, &client, &guard, &mut timer).await {
                Outcome::Closed { stream: _, end: end @ (End::ClosedByPeer | End::PeerAborted) } => {
                    break end;
                }
                Outcome::Closed { stream, end } => break self.close(stream, end).await,
                // The next request, or its beginning, came as we were about to close.
                Outcome::AtRest { stream: at_rest } if at_rest.has_unread().unwrap_or(false) => {
                    stream = at_rest;
                    if stream.readable().await.is_err() {
                        break End::PeerAborted;
                    }
                }
                Outcome::AtRest { stream } => break self.close(stream, End::Closed).await,
                Outcome::TooSlow { stream } => {
                    break self.close_with(stream, close::REQUEST_TIMEOUT, End::TimedOut).await;
                }
                Outcome::Cut { stream, end, reset: true } => {
                    stream.reset_on_close(true);
                    break end;
                }
                Outcome::Cut { stream, end, reset: false } => break self.close(stream, end).await,
            }
        };
        guard.end(end);
    }
}

#[cfg(test)]
mod tests;
