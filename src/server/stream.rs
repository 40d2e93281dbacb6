//! The stream to a client, whatever it is made of, and what can be observed of it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::strict::{Refused, Scanner};
use crate::proxy::{Ends, TunnelStream};
use crate::restart::Stream;
use crate::tls::ServerStream;

/// A stream to a client. Bytes that were read from it and not consumed always travel with it.
#[derive(Debug)]
pub struct Downstream {
    kind: Kind,
    /// Read before anything else.
    unread: Bytes,
}

#[derive(Debug)]
enum Kind {
    Plain(Stream),
    Tls {
        stream: Box<ServerStream<Downstream>>,
        /// Whether rustls may hold something that it has deciphered and nobody has taken.
        holds: bool,
    },
}

impl Downstream {
    /// A stream without encryption.
    pub fn plain(stream: Stream) -> Self {
        Downstream { kind: Kind::Plain(stream), unread: Bytes::new() }
    }

    /// A stream with its handshake done.
    pub(super) fn tls(stream: ServerStream<Downstream>) -> Self {
        // The client's last flight may have brought its first request.
        Downstream { kind: Kind::Tls { stream: Box::new(stream), holds: true }, unread: Bytes::new() }
    }

    /// Puts back bytes that were read last.
    pub(super) fn put_back(&mut self, read: Bytes) {
        self.unread = match (read.is_empty(), self.unread.is_empty()) {
            (true, _) => return,
            (false, true) => read,
            (false, false) => [read, std::mem::take(&mut self.unread)].concat().into(),
        };
    }

    /// Whether what was put back begins with `prefix`.
    pub(super) fn begins_with(&self, prefix: &[u8]) -> bool {
        self.unread.starts_with(prefix)
    }

    /// Drops empty lines before a request, which mean nothing (RFC 9112, section 2.2).
    pub(super) fn skip_empty_lines(&mut self) {
        let empty = self.unread.iter().take_while(|c| matches!(c, b'\r' | b'\n')).count();
        self.unread.advance(empty);
    }

    /// Whether anything has arrived that nobody has consumed.
    pub(super) fn has_unread(&self) -> io::Result<bool> {
        if !self.unread.is_empty() {
            return Ok(true);
        }
        match &self.kind {
            Kind::Plain(stream) => Ok(crate::restart::unread_bytes(stream)? > 0),
            Kind::Tls { holds: true, .. } => Ok(true),
            Kind::Tls { stream, .. } if stream.records().is_within() => Ok(true),
            Kind::Tls { stream, .. } => stream.records().get_ref().has_unread(),
        }
    }

    /// Whether part of a TLS record has been read: the client has begun to say something.
    pub(super) fn is_within_record(&self) -> bool {
        matches!(&self.kind, Kind::Tls { stream, .. } if stream.records().is_within())
    }

    /// Counts what moves below TLS, where a read or a write may do something without being done. Without
    /// TLS there is nothing below.
    pub(super) fn moves_below(&self) -> u64 {
        match &self.kind {
            Kind::Plain(_) => 0,
            Kind::Tls { stream, .. } => stream.records().moves(),
        }
    }

    /// Whether something that was written is not yet in the socket.
    pub(super) fn holds_written(&self) -> bool {
        matches!(&self.kind, Kind::Tls { stream, .. } if stream.session().wants_write())
    }

    /// Ready when something can be read. The kernel may have it already and the runtime not know.
    pub(super) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.kind {
            _ if !self.unread.is_empty() => Poll::Ready(Ok(())),
            Kind::Plain(Stream::Tcp(stream)) => stream.poll_read_ready(cx),
            Kind::Plain(Stream::Unix(stream)) => stream.poll_read_ready(cx),
            Kind::Tls { stream, holds } => match stream.records() {
                records if *holds || records.is_within() => Poll::Ready(Ok(())),
                records => records.get_ref().poll_readable(cx),
            },
        }
    }

    /// Whether TLS has failed: the client is owed an alert, which a close sends.
    pub(super) fn has_failed(&self) -> bool {
        matches!(&self.kind, Kind::Tls { stream, .. } if stream.has_failed())
    }

    /// The stream without TLS, if TLS has failed and nothing more can be read through it.
    pub(super) fn without_failed_tls(self) -> Self {
        match self.kind {
            Kind::Tls { stream, .. } if stream.has_failed() => stream.into_stream(),
            _ => self,
        }
    }

    /// This end of it, and the `client` that it is for; `None` where either has no address.
    pub(super) fn ends(&self, client: Option<SocketAddr>) -> Option<Ends> {
        let local = socket2::SockRef::from(self).local_addr().ok()?.as_socket()?;
        client.map(|client| Ends { client, local })
    }

    /// Makes the close a reset: a client that would take a plain end for the end of the answer learns that
    /// it is not, and what it does not read does not stay in the kernel.
    pub(super) fn reset_on_close(&self, reset: bool) {
        // A socket that is already gone needs no reset.
        socket2::SockRef::from(self).set_linger(reset.then_some(Duration::ZERO)).ok();
    }
}

impl AsFd for Downstream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.kind {
            Kind::Plain(stream) => stream.as_fd(),
            Kind::Tls { stream, .. } => stream.records().get_ref().as_fd(),
        }
    }
}

impl AsyncRead for Downstream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let n = this.unread.len().min(buf.remaining());
            // With the last of it the buffer is let go that it may be a small part of.
            buf.put(this.unread.split_to(n));
            return Poll::Ready(Ok(()));
        }
        match &mut this.kind {
            Kind::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Kind::Tls { stream, holds } => {
                let result = Pin::new(&mut **stream).poll_read(cx, buf);
                // It reads on until there is no room, or nothing more.
                *holds = result.is_ready() && buf.remaining() == 0;
                result
            }
        }
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Kind::Tls { stream, .. } => Pin::new(&mut **stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Kind::Tls { stream, .. } => Pin::new(&mut **stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.kind {
            Kind::Plain(stream) => stream.is_write_vectored(),
            Kind::Tls { stream, .. } => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls { stream, .. } => Pin::new(&mut **stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Kind::Tls { stream, .. } => Pin::new(&mut **stream).poll_shutdown(cx),
        }
    }
}

/// What a connection's timers and its end need to know, noted where it happens. Everything that touches it
/// runs in the connection's own task.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Counts reads and writes that moved something.
    pub(super) moves: Cell<u64>,
    /// Whether the client does not take what we have for it.
    pub(super) write_blocked: Cell<bool>,
    /// Whether something has been read since the last request began or the last answer ended: part of a head.
    pub(super) head_begun: Cell<bool>,
    /// Whether what was read last ends within a TLS record.
    pub(super) record_begun: Cell<bool>,
    /// Whether the client has closed its side, or the connection is lost.
    pub(super) peer_closed: Cell<bool>,
    /// Whether that was in the middle of something.
    pub(super) peer_aborted: Cell<bool>,
    /// Whether a request is being answered.
    pub(super) in_flight: Cell<bool>,
    /// Whether a request has been read on this stream since it was last taken apart.
    pub(super) had_request: Cell<bool>,
    /// Whether the answer to the last request has begun.
    pub(super) answer_begun: Cell<bool>,
    /// Whether only the end of the connection tells the client where the answer ends.
    pub(super) close_delimited: Cell<bool>,
    /// Whether a close is a reset for now, because of that.
    pub(super) end_guarded: Cell<bool>,
    /// Whether hyper has flushed its buffers and is done with the stream.
    pub(super) released: Cell<bool>,
    /// How many heads hyper has read to their end and not handed over yet.
    pub(super) heads_ahead: Cell<u64>,
    /// Why nothing more is read.
    pub(super) refused: Cell<Option<Refused>>,
    /// What the connection becomes once the answer is written.
    pub(super) tunnel: RefCell<Option<Box<TunnelStream>>>,
    /// Interim answers that hyper knows nothing of, as bytes, and how many of these are written.
    pub(super) interim: RefCell<(Vec<u8>, usize)>,
}

/// A [`Downstream`] that takes notes, lets only good requests pass, and that hyper cannot close: hyper's own way
/// to give a stream back, `poll_without_shutdown`, may leave part of an answer in its buffer when the request was
/// not read to its end. Its ordinary way flushes first.
#[derive(Debug)]
pub(super) struct Noted {
    stream: Downstream,
    notes: Rc<Notes>,
    scanner: Scanner,
    /// What may be the beginning of the preface of HTTP/2; `None` once that is settled.
    preface: Option<Vec<u8>>,
}

/// What a client says first that speaks HTTP/2 (RFC 9113, section 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Noted {
    /// With `sniff`, the preface of HTTP/2 is held back until it is there in one piece, which is how hyper knows it.
    pub(super) fn new(stream: Downstream, notes: Rc<Notes>, sniff: bool, scanner: Scanner) -> Self {
        Noted { stream, notes, scanner, preface: sniff.then(Vec::new) }
    }

    /// The stream, with all that hyper has not had.
    pub(super) fn into_stream(mut self) -> Downstream {
        self.stream.put_back(self.preface.unwrap_or_default().into());
        self.stream
    }

    /// Reads, and once more if that was a part of the preface.
    fn poll_sniff(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while let Some(held) = &mut self.preface
            && buf.remaining() > held.len()
        {
            let before = buf.filled().len();
            buf.put_slice(held);
            let result = Pin::new(&mut self.stream).poll_read(cx, buf);
            let seen = &buf.filled()[before..];
            let came = seen.len() > held.len();
            if came && seen.len() < HTTP2_PREFACE.len() && HTTP2_PREFACE.starts_with(seen) {
                *held = seen.to_vec();
                self.notes.moves.set(self.notes.moves.get() + 1);
                self.notes.head_begun.set(true);
                buf.set_filled(before);
            } else if result.is_pending() {
                buf.set_filled(before);
                return result;
            } else {
                // Also at the end, which is read again after what was held back.
                self.preface = None;
                return result;
            }
        }
        self.preface = None;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }

    fn note_move(&self) {
        self.notes.moves.set(self.notes.moves.get() + 1);
    }

    /// Judges what has been read behind `before`, and puts back what is refused. A tunnel may want it.
    fn judge(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        let read = &buf.filled()[before..];
        if !self.notes.in_flight.get() && self.notes.heads_ahead.get() == 0 {
            self.scanner.answered();
        }
        let scanned = self.scanner.scan(read);
        self.notes.heads_ahead.set(self.notes.heads_ahead.get() + scanned.heads);
        if scanned.refused.is_some() {
            self.notes.refused.set(scanned.refused);
            self.stream.put_back(Bytes::copy_from_slice(&read[scanned.passed..]));
            buf.set_filled(before + scanned.passed);
        }
    }

    /// While an answer is written whose end is the connection's, whatever else ends the connection, be it the
    /// drain's deadline or the death of this process, must not look like that.
    fn guard_the_end(&self) {
        if self.notes.close_delimited.get() && !self.notes.end_guarded.replace(true) {
            self.stream.reset_on_close(true);
        }
    }

    fn note_below(&self, before: u64) {
        if self.stream.moves_below() != before {
            self.note_move();
        }
    }

    /// Writes the interim answers that wait. hyper cannot: it has one answer for each request.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let notes = self.notes.clone();
        let mut interim = notes.interim.borrow_mut();
        let (bytes, written) = &mut *interim;
        while *written < bytes.len() {
            let result = Pin::new(&mut self.stream).poll_write(cx, &bytes[*written..]);
            self.note_write(&result);
            match ready!(result)? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => *written += n,
            }
        }
        (*bytes, *written) = (Vec::new(), 0);
        // The answer itself waits for this.
        cx.waker().wake_by_ref();
        Poll::Ready(Ok(()))
    }

    /// One that has begun goes first; one that has not waits until hyper has nothing more to write, because what
    /// it has may be the end of the answer before.
    fn poll_begun_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.notes.interim.borrow().1 == 0 { Poll::Ready(Ok(())) } else { self.poll_interim(cx) }
    }

    fn note_write(&self, written: &Poll<io::Result<usize>>) {
        self.notes.write_blocked.set(written.is_pending());
        match written {
            Poll::Ready(Ok(_)) => self.note_move(),
            Poll::Ready(Err(_)) => {
                self.notes.peer_closed.set(true);
                self.notes.peer_aborted.set(true);
            }
            Poll::Pending => {}
        }
    }
}

impl AsyncRead for Noted {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(refused) = this.notes.refused.get() {
            return refuse(refused);
        }
        let (before, below) = (buf.filled().len(), this.stream.moves_below());
        let result = match this.preface {
            None => Pin::new(&mut this.stream).poll_read(cx, buf),
            Some(_) => this.poll_sniff(cx, buf),
        };
        this.note_below(below);
        this.notes.record_begun.set(this.stream.is_within_record());
        match &result {
            Poll::Ready(Ok(())) if buf.filled().len() > before => {
                this.note_move();
                this.notes.head_begun.set(true);
                this.judge(buf, before);
                if let Some(refused) = this.notes.refused.get()
                    && buf.filled().len() == before
                {
                    return refuse(refused);
                }
            }
            Poll::Ready(_) => {
                this.notes.peer_closed.set(true);
                this.notes.peer_aborted.set(this.notes.in_flight.get() || this.notes.head_begun.get());
            }
            Poll::Pending => {}
        }
        result
    }
}

/// What hyper gets in place of what is refused: the end of a body that is none; and of a head nothing, because the
/// answers to the requests before it come first, and then the driver says what is to be said.
fn refuse(refused: Refused) -> Poll<io::Result<()>> {
    match refused.in_body {
        true => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, refused.refusal))),
        false => Poll::Pending,
    }
}

impl AsyncWrite for Noted {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_begun_interim(cx))?;
        this.guard_the_end();
        let below = this.stream.moves_below();
        let result = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note_below(below);
        this.note_write(&result);
        result
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_begun_interim(cx))?;
        this.guard_the_end();
        let below = this.stream.moves_below();
        let result = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note_below(below);
        this.note_write(&result);
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.notes.interim.borrow().0.is_empty() {
            ready!(this.poll_interim(cx))?;
        }
        let below = this.stream.moves_below();
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.note_below(below);
        // TLS takes more than the socket does.
        this.notes.write_blocked.set(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.notes.released.set(true);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::AsyncReadExt;
    use tokio::net::UnixStream;

    use super::*;

    #[derive(Clone)]
    struct Buffer(Arc<()>);

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            b"much more than is unread"
        }
    }

    #[tokio::test]
    async fn what_has_been_read_off_holds_no_buffer() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut stream = Downstream::plain(Stream::Unix(near));
        let buffer = Buffer(Arc::new(()));
        stream.put_back(Bytes::from_owner(buffer.clone()).split_off(18));
        let mut read = [0; 4];
        stream.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, Arc::strong_count(&buffer.0)), (b"unre", 2));
        stream.read_exact(&mut read[..2]).await.unwrap();
        assert_eq!((&read[..2], Arc::strong_count(&buffer.0)), (&b"ad"[..], 1));
    }
}
