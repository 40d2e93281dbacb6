//! The admin listener: whether this process lives and is ready, what all generations count, and a page to look at, over
//! TCP. Nothing can be changed here.
//!
//! | endpoint | answer |
//! |---|---|
//! | `GET /` | the status page to a browser, a line of text to others |
//! | `GET /status.json` | an [`Overview`](crate::overview::Overview) |
//! | `GET /events` | the same again and again, as server-sent events |
//! | `GET /livez`, `GET /readyz` | whether this process lives, and accepts connections |
//! | `GET /metrics` | for Prometheus |
//!
//! Each answer says which generation gives it, so that a check of the new process cannot be answered by the
//! old one unnoticed, and closes its connection, so that the next check reaches whoever serves then. So do events: they
//! end when another generation accepts.

mod page;

use std::rc::Rc;

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::sync::Semaphore;
use tokio::sync::mpsc;
use tokio::task::{spawn_blocking, spawn_local};

use crate::http::{Body, Connections, Refusal, events, json, text};
use crate::metrics::{Exposition, Format};
use crate::overview::{Observer, Place};
use crate::restart::{Phase, Stream, Viewer};
use page::Page;

/// What there is to ask for.
const ENDPOINTS: &[&str] =
    &["GET /", "GET /events", "GET /livez", "GET /metrics", "GET /readyz", "GET /status.json"];

/// When one whose events have ended asks again, in milliseconds. Another generation accepts already.
const RETRY_MS: u32 = 500;

/// Which process answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its generation.
    pub generation: u32,
    /// The version of its program.
    pub version: String,
}

/// Answers on the admin listener. Lives on the control thread, in its `LocalSet`.
#[derive(Debug)]
pub struct AdminServer {
    desk: Rc<Desk>,
    connections: Rc<Connections>,
}

/// What answers are made of.
#[derive(Debug)]
struct Desk {
    viewer: Viewer,
    identity: Identity,
    exposition: Exposition,
    /// The metrics are written down once at a time: it is work, and anybody may ask.
    writing: Semaphore,
    observer: Rc<Observer>,
    place: Place,
    page: Page,
}

/// The body of a health check's answer.
#[derive(Debug, Serialize)]
struct Health<'a> {
    /// Whether new connections are wanted.
    ready: bool,
    generation: u32,
    pid: u32,
    version: &'a str,
    phase: Phase,
}

impl AdminServer {
    /// A server at `place` that looks at `viewer` for what the process is doing.
    pub fn new(
        viewer: Viewer,
        identity: Identity,
        exposition: Exposition,
        observer: Rc<Observer>,
        place: Place,
    ) -> Self {
        let desk = Desk {
            viewer,
            identity,
            exposition,
            writing: Semaphore::new(1),
            observer,
            place,
            page: Page::new(),
        };
        AdminServer { desk: Rc::new(desk), connections: Rc::default() }
    }

    /// Answers what is asked on one connection, in a task of its own. Must be called within a `LocalSet`.
    pub fn serve(&self, stream: Stream) {
        let (desk, connections) = (self.desk.clone(), self.connections.clone());
        spawn_local(async move {
            let answer = |request| {
                let desk = desk.clone();
                async move { desk.answer(&request).await }
            };
            connections.serve(stream, answer).await;
        });
    }

    /// Waits until every answer that is being given is written, for at most half a second. To be called when the driver
    /// has ended, so that events end in order.
    pub async fn finish(&self) {
        self.connections.finish().await;
    }
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        let phase = self.viewer.borrow().phase;
        match answer(request.method(), request.uri().path(), phase, &self.identity) {
            Answer::Ready(response) => response,
            Answer::Front(_) if page::wanted(request.headers()) => self.page.response(),
            Answer::Front(response) => response,
            Answer::Metrics => {
                // It is never closed.
                let _turn = self.writing.acquire().await;
                metrics(self.exposition.clone(), request.headers()).await
            }
            Answer::Overview => text(StatusCode::OK, "application/json", self.observer.look().await),
            Answer::Events if request.method() == Method::HEAD => {
                text(StatusCode::OK, "text/event-stream", "")
            }
            Answer::Events => self.events(),
        }
    }

    fn events(&self) -> Response<Body> {
        let Some(mut watcher) = self.observer.watch(self.place) else {
            let error = "too many watch already; /status.json has the same";
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error).answer(&[]);
        };
        let generation = self.identity.generation;
        // One at a time: what is not taken is not kept.
        let (pieces, receiver) = mpsc::channel(1);
        spawn_local(async move {
            let mut event = format!("retry: {RETRY_MS}\n\n").into_bytes();
            for number in 1_u64.. {
                // The one who watches may have gone.
                if pieces.send(Bytes::from(event)).await.is_err() {
                    return;
                }
                let Some(document) = watcher.next().await else { return };
                event = format!("id: {generation}.{number}\ndata: ").into_bytes();
                event.extend_from_slice(&document);
                event.extend_from_slice(b"\n\n");
            }
        });
        events(receiver)
    }
}

/// What is answered.
#[derive(Debug)]
enum Answer {
    Ready(Response<Body>),
    /// The front page, as it is for those who want no other.
    Front(Response<Body>),
    Metrics,
    Overview,
    Events,
}

/// What is counted, written down on another thread: this one is the driver's, and has more to do.
async fn metrics(exposition: Exposition, headers: &HeaderMap) -> Response<Body> {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let format = Format::wanted(accept);
    match spawn_blocking(move || exposition.render(format)).await {
        Ok(Ok(page)) => text(StatusCode::OK, format.content_type(), page),
        Ok(Err(error)) => failed(&error),
        Err(error) => failed(&error),
    }
}

fn failed(error: &dyn std::fmt::Display) -> Response<Body> {
    tracing::error!(%error, "the metrics cannot be written down");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).answer(&[])
}

fn answer(method: &Method, path: &str, phase: Phase, identity: &Identity) -> Answer {
    if !matches!(path, "/" | "/events" | "/livez" | "/metrics" | "/readyz" | "/status.json") {
        let error = format!("there is nothing at {path}");
        return Answer::Ready(Refusal::new(StatusCode::NOT_FOUND, error).answer(ENDPOINTS));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let error = format!("{path} takes GET, HEAD, not {method}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Answer::Ready(Refusal { status, error, allow: Some("GET, HEAD") }.answer(ENDPOINTS));
    }
    let Identity { generation, version } = identity;
    match path {
        "/" => {
            let page = format!(
                "exuvia {version}, generation {generation}: /livez (this process lives), /readyz (it accepts connections), /metrics (for Prometheus), /status.json and /events (what the page shows that a browser gets here)\n"
            );
            Answer::Front(text(StatusCode::OK, "text/plain; charset=utf-8", page))
        }
        "/metrics" => Answer::Metrics,
        "/status.json" => Answer::Overview,
        "/events" => Answer::Events,
        _ => {
            let ready = phase.is_ready();
            let health = Health { ready, generation: *generation, pid: std::process::id(), version, phase };
            let good = ready || path == "/livez";
            let status = if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            Answer::Ready(json(status, &health))
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn identity() -> Identity {
        Identity { generation: 3, version: "0.1.0".into() }
    }

    async fn ask(method: Method, path: &str, phase: Phase) -> (u16, String) {
        let (Answer::Ready(response) | Answer::Front(response)) = answer(&method, path, phase, &identity())
        else {
            panic!("{path} takes a while")
        };
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes();
        (head.status.as_u16(), String::from_utf8(body.into()).unwrap())
    }

    #[tokio::test]
    async fn readiness_follows_the_phase_and_names_the_generation() {
        for (phase, expected) in [
            (Phase::Starting, 503),
            (Phase::Candidate, 200),
            (Phase::Serving, 200),
            (Phase::Upgrading, 200),
            (Phase::Probation, 503),
            (Phase::RolledBack, 503),
            (Phase::LameDuck, 503),
            (Phase::Draining, 503),
        ] {
            let (status, body) = ask(Method::GET, "/readyz", phase).await;
            assert_eq!(status, expected, "{phase:?}");
            let body: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!((&body["generation"], &body["version"]), (&3.into(), &"0.1.0".into()));
            assert_eq!(body["phase"], phase.as_str());
            assert_eq!(body["pid"], std::process::id());
            assert_eq!(body["ready"], expected == 200);
            assert_eq!(ask(Method::GET, "/livez", phase).await.0, 200, "{phase:?}");
        }
    }

    #[tokio::test]
    async fn nothing_can_be_changed() {
        for path in ["/", "/events", "/livez", "/metrics", "/readyz", "/status.json"] {
            for method in [Method::POST, Method::PUT, Method::DELETE, Method::OPTIONS] {
                assert_eq!(ask(method, path, Phase::Serving).await.0, 405, "{path}");
            }
        }
        let (status, body) = ask(Method::POST, "/v1/upgrade", Phase::Serving).await;
        assert_eq!(status, 404);
        assert!(body.contains("/readyz"), "{body}");
    }

    #[tokio::test]
    async fn the_front_page_says_what_is_there() {
        let (status, body) = ask(Method::GET, "/", Phase::Serving).await;
        assert_eq!(status, 200);
        assert!(
            body.contains("generation 3") && body.contains("/livez") && body.contains("/readyz"),
            "{body}"
        );
    }
}
