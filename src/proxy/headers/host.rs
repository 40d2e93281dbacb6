//! Which host a request is for, where it may say so twice.

use http::header::{self, HeaderValue};
use http::uri::{PathAndQuery, Uri};
use http::{Method, Request, Version};

use crate::proxy::error::Error;

/// The host that the request is for, from its `Host` or, in HTTP/2, its `:authority` (RFC 9112, section 3.2; RFC
/// 9113, section 8.3.1), which `Host` says from then on; the target is brought into origin-form. `None` only from an
/// HTTP/1.0 client that named none.
pub(super) fn take_host<B>(request: &mut Request<B>) -> Result<Option<HeaderValue>, Error> {
    let target = request.uri();
    // Not all types that a target can be made of refuse what HTTP/1 would split.
    let mut visible = target.path().bytes().chain(target.query().unwrap_or_default().bytes());
    if !visible.all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::Target);
    }
    let Some(authority) = target.authority() else {
        return match named(request)? {
            None if request.version() != Version::HTTP_10 => Err(Error::MissingHost),
            host => Ok(host),
        };
    };
    let port = match target.scheme_str() {
        Some(scheme) if scheme.eq_ignore_ascii_case("http") => "80",
        Some(scheme) if scheme.eq_ignore_ascii_case("https") => "443",
        // Authority-form is for CONNECT alone, and of other schemes nobody here knows the port.
        _ => return Err(Error::Target),
    };
    let host = agreed(request, authority.as_str(), port)?;
    let origin = match target.path_and_query() {
        // HTTP/2 can say "*" itself (RFC 9112, section 3.2.4; RFC 9113, section 8.3.1).
        _ if request.version() != Version::HTTP_2
            && request.method() == Method::OPTIONS
            && target.path() == "/"
            && target.query().is_none() =>
        {
            PathAndQuery::from_static("*")
        }
        Some(origin) => origin.clone(),
        None => PathAndQuery::from_static("/"),
    };
    *request.uri_mut() = Uri::from(origin);
    request.headers_mut().insert(header::HOST, host.clone());
    Ok(Some(host))
}

/// What `Host` says; it may do so once.
fn named<B>(request: &Request<B>) -> Result<Option<HeaderValue>, Error> {
    let mut named = request.headers().get_all(header::HOST).iter();
    match (named.next(), named.next()) {
        (_, Some(_)) => Err(Error::RepeatedHost),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(Some(host.clone())),
        (Some(_), None) => Err(Error::InvalidHost),
        (None, None) => Ok(None),
    }
}

/// The host that a target's `authority` names. `Host` must name the same, if it is there, as it must be in HTTP/1.1:
/// whoever routes by one would be passed by with the other. A port that one leaves out is `port`.
pub(in crate::proxy) fn agreed<B>(
    request: &Request<B>,
    authority: &str,
    port: &str,
) -> Result<HeaderValue, Error> {
    let host = named(request)?;
    if !is_host(authority.as_bytes()) {
        return Err(Error::InvalidHost);
    }
    match host {
        Some(host) if !is_same_host(host.as_bytes(), authority.as_bytes(), port) => Err(Error::HostMismatch),
        None if request.version() == Version::HTTP_11 => Err(Error::MissingHost),
        _ => HeaderValue::try_from(authority).map_err(|_| Error::InvalidHost),
    }
}

/// Whether this is `uri-host [ ":" port ]` (RFC 3986, section 3.2.2). What is not, such as a space, a slash, an
/// `@` or a second colon, different servers read differently.
pub(in crate::proxy) fn is_host(host: &[u8]) -> bool {
    let (name, port) = split_port(host);
    let is_name = |c: &u8| {
        c.is_ascii_alphanumeric()
            || matches!(c, b'-' | b'.' | b'_' | b'~' | b'%' | b'!' | b'$' | b'&'..=b',' | b';' | b'=')
    };
    let is_literal = |c: &u8| c.is_ascii_hexdigit() || b":.".contains(c);
    let named = match name.strip_prefix(b"[").map(|literal| literal.strip_suffix(b"]")) {
        Some(literal) => literal.is_some_and(|literal| !literal.is_empty() && literal.iter().all(is_literal)),
        None => !name.is_empty() && name.iter().all(is_name),
    };
    named && port.is_none_or(|port| port.len() <= 5 && port.iter().all(u8::is_ascii_digit))
}

/// The host and what stands behind its colon.
fn split_port(host: &[u8]) -> (&[u8], Option<&[u8]>) {
    // An IPv6 address has colons of its own, but brackets around them.
    let end = host.iter().rposition(|c| *c == b']').unwrap_or(0);
    match host[end..].iter().position(|c| *c == b':') {
        Some(colon) => (&host[..end + colon], Some(&host[end + colon + 1..])),
        None => (host, None),
    }
}

/// Whether two hosts are the same: without regard to case, or to a `port` that goes without saying (RFC 9110, section
/// 4.2.3).
fn is_same_host(one: &[u8], other: &[u8], port: &str) -> bool {
    let parts = |host| {
        let (name, said) = split_port(host);
        (name, said.filter(|said| !said.is_empty()).unwrap_or(port.as_bytes()))
    };
    let ((one, port), (other, other_port)) = (parts(one), parts(other));
    one.eq_ignore_ascii_case(other) && port == other_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for host in
            ["a", "a.b:80", "a:", "[::1]:80", "[::ffff:1.2.3.4]", "xn--bcher-kva.example", "1.2.3.4", "a_b"]
        {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "",
            "a b",
            "a/b",
            "user@a",
            "a?b",
            "a#b",
            "a\\b",
            "b\u{fc}cher",
            "a\t",
            ":80",
            "a:80:80",
            "a:x",
            "a:-1",
            "a:123456",
            "::1",
            "[::1",
            "::1]",
            "[]",
            "[::1]a",
            "[::1]:x",
            "a[::1]",
            "[g]",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn the_same_host() {
        for (one, other, port) in [
            ("a", "A", "80"),
            ("a:80", "a", "80"),
            ("a", "a:", "80"),
            ("a:443", "a", "443"),
            ("[::1]:8080", "[::1]:8080", "80"),
        ] {
            assert!(is_same_host(one.as_bytes(), other.as_bytes(), port), "{one} {other} {port}");
        }
        for (one, other, port) in
            [("a", "b", "80"), ("a:443", "a", "80"), ("a:80", "a", "443"), ("a:81", "a:82", "80")]
        {
            assert!(!is_same_host(one.as_bytes(), other.as_bytes(), port), "{one} {other} {port}");
        }
    }

    /// HTTP/2 names the host in the target, and `Host` is for those who came by way of HTTP/1 (RFC 9113, section
    /// 8.3.1).
    #[test]
    fn the_host_of_an_http_2_request() {
        let host = |target: &str, host: Option<&str>| {
            let mut request = Request::builder().version(Version::HTTP_2).uri(target);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let mut request = request.body(()).unwrap();
            let host = take_host(&mut request).map_err(|error| error.label());
            (host.map(|host| host.unwrap().to_str().unwrap().to_owned()), request.uri().to_string())
        };
        let ok = |host: &str| Ok(host.to_owned());
        assert_eq!(host("https://a/p?q", None), (ok("a"), "/p?q".into()));
        assert_eq!(host("https://a/p", Some("A:443")), (ok("a"), "/p".into()));
        assert_eq!(host("HTTPS://a:443/p", Some("a")), (ok("a:443"), "/p".into()));
        assert_eq!(host("ftp://a/", None).0, Err("target_invalid"));
        assert_eq!(host("/p", Some("a")), (ok("a"), "/p".into()));
        assert_eq!(host("https://a/", Some("b")).0, Err("host_mismatch"));
        assert_eq!(host("https://u@a/", None).0, Err("host_invalid"));
        assert_eq!(host("/p", None).0, Err("host_missing"));
    }
}
