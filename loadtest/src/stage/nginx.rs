//! nginx under test, as an operator would set it up for such traffic.
//!
//! It runs as a daemon, because under `daemon off` it ignores the signal for a binary upgrade while its parent lives;
//! the guard of [`held`](super::held) holds the daemon. Two ways lead to new processes, [`By`].

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::group::{Group, Start};
use super::processes::{children, read_pid, title};
use super::{
    Error, READY, Running, Setup, Targets, Upgraded, descriptors, folder, free_ports, installed, output,
    wait_until_gone,
};

/// How long it may take to stop.
const STOP: Duration = Duration::from_secs(10);

/// How it is upgraded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// SIGHUP to the master: the same program with the configuration read anew, in new workers.
    Reload,
    /// SIGUSR2 to the master, which starts the program on disk as a second master; then SIGQUIT to the first one.
    Binary,
}

/// An nginx that runs.
#[derive(Debug)]
pub struct Nginx {
    running: Running,
    by: By,
    workers: usize,
    /// The master before this one, which may finish still.
    before: Option<Pid>,
}

impl Nginx {
    /// Starts it, and waits until its workers serve.
    ///
    /// # Errors
    ///
    /// If it is not installed, or does not serve in time.
    pub async fn start(by: By, setup: &Setup) -> Result<Nginx, Error> {
        let program = installed("nginx", "apt-get install nginx-light")?;
        let cannot = |cause| Error::Start { name: "nginx".into(), cause };
        // `nginx version: nginx/1.22.1`
        let version = output(&program, &["-v"]).map_err(cannot)?;
        let version = version.trim().trim_start_matches("nginx version: ").replace('/', " ");
        let folder = folder()?;
        let [plain, tls] = free_ports()?;
        let targets = Targets { plain, tls };
        let config = folder.path().join("nginx.conf");
        let text = configuration(folder.path(), setup, targets);
        fs::write(&config, text).map_err(|cause| Error::file("write", &config, cause))?;
        let log = folder.path().join("error.log");
        let arguments = ["-p".into(), folder.path().into(), "-e".into(), log.clone().into(), "-c".into()];
        let group = Group::start(Start {
            name: "nginx",
            witness: &setup.witness,
            cpu: setup.cpu,
            daemon: true,
            command: [program.into()].into_iter().chain(arguments).chain([config.into()]).collect(),
            log,
        })?;
        let mut nginx = Nginx {
            running: Running { group, folder, version, targets },
            by,
            workers: setup.workers.max(1),
            before: None,
        };
        nginx.new_workers("start its workers", None, &[]).await?;
        Ok(nginx)
    }

    /// Where it is, and its processes: the guard, the masters and the workers.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// The file with the master's pid.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.running.folder.path().join("nginx.pid")
    }

    /// Waits until the master before this one is gone: as long as it finishes, nginx ignores the signal for a binary
    /// upgrade, and logs that.
    pub async fn settle(&mut self) {
        if let Some(before) = self.before.take() {
            wait_until_gone(&[before], READY).await;
        }
    }

    /// Replaces its workers, or all of it ([`By`]). Returns when the new workers are there and the old ones are told
    /// to finish.
    ///
    /// # Errors
    ///
    /// If there are no new ones in time.
    pub async fn upgrade(&mut self) -> Result<Upgraded, Error> {
        let Some(master) = read_pid(&self.pid_file()) else {
            return Err(self.running.group.late_error("have its pid in its file", Duration::ZERO));
        };
        let mut old = workers_of(master);
        match self.by {
            By::Reload => {
                self.send(master, Signal::SIGHUP)?;
                let (_, new) = self.new_workers("start new workers after SIGHUP", None, &old).await?;
                Ok(Upgraded { old, new })
            }
            By::Binary => {
                self.send(master, Signal::SIGUSR2)?;
                let step = "start a second master with workers after SIGUSR2";
                let (second, mut new) = self.new_workers(step, Some(master), &old).await?;
                // The same as WINCH, which ends the workers gracefully, and the end of the master when they are gone.
                self.send(master, Signal::SIGQUIT)?;
                self.before = Some(master);
                old.insert(0, master);
                new.insert(0, second);
                Ok(Upgraded { old, new })
            }
        }
    }

    fn send(&self, to: Pid, signal: Signal) -> Result<(), Error> {
        let name = || format!("{} to nginx ({to})", signal.as_str());
        kill(to, signal).map_err(|error| Error::Start { name: name(), cause: error.into() })
    }

    /// Waits until a master, not `first`, has all its workers beside `old`.
    async fn new_workers(
        &mut self,
        step: &str,
        first: Option<Pid>,
        old: &[Pid],
    ) -> Result<(Pid, Vec<Pid>), Error> {
        let (pid_file, workers) = (self.pid_file(), self.workers);
        let find = async || {
            let master = read_pid(&pid_file).filter(|pid| Some(*pid) != first)?;
            let mut new = workers_of(master);
            new.retain(|pid| !old.contains(pid));
            (new.len() >= workers).then_some((master, new))
        };
        self.running.group.until(step, READY, find).await
    }

    /// Ends it at once. Gives those who had to be killed.
    pub async fn stop(mut self) -> Vec<Pid> {
        // To the guard, which passes it on to all.
        self.running.group.terminate(Signal::SIGTERM, STOP).await
    }
}

/// The workers of a master that serve: the kernel's children whose title says so.
fn workers_of(master: Pid) -> Vec<Pid> {
    let serves = |pid: &Pid| title(*pid).trim_end() == "nginx: worker process";
    children(master).into_iter().filter(serves).collect()
}

fn configuration(folder: &Path, setup: &Setup, targets: Targets) -> String {
    // Without `user`, the workers of root's nginx could not read this folder; others may not have the directive.
    let user = if geteuid().is_root() { "user root;" } else { "" };
    let folder = folder.display();
    // Calls are told apart by their content type, since nothing is known of their paths.
    let grpc = if setup.grpc {
        "if ($content_type ~ \"^application/grpc\") { grpc_pass grpc://calls; }\n      \
         grpc_read_timeout 1h; grpc_send_timeout 1h;"
    } else {
        ""
    };
    format!(
        r#"{user}
daemon on;
worker_processes {workers};
worker_rlimit_nofile {descriptors};
pid {folder}/nginx.pid;
error_log {folder}/error.log notice;
# As long as exuvia's drain.timeout: without it a WebSocket keeps an old worker for ever.
worker_shutdown_timeout {drain}s;
events {{ worker_connections {connections}; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  # nginx closes a connection after 1000 requests; the load shall not meet that.
  keepalive_requests 1000000000; keepalive_timeout 600s; client_header_timeout 600s;
  client_max_body_size 0;
  ssl_certificate {chain}; ssl_certificate_key {key}; ssl_protocols TLSv1.2 TLSv1.3; ssl_session_tickets on;
  map $http_upgrade $connection_field {{ default upgrade; '' ''; }}
  upstream servers {{ server {upstream}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 50s; }}
  upstream calls {{ server {upstream}; keepalive 64; keepalive_requests 1000000000; keepalive_timeout 50s; }}
  server {{
    listen {plain} backlog=4096;
    listen {tls} ssl http2 backlog=4096;
    http2_max_concurrent_streams 128;
    location / {{
      proxy_pass http://servers;
      proxy_http_version 1.1;
      proxy_set_header Host $host;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_field;
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      # What is streamed shall pass as it comes, both ways: with buffers, a slow answer would be held back and a slow
      # upload kept on disk to its end, which the other proxies do not do.
      proxy_buffering off;
      proxy_request_buffering off;
      proxy_read_timeout 1h; proxy_send_timeout 1h;
      {grpc}
    }}
  }}
}}
"#,
        workers = setup.workers.max(1),
        descriptors = descriptors(),
        // Those to the upstream count, too.
        connections = descriptors().saturating_sub(100).max(100),
        drain = setup.drain_timeout.as_secs().max(1),
        chain = setup.certificate.chain.display(),
        key = setup.certificate.key.display(),
        upstream = setup.upstream.plain,
        plain = targets.plain,
        tls = targets.tls,
    )
}
