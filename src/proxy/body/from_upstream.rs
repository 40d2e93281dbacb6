//! The body of an upstream's answer, by either protocol.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http::HeaderMap;
use http::header::CONTENT_LENGTH;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{Silence, headers};
use crate::proxy::error::BodyError;
use crate::proxy::upstream::{http1, http2};

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

#[derive(Debug)]
pub(super) struct FromUpstream {
    source: FromServer,
    ended: bool,
    silence: Silence,
}

/// Where it comes from.
#[derive(Debug)]
pub(in crate::proxy) enum FromServer {
    /// The lease goes back to the pool once the answer has been read to its end.
    Http1(Incoming, Option<http1::Lease>),
    Http2(Http2Body),
}

impl FromUpstream {
    pub(super) fn new(source: FromServer, silence: Silence) -> Self {
        FromUpstream { source, ended: false, silence }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        let frame = Pin::new(&mut self.source).poll_frame(cx);
        match frame {
            Poll::Ready(frame) => {
                self.silence.since = None;
                // hyper asks for nothing behind trailers.
                self.ended =
                    frame.as_ref().is_none_or(|frame| matches!(frame, Ok(frame) if frame.is_trailers()));
                Poll::Ready(frame)
            }
            Poll::Pending => {
                let since = *self.silence.since.get_or_insert_with(Instant::now);
                let deadline = since + self.silence.limit;
                self.silence
                    .timer
                    .borrow_mut()
                    .poll_until(deadline, cx)
                    .map(|()| Some(Err(BodyError::Stalled)))
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.source.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        self.source.size_hint()
    }
}

impl FromServer {
    /// The connection, if it can be had for something else.
    pub(in crate::proxy) fn into_connection(self) -> Option<http1::Lease> {
        match self {
            FromServer::Http1(_, lease) => lease,
            FromServer::Http2(_) => None,
        }
    }
}

impl http_body::Body for FromServer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        match self.get_mut() {
            FromServer::Http1(incoming, _) => Pin::new(incoming)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(BodyError::Cut))),
            FromServer::Http2(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            FromServer::Http1(incoming, _) => incoming.is_end_stream(),
            FromServer::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            FromServer::Http1(incoming, _) => incoming.size_hint(),
            FromServer::Http2(body) => body.size_hint(),
        }
    }
}

impl Drop for FromUpstream {
    fn drop(&mut self) {
        // Otherwise the client has gone away, or the upstream has: the connection, or the stream, ends with this
        // body.
        let ended = self.ended || self.source.is_end_stream();
        match &mut self.source {
            FromServer::Http1(_, lease) if ended => {
                if let Some(lease) = lease.take() {
                    lease.give_back();
                }
            }
            FromServer::Http1(..) => {}
            FromServer::Http2(body) => body.end(ended),
        }
        if let Some(upload) = &self.silence.shut {
            upload.end_shut();
        }
    }
}

/// What comes on a stream of HTTP/2. Without its end it resets the stream, and nothing but that.
#[derive(Debug)]
pub(in crate::proxy) struct Http2Body {
    stream: RecvStream,
    /// How much is still to come, if the head said.
    left: Option<u64>,
    /// What was handed out last: the server may send as much again once the client has taken it.
    unreleased: usize,
    data_ended: bool,
    ended: bool,
    /// The task that goes on with the request's body.
    upload: Option<AbortHandle>,
    _lease: Rc<http2::Lease>,
}

impl Http2Body {
    pub(in crate::proxy) fn new(
        stream: RecvStream,
        head: &HeaderMap,
        upload: Option<AbortHandle>,
        lease: Rc<http2::Lease>,
    ) -> Self {
        // h2 has seen to it that there is one such field at most, that it is a number and that it is true.
        let length = head.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
        let left = length.filter(|_| !stream.is_end_stream());
        let ended = stream.is_end_stream();
        Http2Body { stream, left, unreleased: 0, data_ended: ended, ended, upload, _lease: lease }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Polled {
        self.release();
        if !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.unreleased = data.len();
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) if self.is_full_stop(&error) => {
                    (self.data_ended, self.ended) = (true, true);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(BodyError::Reset(error)))),
                None => self.data_ended = true,
            }
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let trailers = ready!(self.stream.poll_trailers(cx));
        self.ended = true;
        match trailers {
            Ok(Some(mut trailers)) => {
                headers::end_hop(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
            Ok(None) => Poll::Ready(None),
            Err(error) if self.is_full_stop(&error) => Poll::Ready(None),
            Err(error) => Poll::Ready(Some(Err(BodyError::Reset(error)))),
        }
    }

    /// Whether the server has answered in full and asks for no more of the request (RFC 9113, section 8.1). That
    /// is said only while the request's body is under way.
    fn is_full_stop(&self, error: &h2::Error) -> bool {
        self.upload.is_some()
            && error.is_reset()
            && error.is_remote()
            && error.reason() == Some(Reason::NO_ERROR)
            && self.left.unwrap_or(0) == 0
    }

    fn release(&mut self) {
        let taken = std::mem::take(&mut self.unreleased);
        if taken > 0 && self.stream.flow_control().release_capacity(taken).is_err() {
            tracing::trace!("a stream's window was opened too far");
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ended || self.stream.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }

    /// The answer is not wanted any more, or has come to its end: then the request's body may go on to its own.
    fn end(&mut self, in_full: bool) {
        self.release();
        if !in_full && let Some(upload) = self.upload.take() {
            upload.abort();
        }
    }
}
