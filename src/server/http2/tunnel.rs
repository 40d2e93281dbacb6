//! A stream that carries something else than an answer: a WebSocket (RFC 8441), or what a CONNECT is for (RFC 9113,
//! section 8.5). The server is reached by HTTP/1.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderValue};
use http::{Response, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::metrics::TunnelEnd;
use super::super::tunnel::{Over, Tunnel};
use super::stream::{Broken, Common, Responder, begin};
use super::websocket;
use crate::proxy::{RequestIdentity, TunnelStream, end_hop, log_request};
use crate::timer::Timer;

/// What is asked for in place of an answer: no body follows, but this.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A WebSocket, by this key.
    WebSocket(HeaderValue),
    /// The way to another host.
    Connect,
}

impl Asked {
    /// What the client is told when the other side fails.
    fn broken(&self) -> Broken {
        Broken::Tunnel(match self {
            // What a reset of TCP is on a stream (RFC 8441, section 5).
            Asked::WebSocket(_) => Reason::CANCEL,
            // The same (RFC 9113, section 8.5).
            Asked::Connect => Reason::CONNECT_ERROR,
        })
    }
}

/// The most that is given to h2 at once, in bytes: it is copied.
const PIECE: usize = 16 * 1024;

/// Tells the client with `head` that it has what it `asked` for, and carries that until it ends.
pub(super) async fn carry(
    common: &Common,
    request: &Rc<RequestIdentity>,
    asked: &Asked,
    mut head: Response<()>,
    mut upstream: TunnelStream,
    stream: RecvStream,
    respond: &Responder,
) -> Result<(), Broken> {
    let headers = head.headers_mut();
    end_hop(headers);
    let mut is_granted = true;
    if let Asked::WebSocket(key) = asked {
        is_granted = websocket::grant(key, headers);
        if !is_granted {
            log_request!(
                warn,
                request,
                "a server switched to WebSocket, and its Sec-WebSocket-Accept is wrong"
            );
            headers.clear();
            headers.insert("x-request-id", request.id().to_value());
        }
        *head.status_mut() = if is_granted { StatusCode::OK } else { StatusCode::BAD_GATEWAY };
    }
    head.headers_mut().entry(header::DATE).or_insert_with(|| common.clock.now());
    let sending = begin(respond, head, !is_granted)?;
    if !is_granted {
        return Ok(());
    }
    let mut client = Duplex::new(stream, sending);
    // Also when this task is dropped with its connection: see `server/tunnel.rs`.
    upstream.reset_on_close(true);
    let carried = common.metrics.tunnel(true, request);
    let mut tunnel = Tunnel::new();
    let mut timer = Timer::default();
    let over = poll_fn(|cx| {
        if client.poll_gone(cx).is_ready() {
            return Poll::Ready(None);
        }
        tunnel.poll_until(&mut client, &mut upstream, common.tunnel_timeout, &mut timer, cx).map(Some)
    })
    .await;
    carried.end(over.as_ref().map_or(TunnelEnd::ClientGone, TunnelEnd::from));
    match over {
        Some(Over::Ended { .. }) => {
            upstream.reset_on_close(false);
            Ok(())
        }
        Some(Over::ClientFailed(error)) if error.kind() == io::ErrorKind::InvalidData => {
            Err(Broken::Tunnel(Reason::PROTOCOL_ERROR))
        }
        None | Some(Over::ClientFailed(_)) => Err(Broken::Gone),
        Some(Over::ServerFailed(error)) => {
            log_request!(debug, request, %error, "a tunnel's server went away");
            Err(asked.broken())
        }
        Some(Over::Silent) => {
            log_request!(debug, request, "nothing has moved in a tunnel for too long");
            Err(asked.broken())
        }
    }
}

/// A stream as a pair of byte streams. The client may send on as its bytes are taken from here.
#[derive(Debug)]
struct Duplex {
    receive: RecvStream,
    send: SendStream<Bytes>,
    unread: Bytes,
}

impl Duplex {
    fn new(receive: RecvStream, send: SendStream<Bytes>) -> Self {
        Duplex { receive, send, unread: Bytes::new() }
    }

    /// Ready once the client has reset the stream, or the connection is lost. Reads do not tell when none is due.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.send.poll_reset(cx).map(|_| ())
    }
}

impl AsyncRead for Duplex {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.unread.is_empty() {
            // An empty frame is not the end.
            match ready!(this.receive.poll_data(cx)) {
                Some(data) => this.unread = data.map_err(io::Error::other)?,
                None => {
                    return Poll::Ready(match ready!(this.receive.poll_trailers(cx)) {
                        Ok(None) => Ok(()),
                        // Nothing but data may be sent there.
                        Ok(Some(_)) => Err(io::ErrorKind::InvalidData.into()),
                        Err(error) => Err(io::Error::other(error)),
                    });
                }
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
