//! Settings: what an operator may choose, checked once.
//!
//! They come in layers, the later over the earlier: the built-in defaults, one TOML file, the environment
//! (`EXUVIA__RESTART__PROBATION=0s` is `restart.probation`). Reading them goes one way:
//!
//! ```text
//! defaults ─┐
//! file ─────┼─► raw (the shape as written) ──check──► Settings
//! environment ┘          │                     │
//!                        └───── problems ◄─────┘   all of them, not the first
//! ```
//!
//! **Invariant:** a [`Settings`] that exists is valid. Nothing behind this module validates a setting again,
//! and no `Option` in it means "default": a `None` is a thing that the operator did not ask for.
//!
//! `config/exuvia.toml` is the reference for operators; a test holds it against the code.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::restart::ListenAddr;

mod check;
mod print;
mod problem;
mod protocols;
mod raw;
#[cfg(test)]
mod reference;
mod upstream_addr;
mod value;

pub use problem::{Origin, Problem, SettingsError};
pub use protocols::{
    CertificateSettings, ClientCertificates, Http2Settings, ListenerTlsSettings, Protocol,
    ProxyProtocolSettings, ProxyVersion, TlsSettings, TlsVersion, UpstreamProtocol, UpstreamTlsSettings,
};
pub use upstream_addr::{ParseUpstreamAddrError, UpstreamAddr};

use problem::Problems;

/// Everything that can be set, checked and complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many worker threads serve, 1 to 1024; `"auto"` is already resolved to one per CPU.
    pub workers: usize,
    /// Whether an answer of this proxy's own tells a client what is the matter with the servers.
    pub detailed_errors: bool,
    /// What to listen on, ordered by name: 1 to 64 listeners, no two on the same address.
    pub listeners: Vec<ListenerSettings>,
    /// The certificates that listeners and upstreams name, ordered by name: at most 1024.
    pub certificates: Vec<CertificateSettings>,
    /// What holds for TLS on every listener.
    pub tls: TlsSettings,
    /// What clients may do with HTTP/2.
    pub http2: Http2Settings,
    /// Where requests go.
    pub upstream: UpstreamSettings,
    /// How the host names of servers are looked up.
    pub resolver: ResolverSettings,
    /// How long a client may take.
    pub timeouts: TimeoutSettings,
    /// How much a client may take.
    pub limits: LimitSettings,
    /// How an upgrade runs.
    pub restart: RestartSettings,
    /// How an old process leaves.
    pub drain: DrainSettings,
    /// How the running process is given orders.
    pub control: ControlSettings,
    /// Where the running process can be watched.
    pub admin: AdminSettings,
    /// What the running process writes about itself.
    pub log: LogSettings,
}

/// One listener: `[listeners.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Its identity across upgrades: 1 to 64 of `A-Z a-z 0-9 _ . -`, not starting with `exuvia-`.
    pub name: String,
    /// Where it listens.
    pub address: ListenAddr,
    /// How many connections may wait to be accepted, as in listen(2): 1 to 65535.
    pub backlog: u32,
    /// The mode of a Unix socket's file, permission bits only; without meaning for TCP.
    pub unix_mode: u32,
    /// How it speaks TLS. None: it does not.
    pub tls: Option<ListenerTlsSettings>,
    /// What clients may speak, best first; at least one, none twice.
    pub protocols: Vec<Protocol>,
    /// Whether a load balancer in front says who the client is.
    pub proxy_protocol: ProxyProtocolSettings,
}

/// Where requests go: `[upstream]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSettings {
    /// The servers, at most 256; none asks for the built-in demonstration upstream.
    pub servers: Vec<UpstreamAddr>,
    /// What is spoken with them.
    pub protocol: UpstreamProtocol,
    /// How TLS is spoken with them. None: it is not.
    pub tls: Option<UpstreamTlsSettings>,
    /// How many requests one HTTP/2 connection carries at once: 1 to 10,000.
    pub max_streams: u32,
    /// Whether they are told who the client is, at the beginning of each connection.
    pub proxy_protocol: Option<ProxyVersion>,
    /// The tokens of `Upgrade` that are passed on, in lower case; at most 16, never `h2c`.
    pub upgrades: Vec<String>,
    /// Whether `CONNECT` is passed on.
    pub connect: bool,
    /// Whether they are told each request's id.
    pub request_id: bool,
    /// From the start of a connection attempt to its success; above zero.
    pub connect_timeout: Duration,
    /// From the end of a request to the last line of the response's head; above zero.
    pub response_timeout: Duration,
    /// How long a connection is kept without a request; zero keeps none.
    pub idle_timeout: Duration,
    /// How many connections each worker keeps without a request; zero keeps none.
    pub max_idle_per_worker: usize,
}

/// How the host names of servers are looked up: `[resolver]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverSettings {
    /// The name servers, at most 8. None: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// The least time between two look-ups of a name; above zero.
    pub min_ttl: Duration,
    /// The most; not less than `min_ttl`.
    pub max_ttl: Duration,
    /// How long addresses are used beyond their time while no name server answers; zero: not at all.
    pub max_stale: Duration,
}

/// How long a client may take: `[timeouts]`. All above zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeoutSettings {
    /// For the PROXY header and the TLS handshake together.
    pub handshake: Duration,
    /// From the first byte of a request to its last header line.
    pub header: Duration,
    /// How long a keep-alive connection may rest between requests.
    pub idle: Duration,
    /// How long no byte may move to or from the client while we wait for it.
    pub stall: Duration,
    /// How long a tunnel may rest.
    pub tunnel: Duration,
}

/// How much a client may take: `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitSettings {
    /// How many client connections each worker holds: 1 to 1,000,000.
    pub connections_per_worker: usize,
    /// How long a request's head may be, in bytes: 8 KiB to 1 MiB.
    pub header_bytes: usize,
    /// How many header lines a request may have: 1 to 1000.
    pub headers: usize,
}

/// How an upgrade runs: `[restart]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RestartSettings {
    /// The program to upgrade to; relative to the working directory unless absolute. None: the program as it
    /// was started.
    pub executable: Option<PathBuf>,
    /// How long the new process may take to say that it is ready; above zero.
    pub ready_timeout: Duration,
    /// How long the old process stands by after the new one is ready; zero turns probation off.
    pub probation: Duration,
    /// How many requests the new process is to have answered before the old one lets go; 0: none.
    pub probation_requests: u64,
    /// How long that is waited for, counted from when the new process was ready; less than `probation`: not at all.
    pub probation_max: Duration,
    /// How many generations may be alive at once, the serving one included: 2 to 64.
    pub max_generations: usize,
    /// Where the owner writes its process id. None: nowhere.
    pub pid_file: Option<PathBuf>,
}

/// How an old process leaves: `[drain]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DrainSettings {
    /// How long requests in flight may take to finish; at its end what is left is closed.
    pub timeout: Duration,
    /// How long an idle connection is kept open for a request that may be on its way.
    pub idle_grace: Duration,
    /// How long a stop waits, not ready and accepting, before it begins to drain; zero: not at all.
    pub stop_delay: Duration,
}

/// How the running process is given orders: `[control]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlSettings {
    /// Where the control socket is.
    pub socket: ControlSocket,
}

/// Where the control socket is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlSocket {
    /// Where the environment suggests; worked out where the socket is bound and dialled.
    Default,
    /// At this path, which fits a `sockaddr_un` (at most 107 bytes).
    Path(PathBuf),
}

/// Where the running process can be watched: `[admin]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// The TCP address of the admin listener. None: there is none.
    pub address: Option<SocketAddr>,
}

/// What the running process writes about itself: `[log]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A filter that `tracing_subscriber::EnvFilter` parses, such as `info` or `warn,exuvia::proxy=debug`.
    pub level: String,
    /// How a line is written.
    pub format: LogFormat,
    /// Whether a line that names a request has its query, too.
    pub query: bool,
}

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line, for programs.
    Json,
}

impl Settings {
    /// Reads and checks the settings: defaults, then `file`, then the variables of `environment` whose name
    /// starts with `EXUVIA__`; others are not looked at.
    ///
    /// Without a `file` the defaults and the environment alone decide. The process's own environment is not
    /// read here, so the caller says what to do about a variable that is not Unicode.
    ///
    /// # Errors
    ///
    /// All problems at once: a file that cannot be read or is not TOML, keys and variables that are not known,
    /// values that are not allowed.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Settings, SettingsError> {
        let mut problems = Problems::default();
        let layers = raw::read(file, environment, &mut problems);
        let settings = layers.and_then(|(raw, origins)| check::settings(&raw, &origins, &mut problems));
        problems.settle(settings)
    }

    /// The settings in effect as TOML, every key written out; a file of this text loads as the same settings.
    pub fn to_toml(&self) -> String {
        print::to_toml(self)
    }
}
