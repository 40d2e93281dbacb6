//! From the shape as written to settings that hold.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;

use super::problem::{Origin, Problem, Problems};
use super::raw::{
    Origins, Raw, RawAdmin, RawControl, RawDrain, RawLimits, RawListener, RawLog, RawRestart, RawTimeouts,
    RawUpstream, dotted,
};
use super::value::{self, Checked, Leaf};
use super::{
    AdminSettings, ControlSettings, ControlSocket, DrainSettings, LimitSettings, ListenerSettings,
    LogSettings, RestartSettings, Settings, TimeoutSettings, UpstreamSettings,
};
use crate::restart::ListenAddr;

const LISTENERS_MAX: usize = 64;
const LISTENER_NAME_MAX: usize = 64;
/// Listener names travel as descriptor names, and those with this prefix are the restart core's own.
const RESERVED_PREFIX: &str = "exuvia-";
const UPSTREAM_SERVERS_MAX: usize = 256;

/// Checks everything; each part is read to its end before a missing value ends the whole.
pub(super) fn settings(raw: &Raw, origins: &Origins, problems: &mut Problems) -> Option<Settings> {
    let check = &mut Check { origins, problems };
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);

    let workers = check.read("workers", &raw.workers, value::workers(cpus));
    let listeners = listeners(&raw.listeners, check);
    let upstream = upstream(&raw.upstream, check);
    let timeouts = timeouts(&raw.timeouts, check);
    let limits = limits(&raw.limits, check);
    let restart = restart(&raw.restart, check);
    let drain = drain(&raw.drain, check);
    let control = control(&raw.control, check);
    let admin = admin(&raw.admin, check);
    let log = log(&raw.log, check);
    let settings = Settings {
        workers: workers?,
        listeners: listeners?,
        upstream: upstream?,
        timeouts: timeouts?,
        limits: limits?,
        restart: restart?,
        drain: drain?,
        control: control?,
        admin: admin?,
        log: log?,
    };
    apart_from_admin(&settings, raw, check);
    Some(settings)
}

/// What every check needs at hand.
struct Check<'a> {
    origins: &'a Origins,
    problems: &'a mut Problems,
}

impl Check<'_> {
    /// What the rule makes of the value; nothing if that is a problem.
    fn read<T>(&mut self, key: &str, leaf: &Leaf, rule: impl Fn(&Leaf) -> Checked<T>) -> Option<T> {
        match rule(leaf) {
            Ok(value) => Some(value),
            Err(expected) => {
                self.refuse(key, leaf, expected);
                None
            }
        }
    }

    /// The same for a value that may be absent, which is no problem.
    fn read_optional<T>(
        &mut self,
        key: &str,
        leaf: Option<&Leaf>,
        rule: impl Fn(&Leaf) -> Checked<T>,
    ) -> Option<Option<T>> {
        leaf.map_or(Some(None), |leaf| self.read(key, leaf, rule).map(Some))
    }

    fn refuse(&mut self, key: &str, leaf: &Leaf, message: String) {
        self.problems.add(Problem {
            origin: self.origins.of(key),
            key: Some(key.to_owned()),
            value: Some(leaf.to_string()),
            message,
        });
    }

    /// About a listener as a whole.
    fn refuse_listener(&mut self, key: &str, message: String) {
        let origin = self.origins.of_missing(key);
        self.problems.add(Problem { origin, key: Some(key.to_owned()), value: None, message });
    }
}

fn listeners(raw: &BTreeMap<String, RawListener>, check: &mut Check<'_>) -> Option<Vec<ListenerSettings>> {
    if raw.len() > LISTENERS_MAX {
        check.refuse_listener(
            "listeners",
            format!("expected at most {LISTENERS_MAX}, but there are {}", raw.len()),
        );
        return None;
    }
    distinct_names(raw, check);
    let checked: Vec<_> = raw.iter().map(|(name, raw)| listener(name, raw, check)).collect();
    distinct_addresses(raw, &checked, check);
    checked.into_iter().collect()
}

fn listener(name: &str, raw: &RawListener, check: &mut Check<'_>) -> Option<ListenerSettings> {
    let key = dotted(&["listeners", name]);
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    if !(1..=LISTENER_NAME_MAX).contains(&name.len()) || !name.bytes().all(is_allowed) {
        let expected =
            format!("expected a name of 1 to {LISTENER_NAME_MAX} letters, digits, '_', '.' or '-'");
        check.refuse_listener(&key, expected);
    } else if name.starts_with(RESERVED_PREFIX) {
        check.refuse_listener(&key, format!("expected a name that does not start with {RESERVED_PREFIX}"));
    }

    let address_key = format!("{key}.address");
    let address = match &raw.address {
        Some(leaf) => check.read(&address_key, leaf, value::listen_addr),
        None => {
            check.refuse_listener(&address_key, "missing; every listener needs an address".to_owned());
            None
        }
    };
    let backlog = check.read(&format!("{key}.backlog"), &raw.backlog, value::number(1..=65535));
    let mode_key = format!("{key}.unix_mode");
    let unix_mode = check.read(&mode_key, &raw.unix_mode, value::mode);
    if matches!(address, Some(ListenAddr::Tcp(_))) && check.origins.of(&mode_key) != Origin::Builtin {
        let expected = "expected on a unix: address only, and this listener has another";
        check.refuse(&mode_key, &raw.unix_mode, expected.to_owned());
    }
    Some(ListenerSettings {
        name: name.to_owned(),
        address: address?,
        backlog: backlog?,
        unix_mode: unix_mode?,
    })
}

/// A variable such as `EXUVIA__LISTENERS__WEB__ADDRESS` could not tell names apart that differ in case alone.
fn distinct_names(raw: &BTreeMap<String, RawListener>, check: &mut Check<'_>) {
    let mut seen: HashMap<String, &str> = HashMap::new();
    for name in raw.keys() {
        if let Some(other) = seen.insert(name.to_ascii_lowercase(), name) {
            let key = dotted(&["listeners", name]);
            check.refuse_listener(
                &key,
                format!("expected a name that differs from {other} in more than case"),
            );
        }
    }
}

/// Two sockets cannot be bound to one address, unless the kernel chooses the port.
fn distinct_addresses(
    raw: &BTreeMap<String, RawListener>,
    checked: &[Option<ListenerSettings>],
    check: &mut Check<'_>,
) {
    let mut seen: HashMap<&ListenAddr, &str> = HashMap::new();
    for listener in checked.iter().flatten() {
        if matches!(listener.address, ListenAddr::Tcp(addr) if addr.port() == 0) {
            continue;
        }
        let Some(other) = seen.insert(&listener.address, &listener.name) else { continue };
        if let Some(leaf) = raw.get(&listener.name).and_then(|raw| raw.address.as_ref()) {
            let key = dotted(&["listeners", &listener.name, "address"]);
            let other = dotted(&["listeners", other]);
            check.refuse(&key, leaf, format!("expected an address of its own, and {other} has this one"));
        }
    }
}

/// The admin listener needs an address of its own, too.
fn apart_from_admin(settings: &Settings, raw: &Raw, check: &mut Check<'_>) {
    let Some(address) = settings.admin.address.filter(|addr| addr.port() != 0) else { return };
    let same = settings.listeners.iter().find(|listener| listener.address == ListenAddr::Tcp(address));
    if let (Some(same), Some(leaf)) = (same, &raw.admin.address) {
        let other = dotted(&["listeners", &same.name]);
        check.refuse(
            "admin.address",
            leaf,
            format!("expected an address of its own, and {other} has this one"),
        );
    }
}

fn upstream(raw: &RawUpstream, check: &mut Check<'_>) -> Option<UpstreamSettings> {
    let servers = check.read("upstream.servers", &raw.servers, value::list(UPSTREAM_SERVERS_MAX));
    let servers = servers.and_then(|items| {
        let read = |item: &Leaf| check.read("upstream.servers", item, value::upstream_addr);
        let checked: Vec<_> = items.iter().map(read).collect();
        checked.into_iter().collect()
    });
    let connect_timeout =
        check.read("upstream.connect_timeout", &raw.connect_timeout, value::duration_above_zero);
    let response_timeout =
        check.read("upstream.response_timeout", &raw.response_timeout, value::duration_above_zero);
    let idle_timeout = check.read("upstream.idle_timeout", &raw.idle_timeout, value::duration_or_zero);
    let max_idle_per_worker =
        check.read("upstream.max_idle_per_worker", &raw.max_idle_per_worker, value::number(0..=65536));
    Some(UpstreamSettings {
        servers: servers?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        idle_timeout: idle_timeout?,
        max_idle_per_worker: max_idle_per_worker?,
    })
}

fn timeouts(raw: &RawTimeouts, check: &mut Check<'_>) -> Option<TimeoutSettings> {
    let header = check.read("timeouts.header", &raw.header, value::duration_above_zero);
    let idle = check.read("timeouts.idle", &raw.idle, value::duration_above_zero);
    let stall = check.read("timeouts.stall", &raw.stall, value::duration_above_zero);
    Some(TimeoutSettings { header: header?, idle: idle?, stall: stall? })
}

fn limits(raw: &RawLimits, check: &mut Check<'_>) -> Option<LimitSettings> {
    let connections_per_worker = check.read(
        "limits.connections_per_worker",
        &raw.connections_per_worker,
        value::number(1..=1_000_000),
    );
    let header_bytes = check.read("limits.header_bytes", &raw.header_bytes, value::header_bytes);
    let headers = check.read("limits.headers", &raw.headers, value::number(1..=1000));
    Some(LimitSettings {
        connections_per_worker: connections_per_worker?,
        header_bytes: header_bytes?,
        headers: headers?,
    })
}

fn restart(raw: &RawRestart, check: &mut Check<'_>) -> Option<RestartSettings> {
    let executable = check.read_optional("restart.executable", raw.executable.as_ref(), value::path);
    let ready_timeout = check.read("restart.ready_timeout", &raw.ready_timeout, value::duration_above_zero);
    let probation = check.read("restart.probation", &raw.probation, value::duration_or_zero);
    let max_generations = check.read("restart.max_generations", &raw.max_generations, value::number(2..=64));
    let pid_file = check.read_optional("restart.pid_file", raw.pid_file.as_ref(), value::path);
    Some(RestartSettings {
        executable: executable?,
        ready_timeout: ready_timeout?,
        probation: probation?,
        max_generations: max_generations?,
        pid_file: pid_file?,
    })
}

fn drain(raw: &RawDrain, check: &mut Check<'_>) -> Option<DrainSettings> {
    let timeout = check.read("drain.timeout", &raw.timeout, value::duration_or_zero);
    let idle_grace = check.read("drain.idle_grace", &raw.idle_grace, value::duration_or_zero);
    Some(DrainSettings { timeout: timeout?, idle_grace: idle_grace? })
}

fn control(raw: &RawControl, check: &mut Check<'_>) -> Option<ControlSettings> {
    let path = check.read_optional("control.socket", raw.socket.as_ref(), value::socket_path)?;
    Some(ControlSettings { socket: path.map_or(ControlSocket::Default, ControlSocket::Path) })
}

fn admin(raw: &RawAdmin, check: &mut Check<'_>) -> Option<AdminSettings> {
    let address = check.read_optional("admin.address", raw.address.as_ref(), value::tcp_addr)?;
    Some(AdminSettings { address })
}

fn log(raw: &RawLog, check: &mut Check<'_>) -> Option<LogSettings> {
    let level = check.read("log.level", &raw.level, value::log_filter);
    let format = check.read("log.format", &raw.format, value::log_format);
    Some(LogSettings { level: level?, format: format? })
}
