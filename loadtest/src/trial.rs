//! One proxy under one scenario: what is needed is started, load is applied, everything is ended, and the results are
//! made.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::disturb::{Subject, disturb};
use crate::generator::Aim;
use crate::now::Now;
use crate::probe::{self, probe};
use crate::results::{Results, Surroundings, Usage};
use crate::run::{Tick, run, slice};
use crate::sampler::Sampler;
use crate::scenario::{Kind, Scenario};
use crate::stage::certificate::Certificate;
use crate::stage::group::{Group, Start};
use crate::stage::{self, Choice, Proxy, Setup, Upstream};
use crate::traffic::Targets;
use crate::upstream::Ready;
use crate::{host, verdict};

/// The name that the certificate of a proxy that is started here is for.
const NAME: &str = "localhost";

/// How long the upstream may take to start, and to stop.
const UPSTREAM: Duration = Duration::from_secs(30);

/// Why there are no results.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A process.
    #[error(transparent)]
    Stage(#[from] stage::Error),
    /// The proxy does not answer as it should.
    #[error(
        "{0}; start `exuvia-loadtest upstream` on a host that the proxy reaches, and have it send everything there"
    )]
    Probe(probe::Error),
    /// There is nothing to ask.
    #[error(transparent)]
    Target(probe::Error),
    /// The proxy that was started here does not answer as it should.
    #[error("{cause}. Its last words:\n{log}")]
    OursDoesNotServe {
        /// What came instead of an answer.
        cause: probe::Error,
        /// The last lines of its log.
        log: String,
    },
    /// It was ended before there was any load.
    #[error("interrupted before there was any load")]
    Interrupted,
}

/// A proxy that is started for the trial.
#[derive(Clone, Debug)]
pub struct Ours {
    /// Which.
    pub choice: Choice,
    /// The CPU that it may use; any if `None`.
    pub cpu: Option<usize>,
    /// Its workers.
    pub workers: usize,
    /// How long exuvia's old process watches the new one.
    pub probation: Duration,
    /// How long an old process may take to finish.
    pub drain_timeout: Duration,
    /// How long exuvia keeps idle connections open while it drains.
    pub idle_grace: Duration,
}

/// How the trial is told of, and ended.
pub struct Witnessed<'a> {
    /// Counts up each time that somebody wants the run to end.
    pub interrupted: watch::Receiver<u32>,
    /// What is being done before and after the load.
    pub step: &'a mut dyn FnMut(&str),
    /// How the load goes.
    pub tick: &'a mut dyn FnMut(Tick, &Now),
}

/// Tries a proxy that is started here, before an upstream that is started here.
///
/// # Errors
///
/// If something cannot be started, or the end is wanted before there was load. Nothing is left running.
pub async fn ours(scenario: &Scenario, ours: &Ours, mut witnessed: Witnessed<'_>) -> Result<Results, Error> {
    let mut wish = witnessed.interrupted.clone();
    let staged = tokio::select! {
        biased;
        Ok(_) = wish.wait_for(|wishes| *wishes > 0) => return Err(Error::Interrupted),
        staged = Staged::start(scenario, ours, witnessed.step) => staged?,
    };
    let Staged { mut proxy, mut upstream, aim, folder } = staged;
    let groups = [("proxy", proxy.running().group().watch()), ("upstream", upstream.watch())];
    let mut sampler = sampler(scenario);
    for (name, members) in groups {
        sampler.watch(name, move || members.list());
    }
    let surroundings = surroundings(scenario, proxy.running().describe(), &aim);
    let mut results =
        apply(scenario, &aim, Subject::Ours(&mut proxy), sampler, surroundings, &mut witnessed).await;
    (witnessed.step)("ending the processes");
    let end = async {
        let killed = proxy.stop().await;
        upstream.terminate(Signal::SIGTERM, UPSTREAM).await;
        killed.len()
    };
    tokio::select! {
        killed = end => verdict::overstayed(&mut results, ours.drain_timeout, killed),
        // At once, then: what is dropped is killed.
        Ok(_) = wish.wait_for(|wishes| *wishes > 1) => {
            results.verdict.interrupted = true;
            results.verdict.reasons.push("it was ended before its processes had".into());
            verdict::overstayed(&mut results, ours.drain_timeout, 0);
        }
    }
    drop(folder);
    Ok(results)
}

/// Tries a proxy that runs already, and has the witness's upstream behind it.
///
/// # Errors
///
/// If it does not answer as it should, or the end is wanted before there was load.
pub async fn theirs(scenario: &Scenario, aim: &Aim, mut witnessed: Witnessed<'_>) -> Result<Results, Error> {
    let mut wish = witnessed.interrupted.clone();
    (witnessed.step)("asking the proxy");
    tokio::select! {
        biased;
        Ok(_) = wish.wait_for(|wishes| *wishes > 0) => return Err(Error::Interrupted),
        answered = probe(scenario, aim) => answered.map_err(|error| match error {
            error @ probe::Error::Answer { .. } => Error::Probe(error),
            error => Error::Target(error),
        })?,
    }
    let sampler = sampler(scenario);
    let surroundings = surroundings(scenario, "", aim);
    Ok(apply(scenario, aim, Subject::Theirs, sampler, surroundings, &mut witnessed).await)
}

/// What was started.
struct Staged {
    proxy: Proxy,
    upstream: Group,
    aim: Aim,
    folder: TempDir,
}

impl Staged {
    async fn start(scenario: &Scenario, ours: &Ours, step: &mut dyn FnMut(&str)) -> Result<Staged, Error> {
        step("starting the upstream");
        let folder = stage::folder()?;
        let certificate = Certificate::create(folder.path(), NAME)?;
        let witness = std::env::current_exe();
        let witness = witness.map_err(|cause| stage::Error::Start { name: "the witness".into(), cause })?;
        let (group, upstream) = start_upstream(&witness, folder.path(), &certificate).await?;
        let setup = Setup {
            witness,
            cpu: ours.cpu,
            workers: ours.workers,
            upstream,
            grpc: scenario.traffic.iter().any(|one| one.kind == Kind::Grpc),
            certificate,
            probation: ours.probation,
            drain_timeout: ours.drain_timeout,
            idle_grace: ours.idle_grace,
            admin: false,
        };
        step(&format!("starting {}", ours.choice));
        let proxy = Proxy::start(&ours.choice, &setup).await?;
        let at = proxy.running().targets();
        let targets = Targets { plain: Some(at.plain), tls: Some(at.tls), name: NAME.into() };
        let aim = Aim { targets, roots: Arc::new(setup.certificate.roots()) };
        if let Err(cause) = probe(scenario, &aim).await {
            return Err(Error::OursDoesNotServe { cause, log: proxy.running().group().log_end() });
        }
        Ok(Staged { proxy, upstream: group, aim, folder })
    }
}

/// Starts `exuvia-loadtest upstream`, and reads where it is.
async fn start_upstream(
    witness: &Path,
    folder: &Path,
    certificate: &Certificate,
) -> Result<(Group, Upstream), stage::Error> {
    let (any, log) = ("127.0.0.1:0", folder.join("upstream.log"));
    let mut command: Vec<OsString> = vec![witness.into()];
    command.extend(["upstream", "--plain", any, "--tls", any, "--chain"].map(Into::into));
    command.extend([certificate.chain.clone().into(), "--key".into(), certificate.key.clone().into()]);
    let start = Start { name: "the upstream", witness, cpu: None, daemon: false, command, log: log.clone() };
    let mut group = Group::start(start)?;
    let said = async || {
        let text = fs::read_to_string(&log).ok()?;
        let ready: Ready = text.lines().find_map(|line| serde_json::from_str(line).ok())?;
        Some(Upstream { plain: ready.plain, tls: ready.tls? })
    };
    let upstream = group.until("say where it listens", UPSTREAM, said).await?;
    Ok((group, upstream))
}

fn sampler(scenario: &Scenario) -> Sampler {
    let mut sampler = Sampler::new(slice(scenario));
    sampler.watch("witness", || vec![Pid::this()]);
    sampler
}

/// Applies the load.
async fn apply(
    scenario: &Scenario,
    aim: &Aim,
    subject: Subject<'_>,
    sampler: Sampler,
    surroundings: Surroundings,
    witnessed: &mut Witnessed<'_>,
) -> Results {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now = Now::new(Instant::now());
    let mut measured = Measured::Now(sampler);
    let tick = |tick: Tick| {
        measured.look(tick.load);
        (witnessed.tick)(tick, &now);
    };
    let interrupted = witnessed.interrupted.clone();
    let disturbed = |now, orders| disturb(scenario, subject, now, orders, interrupted);
    let ran = run(scenario, aim, now.clone(), disturbed, witnessed.interrupted.clone(), tick).await;
    let started = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    verdict::results(ran, scenario, started, surroundings, measured.finish())
}

/// Measures as long as load is applied.
enum Measured {
    Now(Sampler),
    Done(Vec<Usage>),
}

impl Measured {
    fn look(&mut self, load: bool) {
        match self {
            Measured::Now(sampler) if load => sampler.sample(),
            _ => self.end(),
        }
    }

    /// What is used after the load is not part of it.
    fn end(&mut self) {
        let done = Measured::Done(Vec::new());
        *self = match std::mem::replace(self, done) {
            Measured::Now(sampler) => Measured::Done(sampler.finish()),
            done => done,
        };
    }

    fn finish(mut self) -> Vec<Usage> {
        self.end();
        match self {
            Measured::Done(usage) => usage,
            Measured::Now(_) => Vec::new(),
        }
    }
}

fn surroundings(scenario: &Scenario, proxy: &str, aim: &Aim) -> Surroundings {
    let targets = [("http", aim.targets.plain), ("https", aim.targets.tls)];
    let targets = targets.into_iter().filter_map(|(scheme, at)| Some(format!("{scheme}://{}", at?)));
    Surroundings {
        proxy: proxy.to_owned(),
        targets: targets.collect(),
        loadtest: format!("exuvia-loadtest {}", env!("CARGO_PKG_VERSION")),
        kernel: host::kernel(),
        cpu: host::cpu(),
        cpus: host::cpus(),
        memory_bytes: host::memory_bytes(),
        threads: scenario.threads,
        arguments: std::env::args().skip(1).collect(),
    }
}
