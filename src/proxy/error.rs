//! Everything that keeps a request from its answer.

use std::fmt;
use std::io;

use bytes::Bytes;
use h2::Reason;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};

mod tls;

use super::body::Body;
use super::grpc::{self, Code};
use super::identity::{RequestId, RequestIdentity, X_REQUEST_ID, log_request};
use super::upstream::ServerAddr;
pub use tls::TlsFailure;

/// Why a request was not answered by its upstream. `Display` is for the log, and for a client that may read it:
/// [`Error::words`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// HTTP/1.1 without `Host` (RFC 9112, section 3.2).
    #[error("the request has no Host")]
    MissingHost,
    /// `Host` more than once.
    #[error("the request has more than one Host")]
    RepeatedHost,
    /// `Host`, or the host in the target, is none.
    #[error("the request's host is not valid")]
    InvalidHost,
    /// The target names another host than `Host` does.
    #[error("the request's target and its Host disagree")]
    HostMismatch,
    /// The target is in no form that this method may have.
    #[error("the request target is not valid")]
    Target,
    /// A length that is no plain number, or more than one (RFC 9110, section 8.6).
    #[error("the request's Content-Length is not valid")]
    ContentLength,
    /// A transfer coding other than `chunked` (RFC 9112, section 6.1).
    #[error("the request's transfer coding is not understood; chunked is")]
    TransferCoding,
    /// The client asks for a tunnel.
    #[error("CONNECT is not allowed here")]
    Connect,
    /// The client asks for a tunnel to nowhere (RFC 9112, section 3.2.3), or sends a body with that.
    #[error("CONNECT takes a target host:port, and no body")]
    ConnectTarget,
    /// The client broke off its body, or framed it wrong.
    #[error("the request body could not be read{}", Why(.0))]
    RequestBody(#[source] Cause),
    /// No connection to the upstream.
    #[error("upstream {0}: {brief}", brief = Brief(.1))]
    Unreachable(ServerAddr, #[source] io::Error),
    /// No connection to the upstream in time.
    #[error("upstream {0}: no connection in time")]
    ConnectTimeout(ServerAddr),
    /// Connected, and then TLS failed, or nothing was agreed on that can be spoken.
    #[error("upstream {0}: TLS: {1}")]
    Tls(ServerAddr, #[source] TlsFailure),
    /// Every HTTP/2 connection is full, and stayed so.
    #[error("upstream {0}: all its connections are full")]
    Full(ServerAddr),
    /// The upstream did not process the request, and said so each time that it was sent (RFC 9113, section 8.7).
    #[error("upstream {0}: does not take the request now")]
    Refused(ServerAddr, #[source] Cause),
    /// The upstream ended the request's stream and had not answered.
    #[error("upstream {0}: reset the request before it answered")]
    Reset(ServerAddr, #[source] h2::Error),
    /// Connected, and no answer in time.
    #[error("upstream {0}: no answer in time")]
    Silent(ServerAddr),
    /// The upstream closed the connection and had not answered.
    #[error("upstream {0}: closed the connection before it answered")]
    ClosedEarly(ServerAddr, #[source] Cause),
    /// What the upstream sent is not HTTP.
    #[error("upstream {0}: sent a malformed answer")]
    Malformed(ServerAddr, #[source] Cause),
    /// No server is configured.
    #[error("no upstream server")]
    NoServer,
}

/// What lies behind an [`Error`].
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Who is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
}

impl Error {
    /// Every word that [`Error::label`] may give.
    pub(super) const LABELS: [&str; 22] = [
        "host_missing",
        "host_repeated",
        "host_invalid",
        "host_mismatch",
        "content_length",
        "target_invalid",
        "transfer_coding",
        "connect",
        "connect_target",
        "request_body",
        "upstream_unreachable",
        "upstream_connect_timeout",
        "upstream_certificate",
        "upstream_tls",
        "upstream_full",
        "upstream_refused",
        "upstream_reset",
        "upstream_silent",
        "upstream_closed_early",
        "upstream_malformed",
        "upstream_none",
        "other",
    ];

    /// The table: each error's status, its label in metrics, whose fault it is, and what a call of gRPC gets.
    fn row(&self) -> (StatusCode, &'static str, Fault, Code) {
        use Fault::{Client, Upstream};
        let by_status = |status, label, fault| (status, label, fault, Code::of(status));
        match self {
            Error::MissingHost => by_status(StatusCode::BAD_REQUEST, "host_missing", Client),
            Error::RepeatedHost => by_status(StatusCode::BAD_REQUEST, "host_repeated", Client),
            Error::InvalidHost => by_status(StatusCode::BAD_REQUEST, "host_invalid", Client),
            Error::HostMismatch => by_status(StatusCode::BAD_REQUEST, "host_mismatch", Client),
            Error::ContentLength => by_status(StatusCode::BAD_REQUEST, "content_length", Client),
            Error::Target => by_status(StatusCode::BAD_REQUEST, "target_invalid", Client),
            Error::TransferCoding => by_status(StatusCode::NOT_IMPLEMENTED, "transfer_coding", Client),
            Error::Connect => by_status(StatusCode::METHOD_NOT_ALLOWED, "connect", Client),
            Error::ConnectTarget => by_status(StatusCode::BAD_REQUEST, "connect_target", Client),
            Error::RequestBody(_) => by_status(StatusCode::BAD_REQUEST, "request_body", Client),
            Error::Unreachable(..) => by_status(StatusCode::BAD_GATEWAY, "upstream_unreachable", Upstream),
            // Unavailable to gRPC, too: the call was never sent, so it can be tried again.
            Error::ConnectTimeout(_) => {
                by_status(StatusCode::GATEWAY_TIMEOUT, "upstream_connect_timeout", Upstream)
            }
            Error::Tls(_, TlsFailure::Certificate(..)) => {
                by_status(StatusCode::BAD_GATEWAY, "upstream_certificate", Upstream)
            }
            Error::Tls(..) => by_status(StatusCode::BAD_GATEWAY, "upstream_tls", Upstream),
            Error::Full(_) => {
                (StatusCode::SERVICE_UNAVAILABLE, "upstream_full", Upstream, Code::ResourceExhausted)
            }
            Error::Refused(..) => by_status(StatusCode::SERVICE_UNAVAILABLE, "upstream_refused", Upstream),
            Error::Reset(..) => by_status(StatusCode::BAD_GATEWAY, "upstream_reset", Upstream),
            Error::Silent(_) => {
                (StatusCode::GATEWAY_TIMEOUT, "upstream_silent", Upstream, Code::DeadlineExceeded)
            }
            Error::ClosedEarly(..) => by_status(StatusCode::BAD_GATEWAY, "upstream_closed_early", Upstream),
            Error::Malformed(..) => by_status(StatusCode::BAD_GATEWAY, "upstream_malformed", Upstream),
            Error::NoServer => by_status(StatusCode::BAD_GATEWAY, "upstream_none", Upstream),
        }
    }

    /// The server that it is about.
    fn server(&self) -> Option<&ServerAddr> {
        match self {
            Error::Unreachable(server, _)
            | Error::ConnectTimeout(server)
            | Error::Tls(server, _)
            | Error::Full(server)
            | Error::Refused(server, _)
            | Error::Reset(server, _)
            | Error::Silent(server)
            | Error::ClosedEarly(server, _)
            | Error::Malformed(server, _) => Some(server),
            _ => None,
        }
    }

    /// The status that the client gets.
    pub fn status(&self) -> StatusCode {
        self.row().0
    }

    /// The word for it in metrics and logs.
    pub fn label(&self) -> &'static str {
        self.row().1
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        self.row().2
    }

    /// The same for the next of those who waited for one connection together.
    pub(super) fn again(&self) -> Error {
        let text = |cause: &Cause| Cause::from(cause.to_string());
        match self {
            Error::Unreachable(server, cause) => {
                let cause = match cause.raw_os_error() {
                    Some(number) => io::Error::from_raw_os_error(number),
                    None => io::Error::new(cause.kind(), cause.to_string()),
                };
                Error::Unreachable(server.clone(), cause)
            }
            Error::ConnectTimeout(server) => Error::ConnectTimeout(server.clone()),
            Error::Tls(server, failure) => Error::Tls(server.clone(), failure.clone()),
            Error::Malformed(server, cause) => Error::Malformed(server.clone(), text(cause)),
            Error::ClosedEarly(server, cause) => Error::ClosedEarly(server.clone(), text(cause)),
            // Nothing else comes of a connect.
            _ => Error::NoServer,
        }
    }

    /// Whether nothing can follow on the client's connection: where the request ends is not known, is no longer
    /// looked for, or the client sends what only means something to those who read it differently.
    fn closes(&self) -> bool {
        matches!(
            self,
            Error::RepeatedHost
                | Error::HostMismatch
                | Error::ContentLength
                | Error::TransferCoding
                | Error::Connect
                | Error::ConnectTarget
                | Error::RequestBody(_)
        )
    }

    /// Writes the log line.
    pub(super) fn log(&self, request: &RequestIdentity) {
        let (status, label, fault, _) = self.row();
        let status = status.as_u16();
        let cause = std::error::Error::source(self).map(ToString::to_string);
        let server = self.server().map(tracing::field::display);
        match fault {
            Fault::Client => log_request!(debug, request, status, label, cause, "{self}"),
            Fault::Upstream => log_request!(warn, request, status, label, server, cause, "{self}"),
        }
    }

    /// What the client is told of it. What is wrong with its own request it may know; what there is behind this
    /// proxy, and what is the matter with it, only where the settings are `detailed`.
    fn words(&self, detailed: bool) -> String {
        let (status, _, fault, _) = self.row();
        let reason = status.canonical_reason().unwrap_or("Error");
        match fault {
            Fault::Upstream if !detailed => format!("{} {reason}", status.as_u16()),
            Fault::Client | Fault::Upstream => format!("{} {reason}: {self}", status.as_u16()),
        }
    }

    /// The answer that says it.
    pub(super) fn response(&self, request: &RequestIdentity, detailed: bool) -> Response<Body> {
        let (status, _, _, code) = self.row();
        let words = self.words(detailed);
        let mut response = own_answer(status, code, request.id(), request.grpc(), &words);
        let headers = response.headers_mut();
        if let Error::Connect = self {
            // RFC 9110, section 15.5.6 asks for it; which methods a resource has, its upstream knows.
            headers.insert(
                header::ALLOW,
                HeaderValue::from_static("GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
            );
        }
        if self.closes() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

/// An answer of this proxy's own to what came in place of a request, such as one that is too long.
pub(crate) fn refusal<B>(status: StatusCode, id: RequestId, request: &Request<B>) -> Response<()> {
    let grpc = grpc::content_type(request.method(), request.headers());
    // Only gRPC has a place for them: there is no body.
    let words = match grpc {
        Some(_) => format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or("Error")),
        None => String::new(),
    };
    own_answer(status, Code::of(status), id, grpc, &words).map(drop)
}

/// What the client reads that is told of `words` and the id of its request.
pub(crate) fn told(words: &str, id: RequestId) -> String {
    format!("{words}\nrequest {id}\n")
}

fn own_answer(
    status: StatusCode,
    code: Code,
    id: RequestId,
    grpc: Option<HeaderValue>,
    words: &str,
) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    if let Some(content_type) = grpc {
        let message = format!("{words} (request {id})");
        grpc::say(response.headers_mut(), content_type, code, &message);
    } else {
        *response.status_mut() = status;
        if !words.is_empty() {
            *response.body_mut() = Body::full(Bytes::from(told(words, id)));
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, text);
        }
    }
    response.headers_mut().insert(X_REQUEST_ID, id.to_value());
    response
}

/// Why an answer that had begun was broken off. The client learns of it by a connection that ends too soon.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The upstream closed the connection in the middle, or framed the body wrong.
    #[error("the upstream broke off its answer")]
    Cut(#[source] hyper::Error),
    /// The upstream broke off in the middle, on HTTP/2.
    #[error("the upstream broke off its answer")]
    Reset(#[source] h2::Error),
    /// The upstream stopped sending.
    #[error("the upstream stopped in the middle of its answer")]
    Stalled,
}

impl BodyError {
    /// What the upstream said as it broke off, or what stands for that on HTTP/2 (RFC 9113, section 7). Some of
    /// what it may say would be a lie from here: that all is well, or that nothing was processed.
    pub fn reason(&self) -> Reason {
        let said = match self {
            BodyError::Reset(error) if error.is_reset() && error.is_remote() => error.reason(),
            BodyError::Cut(_) | BodyError::Reset(_) | BodyError::Stalled => None,
        };
        match said {
            None | Some(Reason::NO_ERROR | Reason::REFUSED_STREAM | Reason::HTTP_1_1_REQUIRED) => {
                Reason::INTERNAL_ERROR
            }
            Some(reason) => reason,
        }
    }
}

/// An I/O error in a word or two: "connection refused", without the error's number.
struct Brief<'e>(&'e io::Error);

impl fmt::Display for Brief<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.0.raw_os_error(), self.0.kind()) {
            (Some(_), kind) if kind.to_string() != "uncategorized error" => write!(f, "{kind}"),
            _ => write!(f, "{}", self.0),
        }
    }
}

/// What a body was refused for, where that is known: the server side says it with the data that it does not pass.
struct Why<'e>(&'e Cause);

impl fmt::Display for Why<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&**self.0);
        while let Some(error) = cause {
            if let Some(error) = error.downcast_ref::<io::Error>()
                && error.kind() == io::ErrorKind::InvalidData
            {
                return write!(f, ": {error}");
            }
            cause = error.source();
        }
        Ok(())
    }
}
