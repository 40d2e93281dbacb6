//! A request body that comes by HTTP/2.

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use super::Cause;

/// Says whether a client's trailers are good.
pub(super) type TrailerCheck = Box<dyn Fn(&HeaderMap) -> bool>;

/// Reads a stream. What it hands on is at once made room for: it is taken no faster than the upstream takes it.
///
/// A body whose length the head has said ends for the server with its last byte, whatever comes behind it: more, which
/// makes the request malformed (RFC 9113, section 8.1.1), or bad trailers. So that byte is held back until all is
/// there.
pub(super) struct FromHttp2 {
    stream: RecvStream,
    /// What is still to be handed on, if the head has said.
    left: Option<u64>,
    /// The last of it, which is held back.
    last: Option<Bytes>,
    trailers: Option<HeaderMap>,
    data_ended: bool,
    ended: bool,
    before: Option<Box<dyn FnOnce()>>,
    check: Option<TrailerCheck>,
}

impl fmt::Debug for FromHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromHttp2").field("stream", &self.stream).field("left", &self.left).finish()
    }
}

impl FromHttp2 {
    pub(super) fn new(
        stream: RecvStream,
        length: Option<u64>,
        before: Option<Box<dyn FnOnce()>>,
        check: Option<TrailerCheck>,
    ) -> Self {
        FromHttp2 {
            stream,
            left: length,
            last: None,
            trailers: None,
            data_ended: false,
            ended: false,
            before,
            check,
        }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        if let Some(before) = self.before.take() {
            before();
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                // An empty frame says nothing; h2 bounds how many there are.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) if self.left == Some(data.len() as u64) && !self.stream.is_end_stream() => {
                    self.last = Some(data);
                }
                Some(Ok(data)) => return Poll::Ready(Some(self.hand_on(data))),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        if !self.ended {
            self.trailers = ready!(self.stream.poll_trailers(cx))?;
            self.ended = true;
            if let (Some(trailers), Some(check)) = (&self.trailers, &self.check)
                && !check(trailers)
            {
                (self.last, self.trailers) = (None, None);
                return Poll::Ready(Some(Err("the request's trailers are malformed".into())));
            }
        }
        Poll::Ready(match self.last.take() {
            Some(data) => Some(self.hand_on(data)),
            None => self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))),
        })
    }

    fn hand_on(&mut self, data: Bytes) -> Result<Frame<Bytes>, Cause> {
        self.stream.flow_control().release_capacity(data.len())?;
        self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
        Ok(Frame::data(data))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream() && self.last.is_none() && self.trailers.is_none()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
