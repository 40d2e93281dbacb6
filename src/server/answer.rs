//! What the server side adds to an answer: the word that the connection closes, and the count of what is in
//! flight.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::stream::Notes;
use crate::proxy::{self, BodyError, ClientBody, Exchange, Interim};
use crate::restart::Guard;

/// Answers one request of a connection.
///
/// hyper does not tell whether a connection is at rest: here requests are counted in, and the body of the
/// answer counts them out, wherever it is dropped.
pub(super) fn answer<'c>(
    exchange: &'c Exchange,
    guard: &'c Guard,
    notes: &Rc<Notes>,
    request: Request<Incoming>,
) -> impl Future<Output = Result<Response<Answer>, Infallible>> + use<'c> {
    let flight = Flight::begin(notes.clone());
    let version = request.version();
    async move {
        let answer = exchange.answer(request.map(ClientBody::from), &Queue(&flight.0)).await;
        // hyper writes the head as soon as it gets it, and that must not overtake what came before.
        poll_fn(|_| match flight.0.interim.borrow().0.is_empty() {
            true => Poll::Ready(()),
            // The one who writes it wakes this task.
            false => Poll::Pending,
        })
        .await;
        let response = match answer {
            proxy::Answer::Response(mut response) => {
                // As late as can be: hyper writes the head next.
                let closing = guard.drain().is_some();
                announce(&mut response, version, closing, &flight.0);
                response
            }
            proxy::Answer::Tunnel(response, upstream) => {
                flight.0.tunnel.replace(Some(Box::new(upstream)));
                response.map(|()| proxy::Body::empty())
            }
        };
        flight.0.answer_begun.set(true);
        Ok(response.map(|body| Answer { body, _flight: flight }))
    }
}

/// The most of interim answers that waits to be written, in bytes. What is more is dropped, as a proxy may
/// (RFC 9110, section 15.2).
const MAX_INTERIM: usize = 64 * 1024;

/// Interim answers on their way to the client.
struct Queue<'n>(&'n Notes);

impl Interim for Queue<'_> {
    fn send(&self, response: Response<()>) {
        let (bytes, _) = &mut *self.0.interim.borrow_mut();
        let before = bytes.len();
        let status = response.status();
        bytes.extend_from_slice(b"HTTP/1.1 ");
        bytes.extend_from_slice(status.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(status.canonical_reason().unwrap_or_default().as_bytes());
        bytes.extend_from_slice(b"\r\n");
        // Neither a name nor a value can hold the end of a line.
        for (name, value) in response.headers() {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
        bytes.extend_from_slice(b"\r\n");
        if bytes.len() > MAX_INTERIM {
            bytes.truncate(before);
        }
    }
}

/// Says `Connection: close` where the connection ends with this answer.
fn announce(response: &mut Response<proxy::Body>, version: Version, closing: bool, notes: &Notes) {
    let body = response.body();
    let close_delimited =
        version == Version::HTTP_10 && !body.is_end_stream() && body.size_hint().exact().is_none();
    notes.close_delimited.set(close_delimited);
    if closing || close_delimited {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if version == Version::HTTP_10 && response.headers().contains_key(header::CONNECTION) {
        // hyper would add "keep-alive" to it, if the client had asked for that, but not to an answer that says
        // it is HTTP/1.0.
        *response.version_mut() = Version::HTTP_10;
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(super) struct Answer {
    body: proxy::Body,
    _flight: Flight,
}

/// A request that is being answered, until this is dropped.
#[derive(Debug)]
struct Flight(Rc<Notes>);

impl Flight {
    fn begin(notes: Rc<Notes>) -> Self {
        debug_assert!(!notes.in_flight.get(), "HTTP/1 has one answer at a time");
        notes.in_flight.set(true);
        notes.had_request.set(true);
        notes.head_begun.set(false);
        notes.answer_begun.set(false);
        notes.heads_ahead.set(notes.heads_ahead.get().saturating_sub(1));
        Flight(notes)
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.0.in_flight.set(false);
        self.0.head_begun.set(false);
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
