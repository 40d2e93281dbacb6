//! Settings as TOML.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use super::raw::dotted;
use super::value::quoted;
use super::{ControlSocket, ListenerSettings, LogFormat, Settings};
use crate::restart::ListenAddr;

/// Every key, in the order of the reference. What the operator did not ask for is not written.
pub(super) fn to_toml(settings: &Settings) -> String {
    let Settings { workers, listeners, upstream, timeouts, limits, restart, drain, control, admin, log } =
        settings;

    let mut out = Document::default();
    out.key("workers", workers);
    for listener in listeners {
        write_listener(&mut out, listener);
    }

    out.section("upstream");
    let servers: Vec<String> = upstream.servers.iter().map(|server| quoted(&server.to_string())).collect();
    out.key("servers", format!("[{}]", servers.join(", ")));
    out.key("connect_timeout", duration(upstream.connect_timeout));
    out.key("response_timeout", duration(upstream.response_timeout));
    out.key("idle_timeout", duration(upstream.idle_timeout));
    out.key("max_idle_per_worker", upstream.max_idle_per_worker);

    out.section("timeouts");
    out.key("header", duration(timeouts.header));
    out.key("idle", duration(timeouts.idle));
    out.key("stall", duration(timeouts.stall));

    out.section("limits");
    out.key("connections_per_worker", limits.connections_per_worker);
    out.key("header_bytes", limits.header_bytes);
    out.key("headers", limits.headers);

    out.section("restart");
    out.optional("executable", restart.executable.as_deref().map(path));
    out.key("ready_timeout", duration(restart.ready_timeout));
    out.key("probation", duration(restart.probation));
    out.key("max_generations", restart.max_generations);
    out.optional("pid_file", restart.pid_file.as_deref().map(path));

    out.section("drain");
    out.key("timeout", duration(drain.timeout));
    out.key("idle_grace", duration(drain.idle_grace));

    out.section("control");
    match &control.socket {
        ControlSocket::Default => {}
        ControlSocket::Path(socket) => out.key("socket", path(socket)),
    }

    out.section("admin");
    out.optional("address", admin.address.map(|addr| quoted(&addr.to_string())));

    out.section("log");
    out.key("level", quoted(&log.level));
    let format = match log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    out.key("format", quoted(format));
    out.text
}

fn write_listener(out: &mut Document, listener: &ListenerSettings) {
    out.section(&dotted(&["listeners", &listener.name]));
    out.key("address", quoted(&listener.address.to_string()));
    out.key("backlog", listener.backlog);
    if let ListenAddr::Unix(_) = listener.address {
        out.key("unix_mode", quoted(&format!("{:04o}", listener.unix_mode)));
    }
}

fn duration(duration: Duration) -> String {
    quoted(&humantime::format_duration(duration).to_string())
}

fn path(path: &Path) -> String {
    // Settings come from text, so the path is text and nothing is lost here.
    quoted(&path.to_string_lossy())
}

#[derive(Default)]
struct Document {
    text: String,
}

impl Document {
    fn section(&mut self, path: &str) {
        self.text.push_str(&format!("\n[{path}]\n"));
    }

    fn key(&mut self, name: &str, value: impl Display) {
        self.text.push_str(&format!("{name} = {value}\n"));
    }

    fn optional(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.key(name, value);
        }
    }
}
