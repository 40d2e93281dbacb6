//! What lies under a TLS connection: the stream, what was read from it before, and where records begin.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The bytes before a record: its type, a version, its length (RFC 8446, section 5.1).
const HEADER: u8 = 5;

/// A stream of TLS records. rustls does not tell whether it holds part of one: this does.
#[derive(Debug)]
pub struct Records<S> {
    stream: S,
    framing: Framing,
    moves: u64,
}

/// How far into a record the bytes have come.
#[derive(Debug, Default)]
struct Framing {
    /// Bytes of the header that have been seen.
    header: u8,
    length: [u8; 2],
    /// Bytes of the record that are still to come.
    left: u16,
}

impl Framing {
    fn take(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            if self.header < HEADER {
                match self.header {
                    3 => self.length[0] = byte,
                    4 => self.length[1] = byte,
                    _ => {}
                }
                self.header += 1;
                bytes = rest;
                if self.header == HEADER {
                    self.left = u16::from_be_bytes(self.length);
                }
            } else {
                let taken = bytes.len().min(self.left.into());
                self.left = self.left.saturating_sub(u16::try_from(taken).unwrap_or(u16::MAX));
                bytes = &bytes[taken..];
            }
            if self.header == HEADER && self.left == 0 {
                self.header = 0;
            }
        }
    }

    fn is_within(&self) -> bool {
        self.header > 0
    }
}

impl<S> Records<S> {
    /// From the beginning of a TLS connection.
    pub fn new(stream: S) -> Self {
        Records { stream, framing: Framing::default(), moves: 0 }
    }

    /// The stream.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    /// The stream, of which the records are not followed any more.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Whether part of a record has been read, and the rest has not.
    pub fn is_within(&self) -> bool {
        self.framing.is_within()
    }

    /// Counts reads and writes that moved something.
    pub fn moves(&self) -> u64 {
        self.moves
    }

    fn note_write(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(written, Poll::Ready(Ok(1..))) {
            self.moves = self.moves.wrapping_add(1);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Records<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        let read = &buf.filled()[before..];
        if !read.is_empty() {
            this.framing.take(read);
            this.moves = this.moves.wrapping_add(1);
        }
        result
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Records<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, buf);
        this.note_write(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, bufs);
        this.note_write(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_has_begun_until_its_last_byte() {
        // Three records: one without content, one of 3 bytes, one of 300.
        let mut bytes = vec![23, 3, 3, 0, 0, 22, 3, 1, 0, 3, 1, 2, 3, 23, 3, 3, 1, 44];
        bytes.extend([0; 300]);
        let ends = [0, 5, 13, bytes.len()];
        for step in [1, 2, 3, 7, 100, bytes.len()] {
            let mut framing = Framing::default();
            let mut at = 0;
            for piece in bytes.chunks(step) {
                framing.take(piece);
                at += piece.len();
                assert_eq!(framing.is_within(), !ends.contains(&at), "after {at} bytes in steps of {step}");
            }
        }
    }
}
