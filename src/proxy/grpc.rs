//! How a call of gRPC is told that this proxy, and no server, answers it.
//!
//! A client of gRPC does not look at the HTTP status: it wants 200 and a `grpc-status`. Without a body that stands in the
//! head, which ends the stream: a *trailers-only* answer (gRPC over HTTP/2, "Responses"). gRPC-Web, be it by HTTP/1 or
//! HTTP/2, takes the same, with its own content type.
//!
//! Which code belongs to which error stands in the table of errors. The ground is the mapping from HTTP statuses that
//! gRPC and Envoy document ([`Code::of`]); where that would say less than is known, the table says more.

use std::fmt::Write;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

const APPLICATION: &[u8] = b"application/grpc";

/// A status code of gRPC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    Unknown = 2,
    DeadlineExceeded = 4,
    PermissionDenied = 7,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Internal = 13,
    Unavailable = 14,
    Unauthenticated = 16,
}

impl Code {
    /// What stands for an HTTP status (gRPC, "HTTP to gRPC Status Code Mapping").
    pub(super) fn of(status: StatusCode) -> Code {
        match status {
            StatusCode::BAD_REQUEST => Code::Internal,
            StatusCode::UNAUTHORIZED => Code::Unauthenticated,
            StatusCode::FORBIDDEN => Code::PermissionDenied,
            StatusCode::NOT_FOUND => Code::Unimplemented,
            // Its message is over a limit, and the same would be refused again.
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::PAYLOAD_TOO_LARGE => {
                Code::ResourceExhausted
            }
            StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => Code::Unavailable,
            _ => Code::Unknown,
        }
    }
}

/// The content type of an answer to this request, if it is a call of gRPC or gRPC-Web.
pub(super) fn content_type(method: &Method, headers: &HeaderMap) -> Option<HeaderValue> {
    // Every call is one; to ask nothing else keeps the others cheap.
    if method != Method::POST {
        return None;
    }
    let asked = headers.get(header::CONTENT_TYPE)?;
    let is = |name: &[u8]| {
        let text = asked.as_bytes();
        let begins = text.get(..name.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(name));
        begins && matches!(text.get(name.len()), None | Some(b'+' | b';' | b' '))
    };
    if is(APPLICATION) {
        Some(HeaderValue::from_static("application/grpc"))
    } else if is(b"application/grpc-web") || is(b"application/grpc-web-text") {
        Some(asked.clone())
    } else {
        None
    }
}

/// Makes `headers` those of an answer that has `code`, and no body.
pub(super) fn say(headers: &mut HeaderMap, content_type: HeaderValue, code: Code, message: &str) {
    headers.insert(header::CONTENT_TYPE, content_type);
    headers.insert(GRPC_STATUS, HeaderValue::from(code as u16));
    if let Ok(message) = HeaderValue::try_from(encoded(message)) {
        headers.insert(GRPC_MESSAGE, message);
    }
}

/// As gRPC has it: `%` and everything that is not printable ASCII as `%XX`.
fn encoded(message: &str) -> String {
    let mut encoded = String::with_capacity(message.len());
    for byte in message.bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' => encoded.push(byte.into()),
            // Into a String this cannot fail.
            _ => write!(encoded, "%{byte:02X}").unwrap_or_default(),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(method: Method, asked: &'static str) -> Option<HeaderValue> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(asked));
        content_type(&method, &headers)
    }

    #[test]
    fn calls_are_told_by_their_content_type() {
        for (asked, answer) in [
            ("application/grpc", "application/grpc"),
            ("Application/GRPC+proto", "application/grpc"),
            ("application/grpc;charset=utf-8", "application/grpc"),
            ("application/grpc-web", "application/grpc-web"),
            ("application/grpc-web+proto", "application/grpc-web+proto"),
            ("application/grpc-web-text+proto", "application/grpc-web-text+proto"),
        ] {
            assert_eq!(answered(Method::POST, asked), Some(HeaderValue::from_static(answer)), "{asked}");
        }
        for other in ["application/grpcx", "application/grpc-webx", "application/json", "application/grp", ""]
        {
            assert_eq!(answered(Method::POST, other), None, "{other}");
        }
        assert_eq!(answered(Method::GET, "application/grpc"), None);
    }

    #[test]
    fn a_message_is_percent_encoded() {
        assert_eq!(encoded("502 Bad Gateway (a~b)"), "502 Bad Gateway (a~b)");
        assert_eq!(encoded("100%\n\u{e9}\u{7f}"), "100%25%0A%C3%A9%7F");
    }
}
