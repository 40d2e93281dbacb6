//! From the shape as written to settings that hold.

mod protocols;
mod resolver;
mod upstream;

use std::collections::{BTreeMap, HashMap};
use std::num::NonZero;

use super::problem::{Origin, Problem, Problems};
use super::raw::{
    Origins, Raw, RawAdmin, RawControl, RawDrain, RawLimits, RawListener, RawLog, RawRestart, RawTimeouts,
    dotted,
};
use super::value::{self, Checked, Leaf};
use super::{
    AdminSettings, ControlSettings, ControlSocket, DrainSettings, LimitSettings, ListenerSettings,
    LogSettings, RestartSettings, Settings, TimeoutSettings,
};
use crate::restart::ListenAddr;

const LISTENERS_MAX: usize = 64;
/// The longest name of a listener or a certificate, in bytes.
const NAME_MAX: usize = 64;
/// Listener names travel as descriptor names, and those with this prefix are the restart core's own.
const RESERVED_PREFIX: &str = "exuvia-";

/// Checks everything; each part is read to its end before a missing value ends the whole.
pub(super) fn settings(raw: &Raw, origins: &Origins, problems: &mut Problems) -> Option<Settings> {
    let check = &mut Check { origins, problems };
    let cpus = std::thread::available_parallelism().map_or(1, NonZero::get);

    let workers = check.read("workers", &raw.workers, value::workers(cpus));
    let known = [("brief", false), ("detailed", true)];
    let detailed_errors = check.read("errors", &raw.errors, value::word(&known));
    let certificates = protocols::certificates(&raw.certificates, check);
    check.problems.certificates = certificates.clone().unwrap_or_default();
    let names: Vec<&str> = raw.certificates.keys().map(String::as_str).collect();
    let listeners = listeners(&raw.listeners, &names, check);
    let tls = protocols::tls(&raw.tls, check);
    let http2 = protocols::http2(&raw.http2, check);
    let upstream = upstream::upstream(&raw.upstream, &names, check);
    let resolver = resolver::resolver(&raw.resolver, check);
    let timeouts = timeouts(&raw.timeouts, check);
    let limits = limits(&raw.limits, check);
    let restart = restart(&raw.restart, check);
    let drain = drain(&raw.drain, check);
    let control = control(&raw.control, check);
    let admin = admin(&raw.admin, check);
    let log = log(&raw.log, check);
    let settings = Settings {
        workers: workers?,
        detailed_errors: detailed_errors?,
        listeners: listeners?,
        certificates: certificates?,
        tls: tls?,
        http2: http2?,
        upstream: upstream?,
        resolver: resolver?,
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

    /// Refuses a value for what other settings say, which a file that cannot be read may change.
    fn refuse_in_context(&mut self, key: &str, leaf: &Leaf, message: String) {
        self.problems.add_in_context(Problem {
            origin: self.origins.of(key),
            key: Some(key.to_owned()),
            value: Some(leaf.to_string()),
            message,
        });
    }

    /// About a table as a whole, such as a listener's.
    fn refuse_table(&mut self, key: &str, message: String) {
        let origin = self.origins.of_missing(key);
        self.problems.add(Problem { origin, key: Some(key.to_owned()), value: None, message });
    }

    /// About a key that the table lacks.
    fn refuse_missing(&mut self, table: &str, name: &str, why: &str) {
        let (origin, key) = (self.origins.of_missing(table), Some(format!("{table}.{name}")));
        self.problems.add(Problem { origin, key, value: None, message: format!("missing; {why}") });
    }

    /// What the rule makes of each item of a list of at most `max`, such as `example`.
    fn read_list<T>(
        &mut self,
        key: &str,
        leaf: &Leaf,
        (max, example): (usize, &str),
        rule: impl Fn(&Leaf) -> Checked<T>,
    ) -> Option<Vec<T>> {
        let items = self.read(key, leaf, value::list(max, example))?;
        let checked: Vec<_> = items.iter().map(|item| self.read(key, item, &rule)).collect();
        checked.into_iter().collect()
    }

    /// The names of a section's tables: not too many, and each fit to be one.
    fn names<'n>(
        &mut self,
        section: &str,
        names: impl ExactSizeIterator<Item = &'n String>,
        max: usize,
    ) -> Option<()> {
        if names.len() > max {
            let message = format!("expected at most {max}, but there are {}", names.len());
            self.refuse_table(section, message);
            return None;
        }
        // A variable such as `EXUVIA__LISTENERS__WEB__ADDRESS` could not tell names apart that differ in case.
        let mut seen: HashMap<String, &str> = HashMap::new();
        for name in names {
            let key = dotted(&[section, name]);
            let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
            if !(1..=NAME_MAX).contains(&name.len()) || !name.bytes().all(is_allowed) {
                let expected = format!("expected a name of 1 to {NAME_MAX} letters, digits, '_', '.' or '-'");
                self.refuse_table(&key, expected);
            }
            if let Some(other) = seen.insert(name.to_ascii_lowercase(), name) {
                self.refuse_table(
                    &key,
                    format!("expected a name that differs from {other} in more than case"),
                );
            }
        }
        Some(())
    }
}

fn listeners(
    raw: &BTreeMap<String, RawListener>,
    certificates: &[&str],
    check: &mut Check<'_>,
) -> Option<Vec<ListenerSettings>> {
    check.names("listeners", raw.keys(), LISTENERS_MAX)?;
    let checked: Vec<_> = raw.iter().map(|(name, raw)| listener(name, raw, certificates, check)).collect();
    distinct_addresses(raw, &checked, check);
    checked.into_iter().collect()
}

fn listener(
    name: &str,
    raw: &RawListener,
    certificates: &[&str],
    check: &mut Check<'_>,
) -> Option<ListenerSettings> {
    let key = dotted(&["listeners", name]);
    if name.starts_with(RESERVED_PREFIX) {
        check.refuse_table(&key, format!("expected a name that does not start with {RESERVED_PREFIX}"));
    }

    let address = match &raw.address {
        Some(leaf) => check.read(&format!("{key}.address"), leaf, value::listen_addr),
        None => {
            check.refuse_missing(&key, "address", "every listener needs an address");
            None
        }
    };
    let backlog = check.read(&format!("{key}.backlog"), &raw.backlog, value::number(1..=65535));
    let mode_key = format!("{key}.unix_mode");
    let unix_mode = check.read(&mode_key, &raw.unix_mode, value::mode);
    if matches!(address, Some(ListenAddr::Tcp(_))) && check.origins.of(&mode_key) != Origin::Builtin {
        let expected = "expected on a unix: address only, and this listener has another";
        check.refuse_in_context(&mode_key, &raw.unix_mode, expected.to_owned());
    }
    let tls = protocols::listener_tls(&key, raw, certificates, check);
    let protocols = protocols::protocols(&key, raw, check);
    let proxy_protocol = protocols::proxy_protocol(&key, raw, address.as_ref(), check);
    Some(ListenerSettings {
        name: name.to_owned(),
        address: address?,
        backlog: backlog?,
        unix_mode: unix_mode?,
        tls: tls?,
        protocols: protocols?,
        proxy_protocol: proxy_protocol?,
    })
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
        check.refuse_in_context(
            "admin.address",
            leaf,
            format!("expected an address of its own, and {other} has this one"),
        );
    }
}

fn timeouts(raw: &RawTimeouts, check: &mut Check<'_>) -> Option<TimeoutSettings> {
    let handshake = check.read("timeouts.handshake", &raw.handshake, value::duration_above_zero);
    let header = check.read("timeouts.header", &raw.header, value::duration_above_zero);
    let idle = check.read("timeouts.idle", &raw.idle, value::duration_above_zero);
    let stall = check.read("timeouts.stall", &raw.stall, value::duration_above_zero);
    let tunnel = check.read("timeouts.tunnel", &raw.tunnel, value::duration_above_zero);
    Some(TimeoutSettings {
        handshake: handshake?,
        header: header?,
        idle: idle?,
        stall: stall?,
        tunnel: tunnel?,
    })
}

fn limits(raw: &RawLimits, check: &mut Check<'_>) -> Option<LimitSettings> {
    let connections_per_worker = check.read(
        "limits.connections_per_worker",
        &raw.connections_per_worker,
        value::number(1..=1_000_000),
    );
    let header_bytes = check.read(
        "limits.header_bytes",
        &raw.header_bytes,
        value::size(8 << 10..=1 << 20, r#"from "8KiB" to "1MiB""#),
    );
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
    let probation_requests =
        check.read("restart.probation_requests", &raw.probation_requests, value::number(0..=1_000_000));
    let probation_max = check.read("restart.probation_max", &raw.probation_max, value::duration_or_zero);
    let max_generations = check.read("restart.max_generations", &raw.max_generations, value::number(2..=64));
    let pid_file = check.read_optional("restart.pid_file", raw.pid_file.as_ref(), value::path);
    Some(RestartSettings {
        executable: executable?,
        ready_timeout: ready_timeout?,
        probation: probation?,
        probation_requests: probation_requests?,
        probation_max: probation_max?,
        max_generations: max_generations?,
        pid_file: pid_file?,
    })
}

fn drain(raw: &RawDrain, check: &mut Check<'_>) -> Option<DrainSettings> {
    let timeout = check.read("drain.timeout", &raw.timeout, value::duration_or_zero);
    let idle_grace = check.read("drain.idle_grace", &raw.idle_grace, value::duration_or_zero);
    let stop_delay = check.read("drain.stop_delay", &raw.stop_delay, value::duration_or_zero);
    Some(DrainSettings { timeout: timeout?, idle_grace: idle_grace?, stop_delay: stop_delay? })
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
    let query = check.read("log.query", &raw.query, value::switch);
    Some(LogSettings { level: level?, format: format?, query: query? })
}
