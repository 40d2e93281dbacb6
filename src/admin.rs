//! The admin listener: whether this process lives and is ready, and what all generations count, over TCP. Nothing can
//! be changed here.
//!
//! Each answer says which generation gives it, so that a check of the new process cannot be answered by the
//! old one unnoticed, and closes its connection, so that the next check reaches whoever serves then.

use std::rc::Rc;

use http::header::ACCEPT;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;
use tokio::task::{spawn_blocking, spawn_local};

use crate::http::{Body, Connections, Refusal, json, text};
use crate::metrics::{Exposition, Format};
use crate::restart::{Phase, Stream, Viewer};

/// What there is to ask for.
const ENDPOINTS: &[&str] = &["GET /livez", "GET /metrics", "GET /readyz"];

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
    viewer: Viewer,
    identity: Rc<Identity>,
    exposition: Exposition,
    connections: Rc<Connections>,
}

/// The body of a health check's answer.
#[derive(Debug, Serialize)]
struct Health<'a> {
    /// Whether new connections are accepted.
    ready: bool,
    generation: u32,
    pid: u32,
    version: &'a str,
    phase: Phase,
}

impl AdminServer {
    /// A server that looks at `viewer` for what the process is doing.
    pub fn new(viewer: Viewer, identity: Rc<Identity>, exposition: Exposition) -> Self {
        AdminServer { viewer, identity, exposition, connections: Rc::default() }
    }

    /// Answers what is asked on one connection, in a task of its own. Must be called within a `LocalSet`.
    pub fn serve(&self, stream: Stream) {
        let (viewer, identity) = (self.viewer.clone(), self.identity.clone());
        let (connections, exposition) = (self.connections.clone(), self.exposition.clone());
        spawn_local(async move {
            let answer = |request: Request<Incoming>| {
                let phase = viewer.borrow().phase;
                let answer = answer(request.method(), request.uri().path(), phase, &identity);
                let exposition = exposition.clone();
                async move {
                    match answer {
                        Ok(answer) => answer,
                        Err(Metrics) => metrics(exposition, request.headers()).await,
                    }
                }
            };
            connections.serve(stream, answer).await;
        });
    }
}

/// The answer takes a while.
struct Metrics;

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

fn answer(method: &Method, path: &str, phase: Phase, identity: &Identity) -> Result<Response<Body>, Metrics> {
    if !matches!(path, "/" | "/livez" | "/metrics" | "/readyz") {
        let error = format!("there is nothing at {path}");
        return Ok(Refusal::new(StatusCode::NOT_FOUND, error).answer(ENDPOINTS));
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let error = format!("{path} takes GET, HEAD, not {method}");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        return Ok(Refusal { status, error, allow: Some("GET, HEAD") }.answer(ENDPOINTS));
    }
    if path == "/metrics" {
        return Err(Metrics);
    }
    let Identity { generation, version } = identity;
    if path == "/" {
        let page = format!(
            "exuvia {version}, generation {generation}: /livez (this process lives), /readyz (it accepts connections), /metrics (for Prometheus)\n"
        );
        return Ok(text(StatusCode::OK, "text/plain; charset=utf-8", page));
    }
    let ready = phase.accepts();
    let health = Health { ready, generation: *generation, pid: std::process::id(), version, phase };
    let good = ready || path == "/livez";
    Ok(json(if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }, &health))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    fn identity() -> Identity {
        Identity { generation: 3, version: "0.1.0".into() }
    }

    async fn ask(method: Method, path: &str, phase: Phase) -> (u16, String) {
        let (head, body) = answer(&method, path, phase, &identity()).ok().unwrap().into_parts();
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
        for path in ["/", "/livez", "/readyz"] {
            assert_eq!(ask(Method::HEAD, path, Phase::Serving).await.0, 200);
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
