//! The bodies that pass through: never collected, one chunk at a time, and only as fast as the other side
//! takes them.

mod from_upstream;

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::error::{BodyError, Cause};
use super::headers;
use crate::timer::Timer;
use from_upstream::FromUpstream;
pub(super) use from_upstream::{FromServer, Http2Body};

/// What a client gets.
#[derive(Debug)]
pub struct Body(Kind);

#[derive(Debug)]
enum Kind {
    /// Taken when it is sent.
    Full(Bytes),
    Upstream(FromUpstream),
}

/// How long the upstream may send nothing in the middle of an answer.
#[derive(Debug)]
pub(super) struct Silence {
    pub(super) timer: Rc<RefCell<Timer>>,
    pub(super) limit: Duration,
    /// Since when the client waits for the upstream; not while the upstream waits for the client.
    pub(super) since: Option<Instant>,
}

impl Body {
    pub(super) fn full(text: Bytes) -> Self {
        Body(Kind::Full(text))
    }

    pub(super) fn upstream(source: FromServer, silence: Silence) -> Self {
        Body(Kind::Upstream(FromUpstream::new(source, silence)))
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut self.get_mut().0 {
            Kind::Full(text) if text.is_empty() => Poll::Ready(None),
            Kind::Full(text) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(text))))),
            Kind::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Kind::Full(text) => text.is_empty(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Kind::Full(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

/// Where the upload of a request body stands, seen by those who hold the clocks.
#[derive(Debug)]
pub(super) struct Upload {
    /// Whether a body is on its way.
    open: Cell<bool>,
    /// Whether the upstream would take more and the client has not sent it.
    awaits_client: Cell<bool>,
    /// When the upstream last took something; since then it is the upstream that is waited for.
    advanced: Cell<Instant>,
}

impl Upload {
    pub(super) fn new() -> Self {
        Upload {
            open: Cell::new(false),
            awaits_client: Cell::new(false),
            advanced: Cell::new(Instant::now()),
        }
    }

    /// The upstream is waited for from now on.
    pub(super) fn begin(&self) {
        self.advanced.set(Instant::now());
    }

    pub(super) fn is_open(&self) -> bool {
        self.open.get()
    }

    pub(super) fn awaits_client(&self) -> bool {
        self.awaits_client.get()
    }

    /// The upstream has taken something, or the client has sent something for it.
    pub(super) fn advance(&self) {
        self.advanced.set(Instant::now());
    }

    pub(super) fn advanced(&self) -> Instant {
        self.advanced.get()
    }
}

/// What a client sends with its request.
#[derive(Debug)]
pub struct ClientBody(Source);

#[derive(Debug)]
enum Source {
    Http1(Incoming),
}

impl From<Incoming> for ClientBody {
    fn from(incoming: Incoming) -> Self {
        ClientBody(Source::Http1(incoming))
    }
}

impl http_body::Body for ClientBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        match &mut self.get_mut().0 {
            Source::Http1(incoming) => {
                Pin::new(incoming).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Cause::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1(incoming) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1(incoming) => incoming.size_hint(),
        }
    }
}

/// What the upstream gets.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: ClientBody,
    upload: Rc<Upload>,
    /// Whether something of it has been taken from the client, who will not say it again.
    begun: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: ClientBody, upload: Rc<Upload>) -> Self {
        upload.open.set(!incoming.is_end_stream());
        RequestBody { incoming, upload, begun: false }
    }

    /// Whether all of it is still to come.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun
    }

    pub(super) fn upload(&self) -> &Upload {
        &self.upload
    }
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        let this = self.get_mut();
        let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            headers::prepare_trailers(trailers);
        }
        this.upload.awaits_client.set(frame.is_pending());
        if frame.is_ready() {
            this.begun = true;
            this.upload.advance();
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        self.upload.open.set(false);
        self.upload.awaits_client.set(false);
    }
}
