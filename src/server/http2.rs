//! A connection that speaks HTTP/2 (RFC 9113).
//!
//! ```text
//!          preface            GOAWAY: drain, or idle_timeout
//!  Greeting ──────► Open ───────────────────────────────────► Parting ──► h2 is done: acknowledged, and no stream
//!     │              │                                           │
//!     │              │ a flood, a debt of acknowledgements       │ not acknowledged in time, no stream, nothing
//!     │              ▼                                           ▼ unread
//!     │           Leaving: the last GOAWAY, then the close ◄─────┘
//!     ▼
//!   header_timeout, or the end of the drain's grace
//! ```

mod date;
mod drive;
mod meter;
mod request;
mod stream;
mod trailers;
mod tunnel;
mod unsettled;
mod websocket;
mod wire;

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use h2::server::{Builder, Connection};
use tokio::time::Instant;

use super::{Downstream, HTTP2, Refused, Server};
use crate::proxy;
use crate::restart::{End, Guard};
use crate::timer::Timer;
use drive::{Driver, Ended, end_of};
use meter::Limits;
use stream::Common;
use wire::{Link, Wire};

pub(in crate::server) use date::Clock;

/// What a client may do by HTTP/2.
#[derive(Clone, Debug)]
pub struct Config {
    /// Concurrent streams of a connection; more are refused with REFUSED_STREAM.
    pub max_streams: u32,
    /// How much of one request's body may be on its way unread, in bytes.
    pub stream_window: u32,
    /// How much of all of a connection's, in bytes. With less than `max_streams` times `stream_window`, requests that
    /// no server takes stop the others.
    pub connection_window: u32,
    /// Streams that a client may reset, or make us reset, in a minute, beyond one for each that it let finish.
    pub max_resets_per_minute: u32,
    /// Frames in a minute that carry no request: PING, SETTINGS, PRIORITY, empty DATA, unknown ones, and
    /// WINDOW_UPDATE beyond what the data sent is worth.
    pub max_control_frames_per_minute: u32,
    /// How long a peer may take to acknowledge a PING or our SETTINGS.
    pub ack_timeout: Duration,
}

/// h2 counts the resets for a client's errors over the whole life of a connection. The meter forgives them with
/// time; this is what bounds those that wait to be written.
const PENDING_ERROR_RESETS: usize = 10_000;

/// As many clients can reset in one go, before a single stream was looked at.
const LEAST_PENDING_RESETS: usize = 20;

pub(super) fn builder(config: &super::Config, proxy: &proxy::Proxy) -> Builder {
    let http2 = &config.http2;
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(http2.max_streams)
        .initial_window_size(http2.stream_window)
        .initial_connection_window_size(http2.connection_window.max(http2.stream_window))
        .max_header_list_size(u32::try_from(config.max_head_bytes).unwrap_or(u32::MAX))
        .max_send_buffer_size(config.buffer_bytes.min(u32::MAX as usize))
        .max_pending_accept_reset_streams(LEAST_PENDING_RESETS.max(http2.max_streams as usize))
        .max_local_error_reset_streams(Some(PENDING_ERROR_RESETS))
        // Small frames cost more memory than their bytes. h2 allows half the window for what they cost while they wait
        // unread; a gRPC client whose messages are short would sooner be sent away when its upstream pauses.
        .data_frame_budget(http2.connection_window as usize);
    if proxy.may_upgrade(websocket::NAME) {
        builder.enable_connect_protocol();
    }
    builder
}

/// GOAWAY of stream 0: nothing was processed, everything can be sent again. `NO_ERROR`, or `PROTOCOL_ERROR`.
const GOAWAY: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const GOAWAY_PROTOCOL_ERROR: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

impl Server {
    /// Serves requests on `stream` until it ends.
    pub(super) async fn serve_http2(&self, stream: Downstream, client: &proxy::Client, guard: &Guard) -> End {
        guard.switch(HTTP2);
        let limits = Limits {
            resets_per_minute: self.config.http2.max_resets_per_minute,
            control_frames_per_minute: self.config.http2.max_control_frames_per_minute,
            trailer_bytes: self.config.max_head_bytes,
        };
        let link = Link::new(stream, limits);
        let mut timer = Timer::default();
        let (ended, words) = match self.greet_http2(&link, client, guard, &mut timer).await {
            Ok(connection) => {
                let common = Common {
                    client: client.clone(),
                    link: link.clone(),
                    clock: self.clock.clone(),
                    stall_timeout: self.config.stall_timeout,
                    tunnel_timeout: self.config.tunnel_timeout,
                    metrics: self.metrics.clone(),
                    websockets: self.proxy.may_upgrade(websocket::NAME),
                    max_headers: self.config.max_headers,
                };
                let mut driver = Driver::new(&self.config, connection, common, guard);
                let ended = poll_fn(|cx| driver.poll(&mut timer, cx)).await;
                (ended, &b""[..])
            }
            Err(told) => told,
        };
        // What follows is only the close, however long the client takes to do its part.
        guard.set_active(false);
        link.meter.borrow_mut().unsettled.clear();
        // Streams hold on to their connection's notes until their tasks have gone.
        let Some(stream) = link.stream.borrow_mut().take() else { return End::Lost };
        if let Ended::Over(End::Refused) | Ended::Cut(End::Refused) = ended {
            self.metrics.refused(Refused::Http2Flood);
        }
        match ended {
            _ if stream.has_failed() => self.close(stream, End::ProtocolError).await,
            Ended::Over(end @ (End::ClosedByPeer | End::PeerAborted)) => end,
            Ended::Over(end) => self.close_with(stream, words, end).await,
            Ended::Cut(end) => {
                stream.reset_on_close(true);
                end
            }
        }
    }

    /// Waits for the preface. An error is an end, and what the client is told of it.
    async fn greet_http2(
        &self,
        link: &Rc<Link>,
        client: &proxy::Client,
        guard: &Guard,
        timer: &mut Timer,
    ) -> Result<Connection<Wire, Bytes>, (Ended, &'static [u8])> {
        let begun = Instant::now();
        let mut handshake = self.http2.handshake::<_, Bytes>(Wire(link.clone()));
        poll_fn(|cx| {
            while guard.poll_changed(cx).is_ready() {}
            if let Poll::Ready(result) = Pin::new(&mut handshake).poll(cx) {
                return Poll::Ready(result.map_err(|error| {
                    proxy::log_client!(debug, client.identity(), %error, "no HTTP/2 preface");
                    match end_of(Err(error), false) {
                        End::ProtocolError => (Ended::Over(End::ProtocolError), GOAWAY_PROTOCOL_ERROR),
                        end => (Ended::Over(end), &b""[..]),
                    }
                }));
            }
            let limit = begun + self.config.header_timeout;
            let (due, end) = match guard.drain() {
                // As on HTTP/1: one that has had no chance yet gets the grace from its own beginning.
                Some(drain) if !link.begun.get() => {
                    let grace = drain.idle_until.saturating_duration_since(drain.since);
                    (limit.min(drain.idle_until.max(begun + grace)), End::Closed)
                }
                _ => (limit, End::TimedOut),
            };
            timer.poll_until(due, cx).map(|()| {
                // The runtime may not know yet of what has come.
                let end = if link.has_unread() { End::TimedOut } else { end };
                Err((Ended::Over(end), GOAWAY))
            })
        })
        .await
    }
}
