//! A connection that was HTTP and carries something else: bytes both ways, until both sides have ended.
//!
//! ```text
//!   client ── read ──► (what the server did not take at once) ── write, flush ──► server
//!     ▲                                                                             │
//!     └── write, flush ── (what the client did not take at once) ◄────── read ──────┘
//! ```
//!
//! Nothing is read while something waits to be written, so that a slow side slows the other. The end of one
//! side is passed on as that and no more: the other may go on. A tunnel at rest holds no buffer.
//!
//! Where only the end of the connection tells that all has been said, an orderly end must not be heard by one side
//! that was not said by the other. So everything else that ends a tunnel is a reset, to both: one side that fails,
//! silence, behind which is often one that has vanished, the drain's deadline, the death of this process.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::metrics::TunnelEnd;
use super::{Downstream, Server, TUNNEL};
use crate::proxy::{RequestIdentity, TunnelStream, log_request};
use crate::restart::{End, Guard};
use crate::timer::Timer;

/// How much is read at once, in bytes: it lies on the stack. The most that a tunnel holds is twice that.
const CHUNK: usize = 64 * 1024;

/// How many chunks one direction moves before the other connections of the thread have their turn.
const ROUNDS: usize = 16;

impl Server {
    /// Carries bytes between `stream` and `upstream` until both have ended, one has failed, or neither has said
    /// anything for too long.
    pub(super) async fn serve_tunnel(
        &self,
        mut stream: Downstream,
        mut upstream: TunnelStream,
        request: &Rc<RequestIdentity>,
        guard: &Guard,
        mut timer: Timer,
    ) -> End {
        // From the beginning: at the deadline, or when this process is killed, nobody is left to do it.
        stream.reset_on_close(true);
        upstream.reset_on_close(true);
        // Nothing tells whether what it carries is at rest: it is in flight for as long as it lives.
        guard.set_active(true);
        guard.switch(TUNNEL);
        let carried = self.metrics.tunnel(false, request);
        let mut tunnel = Tunnel::new();
        let limit = self.config.tunnel_timeout;
        let over = poll_fn(|cx| tunnel.poll_until(&mut stream, &mut upstream, limit, &mut timer, cx)).await;
        carried.end(TunnelEnd::from(&over));
        match over {
            // Both sides have said so, and each has heard it of the other.
            Over::Ended { by_client } => {
                stream.reset_on_close(false);
                upstream.reset_on_close(false);
                if by_client { End::ClosedByPeer } else { End::Closed }
            }
            Over::ClientFailed(error) => {
                log_request!(debug, request, %error, "a tunnel's client went away");
                if stream.has_failed() {
                    // No end of the tunnel can be taken for an orderly one after the alert.
                    stream.reset_on_close(false);
                    return self.close(stream, End::ProtocolError).await;
                }
                End::PeerAborted
            }
            Over::ServerFailed(error) => {
                log_request!(debug, request, %error, "a tunnel's server went away");
                End::Aborted
            }
            Over::Silent => {
                log_request!(debug, request, "nothing has moved in a tunnel for too long");
                End::TimedOut
            }
        }
    }
}

/// How a tunnel ends.
#[derive(Debug)]
pub(super) enum Over {
    Ended { by_client: bool },
    ClientFailed(io::Error),
    ServerFailed(io::Error),
    Silent,
}

/// The bytes under way between a client and a server.
#[derive(Debug)]
pub(super) struct Tunnel {
    up: Direction,
    down: Direction,
    /// Whether the client was the first to end.
    ended_by_client: Option<bool>,
    /// When a byte moved last.
    moved: Instant,
}

/// Whose fault an error is.
enum Failed {
    From(io::Error),
    To(io::Error),
}

impl Tunnel {
    pub(super) fn new() -> Self {
        let (up, down) = (Direction::default(), Direction::default());
        Tunnel { up, down, ended_by_client: None, moved: Instant::now() }
    }

    /// Ready at the end, and once nothing has moved for `limit`.
    pub(super) fn poll_until<C, S>(
        &mut self,
        client: &mut C,
        server: &mut S,
        limit: Duration,
        timer: &mut Timer,
        cx: &mut Context<'_>,
    ) -> Poll<Over>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if let Poll::Ready(over) = self.poll(client, server, cx) {
            return Poll::Ready(over);
        }
        timer.poll_until(self.moved + limit, cx).map(|()| Over::Silent)
    }

    fn poll<C, S>(&mut self, client: &mut C, server: &mut S, cx: &mut Context<'_>) -> Poll<Over>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let before = (self.up.moves, self.down.moves);
        let up = match self.up.poll(client, server, cx) {
            Poll::Ready(Err(Failed::From(error))) => return Poll::Ready(Over::ClientFailed(error)),
            Poll::Ready(Err(Failed::To(error))) => return Poll::Ready(Over::ServerFailed(error)),
            up => up.is_ready(),
        };
        let down = match self.down.poll(server, client, cx) {
            Poll::Ready(Err(Failed::From(error))) => return Poll::Ready(Over::ServerFailed(error)),
            Poll::Ready(Err(Failed::To(error))) => return Poll::Ready(Over::ClientFailed(error)),
            down => down.is_ready(),
        };
        if (self.up.moves, self.down.moves) != before {
            self.moved = Instant::now();
        }
        if self.ended_by_client.is_none() && (self.up.ended || self.down.ended) {
            self.ended_by_client = Some(self.up.ended);
        }
        match self.ended_by_client {
            Some(by_client) if up && down => Poll::Ready(Over::Ended { by_client }),
            _ => Poll::Pending,
        }
    }
}

/// The way of the bytes from one side to the other.
#[derive(Debug, Default)]
struct Direction {
    /// What was read and not yet taken, from `taken` on; nothing is held once it is.
    held: Vec<u8>,
    taken: usize,
    /// Whether the other side is to be told to send what it has been given.
    unflushed: bool,
    /// Whether the side that is read from has ended.
    ended: bool,
    /// Whether the other side has been told.
    shut: bool,
    /// Counts reads and writes that moved something.
    moves: u64,
}

impl Direction {
    /// Ready when all is said.
    fn poll<F, T>(&mut self, from: &mut F, to: &mut T, cx: &mut Context<'_>) -> Poll<Result<(), Failed>>
    where
        F: AsyncRead + Unpin,
        T: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS {
            ready!(self.poll_give(to, cx)).map_err(Failed::To)?;
            if self.ended {
                if !self.shut {
                    ready!(Pin::new(&mut *to).poll_shutdown(cx)).map_err(Failed::To)?;
                    self.shut = true;
                }
                return Poll::Ready(Ok(()));
            }
            // Uninitialised, because it is large and mostly filled with little.
            let mut space = [MaybeUninit::uninit(); CHUNK];
            let mut chunk = ReadBuf::uninit(&mut space);
            if Pin::new(&mut *from).poll_read(cx, &mut chunk).map_err(Failed::From)?.is_pending() {
                // All that there was for now has been given.
                if self.unflushed {
                    ready!(Pin::new(&mut *to).poll_flush(cx)).map_err(Failed::To)?;
                    self.unflushed = false;
                }
                return Poll::Pending;
            }
            let mut read = chunk.filled();
            if read.is_empty() {
                self.ended = true;
                continue;
            }
            self.moves += 1;
            while !read.is_empty() {
                match Pin::new(&mut *to).poll_write(cx, read).map_err(Failed::To)? {
                    Poll::Ready(0) => return Poll::Ready(Err(Failed::To(io::ErrorKind::WriteZero.into()))),
                    Poll::Ready(n) => {
                        read = &read[n..];
                        self.unflushed = true;
                    }
                    Poll::Pending => {
                        self.held = read.to_vec();
                        return Poll::Pending;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Ready when nothing is held any more.
    fn poll_give<T: AsyncWrite + Unpin>(&mut self, to: &mut T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.taken < self.held.len() {
            match ready!(Pin::new(&mut *to).poll_write(cx, &self.held[self.taken..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => {
                    self.taken += n;
                    self.moves += 1;
                    self.unflushed = true;
                }
            }
        }
        (self.held, self.taken) = (Vec::new(), 0);
        Poll::Ready(Ok(()))
    }
}
