//! `exuvia status --watch`: what the status page shows, in a terminal, for as long as one likes.

mod frame;
mod lanes;

use std::io;
use std::path::Path;
use std::time::Duration;

use http::{Method, StatusCode};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::screen::Screen;
use super::{Exit, Interrupts, Trouble};
use crate::control::client::{self, ClientError, Lines};
use crate::overview::Overview;
use lanes::Known;

/// A document comes each second. So long without one, this connection brings no more.
const SILENCE: Duration = Duration::from_secs(5);
/// When it is tried again. After an upgrade the next owner answers at once.
const RETRY: Duration = Duration::from_millis(250);
/// How long there may be nobody who answers: time for a service manager to start it again.
const GIVE_UP: Duration = Duration::from_secs(15);

/// Why there is no more to be shown.
enum End {
    /// Nobody reads what is printed.
    Unread,
    Trouble(Trouble),
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Unread
    }
}

/// Shows what the process behind `socket`, and each that follows it, is doing, until it is interrupted.
pub(super) async fn run(socket: &Path, json: bool, screen: &mut Screen) -> Result<Exit, Trouble> {
    let mut interrupts = Interrupts::new();
    let mut terminate = signal(SignalKind::terminate()).ok();
    let terminated = async {
        match &mut terminate {
            Some(signal) => drop(signal.recv().await),
            None => std::future::pending().await,
        }
    };
    let ended = tokio::select! {
        end = watch(socket, json, screen) => match end {
            End::Unread => Ok(Exit::Done),
            End::Trouble(trouble) => Err(trouble),
        },
        () = interrupts.next() => Ok(Exit::Interrupted),
        () = terminated => Ok(Exit::Interrupted),
    };
    // What is said of it must stay.
    screen.leave();
    ended
}

async fn watch(socket: &Path, json: bool, screen: &mut Screen) -> End {
    let mut known = Known::default();
    let mut heard: Option<Instant> = None;
    loop {
        let trouble = match client::stream(socket, Method::GET, "/v1/watch").await {
            Ok(Ok(lines)) => match show(lines, json, screen, &mut known, &mut heard).await {
                Ok(()) => Err(ClientError::Broken("it says nothing more".into())),
                Err(end) => return end,
            },
            Ok(Err(answer)) => {
                let trouble = Trouble::answered("watching", &answer);
                if answer.status != StatusCode::SERVICE_UNAVAILABLE {
                    return End::Trouble(trouble);
                }
                Ok(trouble)
            }
            Err(error) => Err(error),
        };
        match heard {
            // Another process is the owner, or will be.
            Some(at) if at.elapsed() < GIVE_UP => {
                if !json && screen.is_lively() && at.elapsed() > SILENCE / 2 {
                    screen.frame(&frame::lost(&known, at.elapsed()));
                }
                sleep(RETRY).await;
            }
            _ => return End::Trouble(trouble.unwrap_or_else(Trouble::from)),
        }
    }
}

/// Shows what comes, until it ends.
async fn show(
    mut lines: Lines,
    json: bool,
    screen: &mut Screen,
    known: &mut Known,
    heard: &mut Option<Instant>,
) -> Result<(), End> {
    while let Ok(Ok(Some(line))) = timeout(SILENCE, lines.next()).await {
        let Ok(overview) = serde_json::from_slice::<Overview>(&line) else { continue };
        *heard = Some(Instant::now());
        if json {
            screen.raw(&[&line[..], b"\n"].concat())?;
            continue;
        }
        known.add(overview);
        if screen.is_lively() {
            let (width, height) = screen.size();
            screen.frame(&frame::frame(known, width, height));
        } else {
            let lines = frame::frame(known, frame::PLAIN_WIDTH, usize::MAX);
            screen.raw(format!("{}\n\n", frame::plain(&lines)).as_bytes())?;
        }
    }
    Ok(())
}
