//! The server's side of a TLS connection, over any stream.
//!
//! What tokio-rustls does not do, and a server must (RFC 8446, section 6.2): an alert that could not be written at
//! once is not lost, nothing follows it, no `close_notify` either, and the alert is the one that the RFC has for the
//! error, which [`alert`](super::alert) knows.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::{ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::alert;
use super::records::Records;

/// A TLS connection. Before [`handshake`](ServerStream::handshake) is done nothing else may be asked of it, and after
/// an error of it nothing but a shutdown.
pub struct ServerStream<S> {
    records: Records<S>,
    session: ServerConnection,
    /// Why nothing can be read or written any more.
    failure: Option<Failure>,
    /// Whether the client has ended its side.
    read_ended: bool,
    /// Whether `close_notify` has been queued.
    closed: bool,
}

/// An error that ends the connection, and what is said of it.
struct Failure {
    error: rustls::Error,
    /// All that is still to be written, the alert last; from `written` on.
    words: Vec<u8>,
    written: usize,
}

impl Failure {
    fn error(&self) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, self.error.clone())
    }
}

impl<S> ServerStream<S> {
    /// A connection of which nothing has been read.
    ///
    /// # Errors
    ///
    /// rustls does not want this configuration.
    pub fn new(config: Arc<ServerConfig>, stream: S) -> Result<Self, rustls::Error> {
        let session = ServerConnection::new(config)?;
        Ok(ServerStream {
            records: Records::new(stream),
            session,
            failure: None,
            read_ended: false,
            closed: false,
        })
    }

    /// What the two sides have agreed on.
    pub fn session(&self) -> &ServerConnection {
        &self.session
    }

    /// What lies below.
    pub fn records(&self) -> &Records<S> {
        &self.records
    }

    /// Whether an error has ended the connection, such that nothing more can be read from it.
    pub fn has_failed(&self) -> bool {
        self.failure.is_some()
    }

    /// The stream below, on which records may still come that nobody reads.
    pub fn into_stream(self) -> S {
        self.records.into_inner()
    }

    fn fail(&mut self, error: rustls::Error) {
        let words = alert::last_words(&mut self.session, &error);
        self.failure = Some(Failure { error, words, written: 0 });
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> ServerStream<S> {
    /// Shakes hands.
    ///
    /// # Errors
    ///
    /// Those of the stream, and as [`io::ErrorKind::InvalidData`] those of rustls. After one of these a shutdown
    /// sends the alert.
    pub async fn handshake(&mut self) -> io::Result<()> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    fn poll_handshake(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write_queued(cx))?;
            if !self.session.is_handshaking() {
                return Pin::new(&mut self.records).poll_flush(cx);
            }
            if ready!(self.poll_read_records(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    /// Reads some bytes, and all that they complete.
    fn poll_read_records(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = match self.session.read_tls(&mut Blocking { stream: &mut self.records, cx }) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
            // No stream has errors of this kind: what comes is longer than rustls has room for.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Poll::Ready(Err(
                    self.failed(rustls::InvalidMessage::HandshakePayloadTooLarge.into(), cx)
                ));
            }
            Err(error) => return Poll::Ready(Err(error)),
        };
        match self.session.process_new_packets() {
            Ok(_) => Poll::Ready(Ok(read)),
            Err(error) => Poll::Ready(Err(self.failed(error, cx))),
        }
    }

    /// Ends the connection. What cannot be written of the alert now waits for a flush or a shutdown.
    fn failed(&mut self, error: rustls::Error, cx: &mut Context<'_>) -> io::Error {
        self.fail(error.clone());
        // An error of the stream comes after the one that is told.
        let (Poll::Ready(_) | Poll::Pending) = self.poll_write_queued(cx);
        io::Error::new(io::ErrorKind::InvalidData, error)
    }

    /// Writes what rustls has for the client.
    fn poll_write_queued(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(failure) = &mut self.failure {
            while let Some(words @ [_, ..]) = failure.words.get(failure.written..) {
                failure.written += written(ready!(Pin::new(&mut self.records).poll_write(cx, words))?)?;
            }
            return Poll::Ready(Ok(()));
        }
        while self.session.wants_write() {
            match self.session.write_tls(&mut Blocking { stream: &mut self.records, cx }) {
                Ok(n) => _ = written(n)?,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Poll::Pending,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Has `write` put something into rustls, and writes it as far as that goes.
    fn poll_write_with(
        &mut self,
        cx: &mut Context<'_>,
        write: impl Fn(&mut rustls::Writer<'_>) -> io::Result<usize>,
    ) -> Poll<io::Result<usize>> {
        loop {
            if let Some(failure) = &self.failure {
                return Poll::Ready(Err(failure.error()));
            }
            let taken = write(&mut self.session.writer())?;
            match (self.poll_write_queued(cx), taken) {
                (Poll::Ready(Err(error)), _) => return Poll::Ready(Err(error)),
                // rustls has no room until some of what it has is written.
                (Poll::Pending, 0) => return Poll::Pending,
                (Poll::Ready(Ok(())), 0) => {}
                (_, taken) => return Poll::Ready(Ok(taken)),
            }
        }
    }
}

fn written(n: usize) -> io::Result<usize> {
    if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for ServerStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        while buf.remaining() > 0 {
            if let Some(failure) = &this.failure {
                // What came before it is given away first.
                let came = buf.filled().len() > before;
                return Poll::Ready(if came { Ok(()) } else { Err(failure.error()) });
            }
            match this.session.reader().read(buf.initialize_unfilled()) {
                // The client has said that it is done.
                Ok(0) => break,
                Ok(n) => buf.advance(n),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && !this.read_ended => {
                    match this.poll_read_records(cx) {
                        Poll::Ready(Ok(0)) => this.read_ended = true,
                        Poll::Ready(Ok(_)) => {}
                        Poll::Ready(Err(_)) if this.failure.is_some() => {}
                        _ if buf.filled().len() > before => break,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                // The stream has ended, and the client has not said that it would.
                Err(_) if buf.filled().len() > before => break,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for ServerStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.get_mut().poll_write_with(cx, |writer| writer.write(buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if bufs.iter().all(|buf| buf.is_empty()) {
            return Poll::Ready(Ok(0));
        }
        self.get_mut().poll_write_with(cx, |writer| writer.write_vectored(bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_write_queued(cx))?;
        Pin::new(&mut this.records).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.failure.is_none() && !this.closed {
            this.session.send_close_notify();
            this.closed = true;
        }
        ready!(this.poll_write_queued(cx))?;
        Pin::new(&mut this.records).poll_shutdown(cx)
    }
}

impl<S: fmt::Debug> fmt::Debug for ServerStream<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerStream").field("records", &self.records).finish_non_exhaustive()
    }
}

/// A stream as rustls wants it: what is not possible now is an error.
struct Blocking<'a, 'c, S> {
    stream: &'a mut S,
    cx: &'a mut Context<'c>,
}

fn or_would_block<T>(poll: Poll<io::Result<T>>) -> io::Result<T> {
    match poll {
        Poll::Ready(result) => result,
        Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
    }
}

impl<S: AsyncRead + Unpin> Read for Blocking<'_, '_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut buf = ReadBuf::new(buf);
        or_would_block(Pin::new(&mut *self.stream).poll_read(self.cx, &mut buf))?;
        Ok(buf.filled().len())
    }
}

impl<S: AsyncWrite + Unpin> Write for Blocking<'_, '_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.stream).poll_write(self.cx, buf))
    }

    fn write_vectored(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        or_would_block(Pin::new(&mut *self.stream).poll_write_vectored(self.cx, bufs))
    }

    fn flush(&mut self) -> io::Result<()> {
        or_would_block(Pin::new(&mut *self.stream).poll_flush(self.cx))
    }
}
