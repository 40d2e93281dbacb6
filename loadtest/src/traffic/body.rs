//! What a request carries: known content, or the messages of a call as they are given.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::Either;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::content::Content;

/// A request's body.
pub(super) type Sent = Either<Content, Feed>;

/// Messages, until the other end is dropped. At most one is under way: the next waits for its echo.
pub(super) struct Feed(UnboundedReceiver<Bytes>);

impl Feed {
    /// A body of messages, and where to give them.
    pub(super) fn new() -> (UnboundedSender<Bytes>, Feed) {
        let (sender, receiver) = unbounded_channel();
        (sender, Feed(receiver))
    }
}

impl Body for Feed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}
