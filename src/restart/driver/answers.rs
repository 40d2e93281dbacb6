//! What the driver answers to those who ask: progress, verdicts, the status.

use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::Driver;
use crate::restart::handoff::{PeerStatus, millis};
use crate::restart::listeners::Group;
use crate::restart::state::{Failure, Phase, Timer, Verdict};
use crate::restart::status::{GenerationStatus, ListenerStatus, Progress, Status, age_ms, unix_ms};
use crate::restart::trial::Trial;

/// How long the generations that drain may take to say how they are.
const STATUS_TIMEOUT: Duration = Duration::from_millis(200);

impl Driver {
    /// How long a probation may last.
    pub(super) fn longest_probation(&self) -> Duration {
        match self.options.probation_work {
            0 => self.options.probation,
            _ => self.options.probation.max(self.options.probation_max),
        }
    }

    /// Remembers what the child has done, before it is out of sight.
    pub(super) fn look_at_work(&mut self) {
        let (Some(child), Some(work)) = (&self.child, self.options.work) else { return };
        let done = work.done_by(child.generation, &self.ledger.books());
        if let Some(upgrade) = &mut self.upgrade {
            upgrade.done = done;
        }
    }

    fn trial(&self) -> Option<Trial> {
        let (child, work) = (self.child.as_ref()?, self.options.work?);
        if self.state.phase() != Phase::Probation {
            return None;
        }
        let (at, timer) = self.timer?;
        let left = at.saturating_duration_since(Instant::now());
        let more = match timer {
            Timer::Probation => self.longest_probation().saturating_sub(self.options.probation),
            _ => Duration::ZERO,
        };
        Some(Trial {
            generation: child.generation,
            done: work.done_by(child.generation, &self.ledger.books()),
            wanted: self.options.probation_work,
            left_ms: millis(left + more),
        })
    }

    pub(super) fn report(&mut self, progress: impl FnOnce(u64, &Driver) -> Progress) {
        let Some(upgrade) = &self.upgrade else { return };
        let progress = progress(millis(upgrade.since.elapsed()), self);
        // The one who asked may have gone; the log has it all.
        upgrade.progress.send(progress).ok();
    }

    pub(super) fn report_verdict(&mut self, verdict: Verdict) {
        self.log_verdict(&verdict);
        match &verdict {
            Verdict::Committed | Verdict::RolledBack => {}
            Verdict::Failed(Failure { step, message }) => {
                let first = message.lines().next().unwrap_or_default();
                self.notifier.ready(&format!(
                    "upgrade failed at {step}: {first}; generation {} serves",
                    self.generation
                ));
            }
        }
        if verdict == Verdict::RolledBack {
            self.notifier.ready(&format!("rolled back; generation {} serves", self.generation));
        }
        self.figures.ended(&verdict, self.upgrade.as_ref().map(|upgrade| upgrade.since));
        self.history.send_modify(|history| history.end(&verdict, "", unix_ms(SystemTime::now())));
        if verdict == Verdict::Committed {
            self.report(|_, driver| driver.draining());
        }
        self.last_upgrade = Some(verdict.clone());
        self.report(|elapsed_ms, driver| {
            let done = driver.upgrade.as_ref().map(|upgrade| upgrade.done.clone()).unwrap_or_default();
            Progress::Ended { elapsed_ms, done, verdict }
        });
        self.upgrade = None;
    }

    /// The one line that an upgrade leaves in the log, whatever came of it, at the level of INFO and above.
    fn log_verdict(&self, verdict: &Verdict) {
        let from = self.generation;
        let upgrade = self.upgrade.as_ref();
        let generation = upgrade.map(|upgrade| upgrade.generation);
        let pid = upgrade.map(|upgrade| upgrade.pid).filter(|pid| *pid > 0);
        let version = upgrade.map(|upgrade| &*upgrade.version).filter(|version| !version.is_empty());
        let took_ms = upgrade.map(|upgrade| millis(upgrade.since.elapsed()));
        let ready = upgrade.and_then(|upgrade| Some((upgrade.since, upgrade.ready?)));
        let ready_ms = ready.map(|(since, ready)| millis(ready.saturating_duration_since(since)));
        let probation_ms = ready.map(|(_, ready)| millis(ready.elapsed()));
        let done: Vec<String> = upgrade
            .iter()
            .flat_map(|upgrade| &upgrade.done)
            .map(|(how, count)| format!("{how}={count}"))
            .collect();
        // What the new process had answered before anything was decided.
        let done = ready.map(|_| done.join(" "));
        match verdict {
            Verdict::Committed => tracing::info!(
                generation,
                pid,
                version,
                from,
                ready_ms,
                probation_ms,
                took_ms,
                done,
                "the upgrade is committed"
            ),
            Verdict::RolledBack => tracing::warn!(
                generation,
                pid,
                version,
                from,
                ready_ms,
                probation_ms,
                took_ms,
                done,
                "the upgrade was rolled back"
            ),
            Verdict::Failed(Failure { step, message }) => tracing::error!(
                generation,
                pid,
                version,
                from,
                ready_ms,
                probation_ms,
                took_ms,
                done,
                %step,
                cause = %message,
                "the upgrade failed"
            ),
        }
    }

    fn draining(&self) -> Progress {
        let open = self.counts.by_kind().iter().map(|kind| u64::try_from(kind.open).unwrap_or(0)).sum();
        Progress::Draining {
            generation: self.generation,
            connections: open,
            left_ms: self.left_ms().unwrap_or(0),
            before: self.history.borrow().past.iter().rev().nth(1).cloned(),
        }
    }

    pub(super) fn peer_status(&self) -> PeerStatus {
        PeerStatus { phase: self.state.phase(), connections: self.counts.by_kind(), left_ms: self.left_ms() }
    }

    pub(super) fn left_ms(&self) -> Option<u64> {
        let drain = self.view.borrow().drain?;
        Some(millis(drain.deadline.saturating_duration_since(Instant::now())))
    }

    pub(super) fn status_asked(&mut self, reply: oneshot::Sender<Status>) {
        self.status_asked.push(reply);
        if self.status_due.is_none() && self.others.ask_status() {
            self.status_due = Some(Instant::now() + STATUS_TIMEOUT);
        }
        if self.status_due.is_none() {
            self.answer_status();
        }
    }

    pub(super) fn answer_status(&mut self) {
        self.status_due = None;
        let status = self.status();
        for reply in self.status_asked.drain(..) {
            reply.send(status.clone()).ok();
        }
    }

    pub(super) fn status(&self) -> Status {
        let now = SystemTime::now();
        let PeerStatus { phase, connections, left_ms } = self.peer_status();
        let ours = GenerationStatus {
            generation: self.generation,
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            version: self.options.version.clone(),
            phase: Some(phase),
            age_ms: age_ms(unix_ms(self.started), now),
            connections,
            left_ms,
        };
        let child = self.child.as_ref().map(|child| GenerationStatus {
            generation: child.generation,
            pid: child.pid,
            version: self.child_ready.as_ref().map(|(ready, _)| ready.version.clone()).unwrap_or_default(),
            phase: Some(if self.child_ready.is_some() { Phase::Candidate } else { Phase::Starting }),
            age_ms: self.upgrade.as_ref().map_or(0, |upgrade| millis(upgrade.since.elapsed())),
            connections: Vec::new(),
            left_ms: None,
        });
        let mut generations: Vec<GenerationStatus> =
            self.others.statuses(now).chain([ours]).chain(child).collect();
        generations.sort_by_key(|one| one.generation);
        let listener = |group: &Group| ListenerStatus {
            name: group.name.to_string(),
            address: group.address.to_string(),
            sockets: group.sockets.len(),
        };
        Status {
            generation: self.generation,
            pid: std::process::id(),
            version: self.options.version.clone(),
            phase,
            executable: self.program.display().to_string(),
            listeners: self.listeners.groups().iter().map(listener).collect(),
            accept_errors: self.counts.accept_errors(),
            last_upgrade: self.last_upgrade.clone(),
            trial: self.trial(),
            upgrades: self.history.borrow().past.clone(),
            generations,
        }
    }
}
