//! The settings' certificates and ticket keys, loaded: everything that TLS needs and that can be wrong.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::pki_types::ServerName;

use crate::proxy;
use crate::restart::{Failure, Luggage};
use crate::server::TlsConfig;
use crate::settings::{
    CertificateSettings, ClientCertificates, ListenerTlsSettings, Protocol, Settings, TlsVersion,
    UpstreamTlsSettings,
};
use crate::tls::{self, Certificate, Listening, MinVersion, Tickets};

/// Under which name the ticket keys travel.
const TICKETS: &str = "tls.tickets";

/// What was loaded.
#[derive(Debug)]
pub(super) struct Tls {
    /// By the names of the listeners that speak TLS.
    pub(super) listeners: HashMap<String, TlsConfig>,
    pub(super) tickets: Arc<Tickets>,
    /// How it is spoken with servers, if it is.
    pub(super) upstream: Option<proxy::TlsConfig>,
    /// What is odd, and no reason to refuse it.
    pub(super) warnings: Vec<String>,
}

impl Tls {
    /// Loads all of it, and takes the ticket keys of the generation before out of `luggage`. An error has a
    /// line for each file that is wrong.
    pub(super) fn load(settings: &Settings, luggage: &mut Luggage) -> Result<Tls, Failure> {
        let (mut errors, mut warnings) = (Vec::new(), Vec::new());
        let mut certificates = HashMap::new();
        for one in &settings.certificates {
            match Certificate::load(&one.chain, &one.key) {
                Ok((certificate, odd)) => {
                    warnings.extend(odd.into_iter().map(|odd| format!("certificates.{}: {odd}", one.name)));
                    certificates.insert(one.name.as_str(), Arc::new(certificate));
                }
                Err(error) => errors.extend(file_problems(one, &error)),
            }
        }

        let handed = luggage.take(TICKETS);
        let tickets = match load_tickets(settings, handed.as_deref()) {
            Ok((tickets, odd)) => {
                warnings.extend(odd);
                Some(Arc::new(tickets))
            }
            Err(error) => {
                errors.push(error);
                None
            }
        };

        let mut listeners = HashMap::new();
        for (listener, tls) in settings.listeners.iter().filter_map(|one| Some((one, one.tls.as_ref()?))) {
            let Some(tickets) = &tickets else { break };
            match load_listener(tls, &listener.protocols, &certificates, tickets) {
                Ok(config) => drop(listeners.insert(listener.name.clone(), config)),
                Err(error) => errors.push(format!("listeners.{}: {error}", listener.name)),
            }
        }
        let mut upstream = None;
        if let Some(tls) = &settings.upstream.tls
            && !settings.upstream.servers.is_empty()
        {
            match load_upstream(tls, &certificates) {
                Ok(config) => upstream = Some(config),
                Err(error) => errors.push(format!("upstream: {error}")),
            }
        }
        if (upstream.is_some() || !listeners.is_empty()) && tls::seed().is_err() {
            errors.push("nobody can shake hands: the system has no randomness".to_owned());
        }
        match tickets {
            Some(tickets) if errors.is_empty() => Ok(Tls { listeners, tickets, upstream, warnings }),
            _ => Err(Failure::new("certificates", errors.join("\n"))),
        }
    }

    /// What the next generation is given.
    pub(super) fn pack(tickets: &Tickets) -> Luggage {
        let mut luggage = Luggage::default();
        if let Some(keys) = tickets.hand_on() {
            luggage.insert(TICKETS, keys);
        }
        luggage
    }
}

/// What is wrong with the files of these certificates, a line for each.
pub(super) fn certificate_problems(certificates: &[CertificateSettings]) -> Vec<String> {
    let problems = |one: &CertificateSettings| match Certificate::load(&one.chain, &one.key) {
        Ok(_) => Vec::new(),
        Err(error) => file_problems(one, &error),
    };
    certificates.iter().flat_map(problems).collect()
}

/// What `error` says of a certificate, and what else is wrong with its files.
fn file_problems(one: &CertificateSettings, error: &tls::Error) -> Vec<String> {
    let also = if error.path == one.chain { Certificate::check_key(&one.key).err() } else { None };
    let errors = [Some(error), also.as_ref()];
    errors.into_iter().flatten().map(|error| format!("certificates.{}: {error}", one.name)).collect()
}

fn load_tickets(settings: &Settings, handed: Option<&str>) -> Result<(Tickets, Option<String>), String> {
    let lifetime = settings.tls.ticket_lifetime;
    if settings.tls.ticket_key_files.is_empty() {
        Tickets::random(lifetime, handed)
            .ok_or_else(|| "no ticket keys can be made: the system has no randomness".to_owned())
    } else {
        let tickets = Tickets::from_files(lifetime, &settings.tls.ticket_key_files);
        tickets.map(|tickets| (tickets, None)).map_err(|error| format!("tls.ticket_key_files: {error}"))
    }
}

fn load_upstream(
    settings: &UpstreamTlsSettings,
    certificates: &HashMap<&str, Arc<Certificate>>,
) -> Result<proxy::TlsConfig, String> {
    // A certificate that is not here could not be loaded, which has been told.
    let named = settings.client_certificate.as_ref().and_then(|name| certificates.get(name.as_str()));
    let identity = named.map(|certificate| certificate.certified());
    let client = tls::client::config(settings.ca.as_deref(), identity).map_err(|error| error.to_string())?;
    let name = settings.name.clone().map(ServerName::try_from).transpose();
    let name = name.map_err(|_| "tls_name is no name of a server".to_owned())?;
    Ok(proxy::TlsConfig { client, name })
}

fn load_listener(
    settings: &ListenerTlsSettings,
    protocols: &[Protocol],
    certificates: &HashMap<&str, Arc<Certificate>>,
    tickets: &Arc<Tickets>,
) -> Result<TlsConfig, tls::Error> {
    let client_certificates = match &settings.client_certificates {
        ClientCertificates::Off => tls::ClientCertificates::Off,
        ClientCertificates::Requested { ca } => tls::ClientCertificates::Requested { ca: ca.clone() },
        ClientCertificates::Required { ca } => tls::ClientCertificates::Required { ca: ca.clone() },
    };
    let named = settings.certificates.iter().filter_map(|name| certificates.get(name.as_str()));
    let alpn = |protocol: &Protocol| match protocol {
        Protocol::Http1 => &b"http/1.1"[..],
        Protocol::Http2 => b"h2",
    };
    let config = Listening {
        certificates: &named.cloned().collect::<Vec<_>>(),
        min_version: match settings.min_version {
            TlsVersion::V1_2 => MinVersion::V1_2,
            TlsVersion::V1_3 => MinVersion::V1_3,
        },
        protocols: &protocols.iter().map(alpn).collect::<Vec<_>>(),
        client_certificates: &client_certificates,
        tickets,
    };
    let asks_clients = client_certificates != tls::ClientCertificates::Off;
    Ok(TlsConfig { config: config.config()?, asks_clients })
}
