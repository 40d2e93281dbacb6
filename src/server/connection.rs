//! The driver of one HTTP/1 connection: hyper's state machine, the clocks around it, and how it ends.
//!
//! ```text
//!          first byte            head complete
//!   Rest ─────────────► Head ───────────────────► InFlight ──► Client   response or body waits for the client
//!    │ ▲                  │ header_timeout: 408      │   ▲        │ stall_timeout: cut
//!    │ └──────────────────┼──────────────────────────┘   └────────┘
//!    │ a moment later, or when its time is over
//!    ▼
//!  AtRest: the stream in one piece, with what was read and not consumed
//! ```

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1::{Builder, Connection};
use hyper::service::{Service, service_fn};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::Config;
use super::answer::{Answer, answer};
use super::rest::Rest;
use super::stream::{Downstream, Noted, Notes};
use super::strict::{Limits, Refusal, Scanner};
use crate::proxy::{Exchange, TunnelStream};
use crate::restart::{End, Guard};
use crate::timer::Timer;

/// How a driver ends.
#[derive(Debug)]
pub(super) enum Outcome {
    /// The exchange is over, and what was to be said is in the socket.
    Closed { stream: Downstream, end: End },
    /// Between two requests, at our wish. The stream can be served again, by whoever it is given to.
    AtRest { stream: Downstream, rest: Rest },
    /// The client speaks HTTP/2, by prior knowledge (RFC 9113, section 3.3).
    Http2 { stream: Downstream },
    /// A request that nobody may read, and whose client has not been told anything yet.
    Refused { stream: Downstream, refusal: Refusal },
    /// The connection carries something else from here on, to and from this server.
    Tunnel { stream: Downstream, upstream: Box<TunnelStream> },
    /// The client was too slow, and has not been told anything yet.
    TooSlow { stream: Downstream },
    /// An answer was broken off. If only the end of the connection tells where it ends, or the client does
    /// not read, that takes a reset.
    Cut { stream: Downstream, end: End, reset: bool },
}

/// What HTTP/2 is recognised by: the beginning of the preface (RFC 9113, section 3.4), up to where it is no
/// HTTP/1.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2";

/// What a connection waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Waits {
    /// A request.
    Rest,
    /// The rest of a head.
    Head,
    /// The client: to take more of the answer, or to send more of the body. Carries the count of what moved,
    /// so that every move is a new wait.
    Client(u64),
    /// The upstream, which has clocks of its own.
    Upstream,
    /// The client, to send what is left of a body that nobody wants.
    Leftover,
}

/// Serves requests on `stream` until it ends or is to be given back. With `sniff`, it may turn out to speak HTTP/2.
#[expect(clippy::too_many_arguments, reason = "each is of another life than the others")]
pub(super) async fn drive(
    config: &Config,
    builder: &Builder,
    stream: Downstream,
    rest: Rest,
    sniff: bool,
    exchange: &Exchange,
    guard: &Guard,
    timer: &mut Timer,
) -> Outcome {
    let notes = Rc::new(Notes::default());
    let scanner = Scanner::new(Limits { trailer_bytes: config.max_head_bytes, trailers: config.max_headers });
    let io = TokioIo::new(Noted::new(stream, notes.clone(), sniff, scanner));
    let service = service_fn(|request| answer(exchange, guard, &notes, request));
    let mut connection = builder.serve_connection(io, service);
    let mut watch = Watch::new(config, exchange, guard, &notes, rest);
    let ended = poll_fn(|cx| watch.poll(&mut connection, timer, cx)).await;

    // What follows is only the close, however long the client takes to do its part.
    guard.set_active(false);
    let parts = connection.into_parts();
    let mut stream = parts.io.into_inner().into_stream();
    stream.put_back(parts.read_buf);
    if notes.end_guarded.get() {
        stream.reset_on_close(false);
    }
    watch.outcome(ended, stream)
}

/// Why the driver has stopped.
enum Ended {
    /// hyper is done.
    Http(hyper::Result<()>),
    HeaderTimeout,
    Stalled,
    /// All requests before this one have been answered.
    Refused(Refusal),
}

struct Watch<'c> {
    config: &'c Config,
    exchange: &'c Exchange,
    guard: &'c Guard,
    notes: &'c Notes,
    waits: Waits,
    since: Instant,
    /// The rest that it is in, or was in last.
    rest: Rest,
    /// Whether hyper was told to end at rest.
    parting: bool,
    active: bool,
}

impl<'c> Watch<'c> {
    fn new(
        config: &'c Config,
        exchange: &'c Exchange,
        guard: &'c Guard,
        notes: &'c Notes,
        rest: Rest,
    ) -> Self {
        let (waits, since) = (Waits::Rest, Instant::now());
        let active = guard.is_active();
        Watch { config, exchange, guard, notes, waits, since, rest, parting: false, active }
    }

    fn poll<S>(
        &mut self,
        connection: &mut Connection<TokioIo<Noted>, S>,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Ended>
    where
        S: Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible>,
    {
        // A new phase only moves deadlines, which are computed below, and the next answer's head.
        while self.guard.poll_changed(cx).is_ready() {}
        loop {
            if let Poll::Ready(result) = self.poll_http(connection, cx) {
                return Poll::Ready(Ended::Http(result));
            }
            if self.exchange.has_leftover() {
                // What it takes wakes this task, so that hyper goes on.
                self.exchange.read_leftover(cx);
            }
            self.look();
            if let Some(refusal) = self.refusal() {
                return Poll::Ready(Ended::Refused(refusal));
            }
            if timer.poll_until(self.deadline(), cx).is_pending() {
                return Poll::Pending;
            }
            match self.waits {
                Waits::Rest => {
                    (self.parting, self.since) = (true, Instant::now());
                    Pin::new(&mut *connection).graceful_shutdown();
                }
                Waits::Head => return Poll::Ready(Ended::HeaderTimeout),
                Waits::Client(_) => return Poll::Ready(Ended::Stalled),
                Waits::Upstream => self.since = Instant::now(),
                // Which ends the connection.
                Waits::Leftover => self.exchange.drop_leftover(),
            }
        }
    }

    fn poll_http<S>(
        &self,
        connection: &mut Connection<TokioIo<Noted>, S>,
        cx: &mut Context<'_>,
    ) -> Poll<hyper::Result<()>>
    where
        S: Service<Request<Incoming>, Response = Response<Answer>, Error = Infallible>,
    {
        loop {
            match Pin::new(&mut *connection).poll(cx) {
                // A request that spoke of an upgrade makes hyper stop short of the flush, once.
                Poll::Ready(Ok(())) if !self.notes.released.get() => {}
                other => return other,
            }
        }
    }

    /// Notes what the connection waits for, and since when.
    fn look(&mut self) {
        let notes = self.notes;
        let uploading = self.exchange.is_uploading();
        let has_leftover = self.exchange.has_leftover();
        if uploading || has_leftover {
            // What was read last is of a body.
            notes.head_begun.set(false);
        }
        let active = notes.in_flight.get() || uploading;
        if active != self.active {
            self.active = active;
            self.guard.set_active(active);
        }
        let waits = if notes.write_blocked.get() || active && self.exchange.is_awaited() {
            Waits::Client(notes.moves.get())
        } else if active {
            Waits::Upstream
        } else if has_leftover {
            Waits::Leftover
        } else if notes.head_begun.get() || notes.record_begun.get() {
            Waits::Head
        } else {
            Waits::Rest
        };
        if waits != self.waits {
            (self.waits, self.since) = (waits, Instant::now());
            if waits == Waits::Rest {
                self.rest = Rest::again(self.since);
            }
        }
    }

    /// Why there will be no more requests, once every answer has been written.
    fn refusal(&self) -> Option<Refusal> {
        let refused = self.notes.refused.get().filter(|refused| !refused.in_body)?;
        let answered = matches!(self.waits, Waits::Rest | Waits::Head) && self.notes.heads_ahead.get() == 0;
        answered.then_some(refused.refusal)
    }

    fn deadline(&self) -> Instant {
        match self.waits {
            Waits::Rest if self.parting => self.since + self.config.linger_timeout,
            Waits::Rest => self.rest.deadline(self.config, self.guard).min(self.rest.fold_at()),
            Waits::Head => self.since + self.config.header_timeout,
            Waits::Client(_) => self.since + self.config.stall_timeout,
            Waits::Leftover => self.since + self.config.linger_timeout,
            // Nobody tells this task when the upstream has taken all there is of a body and wants more.
            Waits::Upstream => self.since + self.config.stall_timeout / 4,
        }
    }

    fn outcome(self, ended: Ended, mut stream: Downstream) -> Outcome {
        let notes = self.notes;
        if let Ended::Http(Ok(())) = ended
            && let Some(upstream) = notes.tunnel.take()
        {
            return Outcome::Tunnel { stream, upstream };
        }
        match ended {
            // hyper takes it for an orderly end where it waits for nothing.
            _ if stream.has_failed() => Outcome::Closed { stream, end: End::ProtocolError },
            Ended::Refused(_) if !notes.had_request.get() && stream.begins_with(HTTP2_PREFACE) => {
                Outcome::Http2 { stream }
            }
            Ended::Refused(refusal) => Outcome::Refused { stream, refusal },
            Ended::Http(result) if notes.refused.get().is_some_and(|refused| refused.in_body) => {
                let cut = result.is_err_and(|error| error.is_user());
                Outcome::Cut { stream, end: End::ProtocolError, reset: cut && notes.close_delimited.get() }
            }
            Ended::Http(Ok(())) if !notes.peer_closed.get() => match self.parting {
                true => {
                    stream.skip_empty_lines();
                    Outcome::AtRest { stream, rest: self.rest }
                }
                false => Outcome::Closed { stream, end: End::Closed },
            },
            Ended::Http(Err(error)) if error.is_parse() => {
                Outcome::Closed { stream, end: End::ProtocolError }
            }
            // The body has said why.
            Ended::Http(Err(error)) if error.is_user() => {
                Outcome::Cut { stream, end: End::Aborted, reset: notes.close_delimited.get() }
            }
            Ended::Http(_) if notes.peer_aborted.get() => Outcome::Closed { stream, end: End::PeerAborted },
            Ended::Http(_) => Outcome::Closed { stream, end: End::ClosedByPeer },
            Ended::HeaderTimeout => Outcome::TooSlow { stream },
            // Also with an answer to the request before that one half written: no other may follow it.
            Ended::Stalled if notes.answer_begun.get() || notes.write_blocked.get() => {
                Outcome::Cut { stream, end: End::TimedOut, reset: true }
            }
            Ended::Stalled => Outcome::TooSlow { stream },
        }
    }
}
