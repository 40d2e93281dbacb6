//! HAProxy under test, as an operator would set it up for such traffic: a master that stays, and a worker that each
//! reload replaces.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::net::TcpStream;

use super::group::{Group, Start};
use super::processes::{children, hears};
use super::{
    Error, READY, Running, Setup, Targets, Upgraded, descriptors, folder, free_ports, installed, output,
};

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// A HAProxy that runs.
#[derive(Debug)]
pub struct Haproxy {
    running: Running,
    /// The worker that serves.
    worker: Pid,
}

impl Haproxy {
    /// Starts it, and waits until its worker serves.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not serve in time.
    pub async fn start(setup: &Setup) -> Result<Haproxy, Error> {
        let program = installed("haproxy", "apt-get install haproxy")?;
        let cannot = |cause| Error::Start { name: "haproxy".into(), cause };
        // `HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/`
        let said = output(&program, &["-v"]).map_err(cannot)?;
        let version = format!("haproxy {}", said.split_whitespace().nth(2).unwrap_or_default());
        let folder = folder()?;
        let [plain, tls] = free_ports()?;
        let targets = Targets { plain, tls };
        let config = folder.path().join("haproxy.cfg");
        let text = configuration(folder.path(), setup, targets);
        fs::write(&config, text).map_err(|cause| Error::file("write", &config, cause))?;
        let mut group = Group::start(Start {
            name: "haproxy",
            witness: &setup.witness,
            cpu: setup.cpu,
            daemon: false,
            command: vec![program.into(), "-W".into(), "-f".into(), config.into()],
            log: folder.path().join("haproxy.log"),
        })?;
        let master = group.root();
        // It has no other children.
        let worker = group.until("start its worker", READY, async || children(master).pop()).await?;
        group.until("listen", READY, async || listens(targets.tls).await).await?;
        let mut haproxy = Haproxy { running: Running { group, folder, version, targets }, worker };
        haproxy.can_be_upgraded().await?;
        Ok(haproxy)
    }

    /// Where it is, and its processes: the master and its workers.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Waits until the master would hear the next SIGUSR2: one that comes before its loop begins is lost.
    async fn can_be_upgraded(&mut self) -> Result<(), Error> {
        let master = self.running.group.root();
        let heard = async || hears(master, Signal::SIGUSR2).then_some(());
        self.running.group.until("be ready for SIGUSR2", READY, heard).await
    }

    /// Has the master read everything anew (SIGUSR2), and returns when there is a new worker.
    ///
    /// # Errors
    ///
    /// If there is none in time.
    pub async fn upgrade(&mut self) -> Result<Upgraded, Error> {
        let (master, before) = (self.running.group.root(), children(self.running.group.root()));
        let cannot =
            |error: nix::Error| Error::Start { name: "SIGUSR2 to haproxy".into(), cause: error.into() };
        kill(master, Signal::SIGUSR2).map_err(cannot)?;
        let find = async || children(master).into_iter().find(|pid| !before.contains(pid));
        let new = self.running.group.until("start a new worker after SIGUSR2", READY, find).await?;
        // It binds before it forks, so a worker that exists can be reached.
        self.can_be_upgraded().await?;
        let old = std::mem::replace(&mut self.worker, new);
        Ok(Upgraded { old: vec![old], new: vec![new] })
    }

    /// Ends it at once. Gives those who had to be killed.
    pub async fn stop(mut self) -> Vec<Pid> {
        self.running.group.terminate(Signal::SIGTERM, STOP).await
    }
}

async fn listens(address: SocketAddr) -> Option<()> {
    TcpStream::connect(address).await.ok().map(drop)
}

fn configuration(folder: &Path, setup: &Setup, targets: Targets) -> String {
    let folder = folder.display();
    let (grpc_rule, grpc_backend) = if setup.grpc {
        let backend = format!("backend calls\n  server s {} proto h2\n", setup.upstream.plain);
        ("  use_backend calls if { req.hdr(content-type) -m beg application/grpc }\n", backend)
    } else {
        ("", String::new())
    };
    format!(
        r#"global
  nbthread {workers}
  maxconn {maxconn}
  # The new worker takes the listening sockets from the old one; otherwise a reload loses what waits in their queues.
  stats socket {folder}/stats.sock mode 600 level admin expose-fd listeners
  # As long as exuvia's drain.timeout: without it a WebSocket keeps an old worker for ever.
  hard-stop-after {drain}s
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  option forwardfor
  timeout connect 3s
  timeout client 10m
  timeout server 10m
  timeout tunnel 1h
  timeout http-keep-alive 10m
  timeout http-request 10m
  http-reuse always
frontend f
  bind {plain} backlog 4096
  bind {tls} ssl crt {both} alpn h2,http/1.1 backlog 4096
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
{grpc_rule}  default_backend b
backend b
  server s {upstream}
{grpc_backend}"#,
        workers = setup.workers.max(1),
        // Each takes two descriptors, and it refuses to start where there are not enough.
        maxconn = descriptors().saturating_sub(500).max(200) / 2,
        drain = setup.drain_timeout.as_secs().max(1),
        both = setup.certificate.both.display(),
        upstream = setup.upstream.plain,
        plain = targets.plain,
        tls = targets.tls,
    )
}
