//! One stream: a request in, its answer out.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{self, HeaderMap};
use http::{Request, Response, StatusCode, response};
use http_body::{Body as _, Frame};
use tokio::time::{Instant, timeout};

use super::super::{Metrics, Refused, refused};
use super::date::Clock;
use super::request::{Facts, Refusal, translate};
use super::tunnel::carry;
use super::wire::Link;
use crate::proxy::{
    Answer, Answered, Body, BodyError, Client, ClientBody, Exchange, Interim, RequestIdentity, end_hop,
    log_client, log_request, refusal as refusal_of,
};
use crate::timer::Timer;

/// What the streams of a connection have in common.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) client: Client,
    pub(super) link: Rc<Link>,
    pub(super) clock: Rc<Clock>,
    pub(super) stall_timeout: Duration,
    pub(super) tunnel_timeout: Duration,
    /// Whether a stream may become a WebSocket.
    pub(super) websockets: bool,
    pub(super) max_headers: usize,
    pub(super) metrics: Rc<Metrics>,
}

pub(super) type Responder = Rc<RefCell<SendResponse<Bytes>>>;

/// Why a stream ends before its answer does.
#[derive(Debug)]
pub(super) enum Broken {
    /// The client has reset it, or the connection is at its end.
    Gone,
    /// The client neither sends what the upstream waits for nor takes what there is for it.
    Stalled,
    /// A server has made a tunnel that nobody has asked for.
    Unasked,
    /// The answer is not to be had.
    Body(BodyError),
    /// h2 does not take the answer.
    Refused(h2::Error),
    /// What it carried was broken off, and this is to be said of it.
    Tunnel(Reason),
}

/// Answers the request of one stream.
pub(super) async fn serve(common: Rc<Common>, request: Request<RecvStream>, respond: SendResponse<Bytes>) {
    let respond = Rc::new(RefCell::new(respond));
    let (parts, mut stream, facts) = match translate(request, common.max_headers, common.websockets) {
        Ok(translated) => translated,
        Err(refused) => return refuse(&common, refused.why, &refused.request, &respond),
    };
    let (body, tunnel) = if facts.tunnel.is_some() {
        (ClientBody::empty(), Some(stream))
    } else if facts.length == Some(0) && !stream.is_end_stream() {
        // A server would take the head for the whole request.
        if let Err(broken) = poll_end(&common, facts.expects, &mut stream, &respond).await {
            // Nobody knows of the request yet.
            if let Broken::Stalled = broken {
                log_client!(debug, common.client.identity(), "a stream stood still for too long");
                respond.borrow_mut().send_reset(Reason::CANCEL);
            }
            return;
        }
        (ClientBody::empty(), None)
    } else {
        let before = facts.expects.then(|| say_continue(respond.clone()));
        let check = (!stream.is_end_stream()).then(|| check_trailers(common.clone(), respond.clone()));
        (ClientBody::http2(stream, facts.length, before, check), None)
    };
    let request = Request::from_parts(parts, body);
    let exchange = common.client.exchange();
    match answer(&common, &exchange, request, &respond, facts, tunnel).await {
        Ok(answered) => {
            let mut meter = common.link.meter.borrow_mut();
            meter.finished();
            if let Some(answered) = answered {
                meter.unsettled.add(respond.borrow().stream_id().as_u32(), answered);
            }
            drop(meter);
            // The client learns by a RST_STREAM(NO_ERROR) that it can stop (RFC 9113, section 8.1); h2 sends it
            // when nobody reads the stream any more.
            exchange.stop_upload();
        }
        Err(broken) => break_off(&broken, exchange.identity(), &respond),
    }
}

fn refuse(common: &Common, refusal: Refusal, request: &Request<()>, respond: &Responder) {
    let mut respond = respond.borrow_mut();
    common.metrics.refused(match refusal {
        Refusal::Malformed(_) => Refused::Http2Malformed,
        Refusal::Answer(status) => Refused::Http2Answered(status),
    });
    match refusal {
        Refusal::Malformed(why) => {
            refused(&common.client, "malformed", &why);
            respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        Refusal::Answer(status) => {
            let id = refused(&common.client, "answered", &status);
            if let Err(error) = respond.send_response(refusal_of(status, id, request), true) {
                tracing::trace!(%id, %error, "a refusal was not sent");
            }
        }
    }
}

/// Waits for the end of a body that is said to be empty.
async fn poll_end(
    common: &Rc<Common>,
    expects: bool,
    stream: &mut RecvStream,
    respond: &Responder,
) -> Result<(), Broken> {
    if expects {
        say_continue(respond.clone())();
    }
    let end = async {
        // What is longer than was said h2 finds out.
        while let Some(data) = stream.data().await {
            data.map_err(|_| Broken::Gone)?;
        }
        stream.trailers().await.map_err(|_| Broken::Gone)
    };
    // There is no place for trailers in a request that has no body.
    match timeout(common.stall_timeout, end).await {
        Err(_) => Err(Broken::Stalled),
        Ok(Ok(Some(trailers))) if !check_trailers(common.clone(), respond.clone())(&trailers) => {
            Err(Broken::Gone)
        }
        Ok(result) => result.map(|_| ()),
    }
}

/// Says whether trailers are good; those that are not end the stream.
fn check_trailers(common: Rc<Common>, respond: Responder) -> Box<dyn Fn(&HeaderMap) -> bool> {
    Box::new(move |trailers| {
        let mut respond = respond.borrow_mut();
        let is_good =
            common.link.meter.borrow_mut().trailers.had(respond.stream_id().as_u32(), trailers.len());
        if !is_good {
            tracing::debug!("malformed trailers");
            common.metrics.refused(Refused::Http2Malformed);
            respond.send_reset(Reason::PROTOCOL_ERROR);
        }
        is_good
    })
}

fn say_continue(respond: Responder) -> Box<dyn FnOnce()> {
    Box::new(move || send_interim(&respond, StatusCode::CONTINUE, HeaderMap::new()))
}

fn send_interim(respond: &Responder, status: StatusCode, headers: HeaderMap) {
    let mut interim = Response::new(());
    *interim.status_mut() = status;
    *interim.headers_mut() = headers;
    end_hop(interim.headers_mut());
    // Too late, or the client has gone: the answer itself will tell.
    if let Err(error) = respond.borrow_mut().send_informational(interim) {
        tracing::trace!(%error, "an interim answer was not sent");
    }
}

struct Forward<'r>(&'r Responder);

impl Interim for Forward<'_> {
    fn send(&self, response: Response<()>) {
        let (parts, ()) = response.into_parts();
        send_interim(self.0, parts.status, parts.headers);
    }
}

async fn answer(
    common: &Common,
    exchange: &Exchange,
    request: Request<ClientBody>,
    respond: &Responder,
    facts: Facts,
    tunnel: Option<RecvStream>,
) -> Result<Option<Answered>, Broken> {
    let mut upload = Upload { exchange, limit: common.stall_timeout, timer: Timer::default() };
    let answer = {
        let interim = Forward(respond);
        let mut answering = pin!(exchange.answer(request, &interim));
        poll_fn(|cx| {
            if respond.borrow_mut().poll_reset(cx).is_ready() {
                return Poll::Ready(Err(Broken::Gone));
            }
            if let Poll::Ready(answer) = answering.as_mut().poll(cx) {
                return Poll::Ready(Ok(answer));
            }
            upload.poll_stalled(cx).map(|()| Err(Broken::Stalled))
        })
        .await?
    };
    let response = match answer {
        Answer::Response(response) => response,
        Answer::Tunnel(head, upstream) => {
            return match tunnel.zip(facts.tunnel) {
                Some((stream, asked)) => {
                    carry(common, exchange.identity(), &asked, head, upstream, stream, respond)
                        .await
                        .map(|()| None)
                }
                // Not asked for: see `request::prepare`.
                None => Err(Broken::Unasked),
            };
        }
    };

    let (parts, mut body) = response.into_parts();
    body.settle_later();
    let bodiless = facts.is_head || matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    let ended = bodiless || body.is_end_stream();
    let head = head(parts, &body, &facts, &common.clock);
    let mut sending = begin(respond, head, ended)?;
    if ended {
        return Ok(body.into_answered());
    }
    let mut pump = Pump::new(body, common.stall_timeout);
    poll_fn(|cx| match pump.poll(&mut sending, cx) {
        Poll::Pending => upload.poll_stalled(cx).map(|()| Err(Broken::Stalled)),
        done => done,
    })
    .await?;
    Ok(pump.body.into_answered())
}

pub(super) fn begin(
    respond: &Responder,
    head: Response<()>,
    ended: bool,
) -> Result<SendStream<Bytes>, Broken> {
    let mut respond = respond.borrow_mut();
    match respond.send_response(head, ended) {
        Ok(sending) => Ok(sending),
        Err(_) if respond.poll_reset(&mut noop()).is_ready() => Err(Broken::Gone),
        Err(error) => Err(Broken::Refused(error)),
    }
}

fn noop() -> Context<'static> {
    Context::from_waker(std::task::Waker::noop())
}

fn head(mut parts: response::Parts, body: &Body, facts: &Facts, clock: &Clock) -> Response<()> {
    // What is left is our own, such as that HTTP/1 ends here; h2 refuses to send it (RFC 9113, section 8.2.2).
    end_hop(&mut parts.headers);
    let has_length = !matches!(parts.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if has_length
        && !(facts.is_head && body.is_end_stream())
        && !parts.headers.contains_key(header::CONTENT_LENGTH)
        && let Some(length) = body.size_hint().exact()
    {
        parts.headers.insert(header::CONTENT_LENGTH, length.into());
    }
    if !parts.headers.contains_key(header::DATE) {
        // A recipient with a clock adds it (RFC 9110, section 6.6.1).
        parts.headers.insert(header::DATE, clock.now());
    }
    Response::from_parts(parts, ())
}

fn break_off(broken: &Broken, request: &RequestIdentity, respond: &Responder) {
    let reason = match broken {
        Broken::Gone => return,
        Broken::Stalled => {
            log_request!(debug, request, "a stream stood still for too long");
            Reason::CANCEL
        }
        Broken::Unasked => {
            log_request!(warn, request, "a server has made a tunnel that nobody has asked for");
            Reason::INTERNAL_ERROR
        }
        // The body has said why.
        Broken::Body(error) => error.reason(),
        Broken::Refused(error) => {
            log_request!(warn, request, %error, "an answer cannot be sent by HTTP/2");
            Reason::INTERNAL_ERROR
        }
        Broken::Tunnel(reason) => *reason,
    };
    respond.borrow_mut().send_reset(reason);
}

/// The clock of the request's body. It is read by the upstream's task, which does not tell: it is looked at.
struct Upload<'e> {
    exchange: &'e Exchange,
    limit: Duration,
    timer: Timer,
}

impl Upload<'_> {
    /// Ready once the client has not sent for too long what the upstream waits for.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.exchange.is_uploading() {
            let since = self.exchange.awaited_since();
            let due = since.map_or_else(|| Instant::now() + self.limit / 4, |since| since + self.limit);
            if self.timer.poll_until(due, cx).is_pending() {
                return Poll::Pending;
            }
            if since.is_some() {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}

/// Moves the body of an answer into a stream, as fast as the client gives it room.
struct Pump {
    body: Body,
    chunk: Bytes,
    /// What comes behind the chunk; `Some(None)` is the end.
    ahead: Option<Option<Result<Frame<Bytes>, BodyError>>>,
    limit: Duration,
    blocked_since: Option<Instant>,
    timer: Timer,
}

impl Pump {
    fn new(body: Body, limit: Duration) -> Self {
        Pump { body, chunk: Bytes::new(), ahead: None, limit, blocked_since: None, timer: Timer::default() }
    }

    fn poll(&mut self, stream: &mut SendStream<Bytes>, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        if stream.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(Broken::Gone));
        }
        loop {
            if !self.chunk.is_empty() {
                // With its end in sight, the last of the data carries it.
                self.look_ahead(cx);
                match self.poll_send(stream, cx) {
                    Poll::Ready(Ok(false)) => continue,
                    Poll::Ready(Ok(true)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Err(broken)) => return Poll::Ready(Err(broken)),
                    Poll::Pending => return Poll::Pending,
                }
            }
            self.look_ahead(cx);
            let frame = match self.ahead.take() {
                None => return Poll::Pending,
                Some(None) => {
                    return Poll::Ready(stream.send_data(Bytes::new(), true).map_err(Broken::Refused));
                }
                Some(Some(Err(error))) => return Poll::Ready(Err(Broken::Body(error))),
                Some(Some(Ok(frame))) => frame,
            };
            match frame.into_data() {
                Ok(data) => self.chunk = data,
                Err(frame) => {
                    if let Ok(mut trailers) = frame.into_trailers() {
                        end_hop(&mut trailers);
                        return Poll::Ready(stream.send_trailers(trailers).map_err(Broken::Refused));
                    }
                }
            }
        }
    }

    fn look_ahead(&mut self, cx: &mut Context<'_>) {
        if self.ahead.is_none() {
            self.ahead = match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(frame) => Some(frame),
                Poll::Pending => None,
            };
        }
    }

    /// Sends what there is room for of the chunk. True: that was the end of the answer.
    fn poll_send(
        &mut self,
        stream: &mut SendStream<Bytes>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<bool, Broken>> {
        stream.reserve_capacity(self.chunk.len());
        let room = match stream.capacity() {
            0 => match stream.poll_capacity(cx) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(_) => return Poll::Ready(Err(Broken::Gone)),
                Poll::Pending => {
                    let since = *self.blocked_since.get_or_insert_with(Instant::now);
                    let stalled = self.timer.poll_until(since + self.limit, cx);
                    return stalled.map(|()| Err(Broken::Stalled));
                }
            },
            room => room,
        };
        self.blocked_since = None;
        let part = self.chunk.split_to(room.min(self.chunk.len()));
        let last = !self.chunk.has_remaining() && matches!(self.ahead, Some(None));
        Poll::Ready(stream.send_data(part, last).map(|()| last).map_err(Broken::Refused))
    }
}
