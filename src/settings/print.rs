//! Settings as TOML.

use std::fmt::Display;
use std::path::Path;
use std::time::Duration;

use super::raw::dotted;
use super::value::quoted;
use super::{
    ClientCertificates, ControlSocket, ListenerSettings, LogFormat, Protocol, ProxyProtocolSettings,
    ProxyVersion, Settings, TlsVersion, UpstreamProtocol, UpstreamSettings,
};
use crate::restart::ListenAddr;

/// Every key, in the order of the reference. What the operator did not ask for is not written.
pub(super) fn to_toml(settings: &Settings) -> String {
    let Settings {
        workers,
        detailed_errors,
        listeners,
        certificates,
        tls,
        http2,
        upstream,
        resolver,
        timeouts,
        limits,
        restart,
        drain,
        control,
        admin,
        log,
    } = settings;

    let mut out = Document::default();
    out.key("workers", workers);
    out.key("errors", quoted(if *detailed_errors { "detailed" } else { "brief" }));
    for listener in listeners {
        write_listener(&mut out, listener);
    }

    for certificate in certificates {
        out.section(&dotted(&["certificates", &certificate.name]));
        out.key("chain", path(&certificate.chain));
        out.key("key", path(&certificate.key));
    }

    out.section("tls");
    out.key("ticket_lifetime", duration(tls.ticket_lifetime));
    out.key("ticket_key_files", list(tls.ticket_key_files.iter().map(|file| file.to_string_lossy())));

    out.section("http2");
    out.key("max_streams", http2.max_streams);
    out.key("stream_window", http2.stream_window);
    out.key("connection_window", http2.connection_window);
    out.key("max_resets_per_minute", http2.max_resets_per_minute);
    out.key("max_control_frames_per_minute", http2.max_control_frames_per_minute);
    out.key("ack_timeout", duration(http2.ack_timeout));

    write_upstream(&mut out, upstream);
    out.section("resolver");
    out.key("servers", list(resolver.servers.iter().map(ToString::to_string)));
    out.key("min_ttl", duration(resolver.min_ttl));
    out.key("max_ttl", duration(resolver.max_ttl));
    out.key("max_stale", duration(resolver.max_stale));

    out.section("timeouts");
    out.key("handshake", duration(timeouts.handshake));
    out.key("header", duration(timeouts.header));
    out.key("idle", duration(timeouts.idle));
    out.key("stall", duration(timeouts.stall));
    out.key("tunnel", duration(timeouts.tunnel));

    out.section("limits");
    out.key("connections_per_worker", limits.connections_per_worker);
    out.key("header_bytes", limits.header_bytes);
    out.key("headers", limits.headers);

    out.section("restart");
    out.optional("executable", restart.executable.as_deref().map(path));
    out.key("ready_timeout", duration(restart.ready_timeout));
    out.key("probation", duration(restart.probation));
    out.key("probation_requests", restart.probation_requests);
    out.key("probation_max", duration(restart.probation_max));
    out.key("max_generations", restart.max_generations);
    out.optional("pid_file", restart.pid_file.as_deref().map(path));

    out.section("drain");
    out.key("timeout", duration(drain.timeout));
    out.key("idle_grace", duration(drain.idle_grace));
    out.key("stop_delay", duration(drain.stop_delay));

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
    out.key("query", log.query);
    out.text
}

fn write_listener(out: &mut Document, listener: &ListenerSettings) {
    out.section(&dotted(&["listeners", &listener.name]));
    out.key("address", quoted(&listener.address.to_string()));
    out.key("backlog", listener.backlog);
    if let ListenAddr::Unix(_) = listener.address {
        out.key("unix_mode", quoted(&format!("{:04o}", listener.unix_mode)));
    }
    out.key("certificates", list(listener.tls.iter().flat_map(|tls| &tls.certificates)));
    if let Some(tls) = &listener.tls {
        let version = match tls.min_version {
            TlsVersion::V1_2 => "1.2",
            TlsVersion::V1_3 => "1.3",
        };
        out.key("tls_min_version", quoted(version));
        let (mode, ca) = match &tls.client_certificates {
            ClientCertificates::Off => ("off", None),
            ClientCertificates::Requested { ca } => ("requested", Some(ca)),
            ClientCertificates::Required { ca } => ("required", Some(ca)),
        };
        out.key("client_certificates", quoted(mode));
        out.optional("client_ca", ca.map(|ca| path(ca)));
    }
    let protocol = |protocol: &Protocol| match protocol {
        Protocol::Http1 => "http/1.1",
        Protocol::Http2 => "h2",
    };
    out.key("protocols", list(listener.protocols.iter().map(protocol)));
    let (mode, from) = match &listener.proxy_protocol {
        ProxyProtocolSettings::Off => ("off", &[][..]),
        ProxyProtocolSettings::Optional { from } => ("optional", &from[..]),
        ProxyProtocolSettings::Required { from } => ("required", &from[..]),
    };
    out.key("proxy_protocol", quoted(mode));
    out.key("proxy_protocol_from", list(from.iter().map(ToString::to_string)));
}

fn write_upstream(out: &mut Document, upstream: &UpstreamSettings) {
    out.section("upstream");
    out.key("servers", list(upstream.servers.iter().map(ToString::to_string)));
    let protocol = match upstream.protocol {
        UpstreamProtocol::Http1 => "http1",
        UpstreamProtocol::Http2 => "http2",
        UpstreamProtocol::Alpn => "alpn",
    };
    out.key("protocol", quoted(protocol));
    out.key("tls", upstream.tls.is_some());
    if let Some(tls) = &upstream.tls {
        out.optional("tls_name", tls.name.as_deref().map(quoted));
        out.optional("ca", tls.ca.as_deref().map(path));
        out.optional("client_certificate", tls.client_certificate.as_deref().map(quoted));
    }
    out.key("max_streams", upstream.max_streams);
    let version = match upstream.proxy_protocol {
        None => "off",
        Some(ProxyVersion::V1) => "v1",
        Some(ProxyVersion::V2) => "v2",
    };
    out.key("proxy_protocol", quoted(version));
    out.key("upgrades", list(&upstream.upgrades));
    out.key("connect", upstream.connect);
    out.key("request_id", upstream.request_id);
    out.key("connect_timeout", duration(upstream.connect_timeout));
    out.key("response_timeout", duration(upstream.response_timeout));
    out.key("idle_timeout", duration(upstream.idle_timeout));
    out.key("max_idle_per_worker", upstream.max_idle_per_worker);
}

fn list(items: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| quoted(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
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
