//! From a request of HTTP/2 to one that the proxy understands.
//!
//! h2 has refused what breaks RFC 9113, section 8: pseudo-headers that are missing, repeated, unknown or behind
//! others, fields for one connection, upper-case names. What it lets through, and an upstream that speaks HTTP/1
//! could misread, is refused here.

use h2::RecvStream;
use h2::ext::Protocol;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode, request};

use super::tunnel::Asked;
use super::websocket;

/// Why a request is not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// It is malformed (RFC 9113, section 8.1.1).
    Malformed(&'static str),
    /// It is answered with this.
    Answer(StatusCode),
}

/// A request that is not passed on.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) why: Refusal,
    /// Its head, as far as it was translated.
    pub(super) request: Box<Request<()>>,
}

/// What is taken from the head beside its translation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// The length of the body.
    pub(super) length: Option<u64>,
    /// Whether the client waits for a 100 before it sends the body.
    pub(super) expects: bool,
    pub(super) is_head: bool,
    /// What is asked for in place of an answer.
    pub(super) tunnel: Option<Asked>,
}

/// Translates the head in place: one `Cookie`, one length. `:authority` stays in the target, where the proxy looks for
/// it.
pub(super) fn translate(
    request: Request<RecvStream>,
    max_headers: usize,
    websockets: bool,
) -> Result<(request::Parts, RecvStream, Facts), Refused> {
    let (mut parts, stream) = request.into_parts();
    match prepare(&mut parts, max_headers, websockets) {
        Ok(facts) => Ok((parts, stream, facts)),
        Err(why) => Err(Refused { why, request: Box::new(Request::from_parts(parts, ())) }),
    }
}

fn prepare(parts: &mut request::Parts, max_headers: usize, websockets: bool) -> Result<Facts, Refusal> {
    if parts.headers.len() > max_headers {
        return Err(Refusal::Answer(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
    }
    let protocol = parts.extensions.get::<Protocol>();
    let is_websocket =
        websockets && protocol.is_some_and(|name| name.as_str().eq_ignore_ascii_case(websocket::NAME));
    if protocol.is_some() && !is_websocket {
        return Err(Refusal::Answer(StatusCode::NOT_IMPLEMENTED));
    }
    let is_connect = !is_websocket && parts.method == Method::CONNECT;
    let mut cookies = 0;
    for (name, value) in &parts.headers {
        if value.as_bytes().trim_ascii().len() != value.len() {
            return Err(Refusal::Malformed("a field value begins or ends with a space"));
        }
        cookies += usize::from(name == header::COOKIE);
    }
    if cookies > 1 {
        join_cookies(&mut parts.headers);
    }
    let mut tunnel = match is_websocket {
        true => Some(Asked::WebSocket(websocket::ask(parts).map_err(Refusal::Answer)?)),
        false => None,
    };
    let length = take_length(&mut parts.headers)?;
    if is_connect {
        // Whether it may be, the proxy decides; and it takes none that says it has a body.
        tunnel = (length.unwrap_or(0) == 0).then_some(Asked::Connect);
    } else {
        check_target(parts)?;
    }
    Ok(Facts {
        length,
        expects: parts
            .headers
            .get(header::EXPECT)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        is_head: parts.method == Method::HEAD,
        tunnel,
    })
}

/// HTTP/1 has one field for all (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(cookie) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(header::COOKIE, cookie);
    }
}

/// h2 has checked that lengths are numbers and agree, and holds the body to them; an empty one is nought to it.
fn take_length(headers: &mut HeaderMap) -> Result<Option<u64>, Refusal> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(None) };
    let repeated = lengths.next().is_some();
    let length = first.to_str().ok().and_then(|text| text.parse::<u64>().ok());
    let length = length.ok_or(Refusal::Malformed("a content-length that is no number"))?;
    if repeated {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
    Ok(Some(length))
}

fn check_target(parts: &request::Parts) -> Result<(), Refusal> {
    let target = parts.uri.path_and_query().map_or("", PathAndQuery::as_str);
    let is_whole_server = target == "*" && parts.method == Method::OPTIONS;
    if !target.starts_with('/') && !is_whole_server {
        return Err(Refusal::Malformed("a path that does not begin with a slash"));
    }
    Ok(())
}
