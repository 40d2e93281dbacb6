//! `exuvia status --watch`: what the status page shows, in a terminal, for as long as one likes.

mod frame;
mod lanes;

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use http::{Method, StatusCode};
use nix::sys::signal::Signal::{SIGTSTP, SIGTTOU};
use nix::sys::signal::raise;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, sleep, timeout};

use super::keys::Keys;
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

/// What a person or another process wants of this one.
enum Wish {
    Quit,
    End,
    /// To be stopped and to go on later, as Ctrl-Z does.
    Pause,
}

/// The signals by which a terminal's user, or the terminal's end, ends or stops a program. From now on none of them
/// leaves the terminal as it is.
struct Wishes {
    interrupts: Interrupts,
    others: Vec<(Signal, fn() -> Wish)>,
}

impl Wishes {
    fn new() -> Wishes {
        let kinds: [(SignalKind, fn() -> Wish); 4] = [
            (SignalKind::terminate(), || Wish::End),
            (SignalKind::hangup(), || Wish::End),
            (SignalKind::quit(), || Wish::End),
            (SignalKind::from_raw(SIGTSTP as i32), || Wish::Pause),
        ];
        let taken = kinds.into_iter().filter_map(|(kind, wish)| Some((signal(kind).ok()?, wish)));
        Wishes { interrupts: Interrupts::new(), others: taken.collect() }
    }

    async fn next(&mut self, keys: Option<&mut Keys>) -> Wish {
        let others = &mut self.others;
        let signalled = poll_fn(|cx| {
            let asked =
                others.iter_mut().find_map(|(signal, wish)| signal.poll_recv(cx).is_ready().then_some(wish));
            asked.map_or(Poll::Pending, |wish| Poll::Ready(wish()))
        });
        let pressed = async {
            match keys {
                Some(keys) => keys.quit().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.interrupts.next() => Wish::End,
            wish = signalled => wish,
            () = pressed => Wish::Quit,
        }
    }
}

/// Shows what the process behind `socket`, and each that follows it, is doing, until it is interrupted.
pub(super) async fn run(socket: &Path, json: bool, screen: &mut Screen) -> Result<Exit, Trouble> {
    let mut wishes = Wishes::new();
    let whole = !json && screen.is_lively();
    let mut keys = if whole { Keys::take() } else { None };
    let mut seen = Seen { has_keys: keys.is_some(), ..Seen::default() };
    let ended = loop {
        let wish = tokio::select! {
            end = watch(socket, json, screen, &mut seen) => match end {
                End::Unread => break Ok(Exit::Done),
                End::Trouble(trouble) => break Err(trouble),
            },
            wish = wishes.next(keys.as_mut()) => wish,
        };
        match wish {
            Wish::Quit => break Ok(Exit::Done),
            Wish::End => break Ok(Exit::Interrupted),
            Wish::Pause => {
                screen.leave();
                keys.iter().for_each(Keys::give_back);
                // It returns when the process is to go on. Unlike SIGSTOP, this signal stops nobody whom no shell could
                // continue.
                raise(SIGTTOU).ok();
                keys.iter().for_each(Keys::take_again);
            }
        }
    };
    // What is said of it must stay.
    screen.leave();
    ended
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    known: Known,
    heard: Option<Instant>,
    /// Whether keys are heard.
    has_keys: bool,
}

impl Seen {
    fn hint(&self) -> &'static str {
        if self.has_keys { "q or Ctrl-C: end" } else { "Ctrl-C: end" }
    }
}

async fn watch(socket: &Path, json: bool, screen: &mut Screen, seen: &mut Seen) -> End {
    loop {
        let trouble = match client::stream(socket, Method::GET, "/v1/watch").await {
            Ok(Ok(lines)) => match show(lines, json, screen, seen).await {
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
        match seen.heard {
            // Another process is the owner, or will be.
            Some(at) if at.elapsed() < GIVE_UP => {
                if !json && screen.is_lively() && at.elapsed() > SILENCE / 2 {
                    let (width, height) = screen.size();
                    screen.frame(&frame::lost(&seen.known, at.elapsed(), width, height, seen.hint()));
                }
                sleep(RETRY).await;
            }
            _ => return End::Trouble(trouble.unwrap_or_else(Trouble::from)),
        }
    }
}

/// Shows what comes, until it ends.
async fn show(mut lines: Lines, json: bool, screen: &mut Screen, seen: &mut Seen) -> Result<(), End> {
    while let Ok(Ok(Some(line))) = timeout(SILENCE, lines.next()).await {
        let Ok(overview) = serde_json::from_slice::<Overview>(&line) else { continue };
        seen.heard = Some(Instant::now());
        if json {
            screen.raw(&[&line[..], b"\n"].concat())?;
            continue;
        }
        seen.known.add(overview);
        if screen.is_lively() {
            let (width, height) = screen.size();
            screen.frame(&frame::whole(&seen.known, width, height, seen.hint()));
        } else {
            let lines = frame::frame(&seen.known, frame::PLAIN_WIDTH);
            screen.raw(format!("{}\n\n", frame::plain(&lines)).as_bytes())?;
        }
    }
    Ok(())
}
