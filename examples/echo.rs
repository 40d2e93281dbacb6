//! A TCP echo server that upgrades itself: the restart core and nothing else.
//!
//! ```text
//! cargo run --no-default-features --example echo 127.0.0.1:7777
//! kill -HUP PID     # replaces the process with the program on disk; no connection notices
//! ```

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;

use exuvia::restart::{Accepted, End, Guard, Kind, ListenAddr, ListenOptions, Options, Outcome, Startup};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::{LocalSet, spawn_local};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    // First of all, while there is one thread: take what a predecessor or systemd passed on.
    let mut startup = Startup::begin()?;
    let address: ListenAddr = std::env::args().nth(1).unwrap_or("127.0.0.1:7777".into()).parse()?;
    let address = startup.listeners().open("echo", &address, &ListenOptions::default())?;
    let generation = startup.generation();
    let listeners = startup.listeners().share("echo", 0, 1)?;

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = LocalSet::new().block_on(&runtime, async {
        let options = Options { probation: Duration::from_secs(1), ..Options::default() };
        let (driver, _handle, mut members) = startup.assemble(options, 1)?;
        println!("generation {generation} (pid {}) on {address}", std::process::id());
        if let Some(member) = members.pop() {
            spawn_local(async move {
                let tracker = member.tracker();
                let begin = tracker.clone();
                let serve =
                    move |connection| drop(spawn_local(echo(generation, connection, begin.begin(Kind(0)))));
                member.attend(&tracker, listeners, 1000, serve).await;
            });
        }
        Ok::<_, exuvia::restart::Error>(driver.run().await)
    })?;
    Ok(if outcome == Outcome::Done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says which generation it is and sends back what comes. A process that drains waits until the peer is
/// done, or for its drain deadline.
async fn echo(generation: u32, connection: Accepted, guard: Guard) {
    let mut stream = connection.stream;
    if stream.write_all(format!("generation {generation}\n").as_bytes()).await.is_err() {
        return guard.end(End::PeerAborted);
    }
    let mut buffer = [0; 4096];
    loop {
        let Ok(count) = stream.read(&mut buffer).await else { return guard.end(End::PeerAborted) };
        if count == 0 {
            return guard.end(End::ClosedByPeer);
        }
        guard.set_active(true);
        if stream.write_all(&buffer[..count]).await.is_err() {
            return guard.end(End::PeerAborted);
        }
        guard.set_active(false);
    }
}
