//! What the parts of the program need of the settings.

use std::collections::HashMap;
use std::sync::Arc;

use super::tls::Tls;
use super::{Parts, VERSION};
use crate::demo::Demo;
use crate::proxy::{self, ConnectionConfig, ServerAddr};
use crate::resolver::{self, Resolver};
use crate::restart::Options;
use crate::server::{self, Http2Config, ListenerConfig, ProxyProtocol};
use crate::settings::{
    ListenerSettings, Protocol, ProxyProtocolSettings, ProxyVersion, ResolverSettings, Settings,
    UpstreamAddr, UpstreamProtocol,
};
use crate::worker;

impl Parts {
    pub(super) fn options(&self) -> Options {
        options(&self.settings)
    }

    pub(super) fn worker_config(&self) -> worker::Config {
        let Parts { settings, tls, demo, resolver, .. } = self;
        Made { settings, tls, demo: demo.as_ref(), resolver }.worker_config()
    }
}

fn options(settings: &Settings) -> Options {
    let Settings { restart, drain, .. } = settings;
    Options {
        executable: restart.executable.clone(),
        ready_timeout: restart.ready_timeout,
        probation: restart.probation,
        probation_work: restart.probation_requests,
        probation_max: restart.probation_max,
        work: Some(proxy::WORK),
        max_generations: restart.max_generations,
        pid_file: restart.pid_file.clone(),
        stop_delay: drain.stop_delay,
        drain_timeout: drain.timeout,
        idle_grace: drain.idle_grace,
        version: VERSION.to_owned(),
        kinds: server::KINDS,
        losses: &[proxy::LOST_REQUESTS, server::LOST_TUNNELS],
    }
}

/// What a worker gets without any settings, for tests: they are to run on what users have, so nothing else has defaults.
#[cfg(test)]
pub(crate) fn defaults() -> worker::Config {
    let settings = Settings::load(None, []).expect("no settings are good settings");
    let tls =
        Tls::load(&settings, &mut crate::restart::Luggage::default()).expect("there are no certificates");
    Made { settings: &settings, tls: &tls, demo: None, resolver: &Resolver::default() }.worker_config()
}

/// The same for names.
#[cfg(test)]
pub(crate) fn resolver_defaults() -> resolver::Config {
    resolver_config(&Settings::load(None, []).expect("no settings are good settings").resolver)
}

/// What was made of the settings, as far as workers need it.
struct Made<'p> {
    settings: &'p Settings,
    tls: &'p Tls,
    demo: Option<&'p Demo>,
    resolver: &'p Resolver,
}

impl Made<'_> {
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
                linger_timeout: server::Config::LINGER_TIMEOUT,
                buffer_bytes: server::Config::BUFFER_BYTES,
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
                    resolver: self.resolver.clone(),
                    connect_timeout: upstream.connect_timeout,
                    max_idle: upstream.max_idle_per_worker,
                    idle_timeout: upstream.idle_timeout,
                    max_http2_connections: ConnectionConfig::MAX_HTTP2_CONNECTIONS,
                    max_head_bytes: ConnectionConfig::MAX_HEAD_BYTES,
                    buffer_bytes: ConnectionConfig::BUFFER_BYTES,
                },
                response_timeout: upstream.response_timeout,
                upgrades: upstream.upgrades.clone(),
                connect: upstream.connect,
                stall_timeout: proxy::Config::STALL_TIMEOUT,
                request_id: upstream.request_id,
                // What the demonstration says, only the one who tries it reads.
                detailed_errors: self.settings.detailed_errors || self.demo.is_some(),
                logs_query: self.settings.log.query,
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
}

/// How names are looked up.
pub(super) fn resolver_config(settings: &ResolverSettings) -> resolver::Config {
    let ResolverSettings { servers, min_ttl, max_ttl, max_stale } = settings.clone();
    resolver::Config { servers, min_ttl, max_ttl, max_stale }
}

/// The names that are to be looked up.
pub(super) fn names(settings: &Settings) -> impl Iterator<Item = String> {
    settings.upstream.servers.iter().filter_map(|server| match server {
        UpstreamAddr::Name(host, _) => Some(host.clone()),
        UpstreamAddr::Socket(_) | UpstreamAddr::Unix(_) => None,
    })
}

pub(super) fn server_addr(address: &UpstreamAddr) -> ServerAddr {
    match address {
        UpstreamAddr::Socket(address) => ServerAddr::Socket(*address),
        UpstreamAddr::Unix(path) => ServerAddr::Unix(Arc::new(path.clone())),
        UpstreamAddr::Name(host, port) => ServerAddr::Name(host.as_str().into(), *port),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::restart::ListenOptions;

    /// The core has defaults of its own, for daemons without settings. Those of the timeouts and limits stood there, in
    /// the types of the proxy and in the settings, and three pairs differed: tests ran on values that no user had.
    #[test]
    fn the_core_and_the_settings_have_the_same_defaults() {
        let settings = Settings::load(None, []).unwrap();
        let Options { version, kinds, work, losses, .. } = Options::default();
        let ours = Options { version, kinds, work, losses, ..options(&settings) };
        assert_eq!(format!("{ours:?}"), format!("{:?}", Options::default()));

        let ListenOptions { backlog, unix_mode, .. } = ListenOptions::default();
        let [listener] = &settings.listeners[..] else { panic!("{:?}", settings.listeners) };
        assert_eq!((listener.backlog, listener.unix_mode), (backlog, unix_mode));
        let ListenerConfig { http1, http2, tls, proxy_protocol } = ListenerConfig::default();
        let ours = &defaults().server.listeners[&listener.name];
        assert_eq!((ours.http1, ours.http2, ours.tls.is_none()), (http1, http2, tls.is_none()));
        assert_eq!(format!("{:?}", ours.proxy_protocol), format!("{proxy_protocol:?}"));
    }
}
