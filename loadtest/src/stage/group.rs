//! Processes that belong together: started through [`held`](super::held), found again in the kernel's table, ended to the
//! last.
//!
//! Who belongs to a [`Group`]: the process that was started, whoever descends from it, and whoever is in a session
//! that one of them has had. A daemon that has taken a session of its own is known from its first listing on, and an
//! orphan becomes a child of the witness (PR_SET_CHILD_SUBREAPER), which reaps it: the members of its groups by their
//! ids, never whatever else has died, since others wait for that.
//!
//! **Invariant**: nothing outlives its group. Dropping it kills, and if the witness itself is killed, the kernel ends
//! them ([`held`](super::held)).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::{Pid, getsid};

use super::held::Held;
use super::processes::Process;
use super::{Error, TICK};

/// How long what was killed may take to be gone.
const BURIAL: Duration = Duration::from_secs(5);
/// How many lines of a log an error shows.
const LAST_LINES: usize = 15;
/// How much of a log is read for them, in bytes.
const LAST_BYTES: usize = 16 * 1024;

/// What is to be started.
#[derive(Debug)]
pub struct Start<'a> {
    /// How errors call it.
    pub name: &'a str,
    /// The program that has the subcommand `held`: the witness itself.
    pub witness: &'a Path,
    /// The CPU that it may use, counted from 0; any if `None`.
    pub cpu: Option<usize>,
    /// Whether it leaves a daemon behind, so that a guard must stay.
    pub daemon: bool,
    /// The program and its arguments.
    pub command: Vec<OsString>,
    /// The file to which its standard output and standard error are appended.
    pub log: PathBuf,
}

/// Processes that belong together.
#[derive(Debug)]
pub struct Group {
    name: String,
    log: PathBuf,
    members: Members,
    child: Child,
    keeper: Option<Keeper>,
}

impl Group {
    /// Starts it. That the command itself could be executed is not known yet.
    ///
    /// # Errors
    ///
    /// If the log cannot be opened, or the witness's program not be executed.
    pub fn start(start: Start<'_>) -> Result<Group, Error> {
        let cannot = |cause| Error::Start { name: start.name.to_owned(), cause };
        prctl::set_child_subreaper(true).map_err(|error| cannot(error.into()))?;
        let log = OpenOptions::new().create(true).append(true).open(&start.log);
        let log = log.map_err(|cause| Error::file("open the log", &start.log, cause))?;
        let held =
            Held { guard: start.daemon, cpu: start.cpu, parent: Some(Pid::this()), command: start.command };
        let mut command = Command::new(start.witness);
        command.args(held.arguments()).stdout(log.try_clone().map_err(cannot)?).stderr(log);
        command.stdin(Stdio::null());
        for (name, _) in std::env::vars_os().filter(|(name, _)| is_ours(name)) {
            command.env_remove(name);
        }
        let (child, keeper) = Keeper::start(command).map_err(cannot)?;
        Ok(Group {
            name: start.name.to_owned(),
            log: start.log,
            members: Members::of(Pid::from_raw(child.id().cast_signed())),
            child,
            keeper: Some(keeper),
        })
    }

    /// The process that was started: the command, or the guard before it.
    #[must_use]
    pub fn root(&self) -> Pid {
        self.members.root
    }

    /// Every live process of the group, the lowest id first.
    #[must_use]
    pub fn members(&self) -> Vec<Pid> {
        self.members.list()
    }

    /// By which another thread can ask for the members.
    #[must_use]
    pub fn watch(&self) -> Members {
        self.members.clone()
    }

    /// How the process that was started has ended; `None` while it runs.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        let ended = self.child.try_wait().ok().flatten();
        if ended.is_some() {
            self.members.forget_root();
        }
        ended
    }

    /// The last lines that it has written.
    #[must_use]
    pub fn log_end(&self) -> String {
        last_lines(&self.log)
    }

    /// Signals the process that was started, or all if it is gone already, and waits until every member is. What is
    /// still there after `within` is killed, and returned.
    pub async fn terminate(&mut self, signal: Signal, within: Duration) -> Vec<Pid> {
        let told = if self.ended().is_none() { vec![self.root()] } else { self.members() };
        signal_all(&told, signal);
        if self.wait_until_gone(within).await.is_empty() {
            return Vec::new();
        }
        self.kill(BURIAL).await
    }

    /// Waits until every member is gone, and no longer than `within`. Gives those that are not.
    pub async fn wait_until_gone(&mut self, within: Duration) -> Vec<Pid> {
        let give_up = Instant::now() + within;
        loop {
            self.ended();
            let left = self.members();
            if left.is_empty() || Instant::now() >= give_up {
                return left;
            }
            tokio::time::sleep(TICK).await;
        }
    }

    /// Kills what there is, and waits. Gives what there was.
    async fn kill(&mut self, within: Duration) -> Vec<Pid> {
        let (found, give_up) = (self.members(), Instant::now() + within);
        while self.kill_once() && Instant::now() < give_up {
            tokio::time::sleep(TICK).await;
        }
        found
    }

    /// Kills every member; whether there was one. To be repeated, since one may have been born meanwhile.
    fn kill_once(&mut self) -> bool {
        self.ended();
        let left = self.members();
        signal_all(&left, Signal::SIGKILL);
        !left.is_empty()
    }

    /// An error for a process that has ended where it should have stayed.
    pub(super) fn ended_error(&self, step: &str, status: ExitStatus) -> Error {
        Error::Ended { name: self.name.clone(), step: step.to_owned(), status, log: self.log_end() }
    }

    /// An error for a step that has taken too long.
    pub(super) fn late_error(&self, step: &str, within: Duration) -> Error {
        Error::Late { name: self.name.clone(), step: step.to_owned(), within, log: self.log_end() }
    }

    /// Asks again and again until there is an answer, the process has ended, or it has taken too long.
    pub(crate) async fn until<T>(
        &mut self,
        step: &str,
        within: Duration,
        mut ask: impl AsyncFnMut() -> Option<T>,
    ) -> Result<T, Error> {
        let give_up = Instant::now() + within;
        loop {
            if let Some(answer) = ask().await {
                return Ok(answer);
            }
            if let Some(status) = self.ended() {
                return Err(self.ended_error(step, status));
            }
            if Instant::now() >= give_up {
                return Err(self.late_error(step, within));
            }
            tokio::time::sleep(TICK).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let give_up = Instant::now() + BURIAL;
        while self.kill_once() && Instant::now() < give_up {
            thread::sleep(TICK);
        }
        // Killed above, and reaped here if it was not listed any more.
        self.ended();
        drop(self.keeper.take());
    }
}

/// Those who belong to a group, to be listed from any thread.
#[derive(Clone, Debug)]
pub struct Members {
    root: Pid,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// The sessions that members have had.
    sessions: BTreeSet<Pid>,
    /// Whether the process that was started is reaped, so that its id may be another's.
    root_gone: bool,
    /// Whether nobody is left, so that the sessions may be others'.
    empty: bool,
}

impl Members {
    fn of(root: Pid) -> Members {
        Members { root, known: Arc::default() }
    }

    fn forget_root(&self) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).root_gone = true;
    }

    /// Every live process of the group, the lowest id first. Reaps the orphans among them that are dead.
    #[must_use]
    pub fn list(&self) -> Vec<Pid> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.empty {
            return Vec::new();
        }
        let (this, ours) = (Pid::this(), getsid(None).ok());
        let all = Process::all();
        let mut found = BTreeSet::new();
        loop {
            let before = found.len();
            for process in &all {
                let is_root = process.pid == self.root && !known.root_gone;
                let belongs =
                    is_root || found.contains(&process.parent) || known.sessions.contains(&process.session);
                if belongs && process.pid != this {
                    found.insert(process.pid);
                    // Until it has taken its own, one that was just started is in the witness's.
                    if Some(process.session) != ours {
                        known.sessions.insert(process.session);
                    }
                }
            }
            if found.len() == before {
                break;
            }
        }
        let (dead, live): (Vec<_>, Vec<_>) =
            all.into_iter().filter(|process| found.contains(&process.pid)).partition(|process| process.dead);
        for process in dead.iter().filter(|process| process.parent == this && process.pid != self.root) {
            // Another listing may have been faster.
            waitpid(process.pid, Some(WaitPidFlag::WNOHANG)).ok();
        }
        known.empty = known.root_gone && live.is_empty() && dead.is_empty();
        let mut live: Vec<Pid> = live.into_iter().map(|process| process.pid).collect();
        live.sort();
        live
    }
}

/// The thread that starts a process and stays as long as it shall: for the kernel it is the parent whose death the
/// process is told of, and a thread of a pool may end at any time.
#[derive(Debug)]
struct Keeper {
    release: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    fn start(mut command: Command) -> io::Result<(Child, Keeper)> {
        let (give, started) = mpsc::sync_channel(1);
        let (release, released) = mpsc::channel::<()>();
        let thread =
            thread::Builder::new().name("keeper".into()).stack_size(256 * 1024).spawn(move || {
                // Whoever asked waits for it.
                give.send(command.spawn()).ok();
                released.recv().ok();
            })?;
        let child = started.recv().map_err(|_| io::Error::other("the thread that starts it is gone"))?;
        Ok((child?, Keeper { release: Some(release), thread: Some(thread) }))
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.release.take());
        if let Some(thread) = self.thread.take() {
            // It cannot panic.
            thread.join().ok();
        }
    }
}

fn signal_all(pids: &[Pid], signal: Signal) {
    for pid in pids {
        // One that has ended by itself.
        kill(*pid, signal).ok();
    }
}

/// Whether a variable would change what is started: settings, sockets, and whom a service manager wants to hear.
fn is_ours(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("EXUVIA") || name.starts_with("LISTEN_") || matches!(&*name, "NOTIFY_SOCKET" | "NGINX")
}

/// The last lines of a file; empty if it cannot be read.
pub(super) fn last_lines(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(LAST_BYTES)..]).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_the_last() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text: String = (0..5000).map(|number| format!("line {number}\n")).collect();
        fs::write(file.path(), text).unwrap();
        let lines = last_lines(file.path());
        assert_eq!(lines.lines().count(), LAST_LINES);
        assert!(lines.ends_with("line 4998\nline 4999"), "{lines}");
        assert_eq!(last_lines(Path::new("/nonexistent")), "");
    }

    #[test]
    fn what_would_change_a_proxy_is_not_passed_on() {
        for name in ["EXUVIA_CONFIG", "EXUVIA__WORKERS", "LISTEN_FDS", "NOTIFY_SOCKET", "NGINX"] {
            assert!(is_ours(name.as_ref()), "{name}");
        }
        assert!(!is_ours("PATH".as_ref()) && !is_ours("NGINX_X".as_ref()));
    }
}
