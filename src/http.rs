//! One request, one answer: HTTP/1 as the control socket and the admin listener speak it.
//!
//! Every answer carries `Connection: close`. A connection that was kept would go on being answered by the
//! process that accepted it, long after an upgrade.

mod patient;

use std::cell::{Cell, RefCell};
use std::convert::Infallible;
use std::future::{Future, pending};
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use tokio::time::{sleep, timeout};

use crate::restart::Stream;
use patient::Patient;

/// How many connections of one listener may be open; one more is told so, whatever it asks.
const MAX_CONNECTIONS: usize = 64;
/// How many may be open with those that are told so; one more is closed at once.
const MAX_WITH_REFUSED: usize = 2 * MAX_CONNECTIONS;
/// How long a client may take from connecting to the end of its request's head.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a client may take nothing of its answer.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the answers that are being given hold up the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);
/// The most that is read of a request's head, in bytes. Bodies mean nothing here and are not read.
const MAX_HEAD: usize = 16 * 1024;

/// The connections of one listener.
#[derive(Debug, Default)]
pub(crate) struct Connections {
    open: Cell<usize>,
    /// Those whose request is being answered.
    busy: Cell<usize>,
    /// Whether the log has it that there are too many; until there are half as many.
    crowded: Cell<bool>,
    at_rest: Notify,
}

/// Counts one for as long as it lives.
struct Counted<'a> {
    count: &'a Cell<usize>,
    at_rest: Option<&'a Notify>,
}

impl<'a> Counted<'a> {
    fn new(count: &'a Cell<usize>, at_rest: Option<&'a Notify>) -> Self {
        count.set(count.get() + 1);
        Counted { count, at_rest }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
        if let Some(at_rest) = self.at_rest {
            at_rest.notify_one();
        }
    }
}

impl Connections {
    /// Reads one request from `stream` and writes what `answer` makes of it.
    pub(crate) async fn serve<F>(&self, stream: Stream, answer: impl Fn(Request<Incoming>) -> F)
    where
        F: Future<Output = Response<Body>>,
    {
        let open = self.open.get();
        let refused = open >= MAX_CONNECTIONS;
        if refused && !self.crowded.replace(true) {
            tracing::warn!(
                limit = MAX_CONNECTIONS,
                "too many connections of operators to one listener; more are refused"
            );
        }
        self.crowded.set(self.crowded.get() && open >= MAX_CONNECTIONS / 2);
        if open >= MAX_WITH_REFUSED {
            return;
        }
        let _open = Counted::new(&self.open, None);
        // Until the connection has ended, so that an answer counts until it is written.
        let busy = RefCell::new(None);
        let service = service_fn(|request| {
            busy.replace(Some(Counted::new(&self.busy, Some(&self.at_rest))));
            let answer = (!refused).then(|| answer(request));
            async {
                Ok::<_, Infallible>(match answer {
                    Some(answer) => answer.await,
                    None => {
                        let error = format!(
                            "{MAX_CONNECTIONS} connections are open here, which is the most; ask again"
                        );
                        Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error).answer(&[])
                    }
                })
            }
        });
        let silence = async {
            sleep(REQUEST_TIMEOUT).await;
            if busy.borrow().is_some() {
                pending().await
            }
        };
        let mut http = http1::Builder::new();
        let stream = TokioIo::new(Patient::new(stream, STALL_TIMEOUT));
        let connection = http.keep_alive(false).max_buf_size(MAX_HEAD).serve_connection(stream, service);
        tokio::select! {
            result = pin!(connection) => if let Err(error) = result {
                tracing::debug!(%error, "a connection of an operator ended early");
            },
            () = silence => tracing::debug!("a connection of an operator said nothing and was closed"),
        }
    }

    /// Waits until every answer that is being given is written, for at most half a second.
    pub(crate) async fn finish(&self) {
        let at_rest = async {
            while self.busy.get() > 0 {
                self.at_rest.notified().await;
            }
        };
        if timeout(FINISH_TIMEOUT, at_rest).await.is_err() {
            tracing::debug!(answers = self.busy.get(), "the process ends before these are written");
        }
    }
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum Body {
    /// All of it; `None` once it is taken.
    Whole(Option<Bytes>),
    /// Piece by piece, until the sender is dropped.
    Pieces(mpsc::Receiver<Bytes>),
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let piece = match self.get_mut() {
            Body::Whole(bytes) => Poll::Ready(bytes.take()),
            Body::Pieces(pieces) => pieces.poll_recv(cx),
        };
        piece.map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Body::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Body::Whole(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Body::Pieces(_) => SizeHint::default(),
        }
    }
}

/// An answer that is a text of this content type.
pub(crate) fn text(status: StatusCode, content_type: &'static str, text: impl Into<Bytes>) -> Response<Body> {
    answer(status, content_type, Body::Whole(Some(text.into())))
}

/// An answer that is one JSON document.
pub(crate) fn json(status: StatusCode, document: &impl Serialize) -> Response<Body> {
    text(status, "application/json", json_line(document))
}

/// An answer of JSON documents, one a line, each sent when it is there.
pub(crate) fn lines(pieces: mpsc::Receiver<Bytes>) -> Response<Body> {
    answer(StatusCode::OK, "application/x-ndjson", Body::Pieces(pieces))
}

/// An answer of server-sent events (WHATWG HTML, section 9.2), each sent when it is there.
pub(crate) fn events(pieces: mpsc::Receiver<Bytes>) -> Response<Body> {
    answer(StatusCode::OK, "text/event-stream", Body::Pieces(pieces))
}

/// A JSON document that fits on one line, with the line's end.
pub(crate) fn json_line(document: &impl Serialize) -> Vec<u8> {
    // No map here has keys other than texts, so this cannot fail; if it did, the client would see no JSON.
    let mut line = serde_json::to_vec(document).unwrap_or_default();
    line.push(b'\n');
    line
}

/// Why a request is not answered as it was meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) error: String,
    /// The methods that would do, if it was the method.
    pub(crate) allow: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Refusal { status, error: error.into(), allow: None }
    }

    /// The answer, which also names what there is to ask for.
    pub(crate) fn answer(&self, endpoints: &[&str]) -> Response<Body> {
        #[derive(Serialize)]
        struct Document<'a> {
            error: &'a str,
            #[serde(skip_serializing_if = "<[_]>::is_empty")]
            endpoints: &'a [&'a str],
        }
        let mut response = json(self.status, &Document { error: &self.error, endpoints });
        if let Some(allow) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(allow));
        }
        response
    }
}

fn answer(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// A server for tests: `serve` gets what a connection to it carries.
#[cfg(test)]
pub(crate) fn connected() -> (tokio::net::UnixStream, Stream) {
    let (client, server) = tokio::net::UnixStream::pair().unwrap();
    (client, Stream::Unix(server))
}

/// What a server answers to `request`, all of it.
#[cfg(test)]
pub(crate) async fn exchange(
    request: &str,
    serve: impl FnOnce(Stream) -> Pin<Box<dyn Future<Output = ()>>>,
) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let (mut client, server) = connected();
    let talk = async {
        client.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    tokio::join!(talk, serve(server)).0
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::LocalSet;

    use super::*;

    async fn hello(_: Request<Incoming>) -> Response<Body> {
        text(StatusCode::OK, "text/plain", "hello")
    }

    fn serve(connections: &Rc<Connections>, stream: Stream) -> Pin<Box<dyn Future<Output = ()>>> {
        let connections = connections.clone();
        Box::pin(async move { connections.serve(stream, hello).await })
    }

    #[tokio::test]
    async fn every_answer_is_the_last_of_its_connection() {
        let connections = Rc::new(Connections::default());
        let request = "GET / HTTP/1.1\r\nHost: exuvia\r\n\r\nGET / HTTP/1.1\r\nHost: exuvia\r\n\r\n";
        let answer = exchange(request, |stream| serve(&connections, stream)).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.contains("connection: close\r\n") && answer.ends_with("hello"), "{answer}");
        assert_eq!(answer.matches("hello").count(), 1, "{answer}");
        assert_eq!((connections.open.get(), connections.busy.get()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_says_nothing_is_let_go() {
        let connections = Rc::new(Connections::default());
        for beginning in ["", "GET / HTTP/1.1\r\nHost: ex"] {
            let answer = exchange(beginning, |stream| serve(&connections, stream)).await;
            assert_eq!(answer, "");
            assert_eq!(connections.open.get(), 0);
        }
    }

    #[tokio::test]
    async fn what_is_no_http_is_refused() {
        let connections = Rc::new(Connections::default());
        let answer = exchange("HELO exuvia\r\n\r\n", |stream| serve(&connections, stream)).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(2 * MAX_HEAD));
        let (mut client, server) = connected();
        let talk = async {
            client.write_all(long.as_bytes()).await.ok();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.ok();
            answer
        };
        let (answer, ()) = tokio::join!(talk, connections.serve(server, hello));
        assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    }

    #[tokio::test]
    async fn one_connection_too_many_is_refused_and_too_many_more_are_closed() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let connections = Rc::new(Connections::default());
                let mut clients = Vec::new();
                let mut open = async |count: usize| {
                    while clients.len() < count {
                        let (client, server) = connected();
                        clients.push(client);
                        tokio::task::spawn_local(serve(&connections, server));
                    }
                    // Each task must have run once.
                    while connections.open.get() < count {
                        tokio::task::yield_now().await;
                    }
                };
                let request = "GET / HTTP/1.1\r\nHost: exuvia\r\n\r\n";
                open(MAX_CONNECTIONS - 1).await;
                let answer = exchange(request, |stream| serve(&connections, stream)).await;
                assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
                open(MAX_CONNECTIONS).await;
                let answer = exchange(request, |stream| serve(&connections, stream)).await;
                assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("64 connections"), "{answer}");
                open(MAX_WITH_REFUSED).await;
                assert_eq!(exchange("", |stream| serve(&connections, stream)).await, "");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_waits_for_the_answers_and_not_for_silence() {
        let local = LocalSet::new();
        local
            .run_until(async {
                let connections = Rc::new(Connections::default());
                let (_silent, server) = connected();
                tokio::task::spawn_local(serve(&connections, server));
                tokio::task::yield_now().await;
                connections.finish().await;

                let (pieces, receiver) = mpsc::channel(1);
                let receiver = RefCell::new(Some(receiver));
                let (mut client, server) = connected();
                let serving = connections.clone();
                tokio::task::spawn_local(async move {
                    serving.serve(server, |_| async { lines(receiver.take().unwrap()) }).await;
                });
                client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
                let mut head = [0; 16];
                client.read_exact(&mut head).await.unwrap();

                let end = async {
                    pieces.send(Bytes::from_static(b"{\"last\":true}\n")).await.unwrap();
                    drop(pieces);
                    connections.finish().await;
                    assert_eq!(connections.busy.get(), 0);
                };
                let mut rest = String::new();
                let read = client.read_to_string(&mut rest);
                tokio::join!(end, async { read.await.unwrap() });
                assert!(rest.contains("{\"last\":true}\n") && rest.ends_with("0\r\n\r\n"), "{rest}");
            })
            .await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_end_does_not_wait_for_ever() {
        let connections = Connections::default();
        let _busy = Counted::new(&connections.busy, Some(&connections.at_rest));
        let begun = tokio::time::Instant::now();
        connections.finish().await;
        assert_eq!(begun.elapsed(), FINISH_TIMEOUT);
    }
}
