//! The proxies under test are started, upgraded and ended as real processes, with real traffic through them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by a panic")]

#[path = "stage/server.rs"]
mod server;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use loadtest::scenario::Way;
use loadtest::stage::certificate::Certificate;
use loadtest::stage::exuvia::{Bad, Exuvia, Shape, find};
use loadtest::stage::group::{Group, Start};
use loadtest::stage::nginx::By;
use loadtest::stage::{Choice, Error, Proxy, Setup, processes, wait_until_gone};
use loadtest::ways::{self, Event, Limits, Outcome, Verdict};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use server::Server;
use tempfile::TempDir;

/// How long anything may take on a machine however busy.
const DEADLINE: Duration = Duration::from_secs(60);
const LIMITS: Limits = Limits { upgrade: DEADLINE, settle: DEADLINE };

/// Built once for all tests.
static EXUVIA: LazyLock<PathBuf> = LazyLock::new(|| find(None).unwrap());

/// What a test needs: an upstream, a certificate, and what a proxy is started with.
struct World {
    setup: Setup,
    server: Server,
    _folder: TempDir,
}

impl World {
    async fn new() -> World {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::create(folder.path(), "localhost").unwrap();
        let server = Server::start(&certificate).await;
        let setup = Setup {
            witness: env!("CARGO_BIN_EXE_exuvia-loadtest").into(),
            cpu: Some(0),
            workers: 1,
            upstream: server.upstream,
            grpc: true,
            certificate,
            probation: Duration::from_millis(200),
            drain_timeout: Duration::from_secs(5),
            idle_grace: Duration::from_secs(1),
            admin: false,
        };
        World { setup, server, _folder: folder }
    }

    /// A request by each protocol goes through.
    async fn serves(&self, proxy: &Proxy) {
        let targets = proxy.running().targets();
        assert_eq!(self.server.get(targets.plain).await.unwrap(), "hello");
        let certificate = &self.setup.certificate;
        assert_eq!(self.server.get_tls(targets.tls, certificate).await, "hello");
        assert_eq!(self.server.call(targets.tls, certificate).await, "called by HTTP/2.0");
    }
}

/// Whether the proxy is not installed, which is said loudly. Under `CI=true` that is a failure.
fn skipped(started: Result<Proxy, Error>) -> Option<Proxy> {
    match started {
        Ok(proxy) => Some(proxy),
        Err(missing @ Error::NotInstalled { .. }) => {
            let (test, ci) = (std::thread::current(), std::env::var("CI"));
            assert!(!matches!(ci.as_deref(), Ok("true" | "1")), "{missing}");
            // Past the capture of the test harness: who runs the tests shall know what was not tested.
            let line = format!("SKIPPED: {}: {missing}\n", test.name().unwrap_or("?"));
            std::io::stderr().write_all(line.as_bytes()).unwrap();
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn start_exuvia(world: &World) -> Exuvia {
    Exuvia::start(&EXUVIA, &world.setup).await.unwrap()
}

async fn asked(way: &Way) -> (Outcome, Vec<Event>) {
    let mut events = Vec::new();
    let outcome = ways::ask(way, LIMITS, |event| events.push(event)).await;
    (outcome, events)
}

#[tokio::test]
async fn exuvia_is_upgraded_by_every_way() {
    let world = World::new().await;
    let exuvia = start_exuvia(&world).await;
    assert!(exuvia.running().describe().starts_with("exuvia "), "{}", exuvia.running().describe());
    let upgrade = format!("{} upgrade --control {}", EXUVIA.display(), exuvia.socket().display());
    let by_signal = Way::Signal { signal: "HUP".into(), pid_file: Some(exuvia.pid_file()) };
    for (way, generation) in
        [Way::Control(Some(exuvia.socket())), by_signal, Way::Command(upgrade)].iter().zip(2..)
    {
        let before = exuvia.status().await.unwrap().pid;
        let (outcome, events) = asked(way).await;
        assert_eq!(outcome.verdict, Verdict::Good, "{way:?}: {outcome:?}");
        assert_eq!(events.first(), Some(&Event::Starting));
        assert!(matches!(events.last(), Some(Event::Ready { .. })), "{events:?}");
        let after = exuvia.status().await.unwrap();
        assert_eq!(after.generation, generation, "{way:?}");
        assert!(outcome.pid.is_none_or(|pid| pid == after.pid), "{outcome:?}");
        assert!(exuvia.running().group().members().contains(&Pid::from_raw(after.pid)));
        let old = wait_until_gone(&[Pid::from_raw(before)], DEADLINE).await;
        assert!(old.is_empty(), "{way:?}: {old:?} drains for ever");
        assert_eq!(world.server.get(exuvia.running().targets().plain).await.unwrap(), "hello");
    }
    ends(Proxy::Exuvia(Box::new(exuvia))).await;
}

/// Stops it; nothing is left, and nothing had to be killed.
async fn ends(proxy: Proxy) {
    let members = proxy.running().group().members();
    assert!(!members.is_empty());
    let killed = proxy.stop().await;
    assert!(killed.is_empty(), "{killed:?} had to be killed");
    assert!(members.iter().all(|pid| processes::Process::read(*pid).is_none()), "{members:?} not reaped");
}

#[tokio::test]
async fn exuvia_refuses_every_bad_program_and_serves_on() {
    let world = World::new().await;
    let mut exuvia = start_exuvia(&world).await;
    for bad in Bad::ALL {
        exuvia.plant(bad).unwrap();
        let error = exuvia.upgrade(|_| ()).await.unwrap_err();
        assert!(matches!(error, Error::NotUpgraded(_)), "{bad:?}: {error}");
        assert_eq!(exuvia.status().await.unwrap().generation, 1, "{bad:?}");
        assert_eq!(world.server.get(exuvia.running().targets().plain).await.unwrap(), "hello", "{bad:?}");
        exuvia.restore().unwrap();
    }
    let mut events = Vec::new();
    let upgraded = exuvia.upgrade(|event| events.push(event)).await.unwrap();
    let pid = upgraded.new[0].as_raw();
    assert_eq!(events, [Event::Starting, Event::Started { pid }, Event::Ready { pid: Some(pid) }]);
    let proxy = Proxy::Exuvia(Box::new(exuvia));
    world.serves(&proxy).await;
    ends(proxy).await;
}

#[tokio::test]
async fn exuvia_takes_another_configuration() {
    let mut world = World::new().await;
    (world.setup.grpc, world.setup.admin, world.setup.cpu) = (false, true, None);
    let mut exuvia = start_exuvia(&world).await;
    assert_eq!(exuvia.extra(), None);
    let admin = exuvia.admin().unwrap();
    assert!(tokio::net::TcpStream::connect(admin).await.is_ok());
    exuvia.reshape(Shape { workers: 2, extra: true }).unwrap();
    exuvia.upgrade(|_| ()).await.unwrap();
    let status = exuvia.status().await.unwrap();
    // One for each worker; a listener that was there before keeps the sockets that it had.
    assert!(status.listeners.iter().any(|it| it.name == "extra" && it.sockets == 2), "{status:?}");
    let extra = exuvia.extra().unwrap();
    assert_eq!(world.server.get(extra).await.unwrap(), "hello");
    exuvia.reshape(Shape { workers: 1, extra: false }).unwrap();
    let upgraded = exuvia.upgrade(|_| ()).await.unwrap();
    assert!(wait_until_gone(&upgraded.old, DEADLINE).await.is_empty());
    assert!(world.server.get(extra).await.is_err(), "nobody listens there any more");
    assert_eq!(world.server.get(exuvia.running().targets().plain).await.unwrap(), "hello");
    ends(Proxy::Exuvia(Box::new(exuvia))).await;
}

/// Three upgrades, traffic after each, and nothing left at the end.
async fn is_upgraded(choice: Choice, name: &str) {
    let world = World::new().await;
    let Some(mut proxy) = skipped(Proxy::start(&choice, &world.setup).await) else { return };
    let said = proxy.running().describe().to_owned();
    assert!(said.starts_with(name) && said.contains('.'), "{said}");
    world.serves(&proxy).await;
    for _ in 0..3 {
        let mut events = Vec::new();
        let upgraded = proxy.upgrade(|event| events.push(event)).await.unwrap();
        assert_eq!(events.len(), 2, "{events:?}");
        assert!(!upgraded.new.is_empty() && !upgraded.old.is_empty());
        assert!(upgraded.new.iter().all(|pid| !upgraded.old.contains(pid)), "{upgraded:?}");
        let members = proxy.running().group().members();
        assert!(upgraded.new.iter().all(|pid| members.contains(pid)), "{upgraded:?} {members:?}");
        world.serves(&proxy).await;
        let left = wait_until_gone(&upgraded.old, DEADLINE).await;
        assert!(left.is_empty(), "{left:?} of {upgraded:?} drain for ever");
    }
    world.serves(&proxy).await;
    ends(proxy).await;
}

#[tokio::test]
async fn nginx_is_upgraded_by_a_reload() {
    is_upgraded(Choice::Nginx(By::Reload), "nginx ").await;
}

#[tokio::test]
async fn nginx_is_upgraded_by_another_binary() {
    is_upgraded(Choice::Nginx(By::Binary), "nginx ").await;
}

#[tokio::test]
async fn haproxy_is_upgraded_by_a_reload() {
    is_upgraded(Choice::Haproxy, "haproxy ").await;
}

/// The variable by which the test below is told to be the witness that is killed, with the file for its pids.
const VICTIM: &str = "LOADTEST_STAGE_VICTIM";

/// Nothing by itself: it is run once more by the test below.
#[tokio::test]
async fn a_witness_to_be_killed() {
    let Some(file) = std::env::var_os(VICTIM) else { return };
    let world = World::new().await;
    let mut exuvia = start_exuvia(&world).await;
    // With a generation that the supervisor has not started.
    exuvia.upgrade(|_| ()).await.unwrap();
    let mut pids = exuvia.running().group().members();
    let mut running = Vec::new();
    for choice in [Choice::Nginx(By::Binary), Choice::Haproxy] {
        let Some(mut proxy) = skipped(Proxy::start(&choice, &world.setup).await) else { continue };
        let upgraded = proxy.upgrade(|_| ()).await.unwrap();
        wait_until_gone(&upgraded.old, DEADLINE).await;
        pids.extend(proxy.running().group().members());
        running.push(proxy);
    }
    // The old generation may have gone meanwhile.
    pids.retain(|pid| processes::is_alive(*pid));
    let lines: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
    let file = PathBuf::from(file);
    std::fs::write(file.with_extension("new"), lines).unwrap();
    std::fs::rename(file.with_extension("new"), file).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn what_was_started_ends_when_the_witness_is_killed() {
    // Built before, so that the deadline is not for cargo.
    LazyLock::force(&EXUVIA);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pids");
    let mut witness = tokio::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_witness_to_be_killed", "--nocapture"])
        .env(VICTIM, &file)
        // Nobody removes what it leaves there.
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let give_up = Instant::now() + 2 * DEADLINE;
    let pids = loop {
        assert!(Instant::now() < give_up, "it has not started everything");
        assert_eq!(witness.try_wait().unwrap(), None, "it has ended by itself");
        if let Ok(text) = std::fs::read_to_string(&file) {
            break text.lines().map(|line| Pid::from_raw(line.parse().unwrap())).collect::<Vec<_>>();
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    assert!(pids.len() >= 2, "{pids:?}");
    witness.kill().await.unwrap();
    let left = wait_until_gone(&pids, DEADLINE).await;
    let titles: Vec<String> = left.iter().map(|pid| processes::title(*pid)).collect();
    assert!(left.is_empty(), "{titles:?} outlive the witness");
}

fn shell(script: &str, folder: &Path, daemon: bool) -> Group {
    Group::start(Start {
        name: "sh",
        witness: env!("CARGO_BIN_EXE_exuvia-loadtest").as_ref(),
        cpu: None,
        daemon,
        command: ["sh", "-c", script].map(Into::into).to_vec(),
        log: folder.join("log"),
    })
    .unwrap()
}

/// Those below the group's shell, once as many sleep as should.
async fn sleepers(group: &Group, count: usize) -> Vec<Pid> {
    let give_up = Instant::now() + DEADLINE;
    loop {
        let members = group.members();
        let sleep = |pid: &&Pid| processes::title(**pid) == "sleep 600";
        if members.iter().filter(sleep).count() == count {
            return members;
        }
        assert!(Instant::now() < give_up, "{members:?}: {}", group.log_end());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn whoever_does_not_end_is_killed_with_orphans_and_daemons() {
    for daemon in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        // One in a session of its own, and two whose parent goes; none of them listens to the signal.
        let script =
            "trap '' TERM; setsid sleep 600 & (sleep 600 & sleep 600 &); wait; while :; do sleep 600; done";
        let mut group = shell(script, folder.path(), daemon);
        let all = sleepers(&group, 3).await;
        // Behind the guard nothing is left to be killed by us: it does that itself, after a while.
        let within = if daemon { DEADLINE } else { Duration::from_millis(300) };
        let killed = group.terminate(Signal::SIGTERM, within).await;
        assert_eq!(killed.is_empty(), daemon, "{killed:?}");
        assert!(group.members().is_empty());
        assert!(all.iter().all(|pid| !processes::is_alive(*pid)));
    }
}

#[tokio::test]
async fn a_group_that_is_dropped_is_killed() {
    let folder = tempfile::tempdir().unwrap();
    let group = shell("sleep 600 & wait", folder.path(), false);
    let all = sleepers(&group, 1).await;
    drop(group);
    assert!(all.iter().all(|pid| processes::Process::read(*pid).is_none()), "dead and reaped, at once");
}

#[tokio::test]
async fn orphans_are_reaped_and_others_children_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let mut group = shell("sleep 600 & wait", folder.path(), false);
    let all = sleepers(&group, 1).await;
    let mut other = std::process::Command::new("true").spawn().unwrap();
    // The parent dies first, so that the other becomes ours; and then that one.
    kill(group.root(), Signal::SIGKILL).unwrap();
    let orphan = *all.iter().find(|pid| **pid != group.root()).unwrap();
    assert_eq!(wait_until_gone(&[group.root()], DEADLINE).await, []);
    assert_eq!(group.members(), [orphan]);
    kill(orphan, Signal::SIGKILL).unwrap();
    assert!(group.wait_until_gone(DEADLINE).await.is_empty());
    assert!(processes::Process::read(orphan).is_none(), "it is reaped");
    assert!(other.wait().unwrap().success(), "nobody else has reaped it");
}

#[tokio::test]
async fn a_program_that_cannot_be_started_says_why() {
    let mut world = World::new().await;
    let bad = tempfile::tempdir().unwrap();
    let script = bad.path().join("exuvia");
    let text =
        "#!/bin/sh\nif test \"$1\" = --version; then echo exuvia 0; exit; fi\necho sorry >&2; exit 9\n";
    std::fs::write(&script, text).unwrap();
    std::fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let error = Exuvia::start(&script, &world.setup).await.unwrap_err().to_string();
    assert!(error.contains("exuvia has ended (exit status: 9)") && error.ends_with("sorry"), "{error}");
    world.setup.cpu = Some(1000);
    let error = Exuvia::start(&script, &world.setup).await.unwrap_err().to_string();
    assert!(error.contains("cannot use CPU 1000"), "{error}");
}
