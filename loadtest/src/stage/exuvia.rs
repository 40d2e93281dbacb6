//! exuvia under test: found or built, started with its supervisor, upgraded, given bad programs.
//!
//! ```text
//! FOLDER/bin/exuvia     a link to the program, which a bad one takes the place of
//! FOLDER/exuvia.toml    the configuration, written anew for a change
//! FOLDER/control.sock   FOLDER/exuvia.pid   FOLDER/exuvia.log
//! ```

pub mod find;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::group::{Group, Start};
use super::{Error, READY, Running, Setup, Targets, Upgraded, folder, free_ports, output};
use crate::control::{self, Status, Verdict};
use crate::ways::{self, Event};
pub use find::find;

/// How long it may take to stop when it is told so once, and once more.
const STOP: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(5)];

/// A program that cannot serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// A script that dies by SIGSEGV.
    Crashes,
    /// A script that exits with 3.
    Exits,
    /// A text that may not be executed.
    NotExecutable,
    /// A file that may be executed and is no program.
    NoProgram,
    /// Nothing at all.
    Missing,
}

impl Bad {
    /// All.
    pub const ALL: [Bad; 5] = [Bad::Crashes, Bad::Exits, Bad::NotExecutable, Bad::NoProgram, Bad::Missing];

    /// One after the other, by a number that only grows.
    #[must_use]
    pub fn numbered(number: usize) -> Bad {
        Bad::ALL[number % Bad::ALL.len()]
    }

    /// As people read it.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Bad::Crashes => "a program that crashes",
            Bad::Exits => "a program that exits with 3",
            Bad::NotExecutable => "a file that may not be executed",
            Bad::NoProgram => "a file that is no program",
            Bad::Missing => "no program at all",
        }
    }

    fn content(self) -> Option<(&'static [u8], u32)> {
        match self {
            Bad::Crashes => Some((b"#!/bin/sh\nkill -SEGV $$\n", 0o755)),
            Bad::Exits => Some((b"#!/bin/sh\necho 'nothing works today' >&2\nexit 3\n", 0o755)),
            Bad::NotExecutable => Some((b"#!/bin/sh\nexit 0\n", 0o644)),
            Bad::NoProgram => Some((b"\x7fELF\0\0 and nothing behind it\n", 0o755)),
            Bad::Missing => None,
        }
    }
}

/// What a change of the configuration changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many workers it has.
    pub workers: usize,
    /// Whether it has a third listener.
    pub extra: bool,
}

/// An exuvia that runs.
#[derive(Debug)]
pub struct Exuvia {
    running: Running,
    program: PathBuf,
    setup: Setup,
    shape: Shape,
    extra: SocketAddr,
    admin: SocketAddr,
}

impl Exuvia {
    /// Starts a program, as [`find()`] gives it, and waits until its first generation serves.
    ///
    /// # Errors
    ///
    /// If it does not serve in time; what it has said is in the error.
    pub async fn start(program: &Path, setup: &Setup) -> Result<Exuvia, Error> {
        let program = program.canonicalize().map_err(|cause| Error::file("find", program, cause))?;
        let cannot = |cause| Error::Start { name: "exuvia".into(), cause };
        let version = output(&program, &["--version"]).map_err(cannot)?.trim().to_owned();
        let folder = folder()?;
        let bin = folder.path().join("bin");
        fs::create_dir(&bin).map_err(|cause| Error::file("make the folder", &bin, cause))?;
        link(&program, &bin.join("exuvia"))?;
        let [plain, tls, extra, admin] = free_ports()?;
        let (targets, shape) = (Targets { plain, tls }, Shape { workers: setup.workers, extra: false });
        let config = folder.path().join("exuvia.toml");
        write(&config, &configuration(folder.path(), setup, shape, targets, extra, admin))?;
        let command =
            [bin.join("exuvia").into(), "run".into(), "--supervise=always".into(), "--config".into()];
        let group = Group::start(Start {
            name: "exuvia",
            witness: &setup.witness,
            cpu: setup.cpu,
            daemon: false,
            command: command.into_iter().chain([config.into()]).collect(),
            log: folder.path().join("exuvia.log"),
        })?;
        let setup = setup.clone();
        let mut exuvia = Exuvia {
            running: Running { group, folder, version, targets },
            program,
            setup,
            shape,
            extra,
            admin,
        };
        let socket = exuvia.socket();
        let serves = async || control::status(&socket).await.ok().filter(|status| status.generation == 1);
        exuvia.running.group.until("answer on its control socket", READY, serves).await?;
        Ok(exuvia)
    }

    /// Where it is, and its processes: the supervisor and every generation.
    #[must_use]
    pub fn running(&self) -> &Running {
        &self.running
    }

    /// Where the third listener is, if there is one now.
    #[must_use]
    pub fn extra(&self) -> Option<SocketAddr> {
        self.shape.extra.then_some(self.extra)
    }

    /// Where the third listener is or would be.
    #[must_use]
    pub fn extra_address(&self) -> SocketAddr {
        self.extra
    }

    /// How long an old process watches the new one.
    #[must_use]
    pub fn probation(&self) -> Duration {
        self.setup.probation
    }

    /// Where the admin listener is, if there is one.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.setup.admin.then_some(self.admin)
    }

    /// The path of its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.running.folder.path().join("control.sock")
    }

    /// The file with the pid of the generation that serves.
    #[must_use]
    pub fn pid_file(&self) -> PathBuf {
        self.running.folder.path().join("exuvia.pid")
    }

    /// The path by which it is started and upgraded.
    #[must_use]
    pub fn executable(&self) -> PathBuf {
        self.running.folder.path().join("bin/exuvia")
    }

    /// The configuration in the file, which the next upgrade takes.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What it says of itself.
    ///
    /// # Errors
    ///
    /// If it does not answer.
    pub async fn status(&self) -> Result<Status, Error> {
        Ok(control::status(&self.socket()).await?)
    }

    /// Writes another configuration, which the next upgrade takes.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn reshape(&mut self, shape: Shape) -> Result<(), Error> {
        let folder = self.running.folder.path();
        let text = configuration(folder, &self.setup, shape, self.running.targets, self.extra, self.admin);
        write(&folder.join("exuvia.toml"), &text)?;
        self.shape = shape;
        Ok(())
    }

    /// Puts a bad program in the place of the good one, in one step. The running processes notice nothing.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn plant(&self, bad: Bad) -> Result<(), Error> {
        let (place, new) = (self.executable(), self.running.folder.path().join("bin/next"));
        let Some((content, mode)) = bad.content() else {
            return fs::remove_file(&place).map_err(|cause| Error::file("remove", &place, cause));
        };
        let plant = || {
            fs::write(&new, content)?;
            fs::set_permissions(&new, fs::Permissions::from_mode(mode))?;
            fs::rename(&new, &place)
        };
        plant().map_err(|cause| Error::file("plant a bad program at", &place, cause))
    }

    /// Puts the good program back.
    ///
    /// # Errors
    ///
    /// If the link cannot be made.
    pub fn restore(&self) -> Result<(), Error> {
        link(&self.program, &self.executable())
    }

    /// Upgrades it by its control socket, and returns when the new generation is the owner.
    ///
    /// # Errors
    ///
    /// If it says no or takes it back, or does not answer.
    pub async fn upgrade(&mut self, tell: impl FnMut(Event)) -> Result<Upgraded, Error> {
        let before = self.status().await?.pid;
        let within = READY + self.setup.probation;
        let outcome = ways::by_control(&self.socket(), within, tell).await;
        if outcome.verdict != ways::Verdict::Good {
            return Err(Error::NotUpgraded(outcome.detail));
        }
        let new = outcome.pid.map(Pid::from_raw).into_iter().collect();
        Ok(Upgraded { old: vec![Pid::from_raw(before)], new })
    }

    /// Stops it: gracefully, then at once, then by SIGKILL. Gives those who had to be killed.
    pub async fn stop(mut self) -> Vec<Pid> {
        // The second signal ends every generation at once (docs: SIGTERM); only then is one killed.
        nix::sys::signal::kill(self.running.group.root(), Signal::SIGTERM).ok();
        if self.running.group.wait_until_gone(STOP[0]).await.is_empty() {
            return Vec::new();
        }
        self.running.group.terminate(Signal::SIGTERM, STOP[1]).await
    }
}

/// An upgrade's end, in words.
pub(crate) fn verdict_in_words(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Committed => "committed".into(),
        Verdict::Failed { step, message } => format!("failed at {step}: {message}"),
        Verdict::RolledBack => "rolled back".into(),
        Verdict::Refused { reason } => format!("refused: {reason}"),
    }
}

/// A link that takes the place of whatever is there, in one step.
fn link(to: &Path, place: &Path) -> Result<(), Error> {
    let new = place.with_file_name("next");
    let make = || {
        symlink(to, &new)?;
        fs::rename(&new, place)
    };
    make().map_err(|cause| Error::file("link", place, cause))
}

/// Writes a file in one step: whoever reads it finds the old text or the new one.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let new = path.with_extension("new");
    let write = || {
        fs::write(&new, text)?;
        fs::rename(&new, path)
    };
    write().map_err(|cause| Error::file("write", path, cause))
}

fn configuration(
    folder: &Path,
    setup: &Setup,
    shape: Shape,
    targets: Targets,
    extra: SocketAddr,
    admin: SocketAddr,
) -> String {
    let path = |path: &Path| toml::Value::from(path.to_string_lossy().into_owned()).to_string();
    let within = |name: &str| path(&folder.join(name));
    let millis = |time: Duration| format!("\"{}ms\"", time.as_millis());
    // With gRPC the server must be spoken with in HTTP/2, and WebSockets in HTTP/1: it chooses, by ALPN.
    let upstream = if setup.grpc {
        let (tls, ca) = (setup.upstream.tls, path(&setup.certificate.authority));
        format!("servers = [\"{tls}\"]\ntls = true\nprotocol = \"alpn\"\nca = {ca}\n")
    } else {
        format!("servers = [\"{}\"]\nprotocol = \"http1\"\n", setup.upstream.plain)
    };
    let extra =
        if shape.extra { format!("[listeners.extra]\naddress = \"{extra}\"\n") } else { String::new() };
    let admin = if setup.admin { format!("[admin]\naddress = \"{admin}\"\n") } else { String::new() };
    format!(
        r#"workers = {workers}
[listeners.plain]
address = "{plain}"
[listeners.tls]
address = "{tls}"
certificates = ["site"]
protocols = ["h2", "http/1.1"]
{extra}[certificates.site]
chain = {chain}
key = {key}
[upstream]
{upstream}[timeouts]
idle = "10m"
[restart]
executable = {executable}
pid_file = {pid_file}
probation = {probation}
[drain]
timeout = {timeout}
idle_grace = {idle_grace}
[control]
socket = {socket}
{admin}[log]
level = "info"
"#,
        workers = shape.workers,
        plain = targets.plain,
        tls = targets.tls,
        chain = path(&setup.certificate.chain),
        key = path(&setup.certificate.key),
        executable = within("bin/exuvia"),
        pid_file = within("exuvia.pid"),
        probation = millis(setup.probation),
        timeout = millis(setup.drain_timeout),
        idle_grace = millis(setup.idle_grace),
        socket = within("control.sock"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_programs_come_in_turn() {
        let round: Vec<Bad> = (0..Bad::ALL.len()).map(Bad::numbered).collect();
        assert_eq!(round, Bad::ALL);
        assert_eq!(Bad::numbered(Bad::ALL.len()), Bad::ALL[0]);
    }
}
