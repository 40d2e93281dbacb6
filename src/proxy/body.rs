//! The bodies that pass through: never collected, one chunk at a time, and only as fast as the other side
//! takes them.

mod from_upstream;
mod http2;
mod upload;

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::error::{BodyError, Cause};
use super::headers;
use super::metrics::Flight;
use crate::timer::Timer;
use from_upstream::FromUpstream;
pub(super) use from_upstream::{FromServer, Http2Body};
use http2::{FromHttp2, TrailerCheck};
pub(crate) use upload::MAX_LEFTOVER;
pub(super) use upload::Upload;
use upload::{Gate, Leftover};

/// What a client gets.
#[derive(Debug)]
pub struct Body {
    kind: Kind,
    /// The request that it answers, until it is counted as answered.
    answers: Option<Answers>,
}

/// A request that is being answered.
#[derive(Debug)]
struct Answers {
    flight: Flight,
    status: StatusCode,
    /// Whether the client gets no body, whatever there is of it.
    bodiless: bool,
    /// Whether somebody else says when the answer has reached the client.
    is_deferred: bool,
}

impl Answers {
    fn end(&mut self) {
        if !self.is_deferred {
            self.flight.answered(self.status);
        }
    }
}

/// A request whose answer is complete, but may not have reached the client. Dropped, it was not answered.
#[derive(Debug)]
pub(crate) struct Answered {
    flight: Flight,
    status: StatusCode,
}

impl Answered {
    /// The answer has reached the client, as far as can be known: it is in the socket.
    pub(crate) fn settle(mut self) {
        self.flight.answered(self.status);
    }
}

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
    /// A request body that is still held, because the connection ends with an error of it.
    pub(super) shut: Option<Rc<Upload>>,
}

impl Body {
    /// A body without anything in it.
    pub fn empty() -> Self {
        Body::full(Bytes::new())
    }

    pub(super) fn full(text: Bytes) -> Self {
        Body { kind: Kind::Full(text), answers: None }
    }

    pub(super) fn upstream(source: FromServer, silence: Silence) -> Self {
        Body { kind: Kind::Upstream(FromUpstream::new(source, silence)), answers: None }
    }

    /// The request is answered once this has been taken to its end.
    pub(super) fn answer(&mut self, mut flight: Flight, status: StatusCode, bodiless: bool) {
        flight.answers();
        self.answers = Some(Answers { flight, status, bodiless, is_deferred: false });
    }

    /// Leaves it to the one who sends the body to say when it is there; see [`Body::into_answered`].
    pub(crate) fn settle_later(&mut self) {
        if let Some(answers) = &mut self.answers {
            answers.is_deferred = true;
        }
    }

    /// The request that this has answered in full.
    pub(crate) fn into_answered(mut self) -> Option<Answered> {
        self.answers.take().map(|Answers { flight, status, .. }| Answered { flight, status })
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = match &mut this.kind {
            Kind::Full(text) if text.is_empty() => None,
            Kind::Full(text) => Some(Ok(Frame::data(std::mem::take(text)))),
            Kind::Upstream(body) => ready!(body.poll_frame(cx)),
        };
        if let Some(answers) = &mut this.answers {
            match &frame {
                // Nothing comes behind them, and nobody asks.
                Some(Ok(frame)) if frame.is_trailers() => answers.end(),
                Some(Ok(frame)) => answers.flight.send(frame.data_ref().map_or(0, Bytes::len)),
                Some(Err(error)) => answers.flight.break_off(error),
                None => answers.end(),
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Full(text) => text.is_empty(),
            Kind::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Full(text) => SizeHint::with_exact(text.len() as u64),
            Kind::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        // Whoever knows that nothing follows does not ask again.
        let is_at_end = http_body::Body::is_end_stream(self);
        if let Some(answers) = &mut self.answers
            && (answers.bodiless || is_at_end)
        {
            answers.end();
        }
    }
}

/// What a client sends with its request.
#[derive(Debug)]
pub struct ClientBody(Source);

#[derive(Debug)]
enum Source {
    Http1(Incoming),
    /// Boxed: it is much larger than the others.
    Http2(Box<FromHttp2>),
    Empty,
    /// It was stopped.
    Gone,
}

impl From<Incoming> for ClientBody {
    fn from(incoming: Incoming) -> Self {
        ClientBody(Source::Http1(incoming))
    }
}

impl ClientBody {
    /// The body of a request that came by HTTP/2. `length` is what its head says of it, `before` is called when it
    /// is first read, `check` says whether trailers are good.
    pub(crate) fn http2(
        stream: h2::RecvStream,
        length: Option<u64>,
        before: Option<Box<dyn FnOnce()>>,
        check: Option<TrailerCheck>,
    ) -> Self {
        ClientBody(Source::Http2(Box::new(FromHttp2::new(stream, length, before, check))))
    }

    /// No body.
    pub(crate) fn empty() -> Self {
        ClientBody(Source::Empty)
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
            Source::Http2(stream) => stream.poll_frame(cx),
            Source::Empty => Poll::Ready(None),
            Source::Gone => Poll::Ready(Some(Err("the answer was complete before the request".into()))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Source::Http1(incoming) => incoming.is_end_stream(),
            Source::Http2(stream) => stream.is_end_stream(),
            Source::Empty => true,
            Source::Gone => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Source::Http1(incoming) => incoming.size_hint(),
            Source::Http2(stream) => stream.size_hint(),
            Source::Empty => SizeHint::with_exact(0),
            Source::Gone => SizeHint::default(),
        }
    }
}

/// What the upstream gets. Always in a box: hyper moves a request a dozen times.
#[derive(Debug)]
pub(super) struct RequestBody {
    incoming: ClientBody,
    upload: Rc<Upload>,
    /// Whether something of it has been taken from the client, who will not say it again.
    begun: bool,
}

impl RequestBody {
    pub(super) fn new(incoming: ClientBody, upload: Rc<Upload>) -> Box<Self> {
        upload.open.set(!incoming.is_end_stream());
        upload.gate.set(Gate::Open);
        upload.read.set(false);
        upload.drop_leftover();
        Box::new(RequestBody { incoming, upload, begun: false })
    }

    /// Whether all of it is still to come.
    pub(super) fn is_untouched(&self) -> bool {
        !self.begun
    }

    /// Whether nobody wants the rest of it; else the task is woken when that is said.
    pub(super) fn poll_stopped(&self, cx: &mut Context<'_>) -> bool {
        self.note_reader(cx);
        self.upload.stopped.get()
    }

    fn note_reader(&self, cx: &mut Context<'_>) {
        if let Source::Http2(_) = self.incoming.0 {
            self.upload.reader.replace(Some(cx.waker().clone()));
        }
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
        if this.upload.stopped.get() {
            this.incoming.0 = Source::Gone;
        } else if this.upload.gate.get() != Gate::Open {
            if this.upload.gate.get() == Gate::Shut {
                this.incoming.0 = Source::Gone;
                this.upload.open.set(false);
            }
            this.upload.reader.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let mut frame = Pin::new(&mut this.incoming).poll_frame(cx);
        if !this.upload.read.replace(true) {
            this.upload.wake_watcher();
        }
        if let Poll::Ready(Some(Ok(frame))) = &mut frame {
            if let Some(data) = frame.data_ref() {
                let is_http2 = matches!(this.incoming.0, Source::Http2(_));
                this.upload.metrics.receive(is_http2, data.len());
            }
            if let Some(trailers) = frame.trailers_mut() {
                headers::prepare_trailers(trailers);
            }
        }
        if frame.is_ready() {
            this.begun = true;
            this.upload.awaited_since.set(None);
            this.upload.advance();
        } else {
            if this.upload.awaited_since.get().is_none() {
                this.upload.awaited_since.set(Some(Instant::now()));
            }
            this.note_reader(cx);
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
        // A client that waits to be told to send it is not told by being read.
        let is_wanted_by_none = !self.is_end_stream() && self.upload.gate.get() == Gate::Open;
        if let Source::Http1(incoming) = std::mem::replace(&mut self.incoming.0, Source::Gone)
            && is_wanted_by_none
        {
            self.upload.leftover.replace(Some(Leftover { incoming, room: MAX_LEFTOVER }));
        }
        self.upload.open.set(false);
        self.upload.awaited_since.set(None);
        self.upload.wake_watcher();
    }
}
