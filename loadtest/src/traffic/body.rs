//! What a request carries: known content, or the messages of a call as they are given.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::content::Content;

/// A request's body.
pub(super) enum Sent {
    /// Known content.
    Content(Content),
    /// Messages, until the other end is dropped. At most one is under way: the next waits for its echo.
    Feed(UnboundedReceiver<Bytes>),
}

impl Sent {
    /// A body of messages, and where to give them.
    pub(super) fn feed() -> (UnboundedSender<Bytes>, Sent) {
        let (sender, receiver) = unbounded_channel();
        (sender, Sent::Feed(receiver))
    }
}

impl Body for Sent {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Sent::Content(content) => Pin::new(content).poll_frame(context),
            Sent::Feed(messages) => {
                messages.poll_recv(context).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Sent::Content(content) => content.is_end_stream(),
            Sent::Feed(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Sent::Content(content) => content.size_hint(),
            Sent::Feed(_) => SizeHint::default(),
        }
    }
}
