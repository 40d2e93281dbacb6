//! The other end of the control socket.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

/// How long the running process may take to begin its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest answer, or line of one, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("there is no control socket at {}", .0.display())]
    Missing(PathBuf),
    /// There is a socket, and nobody listens.
    #[error("nobody listens at the control socket {}, which a process that was killed left behind", .0.display())]
    Abandoned(PathBuf),
    /// There is a file that is no socket.
    #[error("{} is not a control socket", .0.display())]
    NotASocket(PathBuf),
    /// Not for this user.
    #[error(
        "permission denied for the control socket {}; ask as the user that exuvia runs as, or as root",
        .0.display()
    )]
    Denied(PathBuf),
    /// It cannot be reached for another reason.
    #[error("cannot connect to the control socket {}: {cause}", path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        cause: io::Error,
    },
    /// It says nothing.
    #[error("no answer from the control socket {} within {} s", path.display(), waited.as_secs())]
    Silent {
        /// The socket.
        path: PathBuf,
        /// How long it was waited for.
        waited: Duration,
    },
    /// The answer ends before its end.
    #[error("the connection to exuvia broke before its answer was complete: {0}")]
    Broken(String),
    /// The answer is not what it should be.
    #[error("what answers at {} is not exuvia, or of a version that this one does not know: {cause}", path.display())]
    NotUnderstood {
        /// The socket.
        path: PathBuf,
        /// What is wrong with the answer.
        cause: String,
    },
}

/// An answer, complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The JSON document.
    pub body: Bytes,
}

impl ClientError {
    /// The socket at which nobody was reached, so that whoever is meant may be elsewhere.
    pub fn unreached(&self) -> Option<&Path> {
        use ClientError::{Abandoned, Connect, Denied, Missing, NotASocket};
        match self {
            Missing(path) | Abandoned(path) | NotASocket(path) | Denied(path) | Connect { path, .. } => {
                Some(path)
            }
            _ => None,
        }
    }
}

impl Answer {
    /// The document. `path` is the socket that it came from.
    pub fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<T, ClientError> {
        let not_understood = |cause| ClientError::NotUnderstood { path: path.to_path_buf(), cause };
        if !self.status.is_success() {
            return Err(not_understood(self.error()));
        }
        serde_json::from_slice(&self.body).map_err(|error| not_understood(error.to_string()))
    }

    /// What it gives as the reason for not doing what was asked.
    pub fn error(&self) -> String {
        let document = serde_json::from_slice::<serde_json::Value>(&self.body).unwrap_or_default();
        match document["error"].as_str() {
            Some(error) => error.to_owned(),
            None => format!("HTTP status {}", self.status),
        }
    }
}

/// An answer that comes line by line.
#[derive(Debug)]
pub struct Lines {
    body: Incoming,
    buffer: BytesMut,
}

impl Lines {
    /// The next line, without its end; `None` after the last. Cancel-safe.
    ///
    /// # Errors
    ///
    /// If the connection breaks before the end of the answer, or a line is too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(end + 1);
                line.truncate(end);
                return Ok(Some(line.freeze()));
            }
            if self.buffer.len() > MAX_ANSWER {
                return Err(ClientError::Broken("a line has no end".into()));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.buffer.extend_from_slice(frame.data_ref().unwrap_or(&Bytes::new())),
                Some(Err(error)) => return Err(ClientError::Broken(error.to_string())),
                None => return Ok(None),
            }
        }
    }
}

/// Asks the process behind the socket at `path` for its status.
pub async fn status(path: &Path) -> Result<Answer, ClientError> {
    request(path, Method::GET, "/v1/status").await
}

/// Asks the process behind the socket at `path` and waits for the whole answer.
pub async fn request(path: &Path, method: Method, target: &str) -> Result<Answer, ClientError> {
    collect(open(path, method, target).await?).await
}

/// Asks for an answer line by line; the inner error is an answer that says no.
pub async fn stream(path: &Path, method: Method, target: &str) -> Result<Result<Lines, Answer>, ClientError> {
    let response = open(path, method, target).await?;
    if response.status() != StatusCode::OK {
        return collect(response).await.map(Err);
    }
    Ok(Ok(Lines { body: response.into_body(), buffer: BytesMut::new() }))
}

async fn collect(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let (head, body) = response.into_parts();
    let body = timeout(ANSWER_TIMEOUT, Limited::new(body, MAX_ANSWER).collect()).await;
    let body = body.map_err(|_| ClientError::Broken("it does not go on".into()))?;
    let body = body.map_err(|error| ClientError::Broken(error.to_string()))?;
    Ok(Answer { status: head.status, body: body.to_bytes() })
}

async fn open(path: &Path, method: Method, target: &str) -> Result<Response<Incoming>, ClientError> {
    let answer = async {
        let stream = UnixStream::connect(path).await.map_err(|cause| connect_error(path, cause))?;
        let broken = |error: hyper::Error| ClientError::Broken(error.to_string());
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // What goes wrong with it the answer tells.
        tokio::spawn(async { connection.await.ok() });
        let request = Request::builder().method(method).uri(target).header("host", "exuvia");
        let request = request.body(Empty::<Bytes>::new());
        let request = request.map_err(|error| ClientError::Broken(error.to_string()))?;
        sender.send_request(request).await.map_err(broken)
    };
    let silent = |_| ClientError::Silent { path: path.to_path_buf(), waited: ANSWER_TIMEOUT };
    timeout(ANSWER_TIMEOUT, answer).await.map_err(silent)?
}

fn connect_error(path: &Path, cause: io::Error) -> ClientError {
    let is_socket = || std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket());
    let path = path.to_path_buf();
    match cause.kind() {
        io::ErrorKind::NotFound => ClientError::Missing(path),
        io::ErrorKind::ConnectionRefused if is_socket() => ClientError::Abandoned(path),
        io::ErrorKind::ConnectionRefused => ClientError::NotASocket(path),
        io::ErrorKind::PermissionDenied => ClientError::Denied(path),
        _ => ClientError::Connect { path, cause },
    }
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

    async fn error_at(path: &Path) -> String {
        status(path).await.unwrap_err().to_string()
    }

    #[tokio::test]
    async fn what_is_wrong_with_the_socket_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        assert!(error_at(&path).await.contains("there is no control socket at "));
        drop(UnixListener::bind(&path).unwrap());
        assert!(error_at(&path).await.contains("nobody listens at the control socket "));
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "").unwrap();
        assert!(error_at(&path).await.contains("is not a control socket"));
        let long = Path::new("/tmp").join("x".repeat(200));
        assert!(error_at(&long).await.contains("cannot connect to the control socket "));
    }

    #[tokio::test]
    async fn an_answer_is_read_whole() {
        let answer = "HTTP/1.1 409 Conflict\r\ncontent-length: 16\r\n\r\n{\"error\":\"busy\"}";
        let answer =
            with_answer(answer, async |path| request(path, Method::POST, "/v1/rollback").await.unwrap());
        let answer = answer.await;
        assert_eq!((answer.status, answer.error().as_str()), (StatusCode::CONFLICT, "busy"));
    }

    #[tokio::test]
    async fn lines_are_told_apart_wherever_they_are_cut() {
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n3\r\n\n{}\r\n1\r\n\n\r\n0\r\n\r\n";
        with_answer(answer, async |path| {
            let mut lines = stream(path, Method::POST, "/").await.unwrap().unwrap();
            assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
            assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
            assert_eq!(lines.next().await.unwrap(), None);
        })
        .await;
    }

    #[tokio::test]
    async fn a_process_that_was_killed_is_noticed() {
        let answer = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n{}\n\r\n";
        with_answer(answer, async |path| {
            let mut lines = stream(path, Method::POST, "/").await.unwrap().unwrap();
            assert_eq!(lines.next().await.unwrap().unwrap(), "{}");
            assert!(matches!(lines.next().await, Err(ClientError::Broken(_))));
        })
        .await;
        let error = with_answer("", async |path| status(path).await.unwrap_err()).await;
        assert!(matches!(error, ClientError::Broken(_)), "{error}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_hangs_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = error_at(&path).await;
        assert!(error.starts_with("no answer from the control socket ") && error.ends_with(" within 10 s"));
    }

    #[tokio::test]
    async fn what_is_not_exuvia_is_not_understood() {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        let error = with_answer(answer, async |path| {
            status(path).await.unwrap().json::<super::super::StatusReport>(path).unwrap_err()
        });
        let error = error.await.to_string();
        assert!(error.contains("is not exuvia"), "{error}");
    }
}
