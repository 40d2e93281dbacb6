//! The composition root: the only file that wires restarts, settings and HTTP to each other.
//!
//! [`run`] in one look: take what the predecessor passed on → settings → listeners → workers → `Ready`.
//! All that can fail happens before `Ready`, and whoever asked for the upgrade is told what did.

mod banner;
mod config;
mod demo_page;
mod tls;

use std::ffi::OsString;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local};

use crate::admin::{AdminServer, Identity};
use crate::control::{ControlServer, Extra, socket};
use crate::demo::{Demo, DemoInfo};
use crate::log::{self, Log};
use crate::metrics::{self, Exposition, Family};
use crate::overview::{Observer, Past, Place};
use crate::resolver::{self, Resolver};
use crate::restart::{
    self, Accepted, Audience, Driver, Failure, Handle, ListenAddr, ListenOptions, Listener, Luggage, Member,
    Outcome, Startup,
};
use crate::settings::{ControlSocket, LogFormat, Settings, SettingsError};
use crate::supervise;
use crate::worker::{self, Worker};
#[cfg(test)]
pub(crate) use config::{defaults, resolver_defaults};
use config::{names, resolver_config, server_addr};
use tls::Tls;

/// The version that this program tells.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// All metrics, by the tables of those who count.
pub fn families() -> impl Iterator<Item = Family> {
    metrics::CORE.iter().chain(log::FAMILIES).chain(resolver::FAMILIES).copied().chain(worker::families())
}

/// Under which name the addresses of servers travel.
const NAMES: &str = "names";

const CONTROL: &str = "exuvia-control";
const ADMIN: &str = "exuvia-admin";

/// The name under which the next generation is given the last ten minutes, and how much of it, in bytes.
const PAST: &str = "past";
const MAX_PAST: usize = 16 * 1024;

/// Runs the proxy until it has stopped or another generation has taken over; behind a supervisor where one
/// is wanted.
pub fn run(config: Option<PathBuf>, supervision: supervise::Mode) -> ExitCode {
    if supervise::wanted(supervision) {
        return supervise::run();
    }
    let begun = Startup::begin();
    // Not before: until then there is one thread.
    let stderr = match &begun {
        Ok(startup) => startup.standard_error(),
        Err(_) => io::stderr().as_fd().try_clone_to_owned(),
    };
    let log = match stderr.and_then(|stderr| Log::start(&stderr)) {
        Ok(log) => log,
        Err(error) => {
            let failure = Failure::new("system", format!("cannot start the log: {error}"));
            if let Ok(startup) = begun {
                startup.fail(failure.clone());
            }
            return failed(&failure);
        }
    };
    let outcome = begun.map_err(|error| Failure::from(&error)).and_then(|mut startup| {
        match Parts::build(&mut startup, config.as_deref(), &log) {
            Ok(parts) => parts.run(startup, &log),
            Err(failure) => {
                startup.fail(failure.clone());
                Err(failure)
            }
        }
    });
    if let Err(failure) = &outcome {
        log.say(&in_words(failure));
    }
    log.finish();
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Broken) | Err(_) => ExitCode::FAILURE,
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

/// For a command that a person waits for; a process that serves has a [`Log`].
fn failed(failure: &Failure) -> ExitCode {
    writeln!(io::stderr(), "{}", in_words(failure)).ok();
    ExitCode::FAILURE
}

fn in_words(failure: &Failure) -> String {
    let Failure { step, message } = failure;
    // Several lines are a list, in which the first is no other than the rest.
    let message = match message.contains('\n') {
        true => format!("\n  {}", message.replace('\n', "\n  ")),
        false => format!(" {message}"),
    };
    format!("exuvia: {step}:{message}")
}

fn settings(config: Option<&Path>) -> Result<Settings, SettingsError> {
    // A variable of ours that is not Unicode has a value that no setting allows, and is told as such.
    let text = |text: OsString| text.to_string_lossy().into_owned();
    let environment = std::env::vars_os().map(|(name, value)| (text(name), text(value)));
    Settings::load(config, environment)
}

fn load(config: Option<&Path>) -> Result<Settings, Failure> {
    settings(config).map_err(|error| {
        // So that who mends the one does not meet the other next.
        let files = tls::certificate_problems(error.certificates());
        Failure::new("configuration", [vec![error.to_string()], files].concat().join("\n"))
    })
}

fn socket_of(settings: &Settings) -> PathBuf {
    match &settings.control.socket {
        ControlSocket::Default => socket::default_path(),
        ControlSocket::Path(path) => path.clone(),
    }
}

/// Who answers operators.
struct Operators {
    control: Rc<ControlServer>,
    admin: Rc<AdminServer>,
}

/// Everything that was made before the process is ready.
struct Parts {
    settings: Settings,
    tls: Tls,
    runtime: Runtime,
    resolver: Resolver,
    /// Until somebody counts them.
    lookups: Option<resolver::Results>,
    demo: Option<Demo>,
    control: PathBuf,
    config: Option<PathBuf>,
}

impl Parts {
    fn build(startup: &mut Startup, config: Option<&Path>, log: &Log) -> Result<Parts, Failure> {
        let settings = load(config)?;
        subscribe(&settings, log)?;
        raise_descriptor_limit();

        let tls = Tls::load(&settings, startup.luggage())?;
        startup.span().in_scope(|| tls.warnings.iter().for_each(|warning| tracing::warn!("{warning}")));
        let control = socket_of(&settings);
        socket::prepare(&control).map_err(|error| Failure::new("control", error.to_string()))?;
        open_listeners(startup, &settings, &control, config)?;

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
        let handed = startup.luggage().take(NAMES);
        let resolver =
            Resolver::start(resolver_config(&settings.resolver), names(&settings), handed.as_deref());
        let (resolver, lookups) = resolver.map_err(system("start the thread that looks names up"))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(system("build the control thread's runtime"))?;
        let (config, lookups) = (config.map(Path::to_owned), Some(lookups));
        Ok(Parts { settings, tls, runtime, resolver, lookups, demo, control, config })
    }

    /// Starts the workers, then serves until the end.
    fn run(mut self, startup: Startup, log: &Log) -> Result<Outcome, Failure> {
        let tasks = LocalSet::new();
        let lookups = self.lookups.take();
        let outcome = tasks.block_on(&self.runtime, self.serve(startup, lookups, log));
        drop(tasks);
        outcome
    }

    async fn serve(
        &self,
        mut startup: Startup,
        lookups: Option<resolver::Results>,
        log: &Log,
    ) -> Result<Outcome, Failure> {
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
        let servers: Vec<String> = match &settings.upstream.servers[..] {
            // Its port is another one in each generation.
            [] => vec!["demonstration".to_owned()],
            servers => servers.iter().map(|server| server_addr(server).to_string()).collect(),
        };
        let columns = worker::Columns::plan(startup.plan(), &servers);
        let lookup_columns = resolver::Columns::plan(startup.plan());
        let log_columns = log::Columns::plan(startup.plan());
        let past = startup.luggage().take(PAST).map(|text| Past::handed_on(&text)).unwrap_or_default();
        let (mut driver, handle, mut members) = startup
            .assemble(self.options(), workers + 1)
            .map_err(|error| advised(&error, "restart.pid_file"))?;
        let observer =
            Observer::new(generation, VERSION, handle.viewer(), driver.history(), driver.books(), servers);
        let (tickets, resolver, packed) = (self.tls.tickets.clone(), self.resolver.clone(), observer.clone());
        driver.pack(move || {
            let mut luggage = Tls::pack(&tickets);
            if let Some(known) = resolver.hand_on() {
                luggage.insert(NAMES, known);
            }
            // Its quotes are escaped, and what else is handed on matters more.
            if let Some(past) = packed.hand_on(MAX_PAST.min(luggage.room() / 4 * 3)) {
                luggage.insert(PAST, past);
            }
            luggage
        });
        log.serve(&mut driver, &log_columns);
        let begun = (|| -> Result<Operators, Failure> {
            let [control, admin] = operators;
            let operator =
                members.pop().ok_or_else(|| Failure::new("start", "the control thread has no place"))?;
            let exposition = Exposition::new(driver.books(), families(), VERSION)
                .map_err(|error| Failure::new("start", format!("the metrics are not right: {error}")))?;
            if let Some(lookups) = lookups {
                spawn_local(lookups.count(lookup_columns, operator.shard()));
            }
            self.start_workers(members, shares, &columns)?;
            let listeners = control?.into_iter().chain(admin?).collect();
            observer.keep(past);
            Ok(self.serve_operators(operator, listeners, exposition, observer, &driver, &handle))
        })();
        let operators = match begun {
            Ok(operators) => operators,
            Err(failure) => {
                driver.fail(failure.clone());
                return Err(failure);
            }
        };
        if is_first {
            log.show(self.banner(&driver));
        }
        driver.span().in_scope(|| {
            let pid = std::process::id();
            // Of an upgrade the old process says it, in one line with how that ends.
            match is_first {
                true => tracing::info!(generation, pid, version = VERSION, "ready"),
                false => tracing::debug!(generation, pid, version = VERSION, "ready"),
            }
        });
        let outcome = driver.run().await;
        // The one who asked for the upgrade, or for the stop, is still to hear how it ended.
        tokio::join!(operators.control.finish(), operators.admin.finish());
        tracing::info!(generation, "ended");
        Ok(outcome)
    }
}

impl Parts {
    fn start_workers(
        &self,
        members: Vec<Member>,
        shares: Vec<Result<Vec<Listener>, restart::Error>>,
        columns: &worker::Columns,
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

    /// Serves the control socket and the admin listener on this thread.
    fn serve_operators(
        &self,
        member: Member,
        listeners: Vec<Listener>,
        exposition: Exposition,
        observer: Rc<Observer>,
        driver: &Driver,
        handle: &Handle,
    ) -> Operators {
        let extra = Rc::new(Extra {
            admin: driver.address(ADMIN).cloned(),
            control: self.control.clone(),
            // The working directory is nothing that the one who asks can see.
            config: self.config.as_ref().map(|path| std::path::absolute(path).unwrap_or(path.clone())),
        });
        let (generation, viewer) = (driver.generation(), handle.viewer());
        let place = Place { listener: CONTROL, audience: Audience::Owner };
        let control = Rc::new(ControlServer::new(handle.clone(), extra, observer.clone(), place));
        let identity = Identity { generation, version: VERSION.to_owned() };
        let place = Place { listener: ADMIN, audience: Audience::Public };
        let admin = Rc::new(AdminServer::new(viewer, identity, exposition, observer, place));
        let (control_server, admin_server) = (control.clone(), admin.clone());
        spawn_local(async move {
            let tracker = member.tracker();
            let accepted = move |Accepted { listener, stream, .. }: Accepted| {
                if *listener == *CONTROL {
                    control_server.serve(stream);
                } else {
                    admin_server.serve(stream);
                }
            };
            // Each of the two servers has a limit of its own: who fills the one does not keep others from the other.
            member.attend(&tracker, listeners, usize::MAX, accepted).await;
        });
        Operators { control, admin }
    }
}

fn open_listeners(
    startup: &mut Startup,
    settings: &Settings,
    control: &Path,
    config: Option<&Path>,
) -> Result<(), Failure> {
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
    let options = ListenOptions { backlog: 64, ..ListenOptions::default() };
    match settings.admin.address {
        Some(address) => {
            let opened = listeners.open(ADMIN, &ListenAddr::Tcp(address), &options);
            opened.map_err(|error| advised(&error, "admin.address"))?;
        }
        None if config.is_none() && settings.upstream.servers.is_empty() => {
            demo_page::open(listeners, &options);
        }
        None => {}
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

fn subscribe(settings: &Settings, log: &Log) -> Result<(), Failure> {
    let style = log.style(settings.log.format == LogFormat::Json, io::stderr().is_terminal());
    log.subscribe(&settings.log.level, style)
        .map_err(|error| Failure::new("configuration", format!("log.level: {error}")))
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
