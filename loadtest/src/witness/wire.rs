//! A stream that remembers what passed: the witness judges by what it saw itself, not by what a library says of it.
//!
//! It lies on top of TLS, so that it counts what HTTP counts.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::Frames;

/// What passed on a connection.
#[derive(Debug, Default)]
pub struct Log {
    /// Bytes received.
    pub read: Cell<u64>,
    /// Bytes sent.
    pub written: Cell<u64>,
    /// How it ended, if it did.
    pub end: Cell<Option<End>>,
    /// HTTP/2's frames, where it is spoken.
    pub frames: Frames,
}

/// How a connection ended, as the socket told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed it.
    Closed,
    /// The peer closed it without TLS's word for it (RFC 8446, section 6.1): whether all had come cannot be known.
    Truncated,
    /// ECONNRESET, EPIPE and the like.
    Reset,
    /// What came was not TLS.
    Malformed,
}

impl End {
    /// What an error means.
    #[must_use]
    pub fn of(error: &io::Error) -> End {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => End::Truncated,
            io::ErrorKind::InvalidData => End::Malformed,
            _ => End::Reset,
        }
    }
}

/// A stream with its log.
#[derive(Debug)]
pub struct Wire<S> {
    stream: S,
    log: Rc<Log>,
    http2: bool,
}

impl<S> Wire<S> {
    /// A stream whose log is written from here on; `http2` if its frames are to be read, too.
    pub fn new(stream: S, log: Rc<Log>, http2: bool) -> Self {
        Wire { stream, log, http2 }
    }

    fn wrote(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match &written {
            Poll::Ready(Ok(bytes)) => self.log.written.set(self.log.written.get() + *bytes as u64),
            Poll::Ready(Err(error)) => self.ended(End::of(error)),
            Poll::Pending => {}
        }
        written
    }

    /// The first end counts: a reset after a close is the close's echo.
    fn ended(&self, end: End) {
        if self.log.end.get().is_none() {
            self.log.end.set(Some(end));
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Wire<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let result = ready!(Pin::new(&mut self.stream).poll_read(context, buffer));
        match &result {
            Ok(()) => {
                let read = &buffer.filled()[before..];
                self.log.read.set(self.log.read.get() + read.len() as u64);
                if read.is_empty() && buffer.remaining() > 0 {
                    self.ended(End::Closed);
                } else if self.http2 {
                    self.log.frames.read(read);
                }
            }
            Err(error) => self.ended(End::of(error)),
        }
        Poll::Ready(result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Wire<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.wrote(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if let Poll::Ready(Err(error)) = &flushed {
            self.ended(End::of(error));
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
