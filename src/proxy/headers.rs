//! What a proxy must change in the fields of a request and of an answer, done in place.
//!
//! - Fields for one hop end here (RFC 9110, section 7.6.1), with those that `Connection` names. But
//!   `Connection` cannot take away what every recipient needs (`END_TO_END`): a client could otherwise
//!   have this proxy strip the fields by which the upstream routes, frames or authorises.
//! - `X-Forwarded-*` is *set*, never extended, and its relatives are dropped: this is an edge, and what an
//!   unknown client says of whom it speaks for is worth nothing, be it spelt with underscores or in trailers.
//!   So it is with `X-Client-Cert-*`, which a listener that asks for certificates sets and nobody else.
//! - `Via` is extended both ways (RFC 9110, section 7.6.3).

mod host;

use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, Scheme, Uri};
use http::{Method, Request, Response, Version};
use http_body::Body;

use super::ClientCertificate;
use super::error::Error;
use super::tunnel::{self, Rules, Wish};
use host::take_host;
pub(super) use host::{agreed, is_host};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY: HeaderName = HeaderName::from_static("proxy");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const X_CLIENT_CERT_SUBJECT: HeaderName = HeaderName::from_static("x-client-cert-subject");
const X_CLIENT_CERT_VERIFIED: HeaderName = HeaderName::from_static("x-client-cert-verified");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

const VIA_1_0: HeaderValue = HeaderValue::from_static("1.0 exuvia");
const VIA_1_1: HeaderValue = HeaderValue::from_static("1.1 exuvia");
const VIA_2_0: HeaderValue = HeaderValue::from_static("2.0 exuvia");

/// What a client may not say: whom it speaks for, credentials meant for a forward proxy, and the field that
/// CGI turns into `HTTP_PROXY` (httpoxy.org).
static NOT_FROM_CLIENTS: [HeaderName; 5] =
    [header::FORWARDED, X_FORWARDED_PORT, X_REAL_IP, header::PROXY_AUTHORIZATION, PROXY];

/// What this proxy says of the client; nobody else may, in any spelling and in any place.
static OURS: [HeaderName; 5] =
    [X_FORWARDED_FOR, X_FORWARDED_HOST, X_FORWARDED_PROTO, X_CLIENT_CERT_SUBJECT, X_CLIENT_CERT_VERIFIED];

/// What frames or routes a message, which is too late for in trailers (RFC 9110, section 6.5.1). HTTP/1 clients are
/// refused for it; that their transfer coding ends here goes without saying.
static NOT_IN_TRAILERS: [HeaderName; 2] = [header::CONTENT_LENGTH, header::HOST];

/// What is for one hop, beside what `Connection` names.
static ONE_HOP: [HeaderName; 6] =
    [HTTP2_SETTINGS, KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE];

/// What `Connection` names in vain.
static END_TO_END: [HeaderName; 14] = [
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::DATE,
    header::HOST,
    header::LOCATION,
    header::SET_COOKIE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::VIA,
];

/// What the upstream is told of the client: computed once for each connection.
#[derive(Debug)]
pub(super) struct Forwarded {
    client: HeaderValue,
    scheme: HeaderValue,
    /// Whether its certificate was verified; `None` where clients are not asked for one.
    verified: Option<HeaderValue>,
    subject: Option<HeaderValue>,
}

impl Forwarded {
    /// `client` is `None` on a Unix socket.
    pub(super) fn new(client: Option<IpAddr>, scheme: &'static str, certificate: ClientCertificate) -> Self {
        let unknown = HeaderValue::from_static("unknown");
        let address = client.map(|ip| ip.to_canonical().to_string());
        let client = address.and_then(|text| HeaderValue::try_from(text).ok()).unwrap_or(unknown);
        let (verified, subject) = match certificate {
            ClientCertificate::NotAsked => (None, None),
            ClientCertificate::NotShown => (Some("NONE"), None),
            ClientCertificate::Verified { subject } => {
                let subject = Some(subject).filter(|subject| !subject.is_empty());
                (Some("SUCCESS"), subject.and_then(|subject| HeaderValue::try_from(subject).ok()))
            }
        };
        let verified = verified.map(HeaderValue::from_static);
        Forwarded { client, scheme: HeaderValue::from_static(scheme), verified, subject }
    }
}

/// Turns what a client sent into what the upstream gets, or refuses it.
pub(super) fn prepare_request<B: Body>(
    request: &mut Request<B>,
    forwarded: &Forwarded,
    rules: &Rules,
) -> Result<Asked, Error> {
    let found = Found::among(request.headers());
    let chunked = found.chunked(request.headers()).map_err(|()| Error::TransferCoding)?;
    if found.lengths > 1 || found.odd_length || found.lengths > 0 && chunked {
        return Err(Error::ContentLength);
    }
    let (wish, host) = if request.method() == Method::CONNECT {
        (Some(Wish::Connect), Some(tunnel::take_target(request, rules)?))
    } else {
        let wish = if found.upgrade { tunnel::upgrade(request, rules).map(Wish::Upgrade) } else { None };
        (wish, take_host(request)?)
    };
    // HTTP/2 has frames to say where a body ends.
    let chunked = chunked
        || request.version() == Version::HTTP_2 && !request.headers().contains_key(header::CONTENT_LENGTH);
    let via = via(request.version());
    let is_1_0 = request.version() == Version::HTTP_10;
    *request.version_mut() = Version::HTTP_11;
    // hyper leaves a handle for an upgrade there, which is none of the upstream's business.
    request.extensions_mut().clear();

    let has_body = !request.body().is_end_stream();
    let headers = request.headers_mut();
    let trailers = found.one_hop && has_token(headers, &header::TE, "trailers");
    found.end_hop(headers);
    found.end_claims(headers);
    let expects = found.expect && has_body && !is_1_0 && is_continue(headers);
    if found.expect && !expects && has_token(headers, &header::EXPECT, "100-continue") {
        // There is nothing to wait for, or nobody who would understand.
        headers.remove(header::EXPECT);
    }
    if chunked && has_body {
        // Without it hyper would send a GET of unknown length without its body.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(Wish::Upgrade(token)) = &wish {
        headers.insert(header::UPGRADE, token.clone());
        headers.append(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    if let Some(host) = host {
        headers.insert(X_FORWARDED_HOST, host);
    } else {
        headers.remove(X_FORWARDED_HOST);
    }
    headers.insert(X_FORWARDED_FOR, forwarded.client.clone());
    headers.insert(X_FORWARDED_PROTO, forwarded.scheme.clone());
    if found.certificate {
        headers.remove(X_CLIENT_CERT_SUBJECT);
        headers.remove(X_CLIENT_CERT_VERIFIED);
    }
    if let Some(verified) = &forwarded.verified {
        headers.insert(X_CLIENT_CERT_VERIFIED, verified.clone());
    }
    if let Some(subject) = &forwarded.subject {
        headers.insert(X_CLIENT_CERT_SUBJECT, subject.clone());
    }
    headers.append(header::VIA, via);
    Ok(Asked { wish, expects })
}

/// What a request asks for beside its answer.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) wish: Option<Wish>,
    /// The word to go on with its body (RFC 9110, section 10.1.1).
    pub(super) expects: bool,
}

/// Whether the client waits for a word before it sends its body: as hyper sees it, which gives that word when
/// the body is first read.
fn is_continue(headers: &HeaderMap) -> bool {
    let mut expected = headers.get_all(header::EXPECT).iter();
    let first = expected.next().is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    first && expected.next().is_none()
}

/// Takes from a client's trailers what it may not say in its head either: there are servers that merge the two.
pub(super) fn prepare_trailers(trailers: &mut HeaderMap) {
    let found = Found::among(trailers);
    found.end_hop(trailers);
    found.end_claims(trailers);
    for name in OURS.iter().chain(&NOT_IN_TRAILERS) {
        trailers.remove(name);
    }
}

/// Takes away what is for one hop: of an interim answer, of trailers, and of an answer that goes on by HTTP/2, where
/// none of it may be.
pub(crate) fn end_hop(headers: &mut HeaderMap) {
    Found::among(headers).end_hop(headers);
}

/// Turns a request for HTTP/1.1 into one for HTTP/2, where the target has all its parts and connections have no
/// fields (RFC 9113, sections 8.2.2 and 8.3.1).
pub(super) fn prepare_http2(request: &mut Request<()>, is_tls: bool) -> Result<(), Error> {
    let headers = request.headers_mut();
    for name in [&header::CONNECTION, &header::TRANSFER_ENCODING, &header::UPGRADE] {
        headers.remove(name);
    }
    let Some(host) = headers.remove(header::HOST) else {
        // From an HTTP/1.0 client; h2 adds a scheme.
        return Ok(());
    };
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(if is_tls { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| Error::InvalidHost)?);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Error::Target)?;
    Ok(())
}

/// Turns what the upstream sent into what the client gets. An error is a framing that this proxy does not
/// understand.
pub(super) fn prepare_response<B: Body>(response: &mut Response<B>) -> Result<(), &'static str> {
    let via = via(response.version());
    *response.version_mut() = Version::HTTP_11;
    let exact = response.body().size_hint().exact().filter(|_| !response.body().is_end_stream());
    let headers = response.headers_mut();
    let found = Found::among(headers);
    if found.chunked(headers).map_err(|()| "a transfer coding that was not asked for")? {
        // The transfer coding overrides it (RFC 9112, section 6.3); passed on, it would frame the body.
        headers.remove(header::CONTENT_LENGTH);
    }
    if let Some(exact) = exact
        && found.listed_length
    {
        // "5, 5" is 5, but not every client knows.
        headers.insert(header::CONTENT_LENGTH, exact.into());
    }
    found.end_hop(headers);
    headers.append(header::VIA, via);
    Ok(())
}

fn via(version: Version) -> HeaderValue {
    match version {
        Version::HTTP_10 => VIA_1_0,
        Version::HTTP_2 => VIA_2_0,
        _ => VIA_1_1,
    }
}

/// Whether the body is chunked. An error is any other coding: what is not understood cannot be passed on,
/// because the coding ends here.
fn check_transfer_coding(headers: &HeaderMap) -> Result<bool, ()> {
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some(coding), None) if coding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(()),
    }
}

/// Whether this is `1*DIGIT` that nobody takes for octal.
fn is_plain_number(text: &[u8]) -> bool {
    match text {
        [] | [b'0', _, ..] => false,
        digits => digits.iter().all(u8::is_ascii_digit),
    }
}

/// Which of the rules above have work with a message; in most messages few have. To look at each name once costs
/// less than to ask the map for every field that might be there, and a comparison of texts less than one of
/// [`HeaderName`]s.
#[derive(Debug, Default)]
struct Found {
    connection: bool,
    /// `Connection` names fields.
    names: bool,
    one_hop: bool,
    transfer_encoding: bool,
    proxy_authenticate: bool,
    /// A length that is a list, such as "5, 5".
    listed_length: bool,
    /// How many lengths there are.
    lengths: usize,
    /// A length that is no plain number.
    odd_length: bool,
    expect: bool,
    upgrade: bool,
    not_from_clients: bool,
    certificate: bool,
    underscore: bool,
}

impl Found {
    fn among(headers: &HeaderMap) -> Found {
        let mut found = Found::default();
        for (name, value) in headers {
            match name.as_str() {
                "connection" => {
                    found.connection = true;
                    found.names |= !names_no_field(value.as_bytes());
                }
                "transfer-encoding" => (found.one_hop, found.transfer_encoding) = (true, true),
                "upgrade" => (found.one_hop, found.upgrade) = (true, true),
                "http2-settings" | "keep-alive" | "proxy-connection" | "te" => found.one_hop = true,
                "content-length" => {
                    found.lengths += 1;
                    found.listed_length |= value.as_bytes().contains(&b',');
                    found.odd_length |= !is_plain_number(value.as_bytes());
                }
                "expect" => found.expect = true,
                "forwarded" | "proxy" | "proxy-authorization" | "x-forwarded-port" | "x-real-ip" => {
                    found.not_from_clients = true;
                }
                "x-client-cert-subject" | "x-client-cert-verified" => found.certificate = true,
                "proxy-authenticate" => found.proxy_authenticate = true,
                other if other.starts_with(DISGUISED) => found.underscore |= other.contains('_'),
                _ => {}
            }
        }
        found
    }

    /// See [`check_transfer_coding`].
    fn chunked(&self, headers: &HeaderMap) -> Result<bool, ()> {
        if self.transfer_encoding { check_transfer_coding(headers) } else { Ok(false) }
    }

    /// Removes the fields that are for one hop only.
    fn end_hop(&self, headers: &mut HeaderMap) {
        if self.names {
            remove_named(headers);
        }
        if self.connection {
            headers.remove(header::CONNECTION);
        }
        if self.one_hop {
            ONE_HOP.iter().for_each(|name| drop(headers.remove(name)));
        }
        if self.proxy_authenticate {
            headers.remove(header::PROXY_AUTHENTICATE);
        }
    }

    /// Removes what a client may not say, apart from what this proxy says itself.
    fn end_claims(&self, headers: &mut HeaderMap) {
        if self.not_from_clients {
            NOT_FROM_CLIENTS.iter().for_each(|name| drop(headers.remove(name)));
        }
        if self.underscore {
            remove_disguised(headers);
        }
    }
}

/// How those begin of `OURS` and `NOT_FROM_CLIENTS` that have a hyphen; most names need not be looked through.
const DISGUISED: [char; 2] = ['p', 'x'];

/// Removes `X_Forwarded_For` and its like: CGI and its heirs (RFC 3875, section 4.1.18) take it for the field
/// with hyphens.
fn remove_disguised(headers: &mut HeaderMap) {
    let is_disguised = |name: &&HeaderName| {
        let name = name.as_str();
        name.contains('_') && {
            let meant = name.replace('_', "-");
            OURS.iter().chain(&NOT_FROM_CLIENTS).any(|name| *name == *meant)
        }
    };
    // Seldom is there one, and then there are more.
    while let Some(name) = headers.keys().find(is_disguised).cloned() {
        headers.remove(name);
    }
}

/// Whether a member of `Connection` is one of the common ones, which name no field.
fn names_no_field(token: &[u8]) -> bool {
    token.eq_ignore_ascii_case(b"close") || token.eq_ignore_ascii_case(b"keep-alive")
}

fn remove_named(headers: &mut HeaderMap) {
    let mut named = Vec::new();
    for token in tokens(headers, &header::CONNECTION) {
        if let Ok(name) = HeaderName::from_bytes(token)
            && !names_no_field(token)
            && !END_TO_END.contains(&name)
        {
            named.push(name);
        }
    }
    for name in named {
        headers.remove(name);
    }
}

pub(super) fn has_token(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    tokens(headers, name).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

/// The members of a list field (RFC 9110, section 5.6.1).
pub(super) fn tokens<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h [u8]> {
    let values = headers.get_all(name).into_iter();
    values.flat_map(|value| value.as_bytes().split(|c| *c == b',')).map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests;
