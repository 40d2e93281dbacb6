//! Where a listener listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

/// The address of a listener: TCP over IPv4 or IPv6, or a Unix stream socket.
///
/// Its text form is `127.0.0.1:8080`, `[::1]:8080` or `unix:/run/app.sock`, and it parses what it prints.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenAddr {
    /// An IP address and a port; port 0 lets the kernel choose one.
    Tcp(SocketAddr),
    /// An absolute path in the file system.
    Unix(PathBuf),
}

/// Why a text is not a [`ListenAddr`]; its message says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not an address: expected IP:PORT such as 127.0.0.1:8080 or [::1]:8080, or unix:/absolute/path")]
pub struct ParseAddrError;

/// The longest path that fits `sockaddr_un` with its final NUL (unix(7)), in bytes.
const UNIX_PATH_MAX: usize = 107;

impl ListenAddr {
    /// Whether a socket bound to `bound` is what this address asks for.
    ///
    /// A port of 0 asks for any port, so it is satisfied by whichever the kernel chose before.
    pub fn is_satisfied_by(&self, bound: &ListenAddr) -> bool {
        match (self, bound) {
            (ListenAddr::Tcp(want), ListenAddr::Tcp(have)) => {
                want.ip() == have.ip() && (want.port() == 0 || want.port() == have.port())
            }
            (want, have) => want == have,
        }
    }
}

impl FromStr for ListenAddr {
    type Err = ParseAddrError;

    fn from_str(text: &str) -> Result<Self, ParseAddrError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let fits = path.starts_with('/') && path.len() <= UNIX_PATH_MAX && !path.contains('\0');
            return if fits { Ok(ListenAddr::Unix(PathBuf::from(path))) } else { Err(ParseAddrError) };
        }
        text.parse().map(ListenAddr::Tcp).map_err(|_| ParseAddrError)
    }
}

impl fmt::Display for ListenAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ListenAddr::Tcp(addr) => write!(f, "{addr}"),
            ListenAddr::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl serde::Serialize for ListenAddr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for ListenAddr {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_it_prints() {
        for text in ["127.0.0.1:8080", "[::1]:443", "0.0.0.0:0", "unix:/run/exuvia.sock"] {
            assert_eq!(text.parse::<ListenAddr>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_what_cannot_be_bound() {
        let long = format!("unix:/{}", "x".repeat(UNIX_PATH_MAX));
        for text in
            ["", "8080", "localhost:80", "unix:", "unix:relative", "127.0.0.1", "127.0.0.1:65536", &long]
        {
            assert_eq!(text.parse::<ListenAddr>(), Err(ParseAddrError), "{text}");
        }
    }

    #[test]
    fn port_zero_is_satisfied_by_any_port_of_the_same_ip() {
        let any: ListenAddr = "127.0.0.1:0".parse().unwrap();
        assert!(any.is_satisfied_by(&"127.0.0.1:4711".parse().unwrap()));
        assert!(!any.is_satisfied_by(&"127.0.0.2:4711".parse().unwrap()));
        let fixed: ListenAddr = "127.0.0.1:80".parse().unwrap();
        assert!(!fixed.is_satisfied_by(&"127.0.0.1:81".parse().unwrap()));
    }
}
