//! Requests that ask for something else than an answer: another protocol, or a way to another host.
//!
//! An `Upgrade` (RFC 9110, section 7.8) is passed on if its protocol is one of those that are allowed, and
//! a server may then switch to it: to that one, and only if it was asked. A server may ignore the field, and so
//! does this proxy where it cannot stand: in HTTP/1.0, without its `Connection` option, and beside a body, which
//! would have to be read to its end before anything else may come. Such a request is answered like any other.
//!
//! `CONNECT` (RFC 9110, section 9.3.6) is passed on as it is, where that is allowed: the servers decide where
//! it leads.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Version};
use http_body::Body;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::error::Error;
use super::headers::{agreed, has_token, is_host, tokens};
use super::upstream::Wire;

/// Which tunnels may be asked for.
#[derive(Clone, Debug)]
pub struct Rules {
    /// The names of the protocols of `Upgrade` that are passed on, in lower case.
    pub upgrades: Rc<[String]>,
    /// Whether `CONNECT` is.
    pub connect: bool,
}

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// To go on in this protocol, named as the client does.
    Upgrade(HeaderValue),
    Connect,
}

impl Wish {
    /// Whether this answer grants it.
    pub(super) fn is_granted(&self, status: StatusCode) -> bool {
        match self {
            Wish::Upgrade(_) => status == StatusCode::SWITCHING_PROTOCOLS,
            Wish::Connect => status.is_success(),
        }
    }

    /// Makes the head that tells the client of it: without the framing of a body that does not follow. `named`
    /// is the protocol that the server said it switches to.
    pub(super) fn grant(&self, response: &mut Response<()>, named: Option<&str>) -> Result<(), &'static str> {
        let headers = response.headers_mut();
        headers.remove(header::CONTENT_LENGTH);
        headers.remove(header::TRANSFER_ENCODING);
        let Wish::Upgrade(token) = self else { return Ok(()) };
        match named {
            Some(named) if name_of(named.as_bytes()).eq_ignore_ascii_case(name_of(token.as_bytes())) => {
                headers.insert(header::UPGRADE, token.clone());
                headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
                Ok(())
            }
            _ => Err("it switched to another protocol than it was asked for"),
        }
    }
}

/// The one protocol that a server switches to.
pub(super) fn switched_to(headers: &HeaderMap) -> Option<String> {
    let mut named = tokens(headers, &header::UPGRADE);
    match (named.next(), named.next()) {
        (Some(token), None) => String::from_utf8(token.to_vec()).ok(),
        _ => None,
    }
}

/// The first protocol of those that the client offers that may be passed on.
pub(super) fn upgrade<B: Body>(request: &Request<B>, rules: &Rules) -> Option<HeaderValue> {
    let headers = request.headers();
    // On HTTP/2 the field is ours: it stands for an extended CONNECT.
    let stands = matches!(request.version(), Version::HTTP_11 | Version::HTTP_2)
        && request.body().is_end_stream()
        && has_token(headers, &header::CONNECTION, "upgrade");
    let allowed = |token: &&[u8]| {
        let name = name_of(token);
        rules.upgrades.iter().any(|allowed| name.eq_ignore_ascii_case(allowed.as_bytes()))
    };
    let token = stands.then(|| tokens(headers, &header::UPGRADE).find(allowed)).flatten()?;
    HeaderValue::from_bytes(token).ok()
}

/// The name of a protocol, without its version.
fn name_of(token: &[u8]) -> &[u8] {
    token.split(|c| *c == b'/').next().unwrap_or_default()
}

/// The host and port that a `CONNECT` is for (RFC 9112, section 3.2.3), which its `Host` then says too. One that leaves
/// out the port means this one.
pub(super) fn take_target<B: Body>(request: &mut Request<B>, rules: &Rules) -> Result<HeaderValue, Error> {
    debug_assert_eq!(request.method(), Method::CONNECT);
    if !rules.connect {
        return Err(Error::Connect);
    }
    let target = request.uri();
    let authority = target.authority().map(|authority| authority.as_str()).unwrap_or_default();
    let is_authority_form = target.scheme().is_none() && target.path_and_query().is_none();
    let named = authority.rsplit_once(':').filter(|(host, port)| {
        let port_is_good =
            port.bytes().all(|c| c.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|n| n > 0);
        port_is_good && is_host(host.as_bytes()) && (!host.contains(':') || host.starts_with('['))
    });
    let (true, Some((_, port)), true) = (is_authority_form, named, request.body().is_end_stream()) else {
        return Err(Error::ConnectTarget);
    };
    let host = agreed(request, authority, port)?;
    request.headers_mut().insert(header::HOST, host.clone());
    Ok(host)
}

/// A connection to a server that carries something else than HTTP from here on.
#[derive(Debug)]
pub struct TunnelStream {
    stream: Wire,
    /// What the server sent right behind its answer.
    unread: Bytes,
}

impl TunnelStream {
    pub(super) fn new(stream: Wire, unread: Bytes) -> Self {
        TunnelStream { stream, unread }
    }

    /// Makes the close a reset: a server that would take a plain end for the end of what the client sends learns
    /// that it is not. On a Unix socket there is no such thing.
    pub(crate) fn reset_on_close(&self, reset: bool) {
        // A socket that is already gone needs no reset.
        socket2::SockRef::from(&self.stream).set_linger(reset.then_some(Duration::ZERO)).ok();
    }
}

impl AsyncRead for TunnelStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let n = this.unread.len().min(buf.remaining());
            // With the last of it the buffer is let go that it may be a small part of.
            buf.put(this.unread.split_to(n));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TunnelStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}
