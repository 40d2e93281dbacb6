//! What is spoken with servers.

use super::{Check, protocols};
use crate::settings::raw::RawUpstream;
use crate::settings::value::{self, Leaf};
use crate::settings::{ProxyVersion, UpstreamAddr, UpstreamProtocol, UpstreamSettings, UpstreamTlsSettings};

const SERVERS_MAX: usize = 256;
const UPGRADES_MAX: usize = 16;

pub(super) fn upstream(
    raw: &RawUpstream,
    certificates: &[&str],
    check: &mut Check<'_>,
) -> Option<UpstreamSettings> {
    let example = (SERVERS_MAX, r#"["127.0.0.1:9001", "127.0.0.1:9002"]"#);
    let servers = check.read_list("upstream.servers", &raw.servers, example, value::upstream_addr);
    let known = [
        ("http1", UpstreamProtocol::Http1),
        ("http2", UpstreamProtocol::Http2),
        ("alpn", UpstreamProtocol::Alpn),
    ];
    let protocol = check.read("upstream.protocol", &raw.protocol, value::word(&known));
    let tls = tls(raw, certificates, check);
    if let (Some(UpstreamProtocol::Alpn), Some(None)) = (protocol, &tls) {
        let expected = "expected with upstream.tls = true: without TLS there is no choice by ALPN";
        check.refuse_in_context("upstream.protocol", &raw.protocol, expected.to_owned());
    }
    let max_streams = check.read("upstream.max_streams", &raw.max_streams, value::number(1..=10_000));
    let known = [("off", None), ("v1", Some(ProxyVersion::V1)), ("v2", Some(ProxyVersion::V2))];
    let proxy_protocol = check.read("upstream.proxy_protocol", &raw.proxy_protocol, value::word(&known));
    let example = (UPGRADES_MAX, r#"["websocket"]"#);
    let upgrades = check.read_list("upstream.upgrades", &raw.upgrades, example, value::upgrade_token);
    let connect = check.read("upstream.connect", &raw.connect, value::switch);
    let request_id = check.read("upstream.request_id", &raw.request_id, value::switch);
    let connect_timeout =
        check.read("upstream.connect_timeout", &raw.connect_timeout, value::duration_above_zero);
    let response_timeout =
        check.read("upstream.response_timeout", &raw.response_timeout, value::duration_above_zero);
    let idle_timeout = check.read("upstream.idle_timeout", &raw.idle_timeout, value::duration_or_zero);
    let max_idle_per_worker =
        check.read("upstream.max_idle_per_worker", &raw.max_idle_per_worker, value::number(0..=65536));
    Some(UpstreamSettings {
        servers: servers?,
        protocol: protocol?,
        tls: tls?,
        max_streams: max_streams?,
        proxy_protocol: proxy_protocol?,
        upgrades: upgrades?,
        connect: connect?,
        request_id: request_id?,
        connect_timeout: connect_timeout?,
        response_timeout: response_timeout?,
        idle_timeout: idle_timeout?,
        max_idle_per_worker: max_idle_per_worker?,
    })
}

/// `Some(None)`: TLS is not spoken.
fn tls(
    raw: &RawUpstream,
    certificates: &[&str],
    check: &mut Check<'_>,
) -> Option<Option<UpstreamTlsSettings>> {
    let on = check.read("upstream.tls", &raw.tls, value::switch);
    let name = check.read_optional("upstream.tls_name", raw.tls_name.as_ref(), value::server_name);
    let ca = check.read_optional("upstream.ca", raw.ca.as_ref(), value::path);
    let client_certificate =
        check.read_optional("upstream.client_certificate", raw.client_certificate.as_ref(), value::name);
    if !on? {
        for (key, leaf, is_good) in [
            ("upstream.tls_name", &raw.tls_name, name.is_some()),
            ("upstream.ca", &raw.ca, ca.is_some()),
            ("upstream.client_certificate", &raw.client_certificate, client_certificate.is_some()),
        ] {
            // Of one that is wrong by itself this is not the first thing to say.
            if let Some(leaf) = leaf.as_ref().filter(|_| is_good) {
                let expected = "expected with upstream.tls = true only".to_owned();
                check.refuse_in_context(key, leaf, expected);
            }
        }
        return Some(None);
    }
    if let (Some(Some(name)), Some(leaf)) = (&client_certificate, &raw.client_certificate) {
        protocols::known_certificate("upstream.client_certificate", leaf, name, certificates, check);
    }
    if raw.tls_name.is_none() && has_unix_socket(&raw.servers) {
        let expected = "expected with upstream.tls_name: a server on a Unix socket has no name to prove";
        check.refuse_in_context("upstream.tls", &raw.tls, expected.to_owned());
    }
    Some(Some(UpstreamTlsSettings { name: name?, ca: ca?, client_certificate: client_certificate? }))
}

/// Whether any server is on a Unix socket, whatever is wrong with the others.
fn has_unix_socket(servers: &Leaf) -> bool {
    let is_unix = |server: &Leaf| matches!(value::upstream_addr(server), Ok(UpstreamAddr::Unix(_)));
    matches!(servers, Leaf::List(servers) if servers.iter().any(is_unix))
}
