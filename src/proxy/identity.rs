//! Which request a log line is about, and which id its client was told.
//!
//! What stands here is the client's: it is written in printable ASCII and up to a length, never headers or bodies, and
//! a query only where the settings say so. As long as nothing is logged it costs a few reference counts; an id is
//! computed when it is first needed.

use std::cell::{Cell, RefCell};
use std::fmt::{self, Write};
use std::hash::{BuildHasher, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::{HeaderName, Method, Request, Uri};

use super::grpc;

/// The field that tells a client the id of its request, and, where the settings say so, a server.
pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Logs with the fields that name a request: `log_request!(warn, identity, field = value, "message")`. With `each`
/// before the level, none of these lines is left out, however many there are: what the deadline of a drain cuts.
macro_rules! log_request {
    (each $level:ident, $($rest:tt)+) => {
        // `log/thinning.rs` knows the target.
        log_request!(@to "exuvia::cut", $level, $($rest)+)
    };
    ($level:ident, $($rest:tt)+) => {
        log_request!(@to module_path!(), $level, $($rest)+)
    };
    (@to $target:expr, $level:ident, $identity:expr, $($rest:tt)+) => {
        tracing::$level!(
            target: $target,
            id = %$identity.id(),
            method = %$identity.method(),
            host = %$identity.host(),
            path = %$identity.path(),
            client = %$identity.client().address(),
            listener = $identity.client().listener(),
            $($rest)+
        )
    };
}
pub(crate) use log_request;

/// Logs with the fields that name a client, where there is no request: `log_client!(debug, client, "message")`.
macro_rules! log_client {
    ($level:ident, $client:expr, $($rest:tt)+) => {
        tracing::$level!(client = %$client.address(), listener = $client.listener(), $($rest)+)
    };
}
pub(crate) use log_client;

/// The id of a request, or of what came in place of one: 128 bits that say nothing of how many there were. No two
/// have the same, in any worker of any generation, but for a chance of one in 2^64 among billions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestId([u64; 2]);

impl RequestId {
    /// As a header's value.
    pub(crate) fn to_value(self) -> HeaderValue {
        HeaderValue::try_from(self.to_string()).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.0[0], self.0[1])
    }
}

/// Where the ids of one worker come from: a counter under a keyed hash, of which the key is drawn for each worker.
#[derive(Debug, Default)]
pub(super) struct Ids {
    key: RandomState,
    last: Cell<u64>,
}

impl Ids {
    fn next(&self) -> u64 {
        let number = self.last.get() + 1;
        self.last.set(number);
        number
    }

    fn id(&self, number: u64) -> RequestId {
        RequestId([self.key.hash_one((number, 0_u8)), self.key.hash_one((number, 1_u8))])
    }
}

/// Who is connected, and where.
#[derive(Debug)]
pub struct ClientIdentity {
    address: Option<SocketAddr>,
    listener: Arc<str>,
    ids: Rc<Ids>,
    logs_query: bool,
}

impl ClientIdentity {
    pub(super) fn new(
        address: Option<SocketAddr>,
        listener: Arc<str>,
        ids: Rc<Ids>,
        logs_query: bool,
    ) -> Rc<Self> {
        Rc::new(ClientIdentity { address, listener, ids, logs_query })
    }

    /// An id for what came in place of a request.
    pub(crate) fn next_id(&self) -> RequestId {
        self.ids.id(self.ids.next())
    }

    /// The client's address, as far as it is known.
    pub(crate) fn address(&self) -> impl fmt::Display {
        let address = self.address;
        Shown(move |f: &mut fmt::Formatter<'_>| match address {
            Some(address) => write!(f, "{}", SocketAddr::new(address.ip().to_canonical(), address.port())),
            None => f.write_str("unix"),
        })
    }

    /// The name of the listener that it came to.
    pub(crate) fn listener(&self) -> &str {
        &self.listener
    }
}

/// The request that an exchange is about, or was about last.
#[derive(Debug)]
pub struct RequestIdentity {
    client: Rc<ClientIdentity>,
    number: Cell<u64>,
    head: RefCell<Option<Head>>,
}

/// What is kept of a request's head: parts of the buffer that it came in.
#[derive(Debug)]
struct Head {
    method: Method,
    target: Uri,
    host: Option<HeaderValue>,
    grpc: Option<HeaderValue>,
}

impl RequestIdentity {
    pub(super) fn new(client: Rc<ClientIdentity>) -> Rc<Self> {
        Rc::new(RequestIdentity { client, number: Cell::new(0), head: RefCell::new(None) })
    }

    /// A new request begins.
    pub(super) fn begin<B>(&self, request: &Request<B>) {
        self.number.set(self.client.ids.next());
        self.head.replace(Some(Head {
            method: request.method().clone(),
            target: request.uri().clone(),
            host: request.headers().get(header::HOST).cloned(),
            grpc: grpc::content_type(request.method(), request.headers()),
        }));
    }

    /// Lets go of the buffer that the request came in.
    pub(super) fn end(&self) {
        self.head.replace(None);
    }

    /// The request's id.
    pub(crate) fn id(&self) -> RequestId {
        self.client.ids.id(self.number.get())
    }

    /// Whose it is.
    pub(crate) fn client(&self) -> &ClientIdentity {
        &self.client
    }

    /// The content type of an answer to it, if it is a call of gRPC or gRPC-Web.
    pub(super) fn grpc(&self) -> Option<HeaderValue> {
        self.head.borrow().as_ref()?.grpc.clone()
    }

    /// For the log.
    pub(crate) fn method(&self) -> impl fmt::Display {
        self.show(|head, f| plainly(head.method.as_str().as_bytes(), f))
    }

    /// For the log.
    pub(crate) fn host(&self) -> impl fmt::Display {
        self.show(|head, f| match (&head.host, head.target.authority()) {
            (Some(host), _) => plainly(host.as_bytes(), f),
            // Without what someone may have put there for a user's name and password.
            (None, Some(authority)) => {
                let whole = authority.as_str();
                plainly(whole.rsplit_once('@').map_or(whole, |(_, host)| host).as_bytes(), f)
            }
            (None, None) => f.write_char('-'),
        })
    }

    /// For the log. `CONNECT` has none.
    pub(crate) fn path(&self) -> impl fmt::Display {
        let logs_query = self.client.logs_query;
        self.show(move |head, f| match head.target.path_and_query() {
            Some(target) if logs_query => plainly(target.as_str().as_bytes(), f),
            Some(target) => plainly(target.path().as_bytes(), f),
            None => f.write_char('-'),
        })
    }

    fn show(&self, show: impl Fn(&Head, &mut fmt::Formatter<'_>) -> fmt::Result) -> impl fmt::Display {
        Shown(move |f: &mut fmt::Formatter<'_>| match &*self.head.borrow() {
            Some(head) => show(head, f),
            None => f.write_char('-'),
        })
    }
}

/// What a function writes.
struct Shown<F>(F);

impl<F: Fn(&mut fmt::Formatter<'_>) -> fmt::Result> fmt::Display for Shown<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        (self.0)(f)
    }
}

/// The most that is written of one text of a client's, in bytes.
const MAX_TEXT: usize = 1024;

/// Writes what a client sent such that it can neither steer a terminal nor end a line or a field: everything but
/// visible ASCII as `\xNN`, and so is a backslash.
fn plainly(text: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let shown = &text[..text.len().min(MAX_TEXT)];
    for byte in shown {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'\\' | b'"') => f.write_char((*byte).into())?,
            _ => write!(f, "\\x{byte:02x}")?,
        }
    }
    if shown.len() < text.len() { f.write_str("...") } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &[u8]) -> String {
        Shown(|f: &mut fmt::Formatter<'_>| plainly(text, f)).to_string()
    }

    fn identity(target: &str, host: Option<&str>, logs_query: bool) -> Rc<RequestIdentity> {
        let address = Some(([0, 0, 0, 0, 0, 0xffff, 0xc000, 0x0201], 4711).into());
        let client = ClientIdentity::new(address, "web".into(), Rc::default(), logs_query);
        let identity = RequestIdentity::new(client);
        let mut request = Request::get(target).body(()).unwrap();
        if let Some(host) = host {
            request.headers_mut().insert(header::HOST, host.try_into().unwrap());
        }
        identity.begin(&request);
        identity
    }

    #[test]
    fn what_a_client_sent_cannot_steer_a_terminal_or_end_a_field() {
        assert_eq!(plain(b"/a-~b?c=%20"), "/a-~b?c=%20");
        assert_eq!(plain(b"\x1b[2J\r\n"), r"\x1b[2J\x0d\x0a");
        assert_eq!(plain("a b\"\\\u{e9}\u{202e}".as_bytes()), r"a\x20b\x22\x5c\xc3\xa9\xe2\x80\xae");
        assert_eq!(plain(&[b'a'; 5000]), format!("{}...", "a".repeat(MAX_TEXT)));
    }

    #[test]
    fn a_request_is_named_without_its_query() {
        let shown = |one: &RequestIdentity| format!("{} {}{}", one.method(), one.host(), one.path());
        assert_eq!(shown(&identity("/a?token=1", Some("h:80"), false)), "GET h:80/a");
        assert_eq!(shown(&identity("/a?token=1", Some("h:80"), true)), "GET h:80/a?token=1");
        let absolute = identity("http://me:secret@other/b", None, false);
        assert_eq!(shown(&absolute), "GET other/b");
        assert_eq!(absolute.client().address().to_string(), "192.0.2.1:4711");
        absolute.end();
        assert_eq!(shown(&absolute), "- --");
    }

    #[test]
    fn ids_repeat_neither_in_a_worker_nor_among_workers() {
        let ids: std::collections::HashSet<String> = (0..8)
            .flat_map(|_| {
                let ids = Ids::default();
                (0..1000).map(move |_| ids.id(ids.next()).to_string()).collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(ids.len(), 8000);
        assert!(ids.iter().all(|id| id.len() == 32));
    }
}
