//! A request body that comes by HTTP/2.

use std::fmt;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::RecvStream;
use http_body::{Frame, SizeHint};

use super::Cause;

/// Reads a stream. What it hands on is at once made room for: it is taken no faster than the upstream takes it.
pub(super) struct FromHttp2 {
    stream: RecvStream,
    /// What is still to come, if the head has said.
    left: Option<u64>,
    data_ended: bool,
    before: Option<Box<dyn FnOnce()>>,
}

impl fmt::Debug for FromHttp2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FromHttp2").field("stream", &self.stream).field("left", &self.left).finish()
    }
}

impl FromHttp2 {
    pub(super) fn new(stream: RecvStream, length: Option<u64>, before: Option<Box<dyn FnOnce()>>) -> Self {
        FromHttp2 { stream, left: length, data_ended: false, before }
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        if let Some(before) = self.before.take() {
            before();
        }
        while !self.data_ended {
            match ready!(self.stream.poll_data(cx)) {
                // An empty frame says nothing; h2 bounds how many there are.
                Some(Ok(data)) if data.is_empty() => {}
                Some(Ok(data)) => {
                    self.stream.flow_control().release_capacity(data.len())?;
                    self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                None => self.data_ended = true,
            }
        }
        match ready!(self.stream.poll_trailers(cx)) {
            Ok(trailers) => Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers)))),
            Err(error) => Poll::Ready(Some(Err(error.into()))),
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match self.left {
            Some(left) => SizeHint::with_exact(left),
            None if self.is_end_stream() => SizeHint::with_exact(0),
            None => SizeHint::default(),
        }
    }
}
