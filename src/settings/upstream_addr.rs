//! Where an upstream server is.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use crate::restart::ListenAddr;

/// The address of an upstream server.
///
/// Its text form is `10.0.0.7:9001`, `[::1]:9001`, `unix:/run/app.sock` or `app.internal:9001`, and it parses
/// what it prints. A port is never 0.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum UpstreamAddr {
    /// An IP address and a port.
    Socket(SocketAddr),
    /// A Unix stream socket at an absolute path.
    Unix(PathBuf),
    /// A host name, to be resolved, and a port.
    Name(String, u16),
}

/// Why a text is not an [`UpstreamAddr`]; its message says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected HOST:PORT such as 127.0.0.1:9001, [::1]:9001 or app.internal:9001, or unix:/absolute/path")]
pub struct ParseUpstreamAddrError;

impl FromStr for UpstreamAddr {
    type Err = ParseUpstreamAddrError;

    fn from_str(text: &str) -> Result<Self, ParseUpstreamAddrError> {
        match text.parse() {
            Ok(ListenAddr::Tcp(addr)) if addr.port() != 0 => return Ok(UpstreamAddr::Socket(addr)),
            Ok(ListenAddr::Unix(path)) => return Ok(UpstreamAddr::Unix(path)),
            Ok(ListenAddr::Tcp(_)) => return Err(ParseUpstreamAddrError),
            Err(_) => {}
        }
        let (host, port) = text.rsplit_once(':').ok_or(ParseUpstreamAddrError)?;
        let digits_only = port.bytes().all(|byte| byte.is_ascii_digit());
        match port.parse() {
            Ok(port) if port != 0 && digits_only && is_host_name(host) => {
                Ok(UpstreamAddr::Name(host.to_owned(), port))
            }
            _ => Err(ParseUpstreamAddrError),
        }
    }
}

/// RFC 1123, section 2.1, with the underscore that container networks use. The last label is not all digits,
/// so that a mistyped IP address is not looked up as a name.
fn is_host_name(host: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last_is_number =
        host.rsplit('.').next().is_some_and(|label| label.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(is_label) && !last_is_number
}

impl fmt::Display for UpstreamAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            UpstreamAddr::Socket(addr) => write!(f, "{addr}"),
            UpstreamAddr::Unix(path) => write!(f, "unix:{}", path.display()),
            UpstreamAddr::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in
            ["127.0.0.1:9001", "[::1]:9001", "unix:/run/app.sock", "localhost:80", "my_app.internal:65535"]
        {
            assert_eq!(text.parse::<UpstreamAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_cannot_be_dialled() {
        let long = format!("{}:80", "a".repeat(64));
        for text in [
            "",
            ":",
            "80",
            ":80",
            "localhost",
            "localhost:",
            "localhost:0",
            "127.0.0.1:0",
            "localhost:65536",
            "localhost:+80",
            "127.0.0.256:80",
            "127.1:80",
            "::1:80",
            "-a:80",
            "a-:80",
            "a..b:80",
            "a.:80",
            "a b:80",
            "http://a:80",
            "unix:relative",
            "ä:80",
            &long,
        ] {
            assert_eq!(text.parse::<UpstreamAddr>(), Err(ParseUpstreamAddrError), "{text}");
        }
    }
}
