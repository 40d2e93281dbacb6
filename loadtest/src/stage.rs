//! Starts, upgrades and ends the proxies under test, and everything else that a run needs as a process.
//!
//! A [`Proxy`] is one of three, each in a folder of its own, with two listeners before the same upstream. What a
//! caller does with it: [`Proxy::start`], [`Proxy::upgrade`] again and again, [`Proxy::stop`]. Nothing outlives it:
//! see [`group`].

pub mod certificate;
pub mod exuvia;
pub mod group;
pub mod haproxy;
pub mod held;
pub mod nginx;
pub mod processes;

use std::fmt::{self, Display};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::unistd::Pid;
use tempfile::TempDir;

use crate::control;
use crate::ways::Event;
use certificate::Certificate;
use exuvia::Exuvia;
use group::Group;
use haproxy::Haproxy;
use nginx::Nginx;

/// How often what tells of nothing by itself is looked at.
const TICK: Duration = Duration::from_millis(5);
/// How long a proxy may take to start, or to have its new processes.
const READY: Duration = Duration::from_secs(30);

/// What went wrong with a process.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A proxy of the system's packages is not there.
    #[error("{name} is not installed; {how}")]
    NotInstalled {
        /// Which.
        name: &'static str,
        /// How to install it.
        how: &'static str,
    },
    /// exuvia's program is not there.
    #[error(
        "there is no program exuvia {place}; \
         build it (cargo build --release --bin exuvia) or name it with --exuvia PATH"
    )]
    NoExuvia {
        /// Where it was looked for.
        place: String,
    },
    /// exuvia could not be built.
    #[error(
        "exuvia cannot be built; mend it, or name a program with --exuvia PATH. The build said:\n{output}"
    )]
    Build {
        /// What cargo said, whole.
        output: String,
    },
    /// A file or folder.
    #[error("cannot {what} {}: {cause}", path.display())]
    File {
        /// What was to be done.
        what: &'static str,
        /// With which.
        path: PathBuf,
        /// Why it could not.
        cause: io::Error,
    },
    /// No port.
    #[error("cannot find a free port on 127.0.0.1: {0}")]
    Port(io::Error),
    /// A certificate could not be made.
    #[error("cannot make a certificate: {0}")]
    Certificate(rcgen::Error),
    /// A program could not be executed.
    #[error("cannot start {name}: {cause}")]
    Start {
        /// Which.
        name: String,
        /// Why.
        cause: io::Error,
    },
    /// A process has ended where it should have stayed.
    #[error("{name} has ended ({status}) while it was to {step}. Its last words:\n{log}")]
    Ended {
        /// Which.
        name: String,
        /// What it should have done.
        step: String,
        /// How it ended.
        status: ExitStatus,
        /// The last lines of its log.
        log: String,
    },
    /// A step has taken too long.
    #[error("{name} did not {step} within {within:?}. Its last words:\n{log}")]
    Late {
        /// Which.
        name: String,
        /// What it should have done.
        step: String,
        /// How long it was waited for.
        within: Duration,
        /// The last lines of its log.
        log: String,
    },
    /// exuvia's control socket.
    #[error(transparent)]
    Control(#[from] control::Error),
    /// exuvia said no to an upgrade, or took it back.
    #[error("the upgrade was not done: {0}")]
    NotUpgraded(String),
}

impl Error {
    fn file(what: &'static str, path: &Path, cause: io::Error) -> Error {
        Error::File { what, path: path.to_owned(), cause }
    }
}

/// Where a proxy sends the traffic.
#[derive(Clone, Copy, Debug)]
pub struct Upstream {
    /// HTTP/1, and HTTP/2 for those that know.
    pub plain: SocketAddr,
    /// TLS, with HTTP/1 and HTTP/2 by ALPN, and a certificate by the authority of [`Setup::certificate`].
    pub tls: SocketAddr,
}

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The program that has the subcommand `held`: the witness itself ([`std::env::current_exe`]).
    pub witness: PathBuf,
    /// The CPU that the proxy may use, counted from 0; any if `None`.
    pub cpu: Option<usize>,
    /// Its workers: threads of exuvia and HAProxy, processes of nginx.
    pub workers: usize,
    /// Where it sends the traffic.
    pub upstream: Upstream,
    /// Whether there is gRPC, which needs HTTP/2 to the upstream.
    pub grpc: bool,
    /// What its TLS listener shows.
    pub certificate: Certificate,
    /// How long exuvia's old process watches the new one.
    pub probation: Duration,
    /// How long an old process may take to finish, of all three.
    pub drain_timeout: Duration,
    /// How long exuvia keeps idle connections open while it drains.
    pub idle_grace: Duration,
    /// Whether exuvia has an admin listener, on a free port.
    pub admin: bool,
}

/// Which proxy, and by which way it is upgraded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// exuvia, from a program as [`exuvia::find()`] gives it.
    Exuvia(PathBuf),
    /// nginx.
    Nginx(nginx::By),
    /// HAProxy.
    Haproxy,
}

impl Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Choice::Exuvia(_) => "exuvia",
            Choice::Nginx(nginx::By::Reload) => "nginx-reload",
            Choice::Nginx(nginx::By::Binary) => "nginx-binary",
            Choice::Haproxy => "haproxy",
        })
    }
}

/// Where clients connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Targets {
    /// HTTP/1.1 in plain.
    pub plain: SocketAddr,
    /// TLS, with HTTP/1.1 and HTTP/2.
    pub tls: SocketAddr,
}

/// Who has gone, who has come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgraded {
    /// The processes that served before, and finish what they have.
    pub old: Vec<Pid>,
    /// Those that serve now.
    pub new: Vec<Pid>,
}

/// What all proxies have that run.
#[derive(Debug)]
pub struct Running {
    // Dropped first, so that nobody needs the folder any more.
    group: Group,
    folder: TempDir,
    version: String,
    targets: Targets,
}

impl Running {
    /// Where clients connect.
    #[must_use]
    pub fn targets(&self) -> Targets {
        self.targets
    }

    /// Its processes.
    #[must_use]
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// Its name and version, as it says itself: `nginx 1.22.1`.
    #[must_use]
    pub fn describe(&self) -> &str {
        &self.version
    }
}

/// A proxy that runs.
#[derive(Debug)]
pub enum Proxy {
    /// exuvia.
    Exuvia(Box<Exuvia>),
    /// nginx.
    Nginx(Box<Nginx>),
    /// HAProxy.
    Haproxy(Box<Haproxy>),
}

impl Proxy {
    /// Starts one, and waits until it serves.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not serve in time.
    pub async fn start(choice: &Choice, setup: &Setup) -> Result<Proxy, Error> {
        Ok(match choice {
            Choice::Exuvia(program) => Proxy::Exuvia(Box::new(Exuvia::start(program, setup).await?)),
            Choice::Nginx(by) => Proxy::Nginx(Box::new(Nginx::start(*by, setup).await?)),
            Choice::Haproxy => Proxy::Haproxy(Box::new(Haproxy::start(setup).await?)),
        })
    }

    /// Replaces its processes, telling of it as far as the proxy does, and returns when the new ones serve. Waits before
    /// that as long as the proxy cannot be upgraded.
    ///
    /// # Errors
    ///
    /// If it says no, or there are no new ones in time.
    pub async fn upgrade(&mut self, tell: impl FnMut(Event)) -> Result<Upgraded, Error> {
        match self {
            Proxy::Exuvia(it) => it.upgrade(tell).await,
            Proxy::Nginx(it) => {
                it.settle().await;
                announced(tell, it.upgrade()).await
            }
            Proxy::Haproxy(it) => announced(tell, it.upgrade()).await,
        }
    }

    /// Where it is, and who belongs to it.
    #[must_use]
    pub fn running(&self) -> &Running {
        match self {
            Proxy::Exuvia(it) => it.running(),
            Proxy::Nginx(it) => it.running(),
            Proxy::Haproxy(it) => it.running(),
        }
    }

    /// Ends it. Gives the processes that had to be killed, because they did not end in time.
    pub async fn stop(self) -> Vec<Pid> {
        match self {
            Proxy::Exuvia(it) => it.stop().await,
            Proxy::Nginx(it) => it.stop().await,
            Proxy::Haproxy(it) => it.stop().await,
        }
    }
}

/// Tells of an upgrade of which only the begin and the end are known.
async fn announced(
    mut tell: impl FnMut(Event),
    upgrade: impl Future<Output = Result<Upgraded, Error>>,
) -> Result<Upgraded, Error> {
    tell(Event::Starting);
    let upgraded = upgrade.await?;
    tell(Event::Ready { pid: upgraded.new.first().map(|pid| pid.as_raw()) });
    Ok(upgraded)
}

/// Waits until these processes are gone, and no longer than `within`. Gives those that are not.
pub async fn wait_until_gone(pids: &[Pid], within: Duration) -> Vec<Pid> {
    let give_up = Instant::now() + within;
    loop {
        let left: Vec<Pid> = pids.iter().copied().filter(|pid| processes::is_alive(*pid)).collect();
        if left.is_empty() || Instant::now() >= give_up {
            return left;
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Ports of 127.0.0.1 that are free now, all different.
fn free_ports<const N: usize>() -> Result<[SocketAddr; N], Error> {
    let mut addresses = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    // Held until all are known, so that none is given twice.
    let mut held = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(Error::Port)?;
        *address = listener.local_addr().map_err(Error::Port)?;
        held.push(listener);
    }
    Ok(addresses)
}

/// How many descriptors a process started here may open, as far as a proxy under such a load needs.
fn descriptors() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(_, hard)| hard).min(65_536)
}

/// A folder for one proxy, for the owner's eyes only.
pub(crate) fn folder() -> Result<TempDir, Error> {
    let folder = tempfile::Builder::new().prefix("exuvia-loadtest-").tempdir();
    folder.map_err(|cause| Error::file("make a folder in", &std::env::temp_dir(), cause))
}

/// What a program says when asked for its version, on either of its outputs.
fn output(program: &Path, arguments: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output()?;
    let text = [output.stdout, output.stderr].concat();
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A program of the system's packages: on the path, or where daemons are.
fn installed(name: &'static str, how: &'static str) -> Result<PathBuf, Error> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or(Error::NotInstalled { name, how })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_all_different() {
        let ports: [SocketAddr; 8] = free_ports().unwrap();
        let different: std::collections::BTreeSet<_> = ports.iter().collect();
        assert_eq!(different.len(), 8);
    }

    #[test]
    fn what_is_not_installed_is_told_with_the_way_out() {
        let error = installed("no-such-proxy", "apt-get install it").unwrap_err().to_string();
        assert_eq!(error, "no-such-proxy is not installed; apt-get install it");
        assert!(installed("sh", "").is_ok());
    }
}
