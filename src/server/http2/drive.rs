//! The driver of a connection: h2's state machine, the clocks around it, and how it ends.

use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::server::Connection;
use h2::{Ping, PingPong, Reason};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::Config;
use super::stream::{Common, serve};
use super::wire::{Link, Wire};
use crate::proxy::{ClientIdentity, log_client};
use crate::restart::{End, Guard};
use crate::timer::Timer;

/// How a driver ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// What was to be said is in the socket.
    Over(End),
    /// The client does not take what is left to say.
    Cut(End),
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, Debug)]
enum Stage {
    Open,
    /// The client was told, at this time, to open no more streams.
    Parting(Instant, Round),
    /// The last GOAWAY is on its way, until this time.
    Leaving(End, Instant),
}

/// How far a client that was told to open no more streams has acknowledged that. It takes two round trips before a last
/// stream is named: a client may answer a PING before it sends what it had begun to send (h2 and Chromium do), so
/// behind the first answer there may be requests that it sent before it knew.
#[derive(Clone, Copy, Debug)]
enum Round {
    /// The GOAWAY waits for a PING of ours that is under way.
    Waiting,
    /// The GOAWAY and a PING behind it are on their way.
    First,
    /// So are the same once more; what h2 does when that is acknowledged is to name the last stream.
    Second,
}

/// How long a new connection is not told to go. Its client has made it for requests that are about to come: browsers
/// count them as failed when a GOAWAY is there before them (Chromium: ERR_CONNECTION_CLOSED, and no second attempt).
const FIRST_MOMENT: Duration = Duration::from_secs(1);

/// What a deadline is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Due {
    /// The client takes nothing.
    Stall,
    /// The last GOAWAY is not taken.
    Left,
    /// The client has not been heard of for long.
    Silence,
    /// It has not acknowledged what it must.
    Debt,
    /// No stream has been open for long.
    Idle,
    /// The process drains, and the client has had its first moment.
    Settled,
    /// It was told to go, and has not said that it heard.
    Parted,
}

pub(super) struct Driver<'c> {
    config: &'c Config,
    guard: &'c Guard,
    connection: Connection<Wire, Bytes>,
    pings: Option<PingPong>,
    /// Whether a PING of ours is under way.
    pinged: bool,
    /// Ends with the driver: no stream outlives its connection.
    streams: JoinSet<()>,
    common: Rc<Common>,
    link: Rc<Link>,
    stage: Stage,
    active: bool,
    /// When the connection began.
    begun: Instant,
    /// Since when streams are open, or none is.
    since: Instant,
    /// Until when what had begun to come at the end of the client's time is waited for.
    late_until: Option<Instant>,
    ended: bool,
}

impl<'c> Driver<'c> {
    pub(super) fn new(
        config: &'c Config,
        mut connection: Connection<Wire, Bytes>,
        common: Common,
        guard: &'c Guard,
    ) -> Self {
        Driver {
            config,
            guard,
            pings: connection.ping_pong(),
            connection,
            pinged: false,
            streams: JoinSet::new(),
            link: common.link.clone(),
            common: Rc::new(common),
            stage: Stage::Open,
            active: false,
            begun: Instant::now(),
            since: Instant::now(),
            late_until: None,
            ended: false,
        }
    }

    pub(super) fn poll(&mut self, timer: &mut Timer, cx: &mut Context<'_>) -> Poll<Ended> {
        while self.guard.poll_changed(cx).is_ready() {}
        loop {
            if self.parts_at().is_some_and(|at| at <= Instant::now()) {
                self.part();
            }
            if let Poll::Ready(end) = self.poll_streams(cx) {
                self.ended = true;
                return Poll::Ready(Ended::Over(end));
            }
            if self.look(cx) {
                continue;
            }
            let flood = self.link.meter.borrow().flood();
            if let Some(flood) = flood
                && !matches!(self.stage, Stage::Leaving(..))
            {
                log_client!(info, self.client(), reason = %flood, "an HTTP/2 connection is closed");
                self.leave(Reason::ENHANCE_YOUR_CALM, End::Refused);
                continue;
            }
            let (deadline, due) = self.deadline();
            if timer.poll_until(deadline, cx).is_pending() {
                return Poll::Pending;
            }
            if let Some(ended) = self.fall_due(due) {
                self.ended = true;
                return Poll::Ready(ended);
            }
        }
    }

    fn client(&self) -> &ClientIdentity {
        self.common.client.identity()
    }

    /// Moves frames, and begins the streams that the client opens.
    fn poll_streams(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        loop {
            let result = match self.connection.poll_accept(cx) {
                Poll::Ready(Some(Ok((request, respond)))) => {
                    self.streams.spawn_local(serve(self.common.clone(), request, respond));
                    continue;
                }
                Poll::Ready(Some(Err(error))) => Err(error),
                Poll::Ready(None) => Ok(()),
                Poll::Pending => return Poll::Pending,
            };
            let asked_by = match self.stage {
                Stage::Leaving(end, _) => Some(end),
                Stage::Parting(..) if !self.link.peer_closed.get() => Some(End::Closed),
                _ => None,
            };
            return Poll::Ready(asked_by.unwrap_or_else(|| {
                if let Err(error) = &result {
                    log_client!(debug, self.client(), %error, "an HTTP/2 connection ends");
                }
                end_of(result, self.active)
            }));
        }
    }

    /// Notes whether streams are open, and whether the client lives. True: there is more to send.
    fn look(&mut self, cx: &mut Context<'_>) -> bool {
        while let Poll::Ready(Some(done)) = self.streams.poll_join_next(cx) {
            if let Err(error) = done {
                log_client!(error, self.client(), %error, "a stream's task ended in disorder");
            }
        }
        let mut is_more = false;
        if let Some(pings) = &mut self.pings
            && self.pinged
            && pings.poll_pong(cx).is_ready()
        {
            self.pinged = false;
            is_more = self.next_round();
        }
        let active = self.connection.has_streams()
            || !self.streams.is_empty()
            || !self.link.meter.borrow().unsettled.is_empty();
        if active != self.active {
            self.active = active;
            self.since = Instant::now();
            self.late_until = None;
            self.guard.set_active(active);
        }
        is_more
    }

    /// When the client is told of a drain.
    fn parts_at(&self) -> Option<Instant> {
        let drain = self.guard.drain()?;
        Some((self.begun + FIRST_MOMENT).min(drain.idle_until).max(drain.since))
    }

    fn deadline(&self) -> (Instant, Due) {
        let Config { stall_timeout, idle_timeout, http2, .. } = self.config;
        let next = match self.stage {
            Stage::Leaving(_, until) => return (until, Due::Left),
            Stage::Open if self.active => {
                let heard = self.link.last_read.get().max(self.since);
                // While a PING is under way there is the debt's clock.
                let again = if self.pinged { *stall_timeout } else { *stall_timeout / 2 };
                self.debt().into_iter().chain([(heard + again, Due::Silence)]).min_by_key(|(at, _)| *at)
            }
            Stage::Open => {
                let idle = (self.since + *idle_timeout, Due::Idle);
                self.debt().into_iter().chain([idle]).min_by_key(|(at, _)| *at)
            }
            // The streams have clocks of their own, and the process has its deadline.
            Stage::Parting(..) if self.active => None,
            Stage::Parting(told, _) => {
                let grace = self.guard.drain().map(|drain| drain.idle_until - drain.since);
                let patience = grace.map_or(http2.ack_timeout, |grace| grace.min(http2.ack_timeout));
                Some((self.late_until.unwrap_or(told + patience), Due::Parted))
            }
        };
        let settled = match self.stage {
            Stage::Open => self.parts_at().map(|at| (at, Due::Settled)),
            _ => None,
        };
        let stall = self.link.blocked_since.get().map(|since| (since + *stall_timeout, Due::Stall));
        let look_again = (Instant::now() + *stall_timeout, Due::Silence);
        stall.into_iter().chain(settled).chain(next).min_by_key(|(at, _)| *at).unwrap_or(look_again)
    }

    /// When the client must have acknowledged what it owes. As long as bytes come its word may be behind them, but
    /// that has an end: no more than a window full of them can be before it.
    fn debt(&self) -> Option<(Instant, Due)> {
        let (since, _) = self.link.meter.borrow().owes()?;
        let limit = self.config.http2.ack_timeout;
        let due = since.max(self.link.last_read.get()) + limit;
        Some((due.min(since + limit + self.config.stall_timeout), Due::Debt))
    }

    fn fall_due(&mut self, due: Due) -> Option<Ended> {
        match due {
            Due::Stall => return Some(Ended::Cut(End::TimedOut)),
            Due::Left => {
                let Stage::Leaving(end, _) = self.stage else { return None };
                return Some(Ended::Cut(end));
            }
            Due::Silence => self.ping(),
            Due::Debt => {
                let settings = self.link.meter.borrow().owes().is_some_and(|(_, settings)| settings);
                let client = self.client();
                log_client!(info, client, settings, "an HTTP/2 connection is closed: no acknowledgements");
                let reason = if settings { Reason::SETTINGS_TIMEOUT } else { Reason::NO_ERROR };
                self.leave(reason, End::TimedOut);
            }
            Due::Idle | Due::Settled => self.part(),
            // What has come and the runtime does not know of is served first. It may also be half a record, of
            // which the rest never comes: it has as long as the head of a request.
            Due::Parted if self.late_until.is_none() && self.link.has_unread() => {
                self.late_until = Some(Instant::now() + self.config.header_timeout);
            }
            Due::Parted => self.leave(Reason::NO_ERROR, End::Closed),
        }
        None
    }

    fn ping(&mut self) {
        if let Stage::Open = self.stage {
            self.send_ping();
        }
        // Its clock begins again, be it that nothing could be sent.
        self.link.last_read.set(Instant::now());
    }

    /// Sends a PING, unless one is under way. Whether it did.
    fn send_ping(&mut self) -> bool {
        let Some(pings) = &mut self.pings else { return false };
        let sent = !self.pinged && pings.send_ping(Ping::opaque()).is_ok();
        self.pinged |= sent;
        sent
    }

    /// Tells the client to open no more streams; those that are on their way are served.
    fn part(&mut self) {
        if let Stage::Open = self.stage {
            self.stage = Stage::Parting(Instant::now(), Round::Waiting);
            if !self.pinged {
                self.next_round();
            }
        }
    }

    /// No PING is under way: sends what the client is to acknowledge next. Whether there was something.
    fn next_round(&mut self) -> bool {
        let Stage::Parting(told, round) = self.stage else { return false };
        let next = match round {
            Round::Waiting => {
                self.link.announce();
                match self.send_ping() {
                    true => Round::First,
                    // The connection ends by itself.
                    false => return false,
                }
            }
            Round::First => {
                self.connection.graceful_shutdown();
                Round::Second
            }
            Round::Second => return false,
        };
        self.stage = Stage::Parting(told, next);
        true
    }

    fn leave(&mut self, reason: Reason, end: End) {
        self.connection.abrupt_shutdown(reason);
        self.stage = Stage::Leaving(end, Instant::now() + self.config.linger_timeout);
    }
}

impl Drop for Driver<'_> {
    /// Cut: the process ends. What can be sent without waiting is, and then which streams were looked at.
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let mut cx = Context::from_waker(Waker::noop());
        if self.connection.poll_closed(&mut cx).is_pending() {
            self.connection.abrupt_shutdown(Reason::NO_ERROR);
            // Whatever comes of it: there is nobody to tell.
            let (Poll::Ready(_) | Poll::Pending) = self.connection.poll_closed(&mut cx);
        }
    }
}

/// How a connection has ended that nobody here asked to.
pub(super) fn end_of(result: Result<(), h2::Error>, active: bool) -> End {
    match result {
        Err(error) if error.is_go_away() && error.is_library() => match error.reason() {
            Some(Reason::ENHANCE_YOUR_CALM) => End::Refused,
            _ => End::ProtocolError,
        },
        _ if active => End::PeerAborted,
        _ => End::ClosedByPeer,
    }
}
