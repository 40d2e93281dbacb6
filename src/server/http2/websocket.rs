//! WebSockets on a stream (RFC 8441), from servers that speak HTTP/1.
//!
//! The client's extended CONNECT becomes the GET that asks for a WebSocket (RFC 6455, section 4.1), with a key of
//! ours. The server's 101, if its proof is right, becomes a 200, and the stream carries the bytes from there on.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use aws_lc_rs::rand;
use bytes::{Buf, Bytes};
use h2::{RecvStream, SendStream};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode, request};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The name of the protocol, in `:protocol` and `Upgrade`.
pub(super) const NAME: &str = "websocket";

/// What a server adds to the key (RFC 6455, section 1.3).
const PROOF: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The most that is given to h2 at once, in bytes: it is copied.
const PIECE: usize = 16 * 1024;

/// Makes the head that a server of HTTP/1 understands. An error is what the client is answered.
pub(super) fn ask(parts: &mut request::Parts) -> Result<HeaderValue, StatusCode> {
    let mut random = [0; 16];
    rand::fill(&mut random).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let key = HeaderValue::try_from(base64(&random)).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    parts.method = Method::GET;
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static(NAME));
    parts.headers.insert(header::SEC_WEBSOCKET_KEY, key.clone());
    Ok(key)
}

/// Turns the head of a 101 into that of a 200. False: the server has not understood the key.
pub(super) fn grant(key: &HeaderValue, headers: &mut HeaderMap) -> bool {
    let proof =
        base64(digest(&SHA1_FOR_LEGACY_USE_ONLY, &[key.as_bytes(), PROOF.as_bytes()].concat()).as_ref());
    let said = headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    said.is_some_and(|said| said.as_bytes() == proof.as_bytes())
}

/// RFC 4648, section 4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = (0..3).fold(0, |bits, i| bits << 8 | usize::from(group.get(i).copied().unwrap_or(0)));
        for i in 0..4 {
            let letter = ALPHABET[bits >> (18 - 6 * i) & 63];
            text.push(if i <= group.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

/// A stream as a pair of byte streams. The client may send on as its bytes are taken from here.
#[derive(Debug)]
pub(super) struct Duplex {
    receive: RecvStream,
    send: SendStream<Bytes>,
    unread: Bytes,
}

impl Duplex {
    pub(super) fn new(receive: RecvStream, send: SendStream<Bytes>) -> Self {
        Duplex { receive, send, unread: Bytes::new() }
    }

    /// Ready once the client has reset the stream, or the connection is lost. Reads do not tell when none is due.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            // An empty frame is not the end.
            match ready!(this.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(data) => this.unread = data.map_err(io::Error::other)?,
            }
        }
        let n = this.unread.len().min(buf.remaining());
        buf.put_slice(&this.unread[..n]);
        this.unread.advance(n);
        Poll::Ready(this.receive.flow_control().release_capacity(n).map_err(io::Error::other))
    }
}

impl AsyncWrite for Duplex {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let send = &mut self.get_mut().send;
        let piece = &buf[..buf.len().min(PIECE)];
        send.reserve_capacity(piece.len());
        while send.capacity() == 0 {
            match ready!(send.poll_capacity(cx)) {
                Some(room) => room.map_err(io::Error::other)?,
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            };
        }
        let n = send.capacity().min(piece.len());
        let sent = send.send_data(Bytes::copy_from_slice(&piece[..n]), false);
        Poll::Ready(sent.map(|()| n).map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.get_mut().send.send_data(Bytes::new(), true).map_err(io::Error::other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 6455, section 1.3.
    #[test]
    fn a_proof_is_that_of_the_key() {
        let key = HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==");
        let headers =
            |proof| HeaderMap::from_iter([(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_static(proof))]);
        assert!(grant(&key, &mut headers("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!grant(&key, &mut headers("t3pPLMBiTxaQ9kYGzzhZRbK+xOo=")));
        assert!(!grant(&key, &mut HeaderMap::new()));
    }
}
