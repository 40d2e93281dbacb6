//! A client of exuvia's control socket: HTTP over a Unix socket.
//!
//! It shares nothing with exuvia: the witness must not take its words from whom it judges. What it does not know in an
//! answer it ignores, so that a later exuvia can tell more.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Deserialize;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long an answer may take to begin, and a short one to end.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer, or a line of one, may be, in bytes.
const MAX_ANSWER: usize = 1 << 20;

/// Why there was no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody can be reached.
    #[error(
        "cannot connect to the control socket {}: {cause}; is exuvia running, and its control.socket there?",
        path.display()
    )]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// No answer in time.
    #[error("no answer from the control socket {} within {} s", path.display(), ANSWER_TIMEOUT.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
    },
    /// The connection ended before the answer did.
    #[error("the connection to the control socket {} broke before the answer's end: {cause}", path.display())]
    Broken {
        /// The socket.
        path: PathBuf,
        /// How.
        cause: String,
    },
    /// An answer that says no, or is not understood.
    #[error("the control socket {} answered with status {status}: {text}", path.display())]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Its HTTP status.
        status: StatusCode,
        /// What it said, or what is wrong with it.
        text: String,
    },
}

/// What exuvia says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Status {
    /// The number of the generation that answers.
    pub generation: u32,
    /// Its pid.
    pub pid: i32,
    /// The version of its program.
    #[serde(default)]
    pub version: String,
    /// What it is doing: `serving`, `probation` and so on.
    #[serde(default)]
    pub phase: String,
    /// Where it listens.
    #[serde(default)]
    pub listeners: Vec<Listener>,
    /// Every generation alive, the oldest first.
    #[serde(default)]
    pub generations: Vec<Generation>,
}

/// Where exuvia listens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Listener {
    /// The listener's name.
    pub name: String,
    /// Its address.
    #[serde(default)]
    pub address: String,
    /// How many sockets it has: one for each worker.
    #[serde(default)]
    pub sockets: usize,
}

/// A generation that is alive.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Generation {
    /// Its number.
    pub generation: u32,
    /// Its pid.
    pub pid: i32,
    /// What it is doing; `None` if it does not answer.
    #[serde(default)]
    pub phase: Option<String>,
}

/// How an upgrade goes on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Progress {
    /// It cannot be done now.
    Refused {
        /// Why.
        reason: String,
    },
    /// The new process exists.
    Started {
        /// Its generation.
        generation: u32,
        /// Its pid.
        pid: i32,
    },
    /// The new process accepts; the old one watches it.
    Ready {
        /// Since the upgrade was asked for, in milliseconds.
        elapsed_ms: u64,
        /// How long the old one will, in milliseconds.
        #[serde(default)]
        probation_ms: u64,
    },
    /// The end.
    Ended {
        /// Since the upgrade was asked for, in milliseconds.
        elapsed_ms: u64,
        /// How it ended.
        #[serde(flatten)]
        verdict: Verdict,
    },
    /// Something that this client does not know.
    #[serde(other)]
    Unknown,
}

/// How an upgrade ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "result", rename_all = "snake_case")]
pub enum Verdict {
    /// The new process serves.
    Committed,
    /// The old one serves on.
    Failed {
        /// The step that failed.
        #[serde(default)]
        step: String,
        /// Why; may have several lines.
        #[serde(default)]
        message: String,
    },
    /// The traffic was taken back.
    RolledBack,
    /// Nothing was begun.
    #[serde(skip)]
    Refused {
        /// Why.
        reason: String,
    },
}

/// An upgrade that has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// How.
    pub verdict: Verdict,
    /// The generation that was started, and its pid; `None` if none was.
    pub started: Option<(u32, i32)>,
}

/// What the exuvia behind the socket says of itself.
///
/// # Errors
///
/// If nobody answers, or not with a status.
pub async fn status(path: &Path) -> Result<Status, Error> {
    let bytes = whole(path, open(path, Method::GET, "/v1/status").await?).await?;
    let not_understood = |error: serde_json::Error| Error::Answer {
        path: path.to_owned(),
        status: StatusCode::OK,
        text: format!("it is not understood: {error}"),
    };
    serde_json::from_slice(&bytes).map_err(not_understood)
}

/// Asks for an upgrade, tells of it as it goes on, and waits for its end. It is for the caller to limit the time.
///
/// # Errors
///
/// If nobody answers, or the answer ends before the upgrade does. That it failed or was refused is no error.
pub async fn upgrade(path: &Path, mut on_progress: impl FnMut(&Progress)) -> Result<Ended, Error> {
    let broken = |cause: String| Error::Broken { path: path.to_owned(), cause };
    let response = open(path, Method::POST, "/v1/upgrade?stream=1").await?;
    if response.status() != StatusCode::OK {
        return Err(whole(path, response).await.err().unwrap_or_else(|| broken("no reason is given".into())));
    }
    let (mut body, mut buffer, mut started) = (response.into_body(), BytesMut::new(), None);
    loop {
        while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
            let line = buffer.split_to(end + 1);
            let progress = serde_json::from_slice::<Progress>(&line)
                .map_err(|error| broken(format!("a line is not understood: {error}")))?;
            on_progress(&progress);
            let verdict = match progress {
                Progress::Started { generation, pid } => {
                    started = Some((generation, pid));
                    continue;
                }
                Progress::Ready { .. } | Progress::Unknown => continue,
                Progress::Refused { reason } => Verdict::Refused { reason },
                Progress::Ended { verdict, .. } => verdict,
            };
            return Ok(Ended { verdict, started });
        }
        if buffer.len() > MAX_ANSWER {
            return Err(broken("a line has no end".into()));
        }
        match body.frame().await {
            Some(Ok(frame)) => buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
            Some(Err(error)) => return Err(broken(error.to_string())),
            None => return Err(broken("there was no verdict".into())),
        }
    }
}

/// A short answer; an error if its status is one.
async fn whole(path: &Path, response: Response<Incoming>) -> Result<Bytes, Error> {
    let (head, body) = response.into_parts();
    let silent = |_| Error::Silent { path: path.to_owned() };
    let body = timeout(ANSWER_TIMEOUT, Limited::new(body, MAX_ANSWER).collect()).await.map_err(silent)?;
    let broken = |error: Box<dyn std::error::Error + Send + Sync>| Error::Broken {
        path: path.to_owned(),
        cause: error.to_string(),
    };
    let bytes = body.map_err(broken)?.to_bytes();
    if !head.status.is_success() {
        let document = serde_json::from_slice::<serde_json::Value>(&bytes).unwrap_or_default();
        let text =
            document["error"].as_str().map_or_else(|| String::from_utf8_lossy(&bytes).into(), str::to_owned);
        return Err(Error::Answer { path: path.to_owned(), status: head.status, text });
    }
    Ok(bytes)
}

async fn open(path: &Path, method: Method, target: &str) -> Result<Response<Incoming>, Error> {
    let broken = |cause: String| Error::Broken { path: path.to_owned(), cause };
    let answer = async {
        let stream = UnixStream::connect(path).await;
        let stream = stream.map_err(|cause| Error::Connect { path: path.to_owned(), cause })?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(error.to_string()))?;
        // What goes wrong with it the answer tells.
        tokio::spawn(async { connection.await.ok() });
        let request = Request::builder().method(method).uri(target).header("host", "exuvia");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| broken(error.to_string()))?;
        sender.send_request(request).await.map_err(|error| broken(error.to_string()))
    };
    timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| Error::Silent { path: path.to_owned() })?
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixListener;

    use super::*;

    /// What a client gets from a server that answers with `answer` and closes.
    async fn with_answer<T>(answer: &str, ask: impl AsyncFnOnce(&Path) -> T) -> T {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 1024]).await.unwrap() > 0);
            stream.write_all(answer.as_bytes()).await.unwrap();
        };
        tokio::join!(serve, ask(&path)).1
    }

    fn lines(lines: &str) -> String {
        format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{lines}")
    }

    async fn upgraded(answer: &str) -> (Result<Ended, Error>, Vec<Progress>) {
        let mut seen = Vec::new();
        let ended = with_answer(answer, async |path| upgrade(path, |it| seen.push(it.clone())).await).await;
        (ended, seen)
    }

    #[tokio::test]
    async fn an_upgrade_is_told_as_it_goes_on() {
        let (ended, seen) = upgraded(&lines(concat!(
            r#"{"phase":"started","generation":2,"pid":77,"executable":"/x"}"#,
            "\n",
            r#"{"phase":"ready","elapsed_ms":40,"probation_ms":500,"version":"1"}"#,
            "\n",
            r#"{"phase":"weather","rain":true}"#,
            "\n",
            r#"{"phase":"ended","elapsed_ms":540,"result":"committed"}"#,
            "\n"
        )))
        .await;
        assert_eq!(ended.unwrap(), Ended { verdict: Verdict::Committed, started: Some((2, 77)) });
        assert_eq!(seen.len(), 4);
        assert_eq!(seen[1], Progress::Ready { elapsed_ms: 40, probation_ms: 500 });
        assert_eq!(seen[2], Progress::Unknown);
    }

    #[tokio::test]
    async fn a_failure_is_no_error_and_a_broken_answer_is_one() {
        let failed = r#"{"phase":"ended","elapsed_ms":5,"result":"failed","step":"exec","message":"no"}"#;
        let (ended, _) = upgraded(&lines(&format!("{failed}\n"))).await;
        let verdict = Verdict::Failed { step: "exec".into(), message: "no".into() };
        assert_eq!(ended.unwrap().verdict, verdict);
        let (ended, _) = upgraded(&lines("{\"phase\":\"refused\",\"reason\":\"busy\"}\n")).await;
        assert_eq!(ended.unwrap().verdict, Verdict::Refused { reason: "busy".into() });
        let (ended, _) = upgraded(&lines("{\"phase\":\"started\",\"generation\":2,\"pid\":7}\n")).await;
        assert!(ended.unwrap_err().to_string().contains("there was no verdict"));
        let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 16\r\n\r\n{\"error\":\"none\"}";
        let error = upgraded(refused).await.0.unwrap_err().to_string();
        assert!(error.ends_with("answered with status 403 Forbidden: none"), "{error}");
    }

    #[tokio::test]
    async fn what_is_not_known_in_a_status_is_ignored() {
        let status = r#"{"generation":3,"pid":9,"weather":1,"generations":[{"generation":3,"pid":9,"x":0}]}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{status}", status.len());
        let status = with_answer(&answer, async |path| super::status(path).await).await.unwrap();
        assert_eq!((status.generation, status.pid, status.generations.len()), (3, 9, 1));
        let error = super::status(Path::new("/nonexistent/x.sock")).await.unwrap_err().to_string();
        assert!(error.contains("is exuvia running"), "{error}");
    }
}
