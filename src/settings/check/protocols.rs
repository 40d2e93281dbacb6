//! What is spoken with clients.

use std::collections::BTreeMap;

use super::{Check, ListenAddr, Origin};
use crate::settings::raw::{RawCertificate, RawHttp2, RawListener, RawTls, dotted, nearest};
use crate::settings::value::{self, Leaf};
use crate::settings::{
    CertificateSettings, ClientCertificates, Http2Settings, ListenerTlsSettings, Protocol,
    ProxyProtocolSettings, TlsSettings, TlsVersion,
};

const CERTIFICATES_MAX: usize = 1024;
const LISTENER_CERTIFICATES_MAX: usize = 256;
const NETWORKS_MAX: usize = 256;
const TICKET_KEYS_MAX: usize = 16;
/// The largest frame that clients send unasked (RFC 9113, section 4.2).
const STREAM_WINDOW_MIN: usize = 16 * 1024;
/// The window that a connection begins with (RFC 9113, section 6.9.2), and which cannot be taken back.
const CONNECTION_WINDOW_MIN: usize = 65_535;

pub(super) fn certificates(
    raw: &BTreeMap<String, RawCertificate>,
    check: &mut Check<'_>,
) -> Option<Vec<CertificateSettings>> {
    check.names("certificates", raw.keys(), CERTIFICATES_MAX)?;
    let certificate = |(name, raw): (&String, &RawCertificate)| {
        let table = dotted(&["certificates", name]);
        let mut file = |part: &str, leaf: Option<&Leaf>| {
            let Some(leaf) = leaf else {
                check.refuse_missing(&table, part, "every certificate needs a chain and a key");
                return None;
            };
            check.read(&format!("{table}.{part}"), leaf, value::path)
        };
        let (chain, key) = (file("chain", raw.chain.as_ref()), file("key", raw.key.as_ref()));
        Some(CertificateSettings { name: name.clone(), chain: chain?, key: key? })
    };
    let checked: Vec<_> = raw.iter().map(certificate).collect();
    checked.into_iter().collect()
}

pub(super) fn tls(raw: &RawTls, check: &mut Check<'_>) -> Option<TlsSettings> {
    let lifetime = check.read("tls.ticket_lifetime", &raw.ticket_lifetime, value::duration_above_zero);
    let example = (TICKET_KEYS_MAX, r#"["/etc/exuvia/ticket.key"]"#);
    let files = check.read_list("tls.ticket_key_files", &raw.ticket_key_files, example, value::path);
    Some(TlsSettings { ticket_lifetime: lifetime?, ticket_key_files: files? })
}

pub(super) fn http2(raw: &RawHttp2, check: &mut Check<'_>) -> Option<Http2Settings> {
    let max_streams = check.read("http2.max_streams", &raw.max_streams, value::number(1..=10_000));
    let stream_window = check.read(
        "http2.stream_window",
        &raw.stream_window,
        value::size(STREAM_WINDOW_MIN..=16 << 20, r#"from "16KiB" to "16MiB""#),
    );
    let connection_window = check.read(
        "http2.connection_window",
        &raw.connection_window,
        value::size(CONNECTION_WINDOW_MIN..=1 << 30, r#"from 65535 to "1024MiB""#),
    );
    if let (Some(streams), Some(stream), Some(connection)) = (max_streams, stream_window, connection_window) {
        covers(raw, streams as usize, stream, connection, check);
    }
    let max_resets_per_minute =
        check.read("http2.max_resets_per_minute", &raw.max_resets_per_minute, value::number(1..=1_000_000));
    let max_control_frames_per_minute = check.read(
        "http2.max_control_frames_per_minute",
        &raw.max_control_frames_per_minute,
        value::number(10..=10_000_000),
    );
    let ack_timeout = check.read("http2.ack_timeout", &raw.ack_timeout, value::duration_above_zero);
    let window = |bytes: usize| u32::try_from(bytes).ok();
    Some(Http2Settings {
        max_streams: max_streams?,
        stream_window: window(stream_window?)?,
        connection_window: window(connection_window?)?,
        max_resets_per_minute: max_resets_per_minute?,
        max_control_frames_per_minute: max_control_frames_per_minute?,
        ack_timeout: ack_timeout?,
    })
}

/// Refuses windows with which requests that no server takes would stop the others of their connection.
fn covers(raw: &RawHttp2, streams: usize, stream: usize, connection: usize, check: &mut Check<'_>) {
    let needed = streams * stream;
    if connection >= needed {
        return;
    }
    // Of the three, one that somebody chose.
    let is_chosen = |key: &str| check.origins.of(key) != Origin::Builtin;
    let (key, leaf, most) = if is_chosen("http2.connection_window") {
        let expected = format!(
            "expected at least http2.max_streams times http2.stream_window, which is {streams} times {stream} = \
             {needed} bytes"
        );
        return check.refuse_in_context("http2.connection_window", &raw.connection_window, expected);
    } else if is_chosen("http2.stream_window") {
        ("http2.stream_window", &raw.stream_window, format!("{} bytes", connection / streams))
    } else {
        ("http2.max_streams", &raw.max_streams, (connection / stream).to_string())
    };
    let expected = format!(
        "expected at most {most}, or an http2.connection_window of at least {needed} bytes for {streams} streams of \
         {stream} bytes"
    );
    check.refuse_in_context(key, leaf, expected);
}

/// Refuses a name that no certificate has.
pub(super) fn known_certificate(key: &str, leaf: &Leaf, name: &str, names: &[&str], check: &mut Check<'_>) {
    if names.contains(&name) {
        return;
    }
    // As keys, since even a name that nothing may have is repeated here.
    let shown = |name: &str| dotted(&[name]);
    let message = match (nearest(name, names.iter().copied()), names) {
        (_, []) => format!("expected the name of a certificate, and there is no {}", table_of(name)),
        (Some(meant), _) => format!("no such certificate; did you mean {}?", shown(meant)),
        (None, names) => {
            let names: Vec<String> = names.iter().map(|name| shown(name)).collect();
            format!("no such certificate; there are {}", names.join(", "))
        }
    };
    check.refuse_in_context(key, leaf, message);
}

fn table_of(certificate: &str) -> String {
    format!("[{}]", dotted(&["certificates", certificate]))
}

/// `Some(None)`: the listener does not speak TLS.
pub(super) fn listener_tls(
    listener: &str,
    raw: &RawListener,
    names: &[&str],
    check: &mut Check<'_>,
) -> Option<Option<ListenerTlsSettings>> {
    let key = |name: &str| format!("{listener}.{name}");
    let certificates = check.read_list(
        &key("certificates"),
        &raw.certificates,
        (LISTENER_CERTIFICATES_MAX, r#"["site"], the names of [certificates.*]"#),
        value::name,
    );
    for name in certificates.iter().flatten() {
        known_certificate(&key("certificates"), &Leaf::Text(name.clone()), name, names, check);
    }
    let versions = [("1.2", TlsVersion::V1_2), ("1.3", TlsVersion::V1_3)];
    let min_version = check.read(&key("tls_min_version"), &raw.tls_min_version, value::word(&versions));
    let modes = [("off", Mode::Off), ("requested", Mode::Requested), ("required", Mode::Required)];
    let mode = check.read(&key("client_certificates"), &raw.client_certificates, value::word(&modes));
    let ca = check.read_optional(&key("client_ca"), raw.client_ca.as_ref(), value::path);

    let certificates = certificates?;
    if certificates.is_empty() {
        let mut refuse = |name: &str, leaf: &Leaf| {
            let expected = "expected on a listener with certificates only, and this one has none";
            check.refuse_in_context(&key(name), leaf, expected.to_owned());
        };
        if min_version == Some(TlsVersion::V1_3) {
            refuse("tls_min_version", &raw.tls_min_version);
        }
        if matches!(mode, Some(Mode::Requested | Mode::Required)) {
            refuse("client_certificates", &raw.client_certificates);
        }
        if let (Some(Some(_)), Some(leaf)) = (ca, &raw.client_ca) {
            refuse("client_ca", leaf);
        }
        return Some(None);
    }
    let client_certificates = match (mode?, ca?) {
        (Mode::Off, None) => ClientCertificates::Off,
        (Mode::Requested, Some(ca)) => ClientCertificates::Requested { ca },
        (Mode::Required, Some(ca)) => ClientCertificates::Required { ca },
        (Mode::Off, Some(_)) => {
            if let Some(leaf) = &raw.client_ca {
                let expected = r#"expected only if client_certificates is "requested" or "required""#;
                check.refuse_in_context(&key("client_ca"), leaf, expected.to_owned());
            }
            return None;
        }
        (_, None) => {
            let expected = "expected with client_ca, which says whose certificates are trusted";
            check.refuse_in_context(
                &key("client_certificates"),
                &raw.client_certificates,
                expected.to_owned(),
            );
            return None;
        }
    };
    Some(Some(ListenerTlsSettings { certificates, min_version: min_version?, client_certificates }))
}

/// How much is asked, before it is known of whom.
#[derive(Clone, Copy)]
enum Mode {
    Off,
    Requested,
    Required,
}

pub(super) fn protocols(listener: &str, raw: &RawListener, check: &mut Check<'_>) -> Option<Vec<Protocol>> {
    let key = format!("{listener}.protocols");
    let known = [("h2", Protocol::Http2), ("http/1.1", Protocol::Http1)];
    let example = (known.len(), r#"["h2", "http/1.1"]"#);
    let protocols = check.read_list(&key, &raw.protocols, example, value::word(&known))?;
    match protocols[..] {
        [_] => Some(protocols),
        [one, other] if one != other => Some(protocols),
        _ => {
            let expected = r#"expected "h2", "http/1.1" or both, each once"#;
            check.refuse(&key, &raw.protocols, expected.to_owned());
            None
        }
    }
}

pub(super) fn proxy_protocol(
    listener: &str,
    raw: &RawListener,
    address: Option<&ListenAddr>,
    check: &mut Check<'_>,
) -> Option<ProxyProtocolSettings> {
    let key = |name: &str| format!("{listener}.{name}");
    let modes = [("off", Mode::Off), ("optional", Mode::Requested), ("required", Mode::Required)];
    let mode = check.read(&key("proxy_protocol"), &raw.proxy_protocol, value::word(&modes));
    let from_key = key("proxy_protocol_from");
    let example = (NETWORKS_MAX, r#"["10.0.0.0/8", "fd00::/8"]"#);
    let from = check.read_list(&from_key, &raw.proxy_protocol_from, example, value::network);
    let (mode, from) = (mode?, from?);
    let refused = match (mode, address, from.is_empty()) {
        (Mode::Off, _, false) => Some(r#"expected only if proxy_protocol is "optional" or "required""#),
        (Mode::Requested | Mode::Required, Some(ListenAddr::Tcp(_)), true) => {
            check.refuse_in_context(
                &key("proxy_protocol"),
                &raw.proxy_protocol,
                "expected with proxy_protocol_from, which says who is believed".to_owned(),
            );
            return None;
        }
        (_, Some(ListenAddr::Unix(_)), false) => {
            Some("expected on a TCP listener only: here unix_mode says who may connect")
        }
        _ => None,
    };
    if let Some(why) = refused {
        check.refuse_in_context(&from_key, &raw.proxy_protocol_from, why.to_owned());
        return None;
    }
    Some(match mode {
        Mode::Off => ProxyProtocolSettings::Off,
        Mode::Requested => ProxyProtocolSettings::Optional { from },
        Mode::Required => ProxyProtocolSettings::Required { from },
    })
}
