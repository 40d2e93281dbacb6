//! Whom it is done to: a proxy that was started here, or another, of which less is known.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use nix::unistd::Pid;
use tokio::net::TcpStream;
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::{Instant, sleep, timeout};

use crate::control;
use crate::scenario::Way;
use crate::stage::exuvia::{Bad, Exuvia, Shape};
use crate::stage::group::Members;
use crate::stage::{Proxy, processes};
use crate::ways::{self, Event, Limits, Outcome, Verdict};

/// How long an upgrade may take, whatever asks for it.
const UPGRADE: Duration = Duration::from_secs(120);

/// How long exuvia may take to have an owner again after a process was killed.
const RECOVERY: Duration = Duration::from_secs(10);

/// How long it may take to connect on this host.
const CONNECT: Duration = Duration::from_secs(1);

/// How long the old process may take to let a listener go that is no longer configured.
const LET_GO: Duration = Duration::from_secs(10);

/// How often it is asked.
const TICK: Duration = Duration::from_millis(20);

/// What is heard of an upgrade.
#[derive(Debug)]
pub(super) enum Heard {
    /// These processes serve now, and will be old.
    Old(Vec<Pid>),
    /// It goes on.
    Event(Event),
}

/// By which an upgrade tells, with the time at which it did.
pub(super) type Tell = UnboundedSender<(Instant, Heard)>;

/// Whom it is done to.
#[derive(Debug)]
pub enum Subject<'a> {
    /// A proxy that was started here.
    Ours(&'a mut Proxy),
    /// Another. It can be asked for upgrades, and nothing else is done to it.
    Theirs,
}

impl Subject<'_> {
    /// Asks for an upgrade, tells of it, and waits for its end.
    pub(super) async fn upgrade(&mut self, way: &Way, settle: Duration, tell: Tell) -> (Outcome, Vec<Pid>) {
        let say = |heard| drop(tell.send((Instant::now(), heard)));
        let proxy = match self {
            Subject::Theirs => {
                let old = serving(way).await;
                say(Heard::Old(old.clone()));
                let limits = Limits { upgrade: UPGRADE, settle };
                let outcome = ways::ask(way, limits, |event| say(Heard::Event(event))).await;
                // One that goes on under its own id, as nginx's master does, is not old.
                let replaced = outcome.pid.is_some_and(|pid| !old.contains(&Pid::from_raw(pid)));
                return (outcome, if replaced { old } else { Vec::new() });
            }
            Subject::Ours(proxy) => proxy,
        };
        if let Proxy::Exuvia(exuvia) = proxy {
            let way = own(way, exuvia);
            let old = serving(&Way::Control(Some(exuvia.socket()))).await;
            say(Heard::Old(old.clone()));
            let limits = Limits { upgrade: UPGRADE, settle: UPGRADE };
            let mut outcome = ways::ask(&way, limits, |event| say(Heard::Event(event))).await;
            if outcome.verdict == Verdict::Unknown {
                // exuvia writes its pid file at each commit: there was none.
                outcome.verdict = Verdict::Undone;
            }
            return (outcome, old);
        }
        match proxy.upgrade(|event| say(Heard::Event(event))).await {
            Ok(upgraded) => {
                let pid = upgraded.new.first().map(|pid| pid.as_raw());
                let detail = format!("{} replaced by {}", pids(&upgraded.old), pids(&upgraded.new));
                (Outcome { verdict: Verdict::Good, pid, detail }, upgraded.old)
            }
            Err(error) => {
                (Outcome { verdict: Verdict::Failed, pid: None, detail: error.to_string() }, Vec::new())
            }
        }
    }

    /// The exuvia that was started here, to which more can be done.
    pub(super) fn exuvia(&mut self) -> Option<&mut Exuvia> {
        match self {
            Subject::Ours(Proxy::Exuvia(exuvia)) => Some(exuvia),
            _ => None,
        }
    }

    /// Those whom it is allowed to kill, and how long an old one watches a new one.
    pub(super) fn mortals(&self) -> Option<(Members, Duration)> {
        match self {
            Subject::Ours(Proxy::Exuvia(exuvia)) => {
                Some((exuvia.running().group().watch(), exuvia.probation()))
            }
            _ => None,
        }
    }
}

/// Puts the paths of the exuvia that was started here where the way names none.
fn own(way: &Way, exuvia: &Exuvia) -> Way {
    match way {
        Way::Control(None) => Way::Control(Some(exuvia.socket())),
        Way::Signal { signal, pid_file: None } => {
            Way::Signal { signal: signal.clone(), pid_file: Some(exuvia.pid_file()) }
        }
        other => other.clone(),
    }
}

/// The processes that serve now, as far as the way tells and they can be seen from here.
async fn serving(way: &Way) -> Vec<Pid> {
    let pid = match way {
        Way::Control(Some(path)) => control::status(path).await.ok().map(|status| Pid::from_raw(status.pid)),
        Way::Signal { pid_file: Some(path), .. } => processes::read_pid(path),
        _ => None,
    };
    // Where the proxy is in a container of its own, its ids are others'.
    pid.filter(|pid| processes::is_alive(*pid)).into_iter().collect()
}

fn pids(pids: &[Pid]) -> String {
    pids.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}

/// Waits until an exuvia serves, by another process than the one that was killed. Whether it did in time.
pub(super) async fn recovered(socket: &Path, killed: Pid) -> bool {
    let serves = async {
        loop {
            let status = control::status(socket).await;
            if status.is_ok_and(|status| status.pid != killed.as_raw() && status.phase == "serving") {
                return;
            }
            sleep(TICK).await;
        }
    };
    timeout(RECOVERY, serves).await.is_ok()
}

/// The changes of the configuration, one after the other: a listener more, a worker more, a listener less, a worker
/// less.
#[derive(Debug, Default)]
pub(super) struct Changes {
    done: u32,
}

impl Changes {
    /// Writes the next one. Gives it in words.
    pub(super) fn next(&mut self, exuvia: &mut Exuvia) -> Result<&'static str, String> {
        let Shape { workers, extra } = exuvia.shape();
        let (shape, words) = match self.done % 4 {
            0 => (Shape { workers, extra: true }, "a listener more"),
            1 => (Shape { workers: workers + 1, extra }, "a worker more"),
            2 => (Shape { workers, extra: false }, "a listener less"),
            _ => (Shape { workers: workers.saturating_sub(1).max(1), extra }, "a worker less"),
        };
        exuvia.reshape(shape).map_err(|error| error.to_string())?;
        self.done += 1;
        Ok(words)
    }
}

/// Whether the third listener is there if it should be, and not if it should not: what is wrong, in words. The old process
/// lets its listener go once it knows that the new one is the owner, and first accepts what waits there: for so long
/// it may still be there.
pub(super) async fn extra_is_as_configured(exuvia: &Exuvia) -> Result<(), String> {
    let address = exuvia.extra_address();
    if exuvia.shape().extra {
        return match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err("the listener that was added does not listen".into()),
        };
    }
    if timeout(LET_GO, refused(address)).await.is_err() {
        return Err(format!("the listener that was removed still listens {} s later", LET_GO.as_secs()));
    }
    Ok(())
}

/// Waits until a connection is refused.
async fn refused(address: SocketAddr) {
    loop {
        match timeout(CONNECT, TcpStream::connect(address)).await {
            Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => return,
            // Not yet, or nobody answers: an old process that lets go drops what comes.
            _ => sleep(TICK).await,
        }
    }
}

/// Puts a bad program in the place of the good one. Gives it in words.
pub(super) fn plant(exuvia: &Exuvia, number: usize) -> Result<&'static str, String> {
    let bad = Bad::numbered(number);
    exuvia.plant(bad).map_err(|error| error.to_string())?;
    Ok(bad.label())
}
