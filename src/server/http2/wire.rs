//! What lies under h2: the stream to the client, and what is noted of the bytes that pass.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

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
    /// What is left of our own words, which go before the next frame of h2's.
    announced: Cell<&'static [u8]>,
}

/// GOAWAY, of no stream that is not served: the client is to open no more (RFC 9113, section 6.8).
const ANNOUNCEMENT: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];

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
            announced: Cell::new(&[]),
        })
    }

    /// Whether anything has arrived that h2 has not read.
    pub(super) fn has_unread(&self) -> bool {
        self.stream.borrow().as_ref().is_some_and(|stream| stream.has_unread().unwrap_or(false))
    }

    /// Tells the client to open no more streams, before the next frame that h2 sends. h2 itself can say that only
    /// together with its last word.
    pub(super) fn announce(&self) {
        self.announced.set(ANNOUNCEMENT);
    }

    /// Sends our own words, if it is their turn. Ready with how much may follow of what h2 has for the client: no more
    /// than the rest of a frame that has begun, if they are to go behind that.
    fn poll_announced(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        loop {
            let left = self.announced.get();
            let begun = left.len() < ANNOUNCEMENT.len();
            let of_frame = self.meter.borrow().unsent();
            if left.is_empty() {
                return Poll::Ready(Ok(usize::MAX));
            }
            if !begun && of_frame > 0 {
                return Poll::Ready(Ok(of_frame));
            }
            let written = self.with(|stream| stream.poll_write(cx, left));
            self.note_write(&written, &[IoSlice::new(left)]);
            match ready!(written)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.announced.set(left.get(n..).unwrap_or_default()),
            }
        }
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
                // What TLS has taken may still be there.
                if !self.stream.borrow().as_ref().is_some_and(Downstream::holds_written) {
                    meter.unsettled.flushed();
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
        let most = ready!(self.0.poll_announced(cx))?;
        let buf = &buf[..buf.len().min(most)];
        let written = self.0.with(|stream| stream.poll_write(cx, buf));
        self.0.note_write(&written, &[IoSlice::new(buf)]);
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if !self.0.announced.get().is_empty() {
            let first = bufs.iter().find(|buf| !buf.is_empty());
            return self.poll_write(cx, first.map_or(&[], |buf| buf));
        }
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
            if let Poll::Ready(Ok(())) = flushed {
                self.0.meter.borrow_mut().unsettled.flushed();
            }
        } else if self.0.blocked_since.get().is_none() || moves() != before {
            self.0.blocked_since.set(Some(Instant::now()));
        }
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
