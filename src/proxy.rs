//! One request in, one response out.
//!
//! ```text
//! request ──► headers ──► upstream: an idle connection, or a new one ──► forward ──► headers ──► response
//!                │                              │                           │
//!                └──────────────────────────────┴────────── error ──────────┴──────────────────► response
//! ```
//!
//! A [`Proxy`] belongs to one worker, a [`Client`] to one connection of it, and an [`Exchange`] to one request at a
//! time. Nothing here is `Send`.

mod body;
mod error;
mod forward;
mod grpc;
mod headers;
mod identity;
mod interim;
mod metrics;
mod proxy_header;
mod tunnel;
mod turns;
mod upstream;

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode};
use tokio::time::Instant;

pub(crate) use body::Answered;
#[cfg(test)]
pub(crate) use body::MAX_LEFTOVER;
pub use body::{Body, ClientBody};
pub use error::{BodyError, Cause, Error, Fault, TlsFailure};
pub(crate) use error::{refusal, told};
pub(crate) use headers::end_hop;
pub use identity::{ClientIdentity, RequestId, RequestIdentity};
pub(crate) use identity::{log_client, log_request};
pub use metrics::{Columns, FAMILIES, LOST_REQUESTS, Metrics, WORK};
pub use proxy_header::{Ends, ProxyVersion};
pub use tunnel::{Rules, TunnelStream};
pub use upstream::FAMILIES as UPSTREAM_FAMILIES;
pub(crate) use upstream::MIN_BUFFER_BYTES;
pub use upstream::{ConnectionConfig, Protocol, ServerAddr, TlsConfig};

use body::Upload;
use headers::Forwarded;
use identity::Ids;
use interim::Inbox;
use turns::Turns;
use upstream::{Server, Windows};

use crate::timer::Timer;

/// Where requests go, and how long that may take.
#[derive(Clone, Debug)]
pub struct Config {
    /// The servers, asked in turn.
    pub servers: Vec<ServerAddr>,
    /// How connections to them are made and kept.
    pub connections: ConnectionConfig,
    /// How long a server may take to answer, from the moment it has the whole request: 504. Time in which
    /// the client sends its body does not count.
    pub response_timeout: Duration,
    /// How long a server may pause in the middle of an answer, before the answer is broken off.
    pub stall_timeout: Duration,
    /// The names of the protocols of `Upgrade` that are passed on, in lower case.
    pub upgrades: Vec<String>,
    /// Whether `CONNECT` is passed on.
    pub connect: bool,
    /// Whether servers get each request's id, as `X-Request-Id`.
    pub request_id: bool,
    /// Whether a client is told what is the matter with the servers. It names them, so it is for development.
    pub detailed_errors: bool,
    /// Whether a line of the log that names a request has its query, too.
    pub logs_query: bool,
}

impl Config {
    /// [`Config::stall_timeout`], which no setting changes.
    pub const STALL_TIMEOUT: Duration = Duration::from_secs(60);
}

/// The proxy of one worker.
#[derive(Debug)]
pub struct Proxy {
    turns: Turns,
    response_timeout: Duration,
    stall_timeout: Duration,
    rules: Rules,
    tells_ends: bool,
    sends_id: bool,
    detailed_errors: bool,
    logs_query: bool,
    ids: Rc<Ids>,
    metrics: Rc<Metrics>,
}

impl Proxy {
    /// Must run where tasks can be spawned that are not `Send`.
    pub fn new(config: &Config, metrics: Rc<Metrics>) -> Rc<Self> {
        let windows = Windows::default();
        let server = |(place, address): (usize, &ServerAddr)| {
            let connections = config.connections.clone();
            Server::new(address.clone(), connections, windows.clone(), metrics.of_server(place))
        };
        Rc::new(Proxy {
            turns: Turns::new(config.servers.iter().enumerate().map(server).collect()),
            response_timeout: config.response_timeout,
            stall_timeout: config.stall_timeout,
            tells_ends: config.connections.proxy_protocol.is_some(),
            sends_id: config.request_id,
            detailed_errors: config.detailed_errors,
            logs_query: config.logs_query,
            ids: Rc::default(),
            metrics,
            rules: Rules { upgrades: config.upgrades.clone().into(), connect: config.connect },
        })
    }

    /// A client that has connected from `address` (`None`: over a Unix socket) to this `listener`, by `scheme`. `ends`
    /// is needed where [`Proxy::tells_ends`].
    pub fn client(
        self: &Rc<Self>,
        address: Option<SocketAddr>,
        listener: &Arc<str>,
        scheme: &'static str,
        certificate: ClientCertificate,
        ends: Option<Ends>,
    ) -> Client {
        let forwarded = Rc::new(Forwarded::new(address.map(|address| address.ip()), scheme, certificate));
        let identity = ClientIdentity::new(address, listener.clone(), self.ids.clone(), self.logs_query);
        Client { proxy: self.clone(), forwarded, identity, ends }
    }

    /// Requests that end from now on do so because this process cuts them.
    pub fn cut(&self) {
        self.metrics.cut();
    }

    /// Whether servers are told who is connected with whom.
    pub fn tells_ends(&self) -> bool {
        self.tells_ends
    }

    /// Whether a connection may switch to the protocol of this name, in lower case.
    pub(crate) fn may_upgrade(&self, name: &str) -> bool {
        self.rules.upgrades.iter().any(|allowed| allowed == name)
    }
}

/// Who a client is by its own certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificate {
    /// It was not asked.
    #[default]
    NotAsked,
    /// It was asked, and has shown none.
    NotShown,
    /// It has shown one that an authority of ours has signed.
    Verified {
        /// Printable ASCII; empty if the certificate has none, or one that cannot be passed on.
        subject: String,
    },
}

/// One client's connection, as the proxy sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    proxy: Rc<Proxy>,
    forwarded: Rc<Forwarded>,
    identity: Rc<ClientIdentity>,
    ends: Option<Ends>,
}

impl Client {
    /// Makes room for one request at a time. HTTP/1 has one for the whole connection, HTTP/2 one for each stream.
    pub fn exchange(&self) -> Exchange {
        Exchange {
            identity: RequestIdentity::new(self.identity.clone()),
            client: self.clone(),
            upload: Rc::new(Upload::new(self.proxy.metrics.clone())),
            timer: Rc::default(),
            inbox: Inbox::default(),
        }
    }

    /// Who it is, for the log.
    pub(crate) fn identity(&self) -> &ClientIdentity {
        &self.identity
    }
}

/// One request at a time, and its clocks.
#[derive(Debug)]
pub struct Exchange {
    client: Client,
    identity: Rc<RequestIdentity>,
    upload: Rc<Upload>,
    timer: Rc<RefCell<Timer>>,
    inbox: Inbox,
}

/// What a client gets for its request.
#[derive(Debug)]
pub enum Answer {
    /// A response, be it from an upstream or of our own.
    Response(Response<Body>),
    /// The head that says that something else follows, and the connection to the server that carries it.
    Tunnel(Response<()>, TunnelStream),
}

impl Exchange {
    /// Answers one request: with what an upstream says, or with the error that kept it from that. `interim` is
    /// given what the upstream says before that (RFC 9110, section 15.2), in order. The next request must not
    /// come before this answer has been read or dropped.
    pub async fn answer(&self, request: Request<ClientBody>, interim: &dyn Interim) -> Answer {
        let Proxy { metrics, detailed_errors, .. } = &*self.client.proxy;
        self.identity.begin(&request);
        let mut flight = metrics.begin(request.version(), request.method(), &self.identity);
        let is_head = request.method() == Method::HEAD;
        let answer = match self.prepare(request) {
            Ok((request, wish)) => self.forward(request, wish, interim).await,
            Err(error) => Err(error),
        };
        let mut answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                error.log(&self.identity);
                metrics.error(error.label());
                let mut response = error.response(&self.identity, *detailed_errors);
                if self.upload.shut() {
                    self.upload.end_shut();
                    forward::close(response.headers_mut());
                }
                Answer::Response(response)
            }
        };
        match &mut answer {
            Answer::Response(response) => {
                let status = response.status();
                let bodiless = is_head || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
                response.body_mut().answer(flight, status, bodiless);
            }
            Answer::Tunnel(head, _) => flight.became_tunnel(head.status()),
        }
        answer
    }

    /// Which request this is, or was last.
    pub(crate) fn identity(&self) -> &Rc<RequestIdentity> {
        &self.identity
    }

    /// Whether a request body is still on its way. An upstream may answer before it has all of it.
    pub fn is_uploading(&self) -> bool {
        self.upload.is_open()
    }

    /// Whether the upstream would take more of the request body than the client has sent.
    pub fn is_awaited(&self) -> bool {
        self.upload.awaits_client()
    }

    /// Since when that is so.
    pub(crate) fn awaited_since(&self) -> Option<Instant> {
        self.upload.awaited_since()
    }

    /// Whether there is something of a request body that nobody wants, and behind which the next request stands.
    /// hyper closes the connection if it is not read.
    pub(crate) fn has_leftover(&self) -> bool {
        self.upload.has_leftover()
    }

    /// Reads that off, as far as it has come. It wakes the task for the rest.
    pub(crate) fn read_leftover(&self, cx: &mut Context<'_>) {
        self.upload.read_leftover(cx);
    }

    /// Gives up what has not come of it.
    pub(crate) fn drop_leftover(&self) {
        self.upload.drop_leftover();
    }

    /// Breaks the request body off: the answer is complete, and what is still to come of the request is of no use.
    pub(crate) fn stop_upload(&self) {
        self.upload.stop();
    }
}

/// Where interim answers go (RFC 9110, section 15.2).
pub trait Interim {
    /// Passes on one whose status is 1xx, and neither 100 nor 101.
    fn send(&self, response: Response<()>);
}
