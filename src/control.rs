//! The control socket: HTTP over a Unix socket, by which operators ask for upgrades.
//!
//! ```text
//! curl --unix-socket /run/exuvia/control.sock         http://exuvia/v1/status
//! curl --unix-socket /run/exuvia/control.sock -X POST http://exuvia/v1/upgrade
//! ```
//!
//! | endpoint | answer |
//! |---|---|
//! | `GET /v1/status` | 200, a [`StatusReport`] |
//! | `GET /v1/watch` | 200 at once with an [`Overview`](crate::overview::Overview) on a line each second, until another process is the owner |
//! | `POST /v1/upgrade` | the [`UpgradeAnswer`] once there is a verdict: 200 committed, 500 failed or rolled back, 409 refused. `until=ready` answers as soon as the new process accepts. `stream=1` answers 200 at once with one [`Progress`] on each line, as it happens |
//! | `POST /v1/rollback` | 200, or 409 with the reason |
//! | `POST /v1/stop` | 202; `now=1` cuts every connection; `stream=1` answers 200 with a [`StatusReport`] on a line each second until the process ends |
//!
//! Whatever cannot be answered so is answered with `{"error": "…"}`: 400, 403, 404, 405, or 503 in the last
//! moments of the process.
//!
//! Who may ask: the user of the process, and root. The socket has mode 0600 in a folder that is theirs
//! ([`socket::prepare`]), and the peer's uid is checked on each connection.

pub mod client;
mod route;
pub mod search;
pub mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use nix::unistd::geteuid;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval};

use crate::http::{Body, Connections, Refusal, json, json_line, lines};
use crate::overview::{Observer, Place};
use crate::restart::{
    Failure, Gone, Handle, ListenAddr, PastUpgrade, Progress, Status, Stop, Stream, Verdict,
};
pub use route::Until;
use route::{ENDPOINTS, Route, route};

/// How often the one who stops the process is told how far it is.
const STOP_REPORTS: Duration = Duration::from_secs(1);

/// What the core does not know about this process: the places that people look for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extra {
    /// Where the admin listener is bound, port 0 resolved.
    pub admin: Option<ListenAddr>,
    /// The path of the control socket.
    pub control: PathBuf,
    /// The configuration file, if there is one.
    pub config: Option<PathBuf>,
}

/// The status as it is answered: what the core knows, and the places that people look for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusReport {
    /// What the core knows.
    #[serde(flatten)]
    pub status: Status,
    /// The address of the admin listener.
    #[serde(default)]
    pub admin: Option<String>,
    /// The path of the control socket.
    #[serde(default)]
    pub control: String,
    /// The path of the configuration file.
    #[serde(default)]
    pub config: Option<String>,
}

impl StatusReport {
    fn new(status: Status, extra: &Extra) -> Self {
        let Extra { admin, control, config } = extra;
        StatusReport {
            status,
            admin: admin.as_ref().map(ToString::to_string),
            control: control.display().to_string(),
            config: config.as_ref().map(|path| path.display().to_string()),
        }
    }
}

/// How an upgrade ended, in one document.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UpgradeAnswer {
    /// `ready`, `committed`, `failed`, `rolled_back` or `refused`; `lost` if the process ended before it knew.
    pub result: String,
    /// The generation that was started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation: Option<u32>,
    /// Its pid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The version of its program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// How long it took until the new process accepted, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
    /// How long all of it took, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub elapsed_ms: Option<u64>,
    /// What the new process had answered by then, by class of status.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub answered: BTreeMap<String, u64>,
    /// Until the old process cuts what it still has, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drain_left_ms: Option<u64>,
    /// The upgrade before this one, and what it has cost.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<PastUpgrade>,
    /// The step that failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<String>,
    /// Why it failed or was refused; may have several lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl UpgradeAnswer {
    fn new() -> Self {
        UpgradeAnswer { result: "lost".into(), ..Self::default() }
    }

    fn add(&mut self, progress: Progress) {
        match progress {
            Progress::Refused { reason } => {
                self.result = "refused".into();
                self.message = Some(reason);
            }
            Progress::Started { generation, pid, executable: _ } => {
                self.generation = Some(generation);
                self.pid = Some(pid);
            }
            Progress::Ready { elapsed_ms, version, .. } => {
                self.result = "ready".into();
                self.version = Some(version);
                self.ready_ms = Some(elapsed_ms);
                self.elapsed_ms = Some(elapsed_ms);
            }
            Progress::Draining { left_ms, before, .. } => {
                (self.drain_left_ms, self.before) = (Some(left_ms), before);
            }
            Progress::Ended { elapsed_ms, done, verdict } => {
                self.elapsed_ms = Some(elapsed_ms);
                self.answered = done;
                self.result = match verdict {
                    Verdict::Committed => "committed".into(),
                    Verdict::RolledBack => "rolled_back".into(),
                    Verdict::Failed(Failure { step, message }) => {
                        self.step = Some(step);
                        self.message = Some(message);
                        "failed".into()
                    }
                };
            }
        }
    }

    fn status(&self) -> StatusCode {
        match self.result.as_str() {
            "ready" | "committed" => StatusCode::OK,
            "refused" => StatusCode::CONFLICT,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Whether nothing that matters to one who waits for `until` comes after `progress`.
fn is_last(progress: &Progress, until: Until) -> bool {
    match progress {
        Progress::Started { .. } | Progress::Draining { .. } => false,
        Progress::Ready { .. } => until == Until::Ready,
        Progress::Refused { .. } | Progress::Ended { .. } => true,
    }
}

/// Answers on the control socket. Lives on the control thread, in its `LocalSet`.
#[derive(Debug)]
pub struct ControlServer {
    handle: Handle,
    extra: Rc<Extra>,
    observer: Rc<Observer>,
    place: Place,
    connections: Rc<Connections>,
}

impl ControlServer {
    /// A server at `place` that passes on to `handle` what it is asked.
    pub fn new(handle: Handle, extra: Rc<Extra>, observer: Rc<Observer>, place: Place) -> Self {
        ControlServer { handle, extra, observer, place, connections: Rc::default() }
    }

    /// Answers what is asked on one connection, in a task of its own. Must be called within a `LocalSet`.
    pub fn serve(&self, stream: Stream) {
        let desk = Rc::new(Desk {
            handle: self.handle.clone(),
            extra: self.extra.clone(),
            observer: self.observer.clone(),
            place: self.place,
            refused: not_allowed(&stream),
        });
        let connections = self.connections.clone();
        spawn_local(async move {
            let answer = |request| {
                let desk = desk.clone();
                async move { desk.answer(&request).await }
            };
            connections.serve(stream, answer).await;
        });
    }

    /// Waits until every answer that is being given is written, for at most half a second. To be called when
    /// the driver has ended: the process must not end before it has said so to the one who asked for that.
    pub async fn finish(&self) {
        self.connections.finish().await;
    }
}

/// Why the peer of this connection may ask for nothing.
fn not_allowed(stream: &Stream) -> Option<String> {
    let Stream::Unix(stream) = stream else {
        return Some("nothing is controlled over TCP".into());
    };
    let us = geteuid().as_raw();
    match stream.peer_cred() {
        Ok(peer) if is_allowed(peer.uid(), us) => None,
        Ok(peer) => Some(format!(
            "uid {} may not control this process, which runs as uid {us}; ask as that user or as root",
            peer.uid()
        )),
        Err(error) => Some(format!("the kernel does not tell who asks: {error}")),
    }
}

fn is_allowed(peer: u32, us: u32) -> bool {
    peer == us || peer == 0
}

/// Where one connection's request is answered.
struct Desk {
    handle: Handle,
    extra: Rc<Extra>,
    observer: Rc<Observer>,
    place: Place,
    refused: Option<String>,
}

impl Desk {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Body> {
        if let Some(error) = &self.refused {
            tracing::warn!(%error, "refused on the control socket");
            return Refusal::new(StatusCode::FORBIDDEN, error).answer(&[]);
        }
        let route = match route(request.method(), request.uri().path(), request.uri().query().unwrap_or("")) {
            Ok(route) => route,
            Err(refusal) => return refusal.answer(ENDPOINTS),
        };
        let answer = match route {
            Route::Status => self.status().await,
            Route::Watch => Ok(self.watch()),
            Route::Upgrade { stream: true, until } => self.upgrade_lines(until).await,
            Route::Upgrade { stream: false, until } => self.upgrade(until).await,
            Route::Rollback => self.rollback().await,
            Route::Stop { how, stream } => self.stop(how, stream).await,
        };
        answer.unwrap_or_else(|gone| {
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, gone.to_string()).answer(&[])
        })
    }

    async fn status(&self) -> Result<Response<Body>, Gone> {
        let status = self.handle.status().await?;
        Ok(json(StatusCode::OK, &StatusReport::new(status, &self.extra)))
    }

    fn watch(&self) -> Response<Body> {
        let Some(mut watcher) = self.observer.watch(self.place) else {
            return Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many watch already").answer(&[]);
        };
        // One at a time: what is not taken is not kept.
        let (pieces, receiver) = mpsc::channel(1);
        spawn_local(async move {
            while let Some(document) = watcher.next().await {
                let line = [&document[..], b"\n"].concat();
                if pieces.send(line.into()).await.is_err() {
                    return;
                }
            }
        });
        lines(receiver)
    }

    async fn upgrade(&self, until: Until) -> Result<Response<Body>, Gone> {
        let mut progress = self.handle.upgrade().await?;
        let mut answer = UpgradeAnswer::new();
        while let Some(progress) = progress.recv().await {
            let last = is_last(&progress, until);
            answer.add(progress);
            if last {
                return Ok(json(answer.status(), &answer));
            }
        }
        answer.result = "lost".into();
        Ok(json(answer.status(), &answer))
    }

    async fn upgrade_lines(&self, until: Until) -> Result<Response<Body>, Gone> {
        let mut progress = self.handle.upgrade().await?;
        let (pieces, receiver) = mpsc::channel(4);
        spawn_local(async move {
            while let Some(progress) = progress.recv().await {
                let line = Bytes::from(json_line(&progress));
                // The one who asked may have gone; the upgrade goes on.
                if pieces.send(line).await.is_err() || is_last(&progress, until) {
                    return;
                }
            }
        });
        Ok(lines(receiver))
    }

    async fn rollback(&self) -> Result<Response<Body>, Gone> {
        Ok(match self.handle.rollback().await? {
            Ok(()) => {
                json(StatusCode::OK, &UpgradeAnswer { result: "rolled_back".into(), ..Default::default() })
            }
            Err(reason) => Refusal::new(StatusCode::CONFLICT, reason).answer(&[]),
        })
    }

    async fn stop(&self, how: Stop, stream: bool) -> Result<Response<Body>, Gone> {
        self.handle.stop(how).await?;
        if !stream {
            return Ok(json(StatusCode::ACCEPTED, &serde_json::json!({ "stopping": true })));
        }
        let (pieces, receiver) = mpsc::channel(1);
        let (handle, extra) = (self.handle.clone(), self.extra.clone());
        spawn_local(async move {
            let mut viewer = handle.viewer();
            let mut ticks = interval(STOP_REPORTS);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    _ = ticks.tick() => {}
                    changed = viewer.changed() => if changed.is_err() { return },
                    () = pieces.closed() => return,
                }
                let Ok(status) = handle.status().await else { return };
                let line = json_line(&StatusReport::new(status, &extra));
                if pieces.send(line.into()).await.is_err() {
                    return;
                }
            }
        });
        Ok(lines(receiver))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::Phase;

    fn progress() -> [Progress; 2] {
        [
            Progress::Started { generation: 2, pid: 4711, executable: "/opt/exuvia/bin/exuvia".into() },
            Progress::Ready {
                elapsed_ms: 38,
                probation_ms: 5000,
                wanted: 0,
                longest_ms: 5000,
                version: "0.2.0".into(),
            },
        ]
    }

    fn answer(last: Option<Progress>) -> (u16, serde_json::Value) {
        let mut answer = UpgradeAnswer::new();
        progress().into_iter().chain(last).for_each(|progress| answer.add(progress));
        (answer.status().as_u16(), serde_json::to_value(&answer).unwrap())
    }

    #[test]
    fn an_upgrade_is_answered_in_one_document() {
        let ended = |verdict| Some(Progress::Ended { elapsed_ms: 5040, done: BTreeMap::new(), verdict });
        let document = |result: &str| {
            serde_json::json!({
                "result": result, "generation": 2, "pid": 4711, "version": "0.2.0", "ready_ms": 38, "elapsed_ms": 5040,
            })
        };
        assert_eq!(answer(ended(Verdict::Committed)), (200, document("committed")));
        assert_eq!(answer(ended(Verdict::RolledBack)), (500, document("rolled_back")));

        let mut failed = document("failed");
        failed["step"] = "probation".into();
        failed["message"] = "killed by SIGKILL".into();
        assert_eq!(
            answer(ended(Verdict::Failed(Failure::new("probation", "killed by SIGKILL")))),
            (500, failed)
        );

        let mut ready = document("ready");
        ready["elapsed_ms"] = 38.into();
        assert_eq!(answer(None), (200, ready));
    }

    #[test]
    fn a_refusal_is_a_conflict() {
        let mut answer = UpgradeAnswer::new();
        answer.add(Progress::Refused { reason: "an upgrade is under way".into() });
        assert_eq!(answer.status(), StatusCode::CONFLICT);
        let document = serde_json::json!({ "result": "refused", "message": "an upgrade is under way" });
        assert_eq!(serde_json::to_value(&answer).unwrap(), document);
        assert_eq!(UpgradeAnswer::new().status(), StatusCode::INTERNAL_SERVER_ERROR);
    }

    #[test]
    fn one_waits_no_longer_than_asked() {
        let [started, ready] = progress();
        assert!(!is_last(&started, Until::Ready) && !is_last(&started, Until::Committed));
        assert!(is_last(&ready, Until::Ready) && !is_last(&ready, Until::Committed));
        let ended = Progress::Ended { elapsed_ms: 1, done: BTreeMap::new(), verdict: Verdict::RolledBack };
        assert!(is_last(&ended, Until::Ready) && is_last(&ended, Until::Committed));
        assert!(is_last(&Progress::Refused { reason: String::new() }, Until::Ready));
    }

    #[test]
    fn what_is_sent_line_by_line_can_be_read_back() {
        let failed = Verdict::Failed(Failure::new("exec", "no such file\nlast words"));
        for verdict in [Verdict::Committed, Verdict::RolledBack, failed] {
            let ended = Progress::Ended { elapsed_ms: 7, done: BTreeMap::new(), verdict };
            let line = json_line(&ended);
            assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert_eq!(serde_json::from_slice::<Progress>(&line).unwrap(), ended);
        }
        let line =
            json_line(&Progress::Ended { elapsed_ms: 7, done: BTreeMap::new(), verdict: Verdict::Committed });
        assert_eq!(line, b"{\"phase\":\"ended\",\"elapsed_ms\":7,\"result\":\"committed\"}\n");
    }

    #[test]
    fn the_status_is_flat() {
        let status = Status {
            generation: 3,
            pid: 4711,
            version: "0.1.0".into(),
            phase: Phase::Serving,
            executable: "/opt/exuvia/bin/exuvia".into(),
            listeners: vec![],
            accept_errors: 0,
            last_upgrade: None,
            trial: None,
            upgrades: Vec::new(),
            generations: vec![],
        };
        let extra = Extra {
            admin: Some("127.0.0.1:9090".parse().unwrap()),
            control: "/run/exuvia/control.sock".into(),
            config: None,
        };
        let report = StatusReport::new(status, &extra);
        let document = serde_json::to_value(&report).unwrap();
        assert_eq!(document["generation"], 3);
        assert_eq!(document["phase"], "serving");
        assert_eq!(document["admin"], "127.0.0.1:9090");
        assert_eq!(document["control"], "/run/exuvia/control.sock");
        assert_eq!(serde_json::from_value::<StatusReport>(document).unwrap(), report);
    }

    #[tokio::test]
    async fn the_user_of_the_process_may_ask_and_so_may_root() {
        let (_client, server) = crate::http::connected();
        assert_eq!(not_allowed(&server), None);
        assert!(is_allowed(1000, 1000) && is_allowed(0, 1000));
        assert!(!is_allowed(1001, 1000) && !is_allowed(1000, 0));
    }

    #[tokio::test]
    async fn nobody_is_served_over_tcp() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = tokio::net::TcpStream::connect(listener.local_addr().unwrap());
        let (client, accepted) = tokio::join!(client, listener.accept());
        assert!(not_allowed(&Stream::Tcp(accepted.unwrap().0)).is_some());
        drop(client);
    }
}
