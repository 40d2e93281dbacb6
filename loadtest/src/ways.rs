//! How an upgrade is asked for: by exuvia's control socket, by a signal, by a command.
//!
//! What each can tell differs. The control socket tells every phase and the verdict; a command tells its end; after a
//! signal nobody says anything, but a new process may write its pid into the file.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

use crate::control::{self, Progress};
use crate::scenario::Way;
use crate::stage::exuvia::verdict_in_words;
use crate::stage::processes;

/// How often the pid file is looked at.
const TICK: Duration = Duration::from_millis(5);
/// How much of a command's output is kept for its error, in bytes from its end.
const KEPT_OUTPUT: usize = 4096;

/// What happens while an upgrade is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is asked for now.
    Starting,
    /// The new process exists and is not ready; told by the control socket alone.
    Started {
        /// Its pid.
        pid: i32,
    },
    /// The new process accepts.
    Ready {
        /// Its pid, if it is known.
        pid: Option<i32>,
    },
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The new process serves.
    Good,
    /// It was tried, and the old process serves on.
    Failed,
    /// It was refused, nobody could be asked, or there was no answer.
    Undone,
    /// It was asked for, and nothing tells what came of it.
    Unknown,
}

/// What came of an upgrade.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub verdict: Verdict,
    /// The pid of the new process, if it is known.
    pub pid: Option<i32>,
    /// In words.
    pub detail: String,
}

impl Outcome {
    fn undone(detail: impl Into<String>) -> Outcome {
        Outcome { verdict: Verdict::Undone, pid: None, detail: detail.into() }
    }

    fn failed(detail: impl Into<String>) -> Outcome {
        Outcome { verdict: Verdict::Failed, pid: None, detail: detail.into() }
    }
}

/// How long what is asked for may take.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Until there must be a verdict, or the command must have ended.
    pub upgrade: Duration,
    /// How long after a signal the pid file is watched for a new pid.
    pub settle: Duration,
}

/// Asks for an upgrade, tells of it as it goes on, and waits for its end. Dropped, it asks no further, and ends a
/// command with whatever that has started in its process group.
pub async fn ask(way: &Way, limits: Limits, tell: impl FnMut(Event)) -> Outcome {
    match way {
        Way::Control(Some(path)) => by_control(path, limits.upgrade, tell).await,
        Way::Signal { signal, pid_file: Some(file) } => by_signal(signal, file, limits.settle, tell).await,
        Way::Command(command) => by_command(command, limits.upgrade, tell).await,
        Way::Control(None) => Outcome::undone("no control socket is named"),
        Way::Signal { pid_file: None, .. } => Outcome::undone("no pid file is named"),
    }
}

/// By exuvia's control socket.
pub async fn by_control(path: &Path, within: Duration, mut tell: impl FnMut(Event)) -> Outcome {
    tell(Event::Starting);
    let mut started = None;
    let upgrade = control::upgrade(path, |progress| match progress {
        Progress::Started { pid, .. } => {
            started = Some(*pid);
            tell(Event::Started { pid: *pid });
        }
        Progress::Ready { .. } => tell(Event::Ready { pid: started }),
        _ => {}
    });
    match timeout(within, upgrade).await {
        Err(_) => Outcome::undone(format!("there was no verdict within {within:?}")),
        Ok(Err(error)) => Outcome::undone(error.to_string()),
        Ok(Ok(ended)) => {
            let generation = ended.started.map(|(generation, _)| format!("generation {generation}: "));
            let detail = format!("{}{}", generation.unwrap_or_default(), verdict_in_words(&ended.verdict));
            let verdict = match ended.verdict {
                control::Verdict::Committed => Verdict::Good,
                control::Verdict::Failed { .. } | control::Verdict::RolledBack => Verdict::Failed,
                control::Verdict::Refused { .. } => Verdict::Undone,
            };
            Outcome { verdict, pid: ended.started.map(|(_, pid)| pid), detail }
        }
    }
}

/// By a signal, `HUP` or `SIGHUP`, to the process whose id is in a file. The file is watched for another id.
pub async fn by_signal(
    signal: &str,
    pid_file: &Path,
    settle: Duration,
    mut tell: impl FnMut(Event),
) -> Outcome {
    let name = format!("SIG{}", signal.trim_start_matches("SIG"));
    let Ok(signal) = name.parse::<Signal>() else { return Outcome::undone(format!("{name} is no signal")) };
    let Some(before) = processes::read_pid(pid_file) else {
        return Outcome::undone(format!("there is no pid in {}", pid_file.display()));
    };
    tell(Event::Starting);
    if let Err(error) = kill(before, signal) {
        let file = pid_file.display();
        return Outcome::undone(format!("cannot send {name} to {before}, the pid in {file}: {error}"));
    }
    let give_up = Instant::now() + settle;
    while Instant::now() < give_up {
        if let Some(pid) = processes::read_pid(pid_file).filter(|pid| *pid != before) {
            let pid = Some(pid.as_raw());
            tell(Event::Ready { pid });
            let detail = format!("{name} to {before}: its place was taken");
            return Outcome { verdict: Verdict::Good, pid, detail };
        }
        sleep(TICK).await;
    }
    if !processes::is_alive(before) {
        return Outcome::undone(format!("{name} to {before}: it is gone, and nobody has taken its place"));
    }
    Outcome {
        verdict: Verdict::Unknown,
        pid: None,
        detail: format!("{name} to {before}: its pid is still in the file after {settle:?}"),
    }
}

/// By a command, in a process group of its own. What it leaves in the background when it has succeeded stays.
pub async fn by_command(command: &str, within: Duration, mut tell: impl FnMut(Event)) -> Outcome {
    // A file and no pipe: what it leaves behind may hold it open and write to it, as long as it likes.
    let files = tempfile::tempfile().and_then(|file| Ok((file.try_clone()?, file.try_clone()?, file)));
    let (out, err, mut said) = match files {
        Ok(files) => files,
        Err(error) => return Outcome::undone(format!("cannot keep what `{command}` says: {error}")),
    };
    tell(Event::Starting);
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(command).stdin(Stdio::null()).stdout(out).stderr(err).process_group(0);
    let mut child = match shell.spawn() {
        Ok(child) => child,
        Err(error) => return Outcome::undone(format!("cannot start sh for `{command}`: {error}")),
    };
    let mut group = Unfinished(child.id().map(|id| Pid::from_raw(id.cast_signed())));
    match timeout(within, child.wait()).await {
        Ok(Ok(status)) => {
            group.0 = None;
            if status.success() {
                tell(Event::Ready { pid: None });
                return Outcome { verdict: Verdict::Good, pid: None, detail: format!("`{command}`") };
            }
            Outcome::failed(format!("`{command}` ended with {status}: {}", output(&mut said)))
        }
        Ok(Err(error)) => Outcome::undone(format!("cannot wait for `{command}`: {error}")),
        Err(_) => {
            Outcome::undone(format!("`{command}` did not end within {within:?}: {}", output(&mut said)))
        }
    }
}

/// A command's process group, which is killed if the command has not ended.
struct Unfinished(Option<Pid>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Its leader is not reaped yet, so the id is nobody else's.
            killpg(group, Signal::SIGKILL).ok();
        }
    }
}

fn output(file: &mut fs::File) -> String {
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(KEPT_OUTPUT)..]).trim().to_owned();
    match read {
        Ok(_) if text.is_empty() => "it said nothing".into(),
        Ok(_) => text,
        Err(error) => format!("what it said cannot be read: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { upgrade: Duration::from_secs(20), settle: Duration::from_secs(20) };

    async fn asked(way: &Way, limits: Limits) -> (Outcome, Vec<Event>) {
        let mut events = Vec::new();
        let outcome = ask(way, limits, |event| events.push(event)).await;
        (outcome, events)
    }

    #[tokio::test]
    async fn a_command_is_judged_by_its_exit() {
        // What is left in the background is not waited for, and stays.
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let command = format!("sleep 60 & echo $! > {}", file.display());
        let (outcome, events) = asked(&Way::Command(command), LIMITS).await;
        assert_eq!(outcome.verdict, Verdict::Good, "{outcome:?}");
        assert_eq!(events, [Event::Starting, Event::Ready { pid: None }]);
        let left = processes::read_pid(&file).unwrap();
        assert!(processes::is_alive(left));
        kill(left, Signal::SIGKILL).unwrap();

        let (outcome, events) = asked(&Way::Command("echo no; echo never >&2; exit 7".into()), LIMITS).await;
        assert_eq!((outcome.verdict, events.len()), (Verdict::Failed, 1));
        assert!(outcome.detail.contains("exit status: 7: no\nnever"), "{}", outcome.detail);
    }

    #[tokio::test]
    async fn a_command_that_hangs_is_killed_with_all_that_it_started() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let command = format!("sleep 60 & echo $! > {}; wait", file.display());
        let limits = Limits { upgrade: Duration::from_millis(500), ..LIMITS };
        let (outcome, _) = asked(&Way::Command(command), limits).await;
        assert!(outcome.detail.contains("did not end within 500ms"), "{}", outcome.detail);
        let pid = processes::read_pid(&file).unwrap();
        let left = crate::stage::wait_until_gone(&[pid], Duration::from_secs(10)).await;
        assert!(left.is_empty(), "{left:?}");
    }

    #[tokio::test]
    async fn a_signal_is_answered_by_another_pid_in_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (pid_file, ready) = (folder.path().join("pid"), folder.path().join("ready"));
        let (file, ready_at) = (pid_file.display(), ready.display());
        let script =
            format!("trap 'echo 999999 > {file}' HUP; echo > {ready_at}; while :; do sleep 0.05; done");
        let mut child = Command::new("sh").args(["-c", &script]).kill_on_drop(true).spawn().unwrap();
        let give_up = Instant::now() + Duration::from_secs(20);
        while !ready.exists() {
            assert!(Instant::now() < give_up, "the script does not begin");
            sleep(TICK).await;
        }
        fs::write(&pid_file, format!("{}\n", child.id().unwrap())).unwrap();
        let way = |signal: &str| Way::Signal { signal: signal.into(), pid_file: Some(pid_file.clone()) };
        let (outcome, events) = asked(&way("HUP"), LIMITS).await;
        assert_eq!((outcome.verdict, outcome.pid), (Verdict::Good, Some(999_999)), "{outcome:?}");
        assert_eq!(events, [Event::Starting, Event::Ready { pid: Some(999_999) }]);
        child.kill().await.unwrap();

        assert!(asked(&way("WHAT"), LIMITS).await.0.detail.contains("SIGWHAT is no signal"));
        for text in ["", "0", "-1", "many"] {
            fs::write(&pid_file, text).unwrap();
            let (outcome, _) = asked(&way("HUP"), LIMITS).await;
            assert!(outcome.detail.contains("there is no pid in"), "{text}: {outcome:?}");
        }
    }

    #[tokio::test]
    async fn who_cannot_be_asked_is_told() {
        let (outcome, _) = asked(&Way::Control(None), LIMITS).await;
        assert!(outcome.detail.contains("no control socket is named"), "{outcome:?}");
        let (outcome, _) = asked(&Way::Control(Some("/nonexistent/x.sock".into())), LIMITS).await;
        assert_eq!(outcome.verdict, Verdict::Undone);
        assert!(outcome.detail.contains("cannot connect to the control socket"), "{outcome:?}");
    }
}
