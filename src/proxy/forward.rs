//! A request's way to a server, and its answer's way back.
//!
//! A request is sent again in three cases only, and never if the client would have to say anything again:
//!
//! - Nothing of it has left this process: the connection was dead.
//! - A kept HTTP/1 connection ends with it: most likely the server had closed it already. Only where it does not
//!   matter how often the server is asked (RFC 9110, section 9.2.2), and once, on a new connection.
//! - An HTTP/2 server has said that it has not processed it.

mod http2;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use tokio::time::Instant;

use super::body::{Body, FromServer, RequestBody, Silence};
use super::error::{Error, TlsFailure};
use super::headers::Asked;
use super::identity::{X_REQUEST_ID, log_request};
use super::tunnel::{self, Wish};
use super::upstream::{Lease, Retry, ServerAddr, http1};
use super::{Answer, ClientBody, Exchange, Interim, headers};

/// How often one request is sent again because a server has not processed it.
const MAX_RETRIES: usize = 2;

/// How long a server may take to ask for a body that the client holds back for it. There are servers that
/// never do (RFC 9110, section 10.1.1).
const CONTINUE_TIMEOUT: Duration = Duration::from_secs(1);

impl Exchange {
    /// Turns what a client sent into what a server gets. Not part of [`Exchange::forward`]: in an `async fn` each
    /// request would be moved around as often again.
    pub(super) fn prepare(
        &self,
        mut request: Request<ClientBody>,
    ) -> Result<(Request<Box<RequestBody>>, Option<Wish>), Error> {
        let is_1_0 = request.version() == Version::HTTP_10;
        let rules = &self.client.proxy.rules;
        let prepared = headers::prepare_request(&mut request, &self.client.forwarded, rules);
        if prepared.is_err() && !request.body().is_end_stream() {
            // Nobody reads it, so nothing can follow it.
            self.upload.hold();
        }
        let Asked { wish, expects } = prepared?;
        if self.client.proxy.sends_id {
            request.headers_mut().insert(X_REQUEST_ID, self.identity.id().to_value());
        }
        if !is_1_0 {
            // Older clients do not know of more than one answer.
            self.inbox.begin();
            self.inbox.attach(&mut request);
        }
        let request = request.map(|incoming| RequestBody::new(incoming, self.upload.clone()));
        if expects {
            self.upload.hold();
        }
        Ok((request, wish))
    }

    pub(super) async fn forward(
        &self,
        request: Request<Box<RequestBody>>,
        wish: Option<Wish>,
        interim: &dyn Interim,
    ) -> Result<Answer, Error> {
        let (mut response, server) = self.send_somewhere(request, wish.is_some(), interim).await?;
        let malformed = |cause: &'static str| Error::Malformed(server.clone(), cause.into());
        let granted = wish.filter(|wish| wish.is_granted(response.status()));
        if granted.is_none() && response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return Err(malformed("it switched protocols without being asked"));
        }
        let named = granted.as_ref().and_then(|_| tunnel::switched_to(response.headers()));
        headers::prepare_response(&mut response).map_err(malformed)?;
        if let Some(wish) = granted {
            let (head, source) = response.into_parts();
            let mut response = Response::from_parts(head, ());
            response.extensions_mut().clear();
            wish.grant(&mut response, named.as_deref()).map_err(malformed)?;
            let lease = source.into_connection();
            let lease = lease.ok_or_else(|| malformed("it switched protocols on a stream of HTTP/2"))?;
            return self.tunnel(response, lease, interim).await;
        }
        let status = response.status();
        let is_shut = (status.is_client_error() || status.is_server_error()) && self.upload.shut();
        if is_shut {
            // The client may never send the body, or send it all the same: where its next request begins, nobody
            // can tell.
            close(response.headers_mut());
        } else if self.upload.held_since().is_some() {
            // It begins its answer, such as an echo, before it reads. The client hears that it is to send the
            // body when that is first read, and only before the answer.
            self.upload.admit();
            let read = poll_fn(|cx| self.upload.poll_read_from(cx));
            if self.within_response_timeout(pin!(read), interim).await.is_none() {
                return Err(Error::Silent(server.clone()));
            }
        }
        Ok(Answer::Response(response.map(|source| {
            let limit = self.client.proxy.stall_timeout;
            let shut = is_shut.then(|| self.upload.clone());
            Body::upstream(source, Silence { timer: self.timer.clone(), limit, since: None, shut })
        })))
    }

    async fn tunnel(
        &self,
        response: Response<()>,
        lease: http1::Lease,
        interim: &dyn Interim,
    ) -> Result<Answer, Error> {
        let server = lease.server().clone();
        match self.within_response_timeout(pin!(lease.into_tunnel()), interim).await {
            Some(Some(stream)) => Ok(Answer::Tunnel(response, stream)),
            Some(None) => Err(Error::ClosedEarly(server, "right behind its answer".into())),
            None => Err(Error::Silent(server)),
        }
    }

    /// Sends the request to the first server that can be reached.
    async fn send_somewhere(
        &self,
        mut request: Request<Box<RequestBody>>,
        may_tunnel: bool,
        interim: &dyn Interim,
    ) -> Result<(Response<FromServer>, &ServerAddr), Error> {
        let mut last = Error::NoServer;
        let mut retries = 0;
        let turns = &self.client.proxy.turns;
        for server in turns.next() {
            let mut may_be_kept = true;
            loop {
                let kept = if may_be_kept { server.idle(may_tunnel) } else { None };
                let (lease, is_fresh) = match kept {
                    Some(lease) => (lease, false),
                    None => match server.connect(may_tunnel, self.client.ends).await {
                        Ok(lease) => {
                            turns.connected(server);
                            (lease, true)
                        }
                        Err(error) => {
                            turns.failed(server, &error);
                            last = error;
                            break;
                        }
                    },
                };
                server.metrics().sent(!is_fresh);
                let sent_at = Instant::now();
                let sent = match lease {
                    // Not a function: its future would be moved around with the request in it.
                    Lease::Http1(mut lease) => {
                        let again = if is_fresh { None } else { Replay::of(&request) };
                        if may_tunnel {
                            lease.claim();
                        }
                        // What came before, such as a slow connect, is not the server's silence.
                        self.upload.begin();
                        let sending = pin!(lease.sender.try_send_request(request));
                        match self.within_response_timeout(sending, interim).await {
                            Some(result) => sent_http1(lease, result, again)?,
                            None => return Err(Error::Silent(lease.server().clone())),
                        }
                    }
                    // Boxed: HTTP/1 need not carry room for it.
                    Lease::Http2(lease) => Box::pin(self.send_http2(lease, request, interim)).await?,
                };
                match sent {
                    Sent::Answered(response) => {
                        turns.answered(server);
                        server.metrics().answered(response.status(), sent_at);
                        return Ok((response, server.address()));
                    }
                    Sent::Unsent(unsent, error) => {
                        (request, last) = (*unsent, error);
                        if is_fresh {
                            break;
                        }
                        server.metrics().retry(Retry::Unsent);
                    }
                    Sent::Lost(again, error) => {
                        log_request!(debug, self.identity, %error, "a request is sent again on a new connection");
                        server.metrics().retry(Retry::Lost);
                        (request, may_be_kept) = (self.replay(*again), false);
                    }
                    Sent::Refused(refused, error) => {
                        if retries == MAX_RETRIES {
                            return Err(error);
                        }
                        retries += 1;
                        server.metrics().retry(Retry::Refused);
                        log_request!(debug, self.identity, %error, retries, "a request is sent again");
                        request = *refused;
                    }
                }
            }
        }
        Err(last)
    }

    fn replay(&self, replay: Replay) -> Request<Box<RequestBody>> {
        let Replay { method, uri, fields, is_informed } = replay;
        let mut request = Request::new(RequestBody::new(ClientBody::empty(), self.upload.clone()));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().extend(fields);
        if is_informed {
            self.inbox.attach(&mut request);
        }
        request
    }

    /// `None` when the server has said nothing for too long after it took the last of the request. While it
    /// waits for the client it is not silent; that clock is kept by the server side.
    async fn within_response_timeout<T>(
        &self,
        mut sending: Pin<&mut impl Future<Output = T>>,
        interim: &dyn Interim,
    ) -> Option<T> {
        let limit = self.client.proxy.response_timeout;
        poll_fn(|cx| {
            let result = sending.as_mut().poll(cx);
            // They came before it.
            self.pass_on(interim, cx);
            if let Poll::Ready(result) = result {
                return Poll::Ready(Some(result));
            }
            let mut timer = self.timer.borrow_mut();
            if let Some(since) = self.upload.held_since() {
                if timer.poll_until(since + CONTINUE_TIMEOUT, cx).is_pending() {
                    return Poll::Pending;
                }
                self.upload.admit();
            }
            let since = if self.upload.awaits_client() { Instant::now() } else { self.upload.advanced() };
            timer.poll_until(since + limit, cx).map(|()| None)
        })
        .await
    }

    fn pass_on(&self, interim: &dyn Interim, cx: &Context<'_>) {
        for response in self.inbox.take(cx) {
            if response.status() == StatusCode::CONTINUE {
                // The client hears it from the one that reads its body.
                self.upload.admit();
            } else {
                interim.send(response);
            }
        }
    }
}

/// What became of a request on this connection. `again` is the request once more, where that may be sent if the
/// connection ends.
fn sent_http1(
    lease: http1::Lease,
    result: Result<Response<Incoming>, TrySendError<Request<Box<RequestBody>>>>,
    again: Option<Replay>,
) -> Result<Sent, Error> {
    match result {
        Ok(response) => Ok(Sent::Answered(response.map(|incoming| FromServer::Http1(incoming, Some(lease))))),
        Err(mut failure) => {
            let unsent = failure.take_message();
            let error = classify(lease.server(), failure);
            match (unsent, again) {
                (Some(request), _) => Ok(Sent::Unsent(Box::new(request), error)),
                (None, Some(again)) if matches!(error, Error::ClosedEarly(..)) => {
                    Ok(Sent::Lost(Box::new(again), error))
                }
                (None, _) => Err(error),
            }
        }
    }
}

/// What it takes to make a request once more. It is seldom needed, so it is no more than that: to clone a whole
/// request costs twice as much.
struct Replay {
    method: Method,
    uri: Uri,
    fields: Vec<(HeaderName, HeaderValue)>,
    is_informed: bool,
}

impl Replay {
    /// Of a request that has no body and may be repeated (RFC 9110, section 9.2.2).
    fn of(request: &Request<Box<RequestBody>>) -> Option<Replay> {
        let again = || Replay {
            method: request.method().clone(),
            uri: request.uri().clone(),
            fields: request.headers().iter().map(|(name, value)| (name.clone(), value.clone())).collect(),
            is_informed: !request.extensions().is_empty(),
        };
        (request.method().is_idempotent() && request.body().is_end_stream()).then(again)
    }
}

/// Says that nothing can follow on the client's connection.
pub(super) fn close(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

/// What became of a request. Those that are to be sent again are boxed: the answer need not carry room for them.
enum Sent {
    Answered(Response<FromServer>),
    /// Nothing of it has left this process.
    Unsent(Box<Request<Box<RequestBody>>>, Error),
    /// The connection has ended with it, and it may be sent again.
    Lost(Box<Replay>, Error),
    /// The server has not processed it, and said so.
    Refused(Box<Request<Box<RequestBody>>>, Error),
}

fn classify(server: &ServerAddr, failure: TrySendError<Request<Box<RequestBody>>>) -> Error {
    let error = failure.into_error();
    if error.is_user() {
        // The only thing of ours that can fail there is the request's body.
        Error::RequestBody(error.into())
    } else if error.is_parse() {
        Error::Malformed(server.clone(), error.into())
    } else if let Some(failure) = TlsFailure::within(&error) {
        Error::Tls(server.clone(), failure)
    } else {
        Error::ClosedEarly(server.clone(), error.into())
    }
}
