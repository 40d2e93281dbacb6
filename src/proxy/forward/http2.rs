//! A request on a stream of an HTTP/2 connection to a server.
//!
//! ```text
//!            head ──►         ┌─ interim answers, head ◄── RecvStream ──► the answer's body
//! request ─┤      SendStream ┤
//!            body ──►         └─ polled with the head; what is left then goes on in a task of its own
//! ```

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::{Reason, RecvStream, SendStream};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use tokio::task::spawn_local;
use tokio::time::Instant;

use super::Sent;
use crate::proxy::body::{self, FromServer, Http2Body, RequestBody};
use crate::proxy::error::{Cause, Error};
use crate::proxy::upstream::http2::Lease;
use crate::proxy::{Exchange, Interim, headers};
use crate::timer::Timer;

/// How many interim answers are passed on for one request; more are dropped.
const MAX_INTERIM: usize = 16;

impl Exchange {
    pub(super) async fn send_http2(
        &self,
        lease: Lease,
        request: Request<Box<RequestBody>>,
        interim: &dyn Interim,
    ) -> Result<Sent, Error> {
        self.upload.begin();
        let (parts, body) = request.into_parts();
        if parts.method == Method::CONNECT {
            // A tunnel takes a connection of its own.
            return Err(Error::Connect);
        }
        // A server may say that it has not processed the request: then the head is needed again.
        let mut head = Request::from_parts(parts.clone(), ());
        headers::prepare_http2(&mut head, lease.is_tls())?;
        let is_whole = body.is_end_stream();
        let mark = lease.writes();
        let (answer, sending) = match lease.send(head, is_whole) {
            Ok(streams) => streams,
            Err(cause) => {
                let request = Request::from_parts(parts, body);
                lease.retire();
                return Ok(Sent::Refused(
                    Box::new(request),
                    Error::Refused(lease.server().clone(), cause.into()),
                ));
            }
        };
        let mut upload = Upload { body, stream: sending, chunk: Bytes::new(), ended: is_whole };
        let head = Head { answer, interim, passed: 0 };
        let Some(result) = self.within_response_timeout(pin!(both(&mut upload, head)), interim).await else {
            return Err(Error::Silent(lease.server().clone()));
        };
        match result {
            Ok(response) => {
                Ok(Sent::Answered(answered(response, upload, lease, self.client.proxy.stall_timeout)))
            }
            Err(Failed::Client(cause)) => Err(Error::RequestBody(cause)),
            Err(Failed::Server(error)) => {
                let is_refused = is_unprocessed(&error) || error.is_io() && lease.nothing_written_since(mark);
                if is_refused {
                    lease.retire();
                    let error = Error::Refused(lease.server().clone(), error.into());
                    return match upload.body.is_untouched() {
                        true => Ok(Sent::Refused(Box::new(Request::from_parts(parts, upload.body)), error)),
                        false => Err(error),
                    };
                }
                Err(classify(&lease, error))
            }
        }
    }
}

/// Whether the server has said that it has not looked at the request (RFC 9113, section 8.7). Of a GOAWAY only
/// those streams hear that come after the last one that it names.
fn is_unprocessed(error: &h2::Error) -> bool {
    error.is_remote()
        && (error.is_go_away() || error.is_reset() && error.reason() == Some(Reason::REFUSED_STREAM))
}

fn classify(lease: &Lease, error: h2::Error) -> Error {
    let server = lease.server().clone();
    if let Some(failure) = lease.tls_failure() {
        Error::Tls(server, failure)
    } else if error.is_reset() && error.is_remote() {
        Error::Reset(server, error)
    } else if error.is_library() {
        Error::Malformed(server, error.into())
    } else {
        Error::ClosedEarly(server, error.into())
    }
}

fn answered(
    response: Response<RecvStream>,
    upload: Upload,
    lease: Lease,
    stall_timeout: Duration,
) -> Response<FromServer> {
    let lease = Rc::new(lease);
    let upload = (!upload.ended).then(|| {
        let lease = lease.clone();
        // The client may take the answer slowly, or not at all before it has sent everything.
        let task = spawn_local(async move {
            let (mut upload, mut timer) = (upload, Timer::default());
            // The stream is open as long as one of the two sides is.
            let is_answered = || Rc::strong_count(&lease) == 1;
            poll_fn(|cx| upload.poll_to_end(&is_answered, &mut timer, stall_timeout, cx)).await;
            drop(upload);
        });
        task.abort_handle()
    });
    let (head, stream) = response.into_parts();
    let body = Http2Body::new(stream, &head.headers, upload, lease);
    Response::from_parts(head, FromServer::Http2(body))
}

/// Who is to blame.
enum Failed {
    Client(Cause),
    Server(h2::Error),
}

/// Sends the body until the head of the answer is there.
async fn both(upload: &mut Upload, mut head: Head<'_>) -> Result<Response<RecvStream>, Failed> {
    poll_fn(|cx| {
        if let Poll::Ready(response) = head.poll(upload.body.upload(), cx) {
            return Poll::Ready(response.map_err(Failed::Server));
        }
        if let Poll::Ready(Err(cause)) = upload.poll(cx) {
            upload.stream.send_reset(Reason::CANCEL);
            return Poll::Ready(Err(Failed::Client(cause)));
        }
        Poll::Pending
    })
    .await
}

struct Head<'e> {
    answer: ResponseFuture,
    interim: &'e dyn Interim,
    /// How many interim answers there were.
    passed: usize,
}

impl Head<'_> {
    fn poll(
        &mut self,
        upload: &body::Upload,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<RecvStream>, h2::Error>> {
        while let Poll::Ready(Some(Ok(mut response))) = self.answer.poll_informational(cx) {
            self.passed += 1;
            match response.status() {
                StatusCode::CONTINUE => upload.admit(),
                // There is no such thing in HTTP/2 (RFC 9113, section 8.6).
                StatusCode::SWITCHING_PROTOCOLS => {}
                _ if self.passed <= MAX_INTERIM => {
                    *response.version_mut() = Version::HTTP_11;
                    headers::end_hop(response.headers_mut());
                    self.interim.send(response);
                }
                _ => {}
            }
        }
        Pin::new(&mut self.answer).poll(cx)
    }
}

/// The request's body on its way.
struct Upload {
    body: Box<RequestBody>,
    stream: SendStream<Bytes>,
    /// What the server does not take yet.
    chunk: Bytes,
    /// Whether there is nothing to be done any more.
    ended: bool,
}

impl Upload {
    /// Ready at the end, and when the server wants no more. An error is the client's.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        if self.ended {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.poll_open(cx));
        self.ended = true;
        Poll::Ready(result)
    }

    fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Cause>> {
        loop {
            if self.stream.poll_reset(cx).is_ready() {
                // Why, the other half of the stream tells.
                return Poll::Ready(Ok(()));
            }
            if self.body.poll_stopped(cx) {
                return Poll::Ready(Err("the answer was complete before the request".into()));
            }
            // Without room for one byte the client is not asked for more, and is not waited for.
            self.stream.reserve_capacity(self.chunk.len().max(1));
            let room = self.stream.capacity();
            if room == 0 {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(Ok(_)) => continue,
                    None | Some(Err(_)) => return Poll::Ready(Ok(())),
                }
            }
            if !self.chunk.is_empty() {
                let part = self.chunk.split_to(room.min(self.chunk.len()));
                let is_last = self.chunk.is_empty() && self.body.is_end_stream();
                self.body.upload().advance();
                if self.stream.send_data(part, is_last).is_err() || is_last {
                    return Poll::Ready(Ok(()));
                }
                continue;
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.chunk = data,
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            // A stream that was reset meanwhile needs none.
                            self.stream.send_trailers(trailers).ok();
                            return Poll::Ready(Ok(()));
                        }
                    }
                },
                Some(Err(cause)) => return Poll::Ready(Err(cause)),
                None => {
                    self.stream.send_data(Bytes::new(), true).ok();
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// Goes on once the answer has begun. The client's clock is kept by the server side; the server's is here,
    /// and runs once it has answered in full.
    fn poll_to_end(
        &mut self,
        is_answered: &dyn Fn() -> bool,
        timer: &mut Timer,
        stall_timeout: Duration,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        match self.poll(cx) {
            Poll::Ready(Ok(())) => return Poll::Ready(()),
            // The server must not take what it has for the whole.
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                let upload = self.body.upload();
                let is_late = is_answered() && !upload.awaits_client();
                let since = if is_late { upload.advanced() } else { Instant::now() };
                ready!(timer.poll_until(since + stall_timeout, cx));
            }
        }
        self.stream.send_reset(Reason::CANCEL);
        Poll::Ready(())
    }
}
