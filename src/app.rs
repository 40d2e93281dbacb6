//! The composition root: the only file that wires restarts, settings and HTTP to each other.
//!
//! [`run`] in one look: take what the predecessor passed on → settings → listeners → workers → `Ready`.
//! All that can fail happens before `Ready`, and whoever asked for the upgrade is told what did.

mod tls;

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};
use tracing_subscriber::EnvFilter;

use crate::admin::{AdminServer, Identity};
use crate::control::{ControlServer, Extra, socket};
use crate::demo::{Demo, DemoInfo};
use crate::metrics::{self, Exposition};
use crate::proxy::{self, ConnectionConfig, ServerAddr};
use crate::restart::{
    self, Accepted, Audience, Driver, Failure, Handle, ListenAddr, ListenOptions, Listener, Luggage, Member,
    Options, Outcome, Startup,
};
use crate::server::{self, Http2Config, ListenerConfig, ProxyProtocol};
use crate::settings::{
    ControlSocket, ListenerSettings, LogFormat, Protocol, ProxyProtocolSettings, ProxyVersion, Settings,
    SettingsError, UpstreamAddr, UpstreamProtocol,
};
use crate::supervise;
use crate::worker::{self, Worker};
use tls::Tls;

/// The version that this program tells.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

const CONTROL: &str = "exuvia-control";
const ADMIN: &str = "exuvia-admin";

/// How many operators' connections are open at once, on the control socket and on the admin listener.
const MAX_OPERATORS: usize = 64;

/// Runs the proxy until it has stopped or another generation has taken over; behind a supervisor where one
/// is wanted.
pub fn run(config: Option<PathBuf>, supervision: supervise::Mode) -> ExitCode {
    if supervise::wanted(supervision) {
        return supervise::run();
    }
    let mut startup = match Startup::begin() {
        Ok(startup) => startup,
        Err(error) => return failed(&Failure::from(&error)),
    };
    match Parts::build(&mut startup, config.as_deref()) {
        Ok(parts) => parts.run(startup),
        Err(failure) => {
            startup.fail(failure.clone());
            failed(&failure)
        }
    }
}

/// Says whether the settings and the certificates are good, and with `print` what the settings are; touches
/// nothing.
pub fn check(config: Option<&Path>, print: bool) -> ExitCode {
    let checked = load(config).and_then(|settings| {
        let Tls { warnings, .. } = Tls::load(&settings, &mut Luggage::default())?;
        Ok((settings, warnings))
    });
    match checked {
        Ok((settings, warnings)) => {
            for warning in warnings {
                writeln!(io::stderr(), "exuvia: warning: {warning}").ok();
            }
            let text = if print { settings.to_toml() } else { format!("{}: good\n", named(config)) };
            let mut stdout = io::stdout();
            match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
                // A reader that has heard enough is no failure; half a configuration file is one.
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    failed(&Failure::new("output", format!("cannot write to standard output: {error}")))
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(failure) => failed(&failure),
    }
}

/// Where the process with these settings answers its operators.
pub fn control_socket(config: Option<&Path>) -> Result<PathBuf, SettingsError> {
    settings(config).map(|settings| socket_of(&settings))
}

fn named(config: Option<&Path>) -> String {
    config.map_or_else(|| "the built-in settings".to_owned(), |path| path.display().to_string())
}

fn failed(failure: &Failure) -> ExitCode {
    let mut stderr = io::stderr().lock();
    let Failure { step, message } = failure;
    // Several lines are a list, in which the first is no other than the rest.
    let message = match message.contains('\n') {
        true => format!("\n  {}", message.replace('\n', "\n  ")),
        false => format!(" {message}"),
    };
    writeln!(stderr, "exuvia: {step}:{message}").ok();
    ExitCode::FAILURE
}

fn settings(config: Option<&Path>) -> Result<Settings, SettingsError> {
    // A variable of ours that is not Unicode has a value that no setting allows, and is told as such.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    Settings::load(config, environment)
}

fn load(config: Option<&Path>) -> Result<Settings, Failure> {
    settings(config).map_err(|error| Failure::new("configuration", error.to_string()))
}

fn socket_of(settings: &Settings) -> PathBuf {
    match &settings.control.socket {
        ControlSocket::Default => socket::default_path(),
        ControlSocket::Path(path) => path.clone(),
    }
}

/// Everything that was made before the process is ready.
struct Parts {
    settings: Settings,
    tls: Tls,
    runtime: Runtime,
    demo: Option<Demo>,
    control: PathBuf,
    config: Option<PathBuf>,
}

impl Parts {
    fn build(startup: &mut Startup, config: Option<&Path>) -> Result<Parts, Failure> {
        let settings = load(config)?;
        log(&settings)?;
        raise_descriptor_limit();

        let tls = Tls::load(&settings, startup.luggage())?;
        for warning in &tls.warnings {
            tracing::warn!("{warning}");
        }
        let control = socket_of(&settings);
        socket::prepare(&control).map_err(|error| Failure::new("control", error.to_string()))?;
        open_listeners(startup, &settings, &control)?;

        let system = |what: &'static str| {
            move |error: io::Error| Failure::new("system", format!("cannot {what}: {error}"))
        };
        let demo = settings.upstream.servers.is_empty().then(|| {
            Demo::start(DemoInfo {
                generation: startup.generation().into(),
                pid: std::process::id(),
                version: VERSION.into(),
            })
        });
        let demo = demo.transpose().map_err(system("start the demonstration upstream"))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(system("build the control thread's runtime"))?;
        Ok(Parts { settings, tls, runtime, demo, control, config: config.map(Path::to_owned) })
    }

    /// Starts the workers, then serves until the end.
    fn run(self, startup: Startup) -> ExitCode {
        let tasks = LocalSet::new();
        let outcome = tasks.block_on(&self.runtime, self.serve(startup));
        drop(tasks);
        match outcome {
            Ok(Outcome::Done) => ExitCode::SUCCESS,
            Ok(Outcome::Broken) => ExitCode::FAILURE,
            Err(failure) => failed(&failure),
        }
    }

    async fn serve(&self, mut startup: Startup) -> Result<Outcome, Failure> {
        let settings = &self.settings;
        let workers = settings.workers;
        let listeners = startup.listeners();
        let share = |worker| -> Result<Vec<Listener>, restart::Error> {
            let names = settings.listeners.iter().map(|listener| listener.name.as_str());
            let shares = names.map(|name| listeners.share(name, worker, workers));
            Ok(shares.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect())
        };
        let shares: Vec<_> = (0..workers).map(share).collect();
        let operators = [CONTROL, ADMIN].map(|name| listeners.share(name, 0, 1));
        let generation = startup.generation();
        let is_first = !startup.is_upgrade();

        // One more than there are workers: the control thread serves the operators.
        let columns = proxy::Columns::plan(startup.plan());
        let (mut driver, handle, mut members) = startup
            .assemble(self.options(), workers + 1)
            .map_err(|error| advised(&error, "restart.pid_file"))?;
        let tickets = self.tls.tickets.clone();
        driver.pack(move || Tls::pack(&tickets));
        let begun = (|| -> Result<Rc<ControlServer>, Failure> {
            let [control, admin] = operators;
            let operator =
                members.pop().ok_or_else(|| Failure::new("start", "the control thread has no place"))?;
            let families = [metrics::CORE, proxy::FAMILIES].concat();
            let exposition = Exposition::new(driver.books(), families, VERSION)
                .map_err(|error| Failure::new("start", format!("the metrics are not right: {error}")))?;
            self.start_workers(members, shares, &columns)?;
            let listeners = control?.into_iter().chain(admin?).collect();
            Ok(self.serve_operators(operator, listeners, exposition, &driver, &handle))
        })();
        let control = match begun {
            Ok(control) => control,
            Err(failure) => {
                driver.fail(failure.clone());
                return Err(failure);
            }
        };
        if is_first {
            self.banner(&driver);
        }
        tracing::info!(generation, pid = std::process::id(), version = VERSION, "ready");
        let outcome = driver.run().await;
        // The one who asked for the upgrade, or for the stop, is still to hear how it ended.
        control.finish().await;
        tracing::info!(generation, "ended");
        Ok(outcome)
    }
}

impl Parts {
    fn options(&self) -> Options {
        let Settings { restart, drain, .. } = &self.settings;
        Options {
            executable: restart.executable.clone(),
            ready_timeout: restart.ready_timeout,
            probation: restart.probation,
            max_generations: restart.max_generations,
            pid_file: restart.pid_file.clone(),
            drain_timeout: drain.timeout,
            idle_grace: drain.idle_grace,
            version: VERSION.to_owned(),
            kinds: server::KINDS,
        }
    }

    fn start_workers(
        &self,
        members: Vec<Member>,
        shares: Vec<Result<Vec<Listener>, restart::Error>>,
        columns: &proxy::Columns,
    ) -> Result<(), Failure> {
        let config = self.worker_config();
        for (i, (member, listeners)) in members.into_iter().zip(shares).enumerate() {
            let worker =
                Worker { config: config.clone(), columns: columns.clone(), member, listeners: listeners? };
            worker
                .start(&format!("worker-{i}"))
                .map_err(|error| Failure::new("workers", format!("cannot start worker {i}: {error}")))?;
        }
        Ok(())
    }

    fn worker_config(&self) -> worker::Config {
        let Settings { upstream, timeouts, limits, http2, .. } = &self.settings;
        let demo = self.demo.iter().map(|demo| ServerAddr::Socket(demo.address()));
        worker::Config {
            server: server::Config {
                listeners: self.listener_configs(),
                handshake_timeout: timeouts.handshake,
                http2: Http2Config {
                    max_streams: http2.max_streams,
                    stream_window: http2.stream_window,
                    connection_window: http2.connection_window,
                    max_resets_per_minute: http2.max_resets_per_minute,
                    max_control_frames_per_minute: http2.max_control_frames_per_minute,
                    ack_timeout: http2.ack_timeout,
                },
                tunnel_timeout: timeouts.tunnel,
                header_timeout: timeouts.header,
                idle_timeout: timeouts.idle,
                stall_timeout: timeouts.stall,
                max_head_bytes: limits.header_bytes,
                max_headers: limits.headers,
                ..server::Config::default()
            },
            proxy: proxy::Config {
                servers: upstream.servers.iter().map(server_addr).chain(demo).collect(),
                connections: ConnectionConfig {
                    protocol: match upstream.protocol {
                        // The demonstration speaks nothing else, and no TLS.
                        _ if self.demo.is_some() => proxy::Protocol::Http1,
                        UpstreamProtocol::Http1 => proxy::Protocol::Http1,
                        UpstreamProtocol::Http2 => proxy::Protocol::Http2,
                        UpstreamProtocol::Alpn => proxy::Protocol::Alpn,
                    },
                    tls: self.tls.upstream.clone(),
                    max_streams: upstream.max_streams as usize,
                    // The demonstration understands no such header.
                    proxy_protocol: upstream.proxy_protocol.filter(|_| self.demo.is_none()).map(|version| {
                        match version {
                            ProxyVersion::V1 => proxy::ProxyVersion::V1,
                            ProxyVersion::V2 => proxy::ProxyVersion::V2,
                        }
                    }),
                    connect_timeout: upstream.connect_timeout,
                    max_idle: upstream.max_idle_per_worker,
                    idle_timeout: upstream.idle_timeout,
                    ..ConnectionConfig::default()
                },
                response_timeout: upstream.response_timeout,
                upgrades: upstream.upgrades.clone(),
                connect: upstream.connect,
                ..proxy::Config::default()
            },
            max_connections: limits.connections_per_worker,
        }
    }

    fn listener_configs(&self) -> HashMap<String, ListenerConfig> {
        let config = |listener: &ListenerSettings| ListenerConfig {
            http1: listener.protocols.contains(&Protocol::Http1),
            http2: listener.protocols.contains(&Protocol::Http2),
            tls: self.tls.listeners.get(&listener.name).cloned(),
            proxy_protocol: match &listener.proxy_protocol {
                ProxyProtocolSettings::Off => ProxyProtocol::Off,
                ProxyProtocolSettings::Optional { from } => ProxyProtocol::Optional(from.clone()),
                ProxyProtocolSettings::Required { from } => ProxyProtocol::Required(from.clone()),
            },
        };
        self.settings.listeners.iter().map(|one| (one.name.clone(), config(one))).collect()
    }

    /// Serves the control socket and the admin listener on this thread.
    fn serve_operators(
        &self,
        member: Member,
        listeners: Vec<Listener>,
        exposition: Exposition,
        driver: &Driver,
        handle: &Handle,
    ) -> Rc<ControlServer> {
        let extra = Rc::new(Extra {
            admin: driver.address(ADMIN).cloned(),
            control: self.control.clone(),
            // The working directory is nothing that the one who asks can see.
            config: self.config.as_ref().map(|path| std::path::absolute(path).unwrap_or(path.clone())),
        });
        let control = Rc::new(ControlServer::new(handle.clone(), extra));
        let identity = Rc::new(Identity { generation: driver.generation(), version: VERSION.to_owned() });
        let admin = AdminServer::new(handle.viewer(), identity, exposition);
        let server = control.clone();
        spawn_local(async move {
            let tracker = member.tracker();
            let accepted = move |Accepted { listener, stream, .. }: Accepted| {
                if *listener == *CONTROL {
                    server.serve(stream);
                } else {
                    admin.serve(stream);
                }
            };
            member.attend(&tracker, listeners, MAX_OPERATORS, accepted).await;
        });
        control
    }

    /// What to try next, for a person who has just started it.
    fn banner(&self, driver: &Driver) {
        let mut text = format!("exuvia {VERSION}, pid {}\n", std::process::id());
        let mut first = None;
        for listener in &self.settings.listeners {
            let Some(address) = driver.address(&listener.name) else { continue };
            text.push_str(&format!("  listening on {address} ({})\n", listener.name));
            first = first.or(Some((address, listener.tls.is_some())));
        }
        if self.demo.is_some() {
            text.push_str("  no upstream is configured: the built-in demonstration answers\n");
        }
        text.push_str("try\n");
        match first {
            Some((ListenAddr::Tcp(address), false)) => text.push_str(&format!("  curl http://{address}/\n")),
            // The certificate is for a name.
            Some((ListenAddr::Tcp(address), true)) => {
                text.push_str(&format!("  curl --insecure https://{address}/\n"));
            }
            Some((ListenAddr::Unix(path), tls)) => {
                let scheme = if tls { "--insecure https" } else { "http" };
                text.push_str(&format!("  curl --unix-socket {} {scheme}://exuvia/\n", path.display()));
            }
            None => {}
        }
        text.push_str("  exuvia upgrade    replaces this process; no connection notices\n");
        text.push_str("  exuvia status     shows every generation alive\n");
        text.push_str("  exuvia stop       finishes what is in flight, and ends\n");
        // Nobody may be reading.
        io::stdout().write_all(text.as_bytes()).ok();
    }
}

fn server_addr(address: &UpstreamAddr) -> ServerAddr {
    match address {
        UpstreamAddr::Socket(address) => ServerAddr::Socket(*address),
        UpstreamAddr::Unix(path) => ServerAddr::Unix(Arc::new(path.clone())),
        UpstreamAddr::Name(name, port) => ServerAddr::Name(format!("{name}:{port}").into()),
    }
}

fn open_listeners(startup: &mut Startup, settings: &Settings, control: &Path) -> Result<(), Failure> {
    let listeners = startup.listeners();
    let control = ListenAddr::Unix(control.to_owned());
    let options = ListenOptions {
        unix_mode: 0o600,
        audience: Audience::Owner,
        backlog: 64,
        ..ListenOptions::default()
    };
    listeners.open(CONTROL, &control, &options).map_err(|error| match error {
        restart::Error::Listen { address: ListenAddr::Unix(path), cause, .. }
            if cause.kind() == io::ErrorKind::AddrInUse =>
        {
            Failure::new("control", socket::describe_conflict(&path))
        }
        error => Failure::new("control", format!("{error}; control.socket names another place")),
    })?;
    for listener in &settings.listeners {
        let options = ListenOptions {
            sockets: settings.workers,
            backlog: listener.backlog,
            unix_mode: listener.unix_mode,
            audience: Audience::Public,
        };
        let key = format!("listeners.{}.address", listener.name);
        listeners.open(&listener.name, &listener.address, &options).map_err(|error| advised(&error, &key))?;
    }
    if let Some(address) = settings.admin.address {
        let options = ListenOptions { backlog: 64, ..ListenOptions::default() };
        let opened = listeners.open(ADMIN, &ListenAddr::Tcp(address), &options);
        opened.map_err(|error| advised(&error, "admin.address"))?;
    }
    Ok(())
}

/// What is wrong with an address or a file, and what the one who set it by `key` can do.
fn advised(error: &restart::Error, key: &str) -> Failure {
    let advice = match error {
        restart::Error::Listen { address: ListenAddr::Tcp(address), cause, .. } => match cause.kind() {
            io::ErrorKind::AddrInUse => {
                format!("; `ss -ltnp 'sport = :{}'` shows who listens there, or change {key}", address.port())
            }
            io::ErrorKind::AddrNotAvailable => {
                format!(
                    "; no interface has this address (`ip address` shows those that there are), see {key}"
                )
            }
            io::ErrorKind::PermissionDenied if address.port() < 1024 => {
                format!("; ports below 1024 take root or CAP_NET_BIND_SERVICE, or change {key}")
            }
            _ => format!("; see {key}"),
        },
        restart::Error::Listen { .. } | restart::Error::File { .. } => format!("; see {key}"),
        _ => String::new(),
    };
    Failure::new(error.step(), format!("{error}{advice}"))
}

fn log(settings: &Settings) -> Result<(), Failure> {
    let invalid =
        |error: &dyn std::fmt::Display| Failure::new("configuration", format!("log.level: {error}"));
    let filter = EnvFilter::try_new(&settings.log.level).map_err(|error| invalid(&error))?;
    // A standard error that nobody reads any more is no reason to fail.
    let lines =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false);
    let set = match settings.log.format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
    set.map_err(|error| invalid(&error))
}

/// As many descriptors as this process may have: each connection takes one, and the soft limit is meant for
/// programs that use select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) }
    });
    if let Err(errno) = raised {
        tracing::warn!(%errno, "cannot raise the limit of descriptors");
    }
}
