//! One look-up of a name: the files of the system, the names that it may stand for, both kinds of addresses.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RecordType};
use hickory_resolver::{Hosts, TokioResolver, system_conf};
use tokio::time::timeout;

use super::Config;

/// How long one name server may take, whatever `/etc/resolv.conf` says: a request may be waiting.
const MAX_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a look-up may take in all.
const WHOLE: Duration = Duration::from_secs(15);

/// What came of a look-up.
#[derive(Debug)]
pub(super) enum Outcome {
    Found(Found),
    /// The name has no address, and that may be believed for so long.
    Absent(Duration),
    /// Nobody knows.
    Failed(String),
}

#[derive(Debug)]
pub(super) struct Found {
    /// At least one; IPv6 first.
    pub(super) addresses: Vec<IpAddr>,
    /// The least of them all. Zero for those of a file, which is to be read again.
    pub(super) ttl: Duration,
}

/// Looks a name up. `partly` is told the addresses of the family that is there first: the other may never come, as some
/// name servers do not answer for one of them (RFC 8305, section 3).
pub(super) async fn look_up(config: &Config, name: &str, partly: impl Fn(&[IpAddr])) -> Outcome {
    let looking = async {
        let sources = Sources::read(config)?;
        sources.look_up(name, &partly).await
    };
    match timeout(WHOLE, looking).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => Outcome::Failed(describe(&error)),
        Err(_) => Outcome::Failed("no name server answers".to_owned()),
    }
}

fn describe(error: &NetError) -> String {
    match error {
        NetError::Timeout | NetError::NoConnections => "no name server answers".to_owned(),
        NetError::Dns(DnsError::ResponseCode(code)) => format!("the name server says {code}"),
        error => error.to_string(),
    }
}

/// What holds for one look-up. It is read anew for each, as the C library does it: it is a few lines, and nobody has to
/// tell when it has changed.
struct Sources {
    hosts: Hosts,
    resolver: TokioResolver,
    ndots: usize,
    search: Vec<Name>,
}

impl Sources {
    fn read(config: &Config) -> Result<Sources, NetError> {
        let (servers, mut options) = match &config.servers[..] {
            [] => system_conf::read_system_conf().or_else(|error| match error {
                // The C library's own default: a name server on this host.
                NetError::Io(cause) if cause.kind() == io::ErrorKind::NotFound => {
                    let local = NameServerConfig::udp_and_tcp([127, 0, 0, 1].into());
                    Ok((ResolverConfig::from_parts(None, Vec::new(), vec![local]), ResolverOpts::default()))
                }
                error => Err(error),
            })?,
            // No search list: the names of the settings are whole.
            servers => {
                let server = |address: &std::net::SocketAddr| {
                    let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut one| {
                        one.port = address.port();
                        one
                    });
                    NameServerConfig::new(address.ip(), true, connections.into())
                };
                let servers = servers.iter().map(server).collect();
                (ResolverConfig::from_parts(None, Vec::new(), servers), ResolverOpts::default())
            }
        };
        options.timeout = options.timeout.min(MAX_TIMEOUT);
        // The cache is ours, and so are the hosts: here a name in the file is not asked for elsewhere.
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let search = servers.domain().into_iter().chain(servers.search()).cloned().collect();
        let ndots = options.ndots;
        let mut builder = TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let hosts = Hosts::from_system().unwrap_or_default();
        Ok(Sources { hosts, resolver: builder.build()?, ndots, search })
    }

    async fn look_up(&self, name: &str, partly: &impl Fn(&[IpAddr])) -> Result<Outcome, NetError> {
        let mut last = Outcome::Absent(Duration::ZERO);
        for candidate in self.candidates(name)? {
            if let Some(addresses) = self.in_hosts(&candidate) {
                return Ok(Outcome::Found(Found { addresses, ttl: Duration::ZERO }));
            }
            last = self.ask(&candidate, partly).await;
            if !matches!(last, Outcome::Absent(_)) {
                break;
            }
        }
        Ok(last)
    }

    /// The names that a name may stand for, in the order in which they are tried (resolv.conf(5), `search`, `ndots`).
    fn candidates(&self, name: &str) -> Result<Vec<Name>, NetError> {
        let mut whole = Name::from_utf8(name)?;
        let is_whole_first = usize::from(whole.num_labels()) > self.ndots;
        let mut candidates: Vec<Name> =
            self.search.iter().filter_map(|domain| whole.clone().append_domain(domain).ok()).collect();
        whole.set_fqdn(true);
        let at = if is_whole_first { 0 } else { candidates.len() };
        candidates.insert(at, whole);
        Ok(candidates)
    }

    fn in_hosts(&self, name: &Name) -> Option<Vec<IpAddr>> {
        let of = |kind| self.hosts.lookup_static_host(&Query::query(name.clone(), kind));
        let found: Vec<IpAddr> = [RecordType::AAAA, RecordType::A]
            .into_iter()
            .filter_map(of)
            .flat_map(|found| ips(&found))
            .collect();
        (!found.is_empty()).then_some(found)
    }

    /// Asks for both families at once.
    async fn ask(&self, name: &Name, partly: &impl Fn(&[IpAddr])) -> Outcome {
        let ask = |kind| async move {
            let answer = self.resolver.lookup(name.clone(), kind).await;
            if let Ok(found) = &answer {
                let found = ips(found);
                if !found.is_empty() {
                    partly(&found);
                }
            }
            answer
        };
        let (six, four) = tokio::join!(ask(RecordType::AAAA), ask(RecordType::A));
        let (mut addresses, mut ttl, mut absent, mut failure) =
            (Vec::new(), Duration::MAX, Duration::MAX, None);
        for answer in [six, four] {
            match answer {
                Ok(found) => {
                    let least = found.answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                    ttl = ttl.min(Duration::from_secs(least.into()));
                    addresses.extend(ips(&found));
                }
                Err(NetError::Dns(DnsError::NoRecordsFound(none))) => {
                    absent = absent.min(Duration::from_secs(none.negative_ttl.unwrap_or(0).into()));
                }
                Err(error) => failure = Some(describe(&error)),
            }
        }
        match failure {
            _ if !addresses.is_empty() => Outcome::Found(Found { addresses, ttl }),
            Some(cause) => Outcome::Failed(cause),
            None if absent == Duration::MAX => Outcome::Absent(Duration::ZERO),
            None => Outcome::Absent(absent),
        }
    }
}

fn ips(found: &Lookup) -> Vec<IpAddr> {
    found.answers().iter().filter_map(|record| record.data.ip_addr()).collect()
}
