//! What lies under h2: the stream to the client, and what is noted of the bytes that pass.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use super::super::Downstream;
use super::meter::{Limits, Meter};

/// One connection's stream and notes, shared by its driver, its streams and h2, which never gives a stream back.
#[derive(Debug)]
pub(super) struct Link {
    /// `None` once the driver has taken it back.
    pub(super) stream: RefCell<Option<Downstream>>,
    pub(super) meter: RefCell<Meter>,
    /// When the client last sent something.
    pub(super) last_read: Cell<Instant>,
    /// Since when the client does not take what we have for it.
    pub(super) blocked_since: Cell<Option<Instant>>,
    /// Whether anything has come.
    pub(super) begun: Cell<bool>,
    /// Whether the client has closed its side, or the connection is lost.
    pub(super) peer_closed: Cell<bool>,
}

impl Link {
    pub(super) fn new(stream: Downstream, limits: Limits) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Link {
            stream: RefCell::new(Some(stream)),
            meter: RefCell::new(Meter::new(limits, now)),
            last_read: Cell::new(now),
            blocked_since: Cell::new(None),
            begun: Cell::new(false),
            peer_closed: Cell::new(false),
        })
    }

    /// Whether anything has arrived that h2 has not read.
    pub(super) fn has_unread(&self) -> bool {
        self.stream.borrow().as_ref().is_some_and(|stream| stream.has_unread().unwrap_or(false))
    }

    fn with<T>(&self, act: impl FnOnce(Pin<&mut Downstream>) -> Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &mut *self.stream.borrow_mut() {
            Some(stream) => act(Pin::new(stream)),
            None => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>, bufs: &[IoSlice<'_>]) {
        match written {
            Poll::Ready(Ok(n)) => {
                self.blocked_since.set(None);
                let (mut left, now) = (*n, Instant::now());
                let mut meter = self.meter.borrow_mut();
                for buf in bufs {
                    let of_this = left.min(buf.len());
                    meter.sent(&buf[..of_this], now);
                    left -= of_this;
                }
            }
            Poll::Ready(Err(_)) => self.peer_closed.set(true),
            Poll::Pending if self.blocked_since.get().is_none() => {
                self.blocked_since.set(Some(Instant::now()));
            }
            Poll::Pending => {}
        }
    }
}

/// What h2 takes for the stream. It cannot close it: the last frames must arrive (see `server/close.rs`).
#[derive(Debug)]
pub(super) struct Wire(pub(super) Rc<Link>);

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let link = &self.0;
        if link.meter.borrow().flood().is_some() {
            // h2 reads as long as there is something; the driver, which ends the connection, is to have its turn.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let result = link.with(|stream| stream.poll_read(cx, buf));
        match &result {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                let now = Instant::now();
                link.begun.set(true);
                link.last_read.set(now);
                link.meter.borrow_mut().received(&buf.filled()[before..], now);
            }
            Poll::Ready(_) => link.peer_closed.set(true),
            Poll::Pending => {}
        }
        result
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = self.0.with(|stream| stream.poll_write(cx, buf));
        self.0.note_write(&written, &[IoSlice::new(buf)]);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = self.0.with(|stream| stream.poll_write_vectored(cx, bufs));
        self.0.note_write(&written, bufs);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.0.stream.borrow().as_ref().is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What TLS has taken is not yet in the socket.
        let moves = || self.0.stream.borrow().as_ref().map(Downstream::moves_below);
        let before = moves();
        let flushed = self.0.with(|stream| stream.poll_flush(cx));
        if flushed.is_ready() {
            self.0.blocked_since.set(None);
        } else if self.0.blocked_since.get().is_none() || moves() != before {
            self.0.blocked_since.set(Some(Instant::now()));
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
