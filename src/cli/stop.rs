//! `exuvia stop`: asks for it and waits until the process is gone.

use std::fs::File;
use std::io::{Read, Seek};
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::time::{Instant, sleep, timeout};

use super::screen::Screen;
use super::time::{exactly, roughly};
use super::{Exit, Interrupts, Trouble};
use crate::control::StatusReport;
use crate::control::client::{self, ClientError};
use crate::restart::{GenerationStatus, Phase, Status};

/// How long a process may take from its last word to its end.
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked for meanwhile: a process that is not a child tells nobody when it is gone, and a
/// pidfd takes `unsafe` to get.
const END_STEP: Duration = Duration::from_millis(10);

const INTERRUPTED: &str = "interrupted; the process ends when its connections have finished. `exuvia stop --now` \
    cuts them";

/// Stops the process behind `socket`.
pub(super) async fn run(socket: &Path, now: bool, screen: &mut Screen) -> Result<Exit, Trouble> {
    let mut interrupts = Interrupts::new();
    let begun = Instant::now();
    let answer = client::status(socket).await?;
    if answer.status != StatusCode::OK {
        return Err(Trouble::answered("stop", &answer));
    }
    let mut report: StatusReport = answer.json(socket)?;
    // Before it is asked to stop, so that the pid cannot be another process's.
    let mut process = Process::open(report.status.pid);
    let Status { generation, pid, .. } = report.status;
    screen.line(&format!("generation {generation} (pid {pid}) stops"));

    let target = if now { "/v1/stop?stream=1&now=1" } else { "/v1/stop?stream=1" };
    let gone = async {
        let mut lines = match client::stream(socket, Method::POST, target).await {
            Ok(Ok(lines)) => lines,
            Ok(Err(answer)) => return Ok(Some(answer)),
            // It was asked; whether it did what it was asked is seen below.
            Err(ClientError::Broken(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        // The end of what it says, in whatever way, is the end of the process.
        while let Ok(Some(line)) = lines.next().await {
            if let Ok(latest) = serde_json::from_slice::<StatusReport>(&line) {
                screen.live(&remaining(&latest.status));
                report = latest;
            }
        }
        Ok(None)
    };
    let refused = tokio::select! {
        gone = gone => gone?,
        () = interrupts.next() => {
            screen.error(INTERRUPTED);
            return Ok(Exit::Interrupted);
        }
    };
    if let Some(answer) = refused {
        return Err(Trouble::answered("stop", &answer));
    }
    if timeout(END_TIMEOUT, process.gone()).await.is_err() {
        screen.error(&format!(
            "error: pid {pid} answers no more and is still there after {}; its log may tell why",
            exactly(millis(begun.elapsed()))
        ));
        return Ok(Exit::Failed);
    }
    screen.line(&format!("stopped after {}", exactly(millis(begun.elapsed()))));
    for other in report.status.generations.iter().filter(|other| other.generation != generation) {
        if Process::open(u32::try_from(other.pid).unwrap_or(0)).is_alive() {
            screen.line(&still_there(other));
        }
    }
    Ok(Exit::Done)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is still to finish, on one line.
fn remaining(status: &Status) -> String {
    let own = status.generations.iter().find(|one| one.generation == status.generation);
    let open = own.map_or(0, open_connections);
    if status.phase == Phase::LameDuck {
        return "not ready any more; accepts for load balancers that do not know it yet".into();
    }
    let left = own.and_then(|own| own.left_ms);
    let left = left.map(|ms| format!("; cut in {}", roughly(ms))).unwrap_or_default();
    format!("{}{left}", connections(open))
}

fn still_there(other: &GenerationStatus) -> String {
    let GenerationStatus { generation, pid, left_ms, .. } = other;
    let left = left_ms.map(|ms| format!(", for at most {}", roughly(ms))).unwrap_or_default();
    let open = connections(open_connections(other));
    format!("generation {generation} (pid {pid}) still drains{left}: {open}")
}

fn open_connections(one: &GenerationStatus) -> i64 {
    one.connections.iter().map(|kind| kind.open).sum()
}

fn connections(open: i64) -> String {
    match open {
        1 => "1 connection remains".into(),
        open => format!("{open} connections remain"),
    }
}

/// A process, as long as it is the one that had its pid when this was made: a file in /proc that is open
/// never leads to a later process with the same pid.
struct Process(Option<File>);

impl Process {
    fn open(pid: u32) -> Process {
        // None in another PID namespace, whose pids mean nothing here.
        Process(File::open(Path::new("/proc").join(pid.to_string()).join("stat")).ok())
    }

    async fn gone(&mut self) {
        while self.is_alive() {
            sleep(END_STEP).await;
        }
    }

    fn is_alive(&mut self) -> bool {
        let Some(file) = &mut self.0 else { return false };
        let mut stat = String::new();
        // ESRCH once it is gone.
        let read = file.rewind().and_then(|()| file.read_to_string(&mut stat));
        // A zombie has closed everything. Its name, in parentheses, may have any character (proc_pid_stat(5)).
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
        read.is_ok() && !matches!(state, None | Some('Z' | 'X'))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::restart::KindStatus;

    fn generation(open: [i64; 2], left_ms: Option<u64>) -> GenerationStatus {
        let kind = |open| KindStatus { open, ..KindStatus::default() };
        GenerationStatus {
            generation: 2,
            pid: 4711,
            version: "0.1.0".into(),
            phase: Some(Phase::Draining),
            age_ms: 0,
            connections: open.map(kind).to_vec(),
            left_ms,
        }
    }

    fn status(own: GenerationStatus) -> Status {
        Status {
            generation: 2,
            pid: 4711,
            version: "0.1.0".into(),
            phase: Phase::Draining,
            executable: String::new(),
            listeners: vec![],
            accept_errors: 0,
            last_upgrade: None,
            trial: None,
            upgrades: Vec::new(),
            generations: vec![GenerationStatus { generation: 1, ..generation([9, 9], None) }, own],
        }
    }

    #[test]
    fn what_remains_is_told_in_words() {
        let remaining = |open, left| remaining(&status(generation(open, left)));
        assert_eq!(remaining([1, 2], Some(25_000)), "3 connections remain; cut in 25 s");
        assert_eq!(remaining([1, 0], None), "1 connection remains");
        assert_eq!(
            still_there(&generation([2, 0], Some(20_000))),
            "generation 2 (pid 4711) still drains, for at most 20 s: 2 connections remain"
        );
    }

    #[tokio::test]
    async fn a_process_is_gone_when_it_is_dead_even_if_nobody_reaps_it() {
        let mut child = Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let mut process = Process::open(child.id());
        assert!(process.is_alive());
        drop(child.stdin.take());
        timeout(END_TIMEOUT, process.gone()).await.unwrap();
        child.wait().unwrap();
        assert!(!process.is_alive());
        assert!(!Process::open(child.id()).is_alive());
    }
}
